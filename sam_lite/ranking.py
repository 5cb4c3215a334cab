"""How well a measure ranks networks by their generalization gap: four answers, from one number for all to the worst case.

A table has one row per network: the hyper-parameters that were varied (`axes`), the generalization gap, and the measures.
Rows in which the measure or the gap is missing, NaN, take no part; inf is the largest value. Only ranks matter. A tie, in
the measure or in the gap, counts as neither right nor wrong. None and NaN as a setting are one value, the last in order.
Settings that differ by rounding alone are refused: networks of one setting would be compared as those of two.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from sam_lite import require

Axes = Sequence[str]
Statistic = Callable[[pd.DataFrame], float]


def tau(table: pd.DataFrame, measure: str, *, gap: str = "gap") -> float:
    """Kendall's tau: the mean over pairs of networks of sign(difference of measure) sign(difference of gap).

    This is tau-a, as in Jiang et al. 2020; without ties it equals SciPy's tau-b. It is 0 for a constant measure and NaN
    for fewer than two networks.
    """
    a, b = _usable(table, measure, gap)[[measure, gap]].to_numpy().T
    if len(a) < 2:
        return np.nan
    pairs = len(a) * (len(a) - 1) / 2
    untied = [pairs - (n * (n - 1) / 2).sum() for n in (np.unique(v, return_counts=True)[1] for v in (a, b))]
    return float(kendalltau(a, b).statistic * np.sqrt(untied[0]) * np.sqrt(untied[1]) / pairs) if all(untied) else 0.0


def granulated(table: pd.DataFrame, measure: str, axis: str, axes: Axes, *, gap: str = "gap") -> float:
    """psi along one axis: tau among networks that differ in this axis alone, averaged over all settings of the others.

    Networks that differ by the seed only are not compared. NaN if no two networks can be. Jiang et al. 2020, whose Psi is
    the mean over the axes.
    """
    axes = _names(table, axes)
    *_, differs, score = _slices(_usable(table, measure, gap, [axis]), measure, axis, axes, gap)
    counts = differs.sum((1, 2))
    return float((score.sum((1, 2))[counts > 0] / counts[counts > 0]).mean()) if counts.any() else np.nan


def psi(table: pd.DataFrame, measure: str, axes: Axes, *, gap: str = "gap") -> float:
    """Psi of Jiang et al. 2020: the mean over the axes of `granulated`; NaN if one of them is, and without axes."""
    axes = _names(table, axes)
    along = [granulated(table, measure, axis, axes, gap=gap) for axis in axes]
    return float(np.mean(along)) if along else np.nan


def cmi(
    table: pd.DataFrame, measure: str, axes: Axes, *, gap: str = "gap", pairs: int = 400_000, seed: int = 0
) -> float:
    """K of Jiang et al. 2020: what a measure tells about the gap beyond any two hyper-parameters, from 0 to 1.

    V and V_gap are the signs of the differences in measure and gap within a pair of networks, U the values of the axes S
    in both. K is the smallest I(V; V_gap | U) / H(V_gap | U) over sets S of up to two axes. pairs: the most ordered pairs
    that are used; if there are more, so many are drawn from `seed`. NaN without any pair of two networks.
    """
    axes, usable = _names(table, axes), _usable(table, measure, gap)
    n, pairs = len(usable), require.whole("pairs", pairs)
    if n < 2:
        return np.nan
    every = np.arange(n * n) if n * n <= pairs else np.random.default_rng(require.seed(seed)).integers(0, n * n, pairs)
    first, second = (part[every // n != every % n] for part in (every // n, every % n))
    if not len(first):  # of few pairs that are drawn
        return np.nan
    signs = [np.sign(v[first] - v[second]).astype(int) + 1 for v in usable[[measure, gap]].to_numpy().T]
    both = {}
    for axis in axes:
        codes, _ = _levels(usable, axis)
        both[axis] = _fewer(codes[first] * (codes.max() + 1) + codes[second], 10**6)
    least = np.inf
    for s in itertools.chain.from_iterable(itertools.combinations(axes, k) for k in range(3)):
        cell = np.zeros(len(first), int)
        for axis in s:
            cell = cell * (both[axis].max() + 1) + both[axis]
        least = min(least, _information(_fewer(cell, 10**6), *signs))
    return least


def sign_errors(
    table: pd.DataFrame, measure: str, axes: Axes, *, n_test: int, gap: str = "gap", enough: float = 12
) -> pd.DataFrame:
    """How often a measure points the wrong way when one hyper-parameter is changed: a row per change, error in [0, 1].

    In an environment one axis goes from one value to another, and all others stay (Dziugaite et al. 2020). The error is
    the mean over pairs of networks of (1 - sign of the measure's difference * sign of the gap's) / 2. A pair weighs
    (w - 1/2)+ with w = max(0, 1 - 2 exp(-2 n_test (difference of gap / 2)^2))^2, so a difference that `n_test` points
    cannot resolve weighs nothing; so the gap must be one of accuracies from 0 to 1, not of percent. Environments whose
    effective number of pairs, (sum w)^2 / sum w^2, is below `enough` are left out. `slice` numbers the settings of the
    other axes, alike in every table that has the same levels of them.
    """
    axes, rows, usable = _names(table, axes), [], _usable(table, measure, gap)
    largest = _numbers(table[gap]).replace([np.inf, -np.inf], np.nan).abs().max()
    if largest > 1:
        raise require.error(
            f"column {gap!r}", "a difference of accuracies from 0 to 1", largest, "divide percent by 100"
        )
    n_test, enough = require.whole("n_test", n_test), require.number("enough", enough, least=0)
    for axis in axes:
        levels = _levels(usable, axis)[1]
        numbers, settings, differs, score = _slices(usable, measure, axis, axes, gap)
        gaps = settings[gap][:, :, None] - settings[gap][:, None]
        surely = np.maximum(0, 1 - 2 * np.exp(-2 * n_test * (gaps / 2) ** 2)) ** 2
        for a, b in itertools.combinations(range(len(levels)), 2):
            ours = differs & (settings[axis] == a)[:, :, None] & (settings[axis] == b)[:, None]
            weight = np.where(ours, np.maximum(surely - 0.5, 0), 0)
            total, squares = weight.sum((1, 2)), (weight**2).sum((1, 2))
            kept = (total > 0) & (total**2 >= enough * np.maximum(squares, 1e-300))
            errors = (weight * (1 - score) / 2).sum((1, 2))[kept] / total[kept]
            change = {"axis": axis, "from": levels[a], "to": levels[b]}
            rows += [change | {"slice": i, "error": e} for i, e in zip(numbers[kept], errors, strict=True)]
    return pd.DataFrame(rows, columns=["axis", "from", "to", "slice", "error"]).astype({"error": float})


def bootstrap(table: pd.DataFrame, statistic: Statistic, *, by: Axes, draws: int = 200, seed: int = 0) -> np.ndarray:
    """`statistic` of `draws` tables drawn with replacement: (draws,). Its 2.5% and 97.5% quantiles are a 95% interval.

    by: rows that agree in these columns are drawn together. Give all axes: another seed of a setting is no new setting.
    For `psi` and `granulated`, which compare along an axis: for `tau` and `cmi` two copies of a row would be a tie.
    """
    by = _names(table, by, "by")
    levels = pd.DataFrame({column: _levels(table, column)[0] for column in by})
    clusters = list(levels.groupby(by, sort=True).indices.values())
    rng = np.random.default_rng(require.seed(seed))
    picks = rng.integers(0, len(clusters), (require.whole("draws", draws), len(clusters)))
    return np.array([statistic(table.iloc[np.concatenate([clusters[i] for i in pick])]) for pick in picks])


def jackknife(table: pd.DataFrame, statistic: Statistic, *, by: str = "seed") -> np.ndarray:
    """One value per seed, n S - (n - 1) S_without: their mean estimates S, their spread its error (Tukey 1958). (n,)

    For a statistic of pairs, which single seeds do not have: `claims.check` takes the values as those of seeds.
    """
    codes, seeds = _levels(table, *_names(table, [by]))
    if (n := len(seeds)) < 2:
        raise ValueError(f"table must have two values or more of {by!r}, got {seeds}")
    return n * statistic(table) - (n - 1) * np.array([statistic(table[codes != i]) for i in range(n)])


def _names(table: pd.DataFrame, axes: Iterable[str], name: str = "axes") -> list[str]:
    """The axes as a list, from any iterable; ValueError for one name alone, and for columns that are not there, or twice."""
    if not isinstance(table, pd.DataFrame):
        raise require.error("table", "a DataFrame with a row for each network", type(table), "use pd.DataFrame(table)")
    names = None if isinstance(axes, str) or not isinstance(axes, Iterable) else list(axes)
    if names is None or (name == "by" and not names):
        raise require.error(name, "names in a row, such as ['lr', 'width']", axes)
    for column in names:
        if column not in table:
            raise ValueError(f"table must have a column {column!r}, got {', '.join(map(str, table))}")
        if table[column].ndim > 1:
            raise require.error("table", f"one with one column {column!r}", table[column].shape[1])
    if name != "columns" and len(set(names)) < len(names):
        raise require.error(name, "names that each stand once, since each counts as one", names)
    return names


def _usable(table: pd.DataFrame, measure: str, gap: str, axes: Axes = ()) -> pd.DataFrame:
    """The rows that have measure and gap; ValueError for columns that are not there or hold no numbers."""
    _names(table, [gap, measure, *axes], "columns")
    try:
        numbers = {name: _numbers(table[name]) for name in (measure, gap)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"columns {measure!r} and {gap!r} must hold numbers: {error}") from error
    there = numbers[measure].notna() & numbers[gap].notna()
    for name in (measure, gap):  # inf - inf is no number, so other numbers in the same order stand for these
        values = numbers[name]
        if np.isinf(values).any():
            end = 1 + 2 * values[np.isfinite(values)].abs().to_numpy().max(initial=0)  # a gap's size counts, too
            numbers[name] = values.clip(-end, end) if name == gap else values.rank(method="dense")
    usable = table.copy()
    for name, values in numbers.items():
        usable[name] = values
    return usable[there]


def _numbers(column: pd.Series) -> pd.Series:
    """The column as floats. ValueError for times, of which a missing one would be the least, and for complex numbers."""
    if column.dtype == object:
        column = column.map(require.pythons).infer_objects()
    if column.dtype.kind in "mMc":
        raise ValueError(f"these are {column.dtype}; use .dt.total_seconds(), or the real part")
    return pd.to_numeric(column).astype(float)


def _levels(table: pd.DataFrame, column: str) -> tuple[np.ndarray, list]:
    """Each row's place in the list of the column's values, and that list: sorted, None and NaN being one, the last."""
    try:
        settings = table[column]
        if settings.dtype == object:  # where True is 1
            told = [(bool, v) if isinstance(v, bool | np.bool_) else require.pythons(v) for v in settings]
            settings = pd.Series(told, dtype=object)
        codes, values = pd.factorize(settings, use_na_sentinel=False)
        plain = [v[1] if isinstance(v, tuple) and v[:1] == (bool,) else v for v in values.tolist()]
        keys = [(pd.api.types.is_scalar(v) and pd.isna(v), str(type(v)), v) for v in plain]
        order = sorted(range(len(keys)), key=lambda i: keys[i])
    except TypeError as error:
        raise ValueError(f"axis {column!r} must hold values that have an order, such as numbers: {error}") from error
    values = [keys[i][-1] for i in order]
    _apart(column, np.array([v for v in values if isinstance(v, float)]))
    return np.argsort(order)[codes], values


def _apart(column: str, values: np.ndarray) -> None:
    """ValueError for two values that rounding has made of one, as of 0.3 and 0.1 * 3, or of 0.1 in float32 and float64."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32).astype(float)
    twins = (single[1:] == single[:-1]) & ((single == values)[1:] | (single == values)[:-1])
    for i in np.flatnonzero(twins | np.isclose(values[1:], values[:-1], rtol=1e-12, atol=0)):
        pair = values[i : i + 2].tolist()
        raise require.error(f"the values of {column!r}", "equal or apart", pair, "round them, as by .round(6)")


