"""How well a measure ranks networks by their generalization gap: four answers, from one number for all to the worst case.

A table has a row per network: the hyper-parameters that were varied (`axes`), the gap, and the measures. Rows without a
number for the measure or the gap take no part. Only ranks matter. Ties of either count as neither right nor wrong.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

Axes = Sequence[str]


def rank_correlation(
    table: pd.DataFrame, measures: Sequence[str], axes: Axes, *, gap: str = "gap", n_test: int | None = None
) -> pd.DataFrame:
    """A row per measure: tau, psi and psi along each axis, cmi, number of models; sign errors where `n_test` is given.

    n_test: test points behind the gap, which say what differences are no chance. Raises ValueError for columns that
    are not there and axes that have one value only.
    """
    for column in (gap, *axes, *measures):
        if column not in table:
            raise ValueError(f"table must have a column {column!r}, got {', '.join(map(str, table))}")
    for axis in axes:
        if table[axis].nunique() < 2:
            raise ValueError(f"axis {axis!r} must have two values or more, got {table[axis].unique().tolist()}")
    rows = {}
    for name in measures:
        along = {axis: granulated(table, name, axis, axes, gap=gap) for axis in axes}
        row = {"tau": tau(table, name, gap=gap), "psi": pd.Series(along).mean(), **along}
        row["cmi"] = cmi(table, name, axes, gap=gap)
        if n_test is not None:
            errors = sign_errors(table, name, axes, n_test=n_test, gap=gap)["error"]
            row |= {"error_mean": errors.mean(), "error_p90": errors.quantile(0.9), "error_max": errors.max()}
        rows[name] = row | {"models": len(_usable(table, name, gap))}
    return pd.DataFrame.from_dict(rows, orient="index")


def tau(table: pd.DataFrame, measure: str, *, gap: str = "gap") -> float:
    """Kendall's tau: mean over pairs of networks of sign(difference of measure) sign(difference of gap).

    That is tau-a, as in Jiang et al. 2020; SciPy's tau-b without ties. 0 for a constant, NaN for less than two networks.
    """
    a, b = _usable(table, measure, gap)[[measure, gap]].to_numpy().T
    if len(a) < 2:
        return np.nan
    pairs = len(a) * (len(a) - 1) / 2
    untied = [pairs - (n * (n - 1) / 2).sum() for n in (np.unique(v, return_counts=True)[1] for v in (a, b))]
    return float(kendalltau(a, b).statistic * np.sqrt(untied[0]) * np.sqrt(untied[1]) / pairs) if all(untied) else 0.0


def granulated(table: pd.DataFrame, measure: str, axis: str, axes: Axes, *, gap: str = "gap") -> float:
    """psi along one axis: tau among networks that differ in it alone, in the mean over all settings of the others.

    Jiang et al. 2020, whose Psi is the mean over the axes. Networks that differ by the seed only are not compared.
    NaN where no two networks can be.
    """
    _, differs, score = _slices(_usable(table, measure, gap), measure, axis, axes, gap)
    counts = differs.sum((1, 2))
    return float((score.sum((1, 2))[counts > 0] / counts[counts > 0]).mean()) if counts.any() else np.nan


def psi(table: pd.DataFrame, measure: str, axes: Axes, *, gap: str = "gap") -> float:
    """Psi of Jiang et al. 2020: the mean over the axes of `granulated`; NaN if one of them is."""
    return float(np.mean([granulated(table, measure, axis, axes, gap=gap) for axis in axes]))


def cmi(
    table: pd.DataFrame, measure: str, axes: Axes, *, gap: str = "gap", pairs: int = 400_000, seed: int = 0
) -> float:
    """What a measure tells of the gap that no two hyper-parameters tell, from 0 to 1 (Jiang et al. 2020, K).

    The least, over sets S of up to two axes, of I(V; V_gap | U) / H(V_gap | U): V the signs of the differences within
    pairs of networks, U the values of S in both. Over all ordered pairs, or so many of `seed`.
    """
    usable = _usable(table, measure, gap)
    n = len(usable)
    if n < 2:
        return np.nan
    every = np.arange(n * n) if n * n <= pairs else np.random.default_rng(seed).integers(0, n * n, pairs)
    first, second = (part[every // n != every % n] for part in (every // n, every % n))
    signs = [np.sign(v[first] - v[second]).astype(int) + 1 for v in usable[[measure, gap]].to_numpy().T]
    both = {}
    for axis in axes:
        codes = pd.factorize(usable[axis])[0]
        both[axis] = codes[first] * (codes.max() + 1) + codes[second]
    least = np.inf
    for s in itertools.chain.from_iterable(itertools.combinations(axes, k) for k in range(3)):
        cell = np.zeros(len(first), int)
        for axis in s:
            cell = cell * (both[axis].max() + 1) + both[axis]
        least = min(least, _information(cell, *signs))
    return least


def sign_errors(
    table: pd.DataFrame, measure: str, axes: Axes, *, n_test: int, gap: str = "gap", enough: float = 12
) -> pd.DataFrame:
    """How often a measure points the wrong way when one hyper-parameter is changed: a row per change, error in [0, 1].

    Dziugaite et al. 2020: in an environment one axis goes from one value to another, all others stay. Over pairs of
    networks (1 - sign of measure's difference * sign of gap's) / 2 is averaged, weighted by (w - 1/2)+ with
    w = max(0, 1 - 2 exp(-2 n_test (difference of gap / 2)^2))^2: what a gap of `n_test` points cannot tell has none.
    Environments with an effective number of pairs, (sum w)^2 / sum w^2, below `enough` are left out.
    """
    rows, usable = [], _usable(table, measure, gap)
    for axis in axes:
        settings, differs, score = _slices(usable, measure, axis, axes, gap)
        gaps = settings[gap][:, :, None] - settings[gap][:, None]
        surely = np.maximum(0, 1 - 2 * np.exp(-2 * n_test * (gaps / 2) ** 2)) ** 2
        for a, b in itertools.combinations(np.unique(usable[axis]), 2):
            ours = differs & (settings[axis] == a)[:, :, None] & (settings[axis] == b)[:, None]
            weight = np.where(ours, np.maximum(surely - 0.5, 0), 0)
            total, squares = weight.sum((1, 2)), (weight**2).sum((1, 2))
            kept = total**2 >= enough * np.maximum(squares, 1e-300)
            errors = (weight * (1 - score) / 2).sum((1, 2))[kept] / total[kept]
            change = {"axis": axis, "from": a, "to": b}
            rows += [change | {"slice": i, "error": e} for i, e in zip(kept.nonzero()[0], errors, strict=True)]
    return pd.DataFrame(rows, columns=["axis", "from", "to", "slice", "error"]).astype({"error": float})


def bootstrap(
    table: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], float],
    *,
    by: Sequence[str],
    draws: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """`statistic` of so many tables drawn with replacement: (draws,). 95% interval: their 2.5% and 97.5% quantiles.

    by: rows that agree in these columns, such as all axes, are drawn together: seeds of one setting are no new setting.
    """
    clusters = list(table.groupby(list(by), sort=True).indices.values())
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(clusters), (draws, len(clusters)))
    return np.array([statistic(table.iloc[np.concatenate([clusters[i] for i in pick])]) for pick in picks])


def jackknife(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], *, by: str = "seed") -> np.ndarray:
    """One value per seed, n S - (n - 1) S_without: their mean estimates S, their spread its error (Tukey 1958). (n,)

    For a statistic of pairs, which single seeds do not have: `claims.check` takes the values as those of seeds.
    """
    seeds = np.unique(table[by])
    if len(seeds) < 2:
        raise ValueError(f"table must have two values or more of {by!r}, got {seeds.tolist()}")
    without = np.array([statistic(table[table[by] != seed]) for seed in seeds])
    return len(seeds) * statistic(table) - (len(seeds) - 1) * without


def _usable(table: pd.DataFrame, measure: str, gap: str) -> pd.DataFrame:
    return table[np.isfinite(table[measure]) & np.isfinite(table[gap])]


def _slices(table: pd.DataFrame, measure: str, axis: str, axes: Axes, gap: str):
    """Slices of networks that differ in `axis` and seed alone: columns (n_slices, k), which pairs differ, their score."""
    key = np.zeros(len(table), int)
    for other in (a for a in axes if a != axis):
        codes, values = pd.factorize(table[other], sort=True)
        key = key * len(values) + codes
    _, group, sizes = np.unique(key, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    index = np.full((len(sizes), sizes.max(initial=0)), -1)
    index[group[order], np.arange(len(table)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = order
    columns = {name: table[name].to_numpy()[index] for name in (measure, gap, axis)}
    there = index >= 0
    differs = there[:, :, None] & there[:, None] & (columns[axis][:, :, None] != columns[axis][:, None])
    a, b = (np.sign(columns[name][:, :, None] - columns[name][:, None]) for name in (measure, gap))
    return columns, differs, np.where(differs, a * b, 0)


def _information(cell: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """I(a; b | cell) / H(b | cell) for a, b in {0, 1, 2}; 0 where b is always the same."""
    joint = np.bincount(cell * 9 + a * 3 + b, minlength=9 * (cell.max() + 1)).reshape(-1, 3, 3) / len(cell)
    entropy = lambda p: -(p[p > 0] * np.log(p[p > 0])).sum()  # noqa: E731
    given = entropy(joint.sum(1)) - entropy(joint.sum((1, 2)))  # H(b | cell)
    both = entropy(joint.sum(2)) + entropy(joint.sum(1)) - entropy(joint) - entropy(joint.sum((1, 2)))
    return max(0.0, both / given) if given > 1e-12 else 0.0
