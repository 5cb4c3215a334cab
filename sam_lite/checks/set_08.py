"""Checks of exercise 8: bounce and drift."""

import numpy as np
import torch
from torch.func import grad

from . import Draw, expect, expect_error, part, unpack

DOUBLE = torch.float64


def tensor(values):
    return torch.as_tensor(values, dtype=DOUBLE)


def orbit(lr, rho, lam):
    """A of the two-cycle: -A = A - ηλ(A + ρ)."""
    return lr * lam * rho / (2 - lr * lam)


@part("Part 1", points=3)
def step(draw: Draw, step):
    n, lr, rho = draw.whole(2, 5), draw.number(0.05, 0.2), draw.number(0.1, 0.5)
    root, w = draw.normal(n, n, dtype=DOUBLE), draw.away(n, dtype=DOUBLE)
    H = root @ root.T / n + torch.eye(n, dtype=DOUBLE) / 2
    g = H @ w
    got, up = step(w, H, lr, rho), w + rho * g / g.norm()
    right = w - lr * H @ up
    mistakes = {
        "this is gradient descent: the climb is missing": w - lr * g,
        "the climb went along w: it must go along the gradient": w - lr * H @ (w + rho * w / w.norm()),
        "the climb is not normalized": w - lr * H @ (w + rho * g),
        "the climb went downhill": w - lr * H @ (w - rho * g / g.norm()),
        "the step was taken from the end of the climb: it starts at w": up - lr * H @ up,
        "the step went uphill": 2 * w - right,
        "this is the change of the weights: return the new weights": right - w,
        "this is a gradient step on the end of the climb with one more H": w - lr * H @ H @ up,
    }
    expect("one step", got, right, looks_like=mistakes)
    expect("without a radius: gradient descent", step(w, H, lr, 0.0), w - lr * g)
    zero = torch.zeros(n, dtype=DOUBLE)
    expect("exactly at the minimum", step(zero, H, lr, rho), zero)
    none = {"a small gradient was taken for none: there is no climb only where it is exactly zero": zero}
    for near in (1e-12, 1e-17):
        got = step(near * w, H, lr, rho)
        what = f"at {near:g} from it the climb is as long as ever"
        expect(what, got, -lr * rho * H @ (g / g.norm()), looks_like=none)


@part("Part 2", points=3)
def amplitude(draw: Draw, amplitude):
    for product in (draw.number(0.1, 0.5), draw.number(0.8, 1.2), draw.number(1.5, 1.9)):
        lr, rho = draw.number(0.05, 0.6), draw.number(0.01, 1.0)
        lam = product / lr
        A = orbit(lr, rho, lam)
        mistakes = {
            "this is the width of the orbit, from -A to +A": 2 * A,
            "this is the end of the climb, A + ρ": A + rho,
            "λ is missing in the numerator": A / lam,
            "η is missing in the numerator": A / lr,
            "the sign in the denominator is wrong: -A = A - ηλ(A + ρ)": lr * lam * rho / (2 + lr * lam),
            "you solved for a point that is mapped to itself, not to -A": -rho,
            "this is the first-order value, ηλρ/2": lr * lam * rho / 2,
            "the climb is not there: A is 0": 0.0,
        }
        try:
            got = amplitude(lr, rho, lam)
        except ValueError:
            raise AssertionError(
                f"for ηλ = {product:.3g} there is an orbit: SAM ends on it, and you raise ValueError."
            ) from None
        expect(f"the orbit for η = {lr:.3g}, ρ = {rho:.3g}, λ = {lam:.3g}", got, A, looks_like=mistakes)
    expect("close to ηλ = 2 it is wide", amplitude(1.999, 0.1, 1.0), 199.9)
    big = draw.number(2.05, 6)
    for lr, lam in [(big / 3, 3.0), (0.5, 4.0), (0.0, 3.0), (0.1, -2.0), (-0.1, 2.0)]:
        expect_error(
            f"η = {lr:.3g}, λ = {lam}: there is no orbit", lambda lr=lr, lam=lam: amplitude(lr, 0.1, lam), ValueError
        )


def factor(lr, lam, mu):
    return 1 - lr * mu - (2 - lr * lam) * (mu / lam) ** 2


