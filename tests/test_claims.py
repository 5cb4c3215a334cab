"""Claims: the verdict comes from the seeds' values and their interval, and the printed line can be read back."""

import math
import re
import warnings

import numpy as np
import pytest
from scipy import stats

from sam_lite import claims


@pytest.fixture(autouse=True)
def empty_ledger(monkeypatch):
    monkeypatch.setattr(claims, "LEDGER", [])


@pytest.mark.parametrize("n", [2, 3, 5, 10, 16])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, n)
    mean, half = claims.interval(values)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert half == pytest.approx((high - low) / 2, rel=1e-3)


def test_beyond_the_table_the_interval_is_a_little_wide_never_narrow():
    values = np.random.default_rng(0).normal(size=40)
    _, half = claims.interval(values)
    low, high = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    assert 1 <= half / ((high - low) / 2) < 1.06


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
    assert claims.figure(value) == text


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


@pytest.mark.parametrize(
    ("values", "bounds", "holds"),
    [
        ([2.0, 2.1, 2.2], {"above": 1.5}, True),
        ([2.0, 2.1, 2.2], {"above": 2.0}, False),  # the mean is above, the interval is not
        ([0.1, 5.0, 1.4], {"above": 1.5}, False),
        ([2.0, 2.1, 2.2], {"below": 3.0}, True),
        ([2.0, 2.1, 2.2], {"below": 2.2}, False),
        ([2.0, 2.1, 2.2], {"above": 1.5, "below": 3.0}, True),
        ([2.0, 2.1, 2.2], {"above": 2.5, "below": 3.0}, False),
        ([2.0, 2.1, math.nan], {"above": 1.5}, False),
        ([2.0, 2.1, math.inf], {"above": 1.5}, False),
        ([2.0, 2.1, -math.inf], {"below": 3.0}, False),
        ([2.0], {"above": 1.5}, True),
    ],
)
def test_a_verdict_holds_only_if_the_interval_clears_the_bound(values, bounds, holds, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        claims.check("Larger", values=values, **bounds)
    assert claims.LEDGER == [("Larger", holds)]
    assert capsys.readouterr().out.startswith("✓ Larger" if holds else "✗ Larger")


def test_the_line_has_everything_in_its_order(capsys):
    claims.check("Flat is better", values=[4.0, 4.2, 4.4], above=1, paper="2 to 5", unit="points", slide=7)
    claims.check("One", values=[3], below=4)
    claims.check_exact("Exact", value=0.25, expected=0.25, paper="1/4", slide=31)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "✓ Flat is better | paper: 2 to 5 | ours ≈ 4.2 ± 0.5 points | 3 seeds | slide 7",
        "✓ One | paper: – | ours ≈ 3.0 | 1 run",
        "✓ Exact | paper: 1/4 | ours = 0.2500 | exact | slide 31",
    ]


@pytest.mark.parametrize(
    ("value", "expected", "holds"),
    [(1 + 5e-9, 1, True), (1 + 5e-8, 1, False), (1000 + 5e-6, 1000, True), (0, 5e-9, True), (math.nan, 1, False)],
)
def test_exact_claims_allow_the_tolerance_and_no_more(value, expected, holds):
    claims.check_exact("Equal", value=value, expected=expected)
    assert claims.LEDGER == [("Equal", holds)]


def test_the_summary_counts_and_names_what_does_not_hold(capsys):
    claims.check("Good", values=[2, 2.1], above=0)
    claims.summary()
    claims.check("Bad", values=[2, 2.1], above=3)
    claims.summary()
    text = capsys.readouterr().out
    assert "1 claims measured, 1 hold." in text
    assert re.search(r"2 claims measured, 1 hold, these do not:\n {2}– Bad\n", text)


def test_sets_of_seeds_are_disjoint(monkeypatch):
    sets = []
    for number in range(3):
        monkeypatch.setenv(claims.SEED_SET, str(number))
        assert claims.seed_set() == number
        sets.append(set(claims.seeds(200)))
    assert len(set.union(*sets)) == 600
    monkeypatch.delenv(claims.SEED_SET)
    assert claims.seed_set() == 0
    assert claims.seeds(5) == [0, 1, 2, 3, 4]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="above or below must be given.*'Anything'"):
        claims.check("Anything", values=[1.0])
    with pytest.raises(ValueError, match="values must hold at least one number, got none"):
        claims.check("Nothing", values=[], above=0)
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        claims.seeds(0)


def test_a_claim_holds_no_bar_which_parts_it_in_print(capsys):
    with pytest.raises(ValueError, match="must not hold ' | ', .* got 'a | b'"):
        claims.check("a | b", values=[1.0], above=0)
    with pytest.raises(ValueError, match="must not hold ' | '"):
        claims.check_exact("One", value=1, expected=1, paper="1 | 2")
    claims.check("|cos| is 1", values=[1.0], above=0)
    assert capsys.readouterr().out.startswith("✓ |cos| is 1 | paper")
