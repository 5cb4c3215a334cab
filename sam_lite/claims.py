"""A claim, the paper's figure, ours, and the verdict.

    claims.show(claims.check("Small batches end flatter", values=ratio, above=1, paper="8.7 to 223", slide=12))

shows one table for a group of claims. A verdict is ✓ if the mean over the seeds is on the right side of its bounds, and
✗ if not. It is *settled*, and may be recorded, with ten seeds or more whose mean lies three half-widths of its
interval or more from every bound: then another ten seeds, or another processor, turn it about once in 2,000 times.
What cannot be settled is open, ○: shown with its interval, and without a verdict.

CI compares every mark and every word of a recorded table, but not the figures after the sign ≈.
"""

import math
import os
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from IPython.display import display
from scipy.special import stdtrit

from sam_lite import require

SEED_SET = "SAM_LITE_SEED_SET"  # environment variable: the number of the set of seeds, 0 if absent
SEEDS, HALF_WIDTHS = 10, 3.0  # what settles a verdict
KEY = "sam_lite.claims"  # of an output's metadata, where the claims stand that its table shows


class Claim(NamedTuple):
    """One row of a table; all but the last two fields are the words that stand there."""

    mark: str
    claim: str
    paper: str
    here: str
    bound: str
    count: str  # type: ignore[assignment]  # of a tuple, which nobody asks for; "10 seeds"; without chance "exact", or "computed" where some tolerance is allowed
    slide: str
    margin: float  # half-widths of the interval between the mean and the bound that decides; nan if open
    n: int  # seeds; 0 without chance


def seed_set() -> int:
    """The number of the set of seeds in use; also the seed of what a notebook draws once, such as its data."""
    return require.whole(SEED_SET, int(text) if (text := os.environ.get(SEED_SET, "0")).isdecimal() else text, least=0)


