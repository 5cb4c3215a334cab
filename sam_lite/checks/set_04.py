"""Checks of exercise 4: ranking measures by the gap."""

import itertools
from unittest.mock import patch

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from .. import measures, ranking
from . import Draw, expect, part

SEVEN = ["width", "depth", "batch_size", "optimizer", "dropout", "lr_level", "weight_decay"]


def _pairs(x, y):
    """(sign of the change of x, of y) for each pair, by plain loops."""
    return [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]


def _counts(x, y):
    """Pairs: that agree, that disagree, tied in x alone, in y alone, in both."""
    pairs = _pairs(x, y)
    agree, differ = (sum(a * b == sign for a, b in pairs) for sign in (1, -1))
    both = sum(a == b == 0 for a, b in pairs)
    return agree, differ, sum(a == 0 for a, _ in pairs) - both, sum(b == 0 for _, b in pairs) - both, both


@part("Part 1", points=4, rounds=4)
def tau_b(draw: Draw, tau_b):
    n = draw.whole(5, 9)
    mu, g = draw.rng.permutation(n) + 1.0, draw.rng.uniform(0, 1, n)
    agree, differ, *_ = _counts(mu, g)
    every, right = n * (n - 1) / 2, (agree - differ) / (n * (n - 1) / 2)
    mistakes = {
        "a pair was counted twice": 2 * right,
        "the sign is wrong": -right,
        "each network was also paired with itself": right * (n - 1) / n,
        "this is the share of pairs that agree": agree / every,
        "the root is missing": right / every,
        "this is Spearman's correlation of the ranks": np.corrcoef(rankdata(mu), rankdata(g))[0, 1],
        "this is Pearson's correlation of the values": np.corrcoef(mu, g)[0, 1],
    }
    given = (mu.tolist(), g.tolist()) if draw.round % 2 else (mu, g)
    expect("τ-b without ties", tau_b(*given), right, looks_like=mistakes)
    mistakes = {"values that are nearly equal were taken for ties: only equal ones are tied": 0.0}
    close = tau_b((1 + 1e-4 * mu).tolist(), (1 + 1e-4 * g).tolist())
    expect("τ-b without ties, of numbers that are close to each other", close, right, looks_like=mistakes)

    while True:  # until there are ties of every kind
        mu, g = draw.rng.integers(0, 4, n) + 0.0, draw.rng.integers(0, 5, n) / 10
        agree, differ, one, two, both = _counts(mu, g)
        if min(one, two, both, agree - differ) > 0 and one != two:
            break
    left, right_side, score = every - one - both, every - two - both, agree - differ
    root = (left * right_side) ** 0.5
    ties = one + two + both
    mistakes = {
        "this is τ-a: ties are not taken into account": score / every,
        "tied pairs were left out of the count altogether": score / (agree + differ),
        "only ties of the measure are taken into account": score / left,
        "only ties of the gap are taken into account": score / right_side,
        "only one kind of tie is taken into account, under the root": score / (left * every) ** 0.5,
        "only one kind of tie is taken into account, the gap's, under the root": score / (right_side * every) ** 0.5,
        "a pair tied in both is a tie of each": score / ((left + both) * (right_side + both)) ** 0.5,
        "the root is missing": score / root**2,
        "a tie counts as disagreement; it counts 0": (score - ties) / root,
        "a tie counts as disagreement, and the denominator is that of τ-a": (score - ties) / every,
        "a tie counts as agreement; it counts 0": (score + ties) / root,
        "a tie counts as agreement, and the denominator is that of τ-a": (score + ties) / every,
        "each pair was counted twice in the sum": 2 * score / root,
    }
    expect("τ-b with ties", tau_b(mu.tolist(), g.tolist()), score / root, looks_like=mistakes)
    expect("τ-b of the same numbers, with ties", tau_b(mu.tolist(), mu.tolist()), 1.0)
    expect("τ-b of reversed numbers, with ties", tau_b(g, -g), -1.0)
    flat = [draw.number(0, 9)] * n
    expect("τ-b of a constant measure", tau_b(flat, g.tolist()), 0.0)
    expect("τ-b of a constant gap", tau_b(g.tolist(), flat), 0.0)


def _slices(table, axis, axes):
    return [rows for _, rows in table.groupby([name for name in axes if name != axis])]


