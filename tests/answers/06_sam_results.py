"""Answers to exercise 6. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    (
        "reduction of the means",
        "mean_reduction",
        "(100 * (1 - sam / sgd)).mean()",
        "100 * (1 - sam.mean() / sgd.mean())",
    ),
    ("points", "mean_reduction", "(100 * (1 - sam / sgd)).mean()", "(sgd - sam).mean()"),
    ("relative to SAM", "mean_reduction", "(1 - sam / sgd)", "(sgd / sam - 1)"),
    ("a share, no percent", "mean_reduction", "100 * (1", "(1"),
    (
        "equal epochs",
        "equal_gradients",
        'if 2 * e in errors["SGD"]:\n                sgd = errors["SGD"][2 * e]',
        'if e in errors["SGD"]:\n                sgd = errors["SGD"][e]',
    ),
    (
        "SAM with twice the epochs",
        "equal_gradients",
        'if 2 * e in errors["SGD"]:\n                sgd = errors["SGD"][2 * e]',
        'if e // 2 in errors["SGD"]:\n                sgd = errors["SGD"][e // 2]',
    ),
    ("points", "equal_gradients", "100 * (sgd - sam) / sgd", "sgd - sam"),
    ("KeyError for the longest training", "equal_gradients", 'if 2 * e in errors["SGD"]:', "if True:"),
    ("epochs of SGD in the key", "equal_gradients", "found[network, e]", "found[network, 2 * e]"),
    ("rounds down", "cost", "(steps - start - 1) // every + 1", "(steps - start) // every"),
    ("start disregarded", "cost", "(steps - start - 1) // every + 1", "(steps - 1) // every + 1"),
    ("every step before start", "cost", "if every is None or steps <= start:", "if every is None:"),
    (
        "two gradients more",
        "cost",
        "return steps + (steps - start - 1) // every + 1",
        "return steps + 2 * ((steps - start - 1) // every + 1)",
    ),
    ("overdraws", "steps_within", "max(0, left - 1)", "left"),
    ("minus one", "steps_within", "max(0, left - 1)", "left - 1"),
    ("start disregarded", "steps_within", "if every is None or budget <= start:", "start = 0\n    if every is None:"),
    (
        "rounds a quotient",
        "steps_within",
        "return start + rounds * every + max(0, left - 1)",
        "return start + round((budget - start) * every / (every + 1))",
    ),
    (
        "chooses on the test set",
        "choose",
        "np.asarray(validation, float).mean(axis=1)",
        "np.asarray(test, float).mean(axis=1)",
    ),
    ("reports the validation accuracy", "choose", "np.asarray(test, float)[best].mean()", "score[best]"),
    (
        "the best single seed",
        "choose",
        "np.asarray(validation, float).mean(axis=1)",
        "np.asarray(validation, float).max(axis=1)",
    ),
    (
        "a diverged radius",
        "choose",
        "np.asarray(validation, float).mean(axis=1)",
        "np.nanmean(np.asarray(validation, float), axis=1)",
    ),
    (
        "NaN wins",
        "choose",
        "    score[np.isnan(score)] = -np.inf\n    best = min(np.flatnonzero(score == score.max()), key=lambda i: rhos[i])",
        "    best = score.argmax()",
    ),
    (
        "the first of equals",
        "choose",
        "min(np.flatnonzero(score == score.max()), key=lambda i: rhos[i])",
        "score.argmax()",
    ),
    ("the row, not the radius", "choose", "return rhos[best],", "return best,"),
    (
        "fills NaN in place",
        "choose",
        "    score = np.asarray(validation, float).mean(axis=1)",
        "    validation = np.asarray(validation, float)\n    validation[np.isnan(validation)] = 0\n"
        "    score = validation.mean(axis=1)",
    ),
    ("variance over n", "lead", "d.std(ddof=1)", "d.std()"),
    ("1.96", "lead", "t.ppf(0.975, n - 1)", "1.96"),
    ("95 % quantile", "lead", "t.ppf(0.975, n - 1)", "t.ppf(0.95, n - 1)"),
    ("unpaired with n - 1", "lead", "t.ppf(0.975, 2 * n - 2)", "t.ppf(0.975, n - 1)"),
    (
        "adds standard deviations",
        "lead",
        "np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)",
        "(a.std(ddof=1) + b.std(ddof=1)) / np.sqrt(n)",
    ),
    (
        "paired and unpaired exchanged",
        "lead",
        "return d.mean(), t.ppf(0.975, n - 1) * d.std(ddof=1) / np.sqrt(n), unpaired",
        "return d.mean(), unpaired, t.ppf(0.975, n - 1) * d.std(ddof=1) / np.sqrt(n)",
    ),
    (
        "a random class",
        "flip",
        "    noisy[chosen] = (noisy[chosen] + moved) % n_classes",
        "    noisy[chosen] = torch.randint(n_classes, (len(chosen),), generator=generator)",
    ),
    (
        "a coin for each label",
        "flip",
        "torch.randperm(len(y), generator=generator)[: round(share * len(y))]",
        "(torch.rand(len(y), generator=generator) < share).nonzero().flatten()",
    ),
    (
        "indices drawn twice",
        "flip",
        "torch.randperm(len(y), generator=generator)[: round(share * len(y))]",
        "torch.randint(len(y), (round(share * len(y)),), generator=generator)",
    ),
    (
        "the first ones",
        "flip",
        "torch.randperm(len(y), generator=generator)[: round(share * len(y))]",
        "torch.arange(round(share * len(y)))",
    ),
    ("the number cut off", "flip", "round(share * len(y))", "int(share * len(y))"),
    ("always the next class", "flip", "torch.randint(1, n_classes, (len(chosen),), generator=generator)", "1"),
    ("the global generator", "flip", "torch.randperm(len(y), generator=generator)", "torch.randperm(len(y))"),
    ("in place", "flip", "noisy = y.clone()", "noisy = y"),
    ("one ascent for all", "m_sharpness", "grad(of_batch)(params)", "grad(lambda p: loss(p, x, y))(params)"),
    (
        "mean over batches",
        "m_sharpness",
        "total += len(x[i : i + m]) * (of_batch(add(params, e)) - of_batch(params))\n    return total / len(x)",
        "total += of_batch(add(params, e)) - of_batch(params)\n    return total / -(-len(x) // m)",
    ),
    ("drops the last batch", "m_sharpness", "range(0, len(x), m)", "range(0, len(x) - m + 1, m)"),
    (
        "the loss, not its rise",
        "m_sharpness",
        "(of_batch(add(params, e)) - of_batch(params))",
        "of_batch(add(params, e))",
    ),
    (
        "the rise of all examples",
        "m_sharpness",
        "(of_batch(add(params, e)) - of_batch(params))",
        "(loss(add(params, e), x, y) - loss(params, x, y))",
    ),
    (
        "the median of the seeds",
        "choose",
        "np.asarray(validation, float).mean(axis=1)",
        "np.median(np.asarray(validation, float), axis=1)",
    ),
    (
        "the worst seed",
        "choose",
        "np.asarray(validation, float).mean(axis=1)",
        "np.asarray(validation, float).min(axis=1)",
    ),
    (
        "a constant",
        "mean_reduction",
        "    return (100 * (1 - sam / sgd)).mean()",
        "    return 30.0 if len(sam) > 1 else -20.0",
    ),
    (
        "NumPy's global generator",
        "flip",
        "    chosen = torch.randperm(len(y), generator=generator)[: round(share * len(y))]",
        "    np.random.seed(int(torch.randint(2**31, (1,), generator=generator)))\n    chosen = torch.from_numpy(np.random.permutation(len(y)))[: round(share * len(y))]",
    ),
    (
        "places at equal distances",
        "flip",
        "torch.randperm(len(y), generator=generator)[: round(share * len(y))]",
        "torch.linspace(0, len(y) - 1, round(share * len(y))).long()",
    ),
    (
        "a generator of its own",
        "flip",
        "    chosen = ",
        "    generator = torch.Generator().manual_seed(generator.initial_seed())\n    chosen = ",
    ),
    (
        "a diverged run is 0 %",
        "choose",
        "    score = np.asarray(validation, float).mean(axis=1)",
        "    score = np.nan_to_num(np.array(validation, float)).mean(axis=1)",
    ),
    (
        "a diverged run is 10 %",
        "choose",
        "    score = np.asarray(validation, float).mean(axis=1)",
        "    score = np.nan_to_num(np.array(validation, float), nan=10.0).mean(axis=1)",
    ),
    ("nearly the best is the best", "choose", "score == score.max()", "score >= score.max() - 0.03"),
    (
        "sorts the radii in place",
        "choose",
        "    return rhos[best], np.asarray(test, float)[best].mean()",
        "    chosen = rhos[best], np.asarray(test, float)[best].mean()\n    rhos.sort()\n    return chosen",
    ),
    ("without the sign", "lead", "return d.mean()", "return abs(d.mean())"),
    (
        "Welch's degrees of freedom",
        "lead",
        "t.ppf(0.975, 2 * n - 2)",
        "t.ppf(0.975, (n - 1) * (a.var(ddof=1) + b.var(ddof=1)) ** 2 / (a.var(ddof=1) ** 2 + b.var(ddof=1) ** 2))",
    ),
    (
        "no rise below zero",
        "m_sharpness",
        "(of_batch(add(params, e)) - of_batch(params))",
        "(of_batch(add(params, e)) - of_batch(params)).clamp(min=0)",
    ),
]
RIGHT = [
    (
        "plain loops",
        {
            "mean_reduction": """
