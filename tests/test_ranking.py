"""Rank statistics against loops over all pairs, SciPy, and constructions whose answer is known."""

import itertools
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau

from sam_lite import ranking

AXES = ["lr", "width", "depth"]


def grid(seed=0, ties=False, seeds=2):
    """54 networks: a gap that depends on the axes, a measure that depends on the gap, and noise on both."""
    rng = np.random.default_rng(seed)
    rows = [
        dict(lr=a, width=b, depth=c, seed=s)
        for a, b, c, s in itertools.product(range(3), range(3), range(3), range(seeds))
    ]
    table = pd.DataFrame(rows)
    table["gap"] = 0.3 + 0.05 * table["lr"] - 0.03 * table["width"] + 0.02 * rng.standard_normal(len(table))
    table["m"] = table["gap"] + 0.1 * table["depth"] + 0.05 * rng.standard_normal(len(table))
    return table.round(1) if ties else table


def sign(x):
    return (x > 0) - (x < 0)


def tau_by_hand(a, b):
    pairs = list(itertools.combinations(range(len(a)), 2))
    return sum(sign(a[i] - a[j]) * sign(b[i] - b[j]) for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("ties", [False, True])
def test_tau_is_the_mean_over_all_pairs(ties):
    table = grid(ties=ties)
    a, b = table["m"].tolist(), table["gap"].tolist()
    assert ranking.tau(table, "m") == pytest.approx(tau_by_hand(a, b), abs=1e-12)
    if not ties:
        assert ranking.tau(table, "m") == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)


def test_tau_of_perfect_reversed_constant_and_too_few():
    table = pd.DataFrame({"gap": [0.1, 0.2, 0.4, 0.3]})
    table = table.assign(same=table["gap"], reversed=-table["gap"], constant=1.0)
    assert [ranking.tau(table, m) for m in ("same", "reversed", "constant")] == pytest.approx([1, -1, 0])
    assert ranking.tau(table.assign(gap=0.5), "same") == 0
    assert math.isnan(ranking.tau(table[:1], "same"))


def psi_by_hand(table, measure, axis):
    others = [a for a in AXES if a != axis]
    taus = []
    for _, part in table.groupby(others):
        rows = part.to_dict("records")
        scores = [
            sign(p[measure] - q[measure]) * sign(p["gap"] - q["gap"])
            for p, q in itertools.combinations(rows, 2)
            if p[axis] != q[axis]
        ]
        if scores:
            taus.append(sum(scores) / len(scores))
    return sum(taus) / len(taus)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("axis", AXES)
def test_granulated_is_the_mean_of_tau_over_slices(axis, ties):
    table = grid(ties=ties).sample(frac=0.8, random_state=1)  # uneven slices, in any order, some with one network
    assert ranking.granulated(table, "m", axis, AXES) == pytest.approx(psi_by_hand(table, "m", axis), abs=1e-12)


def test_the_whole_can_rank_the_wrong_way_what_every_slice_ranks_right():
    """Simpson 1951: along the learning rate the measure is perfect, but width moves it the other way, and further."""
    rows = [dict(lr=a, width=b, gap=0.1 * a + b, m=0.1 * a - b) for a, b in itertools.product(range(3), range(4))]
    table = pd.DataFrame(rows)
    assert ranking.granulated(table, "m", "lr", ["lr", "width"]) == 1
    assert ranking.granulated(table, "m", "width", ["lr", "width"]) == -1
    assert ranking.tau(table, "m") < -0.5


def test_seeds_alone_are_not_compared():
    table = pd.DataFrame({"lr": [0, 0, 0], "gap": [1.0, 2, 3], "m": [1.0, 2, 3]})
    assert math.isnan(ranking.granulated(table, "m", "lr", ["lr"]))


