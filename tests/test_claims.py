"""Claims: the verdict comes from the seeds' values and their bounds, and what is recorded is settled."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from sam_lite import claims


@pytest.mark.parametrize("n", [2, 3, 5, 10, 16, 17, 40, 200, 5000])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, n)
    mean, half = claims.interval(values)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert half == pytest.approx((high - low) / 2, rel=1e-12)


def test_the_interval_of_values_whose_squares_leave_the_range():
    for scale in (1e-200, 1e200):
        mean, half = claims.interval([1 * scale, 2 * scale, 3 * scale])
        assert (mean / scale, half / scale) == pytest.approx(claims.interval([1, 2, 3]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012345, "0.0012"),
        (46.4, "46"),
        (0.0996, "0.10"),
        (9.96, "10"),
        (99.6, "100"),
        (309.9, "310"),
        (0, "0"),
        (-4.26e-16, "-4.3e-16"),
        (1234567, "1200000"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_two_significant_digits(value, text):
    assert claims.significant(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([4.0, 4.2, 4.4], "≈ 4.2 ± 0.5 points"),
        ([4.2], "≈ 4.2 points"),
        ([47.0, 47.3, 47.6], "≈ 47.3 ± 0.7 points"),  # the mean is not rounded more coarsely than its interval
        ([40.0, 47.3, 57.6], "≈ 48 ± 20 points"),
        ([9.99, 10.0, 10.01], "≈ 10.00 ± 0.02 points"),
        ([9.9995, 9.9996, 9.9997], "≈ 10.00 ± 0.0002 points"),  # four digits at most
        ([-0.8, -0.82, -0.84], "≈ -0.82 ± 0.05 points"),
        ([0.0, 0.0], "≈ 0 ± 0 points"),
        ([1.0, 1.0], "≈ 1.0 ± 0 points"),
        ([1.0, math.nan], "≈ nan ± nan points"),
        ([1.0, math.inf], "≈ inf ± nan points"),
    ],
)
def test_an_estimate_is_after_the_sign_that_the_sanitiser_knows(values, text):
    assert claims.estimate(values, "points") == text


def values_at(margin, n=10, bound=0.0):
    """`n` values whose mean lies `margin` half-widths of their interval above the bound."""
    shape = np.linspace(-1, 1, n)
    _, half = claims.interval(shape)
    return bound + shape + margin * half


@pytest.mark.parametrize(
    ("values", "bounds", "mark"),
    [
        ([2.0, 2.1, 2.2], {"above": 1.5}, "✓"),
        ([2.0, 2.1, 2.2], {"above": 2.05}, "✓"),  # the interval touches it, the mean is above
        ([2.0, 2.1, 2.2], {"above": 2.15}, "✗"),
        ([2.0, 2.1, 2.2], {"below": 3.0}, "✓"),
        ([2.0, 2.1, 2.2], {"below": 2.05}, "✗"),
        ([2.0, 2.1, 2.2], {"above": 1.5, "below": 3.0}, "✓"),
        ([2.0, 2.1, 2.2], {"above": 2.5, "below": 3.0}, "✗"),
        ([2.0, 2.1, 2.2], {"above": 1.0, "below": 2.0}, "✗"),
        ([2.0, 2.0, 2.0], {"above": 2.0}, "✗"),  # a bound itself is outside
        ([2.0, 2.1, 2.2], {"above": 1.5, "open": True}, "○"),
        ([2.0, 2.1, 2.2], {"open": True}, "○"),
    ],
)
def test_the_mark_turns_where_the_mean_crosses_a_bound(values, bounds, mark):
    assert claims.check("Larger", values, **bounds).mark == mark


@pytest.mark.parametrize("margin", [-3.5, -2.9, -0.5, 0.5, 0.99, 1.01, 2.9, 3.1, 40])
@pytest.mark.parametrize("side", ["above", "below"])
def test_the_margin_counts_half_widths_from_the_bound_on_either_side(margin, side):
    sign = 1 if side == "above" else -1
    claim = claims.check("Larger", sign * values_at(margin), **{side: 0.0})
    assert claim.mark == ("✓" if margin > 0 else "✗")
    assert claim.margin == pytest.approx(abs(margin), rel=1e-9)
    assert ("(close)" in claim.here) == (abs(margin) < 1)
    assert (claims.unsettled(claim) == "") == (abs(margin) > 3)


def test_between_two_bounds_the_nearer_one_counts():
    values = values_at(4, bound=0.0)
    mean, half = claims.interval(values)
    assert claims.check("Between", values, above=0, below=mean + half).margin == pytest.approx(1)
    assert claims.check("Between", values, above=0, below=mean + 9 * half).margin == pytest.approx(4)
    assert claims.check("Beyond", values, above=mean + 2 * half, below=mean + 3 * half).margin == pytest.approx(2)


def test_what_may_be_recorded():
    ten, nine = claims.check("a", values_at(4), above=0), claims.check("a", values_at(40, n=9), above=0)
    assert claims.unsettled(ten) == ""
    assert claims.unsettled(nine) == "9 seeds; a verdict needs 10"
    near = claims.check("a", values_at(1.6), above=0)
    assert "1.6 half-widths from its bound, > 0; a verdict needs 3: some 36 seeds would settle it" in claims.unsettled(
        near
    )
    assert "more seeds will hardly settle it" in claims.unsettled(claims.check("a", values_at(0.1), above=0))
    assert claims.unsettled(claims.check("a", values_at(0.1), above=0, open=True)) == ""
    assert claims.unsettled(claims.check("a", [2.0] * 10, above=2)) != ""  # on the bound, without any spread
    assert claims.unsettled(claims.check("a", [3.0] * 10, above=2)) == ""


def crossings(margin, n, trials=400_000):
    """Shares of trials in which the mean of `n` new seeds crosses a bound that a first sample of n left `margin` half-widths
    behind, and in which the new interval touches it: by NumPy alone.
    """
    generator = np.random.default_rng(n)
    first, second = generator.normal(size=(2, trials, n))
    t = stats.t.ppf(0.975, n - 1)
    half = [t * x.std(1, ddof=1) / n**0.5 for x in (first, second)]
    bound = first.mean(1) - margin * half[0]
    return (second.mean(1) < bound).mean(), (second.mean(1) - half[1] < bound).mean()


@pytest.mark.slow
def test_a_settled_verdict_turns_once_in_two_thousand_samples_and_others_often():
    settled, _ = crossings(claims.HALF_WIDTHS, claims.SEEDS)
    assert 1 / 2500 < settled < 1 / 1600
    five, _ = crossings(claims.HALF_WIDTHS, 5)
    assert 1 / 600 < five < 1 / 400
    near, touches = crossings(1, 10)
    assert 1 / 16 < near < 1 / 12 and 0.45 < touches < 0.55


def test_the_same_by_the_verdicts_themselves():
    """Two samples of ten, the bound one half-width below the first mean: the second verdict is another once in 14."""
    generator, turned = np.random.default_rng(0), 0
    for _ in range(3000):
        first, second = generator.normal(size=(2, 10))
        mean, half = claims.interval(first)
        turned += claims.check("x", second, above=mean - half).mark == "✗"
    assert 3000 / 18 < turned < 3000 / 11


@pytest.mark.parametrize(
    ("value", "expected", "holds"),
    [(1 + 5e-9, 1, True), (1 + 5e-8, 1, False), (1000 + 5e-6, 1000, True), (0, 5e-9, True)],
)
def test_exact_claims_allow_the_tolerance_and_no_more(value, expected, holds):
    claim = claims.check_exact("Equal", value, expected)
    assert (claim.mark, claim.n, claims.unsettled(claim)) == ("✓" if holds else "✗", 0, "")
    assert claim.here == f"= {value:.4f}" and claim.count == "exact"


def test_an_exact_claim_with_bounds_keeps_a_thousandth_away():
    assert claims.check_exact("More", 1.5, above=1).mark == "✓"
    assert claims.check_exact("More", 0.5, above=1).mark == "✗"
    near = claims.check_exact("More", 1.0001, above=1)
    assert near.mark == "✓" and "within a thousandth of its bound, > 1" in claims.unsettled(near)
    assert claims.unsettled(claims.check_exact("More", 1.01, above=1)) == ""
    about = claims.check_exact("About", 0.52, 0.5, tolerance=0.05)
    assert about[:6] == ("✓", "About", "–", "≈ 0.520", "= 0.5000 ± 0.05", "computed")


@pytest.fixture
def shown(monkeypatch):
    """What `show` displayed: (data, metadata) of each table."""
    tables = []
    monkeypatch.setattr(claims, "display", lambda data, metadata, raw: tables.append((data, metadata)))
    return tables


def test_a_table_has_a_row_for_each_claim_and_can_be_read_back(shown):
    group = [
        claims.check("Flat |w| is better", [4.0, 4.2, 4.4], above=1, paper="2 to 5", unit="points", slide=7),
        claims.check("Undecided", [-1, 2], open=True),
        claims.check_exact("Exact", 0.25, 0.25, paper="1/4", slide=31),
    ]
    claims.show(*group)
    ((data, metadata),) = shown
    assert data["text/markdown"].splitlines() == [
        "|  | claim | paper | here | bound | runs | slide |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| ✓ | Flat \\|w\\| is better | 2 to 5 | ≈ 4.2 ± 0.5 points | > 1 | 3 seeds | 7 |",
        "| ○ | Undecided | – | ≈ 0.50 ± 20 | – | 2 seeds |  |",
        "| ✓ | Exact | 1/4 | = 0.2500 | = 0.2500 | exact | 31 |",
    ]
    assert "✓ Flat |w| is better · paper 2 to 5 · here ≈ 4.2 ± 0.5 points · bound > 1" in data["text/plain"]
    read = claims.read(metadata)
    assert [c[:7] for c in read] == [c[:7] for c in group] and read[0].margin == pytest.approx(
        group[0].margin, rel=1e-2
    )
    assert math.isnan(read[1].margin) and math.isinf(read[2].margin)
    assert claims.read({}) == []


def test_a_cell_that_runs_again_shows_its_claims_once_more_and_counts_nothing(shown):
    for _ in range(2):
        claims.show(claims.check("Again", values_at(4), above=0))
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("bounds", "text"),
    [({"above": 0.5}, "> 0.5"), ({"below": -2}, "< -2"), ({"above": 0.9, "below": 1.1}, "0.9 to 1.1")],
)
def test_bounds_are_printed(bounds, text):
    assert claims.check("x", [1.0, 1.1], **bounds).bound == text


def test_sets_of_seeds_are_disjoint(monkeypatch):
    sets = []
    for number in range(3):
        monkeypatch.setenv(claims.SEED_SET, str(number))
        assert claims.seed_set() == number
        sets.append(set(claims.seeds(1000)))
    assert len(set.union(*sets)) == 3000
    monkeypatch.delenv(claims.SEED_SET)
    assert claims.seed_set() == 0
    assert claims.seeds(5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: claims.check("Adam", [1.0, 2.0]), "above or below must be given, or the claim could not fail: 'Adam'"),
        (lambda: claims.check("Adam", [1.0], above=0), "values must hold at least two numbers.* got 1: 'Adam'"),
        (lambda: claims.check("Adam", [], above=0), "values must hold at least two numbers.* got 0: 'Adam'"),
        (lambda: claims.check("Adam", [1, math.nan], above=0), r"values must be finite, got \[1.0, nan\]: 'Adam'"),
        (lambda: claims.check("Adam", [1, math.inf], above=0, open=True), "values must be finite.*'Adam'"),
        (lambda: claims.check("Adam", [1, 2], above=math.nan), "above of 'Adam' must be a finite number, got nan"),
        (lambda: claims.check("Adam", [1, 2], below=math.nan, open=True), "below of 'Adam' must be a finite number"),
        (lambda: claims.check("Adam", [1, 2], above=-math.nan), "above of 'Adam' must be a finite number"),
        (lambda: claims.check("Adam", [1, 2], above=2, below=1), "above must be less than below, got 2 and 1: 'Adam'"),
        (lambda: claims.check("Adam", [1, 2], above=2, below=2), "above must be less than below.*'Adam'"),
        (lambda: claims.check_exact("Adam", math.nan, 1), "the value of 'Adam' must be a finite number, got nan"),
        (lambda: claims.check_exact("Adam", 1, math.inf), "what is expected of 'Adam' must be a finite number"),
        (lambda: claims.check_exact("Adam", 1, 1, tolerance=0.5), "tolerance of 'Adam' must be .* <= 0.1, got 0.5"),
        (lambda: claims.check_exact("Adam", 1), "above or below must be given.*'Adam'"),
        (lambda: claims.show(), "claims must be one or more"),
        (lambda: claims.show(*[claims.check("Adam", [1, 2], above=0)] * 2), "words of its own, got 'Adam' twice"),
        (lambda: claims.seeds(0), "n must be an integer from 1 to 1000, got 0"),
        (lambda: claims.seeds(1001), "n must be an integer from 1 to 1000, got 1001"),
        (lambda: claims.check_exact("Adam", 5, 5, above=10), "above and below must be left out .* expected: 'Adam'"),
        (lambda: claims.check_exact("Adam", 5, 5, below=1), "above and below must be left out .* expected: 'Adam'"),
        (lambda: claims.seeds(2.5), "n must be an integer from 1 to 1000, got 2.5"),
        (lambda: claims.interval([]), "values must hold at least one number, got none"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_slide_0_is_a_slide():
    shown = claims.check("a", [1.0, 1.1], above=0, slide=0), claims.check_exact("b", 1.0, 1.0, slide=0)
    assert [claim.slide for claim in shown] == ["0", "0"]
    assert claims.check("a", [1.0, 1.1], above=0).slide == ""


@pytest.mark.parametrize("values", [{0: 5.0, 1: 6.0}, "123", {1.0, 2.0}, np.ones((2, 2)), np.ones((1, 2))])
def test_what_is_no_row_of_numbers_is_refused(values):
    """Of a dict a loop gives the keys, of a table the names of its columns."""
    for call in (claims.interval, claims.estimate, lambda v: claims.check("it holds", v, above=0)):
        with pytest.raises(
            TypeError, match="values must be numbers in a row, one per seed, got .*; give its .values.. or .squeeze"
        ):
            call(values)
    assert claims.interval({0: 5.0, 1: 6.0}.values())[0] == 5.5


def test_a_number_that_rounds_to_zero_has_no_sign():
    """Rounding decides about the sign of what should be 0, and CI compares every word."""
    for value in (-1e-17, 1e-17, -0.0):
        assert claims.check_exact("It vanishes", value, 0.0).here == "= 0.0000"
    assert claims.check_exact("It is less", -0.00006, -0.00006).here == "= -0.0001"


def test_claims_are_shown_one_by_one_and_in_one_line_each():
    one = claims.check("It holds", [1.0, 2.0], above=0)
    with pytest.raises(TypeError, match=r"claims must be given one by one, as in show\(\*claims\)"):
        claims.show([one, one._replace(claim="It holds, too")])
    with pytest.raises(ValueError, match=r"the words of a claim must be in one line, .*, got 'It\\nholds'"):
        claims.show(one._replace(claim="It\nholds"))


@pytest.mark.parametrize("text", ["-1", "first", "", "1.5"])
def test_a_set_of_seeds_has_a_number(monkeypatch, text):
    monkeypatch.setenv(claims.SEED_SET, text)
    with pytest.raises(ValueError, match=f"SAM_LITE_SEED_SET must be an integer >= 0, got '{text}'"):
        claims.seeds(2)


def test_a_bound_may_be_a_number_of_any_library():
    plain = claims.check("It is more than a quarter", [1.0, 2.0, 3.0], above=0.25)
    for bound in (Fraction(1, 4), np.float32(0.25), torch.tensor(0.25)):
        found = claims.check("It is more than a quarter", [1.0, 2.0, 3.0], above=bound)
        assert found == plain and type(found.margin) is float
    assert claims.check_exact("It is more than a quarter", 0.5, above=Fraction(1, 4)).bound == "> 0.25"