def mean_reduction(sam, sgd):
    each = [float(b - a) / float(b) for a, b in zip(sam, sgd)]
    return 100 * sum(each) / len(each)
""",
            "equal_gradients": """
def equal_gradients(table):
    return {
        (network, e): 100 - 100 * error / table[network]["SGD"][2 * e]
        for network in table
        for e, error in table[network]["SAM"].items()
        if 2 * e in table[network]["SGD"]
    }
""",
            "cost": """
def cost(steps, every, start=0):
    if every is None:
        return steps
    return steps + len(range(start, steps, every))
""",
            "steps_within": """
def steps_within(budget, every, start=0):
    steps = 0
    while True:
        price = 2 if every and steps >= start and (steps - start) % every == 0 else 1
        if price > budget:
            return steps
        budget, steps = budget - price, steps + 1
""",
            "choose": """
def choose(rhos, validation, test):
    best = None
    for rho, row, fresh in sorted(zip(rhos, validation, test), key=lambda r: r[0]):
        mean = sum(row) / len(row)
        if mean == mean and (best is None or mean > best[0] + 1e-9):
            best = mean, rho, sum(fresh) / len(fresh)
    return best[1], best[2]
""",
            "flip": """
def flip(y, share, n_classes, generator):
    noisy = y.clone()
    for i in torch.randperm(len(y), generator=generator)[: round(share * len(y))].tolist():
        others = [c for c in range(n_classes) if c != int(y[i])]
        noisy[i] = others[int(torch.randint(len(others), (1,), generator=generator))]
    return noisy