def cmi_by_hand(table, measure, axes):
    rows = table.to_dict("records")
    pairs = [(p, q) for p, q in itertools.permutations(rows, 2)]
    best = math.inf
    for size in range(3):
        for s in itertools.combinations(axes, size):
            cells = {}
            for p, q in pairs:
                key = tuple((p[a], q[a]) for a in s)
                v = (sign(p[measure] - q[measure]), sign(p["gap"] - q["gap"]))
                cells.setdefault(key, []).append(v)
            information = entropy = 0.0
            for values in cells.values():
                n = len(values)
                for m, g in itertools.product((-1, 0, 1), repeat=2):
                    joint = values.count((m, g)) / n
                    one = sum(v[0] == m for v in values) / n
                    other = sum(v[1] == g for v in values) / n
                    if joint:
                        information += n / len(pairs) * joint * math.log(joint / (one * other))
                for g in (-1, 0, 1):
                    other = sum(v[1] == g for v in values) / n
                    if other:
                        entropy -= n / len(pairs) * other * math.log(other)
            best = min(best, information / entropy if entropy > 1e-12 else 0.0)
    return best


@pytest.mark.parametrize("ties", [False, True])
def test_cmi_is_the_sum_over_cells(ties):
    table = grid(ties=ties)[::2]
    assert ranking.cmi(table, "m", AXES) == pytest.approx(cmi_by_hand(table, "m", AXES), abs=1e-10)


def test_cmi_of_known_answers():
    table = grid(seeds=20)
    rng = np.random.default_rng(1)
    table = table.assign(same=table["gap"], noise=rng.standard_normal(len(table)), constant=0.0, axis=table["lr"] * 1.0)
    assert ranking.cmi(table, "same", AXES) == pytest.approx(1)
    assert ranking.cmi(table, "noise", AXES) < 0.01
    assert ranking.cmi(table, "constant", AXES) == 0
    assert ranking.cmi(table, "axis", AXES) == pytest.approx(0, abs=1e-12)  # given lr it tells nothing
    assert ranking.tau(table, "axis") > 0.2  # though it seemed to
    table["two"] = table["lr"] - 3.0 * table["width"]
    assert ranking.cmi(table, "two", AXES) == pytest.approx(0, abs=1e-12)  # given both of its axes
    assert ranking.cmi(table, "two", ["lr", "depth"]) > 0.05  # given one
    assert ranking.cmi(table.assign(gap=1.0), "same", AXES) == 0
    assert math.isnan(ranking.cmi(table[:1], "same", AXES))


def test_cmi_of_sampled_pairs_is_near_that_of_all():
    table = grid(seeds=10)
    every, some = ranking.cmi(table, "m", AXES), ranking.cmi(table, "m", AXES, pairs=40_000)
    assert some == pytest.approx(every, abs=0.02) and some != every


def errors_by_hand(table, measure, n_test, enough):
    found = {}
    for axis in AXES:
        others = [a for a in AXES if a != axis]
        for place, (_, part) in enumerate(table.groupby(others)):
            for a, b in itertools.combinations(sorted(table[axis].unique()), 2):
                total = squares = error = 0.0
                for p, q in itertools.product(
                    part[part[axis] == a].to_dict("records"), part[part[axis] == b].to_dict("records")
                ):
                    delta = p["gap"] - q["gap"]
                    w = max(0.0, 1 - 2 * math.exp(-2 * n_test * (delta / 2) ** 2)) ** 2
                    w = max(0.0, w - 0.5)
                    total, squares = total + w, squares + w * w
                    error += w * 0.5 * (1 - sign(p[measure] - q[measure]) * sign(delta))
                if squares and total**2 / squares >= enough:
                    found[axis, a, b, place] = error / total
    return found


def test_sign_errors_are_the_weighted_means_over_pairs():
    table = grid(seeds=5)
    found = ranking.sign_errors(table, "m", AXES, n_test=10_000)
    keys = zip(found["axis"], found["from"], found["to"], found["slice"], strict=True)
    by_hand = errors_by_hand(table, "m", 10_000, 12)
    assert len(by_hand) > 20
    assert dict(zip(keys, found["error"], strict=True)) == pytest.approx(by_hand)
    other = ranking.sign_errors(table.assign(m=-table["m"]), "m", AXES, n_test=10_000)
    np.testing.assert_allclose(found["error"] + other["error"], 1)
    assert found["error"].between(0, 1).all()


