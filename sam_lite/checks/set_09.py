"""Checks of the project: is it a comparison, and is the verdict the right one?"""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from . import Draw, expect, part


@part("Part 2, the comparison", points=4, rounds=1)
def experiment(draw: Draw, experiment):
    seeds = draw.rng.permutation(60)[:5].tolist()
    made = experiment(list(seeds))
    assert isinstance(made, pd.DataFrame), f"a DataFrame was expected, {type(made).__name__} came: is there a return?"
    made = made.reset_index(drop=True)  # an index may have the name of a column
    absent = [column for column in ("condition", "seed", "gradients", "value") if column not in made]
    assert not absent, f"columns are missing: {', '.join(absent)}."
    assert made["condition"].nunique() >= 2, "there must be two conditions or more: what do you compare with?"
    for condition, rows in made.groupby("condition"):
        assert sorted(rows["seed"]) == sorted(seeds), (
            f"{condition}: every seed must be there once, also of networks that diverged."
        )
    budgets = made.groupby("condition")["gradients"].mean()
    assert budgets.max() <= 1.02 * budgets.min(), (
        "the conditions have different budgets of gradients; does SAM count two for a step?"
    )
    numbers = pd.api.types.is_numeric_dtype(made["value"]) and made["value"].notna().mean() > 0.5
    assert numbers, "value: more than half must be numbers."
    again = experiment(list(seeds)).reset_index(drop=True)
    assert made["value"].equals(again["value"]), "the same seeds must give the same table, to the last digit."
    two = (60 + draw.rng.permutation(30)[:2]).tolist()
    other = experiment(list(two))
    assert len(other) * 5 == len(made) * 2, "other seeds: every condition must have each of them once."
    new = set(other["seed"]) == set(two) and not set(other["value"]) <= set(made["value"])
    assert new, "other seeds must give other networks."


@part("Part 3", points=4, rounds=4)
def verdict(draw: Draw, verdict):
    n = draw.whole(3, 6)
    seeds = draw.rng.permutation(40)[: n + 1].tolist()
    values = {name: draw.rng.uniform(0.3, 0.9, n + 1) for name in "BC"}
    values["A"] = values["B"] + draw.rng.uniform(-0.01, 0.06, n + 1)
    values[draw.rng.choice(["A", "B"])][n] = np.nan  # a network of this pair diverged
    rows = [(name, seed, value) for name in "ABC" for seed, value in zip(seeds, values[name], strict=True)]
    table = pd.DataFrame(rows, columns=["condition", "seed", "value"])
    table = table.iloc[draw.rng.permutation(len(table))].reset_index(drop=True)
    kept = table.copy()
    got = verdict(table, "A", "B")
    a, b = values["A"][:n], values["B"][:n]
    d = a - b
    sd = d.std(ddof=1)

    mean, right_error, right_t = d.mean(), sd / n**0.5, student.ppf(0.975, n - 1)

    def answer(difference=mean, error=right_error, t=right_t, lost=1):
        ends = {"low": difference - t * error, "high": difference + t * error}
        return {"difference": difference, **ends, "n": n, "lost": lost}

    mistakes = {
        "you took second minus first": answer(-d.mean()),
        "you used 1.96 of the normal distribution: with few pairs t is larger": answer(t=1.959964),
        "you took t with n degrees of freedom": answer(t=student.ppf(0.975, n)),
        "you took the standard deviation with n in the denominator": answer(error=d.std() / n**0.5),
        "you took the deviation of the differences, not the error of their mean": answer(error=sd),
        "you compared two groups instead of pairs": answer(error=((a.var(ddof=1) + b.var(ddof=1)) / n) ** 0.5),
        "you used t for 90 %": answer(t=student.ppf(0.95, n - 1)),
        "you did not count the pair that was lost": answer(lost=0),
    }
    expect("the verdict", got, answer(), looks_like=mistakes, tolerance=1e-5)
    expect("the verdict the other way round", verdict(table, "B", "A"), answer(-d.mean()))
    assert table.equals(kept), "the table must stay as it was."
