"""Checks of the project: is it a comparison, and is the verdict the right one?"""

import itertools

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
    for column in ("seed", "gradients", "value"):
        kinds = {type(one).__name__ for one in made[column].dropna() if not isinstance(one, (int, float, np.number))}
        assert not kinds, (
            f"{column}: numbers were expected, and there is a {' and a '.join(sorted(kinds))}; is a float(...) missing?"
        )
    assert made["condition"].nunique() >= 2, "there must be two conditions or more: what do you compare with?"
    for condition, rows in made.groupby("condition"):
        assert sorted(rows["seed"]) == sorted(seeds), (
            f"{condition}: every seed must be there once, also of networks that diverged."
        )
    numbers = pd.api.types.is_numeric_dtype(made["value"]) and made["value"].notna().mean() > 0.5
    assert numbers, "value: more than half must be numbers, and not NaN."
    plain = pd.DataFrame({name: made[name].to_numpy() for name in ("condition", "seed", "gradients")})
    plain["value"] = made["value"].astype(float).to_numpy()
    endless = np.isinf(plain["value"]).any()
    assert not endless, "value: there is an infinity; a network that diverged has NaN."
    assert (plain["gradients"] > 0).all(), "gradients: each network must have taken some: a number above 0."
    budgets = plain[plain["value"].notna()].groupby("seed")["gradients"]  # one that diverged may have stopped
    assert (budgets.max() <= 1.02 * budgets.min()).all(), (
        "the conditions have different budgets of gradients, for some seed at least; does SAM count two for a step?"
    )
    wide = plain.pivot(index="seed", columns="condition", values="value")
    few = [name for name in wide if wide[name].notna().sum() < 2]
    assert not few, f"{', '.join(map(str, few))}: there must be two numbers or more, else nothing can be compared."
    again = experiment(list(seeds)).reset_index(drop=True)
    assert made["value"].equals(again["value"]), "the same seeds must give the same table, to the last digit."
    two = (60 + draw.rng.permutation(30)[:2]).tolist()
    other = experiment(list(two)).reset_index(drop=True)
    kept = set(other["condition"]) == set(wide) and len(other) == 2 * len(wide.columns)
    kept &= set(map(tuple, other[["condition", "seed"]].to_numpy())) == set(itertools.product(wide, two))
    assert kept, "other seeds: every condition must have each of them once, and no other seed."
    fresh = other.pivot(index="seed", columns="condition", values="value").astype(float)
    for kind in (list, sorted):  # by the place of a seed in the list, as it came or sorted; single values may agree
        same = np.array_equal(fresh.loc[kind(two), wide.columns], wide.loc[kind(seeds)[:2]], equal_nan=True)
        assert not same, (
            "other seeds must give other networks: the number of the seed counts, not its place in the list."
        )
    every = pd.concat([wide, fresh[wide.columns]])
    for name in wide:
        varied = every[name].nunique() > 1
        assert varied, (
            f"{name}: the value is the same for every seed: is each network one of its own, and the measure fine enough?"
        )
    for name, second in itertools.combinations(wide, 2):
        assert not every[name].equals(every[second]), (
            f"{name} and {second} have the same values, seed by seed: do the conditions differ in anything, and is the "
            "measure fine enough to tell?"
        )


@part("Part 3", points=4, rounds=4)
def verdict(draw: Draw, verdict):
    n, lost = draw.whole(3, 6), (1, 0, 2, 3)[draw.round]
    seeds = draw.rng.permutation(40)[: n + lost].tolist()
    values = {name: draw.rng.uniform(0.3, 0.9, n + lost) for name in "BC"}
    values["A"] = values["B"] + draw.rng.uniform(-0.01, 0.06, n + lost)
    for i in range(lost):  # of these pairs one network diverged, of the second both
        for name in "AB" if i == 1 else draw.rng.choice(["A", "B"]):
            values[name][n + i] = np.nan
    values["C"][draw.whole(0, n - 1)] = np.nan  # that of a condition that is not compared
    rows = [(name, seed, value) for name in "ABC" for seed, value in zip(seeds, values[name], strict=True)]
    table = pd.DataFrame(rows, columns=["condition", "seed", "value"])
    table = table.iloc[draw.rng.permutation(len(table))].reset_index(drop=True)
    got = verdict(table, "A", "B")
    a, b = values["A"][:n], values["B"][:n]
    d = a - b
    sd = d.std(ddof=1)

    mean, right_error, right_t = d.mean(), sd / n**0.5, student.ppf(0.975, n - 1)

    def answer(difference=mean, error=right_error, t=right_t, lost=lost):
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
        "you did not count the pairs that were lost": answer(lost=0),
        "you counted networks that diverged: count the seeds that were left out": answer(lost=lost + (lost > 1)),
        "more seeds were counted as lost than were left out: other conditions do not matter here": answer(
            lost=lost + 1
        ),
    }
    third = d[np.isfinite(values["C"][:n])]
    if len(third) > 1:
        half = student.ppf(0.975, n - 2) * third.std(ddof=1) / (n - 1) ** 0.5
        ends = {"low": third.mean() - half, "high": third.mean() + half}
        mistakes["a pair was left out because of a condition that is not compared"] = {
            "difference": third.mean(),
            **ends,
            "n": n - 1,
            "lost": lost + 1,
        }
    expect("the verdict", got, answer(), looks_like=mistakes, tolerance=1e-5)
    expect("the verdict the other way round", verdict(table, "B", "A"), answer(-d.mean()))
