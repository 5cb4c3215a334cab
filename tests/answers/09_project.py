"""Answers to the project. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    ("equal steps instead of equal gradients", "experiment", '("SAM", 0.2, 400)', '("SAM", 0.2, 800)'),
    ("nothing to compare with", "experiment", '(("SGD", 0.0, 800), ("SAM", 0.2, 400))', '[("SAM", 0.2, 400)]'),
    ("always the same seeds", "experiment", "seeds = list(seeds)", "seeds = list(range(len(seeds)))"),
    (
        "drops what it calls an outlier",
        "experiment",
        "return pd.concat(tables, ignore_index=True)",
        'return pd.concat(tables, ignore_index=True).sort_values("value").iloc[1:]',
    ),
    (
        "draws from the global generator",
        "experiment",
        "        tables.append(table)",
        '        table["value"] += 1e-3 * np.random.default_rng().standard_normal(len(table))\n        tables.append(table)',
    ),
    (
        "tensors for numbers",
        "experiment",
        "        tables.append(table)",
        '        table["value"] = [torch.tensor(value) for value in table["value"]]\n        tables.append(table)',
    ),
    ("accuracy as text", "experiment", '.where(table["status"] != "diverged")', ".astype(str)"),
    ("1.96", "verdict", "stats.t.ppf(0.975, len(pairs) - 1)", "1.959964"),
    ("n in the denominator", "verdict", "ddof=1", "ddof=0"),
    ("deviation, not error", "verdict", " / np.sqrt(len(pairs))", ""),
    ("NaN goes through", "verdict", "(wide[first] - wide[second]).dropna()", "wide[first] - wide[second]"),
    (
        "pairs by order of rows",
        "verdict",
        'wide = table.pivot(index="seed", columns="condition", values="value")',
        'wide = pd.DataFrame({name: part["value"].tolist() for name, part in table.groupby("condition")})',
    ),
    ("second minus first", "verdict", "(wide[first] - wide[second])", "(wide[second] - wide[first])"),
    ("an interval of 90 %", "verdict", "stats.t.ppf(0.975,", "stats.t.ppf(0.95,"),
    ("n degrees of freedom", "verdict", "len(pairs) - 1)", "len(pairs))"),
    ("the lost pair is not counted", "verdict", '"lost": len(wide) - len(pairs)', '"lost": 0'),
    ("the lost pair is counted as one of them", "verdict", '"n": len(pairs)', '"n": len(wide)'),
    ("the ends in the wrong order", "verdict", '{"low": pairs.mean() - half', '{"low": pairs.mean() + half'),
    ("no seed of the last condition", "experiment", "tables.append(table)", "tables.append(table.iloc[len(tables) :])"),
    ("no table", "experiment", "pd.concat(tables, ignore_index=True)", "pd.concat(tables).to_dict()"),
    ("a third condition decides which pairs are left", "verdict", 'values="value")', 'values="value").dropna()'),
    (
        "counts networks, not pairs",
        "verdict",
        '"lost": len(wide) - len(pairs)',
        '"lost": int(wide[[first, second]].isna().sum().sum())',
    ),
    (
        "counts all that diverged",
        "verdict",
        '"lost": len(wide) - len(pairs)',
        '"lost": int(table["value"].isna().sum())',
    ),
    ("one pair is lost, always", "verdict", '"lost": len(wide) - len(pairs)', '"lost": 1'),
    (
        "no gradients",
        "experiment",
        "        tables.append(table)",
        '        table["gradients"] = 0\n        tables.append(table)',
    ),
    (
        "equal budgets only in the mean",
        "experiment",
        "        tables.append(table)",
        '        if rho:\n            table.loc[table.index[:2], "gradients"] += [-50, 50]\n        tables.append(table)',
    ),
    (
        "one condition without a value",
        "experiment",
        "    return pd.concat(tables, ignore_index=True)",
        '    more = tables[0].assign(condition="more")\n    more["value"] = more["value"] + 0.001\n    tables[0]["value"] = np.nan\n    return pd.concat([*tables, more], ignore_index=True)',
    ),
    (
        "the same networks twice",
        "experiment",
        "    return pd.concat(tables, ignore_index=True)",
        '    tables[1]["value"] = tables[0]["value"]\n    return pd.concat(tables, ignore_index=True)',
    ),
    (
        "a constant but for one network",
        "experiment",
        "    return pd.concat(tables, ignore_index=True)",
        '    made = pd.concat(tables, ignore_index=True)\n    made["value"] = 0.5\n    made.loc[0, "value"] = seeds[0] / 1000\n    return made',
    ),
    (
        "the place of a seed for the seed",
        "experiment",
        "seeds=seeds, batch_size=25, lr=0.2, steps=steps, rho=rho)\n"
        '        table = trained.table[["seed", "gradients", "status"]].assign(condition=condition)',
        "seeds=range(len(seeds)), batch_size=25, lr=0.2, steps=steps, rho=rho)\n"
        '        table = trained.table[["gradients", "status"]].assign(condition=condition, seed=seeds)',
    ),
    (
        "infinity for a network that diverged",
        "experiment",
        "        tables.append(table)",
        '        table.loc[table.index[0], "value"] = np.inf\n        tables.append(table)',
    ),
]

RIGHT = [
    (
        "SciPy's paired test",
        {
            "verdict": """def verdict(table, first, second):
    a, b = (table[table.condition == name].set_index("seed").value.sort_index().to_numpy() for name in (first, second))
    good = ~(np.isnan(a) | np.isnan(b))
    test = stats.ttest_rel(a[good], b[good])
    ends = test.confidence_interval(0.95)
    mean = (a[good] - b[good]).mean()
    return dict(difference=mean, low=ends.low, high=ends.high, n=good.sum(), lost=(~good).sum())
