"""Checks of exercise 2: sharpness as Keskar et al. measured it, and the Hessian."""

import itertools
import math

import numpy as np
import pandas as pd
import torch
from torch.func import functional_call, grad

from ..models import mlp
from ..params import from_vector, to_vector
from . import Draw, expect, part

DOUBLE = torch.float64


def each(change, *dicts):
    return {name: change(*(one[name] for one in dicts)) for name in dicts[0]}


@part("Part 1", points=2, rounds=4)
def line_between(draw: Draw, line_between):
    shapes, factor = {"w": (draw.whole(2, 4),), "b": ()}, draw.number(1, 3)
    one, two = ({name: draw.away(*shape) for name, shape in shapes.items()} for _ in range(2))
    steps = [-1.0, 0.0, *draw.rng.uniform(0.1, 0.9, draw.whole(1, 3)).tolist(), 1.0, 2.0]
    loss = lambda p: factor * (p["w"] ** 2).sum() + p["b"] ** 4  # noqa: E731
    got = line_between(loss, one, two, steps)
    along = lambda move, only=None: [  # noqa: E731
        float(loss({name: move(a, one[name], two[name]) if only in (None, name) else one[name] for name in one}))
        for a in steps
    ]
    right = lambda a, x, y: (1 - a) * x + a * y  # noqa: E731
    mistakes = {
        "the ends are swapped: α = 0 is the small batch": along(lambda a, x, y: a * x + (1 - a) * y),
        "the solutions must be mixed, not added: the factors sum to 1": along(lambda a, x, y: x + a * y),
        "this leads the other way from the first solution": along(lambda a, x, y: x - a * (y - x)),
        "the losses were mixed, not the weights": [right(a, float(loss(one)), float(loss(two))) for a in steps],
        "only w was mixed: all tensors move together": along(right, "w"),
        "only one of the tensors was mixed: all move together": along(right, "b"),
    }
    expect("the losses on the line", got, along(right), looks_like=mistakes, tolerance=draw.tolerance)


def _valley(draw: Draw, n: int, *, mixed: float):
    """(loss, params, H, base): a parabola with its minimum at params, where it is `base`."""
    H = torch.diag(torch.from_numpy(draw.rng.uniform(3, 6, n)))
    off = mixed * draw.away(n, n, dtype=DOUBLE, low=0.3, high=1.0)
    H = H + off.triu(1) + off.triu(1).T
    x = {
        "a": draw.away(1, n - 1, dtype=DOUBLE, low=0.5, high=3),
        "b": -draw.away(1, dtype=DOUBLE, low=0.5, high=3).abs(),
    }
    x["a"][0, 0] = 0.0
    centre, base = to_vector(x).clone(), draw.number(0.3, 1.0)

    def valley(p):
        d = to_vector(p) - centre
        return d @ H @ d / 2 + base

    return valley, x, H, base


def _corners(n):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=n)), dtype=DOUBLE)


def _phis(highest, half, x, radius, base):
    """mistake -> value, for a metric whose rise is highest(half-widths of the box)."""
    rise = highest(half)
    return {
        "the factor 100 is missing": rise / (1 + base),
        "the rise is relative to 1 + f(x), not to f(x)": 100 * rise / base,
        "the rise was not divided by 1 + f(x)": 100 * rise,
        "this is the highest loss, not the rise": 100 * (rise + base) / (1 + base),
        "the box grows with the weights: |x_i| + 1": 100 * highest(torch.full_like(half, radius)) / (1 + base),
        "the 1 in |x_i| + 1 is missing: a weight of 0 could not move": 100 * highest(radius * x.abs()) / (1 + base),
        "the absolute value in |x_i| + 1 is missing": 100 * highest(radius * (x + 1)) / (1 + base),
    }