def test_a_slice_keeps_its_number_when_others_are_not_there():
    table = grid(seeds=5)
    columns = ["axis", "from", "to", "slice"]
    every = ranking.sign_errors(table, "m", AXES, n_test=10_000).set_index(columns)["error"]
    gone = (table["lr"] == table["lr"].min()) & (table["depth"] == table["depth"].min())
    fewer = ranking.sign_errors(table[~gone], "m", AXES, n_test=10_000)
    along_width = fewer[fewer["axis"] == "width"].set_index(columns)["error"]
    assert len(along_width) > 5 and along_width.index.get_level_values("slice").min() > 0
    assert along_width.to_dict() == pytest.approx(every[along_width.index].to_dict())


def test_a_small_test_set_tells_fewer_environments_apart():
    table = grid(seeds=5)
    many, few = (len(ranking.sign_errors(table, "m", AXES, n_test=n)) for n in (10_000, 1_000))
    assert 0 < few < many
    assert len(ranking.sign_errors(table, "m", AXES, n_test=10)) == 0


def test_bootstrap_has_the_spread_of_the_mean_over_clusters():
    rng = np.random.default_rng(0)
    level = rng.standard_normal(100)
    table = pd.DataFrame({"setting": np.repeat(range(100), 5), "x": np.repeat(level, 5)})
    means = ranking.bootstrap(table, lambda t: t["x"].mean(), by=["setting"], draws=1000)
    assert means.mean() == pytest.approx(level.mean(), abs=0.02)
    assert means.std() == pytest.approx(level.std() / 10, rel=0.1)  # not / sqrt(500): rows of a setting are one
    again = ranking.bootstrap(table, lambda t: t["x"].mean(), by=["setting"], draws=1000)
    np.testing.assert_array_equal(means, again)


@pytest.mark.slow
def test_jackknife_of_a_mean_are_the_seeds_means_and_of_tau_it_has_the_right_spread():
    table = grid(seeds=6)
    values = ranking.jackknife(table, lambda t: t["gap"].mean())
    np.testing.assert_allclose(values, table.groupby("seed")["gap"].mean())
    tables = [grid(seed=s, seeds=8) for s in range(40)]
    taus = np.array([ranking.tau(t, "m") for t in tables])
    errors = [ranking.jackknife(t, lambda t: ranking.tau(t, "m")).std(ddof=1) / 8**0.5 for t in tables]
    assert np.mean(errors) == pytest.approx(taus.std(ddof=1), rel=0.3)
    with pytest.raises(ValueError, match=r"table must have two values or more of 'seed', got \[0\]"):
        ranking.jackknife(table[table["seed"] == 0], len)


def test_what_is_missing_takes_no_part():
    table = grid(seeds=5)
    table["holes"] = table["m"].where(table.index % 7 > 0, np.nan)
    kept = table[np.isfinite(table["holes"])]
    assert len(kept) < len(table)
    assert ranking.tau(table, "holes") == pytest.approx(tau_by_hand(kept["m"].tolist(), kept["gap"].tolist()))
    for statistic in (ranking.psi, ranking.cmi):
        assert statistic(table, "holes", AXES) == statistic(kept, "m", AXES)


def test_a_measure_without_any_number_has_no_rank():
    table = grid().assign(m=np.nan)
    assert math.isnan(ranking.tau(table, "m"))
    assert math.isnan(ranking.psi(table, "m", AXES)) and math.isnan(ranking.cmi(table, "m", AXES))
    assert ranking.sign_errors(table, "m", AXES, n_test=100).empty


def test_bad_tables_are_named():
    with pytest.raises(ValueError, match=r"axes must be names in a row, such as .*, got 'lr'"):
        ranking.psi(grid(), "m", "lr")
    for statistic in (ranking.tau, ranking.cmi, ranking.psi):
        with pytest.raises(ValueError, match="table must have a column 'flatness', got lr, width, depth, seed, gap, m"):
            statistic(grid(), "flatness", **{} if statistic is ranking.tau else {"axes": AXES})
    with pytest.raises(ValueError, match=r"columns 'm' and 'gap' must hold numbers: .*low"):
        ranking.tau(grid().assign(m=["low", "1"] * 27), "m")
    with pytest.raises(ValueError, match="axis 'lr' must hold values that have an order, such as numbers: unhash"):
        ranking.psi(grid().assign(lr=[[1], [2]] * 27), "m", AXES)
    for settings, match in (
        ({"n_test": 0}, "n_test must be an integer >= 1"),
        ({"n_test": 9, "enough": None}, "enough"),
    ):
        with pytest.raises(ValueError, match=match):
            ranking.sign_errors(grid(), "m", AXES, **settings)
    with pytest.raises(ValueError, match="draws must be an integer >= 1, got 2.5"):
        ranking.bootstrap(grid(), len, by=AXES, draws=2.5)
    with pytest.raises(ValueError, match="pairs must be an integer >= 1, got 0"):
        ranking.cmi(grid(), "m", AXES, pairs=0)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=str)