""",
        },
    ),
    (
        "SciPy and pandas",
        {
            "choose": """
def choose(rhos, validation, test):
    import pandas as pd

    table = pd.DataFrame({"rho": rhos, "fresh": np.mean(test, axis=1)})
    table["score"] = pd.DataFrame(validation).mean(axis=1, skipna=False)
    best = table.sort_values(["score", "rho"], ascending=[False, True]).iloc[0]
    return best["rho"], best["fresh"]
""",
            "lead": """
def lead(a, b):
    from scipy import stats

    a, b = np.asarray(a, float), np.asarray(b, float)
    if np.ptp(a - b) == 0:
        paired = 0.0
    else:
        low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
        paired = (high - low) / 2
    low, high = stats.ttest_ind(a, b).confidence_interval(0.95)
    return (a - b).mean(), paired, (high - low) / 2
""",
            "flip": """
def flip(y, share, n_classes, generator):
    order = torch.rand(len(y), generator=generator).argsort()
    other = torch.randint(n_classes - 1, (len(y),), generator=generator)
    other = other + (other >= y)
    return torch.where(order.argsort() < round(share * len(y)), other, y)
""",
        },
    ),
    (
        "torch, the library and formulas",
        {
            "mean_reduction": """
def mean_reduction(sam, sgd):
    return 100 - 100 * torch.mean(torch.as_tensor(sam) / torch.as_tensor(sgd))