def _fewer(codes: np.ndarray, most: int) -> np.ndarray:
    """The codes, or their ranks if there is no place for a code of `most`, as where an axis has another value in each row."""
    return codes if codes.max(initial=0) < most else np.unique(codes, return_inverse=True)[1]


def _slices(table: pd.DataFrame, measure: str, axis: str, axes: Axes, gap: str):
    """Slices of networks that differ in `axis` and seed alone: number, columns (n_slices, k), which pairs differ, score."""
    key = np.zeros(len(table), int)
    for other in (a for a in axes if a != axis):
        codes, values = _levels(table, other)
        key = _fewer(key, 2**62 // max(len(values), 1))
        key = key * len(values) + codes
    numbers, group, sizes = np.unique(key, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    index = np.full((len(sizes), sizes.max(initial=0)), -1)
    index[group[order], np.arange(len(table)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = order
    columns = {name: table[name].to_numpy()[index] for name in (measure, gap)} | {axis: _levels(table, axis)[0][index]}
    there = index >= 0
    differs = there[:, :, None] & there[:, None] & (columns[axis][:, :, None] != columns[axis][:, None])
    a, b = (np.sign(columns[name][:, :, None] - columns[name][:, None]) for name in (measure, gap))
    return numbers, columns, differs, np.where(differs, a * b, 0)


def _information(cell: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """I(a; b | cell) / H(b | cell) for a, b in {0, 1, 2}; 0 where b is always the same."""
    joint = np.bincount(cell * 9 + a * 3 + b, minlength=9 * (cell.max() + 1)).reshape(-1, 3, 3) / len(cell)
    entropy = lambda p: -(p[p > 0] * np.log(p[p > 0])).sum()  # noqa: E731
    given = entropy(joint.sum(1)) - entropy(joint.sum((1, 2)))  # H(b | cell)
    both = entropy(joint.sum(2)) + entropy(joint.sum(1)) - entropy(joint) - entropy(joint.sum((1, 2)))
    return max(0.0, both / given) if given > 1e-12 else 0.0
