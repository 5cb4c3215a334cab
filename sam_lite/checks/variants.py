"""Numbers of a student's own: each set asks everybody the same, with numbers that are drawn from a name.

`own_numbers("05_sam", NAME)` in a notebook prints the numbers. `drawn` gives the result as well, for the page on which
written answers are marked. The results stand here for everybody to read: they are a hint against copying, and no secret.
"""

import functools
import hashlib
import itertools
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

LONGEST = 1000  # characters of a name


class Own(NamedTuple):
    """A question with its numbers. values: the results in `right`, in their order."""

    asked: str
    right: str
    values: tuple


def own_numbers(exercise: str, name: str) -> None:
    """Print the numbers that belong to a name, or ask for one."""
    own = drawn(exercise, name)
    print(
        own.asked if own else 'Write your name between the quotation marks, as in NAME = "Ada Lovelace", and run again.'
    )


def drawn(exercise: str, name: str) -> Own | None:
    """The question of a set for a name, or None if it is no text or has neither letter nor digit.

    The same name gives the same numbers on every machine, whatever its accents, capitals, and order of words.
    """
    if exercise not in QUESTIONS:
        raise ValueError(f"exercise must be one of {', '.join(QUESTIONS)}, got {exercise!r}")
    if not words(name):
        return None
    digest = hashlib.blake2b(" ".join([exercise, *words(name)]).encode(), digest_size=16).digest()
    choices = all_of(exercise)
    return choices[int.from_bytes(digest, "big") % len(choices)]


def words(name: str) -> list[str]:
    """The words of a name, sorted, without accents, signs and capitals: "Lovelace, ADA" is "Ada Lovelace"."""
    if not isinstance(name, str):
        return []
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name[:LONGEST]).casefold())
    return sorted(re.findall(r"[^\W_]+", "".join(one for one in plain if not unicodedata.combining(one))))


@functools.cache
def all_of(exercise: str) -> list[Own]:
    """All that a set may ask: every combination of its numbers but those for which its function returns None."""
    make, *options = QUESTIONS[exercise]
    return [own for own in itertools.starmap(make, itertools.product(*options)) if own]


# ---------------------------------------------------------------- the questions


def two_valleys(steep, wide, along, across):
    """½ tr(HC) of a sharp valley and of a flat one, where the shift is not equally long in all directions."""
    costs = [(steep * along + 2 * across) / 200, (2 * along + wide * across) / 200]
    if costs[0] == costs[1]:
        return None
    v, w = along / 100, across / 100
    asked = (
        f"The shift has the mean zero. Along the first axis its variance is {v:g}, along the second {w:g}, and the two\n"
        f"are independent. The sharp valley has the curvatures {steep} and 2 along these axes, the flat one 2 and {wide}."
    )
    right = (
        f"½ ({steep} · {v:g} + 2 · {w:g}) = {costs[0]:g} in the sharp valley, ½ (2 · {v:g} + {wide} · {w:g}) = "
        f"{costs[1]:g} in the flat one: the {'sharp' if costs[0] > costs[1] else 'flat'} one costs more"
    )
    return Own(asked, right, tuple(costs))


def thrown_out(steep, rate, small, large):
    """What a batch that holds the one steep example sees, 1/B of its curvature, and the factor 1 - ηλ of its step."""
    seen = [steep / small, steep / large]
    factors = [round(1 - rate * one, 9) for one in seen]
    if -1 in factors:
        return None
    asked = (
        f"One of 1,000 examples finds a direction steep, with the curvature {steep:,}. All others find it flat.\n"
        f"The learning rate is {rate:g}. Compare batches of {small} and of {large} examples that hold this one."
    )
    ends = ["thrown out" if factor < -1 else "not thrown out" for factor in factors]
    right = f"2/η = {2 / rate:g}; " + "; ".join(
        f"a batch of {size} sees {one:g}, factor {factor:g}: {end}"
        for size, one, factor, end in zip((small, large), seen, factors, ends, strict=True)
    )
    return Own(asked, right, (*seen, *factors))


def larger_batch(batch, k, rate, updates, epochs):
    """The updates at equal epochs with k times the batch, and the rates of both rules. updates: of a new epoch."""
    root = rate * round(k**0.5)
    asked = (
        f"You have {batch * k * updates:,} examples. You trained with batches of {batch} and the learning rate {rate:g} "
        f"for {epochs} epochs.\nNow you train with batches of {batch * k}, for as many epochs."
    )
    right = (
        f"k = {k}: {epochs * updates:,} updates instead of {epochs * updates * k:,}; the square-root rule gives "
        f"{root:g} and keeps η²/B, the noise of one step; the linear rule gives {rate * k:g} and keeps η/B, the noise "
        "over a distance"
    )
    return Own(asked, right, (epochs * updates, epochs * updates * k, root, rate * k))


