"""A claim, the paper's figure, ours, and the verdict.

CI guards the verdicts: a recorded notebook holds the printed line, and when the notebook runs again every word of it
is compared, but for the measured figure after the sign ≈, whose digits may differ between machines.
"""

import math
import os
from collections.abc import Iterable

SEED_SET = "SAM_LITE_SEED_SET"  # environment variable: the number of the set of seeds, 0 if absent

LEDGER: list[tuple[str, bool]] = []  # claims checked in this process, in order, with their verdicts

# two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom; the last serves for more
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def seed_set() -> int:
    """The number of the set of seeds in use; also the seed of what a notebook draws once, such as its data."""
    return int(os.environ.get(SEED_SET, "0"))


def seeds(n: int) -> list[int]:
    """`n` seeds, disjoint between sets, so that a verdict can be tried on seeds that it was not found with."""
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    return [1000 * seed_set() + i for i in range(n)]


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half-width of its 95% confidence interval (Student's t) over independent values, one per seed.

    The half-width of a single value is 0.
    """
    values = [float(v) for v in values]
    if not values:
        raise ValueError("values must hold at least one number, got none")
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, 0.0
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, T95[min(n - 1, len(T95)) - 1] * math.sqrt(variance / n)


def figure(value: float, digits: int = 2) -> str:
    """A number with `digits` significant digits, without exponent where that is readable: 0.0012, 46, 310."""
    value = float(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    scientific = f"{value:.{digits - 1}e}"
    places = digits - 1 - int(scientific.split("e")[1])  # after rounding: 9.96 has two digits before the point
    return f"{float(scientific):.{max(places, 0)}f}" if -6 < places < 7 else scientific


def estimate(values: Iterable[float], unit: str = "") -> str:
    """The mean and its 95% interval in print, ≈ 47.3 ± 0.8: the interval to one significant digit, the mean to the same
    place, but with two to four digits; no ± for one value.
    """
    values = list(values)
    mean, half = interval(values)
    digits, spread = 2, ""
    if len(values) > 1:
        spread = f" ± {figure(half, 1)}"
        if mean and half and math.isfinite(mean) and math.isfinite(half):
            digits = min(max(2, 1 + _exponent(mean, 4) - _exponent(half, 1)), 4)
    return f"≈ {figure(mean, digits)}{spread}{unit and ' ' + unit}"


def _exponent(value: float, digits: int) -> int:
    """Power of ten of the first digit of a number, once it is rounded to `digits` digits."""
    return int(f"{value:.{digits - 1}e}".split("e")[1])


def check(
    claim: str,
    *,
    values: Iterable[float],
    above: float = -math.inf,
    below: float = math.inf,
    paper: str = "–",
    unit: str = "",
    slide: int | None = None,
) -> None:
    """Print one line with the claim, the paper's figure, ours and the verdict, and keep the verdict in `LEDGER`.

    values: one number per seed. The claim holds (✓) if the 95% interval of their mean lies above `above` and below
    `below`; a value that is not finite fails it (✗). Ours is the mean ± the half-width of the interval.
    paper: its figure, with unit. unit: of ours. slide: number of the slide that makes the claim.
    """
    values = [float(v) for v in values]
    if above == -math.inf and below == math.inf:
        raise ValueError(f"above or below must be given, or the claim could not fail: {claim!r}")
    mean, half = interval(values)
    holds = mean - half > above and mean + half < below
    count = f"{len(values)} seeds" if len(values) > 1 else "1 run"
    _line(holds, claim, paper, estimate(values, unit), count, slide)


def check_exact(
    claim: str, *, value: float, expected: float, tolerance: float = 1e-8, paper: str = "–", slide: int | None = None
) -> None:
    """The same for a number that theory gives: it holds if |value - expected| <= tolerance max(1, |expected|).

    Ours is printed with four decimals and compared by CI: for float64 arithmetic without random numbers.
    """
    holds = abs(float(value) - float(expected)) <= tolerance * max(1.0, abs(float(expected)))
    _line(holds, claim, paper, f"= {float(value):.4f}", "exact", slide)


def summary() -> None:
    """Print how many of the claims checked so far in this process hold, and which do not."""
    failed = [claim for claim, holds in LEDGER if not holds]
    print(f"{len(LEDGER)} claims measured, {len(LEDGER) - len(failed)} hold" + (", these do not:" if failed else "."))
    for claim in failed:
        print(f"  – {claim}")


def _line(holds: bool, claim: str, paper: str, ours: str, count: str, slide: int | None) -> None:
    if " | " in f"{claim} {paper} {ours}":
        raise ValueError(f"claim, paper and unit must not hold ' | ', which parts them in print, got {claim!r}")
    LEDGER.append((claim, holds))
    parts = [f"{'✓' if holds else '✗'} {claim}", f"paper: {paper}", f"ours {ours}", count]
    print(" | ".join(parts + ([f"slide {slide}"] if slide else [])))