@pytest.mark.parametrize("axis", AXES)
def test_a_missing_setting_is_a_value_like_others(axis, missing):
    """None, as in `schedule=[0.1, None]`, in the place of the largest value: nothing but its name is another."""
    table = grid(seeds=5)
    holed = table.assign(**{axis: pd.Series([missing if v == 2 else v for v in table[axis]], dtype=object)})
    for other in AXES:
        assert ranking.granulated(holed, "m", other, AXES) == ranking.granulated(table, "m", other, AXES)
    assert ranking.psi(holed, "m", AXES) == ranking.psi(table, "m", AXES)
    assert ranking.cmi(holed, "m", AXES) == ranking.cmi(table, "m", AXES)
    expected, found = (ranking.sign_errors(t, "m", AXES, n_test=10_000) for t in (table, holed))
    assert len(found) == len(expected) > 20 and found["error"].tolist() == expected["error"].tolist()
    assert found["to"].isna().sum() == (expected["axis"].eq(axis) & expected["to"].eq(2)).sum() > 0


def test_a_missing_setting_makes_two_values_of_one():
    table = grid().query("lr < 2").assign(lr=lambda t: t["lr"].where(t["lr"] > 0))  # 1 and NaN
    assert not math.isnan(ranking.granulated(table, "m", "lr", AXES))
    assert math.isnan(ranking.granulated(table.assign(lr=np.nan), "m", "lr", AXES))


def test_settings_may_be_words_numbers_bools_and_tuples():
    table = grid()
    names = {0: (50, 50), 1: "50", 2: 50}
    mixed = table.assign(lr=[names[v] for v in table["lr"]], width=table["width"] > 0)
    by_hand = psi_by_hand(table.assign(width=table["width"] > 0), "m", "lr")
    assert ranking.granulated(mixed, "m", "lr", AXES) == pytest.approx(by_hand, abs=1e-12)


def test_a_missing_seed_or_cluster_is_one_like_others():
    table = grid(seeds=4)
    holed = table.assign(seed=table["seed"].where(table["seed"] < 3))
    mean = lambda t: t["gap"].mean()  # noqa: E731
    np.testing.assert_array_equal(ranking.jackknife(holed, mean), ranking.jackknife(table, mean))
    draws = [ranking.bootstrap(t, mean, by=["seed"], draws=20) for t in (table, holed)]
    np.testing.assert_array_equal(*draws)


def test_a_measure_may_have_none_for_a_hole():
    table = grid(seeds=3)
    hole = table.index % 7 == 0
    some = table.assign(m=[None if h else v for h, v in zip(hole, table["m"].astype(object), strict=True)])
    some["m"] = some["m"].astype(object)
    assert ranking.psi(some, "m", AXES) == ranking.psi(table[~hole], "m", AXES)
    assert ranking.tau(some, "m") == ranking.tau(table[~hole], "m")


def test_psi_is_the_mean_over_the_axes():
    table = grid()
    along = [ranking.granulated(table, "m", axis, AXES) for axis in AXES]
    assert ranking.psi(table, "m", AXES) == pytest.approx(sum(along) / 3)
    assert math.isnan(ranking.psi(table.assign(depth=1), "m", AXES))