@part("Part 3, the multiplier", points=3, rounds=5)
def multiplier(draw: Draw, multiplier):
    lr, lam = draw.number(0.05, 0.4), draw.number(1, 4.5)
    mu = lam * draw.number(0.2, 0.9) if draw.round % 2 else lam * draw.number(1.1, 2)
    m = factor(lr, lam, mu)
    mistakes = {
        "this is gradient descent: the climb counts, too": 1 - lr * mu,
        "one factor μ is missing: the gradient along the second axis is μδ, and so is the slope at the end": 1
        - lr * mu
        - (2 - lr * lam) * mu / lam**2,
        "you took A for the length of the gradient: it is λA": 1 - lr * mu - (2 - lr * lam) * mu**2 / lam,
        "λ and μ are exchanged": 1 - lr * lam - (2 - lr * mu) * (lam / mu) ** 2,
        "A is ηρλ/(2 - ηλ): was it put in upside down": 1 - lr * mu - (lr * mu) ** 2 / (2 - lr * lam),
    }
    if m < 0:
        mistakes["this is the absolute value: the sign tells whether δ changes sides"] = -m
    expect(f"η = {lr:.3g}, λ = {lam:.3g}, μ = {mu:.3g}", multiplier(lr, lam, mu), m, looks_like=mistakes)
    expect("a flat direction stays as it is", multiplier(lr, lam, 0.0), 1.0)
    expect("equal curvatures", multiplier(lr, lam, lam), -1.0)


@part("Part 3, the orbits that last", points=2, rounds=5)
def stable(draw: Draw, stable):
    n = draw.whole(3, 5)
    lams = (0.5 * 1.7 ** draw.rng.permutation(n) * draw.rng.uniform(0.9, 1.1, n)).tolist()
    sharp, top = max(lams), int(np.argmax(lams))
    lr = draw.number(0.4, 1.4) / sharp
    once = lambda lr, only=None: [  # noqa: E731
        lr * lam < 2 and all(abs(factor(lr, lam, mu)) < 1 - 1e-9 for j, mu in enumerate(lams) if j != i)
        for i, lam in enumerate(lams)
    ]
    right = once(lr)
    some = [any(abs(factor(lr, lam, mu)) < 1 for j, mu in enumerate(lams) if j != i) for i, lam in enumerate(lams)]
    mistakes = {
        "every orbit was compared with its own axis, too": [0] * n,
        "the orbits last that do not, and the other way round": [not r for r in right],
        "you asked only whether they exist: do they last": [1] * n,
    }
    if some != right:
        mistakes["one axis that decays was taken to be enough: all others must"] = some
    named = ", ".join(f"{lam:.3g}" for lam in lams)
    expect(f"the curvatures {named} at η = {lr:.3g}", stable(lams, lr), right, looks_like=mistakes)
    second = sorted(lams)[-2]
    between = (2 / sharp + min(2 / second, 4 / sharp)) / 2  # too large for the sharpest alone
    accepted = [i == top for i in range(n)]
    left_out = [lam == second for lam in lams]
    mistakes = {
        "an orbit was accepted that does not exist, with ηλ ≥ 2": accepted,
        "the sharpest axis was left out: it pushes SAM off every other orbit": left_out,
    }
    got = stable(lams, between)
    expect("too large a learning rate for the sharpest", got, once(between), looks_like=mistakes)
    c = draw.number(1, 3)
    twins = {"m = -1 was taken for decay": [1, 1, 0]}
    what = "two equal curvatures: SAM can turn from one axis to the other"
    expect(what, stable([c, c, c / 2], 0.4 / c), [0, 0, 0], looks_like=twins)
    expect("a single axis", stable([c], 0.4 / c), [1])
    expect("nearly equal ones", stable([c, 1.0005 * c], 0.4 / c), [0, 1])