@part("Part 2, all corners", points=3)
def at_corners(draw: Draw, at_corners):
    n, radius = draw.whole(3, 5), draw.number(0.05, 0.2)
    loss, params, H, base = _valley(draw, n, mixed=2.0)
    got, x, a = at_corners(loss, params, radius), to_vector(params), params["a"].clone()
    half, signs = radius * (x.abs() + 1), _corners(n)
    rises = lambda half: ((signs * half) @ H * (signs * half)).sum(1) / 2  # noqa: E731
    highest = lambda half: rises(half).max()  # noqa: E731
    mistakes = _phis(highest, half, x, radius, base) | {
        "only one corner was tried: that with all signs plus": 100 * rises(half)[-1] / (1 + base),
        "the corners were averaged: take the highest": 100 * rises(half).mean() / (1 + base),
    }
    expect("φ of a valley", got, 100 * highest(half) / (1 + base), looks_like=mistakes)
    c = draw.number(1, 2)
    rise, there = c * half[:-1].sum() + half[-1], c * x[:-1].sum() - x[-1]
    for way in (1, -1):
        slope = at_corners(lambda p, way=way: way * (c * p["a"].sum() - p["b"].sum()) + 25, params, radius)
        expect("on a slope one corner is enough, any of them", slope, 100 * rise / (26 + way * there))
    inner = half[:-1].square().sum()
    summit = at_corners(lambda p: 2 - ((p["a"] - a) ** 2).sum(), params, radius)
    expect(
        "on a summit the centre is the highest",
        summit,
        0.0,
        looks_like={"the centre belongs to the box": -100 * inner / 3},
    )


def _climbed(H, half, base, begin, steps, *, stride=0.25, uphill=1, box=1.0, sign=np.sign, every=True):
    """φ of the climb in a bowl, by hand."""
    H, half, u = H.numpy(), half.numpy(), begin.numpy().copy()
    seen = [0.0]
    for _ in range(steps + 1):
        seen.append(half * u @ H @ (half * u) / 2)
        u = np.clip(u + uphill * stride * sign(H @ (half * u)), -box, box)
    return 100 * (max(seen) if every else seen[-1]) / (1 + base)


@part("Part 2, the search", points=3)
def by_search(draw: Draw, by_search):
    n, radius = draw.whole(3, 5), draw.number(0.05, 0.2)
    loss, params, H, base = _valley(draw, n, mixed=0.2)
    start, half = draw.away(n, dtype=DOUBLE, low=0.1, high=0.4), radius * (to_vector(params).abs() + 1)
    climb = lambda steps, half=half, **how: _climbed(H, half, base, start, steps, **how)  # noqa: E731
    got, two, none = (by_search(loss, params, radius, start, steps) for steps in (8, 2, 0))
    right = climb(8)
    mistakes = {
        "the climb leaves the box: clip u to [-1, 1]": climb(8, box=9.0),
        "u was brought to length 1: that is a ball; the box clips every entry": lambda: _in_ball(
            H, half, base, start, 8
        ),
        "the climb leads nowhere: it goes downhill, or with the gradient at x instead of where you are": climb(
            8, uphill=-1
        ),
        "the search began in the centre: begin at start": 0.0,
        "the sign is missing: these are steps of the length of the gradient": climb(8, sign=lambda g: g),
        "the box must grow with the weights: |x_i| + 1": climb(8, half=torch.full_like(half, radius)),
        "the factor 100 is missing": right / 100,
        "the rise was not divided by 1 + f(x)": right * (1 + base),
        "this is the highest loss, not the rise": right + 100 * base / (1 + base),
    }
    expect("φ of a bowl after 8 steps", got, right, looks_like=mistakes)
    mistakes = {
        "the loss after the last step is missing": climb(1),
        "this is one step too many": climb(3),
        "only the start and the centre were seen": climb(0),
        "the stride is not used: one stride of 1 is too long": climb(2, stride=1.0),
    }
    expect("φ after 2 steps, on the way", two, climb(2), looks_like=mistakes)
    expect("without a step only the start and the centre count", none, climb(0))
    other = by_search(loss, params, radius, start, 3, stride=0.1)
    expect(
        "φ after 3 steps with a stride of 0.1",
        other,
        climb(3, stride=0.1),
        looks_like={"the stride is not used": climb(3)},
    )

    speed = draw.number(5.6, 6.4)
    wave = lambda p: 1 - torch.cos(speed * p["w"] / radius).sum()  # its summit is near u = 1/2  # noqa: E731
    origin = {"w": torch.zeros(1, dtype=DOUBLE)}
    tops = [100 * (1 - math.cos(speed * u)) for u in (0.1, 0.35, 0.6, 0.35)]
    crossed = by_search(wave, origin, radius, torch.tensor([0.1], dtype=DOUBLE), 3)
    end = {"this is where the climb ended: keep the highest loss on the way": tops[-1]}
    expect("φ where the climb crosses a summit", crossed, max(tops), looks_like=end)
    ridge = lambda p: 1 - torch.cos(speed * p["w"][0] / radius) + 0.3 * p["w"][1] / radius  # noqa: E731
    begin, plane = torch.tensor([0.1, -0.5], dtype=DOUBLE), {"w": torch.zeros(2, dtype=DOUBLE)}
    highs = [
        100 * (1 - math.cos(speed * u) + 0.3 * v) for u, v in ((0.35, -0.25), (0.6, 0.0), (0.35, 0.25), (0.6, 0.5))
    ]
    fell = {"the climb ended where the loss fell: go on, all `steps`": max(highs[:3])}
    crossed = by_search(ridge, plane, radius, begin, 4)
    expect("φ where the loss falls on the way, and rises again", crossed, max(highs), looks_like=fell)
    pull, lift, flat = draw.number(0.5, 1.0), draw.number(1.5, 2.0), {"w": torch.zeros(2, dtype=DOUBLE)}

    def bend(p):  # u₀ rises to the wall, and falls once u₁ is above 0.1
        u = p["w"] / radius
        return 1 + pull * u[0] * (0.1 - u[1]) + lift * u[1]

    back = by_search(bend, flat, radius, torch.tensor([0.9, -0.5], dtype=DOUBLE), 8)
    phi = lambda u: 50 * (lift - 0.9 * pull * u)  # at (u, 1); the loss of the centre is 1  # noqa: E731
    beyond = {"u itself must be clipped in every step, not only the point at which the loss is taken": phi(0.4)}
    expect("φ where the climb leaves a wall of the box again", back, phi(-0.25), looks_like=beyond)
    lower = {"the centre was left out: it is higher than the start here": -100 * (half * start).square().sum() / 3}
    summit = by_search(lambda p: 2 - (to_vector(p) - to_vector(params)).square().sum(), params, radius, start, 0)
    expect("on a summit the centre is the highest", summit, 0.0, looks_like=lower)
    trapped = by_search(loss, params, radius, torch.zeros(n, dtype=DOUBLE), 8)
    expect("from u = 0 at a minimum: no gradient, no climb", trapped, 0.0)