def four_networks(measure, gap):
    """τ and Ψ of networks of two widths and two rates, where the two are not equal."""
    pairs = itertools.combinations(zip(measure, gap, strict=True), 2)
    signs = [1 if (m - n) * (g - h) > 0 else -1 for (m, g), (n, h) in pairs]
    tau, rate, width = Fraction(sum(signs), 6), Fraction(signs[0] + signs[5], 2), Fraction(signs[1] + signs[4], 2)
    psi = (rate + width) / 2
    if tau == psi:
        return None
    named = ["narrow, small rate", "narrow, large rate", "wide, small rate", "wide, large rate"]
    rows = [f"{name}: measure {m}, gap {g}" for name, m, g in zip(named, measure, gap, strict=True)]
    right = (
        f"{signs.count(1)} of 6 pairs agree, τ = {tau}; ψ = {rate} along the rate, {width} along the width, Ψ = {psi}"
    )
    return Own("\n".join(["Four networks:", *rows]), right, (tau, rate, width, psi))


def ascents(parts, gpus):
    """How many different ε accumulation on several GPUs may use."""
    asked = f"You accumulate the gradients of {parts} micro-batches on each of {gpus} GPUs."
    right = (
        f"1 (all together), {gpus} (each GPU by itself), {parts} (each micro-batch, averaged over the GPUs) or "
        f"{parts * gpus} (each micro-batch of each GPU)"
    )
    return Own(asked, right, (1, gpus, parts, parts * gpus))


def equal_gradients(every, times):
    """The epochs of SGD that cost as much as SAM, where SAM climbs in every k-th step. times: its epochs, over k."""
    epochs = every * times
    asked = f"SAM trains for {epochs} epochs, and climbs only in one step of {every}."
    right = f"{epochs} · (1 + 1/{every}) = {epochs + times} epochs of SGD; with a climb in every step, {2 * epochs}"
    return Own(asked, right, (epochs + times, 2 * epochs))


def three_rises(first, second, third, zeros, rho):
    """ρ²/2 times the largest eigenvalue, the smallest that is not zero, and the mean of all."""
    eigenvalues, half = [first, second, third] + [0] * zeros, rho**2 / 2
    if sum(eigenvalues) % len(eigenvalues):
        return None
    mean = sum(eigenvalues) // len(eigenvalues)
    listed = f"{', '.join(map(str, eigenvalues[:-1]))} and 0"
    asked = f"At a minimum the Hessian has the eigenvalues {listed}, and ρ = {rho:g}."
    rises = [half * first, half * third, half * mean]
    right = (
        f"ρ²/2 = {half:g}, times {first}, {third} and {mean}: worst {rises[0]:g}, least along a gradient {rises[1]:g}, "
        f"average {rises[2]:g}"
    )
    return Own(asked, right, tuple(rises))


def last_bounce(sharp, share, product, rho, axis):
    """The two points between which SAM jumps in the end. product: ηλ of the sharper axis; share: of the other's λ."""
    curvatures = [sharp, sharp * share] if axis == 1 else [sharp * share, sharp]
    amplitude = rho * product / (2 - product)
    asked = (
        f"The loss is ½ ({curvatures[0]:g} w₁² + {curvatures[1]:g} w₂²). SAM has the learning rate η = {product / sharp:g} "
        f"and ρ = {rho:g}."
    )
    ends = [f"({one:g}, 0)" if axis == 1 else f"(0, {one:g})" for one in (amplitude, -amplitude)]
    right = (
        f"ηλ = {product:g} on axis {axis}, the sharper one, so A = {product:g} · {rho:g} / {2 - product:g} = {amplitude:g}: "
        f"SAM jumps between {ends[0]} and {ends[1]}; gradient descent goes to (0, 0), since ηλ < 2"
    )
    return Own(asked, right, (amplitude,))


# set -> its question, and the values of each of its numbers. Who changes one gives everybody other numbers.
QUESTIONS = {
    "01_flat_minima": (two_valleys, (20, 30, 40, 50), (4, 6, 8, 10), (1, 2, 3), (10, 15, 20)),
    "02_keskar": (thrown_out, (320, 480, 640, 960, 1280), (0.02, 0.1, 0.2), (4, 8, 16), (32, 64)),
    "03_hoffer": (larger_batch, (5, 10, 20), (4, 9, 16, 25), (0.01, 0.02, 0.05), (4, 10), (10, 20, 30)),
    "04_jiang": (four_networks, [*itertools.permutations((1, 2, 3, 4))], [*itertools.permutations((46, 48, 51, 55))]),
    "05_sam": (ascents, (3, 5, 6, 7, 9, 10, 11, 12, 14, 15), (2, 4, 8, 16)),
    "06_sam_results": (equal_gradients, (2, 3, 4, 5, 6, 8, 10), range(3, 13)),
    "07_three_sharpnesses": (three_rises, range(9, 25), (3, 4, 5, 6, 8), (1, 2), (1, 2), (0.1, 0.2)),
    "08_bouncing": (
        last_bounce,
        (2, 4, 5, 10, 20),
        (0.2, 0.5),
        (0.4, 1.0, 1.2, 1.5, 1.6),
        (0.02, 0.04, 0.1, 0.2),
        (1, 2),
    ),
}