@part("Part 4", points=3)
def bounce(draw: Draw, bounce):
    names = ("the alternation rate", "the share along v")
    n = draw.whole(60, 140)
    moves = draw.rng.choice([-0.5, -0.25, 0.25, 0.5, 0.75], n)
    moves[2:8] = 0.5, 0.0, 0.5, -0.25, 0.0, -0.25  # a move of zero between two on either side
    x = tensor(5 + np.r_[0, np.cumsum(moves)])
    side = 0.25 * torch.arange(n + 1, dtype=DOUBLE)
    path = torch.stack([x, side, torch.zeros_like(x)], 1)
    v = tensor([-draw.number(1.5, 3), 0.0, 0.0])
    rate, share = unpack(bounce(path, v), *names)
    products = moves[1:] * moves[:-1]
    flips, squares, rest = int((products < 0).sum()), float((moves**2).sum()), n / 16
    mistakes = {
        "you took the signs of the weights, not of the moves": 0.0,
        "you divided by T: a path of T points has T - 2 pairs of moves": flips / (n + 1),
        "you divided by the number of moves: there is one pair less": flips / n,
        "products of zero were counted: a move of zero has no sign": (flips + int((products == 0).sum())) / (n - 1),
        "a move of zero was taken for one with a sign: it has none": (flips + 2) / (n - 1),
        "this is the number of changes: divide by the number of pairs": flips,
    }
    expect("the alternation rate", rate, flips / (n - 1), looks_like=mistakes)
    mistakes = {
        "the length of v was not divided out": float(v[0]) ** 2 * squares / (squares + rest),
        "the components were not squared": moves.sum() / (squares + rest),
        "this is the root: squares over squares": (squares / (squares + rest)) ** 0.5,
        "this is the share of the weights, not of the moves": (x**2).sum() / (path**2).sum(),
        "the lengths of the moves must be squared, and then added": squares / np.sqrt(moves**2 + 1 / 16).sum() ** 2,
    }
    expect("the share along v", share, squares / (squares + rest), looks_like=mistakes)
    base, tilted = draw.normal(3, dtype=DOUBLE), draw.normal(3, dtype=DOUBLE)
    tilted = tilted / tilted.norm()
    zigzag = base + torch.outer(tensor([0.1, -0.1] * 5), tilted)
    expect("a pure bounce about a point that is not zero", bounce(zigzag, tilted), (1.0, 1.0))
    slide = base + torch.outer(torch.arange(9, dtype=DOUBLE), tilted)
    expect("a slide", bounce(slide, tilted), (0.0, 1.0))
    expect("three points", bounce(zigzag[:3], 10 * tilted), (1.0, 1.0))


@part("Part 5, the drift", points=2, rounds=5)
def drift(draw: Draw, drift):
    lr, lam, slope, rho = draw.number(0.02, 0.5), draw.number(1, 3), float(draw.away(dtype=DOUBLE)), 1e-4
    ravine = lambda x: (lam + slope * x[0]) * x[1] ** 2 / 2  # h(z) w² / 2 at z = 0  # noqa: E731
    A = orbit(lr, rho, lam)
    at = tensor([0.0, A])
    g = grad(ravine)(at)
    right = -lr * grad(ravine)(at + rho * g / g.norm())[0]  # one step, in numbers
    leading = -lr * rho**2 / 2 * slope
    mistakes = {
        "this is the leading term alone: the climb begins at A, not on the floor, and that gives a factor with ηλ in it": leading,
        "the climb was not squared, only ρ": leading / (1 - lr * lam / 2),
        "the gradient was taken at A, not at the end of the climb": -lr * slope * A**2 / 2,
        "the factor 1/2 of the loss was forgotten": 2 * right,
        "the sign is wrong: the drift leads to smaller curvature": -right,
        "this is a gradient, not a step: multiply by -η": -right / lr,
    }
    got = drift(lr, rho, lam, slope)
    expect(f"η = {lr:.3g}, λ = {lam:.3g}, h′ = {slope:.3g}", got, right, looks_like=mistakes, tolerance=1e-4)
    expect("curvature that does not change", drift(lr, 0.1, lam, 0.0), 0.0)
    expect("twice the radius, four times the drift", drift(lr, 2 * rho, lam, slope), 4 * right, tolerance=1e-3)