def seeds(n: int) -> list[int]:
    """`n` seeds, at most 1,000, disjoint between sets, so that a verdict can be tried on seeds that it was not found with."""
    return [1000 * seed_set() + i for i in range(require.whole("n", n, most=1000))]


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % confidence interval (Student's t) over independent values, one per seed.

    The half-width of a single value is 0.
    """
    values = _numbers(values)
    if not values:
        raise ValueError("values must hold at least one number, got none")
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, 0.0
    largest = max(abs(v - mean) for v in values) or 1.0  # by which the squares stay in range
    variance = sum(((v - mean) / largest) ** 2 for v in values) / (n - 1)
    return mean, float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n) * largest


def _numbers(values: Iterable[float]) -> list[float]:
    if isinstance(values, Mapping | Set | str) or getattr(values, "ndim", 1) != 1:  # of which a loop gives other things
        raise TypeError(
            f"values must be numbers in a row, one per seed, got {type(values).__name__}; give its .values() or .squeeze()"
        )
    return [float(v) for v in values]


def significant(value: float, digits: int = 2) -> str:
    """A number with `digits` significant digits, without exponent where that is readable: 0.0012, 46, 310."""
    value = float(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    scientific = f"{value:.{digits - 1}e}"
    places = digits - 1 - int(scientific.split("e")[1])  # after rounding: 9.96 has two digits before the point
    return f"{float(scientific):.{max(places, 0)}f}" if -6 < places < 7 else scientific


def estimate(values: Iterable[float], unit: str = "") -> str:
    """The mean and its 95 % interval in print, ≈ 47.3 ± 0.8: the interval to one significant digit, the mean to the same
    place, but with two to four digits; no ± for one value.
    """
    values = _numbers(values)
    mean, half = interval(values)
    digits, spread = 2, ""
    if len(values) > 1:
        spread = f" ± {significant(half, 1)}"
        if mean and half and math.isfinite(mean) and math.isfinite(half):
            digits = min(max(2, 1 + _exponent(mean, 4) - _exponent(half, 1)), 4)
    return f"≈ {significant(mean, digits)}{spread}{unit and ' ' + unit}"


def _exponent(value: float, digits: int) -> int:
    """Power of ten of the first digit of a number, once it is rounded to `digits` digits."""
    return int(f"{value:.{digits - 1}e}".split("e")[1])


def check(
    claim: str,
    values: Iterable[float],
    *,
    above: float = -math.inf,
    below: float = math.inf,
    paper: str = "–",
    unit: str = "",
    slide: int | None = None,
    open: bool = False,
) -> Claim:
    """The verdict on a claim that is measured with several seeds.

    Args:
        claim: what is claimed, in words; each text occurs once in a notebook.
        values: one finite number per seed, two or more.
        above, below: the claim holds (✓) if the mean of the values lies between them, otherwise not (✗). If the interval
            touches a bound, "(close)" stands behind the figure.
        paper: the paper's figure, with its unit.
        unit: the unit of the values.
        slide: number of the slide that makes the claim.
        open: True gives no verdict (○), for a mean that cannot be had three half-widths away from the bound; then bounds
            may be left out.

    >>> check("Small batches end flatter (ratio)", [3.9, 4.1, 4.0] * 4, above=1, paper="8.7 to 223", slide=12).here
    '≈ 4.00 ± 0.05'
    """
    values = _numbers(values)
    if len(values) < 2:
        raise ValueError(f"values must hold at least two numbers, one per seed, got {len(values)}: {claim!r}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"values must be finite, got {values}: {claim!r}")
    bound = _bound(claim, above, below, open)
    mean, half = interval(values)
    inside = float(min(mean - above, below - mean))  # negative outside of the bounds
    margin = abs(inside) / half if half else math.inf if inside else 0.0
    here = estimate(values, unit) + (" (close)" if margin < 1 and not open else "")
    mark = "○" if open else "✓" if inside > 0 else "✗"
    margin, n = math.nan if open else margin, len(values)
    return Claim(mark, claim, paper, here, bound, f"{n} seeds", _numbered(slide), margin, n)


def check_exact(
    claim: str,
    value: float,
    expected: float | None = None,
    *,
    tolerance: float = 1e-8,
    above: float = -math.inf,
    below: float = math.inf,
    paper: str = "–",
    slide: int | None = None,
) -> Claim:
    """The verdict on a number that is computed without chance, such as a closed form, in float64.

    It holds if |value - expected| <= tolerance max(1, |expected|), or where nothing is expected if it lies between
    `above` and `below`. With a tolerance of 1e-6 at most it is printed with four decimals, which CI compares.
    """
    value = require.number(f"the value of {claim!r}", value)
    here = f"= {round(value, 4) + 0.0:.4f}"  # and not -0.0000, which rounding alone would decide
    if expected is None or tolerance > 1e-6:
        here = f"≈ {significant(value, 3)}"
    if expected is None:
        bound = _bound(claim, above, below, False)
        distance = min(value - above, below - value) / max(1e-12, abs(value))
        holds, margin = distance > 0, abs(distance) * HALF_WIDTHS / 1e-3  # a thousandth from the bound at least
    else:
        if (above, below) != (-math.inf, math.inf):
            raise ValueError(f"above and below must be left out where a value is expected: {claim!r}; check them alone")
        expected = require.number(f"what is expected of {claim!r}", expected)
        limit = require.number(f"tolerance of {claim!r}", tolerance, above=0, most=0.1) * max(1.0, abs(expected))
        bound = f"= {significant(expected, 4)}" + (f" ± {significant(limit, 1)}" if tolerance > 1e-6 else "")
        holds, margin = abs(value - expected) <= limit, math.inf
    count = "exact" if here.startswith("=") else "computed"
    return Claim("✓" if holds else "✗", claim, paper, here, bound, count, _numbered(slide), margin, 0)


def show(*claims: Claim) -> None:
    """Display claims as one table: mark, claim, the paper's figure, ours, the bound, how often measured, the slide."""
    if not all(isinstance(c, Claim) for c in claims):
        raise TypeError("claims must be given one by one, as in show(*claims)")
    texts = [c.claim for c in claims]
    if not claims or len(set(texts)) < len(texts):
        twice = next((t for t in texts if texts.count(t) > 1), None)
        raise ValueError(f"claims must be one or more, each with words of its own, got {twice and f'{twice!r} twice'}")
    if odd := [text for c in claims for text in c[:7] if "\n" in text]:
        raise require.error("the words of a claim", "in one line, as a row of a table is", odd[0])
    rows = [["", "claim", "paper", "here", "bound", "runs", "slide"], ["---"] * 7]
    rows += [[text.replace("|", "\\|") for text in claim[:7]] for claim in claims]
    plain = [
        f"{c.mark} {c.claim} · paper {c.paper} · here {c.here} · bound {c.bound} · {c.count}"
        + (f" · slide {c.slide}" if c.slide else "")
        for c in claims
    ]
    data = {"text/markdown": "\n".join(f"| {' | '.join(row)} |" for row in rows), "text/plain": "\n".join(plain)}
    display(data, metadata={KEY: [c._asdict() | {"margin": _short(c.margin)} for c in claims]}, raw=True)


def read(metadata: Mapping) -> list[Claim]:
    """The claims of a table, from the metadata of its output: what `show` wrote there."""
    return [Claim(**row | {"margin": float(row["margin"])}) for row in metadata.get(KEY, [])]


def unsettled(claim: Claim) -> str:
    """Why the verdict of a claim must not be recorded: too few seeds, or too near to a bound. Empty if it may."""
    if claim.mark == "○":
        return ""
    if claim.n and claim.n < SEEDS:
        return f"{claim.n} seeds; a verdict needs {SEEDS}"
    if claim.margin < HALF_WIDTHS:
        if not claim.n:
            return f"{claim.here} lies within a thousandth of its bound, {claim.bound}"
        need = math.ceil(claim.n * (HALF_WIDTHS / claim.margin) ** 2) if claim.margin > 0.2 else None
        remedy = f"some {need} seeds would settle it" if need else "more seeds will hardly settle it"
        return (
            f"{claim.here} lies {claim.margin:.1f} half-widths from its bound, {claim.bound}; "
            f"a verdict needs {HALF_WIDTHS:g}: {remedy}"
        )
    return ""


def _bound(claim: str, above: float, below: float, open: bool) -> str:
    """The bounds in words, or an error that names the claim."""
    for name, bound, missing in (("above", above, -math.inf), ("below", below, math.inf)):
        if bound != missing:
            require.number(f"{name} of {claim!r}", bound)
    above, below = float(above), float(below)
    if above >= below:
        raise ValueError(f"above must be less than below, got {above:g} and {below:g}: {claim!r}")
    if math.isinf(above) and math.isinf(below):
        if not open:
            raise ValueError(f"above or below must be given, or the claim could not fail: {claim!r}")
        return "–"
    if math.isinf(below):
        return f"> {above:g}"
    return f"< {below:g}" if math.isinf(above) else f"{above:g} to {below:g}"


def _numbered(slide: int | None) -> str:
    return "" if slide is None else str(slide)


def _short(margin: float) -> str:
    """The margin as text, since JSON has neither inf nor nan, to three digits, so that a recording can be read."""
    return f"{margin:.3g}"