def test_infinite_values_are_the_largest_and_the_smallest():
    table = grid(seeds=3)
    order = table["m"].rank(method="first")
    ends = {"lowest": order <= 9, "highest": order > len(table) - 9}
    tied = table.assign(m=table["m"].mask(ends["lowest"], -1e3).mask(ends["highest"], 1e3))
    table["m"] = table["m"].mask(ends["lowest"], -np.inf).mask(ends["highest"], np.inf)
    assert ranking.tau(table, "m") == pytest.approx(tau_by_hand(tied["m"].tolist(), tied["gap"].tolist()))
    for statistic in (ranking.psi, ranking.cmi):
        assert statistic(table, "m", AXES) == statistic(tied, "m", AXES)
    wide = table.assign(gap=table["gap"].mask(ends["highest"], np.inf))
    near = tied.assign(gap=tied["gap"].mask(ends["highest"], 1.0))
    found, expected = (ranking.sign_errors(t, "m", AXES, n_test=10_000, enough=3) for t in (wide, near))
    pd.testing.assert_frame_equal(found, expected)
    assert len(found) and ranking.psi(wide, "m", AXES) == ranking.psi(near, "m", AXES)
    assert ranking.tau(table.assign(gap=np.inf), "m") == 0 == ranking.tau(table.assign(m=np.inf), "m")
    for endless in ({"gap": np.inf}, {"m": np.inf}):  # all alike, so nothing is right or wrong
        assert ranking.psi(table.assign(**endless), "m", AXES) == 0


def test_axes_may_come_one_by_one():
    table = grid(seeds=2)
    one_by_one = lambda: (axis for axis in AXES)  # noqa: E731
    for statistic in (ranking.psi, ranking.cmi, partial(ranking.granulated, axis="lr")):
        assert statistic(table, "m", axes=one_by_one()) == statistic(table, "m", axes=AXES)
    errors = [ranking.sign_errors(table, "m", axes, n_test=10_000, enough=1) for axes in (AXES, one_by_one())]
    pd.testing.assert_frame_equal(*errors)
    mean = lambda t: t["gap"].mean()  # noqa: E731
    draws = [ranking.bootstrap(table, mean, by=axes, draws=5) for axes in (AXES, one_by_one())]
    np.testing.assert_array_equal(*draws)


def test_columns_that_are_not_there_are_named_by_every_function():
    absent = "table must have a column 'layers', got lr, width, depth, seed, gap, m"
    for call in (
        lambda: ranking.granulated(grid(), "m", "layers", AXES),
        lambda: ranking.granulated(grid(), "m", "lr", ["layers"]),
        lambda: ranking.bootstrap(grid(), len, by=["layers"]),
        lambda: ranking.jackknife(grid(), len, by="layers"),
        lambda: ranking.psi(grid(), "m", ["layers"]),
    ):
        with pytest.raises(ValueError, match=absent):
            call()
    with pytest.raises(ValueError, match=r"by must be names in a row, such as .*, got 'lr'"):
        ranking.bootstrap(grid(), len, by="lr")
    with pytest.raises(ValueError, match=r"by must be names in a row, such as .*, got \[\]"):
        ranking.bootstrap(grid(), len, by=[])
    assert math.isnan(ranking.psi(grid(), "m", []))


def test_an_environment_without_weight_has_no_error_however_few_pairs_are_enough():
    table = grid(seeds=2)
    table["gap"] += np.where(
        table["lr"] == 2, 0.5, 0.0
    )  # a change that 300 points resolve, beside others that they do not
    found = ranking.sign_errors(table, "m", AXES, n_test=300, enough=0)
    keys = zip(found["axis"], found["from"], found["to"], found["slice"], strict=True)
    by_hand = errors_by_hand(table, "m", 300, 1e-9)
    assert 5 < len(by_hand) < 81
    assert dict(zip(keys, found["error"], strict=True)) == pytest.approx(by_hand)


def test_true_and_one_are_two_settings():
    table = grid()
    names = pd.Series({0: True, 1: 1, 2: False}, dtype=object)
    mixed = table.assign(lr=pd.Series([names[v] for v in table["lr"]], dtype=object))
    assert ranking.granulated(mixed, "m", "lr", AXES) == pytest.approx(psi_by_hand(table, "m", "lr"), abs=1e-12)
    assert ranking.psi(mixed, "m", AXES) == pytest.approx(ranking.psi(table, "m", AXES), abs=1e-12)
    changes = ranking.sign_errors(mixed, "m", ["lr"], n_test=10_000, enough=0)
    assert [*map(str, changes["from"])] == ["False", "False", "True"]
    assert [*map(str, changes["to"])] == ["True", "1", "1"]