def _psi(table, measure, axis, axes, *, weighted=False, empty=None, seeds=False, same=False, ties=True):
    """ψ along an axis, by plain loops, with the usual mistakes as options."""
    means, everything = [], []
    for rows in _slices(table, axis, axes):
        values = rows[[axis, measure, "gap"]].to_numpy()
        products = []
        for one, two in itertools.combinations(values.tolist(), 2):
            product = np.sign(one[1] - two[1]) * np.sign(one[2] - two[2])
            if (one[0] != two[0] or seeds) and (product or ties):
                products.append(product)
        products += [0.0] * (len(values) if same else 0)
        everything += products
        if products or empty is not None:
            means.append(np.mean(products) if products else empty)
    return np.mean(everything if weighted else means)


def _study():
    table = measures.load_study()
    return table[(table["status"] == "stop_loss") & (table["optimizer"] != "adam")].reset_index(drop=True)


@part("Part 2", points=5)
def along(draw: Draw, along):
    axes, measure = ["width", "lr"], draw.rng.choice(["m", "mine", "μ"])
    rows = []
    for width in draw.rng.permutation([10, 20, 30, 50, 80])[:4].tolist():
        for lr, n in zip((1, 2, 3), (draw.whole(1, 2), draw.whole(1, 3), draw.whole(0, 1)), strict=True):
            rows += [(width, lr, seed, float(draw.whole(1, 6)), draw.number(0, 1)) for seed in range(n)]
    rows += [(99, 2, seed, float(seed), 0.1 * seed) for seed in range(2)]  # a slice without any pair
    table = pd.DataFrame(rows, columns=["width", "lr", "seed", measure, "gap"])
    table = table.iloc[draw.rng.permutation(len(table))].reset_index(drop=True)
    by_loops = lambda **how: _psi(table, measure, "lr", axes, **how)  # noqa: E731
    got = along(table, measure, "lr", axes)
    mistakes = {
        "you took one mean over all pairs: a large slice counts more then": by_loops(weighted=True),
        "the slice without any pair was counted as 0": by_loops(empty=0.0),
        "networks that differ by the seed alone were compared as well": by_loops(seeds=True),
        "ties were left out: they count 0": by_loops(ties=False),
        "the measure and the gap were compared over all networks": ranking.tau(table, measure),
        "the slices are those of the other axis: group by what does not vary": _psi(table, measure, "width", axes),
        "the sum over the slices was taken for their mean": by_loops() * 4,
    }
    expect("ψ along lr", got, by_loops(), looks_like=mistakes)
    expect("… with the axes in another order", along(table, measure, "lr", axes[::-1]), by_loops())
    study = _study()
    sample = study[(study["dropout"] == study["dropout"].min()) & (study["seed"] < 2)]
    for axis in draw.rng.choice(["depth", "optimizer", "width", "lr_level"], 2, replace=False):
        name = draw.rng.choice(["l2", "n_params", "trace", "path_norm"])
        right = ranking.granulated(sample, name, axis, SEVEN)
        expect(f"ψ of {name} along {axis} in the study", along(sample, name, axis, SEVEN), right)


@part("Part 3, Ψ", points=2, rounds=2)
def profile(draw: Draw, profile):
    study = _study()
    sample = study[(study["weight_decay"] == 0) & (study["dropout"] == 0)]
    axes = draw.rng.permutation(["width", "depth", "batch_size", "optimizer", "lr_level"]).tolist()
    names = draw.rng.choice(["trace", "l2", "path_norm", "sharpness", "step", "l1"], 2, replace=False).tolist()
    got = profile(sample, names, axes)
    assert isinstance(got, pd.DataFrame), f"a DataFrame was expected, and {type(got).__name__} came."
    assert set(got.columns) == {*axes, "Psi"}, f"the columns must be the axes and Psi, and are {list(got.columns)}."
    assert list(got.index) == names, f"the index must be the names of the measures, and is {list(got.index)}."
    slices = [len(_slices(sample, axis, axes)) for axis in axes]
    for name in names:
        right = [ranking.granulated(sample, name, axis, axes) for axis in axes]
        expect(f"ψ of {name}, axis by axis", got.loc[name, axes], right)
        mistakes = {
            "this is τ over all networks": ranking.tau(sample, name),
            "the sum was taken for the mean": sum(right),
            "this is the median": float(np.median(right)),
            "an axis with more slices counts more: average over the axes": np.average(right, weights=slices),
        }
        expect(f"Ψ of {name}", got.loc[name, "Psi"], np.mean(right), looks_like=mistakes)


