"""Answers to exercise 4. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    (
        "tau-a",
        "tau_b",
        "np.sqrt(float(untied[0]) * untied[1])",
        "len(upper[0])",
    ),
    (
        "ties dropped from the count",
        "tau_b",
        "np.sqrt(float(untied[0]) * untied[1])",
        "np.count_nonzero(signs[0] * signs[1])",
    ),
    ("only the measure's ties", "tau_b", "np.sqrt(float(untied[0]) * untied[1])", "untied[0]"),
    ("no root", "tau_b", "np.sqrt(float(untied[0]) * untied[1])", "(untied[0] * untied[1])"),
    ("NaN for a constant", "tau_b", "    if 0 in untied:\n        return 0.0\n", ""),
    (
        "ties count as disagreement",
        "tau_b",
        "np.sign(x[:, None] - x)",
        "np.where(x[:, None] > x, 1, -1)",
    ),
    ("groups by the axis that varies", "along", "[name for name in axes if name != axis]", "[axis]"),
    ("compares seeds", "along", "pairs = value[:, None] != value", "pairs = ~np.eye(len(part), dtype=bool)"),
    ("one mean over all pairs", "along", "means.append(products[pairs].mean())", "means.extend(products[pairs])"),
    (
        "empty slices count as zero",
        "along",
        "        if pairs.any():",
        "        if not pairs.any():\n            means.append(0.0)\n        else:",
    ),
    (
        "equal values of the axis in the count",
        "along",
        "products[pairs].mean()",
        "(products * pairs).sum() / (len(part) * (len(part) - 1))",
    ),
    (
        "ties left out",
        "along",
        "            means.append(products[pairs].mean())",
        "            pairs = pairs & (products != 0)\n            if pairs.any():\n"
        "                means.append(products[pairs].mean())",
    ),
    ("the sum for the mean", "along", "return np.mean(means)", "return np.sum(means)"),
    ("the sum for the mean", "profile", "found.mean(axis=1)", "found.sum(axis=1)"),
    ("tau for Psi", "profile", "found.mean(axis=1)", "[ranking.tau(table, name) for name in names]"),
    ("Psi per axis instead of per measure", "profile", "found.mean(axis=1)", "found.mean(axis=0)"),
    ("all signs turned", "contradiction", 'gap=table["width"] - small', 'gap=-table["width"] + small'),
    (
        "the toy of the lecture with three axes",
        "contradiction",
        'gap=table["width"] - small',
        'gap=table["width"] + small',
    ),
    (
        "two values of the large effect, and one of the small axes agrees",
        "contradiction",
        'gap=table["width"] - small',
        'gap=table["width"] + 0.1 * table["lr"] - 0.2 * table["batch"]',
    ),
    ("an axis with one value", "contradiction", "range(4), range(2), range(2)", "range(4), range(4), range(1)"),
    (
        "not every combination",
        "contradiction",
        "list(itertools.product(range(4), range(2), range(2)))",
        "[(0, 0, 0), (1, 1, 1), (2, 0, 1)]",
    ),
    ("the mean over environments", "sign_errors", "return np.array(errors)", "return np.mean(errors)"),
    ("the worst alone", "sign_errors", "return np.array(errors)", "return np.array([max(errors, default=0.0)])"),
    ("right and wrong exchanged", "sign_errors", "(1 - np.sign(change[measure])", "(1 + np.sign(change[measure])"),
    ("no weights", "sign_errors", "(w * wrong).sum() / w.sum()", "wrong.mean()"),
    ("environments with few pairs", "sign_errors", "w.sum() > 0 and w.sum() ** 2 >= 12 * (w**2).sum()", "w.sum() > 0"),
    (
        "neighbouring values only",
        "sign_errors",
        "itertools.combinations(part.groupby(axis), 2)",
        "itertools.pairwise(part.groupby(axis))",
    ),
    ("a single column", "my_measure", 'return mean_square * table["flatness"]', 'return table["flatness_mag"]'),
    (
        "a single column, rescaled",
        "my_measure",
        'return mean_square * table["flatness"]',
        'return 3 * np.log(table["trace"])',
    ),
    ("the wrong sign", "my_measure", "return mean_square * table", "return -mean_square * table"),
    ("a norm", "my_measure", 'return mean_square * table["flatness"]', 'return table["l1"]'),
    ("not good enough", "my_measure", 'return mean_square * table["flatness"]', 'return table["inverse_margin"]'),
    ("looks at the test loss", "my_measure", 'return mean_square * table["flatness"]', 'return table["test_loss"]'),
    ("uses the learning rate", "my_measure", 'return mean_square * table["flatness"]', 'return -table["lr_level"]'),
    (
        "reads the gaps from the study",
        "my_measure",
        'return mean_square * table["flatness"]',
        'return table.merge(measures.load_study(), on=["l2", "trace", "step"], how="left")["gap"]',
    ),
    (
        "ranks within the table",
        "my_measure",
        'return mean_square * table["flatness"]',
        'return table["flatness_mag"].rank()',
    ),
    (
        "standardizes with the table",
        "my_measure",
        'return mean_square * table["flatness"]',
        'logs = np.log(table[["flatness_mag", "trace"]])\n    return ((logs - logs.mean()) / logs.std()).sum(axis=1)',
    ),
    ("changes the table", "my_measure", "    mean_square = ", '    table["l2"] *= 1.01\n    mean_square = '),
    ("more than twelve", "sign_errors", ">= 12 *", "> 12 *"),
    (
        "a constant",
        "tau_b",
        "    return (signs[0] * signs[1]).sum() / np.sqrt(float(untied[0]) * untied[1])",
        "    return 0.4",
    ),
    ("nearly equal is tied", "tau_b", "x = np.asarray(values, float)", "x = np.round(np.asarray(values, float), 3)"),
    (
        "looks the gaps up, in a table read before",
        "my_measure",
        "def my_measure(table):",
        "EVERY = measures.load_study()\nGAPS = dict(zip(zip(EVERY['l2'], EVERY['trace']), EVERY['gap']))\n\n\ndef my_measure(table):\n    return np.array([GAPS[pair] for pair in zip(table['l2'], table['trace'])])\n",
    ),
    (
        "one column with dust",
        "my_measure",
        'return mean_square * table["flatness"]',
        'return table["trace"] * (1 + 0.01 * np.sin(1e5 * table["l2"]))',
    ),
    (
        "takes the axis out of the list",
        "along",
        "    others = [name for name in axes if name != axis]",
        "    axes.remove(axis)\n    others = axes",
    ),
    (
        "takes the axis out of the list",
        "sign_errors",
        "    others = [name for name in axes if name != axis]",
        "    axes.remove(axis)\n    others = axes",
    ),
    ("adds a column to the table", "profile", '    found["Psi"]', '    table["seen"] = 1\n    found["Psi"]'),
]
RIGHT = [
    (
        "SciPy and the library",
        {
            "tau_b": """