def test_axes_may_have_another_value_in_each_row():
    """As in a random search. No two pairs agree in such an axis, so nothing is left to tell; one of few values tells."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"lr": rng.uniform(size=300), "decay": rng.uniform(size=300), "depth": rng.integers(0, 2, 300)}
    )
    table = table.assign(gap=rng.standard_normal(300)).eval("m = gap + depth")
    assert ranking.cmi(table, "m", ["lr", "decay"]) == 0
    assert math.isnan(ranking.psi(table, "m", ["lr", "decay"]))


def test_cmi_of_two_axes_of_many_values_each():
    """Far more cells than pairs of networks; the sum over them by pandas."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.integers(0, 35, 500), "b": rng.integers(0, 35, 500)})
    table["gap"] = table["a"] + 5 * rng.standard_normal(500)
    table["m"] = table["gap"] + table["b"]
    pairs = table.merge(table, how="cross", suffixes=("1", "2"))[~np.eye(500, dtype=bool).flatten()]
    pairs = pairs.assign(v=np.sign(pairs["m1"] - pairs["m2"]), g=np.sign(pairs["gap1"] - pairs["gap2"]))

    def entropy(*names):
        p = pairs.groupby(list(names)).size() / len(pairs)
        return -(p * np.log(p)).sum()

    def told(*cell):
        given = entropy(*cell, "g") - (entropy(*cell) if cell else 0.0)
        return (given - entropy(*cell, "v", "g") + entropy(*cell, "v")) / given

    by_hand = min(told(), told("a1", "a2"), told("b1", "b2"), told("a1", "a2", "b1", "b2"))
    assert ranking.cmi(table, "m", ["a", "b"]) == pytest.approx(by_hand, abs=1e-10) and by_hand > 0.001


def test_many_axes_are_all_counted():
    """More settings than integers: 2 to the power of 70."""
    table = pd.DataFrame(np.zeros((8, 70), int)).add_prefix("a")
    table["a0"], table["a69"] = [0, 0, 0, 0, 1, 1, 1, 1], [0, 1] * 4
    table["a1"] = table["a2"] = [0, 0, 1, 1] * 2
    table.loc[len(table)] = [1 - v for v in table.loc[0]]  # so that every axis has two values
    table = table.assign(gap=[0, 1, 0, 2, 5, 3, 9, 7, 4], m=range(9))
    axes = [f"a{i}" for i in range(70)]
    by_hand = [
        tau_by_hand(part["m"].tolist(), part["gap"].tolist())
        for _, part in table.groupby(axes[:-1])
        if part["a69"].nunique() > 1
    ]
    assert len(by_hand) == 4
    assert ranking.granulated(table, "m", "a69", axes) == pytest.approx(np.mean(by_hand))


@pytest.mark.parametrize(
    "statistic",
    [
        ranking.tau,
        lambda table, m: ranking.granulated(table, m, "lr", AXES),
        lambda table, m: ranking.psi(table, m, AXES),
        lambda table, m: ranking.cmi(table, m, AXES),
        lambda table, m: ranking.sign_errors(table, m, AXES, n_test=100),
        lambda table, m: ranking.bootstrap(table, lambda part: ranking.psi(part, m, AXES), by=AXES, draws=2),
        lambda table, m: ranking.jackknife(table, lambda part: ranking.tau(part, m)),
    ],
)
def test_a_table_is_a_frame_whose_index_means_nothing(statistic):
    table = grid()
    for other in ({}, table.to_dict("list"), table.to_dict("records"), table.to_numpy(), table["m"]):
        with pytest.raises(
            ValueError, match="table must be a DataFrame with a row for each network, got .*pd.DataFrame"
        ):
            statistic(other, "m")
    found = statistic(table, "m")
    for index in (range(54, 0, -1), [0] * 54, table["m"], pd.MultiIndex.from_frame(table[AXES])):
        again = statistic(table.set_axis(index), "m")
        np.testing.assert_array_equal(np.asarray(found), np.asarray(again))


def test_a_name_that_stands_twice_is_refused():
    table = grid()
    with pytest.raises(ValueError, match=r"axes must be names that each stand once.*, got \['lr', 'width', 'lr'\]"):
        ranking.psi(table, "m", ["lr", "width", "lr"])
    with pytest.raises(ValueError, match="table must be one with one column 'm', got 2"):
        ranking.tau(pd.concat([table, table[["m"]]], axis=1), "m")
    assert not math.isnan(ranking.psi(table, "lr", AXES))  # an axis may be a measure