def _in_ball(H, half, base, begin, steps):
    u, seen = begin.clone(), [0.0]
    for _ in range(steps + 1):
        seen.append(float((half * u) @ H @ (half * u)) / 2)
        u = u + 0.25 * (H @ (half * u)).sign()
        u = u / max(1.0, float(u.norm()))
    return 100 * max(seen) / (1 + base)


@part("Part 3", points=3)
def in_subspace(draw: Draw, in_subspace):
    n, p, radius = draw.whole(4, 6), draw.whole(2, 3), draw.number(0.1, 0.3)
    x = {"a": draw.away(2, n // 2, dtype=DOUBLE), "b": draw.away(n - 2 * (n // 2) + 1, dtype=DOUBLE)}
    kept = to_vector(x).clone()
    n = len(kept)
    A = draw.normal(n, p, dtype=DOUBLE) + 0.3
    curvatures, tilt = torch.from_numpy(draw.rng.uniform(1, 5, n)), draw.normal(n, dtype=DOUBLE)
    base = draw.number(0.3, 1.0)

    def trough(q):
        d = to_vector(q) - kept
        return (curvatures * d**2).sum() / 2 + d @ tilt + base

    got = in_subspace(trough, x, A, radius)

    def rise_in(half, directions=A, signs=None):
        moves = (_corners(len(half)) if signs is None else signs) * half @ directions.T
        return 100 * max(0.0, float(((curvatures * moves**2).sum(1) / 2 + moves @ tilt).max())) / (1 + base)

    nearest = torch.linalg.solve(A.T @ A, A.T @ kept)  # the normal equations of A y = x
    sides, basis = radius * (nearest.abs() + 1), torch.linalg.qr(A)[0]
    right = rise_in(sides)
    mistakes = {
        "the transpose is not the pseudo-inverse": rise_in(radius * ((A.T @ kept).abs() + 1)),
        "the 1 in |A⁺x| + 1 is missing": rise_in(radius * nearest.abs()),
        "all sides were taken as equal: they grow with |A⁺x|": rise_in(torch.full_like(sides, radius)),
        "the absolute value in |A⁺x| + 1 is missing": rise_in(radius * (nearest + 1)),
        "the rise is relative to 1 + f(x)": right * (1 + base),
        "the rise is relative to 1 + f(x), not to f(x)": right * (1 + base) / base,
        "the factor 100 is missing": right / 100,
        "the columns were made orthonormal: A must stay as it is": rise_in(
            radius * ((basis.T @ kept).abs() + 1), basis
        ),
        "only one corner was tried: that with all signs plus": rise_in(sides, signs=torch.ones(1, p, dtype=DOUBLE)),
    }
    expect(f"φ in {p} directions", got, right, looks_like=mistakes)
    everywhere = in_subspace(trough, x, torch.eye(n, dtype=DOUBLE), radius)
    far = rise_in(radius * (kept.abs() + 1), torch.eye(n, dtype=DOUBLE))
    expect("A = I is the full space", everywhere, far)
    moves = _corners(p) * sides @ A.T
    forgot = {"the centre belongs to the box": -100 * moves.square().sum(1).min() / 3}
    summit = in_subspace(lambda q: 2 - ((to_vector(q) - kept) ** 2).sum(), x, A, radius)
    expect("on a summit the centre is the highest", summit, 0.0, looks_like=forgot)


def _kinks(draw: Draw):
    """A loss with the second derivative 1 everywhere but at its kinks, ten for each power of ten, down to 10⁻³⁰."""
    places = torch.logspace(-30, -1, 290, dtype=DOUBLE) * draw.number(0.9, 1.1)
    return lambda p: p["x"] ** 2 / 2 + 0.1 * (torch.relu(p["x"] - places) + torch.relu(-p["x"] - places)).sum()


@part("Part 4, Hessian times vector", points=3)
def hessian_times(draw: Draw, hessian_times):
    many_kinks = _kinks(draw)
    at = lambda value: {"x": torch.tensor(value, dtype=DOUBLE)}  # noqa: E731
    quotients = {
        f"this is a difference quotient, with h = {h:g}: it steps over kinks": lambda h=h: {
            "x": grad(many_kinks)(at(h))["x"] / h
        }
        for h in (10.0**-k for k in range(2, 16))
    }
    quotients["this is the gradient at params, or H times it"] = {"x": 0.0}
    flat = hessian_times(many_kinks, at(0.0), at(1.0))
    exact = "H v between the kinks of many ReLUs: a difference quotient steps over some, the derivative does not"
    expect(exact, flat, {"x": 1.0}, looks_like=quotients)

    w = {"a": draw.away(2, dtype=DOUBLE), "b": draw.away(1, 1, dtype=DOUBLE)}
    v, c = each(lambda t: draw.away(*t.shape, dtype=DOUBLE), w), draw.number(0.5, 2)

    def curved(p):
        x, y, z = *p["a"], p["b"][0, 0]
        return c * x**3 + 2 * x * y + y**2 * z + z**4

    got = hessian_times(curved, w, v)
    twice = hessian_times(curved, w, each(lambda t: 2 * t, v))
    (x, y, z), line = to_vector(w), to_vector(v)
    zero = torch.zeros((), dtype=DOUBLE)
    full = torch.stack(
        [
            torch.stack([6 * c * x, zero + 2, zero]),
            torch.stack([zero + 2, 2 * z, 2 * y]),
            torch.stack([zero, 2 * y, 12 * z**2]),
        ]
    )
    slopes = torch.stack([3 * c * x**2 + 2 * y, 2 * x + 2 * y * z, y**2 + 4 * z**3])
    as_dict = lambda vector: from_vector(vector, w)  # noqa: E731
    mistakes = {
        "this is the gradient": as_dict(slopes),
        "only the diagonal of H was used": as_dict(full.diagonal() * line),
        "the tensors were treated one by one: blocks between them are missing": as_dict(
            torch.block_diag(full[:2, :2], full[2:, 2:]) @ line
        ),
        "this is H times the gradient": as_dict(full @ slopes),
        "v was normalized": as_dict(full @ line / line.norm()),
        "a factor of 2 is too much": as_dict(2 * full @ line),
    }
    expect("H v", got, as_dict(full @ line), looks_like=mistakes, tolerance=1e-4)
    expect("twice v", twice, as_dict(2 * full @ line), tolerance=1e-4)


@part("Part 4, the largest eigenvalue", points=4)
def largest_eigenvalue(draw: Draw, largest_eigenvalue):
    split = draw.whole(2, 4)
    turn = torch.linalg.qr(draw.normal(5, 5, dtype=DOUBLE))[0]
    w = {"a": draw.normal(split, dtype=DOUBLE), "b": draw.normal(5 - split, dtype=DOUBLE)}
    start = from_vector(turn @ draw.away(5, dtype=DOUBLE, low=1.0) * 3, w)
    scale = draw.number(0.5, 40.0)

    def with_spectrum(*values):
        H = turn @ torch.diag(scale * torch.tensor(values, dtype=DOUBLE)) @ turn.T
        return H, lambda p: to_vector(p) @ H @ to_vector(p) / 2

    def blockwise(H):  # each tensor is brought to length 1 by itself
        x, product = to_vector(start), 0.0
        for _ in range(100):
            x = torch.cat([x[:split] / x[:split].norm(), x[split:] / x[split:].norm()])
            product, x = x @ H @ x, H @ x
        return product

    named = lambda values: f"the largest eigenvalue of {scale:.3g} · {values}"  # noqa: E731
    values = (6.0, 3.0, 1.0, 0.5, -2.0)
    H, quadratic = with_spectrum(*values)
    got, unit = largest_eigenvalue(quadratic, w, start), to_vector(start) / to_vector(start).norm()
    mistakes = {
        "no iteration took place: this is vᵀHv of the start": unit @ H @ unit,
        "v was not brought to length 1 before vᵀHv": scale * 6.0 * float(to_vector(start) @ to_vector(start)),
        "each tensor was brought to length 1 by itself": blockwise(H),
        "this is the smallest eigenvalue": -2.0 * scale,
        "this is the square of the eigenvalue": (6.0 * scale) ** 2,
    }
    expect(named(values), got, 6.0 * scale, looks_like=mistakes, tolerance=1e-4)
    values = (-6.0, 3.0, 1.0, 0.5, -2.0)
    mistakes = {
        "this is the eigenvalue of largest size; it is negative, and the largest is asked for": -6.0 * scale,
        "this is the length of Hv; the eigenvalue is negative, so go on with H - μI": 6.0 * scale,
        "μ must be added again at the end": 9.0 * scale,
        "μ was subtracted where it must be added": 15.0 * scale,
        "the shift has the wrong sign: H - μI has no negative eigenvalues": -18.0 * scale,
    }
    got = largest_eigenvalue(with_spectrum(*values)[1], w, start)
    expect(named(values), got, 3.0 * scale, looks_like=mistakes, tolerance=1e-4)
    values = (-6.0, -4.0, -3.0, -2.5, -1.0)
    got = largest_eigenvalue(with_spectrum(*values)[1], w, start)
    expect(named(values), got, -1.0 * scale, tolerance=1e-4)
    values = (6.0, 5.97, 1.0, 0.5, -2.0)
    got = largest_eigenvalue(with_spectrum(*values)[1], w, start, 600)
    expect(f"{named(values)}, after 600 steps (are all of `steps` made?)", got, 6.0 * scale, tolerance=1e-4)


@part("Part 5", points=3, rounds=4)
def first_step(draw: Draw, first_step):
    stride, models, n = draw.whole(2, 60), draw.whole(4, 6), draw.whole(5, 8)
    level = draw.number(0.3, 0.6)
    losses = {m: draw.rng.uniform(1.05, 3.0, n) * level for m in range(models)}
    passes = {m: sorted(draw.rng.choice(np.arange(1, n), 2, replace=False).tolist()) for m in range(models)}
    for m, (early, late) in passes.items():  # below at two records, and above again between or after them
        losses[m][early], losses[m][late] = 0.9 * level, 0.5 * level
    never = draw.whole(0, models - 1)
    losses[never] = draw.rng.uniform(1.05, 3.0, n) * level
    exact = (never + 1) % models
    losses[exact][passes[exact][0]] = level  # at most: the level itself will do
    losses[(never + 2) % models][0] = np.nan
    numbers = dict(zip(range(models), draw.rng.permutation(30)[:models].tolist(), strict=True))
    rows = [
        {"model": numbers[m], "step": stride * (i + 1), "epoch": i + 1, "train_loss": loss}
        for m, values in losses.items()
        for i, loss in enumerate(values)
    ]
    records = pd.DataFrame(rows).iloc[draw.rng.permutation(len(rows))].reset_index(drop=True)
    got = first_step(records, level)
    wanted = sorted(numbers.values())
    assert isinstance(got, dict), f"a dict was expected, model -> step; {type(got).__name__} came."
    assert sorted(got) == wanted, f"the keys must be the models {wanted}, all of them, and are {sorted(got)}."
    assert got[numbers[never]] is None, (
        f"model {numbers[never]} never gets there, so it is None; {got[numbers[never]]} came."
    )
    good = [m for m in range(models) if m != never]
    of = lambda how: {numbers[m]: how(m) for m in good}  # noqa: E731
    step = lambda i: stride * (i + 1)  # noqa: E731
    below = records[records["train_loss"] <= level].groupby("model")["step"]
    mistakes = {
        "at most the level includes the level itself": of(lambda m: step(passes[m][m == exact])),
        "this is the last such step": of(lambda m: step(passes[m][1])),
        "this is the step of the lowest loss": of(lambda m: step(int(np.nanargmin(losses[m])))),
        "the rows are in no order: the first row is not the first step": below.first().to_dict(),
        "these are numbers of rows, not steps": of(lambda m: passes[m][0]),
        "these are epochs, not steps": of(lambda m: passes[m][0] + 1),
        "this is the step before": of(lambda m: step(passes[m][0] - 1)),
    }
    found = {number: step for number, step in got.items() if number != numbers[never]}
    assert None not in found.values(), "a model that gets to the level has a step, not None."
    expect(f"the first steps at {level:.3g}", found, of(lambda m: step(passes[m][0])), looks_like=mistakes)
    assert set(first_step(records, 0.01).values()) == {None}, "at a level that nobody reaches every step is None."


@part("Part 6", points=2)
def rescaled(draw: Draw, rescaled):
    net = mlp(draw.whole(3, 5), [draw.whole(4, 6), draw.whole(3, 5)], 3).double()
    w = {name: draw.away(*p.shape, dtype=DOUBLE) for name, p in net.named_parameters()}  # no bias is zero
    alpha, inputs = draw.number(2, 10), draw.normal(7, net[0].in_features, dtype=DOUBLE)
    got = rescaled(w, alpha, "2", "4")

    def scaled(first="2", second="4", **factors):
        names = {f"{first}.weight": "W", f"{first}.bias": "b", f"{second}.weight": "V", f"{second}.bias": "c"}
        return {name: factors.get(names.get(name), 1) * p for name, p in w.items()}

    back = 1 / alpha
    right = scaled(W=alpha, b=alpha, V=back)
    mistakes = {
        "the bias of the first of the two layers goes into the hidden units as well": scaled(W=alpha, V=back),
        "the bias of the second layer is added after the hidden units: leave it": scaled(
            W=alpha, b=alpha, V=back, c=back
        ),
        "both biases are wrong": scaled(W=alpha, V=back, c=back),
        "the second layer must be divided by α": scaled(W=alpha, b=alpha, V=alpha),
        "the second layer must be divided by α, not left": scaled(W=alpha, b=alpha),
        "the factors are swapped": scaled(W=back, b=back, V=alpha),
    }
    expect("the rescaled tensors", got, right, looks_like=mistakes)
    outputs = functional_call(net, {name: torch.as_tensor(t) for name, t in got.items()}, (inputs,))
    expect("the outputs", outputs, functional_call(net, w, (inputs,)))
    other = rescaled(w, back, "0", "2")
    expect("another pair of layers", other, scaled("0", "2", W=back, b=back, V=alpha))