from scipy.stats import kendalltau

def tau_b(measure, gap):
    if len(set(measure)) == 1 or len(set(gap)) == 1:
        return 0.0
    return kendalltau(measure, gap).statistic
""",
            "along": "def along(table, measure, axis, axes):\n    return ranking.granulated(table, measure, axis, axes)",
            "profile": """
def profile(table, names, axes):
    rows = {name: {axis: ranking.granulated(table, name, axis, axes) for axis in axes} for name in names}
    found = pd.DataFrame.from_dict(rows, orient="index")
    found.insert(0, "Psi", found.mean(axis=1))
    return found
""",
            "sign_errors": """
def sign_errors(table, measure, axis, axes):
    found = ranking.sign_errors(table, measure, axes, n_test=10_000)
    return found["error"][found["axis"] == axis]
""",
            "my_measure": 'def my_measure(table):\n    return table["trace"] * table["l2"] / table["n_params"]',
        },
    ),
    (
        "plain loops",
        {
            "tau_b": """
def tau_b(measure, gap):
    total = left = right = 0
    for i in range(len(measure)):
        for j in range(i):
            a, b = int(np.sign(measure[i] - measure[j])), int(np.sign(gap[i] - gap[j]))
            total, left, right = total + a * b, left + abs(a), right + abs(b)
    return total / (left * right) ** 0.5 if left and right else 0
""",
            "along": """
