"""Checks of exercise 7: worst, ascent and average direction."""

import numpy as np
import torch
from torch.func import grad, vmap

from . import Draw, expect, part, unpack

DOUBLE = torch.float64


def tensor(values):
    return torch.as_tensor(values, dtype=DOUBLE)


def turned(draw: Draw, values):
    """(matrix with these eigenvalues, its eigenvectors as columns), turned at random."""
    turn = torch.linalg.qr(draw.normal(len(values), len(values), dtype=DOUBLE))[0]
    return turn @ torch.diag(tensor(values)) @ turn.T, turn


def one_vector(w):
    assert w.dim() == 1, (
        f"the loss takes one vector of weights at a time, and got the shape {tuple(w.shape)}: use a loop or vmap."
    )
    return w


@part("Part 1", points=3)
def limits(draw: Draw, limits):
    rho = draw.number(0.1, 0.5)
    big, small, more = draw.number(4, 9), draw.number(0.2, 1.0), draw.rng.uniform(1.2, 3.5, draw.whole(1, 3)).tolist()
    values = [big, small, *more, *[0.0] * draw.whole(1, 3)]
    n, total = len(values), big + small + sum(more)
    H, half = turned(draw, values)[0], rho**2 / 2
    right = {"worst": half * big, "ascent": half * small, "average": half * total / n}
    mistakes = {
        "a zero eigenvalue was taken: the gradient has no component there": right | {"ascent": 0.0},
        "the zero eigenvalues were left out of the mean: they count in d": right
        | {"average": half * total / (2 + len(more))},
        "the trace is not divided by d": right | {"average": half * total},
        "the factor 1/2 is missing": {name: 2 * x for name, x in right.items()},
        "rho is not squared": {name: x / rho for name, x in right.items()},
        "rho is not used": {name: x / rho**2 for name, x in right.items()},
        "eigvalsh sorts upwards: the last eigenvalue is the largest": right | {"worst": 0.0, "ascent": half * big},
    }
    expect(f"{n} eigenvalues, some of them zero", limits(H, rho), right, looks_like=mistakes)
    c = draw.number(1, 5)
    expect(
        "a round bowl: all three are the same",
        limits(c * torch.eye(4, dtype=DOUBLE), rho),
        dict.fromkeys(right, half * c),
    )
    for size in (1e-6, 1.0, 1e6):
        largest = 3 * size
        tiny = limits(torch.diag(size * tensor([1.5e-8, 2.0, 2.5, 3.0])), 1.0)
        numerical = {
            "a numerical zero was taken for an eigenvalue: count as zero what is at most 1e-8 λ₁": 0.75e-8 * size
        }
        expect(
            f"0.5e-8 λ₁ counts as zero, λ₁ = {largest:g}: the ascent value", tiny["ascent"], size, looks_like=numerical
        )
        small = limits(torch.diag(size * tensor([6e-8, 2.0, 2.5, 3.0])), 1.0)
        lost = {"a small eigenvalue was taken for zero: only what is at most 1e-8 λ₁ is": size}
        what = f"2e-8 λ₁ is not zero, λ₁ = {largest:g}: the ascent value"
        expect(what, small["ascent"], 3e-8 * size, looks_like=lost, tolerance=1e-4)


def _climb(loss, w, rho, starts, steps=40, *, at_w=False, constant=False, uphill=1.0):
    best = torch.zeros((), dtype=DOUBLE)
    for start in starts:
        e = rho * start / start.norm()
        for t in range(steps):
            g = grad(loss)(w if at_w else w + e)
            size = g.norm() if g.norm() > 0 else 1.0
            e = e + uphill * rho * (1.0 if constant else 1 - t / steps) * g / size
            e = e * min(1.0, rho / max(float(e.norm()), 1e-300))
            best = max(best, loss(w + e) - loss(w))
    return best