@part("Part 3, the contradiction", points=3, rounds=1)
def contradiction(draw: Draw, contradiction):
    made, axes = contradiction(), ["width", "lr", "batch"]
    assert isinstance(made, pd.DataFrame), f"a DataFrame was expected, and {type(made).__name__} came."
    missing = [name for name in [*axes, "measure", "gap"] if name not in made]
    assert not missing, f"the table must have the columns {', '.join(missing)} too."
    finite = np.isfinite(made[["measure", "gap"]].to_numpy(float)).all()
    assert finite, "measure and gap must be finite numbers."
    sizes = made[axes].nunique()
    assert sizes.min() >= 2, f"each axis must have two values or more, and {sizes.idxmin()} has {sizes.min()}."
    whole = len(made) == sizes.prod() == len(made[axes].drop_duplicates())
    assert whole, "every combination of the three axes must be there exactly once."
    tau, psis = ranking.tau(made, "measure"), [ranking.granulated(made, "measure", axis, axes) for axis in axes]
    by_axis = ", ".join(f"{p:.2f} along {axis}" for p, axis in zip(psis, axes, strict=True))
    found = f"τ is {tau:.2f}, ψ is {by_axis}, Ψ is {np.mean(psis):.2f}"
    opposite = tau <= -0.4 and np.mean(psis) >= 0.3
    assert not opposite, f"this is the opposite case: {found}. Turn one sign round."
    assert tau >= 0.4 - 1e-9, f"τ must be at least 0.4: {found}."
    assert np.mean(psis) <= -0.3 + 1e-9, f"Ψ must be at most -0.3: {found}."


def _errors(table, measure, axis, axes, *, enough=12, neighbours=False, both_ways=False):
    """The sign errors of the environments of an axis, sorted, by plain loops."""
    found = []
    for rows in _slices(table, axis, axes):
        groups = [part[[measure, "gap"]].to_numpy() for _, part in rows.groupby(axis)]
        pairs = list(zip(groups, groups[1:], strict=False)) if neighbours else list(itertools.combinations(groups, 2))
        for one, two in pairs:
            changes = (one[:, None] - two[None]).reshape(-1, 2)
            surely = np.maximum(0, 1 - 2 * np.exp(-10_000 * changes[:, 1] ** 2 / 2)) ** 2
            w = np.maximum(surely - 0.5, 0)
            if w.sum() > 0 and w.sum() ** 2 >= enough * (w**2).sum():
                wrong = (1 - np.sign(changes[:, 0]) * np.sign(changes[:, 1])) / 2
                found += [(w * wrong).sum() / w.sum()] * (2 if both_ways else 1)
    return np.sort(found)


def _ordered(errors):
    assert errors is not None, "nothing came back; is there a return?"
    return np.sort(np.asarray(errors, float).ravel())