def along(table, measure, axis, axes):
    slices = {}
    for row in table.to_dict("records"):
        slices.setdefault(tuple(row[name] for name in axes if name != axis), []).append(row)
    means = []
    for part in slices.values():
        signs = [
            np.sign(a[measure] - b[measure]) * np.sign(a["gap"] - b["gap"])
            for a, b in itertools.combinations(part, 2)
            if a[axis] != b[axis]
        ]
        if signs:
            means.append(sum(signs) / len(signs))
    return sum(means) / len(means)
""",
            "profile": """
def profile(table, names, axes):
    rows = {}
    for name in names:
        psis = {axis: ranking.granulated(table, name, axis, axes) for axis in axes}
        rows[name] = {"Psi": sum(psis.values()) / len(psis), **psis}
    return pd.DataFrame(rows).T
""",
            "contradiction": """
def contradiction():
    rows = []
    for batch in (32, 64, 128):
        for lr in (0.1, 0.2):
            for width in (10, 20):
                noise = width / 100 + lr / 10
                rows.append({"batch": batch, "lr": lr, "width": width, "measure": batch - noise, "gap": batch / 10 + noise})
    return pd.DataFrame(rows)
""",
            "my_measure": """
def my_measure(table):
    return [row["flatness"] ** 0.5 * row["flatness_mag"] for row in table.to_dict("records")]
""",
        },
    ),
    (
        "merged pairs, and a measure fitted on the networks for practice",
        {
            "along": """
def along(table, measure, axis, axes):
    others = [name for name in axes if name != axis]
    both = table.merge(table, on=others, suffixes=("", "_"))
    both = both[both[axis] != both[axis + "_"]]
    sign = np.sign(both[measure] - both[measure + "_"]) * np.sign(both["gap"] - both["gap_"])
    return sign.groupby([both[name] for name in others]).mean().mean()
""",
            "sign_errors": """
def sign_errors(table, measure, axis, axes):
    others = [name for name in axes if name != axis]
    both = table.merge(table, on=others, suffixes=("", "_"))
    both = both[both[axis] < both[axis + "_"]]
    both["w"] = certainty(both["gap"] - both["gap_"])
    both["e"] = both["w"] * (np.sign(both[measure] - both[measure + "_"]) != np.sign(both["gap"] - both["gap_"]))
    both.loc[both[measure] == both[measure + "_"], "e"] = both["w"] / 2
    both["w2"] = both["w"] ** 2
    sums = both.groupby([*others, axis, axis + "_"])[["w", "e", "w2"]].sum()
    sums = sums[(sums["w"] > 0) & (sums["w"] ** 2 >= 12 * sums["w2"])]
    return (sums["e"] / sums["w"]).tolist()
""",
            "my_measure": """
def my_measure(table):
    used = ["flatness_mag", "pacbayes_orig", "trace", "flatness"]
    x = np.log(study[used].to_numpy(float))
    weights = np.linalg.lstsq(x - x.mean(0), study["gap"] - study["gap"].mean(), rcond=None)[0]
    return np.log(table[used].to_numpy(float)) @ weights
""",
        },
    ),
    (
        "warnings and prints",
        {
            "tau_b": """
import sys, warnings

def tau_b(measure, gap):
    warnings.warn("noise")
    print("noise", file=sys.stderr)
    a, b = (np.sign(np.subtract.outer(np.asarray(x, float), np.asarray(x, float))) for x in (measure, gap))
    value = np.divide((a * b).sum(), np.sqrt((a != 0).sum()) * np.sqrt((b != 0).sum()))
    return 0.0 if np.isnan(value) else value
""",
        },
    ),
    (
        "merge sort by hand, float32, rows",
        {
            "tau_b": """
def tau_b(measure, gap):
    pairs = list(itertools.combinations(zip(map(float, measure), map(float, gap)), 2))
    sign = lambda x: (x > 0) - (x < 0)
    a, b = [sign(p[0] - q[0]) for p, q in pairs], [sign(p[1] - q[1]) for p, q in pairs]
    both = sum(map(abs, a)) * sum(map(abs, b))
    return np.float32(sum(x * y for x, y in zip(a, b)) / both**0.5) if both else 0
""",
            "my_measure": """
def my_measure(table):
    return np.log(table["trace"]) + 0.1 * np.log(table["l2"] / table["n_params"])
""",
        },
    ),
]