@part("Part 5, the move", points=3)
def move(draw: Draw, move):
    a, b, lr, rho = draw.number(0.6, 1.5), draw.number(1.5, 2.5), draw.number(0.05, 0.3), draw.number(0.2, 0.6)
    crooked = lambda x: a * x[0] ** 3 + b * x[0] * x[1] + x[1] ** 2  # noqa: E731
    slope_of = lambda x: torch.stack([3 * a * x[0] ** 2 + b * x[1], b * x[0] + 2 * x[1]])  # by hand  # noqa: E731
    hessian_at = lambda x: tensor([[6 * a * float(x[0]), b], [b, 2.0]])  # noqa: E731
    x = draw.away(2, dtype=DOUBLE)
    g, H = slope_of(x), hessian_at(x)
    complete, shortened = move(crooked, x, lr, rho), move(crooked, x, lr, rho, cut=True)
    u = g / g.norm()
    up = x + rho * u
    full, short = -lr * slope_of(up), -lr * (g + rho * H @ u)
    mistakes = {
        "the climb is missing": -lr * g,
        "this is a gradient, not a move: multiply by -η": full / -lr,
        "the sign is wrong: SAM descends": -full,
        "this is where it moves to: return the change": x + full,
        "this is the cut move": short,
        "the climb is not normalized": -lr * slope_of(x + rho * g),
    }
    expect("a complete move", complete, full, looks_like=mistakes)
    mistakes = {
        "this is the complete move": full,
        "the gradient itself is missing": -lr * rho * H @ u,
        "ρ is missing": -lr * (g + H @ u),
        "u does not have length 1": -lr * (g + rho * H @ g),
        "the sign of the second term is wrong": -lr * (g - rho * H @ u),
        "this is a gradient, not a move: multiply by -η": short / -lr,
        "the sign is wrong: SAM descends": -short,
        "the Hessian was taken at the end of the climb: take it at x": -lr * (g + rho * hessian_at(up) @ u),
    }
    expect("a cut move", shortened, short, looks_like=mistakes)
    curvatures, at = tensor(draw.rng.uniform(0.2, 3, 3)), draw.away(3, dtype=DOUBLE)
    bowl = lambda x: (curvatures * x**2).sum() / 2  # noqa: E731
    slope = curvatures * at
    right = -lr * curvatures * (at + rho * slope / slope.norm())
    for cut in (False, True):
        expect(f"on a quadratic nothing is cut off, cut={cut}", move(bowl, at, lr, rho, cut=cut), right)
        zero = torch.zeros(3, dtype=DOUBLE)
        expect(f"at a minimum, cut={cut}", move(bowl, zero, lr, rho, cut=cut), zero)
        none = {"a small gradient was taken for none: there is no climb only where it is exactly zero": zero}
        near = -lr * curvatures * (1e-5 * at + rho * slope / slope.norm())
        what = f"10⁻⁵ beside a minimum the climb is as long as ever, cut={cut}"
        expect(what, move(bowl, 1e-5 * at, lr, rho, cut=cut), near, looks_like=none)


@part("Part 6", points=3, rounds=4)
def edge(draw: Draw, edge):
    lr, rho, size = draw.number(0.05, 0.5), draw.number(0.2, 1.0), draw.number(0.5, 3)
    root = (1 + 8 * rho / (lr * size)) ** 0.5  # of ηρλ²/‖g‖ + ηλ - 2 = 0
    scale = size / (2 * rho)
    right = scale * (root - 1)
    mistakes = {
        "this is the edge of gradient descent: ρ makes it smaller": 2 / lr,
        "the other root of the quadratic equation, or a sign in it: λ must be positive": -scale * (root + 1),
        "the signs in the formula of the roots are mixed up": scale * (root + 1),
        "‖g‖ is missing: this is the edge without normalization": ((1 + 8 * rho / lr) ** 0.5 - 1) / (2 * rho),
        "this is its limit for a small gradient": (2 * size / (lr * rho)) ** 0.5,
        "you set the factor to 0: it must be -1": scale * ((1 + 4 * rho / (lr * size)) ** 0.5 - 1),
    }
    expect(f"η = {lr:.3g}, ρ = {rho:.3g}, ‖g‖ = {size:.3g}", edge(lr, rho, size), right, looks_like=mistakes)
    expect("ρ = 0: gradient descent", edge(lr, 0.0, size), 2 / lr)
    expect("ρ = 10⁻¹⁵", edge(lr, 1e-15, size), 2 / lr)
    root = (1 + 8e-6 / (lr * size)) ** 0.5
    none = {"a small ρ was taken for none": 2 / lr}
    expect("ρ = 10⁻⁶", edge(lr, 1e-6, size), 4 / (lr * (1 + root)), looks_like=none, tolerance=1e-7)
    tiny = draw.number(1e-5, 1e-3)
    lam = float(edge(lr, rho, tiny))
    expect(f"the factor at your edge, ‖g‖ = {tiny:.3g}", 1 - lr * lam * (1 + rho * lam / tiny), -1.0)
    lam = draw.number(0.3, 1.5) / lr
    expect("on its orbit SAM is exactly at its edge", edge(lr, rho, lam * orbit(lr, rho, lam)), lam)