@part("Part 4", points=5)
def sign_errors(draw: Draw, sign_errors):
    def networks(width, lr, n, gap):
        m = draw.number(0, 9)
        return [(width, lr, m + 0.1 * s, gap + 0.004 * s * draw.whole(0, 1)) for s in range(n)]

    rows, widths = [], sorted(draw.rng.choice([8, 16, 32, 64, 128], 3, replace=False).tolist())
    for lr in (1, 2):
        gaps = draw.rng.permutation([0.1, 0.4, 0.7])
        rows += [row for width, gap in zip(widths, gaps, strict=True) for row in networks(width, lr, 4, gap)]
    rows += networks(widths[0], 3, 4, 0.3) + networks(widths[1], 3, 4, 0.3)  # the gap does not change
    rows += networks(widths[0], 4, 4, 0.2) + networks(widths[2], 4, 2, 0.8)  # 8 pairs: too few
    exact = [(widths[0], 5, 1.0, 0.2)] * 4 + [(widths[1], 5, draw.number(2, 3) * draw.rng.choice([-1, 1]), 0.6)] * 3
    table = pd.DataFrame(rows + exact, columns=["width", "lr", "m", "gap"])  # 12 equal pairs: just enough
    table = table.iloc[draw.rng.permutation(len(table))].reset_index(drop=True)
    axes = ["width", "lr"]
    by_loops = lambda **how: _errors(table, "m", "width", axes, **how)  # noqa: E731
    got, right = _ordered(sign_errors(table, "m", "width", axes)), by_loops()
    mistakes = {
        "only the mean is left: return one number for each environment": [right.mean()],
        "only the worst is left: return one number for each environment": [right.max()],
        "0 and 1 are exchanged: 0 if the measure points the right way": np.sort(1 - right),
        "environments with too few certain pairs were counted": by_loops(enough=0.5),
        "twelve certain pairs are enough: at least 12, not more than 12": by_loops(enough=12.01),
        "only neighbouring values of the axis were compared": by_loops(neighbours=True),
        "each change was taken in both directions: take each pair of values once": by_loops(both_ways=True),
    }
    expect(f"the sign errors of {len(right)} environments, in order", got, right, looks_like=mistakes)
    n = len(right)
    mistakes = {
        "a tie of the measure counts as wrong: its sign is 0": [1.0] * n,
        "a tie of the measure counts as right: its sign is 0": [0.0] * n,
    }
    tied = _ordered(sign_errors(table.assign(m=1.0), "m", "width", axes))
    expect("a measure that never changes: neither right nor wrong", tied, [0.5] * n, looks_like=mistakes)
    none = len(sign_errors(table.assign(gap=0.3), "m", "width", axes))
    expect("no environment in which the gap surely changes", none, 0)

    study = _study()
    sample = study[(study["dropout"] == 0) & (study["weight_decay"] == 0)]
    axes = ["width", "depth", "batch_size", "optimizer", "lr_level"]
    axis, name = draw.rng.choice(axes), draw.rng.choice(["sharpness", "trace", "l2", "step"])
    every = {enough: ranking.sign_errors(sample, name, axes, n_test=10_000, enough=enough) for enough in (12, 0.5)}
    right, loose = (_ordered(table.loc[table["axis"] == axis, "error"]) for table in every.values())
    mistakes = {
        "environments with too few certain pairs were counted": loose,
        "0 and 1 are exchanged": _ordered(1 - right),
    }
    got = _ordered(sign_errors(sample, name, axis, axes))
    expect(f"the sign errors of {name} along {axis} in the study, in order", got, right, looks_like=mistakes)


NOT_SHOWN = [*SEVEN, "lr", "seed", "status", "train_acc", "test_loss", "test_acc", "gap"]


@part("Part 5", points=3, rounds=1)
def my_measure(draw: Draw, my_measure):
    six = [axis for axis in SEVEN if axis != "optimizer"]
    held = measures.load_study().query("status == 'stop_loss' and optimizer == 'adam'")
    held = held.iloc[draw.rng.permutation(len(held))].reset_index(drop=True)
    names = [name for name in held if name not in NOT_SHOWN]
    no_reading = AssertionError("a measure must not read the study: that is where the gaps are.")
    few = draw.rng.permutation(len(held))[:12]
    try:
        with patch("pandas.read_parquet", side_effect=no_reading):
            values = my_measure(held[names])
            again = my_measure(held[names].iloc[few].reset_index(drop=True))
    except KeyError as error:
        raise AssertionError(
            f"there is no column {error} in the table: the measure sees no settings and no test data."
        ) from None
    assert values is not None, "nothing came back; is there a return?"
    values, again = np.asarray(values, float), np.asarray(again, float)
    wanted = (len(held),)
    assert values.shape == wanted, f"one number per row was expected, shape {wanted}, and {values.shape} came."
    assert np.isfinite(values).all(), (
        "there is a NaN or an infinity among the values: is there a logarithm or a quotient of something that is not "
        "positive?"
    )
    assert np.allclose(again, values[few], rtol=1e-3, atol=1e-3 * np.abs(values[few]).max()), (
        "the value of a network changes when other rows are in the table: a measure is a number of one network."
    )
    order = rankdata(np.round(values / np.abs(values).max(), 6)) if np.abs(values).max() > 0 else values
    by_gap = abs(np.corrcoef(order, rankdata(held["gap"]))[0, 1])
    assert not by_gap > 0.95, "this ranks the networks as their gaps do: a measure must not know the gaps."
    for name in names:
        column = held[name].to_numpy(float)
        if np.isfinite(column).all() and abs(np.corrcoef(order, rankdata(column))[0, 1]) > 0.9995:
            raise AssertionError(f"this ranks the networks as the column {name} does: combine two columns or more.")
    mine, l2 = ranking.psi(held.assign(mine=values), "mine", six), ranking.psi(held, "l2", six)
    turn = ": it points the wrong way, turn its sign round." if mine < -0.18 else "."
    assert mine > l2, f"your measure's Ψ on Adam is not above that of the L2 norm{turn}"
    assert mine >= 0.18, (
        f"your measure's Ψ on Adam is ≈ {mine:.2f}: better than the L2 norm, but it must be 0.18 or more."
    )