def test_what_a_test_set_resolves_is_no_matter_of_percent():
    """A tenth of a percent is not told by 1,000 points, and a difference of 0.1 would be."""
    table = grid(seeds=5)
    with pytest.raises(
        ValueError, match="column 'gap' must be a difference of accuracies from 0 to 1.*; divide percent by 1"
    ):
        ranking.sign_errors(table.assign(gap=100 * table["gap"]), "m", AXES, n_test=1_000)
    assert len(ranking.sign_errors(table.assign(gap=0.01 * table["gap"]), "m", AXES, n_test=1_000)) == 0
    negative = ranking.sign_errors(table.assign(gap=-table["gap"]), "m", AXES, n_test=1_000)
    np.testing.assert_allclose(negative["error"] + ranking.sign_errors(table, "m", AXES, n_test=1_000)["error"], 1)


def test_times_and_complex_numbers_are_no_measures_but_numbers_of_any_library_are():
    """A missing time would be the least, and of a complex number half would count. The rest is as with plain floats."""
    table = grid()
    missing = table["m"].where(table.index > 5)
    for times in (pd.to_timedelta(missing, unit="s"), pd.to_datetime(missing, unit="s")):
        for column in (times, times.astype(object)):
            with pytest.raises(ValueError, match=r"'t' and 'gap' must hold numbers"):
                ranking.tau(table.assign(t=column), "t")
    with pytest.raises(ValueError, match="must hold numbers: these are complex128; use .* the real part"):
        ranking.tau(table.assign(t=table["m"] + 1j), "t")
    tensors = {name: [torch.tensor(v) for v in table[name].tolist()] for name in ("m", "lr", "gap")}
    seen = pd.DataFrame({"width": table["width"], **{k: pd.Series(v, dtype=object) for k, v in tensors.items()}})
    alike = table.astype({"m": "float32", "gap": "float32"})
    assert ranking.psi(seen, "m", ["lr", "width"]) == ranking.psi(alike, "m", ["lr", "width"])
    errors = [ranking.sign_errors(one, "m", ["lr", "width"], n_test=10**5, enough=1) for one in (seen, alike)]
    pd.testing.assert_frame_equal(*errors)
    for name in (0, "self", ("a", "b")):  # names that are no keywords
        assert ranking.tau(table.rename(columns={"m": name}), name) == ranking.tau(table, "m")


def test_cmi_of_drawn_pairs_of_which_none_is_of_two_networks():
    two = grid()[:2]
    drawn = [ranking.cmi(two, "m", AXES, pairs=1, seed=seed) for seed in range(8)]
    same = [bool(np.random.default_rng(seed).integers(0, 4, 1)[0] in (0, 3)) for seed in range(8)]
    assert [math.isnan(k) for k in drawn] == same and any(same) and not all(same)


@pytest.mark.parametrize("other", [0.1 * 3, float(np.float32(0.3)), torch.tensor(0.3)])
def test_two_values_that_rounding_made_of_one_are_refused(other):
    table = pd.DataFrame({"lr": [0.3, other, 0.5, 0.5], "width": [1, 2, 1, 2], "m": [1, 2, 3, 4], "gap": [4, 3, 1, 2]})
    table["lr"] = table["lr"].map(float)
    for call in (ranking.psi, ranking.cmi, partial(ranking.sign_errors, n_test=10)):
        with pytest.raises(ValueError, match=r"the values of 'lr' must be equal or apart, got \[0.3.*; round them"):
            call(table.assign(gap=table["gap"] / 10), "m", ["lr", "width"])
    rounded = table.assign(lr=table["lr"].round(6))
    assert ranking.psi(rounded, "m", ["lr", "width"]) == ranking.psi(
        table.replace(float(other), 0.3), "m", ["lr", "width"]
    )
    near = table.assign(lr=[1e300, 1e300 * (1 + 1e-9), 0.0, 1e-30])  # and yet two
    assert ranking.granulated(near, "m", "lr", ["lr"]) == ranking.granulated(
        table.assign(lr=range(4)), "m", "lr", ["lr"]
    )