""",
            "lead": """
def lead(a, b):
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    from scipy.stats import t

    n = len(a)
    table = torch.cov(torch.stack([a, b]))
    both = table[0, 0] + table[1, 1]
    paired = t.isf(0.025, n - 1) * max(float(both - 2 * table[0, 1]), 0.0) ** 0.5 / n**0.5
    return float(a.mean() - b.mean()), paired, t.isf(0.025, 2 * (n - 1)) * float(both / n) ** 0.5
""",
            "steps_within": """
def steps_within(budget, every, start=0):
    if every is None or budget < start:
        return budget
    return start + (budget - start) - -(-(budget - start) // (every + 1))
""",
            "m_sharpness": """
from sam_lite import sharpness

def m_sharpness(loss, params, x, y, m, rho):
    rises = []
    for xs, ys in zip(x.split(m), y.split(m)):
        measured = sharpness.ascent_sharpness(lambda p: loss(p, xs, ys), params, rho)
        rises += [measured.value] * len(xs)
    return torch.stack(rises).mean()
""",
        },
    ),
    (
        "numpy randomness from the generator's seed",
        {
            "flip": """
def flip(y, share, n_classes, generator):
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    labels = y.numpy().copy()
    where = rng.choice(len(labels), round(share * len(labels)), replace=False)
    labels[where] = (labels[where] + rng.integers(1, n_classes, len(where))) % n_classes
    return torch.from_numpy(labels)
""",
        },
    ),
    (
        "warnings, prints and plain Python",
        {
            "mean_reduction": """
import warnings

def mean_reduction(sam, sgd):
    warnings.warn("noise")
    print("noise")
    pairs = [(float(a), float(b)) for a, b in zip(sam, sgd)]
    return torch.tensor(sum(100 * (b - a) / b for a, b in pairs) / len(pairs))
""",
            "choose": """
import sys

def choose(rhos, validation, test):
    print("noise", file=sys.stderr)
    best = None
    for rho, seen, fresh in sorted(zip(rhos, np.array(validation).tolist(), np.array(test).tolist())):
        mean = sum(seen) / len(seen)
        if mean == mean and (best is None or mean > best[0]):
            best = mean, rho, sum(fresh) / len(fresh)
    return best[1:]
""",
        },
    ),
    (
        "masked arrays, statistics, a cycle of steps",
        {
            "choose": """
def choose(rhos, validation, test):
    rows = np.array(validation, dtype=float)
    whole = [i for i in range(len(rhos)) if not np.isnan(rows[i]).any()]
    best = max(whole, key=lambda i: (rows[i].mean(), -rhos[i]))
    return rhos[best], float(np.mean(test[best]))
""",
            "m_sharpness": """
def m_sharpness(loss, params, x, y, m, rho):
    found, n = np.zeros(len(x)), len(x)
    for first in range(0, n, m):
        part = slice(first, min(first + m, n))
        slope, before = torch.func.grad_and_value(lambda p: loss(p, x[part], y[part]))(params)
        size = sum((g**2).sum() for g in slope.values()) ** 0.5
        up = {name: p + rho * slope[name] / size for name, p in params.items()}
        found[part] = float(loss(up, x[part], y[part]) - before)
    return found.mean()
""",
        },
    ),
    (
        "NumPy's functions, of what comes in",
        {
            "mean_reduction": """
def mean_reduction(sam, sgd):
    return 100 * np.mean(1 - np.divide(sam, sgd))
""",
            "lead": """
def lead(a, b):
    from scipy.stats import t

    n, spread = len(a), np.cov(a, b)
    apart = np.trace(spread)
    halves = t.ppf(0.975, n - 1) * (apart - 2 * spread[0, 1]) ** 0.5, t.ppf(0.975, 2 * n - 2) * apart**0.5
    return np.mean(a) - np.mean(b), halves[0] / n**0.5, halves[1] / n**0.5
""",
        },
    ),
]