@part("Part 2", points=5, rounds=2)
def worst(draw: Draw, worst):
    angle, sign, rho = draw.number(0, 6.28), float(draw.rng.choice([-1, 1])), draw.number(0.3, 0.8)
    rho *= (1, 100)[draw.round]  # with steps of length 1, for those of ρ, a climb gets nowhere in the larger ball
    c, s = np.cos(angle), np.sin(angle)
    turn = tensor([[c, -s * sign], [s, c * sign]])  # the picture below, turned and mirrored at random
    angles = torch.arange(6, dtype=DOUBLE) * torch.pi / 3 + 0.2
    around = 7 * torch.stack([angles.cos(), angles.sin()], 1) @ turn.T  # six directions, not of length 1

    def check(what, loss, w, right, looks_like=None, starts=around, **steps):
        rise, e = unpack(worst(loss, w, rho, starts, **steps), "the largest rise", "its ε")
        e = tensor(e)
        assert e.shape == w.shape, f"{what}: ε must have the shape of w, {tuple(w.shape)}, and has {tuple(e.shape)}."
        assert not e.norm() > rho * (1 + 1e-5), (
            f"{what}: ε is {float(e.norm() / rho):.3g} ρ long: it has left the ball."
        )
        expect(f"{what}: the rise", rise, right, looks_like=looks_like, tolerance=0.01)
        expect(f"{what}: the loss at the ε you returned", loss(w + e) - loss(w), rise, tolerance=1e-4)

    (low, high), base = sorted(draw.rng.uniform([0.5, 2.0], [1.5, 5.0]).tolist()), draw.number(1, 6)
    matrix, centre = turn @ torch.diag(tensor([high, low])) @ turn.T, draw.normal(2, dtype=DOUBLE)
    half, bowl = rho**2 / 2, lambda w: (one_vector(w) - centre) @ matrix @ (w - centre) / 2 + base
    mistakes = {
        "this is the loss at the top: take away that of the centre": base + half * high,
        "this is the smallest rise: go uphill": half * low,
        "ρ is missing in the length of the steps": lambda: _climb(bowl, centre, rho, around, uphill=1 / rho),
    }
    check("a bowl", bowl, centre, half * high, mistakes)

    hilltops = 2 * rho * torch.tensor([[-0.24, 0.18], [0.4, 0.0]], dtype=DOUBLE) @ turn.T
    heights, width = (draw.number(1.4, 1.7), 1.0), 0.08 * rho**2

    def hills(w):  # two hills, in the ball and at its edge
        return (
            sum(
                h * torch.exp(-((one_vector(w) - top) ** 2).sum() / width)
                for h, top in zip(heights, hilltops, strict=True)
            )
            + 0.5
        )

    ticks, zero = torch.linspace(-rho, rho, 301, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    grid = torch.cartesian_prod(ticks, ticks)
    rises = vmap(hills)(grid) - hills(zero)
    inside, border = grid.norm(dim=1) <= rho, (grid.norm(dim=1) - rho).abs() < 0.005 * rho
    nearer = (grid - hilltops[1]).norm(dim=1) < (grid - hilltops[0]).norm(dim=1)
    mistakes = {
        "you found the smaller hill only: use every start": rises[inside & nearer].max(),
        "the search stayed on the sphere: the ball has an inside": rises[border].max(),
        "this is the loss at the top: take away that of the centre": rises[inside].max() + hills(zero),
        "the gradient was taken at w each time: take it where you are, at w + ε": lambda: _climb(
            hills, zero, rho, around, at_w=True
        ),
        "the steps did not shrink: then the climb jumps to and fro over the top": lambda: _climb(
            hills, zero, rho, around, constant=True
        ),
        "you went downhill: add the gradient": lambda: _climb(hills, zero, rho, around, uphill=-1.0),
    }
    check("two hills", hills, zero, rises[inside].max(), mistakes)
    slope = draw.away(2, dtype=DOUBLE)
    check("a slope", lambda w: one_vector(w) @ slope, draw.normal(2, dtype=DOUBLE), rho * slope.norm())
    top = {"the centre was left out: it belongs to the ball": -(rho**2)}
    check("a mountain top", lambda w: -one_vector(w) @ w, zero, 0.0, top)
    check("flat ground", lambda w: 0 * one_vector(w).sum() + 3, zero, 0.0)
    few, five = draw.normal(draw.whole(2, 3), 5, dtype=DOUBLE), torch.zeros(5, dtype=DOUBLE)
    H, _ = turned(draw, [high, *[low / 2] * 4])
    check(
        f"a bowl in five dimensions, {len(few)} starts",
        lambda w: one_vector(w) @ H @ w / 2,
        five,
        half * high,
        starts=few,
    )
    near, turn = turned(draw, [100.0, 95.0, 30.0, 20.0, 10.0])
    what = "a bowl that is almost round, after 400 steps (are all of `steps` made?)"
    beside = (turn @ tensor([0.1, 1.0, 0.0, 0.0, 0.0]))[None]
    check(what, lambda w: one_vector(w) @ near @ w / 2, five, 100 * half, starts=beside, steps=400)


@part("Part 3", points=3)
def along(draw: Draw, along):
    a, rho = draw.number(0.5, 1.5), draw.number(0.1, 0.4)
    crooked = lambda w: a * one_vector(w)[0] ** 4 + w[0] * w[1] + w[1] ** 2 + 3.0  # noqa: E731
    w = draw.away(2, dtype=DOUBLE)
    g = torch.stack([4 * a * w[0] ** 3 + w[1], w[0] + 2 * w[1]])  # by hand
    u, got = g / g.norm(), along(crooked, w, rho)
    base_mistake = "this is the loss at the far end: take away that at w"
    mistakes = {
        base_mistake: crooked(w + rho * u),
        "you went downhill": crooked(w - rho * u) - crooked(w),
        "the gradient is not normalized": crooked(w + rho * g) - crooked(w),
        "this is the first-order estimate ρ‖g‖: take the loss itself": rho * g.norm(),
    }
    expect("away from any minimum", got, crooked(w + rho * u) - crooked(w), looks_like=mistakes)

    lams = tensor([draw.number(4, 8), draw.number(0.3, 0.8), draw.number(1.5, 3), 0.0])
    valley, half = lambda w: (lams * one_vector(w) ** 2).sum() / 2 + 7.0, rho**2 / 2  # noqa: E731
    for i in (0, 1, 2):
        beside = 1e-9 * torch.eye(4, dtype=DOUBLE)[i]
        mistakes = {
            base_mistake: 7 + half * lams[i],
            "it is next to nothing: only the direction of the gradient counts, and your step was short": 0.0,
        }
        what = f"beside the minimum, on the side of the eigenvalue {lams[i]:.3g}"
        expect(what, along(valley, beside, rho), half * lams[i], looks_like=mistakes)
    both = 1e-9 * draw.away(4, dtype=DOUBLE)
    slope = lams * both
    mistakes = {
        "the climb goes along w, and must go along the gradient": half * (lams * both**2).sum() / (both**2).sum(),
        "the gradient is not normalized: it is tiny here, and so was your step": 0.0,
    }
    right = half * (lams * slope**2).sum() / (slope**2).sum()
    expect("beside the minimum, in between", along(valley, both, rho), right, looks_like=mistakes)
    closer = {"a small gradient was taken for none: SAM stays only where it is exactly zero": 0.0}
    expect("… and closer by far, at 10⁻¹⁷", along(valley, 1e-8 * both, rho), right, looks_like=closer)
    expect("exactly at the minimum", along(valley, torch.zeros(4, dtype=DOUBLE), rho), 0.0)


@part("Part 4", points=4)
def average(draw: Draw, average):
    n, d, rho = draw.whole(4, 9), draw.whole(2, 5), draw.number(0.1, 0.5)
    noise, w = draw.normal(n, d, dtype=DOUBLE), draw.away(d, dtype=DOUBLE)
    factors = tensor(draw.rng.uniform(1, 4, d))
    pit = lambda w: (factors * one_vector(w) ** 2).sum() + (w**3).sum() + 2.0  # noqa: E731
    names = ("the mean", "its standard error")
    sphere, loose = noise / noise.norm(dim=1, keepdim=True), noise / d**0.5
    rise = lambda steps: np.array([float(pit(w + e) - pit(w)) for e in steps])  # noqa: E731
    for name, u, other, is_sphere in [("on the sphere", sphere, loose, True), ("Gaussian", loose, sphere, False)]:
        plus, minus = rise(rho * u), rise(-rho * u)
        mistakes = {
            "the loss at w is not taken away": plus.mean() + float(pit(w)),
            "rho is not used": rise(u).mean(),
            "the noise is not scaled at all: z has a length of about √d": rise(rho * noise).mean(),
            "sphere=True and sphere=False are exchanged, or make no difference": rise(rho * other).mean(),
            "pairs were used without being asked for": (plus + minus).mean() / 2,
        }
        got = unpack(average(pit, w, rho, noise, sphere=is_sphere), *names)
        expect(f"{name}: the mean", got[0], plus.mean(), looks_like=mistakes)
        spread = {
            "this is the spread of single draws: divide by √n": plus.std(ddof=1),
            "the variance was divided by n, not by n - 1": plus.std() / n**0.5,
            "the spread was divided by n, not by its root": plus.std(ddof=1) / n,
            "this is a variance: take the root": plus.var(ddof=1) / n,
        }
        expect(f"{name}: the standard error", got[1], plus.std(ddof=1) / n**0.5, looks_like=spread)
        got = unpack(average(pit, w, rho, noise, sphere=is_sphere, pairs=True), *names)
        each = (plus + minus) / 2
        mistakes = {
            "the partners make no difference": plus.mean(),
            "the partners were added: take their mean": 2 * each.mean(),
        }
        expect(f"{name}, pairs: the mean", got[0], each.mean(), looks_like=mistakes)
        both = np.r_[plus, minus]
        spread = {
            "the partners of a pair were counted as independent: one pair is one value": both.std(ddof=1)
            / (2 * n) ** 0.5,
            "you divided by the root of 2n: there are n values": each.std(ddof=1) / (2 * n) ** 0.5,
            "this is the error without pairs": plus.std(ddof=1) / n**0.5,
            "this is the spread of single pairs: divide by √n": each.std(ddof=1),
            "the variance was divided by n, not by n - 1": each.std() / n**0.5,
        }
        expect(f"{name}, pairs: the standard error", got[1], each.std(ddof=1) / n**0.5, looks_like=spread)
    round_bowl = average(lambda w: 2 * one_vector(w) @ w, torch.zeros(d, dtype=DOUBLE), rho, noise)
    expect("a round bowl on the sphere: every draw is the same", round_bowl, (2 * rho**2, 0.0))


@part("Part 5, the product", points=2)
def times(draw: Draw, times):
    bent = lambda w: (w**4).sum() / 12 + w[0] * w[1] ** 2 + torch.exp(w[2])  # noqa: E731
    w, v = draw.away(3, dtype=DOUBLE), draw.away(3, dtype=DOUBLE)
    x, y, z = w.tolist()
    got, twice = times(bent, w, v), times(bent, w, -2 * v)
    by_hand = tensor([[x**2, 2 * y, 0], [2 * y, y**2 + 2 * x, 0], [0, 0, z**2 + np.exp(z)]])
    slope, right = tensor([x**3 / 3 + y**2, y**3 / 3 + 2 * x * y, z**3 / 3 + np.exp(z)]), by_hand @ v
    mistakes = {
        "this is the number v·Hv, not the vector Hv": v @ right,
        "only the diagonal of H was used": by_hand.diag() * v,
        "this is the gradient: one more derivative": slope,
        "this is the product of the gradient with v, entry by entry": slope * v,
        "v was normalized": right / v.norm(),
    }
    expect("H v", got, right, looks_like=mistakes)
    expect("linear in v: −2v", twice, -2 * right, looks_like={"the length of v is lost": -right})
    if draw.round:
        return
    many, ones = torch.linspace(-1, 1, 200_000, dtype=DOUBLE), torch.ones(200_000, dtype=DOUBLE)
    try:
        got = times(lambda w: (w**4).sum() / 12 + w.sum() ** 2 / 4e5, many, ones)
    except (RuntimeError, MemoryError) as error:
        reason = str(error)[:60]
        raise AssertionError(f"200,000 weights: multiply by H without building it ({reason} …).") from None
    expect("200,000 weights", got, many**2 + 1)


@part("Part 5, the trace", points=2)
def trace(draw: Draw, trace):
    d, n = draw.whole(3, 5), draw.whole(4, 8)
    root = draw.normal(d, d, dtype=DOUBLE)
    H, names = root + root.T + 2 * torch.eye(d, dtype=DOUBLE), ("the estimate", "its standard error")
    probes = tensor(draw.rng.choice([-1.0, 1.0], (n, d)))

    def product(v):
        assert v.dim() == 1, (
            f"product takes one vector v at a time, and got the shape {tuple(v.shape)}: use a loop or vmap."
        )
        return H @ v

    got = unpack(trace(product, probes), *names)
    values = np.array([float(v @ H @ v) for v in probes])
    mistakes = {
        "the sum was taken for the mean": values.sum(),
        "the sum was divided by d, not by the number of probes": values.sum() / d,
        "this is a mean eigenvalue: do not divide by d": values.mean() / d,
        "the entries of Hv were added up without v": float((probes @ H).sum(1).mean()),
    }
    if d == n:
        mistakes.pop("the sum was divided by d, not by the number of probes")
    expect("the estimate", got[0], values.mean(), looks_like=mistakes)
    mistakes = {
        "this is the spread of single probes: divide by √n": values.std(ddof=1),
        "the variance was divided by n, not by n - 1": values.std() / n**0.5,
        "the spread was divided by n, not by its root": values.std(ddof=1) / n,
        "this is a variance: take the root": values.var(ddof=1) / n,
    }
    expect("its standard error", got[1], values.std(ddof=1) / n**0.5, looks_like=mistakes)
    diagonal = draw.away(d, dtype=DOUBLE)
    exact = trace(lambda v: diagonal * v, probes)
    expect("a diagonal Hessian: exact with any probes", exact, (float(diagonal.sum()), 0.0))
    signs = torch.cartesian_prod(*[tensor([-1.0, 1.0])] * d)
    expect("all sign vectors: exact", unpack(trace(product, signs), *names)[0], H.trace())


@part("Part 6, the alignment", points=2)
def alignment(draw: Draw, alignment):
    cosine = lambda i, vector: float(vector[i].abs() / vector.norm())  # noqa: E731
    lams = tensor([draw.number(0.5, 1.5), draw.number(8, 11), draw.number(-25, -15), draw.number(3, 5)])
    at, rho = draw.away(4, dtype=DOUBLE) * tensor([1.0, 0.2, 0.03, 0.5]), draw.number(0.1, 0.5)
    slope = lams * at
    added, whole = lams * slope, slope + rho * lams * slope / slope.norm()
    mistakes = {
        "you took the smallest eigenvalue, or the largest in magnitude: the largest is meant": cosine(2, added),
        "this is the cosine of the whole SAM gradient: take away the gradient at w": cosine(1, whole),
        "this is the cosine of the gradient": cosine(1, slope),
        "the cosine is not divided by the length of the vector": float(rho * added[1].abs() / slope.norm()),
        "this is the square of the cosine": cosine(1, added) ** 2,
    }
    matrix, turn = turned(draw, lams)
    row = torch.linalg.eigh(matrix)[1][-1]
    rows = {
        "you took a row of the matrix: eigenvectors are its columns": float((row @ (turn @ added)).abs() / added.norm())
    }
    got = alignment(lambda w: w @ matrix @ w / 2, turn @ at, rho)
    expect("a quadratic, turned", got, cosine(1, added), looks_like=rows | mistakes)
    loss = lambda w: (lams * w**2).sum() / 2  # noqa: E731
    expect("the same along the axes", alignment(loss, at, rho), cosine(1, added), looks_like=mistakes)
    negative = {"the absolute value is missing": -cosine(1, added)}
    expect("its mirror image", alignment(loss, -at, rho), cosine(1, added), looks_like=negative)
    at, c = tensor([draw.number(1.5, 2.5), draw.number(0.5, 1.2)]), draw.number(0.2, 0.4)
    slope_at = lambda w: w**3 + 2 * c * w * w.flip(0) ** 2  # of the loss below, by hand  # noqa: E731
    mixed = tensor([[0, 4 * c], [4 * c, 0]])
    bent_at = lambda w: torch.diag(3 * w**2 + 2 * c * w.flip(0) ** 2) + w.prod() * mixed  # noqa: E731
    top_at = lambda w: torch.linalg.eigh(bent_at(w))[1][:, 1]  # noqa: E731
    g = slope_at(at)
    up = at + rho * g / g.norm()
    far = slope_at(up) - g
    cosine = lambda vector, top: float((vector @ top).abs() / vector.norm())  # noqa: E731
    mistakes = {
        "this is ρHu alone: take the difference of two gradients": cosine(bent_at(at) @ g, top_at(at)),
        "the eigenvector is that at the end of the climb: take the Hessian at w": cosine(far, top_at(up)),
    }
    curved = alignment(lambda w: (w**4).sum() / 4 + c * (w**2).prod(), at, rho)
    expect("with all higher terms", curved, cosine(far, top_at(at)), looks_like=mistakes)


@part("Part 6, the pull", points=2)
def sideways(draw: Draw, sideways):
    a, b, rho = draw.number(0.5, 2), draw.number(1, 3), draw.number(0.02, 0.08)
    walls = lambda x: (5 + a * x[0] ** 2 + 2 * x[1] ** 2, 1 + b * (1 - x[0]) ** 2 + (1 - x[1]) ** 2)  # noqa: E731
    examples = [lambda x: walls(x)[0] * x[2] ** 2, lambda x: walls(x)[1] * x[3] ** 2]
    whole = lambda x: (examples[0](x) + examples[1](x)) / 2  # noqa: E731
    plane, angle = torch.eye(4, dtype=DOUBLE)[:, :2], draw.number(0.3, 1.2)
    c, s = np.cos(angle), np.sin(angle)
    turn = tensor([[c, -s], [s, c]])
    u, v = draw.number(0.1, 0.5), draw.number(0.6, 0.95)
    first = tensor([2 * a * u, 4 * v])  # the gradients of both walls at (u, v), by hand
    second = tensor([-2 * b * (1 - u), -2 * (1 - v)])

    def sam_at(loss, w):
        g = grad(loss)(w)
        return grad(loss)(w + rho * g / g.norm())

    x = tensor([u, v, 1e-9, 0.0])
    mistakes = {
        "this is half of the pull: the factor is 2/ρ²": first / 2,
        "you multiplied by ρ²/2, and must divide": first * rho**4 / 4,
        "this is divided by ρ/2, not by ρ²/2": first * rho,
        "this is the gradient at w, which has no pull along the valley: climb first": torch.zeros(2),
        "this points downhill: the pull is a gradient": -first,
    }
    expect("full batch: the gradient of λ₁", sideways([whole], x, rho, plane), first, looks_like=mistakes)
    unturned = {"T is not used: take the components along its columns": first}
    expect(
        "in other coordinates of the valley",
        sideways([whole], x, rho, plane @ turn),
        turn.T @ first,
        looks_like=unturned,
    )
    x = tensor([u, v, 1e-9, -1e-9])
    mistakes = {
        "all examples share one climb: this is the full batch": 2 / rho**2 * sam_at(whole, x)[:2],
        "the sum over the examples was taken for the mean": 2 * (first + second),
        "only the first example counts": 2 * first,
        "only the last example counts": 2 * second,
    }
    expect("1-SAM: the gradient of the trace", sideways(examples, x, rho, plane), first + second, looks_like=mistakes)
    centres = draw.rng.uniform(-2, 3, draw.whole(3, 6)).tolist()
    many = [lambda x, a=a: (x[0] - a) ** 4 + a * x[0] * x[1] for a in centres]
    at, T = tensor([u, v]), turn[:, :1]
    pulls, plain = (
        torch.stack([how(f) for f in many]).mean(0) for how in (lambda f: sam_at(f, at), lambda f: grad(f)(at))
    )
    mistakes = {
        "the gradient at w was taken away: that is what SAM adds; here the whole gradient of SAM counts": 2
        / rho**2
        * (pulls - plain)
        @ T,
        "this is the gradient at w: climb first": 2 / rho**2 * plain @ T,
    }
    what = f"{len(many)} examples, away from the valley"
    expect(what, sideways(many, at, rho, T), 2 / rho**2 * pulls @ T, looks_like=mistakes)