"""
        },
    ),
    (
        "plain loops",
        {
            "verdict": """def verdict(table, first, second):
    value = {}
    for row in table.itertuples():
        value[row.condition, row.seed] = row.value
    found = [value[first, seed] - value[second, seed] for name, seed in value if name == first]
    d = [x for x in found if x == x]
    n, mean = len(d), sum(d) / len(d)
    error = (sum((x - mean) ** 2 for x in d) / (n - 1) / n) ** 0.5
    t = stats.t(n - 1).ppf(0.975)
    return {"difference": mean, "low": mean - t * error, "high": mean + t * error, "n": n, "lost": len(found) - n}
"""
        },
    ),
    (
        "another question: three optimizers, sharpness measured",
        {
            "experiment": """def experiment(seeds):
    data, made = load("digits"), []
    for name, settings in {"plain": {}, "momentum": {"momentum": 0.9, "lr": 0.02}, "decay": {"weight_decay": 1e-3}}.items():
        found = train_ensemble(
            lambda: mlp(64, [16], 10), data, seeds=seeds, batch_size=100, steps=100, **{"lr": 0.1, **settings}
        ).table
        for row in found.itertuples():
            made.append({"condition": name, "seed": row.seed, "gradients": 100, "value": row.test_loss})
    return pd.DataFrame(made)
"""
        },
    ),
    (
        "a table with its own index and more columns, in another order",
        {
            "experiment": """def experiment(seeds):
    data = load("mnist1d", n_train=200, n_test=300)
    seeds = [*seeds, *seeds]
    names = ["SAM"] * (len(seeds) // 2) + ["wide SAM"] * (len(seeds) // 2)
    rho = [0.05 if name == "SAM" else 0.5 for name in names]
    table = train_ensemble(lambda: mlp(40, [20], 10), data, seeds=seeds, batch_size=20, lr=0.1, steps=200, rho=rho).table
    table = table.assign(condition=names).rename(columns={"test_acc": "value"})
    return table.sort_values("value").set_index("status")
"""
        },
    ),
    (
        "the network with batch norm of the sheet, with other radii",
        {
            "experiment": """def experiment(seeds):
    radii = {"SAM, small": 0.02, "SAM, large": 0.1}
    return pd.DataFrame(own_network(name, seed, rho, 60) for name, rho in radii.items() for seed in seeds)
"""
        },
    ),
    (
        "merged columns, and integers that may be missing",
        {
            "verdict": """
def verdict(table, first, second):
    both = table[table.condition == first].merge(table[table.condition == second], on="seed")
    d = both.value_x - both.value_y
    low, high = stats.t.interval(0.95, d.count() - 1, loc=d.mean(), scale=d.sem())
    return {"difference": d.mean(), "low": low, "high": high, "n": int(d.count()), "lost": int(d.isna().sum())}
""",
        },
    ),
    (
        "a coarse measure: right of forty, by least squares on five columns and on three",
        {
            "experiment": """
def experiment(seeds):
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((70, 5))
        y = np.sign(x @ rng.standard_normal(5) + rng.standard_normal(70))
        for name, columns in {"all columns": slice(5), "three columns": slice(3)}.items():
            w = np.linalg.lstsq(x[:30, columns], y[:30], rcond=None)[0]
            right = int((np.sign(x[30:, columns] @ w) == y[30:]).sum())
            rows.append({"condition": name, "seed": seed, "gradients": 1, "value": right})
    return pd.DataFrame(rows)
""",
        },
    ),
]
