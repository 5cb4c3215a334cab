"""Checks of exercise 1: what a sharp minimum costs."""

import itertools
import math

import numpy as np
import pandas as pd
import torch

from . import Draw, clones, expect, expect_error, part, unpack


def _positive(draw: Draw, n: int, dtype=torch.float64):
    """A symmetric matrix with eigenvalues of 1/2 and more."""
    root = draw.normal(n, n, dtype=dtype)
    return root @ root.T / n + torch.eye(n, dtype=dtype) / 2


@part("Part 1, the price", points=2)
def shift_price(draw: Draw, shift_price):
    n, k = draw.whole(2, 4), draw.whole(3, 6)
    H, shifts = _positive(draw, n), draw.normal(k, n, dtype=torch.float64)
    shifts = shifts - shifts.mean(0)  # equally likely
    C, m = shifts.T @ shifts / k, draw.away(n, dtype=torch.float64)
    got, moved = shift_price(H, C), shift_price(H, C, m)
    right = sum(d @ H @ d / 2 for d in shifts) / k  # no formula, only counting
    mistakes = {
        "the factor 1/2 of the parabola is missing": 2 * right,
        "the trace of a product is not the product of the traces": H.trace() * C.trace() / 2,
        "only the diagonals were used: the other entries count too": (H.diagonal() * C.diagonal()).sum() / 2,
        "every shift was taken as equally long in all directions": H.trace() * C.trace() / (2 * n),
        "this is the largest eigenvalue's price: all directions pay": torch.linalg.eigvalsh(H)[-1] * C.trace() / 2,
    }
    expect("the expected price, mean 0", got, right, looks_like=mistakes)
    mistakes = {
        "the mean was ignored": right,
        "the price of the mean needs its 1/2, too": right + m @ H @ m,
        "the mean must go through the Hessian": right + m @ m / 2,
        "the price of the mean was taken away: add it": right - m @ H @ m / 2,
    }
    centred, right = right, sum((d + m) @ H @ (d + m) / 2 for d in shifts) / k
    expect("the expected price with a mean", moved, right, looks_like=mistakes)
    expect("no shift costs nothing", shift_price(H, torch.zeros_like(C)), 0.0)
    zero = torch.zeros_like(m)
    expect("a mean of zero", shift_price(H, C, zero), centred)


@part("Part 1, the averaged hole", points=2, rounds=6)
def averaged_hole(draw: Draw, averaged_hole):
    A, b, sigma, d = draw.number(0.5, 2), draw.number(0.2, 0.6), draw.number(0.3, 1.2), draw.round % 4 + 1
    got = averaged_hole(A, b, sigma, d) if d > 1 else averaged_hole(A, b, sigma)
    wide = math.hypot(b, sigma)
    mistakes = {
        "the widths were added: it is the variances that add up": [A * (b / (b + sigma)) ** d, b + sigma],
        "the hole became wider, but its depth stayed: what is filled in elsewhere is missing here": [A, wide],
        "the depth lacks the power d": [A * b / wide, wide],
        "the depth has one power too many: in one dimension it falls as b over the new width": [
            A * (b / wide) ** (2 * d),
            wide,
        ],
        "the root is missing: this is a variance": [A * (b / wide) ** d, wide**2],
        "the hole became narrower": [A * (b / wide) ** d, b * b / wide],
        "the order is that of the docstring: the depth first, then the width": [wide, A * (b / wide) ** d],
    }
    right = [A * (b / wide) ** d, wide]
    expect(f"depth and width in {d} dimension{'s' if d > 1 else ''}", got, right, looks_like=mistakes)
    expect("all examples alike: nothing changes", averaged_hole(A, b, 0.0, d), [A, b])


def _bowl(draw: Draw):
    """(loss, params, noise): a loss that is no parabola, of two tensors."""
    a, c, base = draw.number(1, 4), draw.number(0.5, 2), draw.number(2, 6)
    loss = lambda p: a * (p["w"] ** 2).sum() + c * (p["b"] ** 4).sum() + base  # noqa: E731
    shapes, n = {"w": (2, draw.whole(1, 3)), "b": (draw.whole(1, 3),)}, draw.whole(3, 9)
    params = {name: draw.away(*shape) for name, shape in shapes.items()}
    return loss, params, {name: draw.normal(n, *shape) for name, shape in shapes.items()}


def _moved(params, noise, k, size, only=None):
    return {name: p + (size * noise[name][k] if only in (None, name) else 0.0) for name, p in params.items()}


def _rises(loss, params, noise, sigma, only=None, scale=None):
    n = len(noise["w"])
    sizes = [sigma * (scale(k) if scale else 1.0) for k in range(n)]
    rises = [loss(_moved(params, noise, k, sizes[k], only)) - loss(params) for k in range(n)]
    return np.array([float(rise) for rise in rises])


def _se(values):
    return values.std(ddof=1) / len(values) ** 0.5


@part("Part 2, the mean rise", points=2)
def mean_rise(draw: Draw, mean_rise):
    loss, params, noise = _bowl(draw)
    sigma, n = draw.number(0.2, 0.6), len(noise["w"])
    got = unpack(mean_rise(loss, params, sigma, noise), "the mean", "its standard error")
    r = _rises(loss, params, noise, sigma)
    lengths = lambda k: 1 / math.sqrt(sum(float((z[k] ** 2).sum()) for z in noise.values()))  # noqa: E731
    pair = lambda values: [values.mean(), _se(values)]  # noqa: E731
    mistakes = {
        "this is the spread of one draw; the error of the mean is smaller by √n": [r.mean(), r.std(ddof=1)],
        "the variance must be divided by n - 1": [r.mean(), r.std() / n**0.5],
        "the error was divided by n instead of √n": [r.mean(), r.std(ddof=1) / n],
        "this is the error squared": [r.mean(), r.var(ddof=1) / n],
        "the loss at w was not taken away": [r.mean() + float(loss(params)), _se(r)],
        "the noise was brought to length 1: use it as it is": pair(_rises(loss, params, noise, sigma, scale=lengths)),
        "sigma was squared": pair(_rises(loss, params, noise, sigma**2)),
        "sigma is not used": pair(_rises(loss, params, noise, 1.0)),
        "only one of the tensors got noise": pair(_rises(loss, params, noise, sigma, only="w")),
    }
    expect("mean rise and error", got, [r.mean(), _se(r)], looks_like=mistakes, tolerance=draw.tolerance)
    expect("no noise", mean_rise(loss, params, 0.0, noise), [0.0, 0.0])


@part("Part 2, the difference", points=2)
def rise_gap(draw: Draw, rise_gap):
    loss, first, noise = _bowl(draw)
    second = {name: p + draw.away(*p.shape) for name, p in first.items()}
    sigma, n = draw.number(0.1, 0.4), len(noise["w"])
    got = unpack(rise_gap(loss, first, second, sigma, noise), "the mean", "its standard error")
    one, two = (_rises(loss, p, noise, sigma) for p in (first, second))
    gap = two - one
    apart, losses = math.hypot(_se(one), _se(two)), float(loss(second) - loss(first))
    mistakes = {
        "the two errors were added as if the draws were independent: take the difference draw by draw": [
            gap.mean(),
            apart,
        ],
        "the two errors were added: take the difference draw by draw": [gap.mean(), _se(one) + _se(two)],
        "the two errors were subtracted": [gap.mean(), _se(two) - _se(one)],
        "the difference is the other way round": [-gap.mean(), _se(gap)],
        "this is the difference of the losses, not of the rises": [gap.mean() + losses, _se(gap)],
        "this is the spread of one difference; the error of the mean is smaller by √n": [
            gap.mean(),
            gap.std(ddof=1),
        ],
        "the variance must be divided by n - 1": [gap.mean(), gap.std() / n**0.5],
        "the sign was lost: a negative difference is an answer as well": [np.abs(gap).mean(), _se(np.abs(gap))],
    }
    right = [gap.mean(), _se(gap)]
    expect("the difference and its error", got, right, looks_like=mistakes, tolerance=4 * draw.tolerance)
    expect("a minimum against itself", rise_gap(loss, second, second, sigma, noise), [0.0, 0.0], tolerance=1e-4)


@part("Part 3, the wall", points=3)
def reach(draw: Draw, reach):
    double = torch.float64
    w = {"a": draw.normal(2, dtype=double), "b": draw.normal(dtype=double)}
    v = {"a": draw.away(2, dtype=double), "b": draw.away(dtype=double, low=1.0)}
    a, base, tolerance, centre = draw.number(2, 5), draw.number(1, 4), draw.number(0.4, 1.0), clones(w)
    length = float((v["a"].square().sum() + v["b"] ** 2).sqrt())

    def parabola(p):  # its minimum is at w
        d = {name: p[name] - centre[name] for name in centre}
        return a * d["a"][0] ** 2 + d["a"][1] ** 2 + d["b"] ** 2 + base

    got = reach(parabola, w, v, tolerance)
    rise = lambda x, y, z: a * x**2 + y**2 + z**2  # along a direction, times t²  # noqa: E731
    plain, units = rise(*v["a"].tolist(), float(v["b"])), rise(*(v["a"] / v["a"].norm()).tolist(), 1.0)
    right = math.sqrt(tolerance / plain) * length
    mistakes = {
        "the direction must have length 1": right / length,
        "each tensor was brought to length 1 by itself; the model has one length": math.sqrt(tolerance / units),
        "the loss must rise by the tolerance, not to it: L(w) counts": 0.0,
        "this is only as exact as the stride: bisect within it": 0.05 * math.ceil(right / 0.05),
        "this is the square of the distance": right**2,
    }
    expect("the distance on a parabola", got, right, looks_like=mistakes)
    expect("… with a long stride", reach(parabola, w, v, tolerance, stride=3.0), right)
    near = {"there is a wall, but it is farther away than `furthest`": right}
    for share in (0.6, 0.98):
        far = reach(parabola, w, v, tolerance, furthest=share * right)
        expect(f"`furthest` is at {share} of the way to the wall", far, math.inf, looks_like=near)
    short = reach(parabola, w, v, tolerance, stride=0.7 * right, furthest=1.2 * right)
    missed = {"the way from the last full stride to `furthest` was not walked": math.inf}
    expect("a wall that is nearer than `furthest`, by less than a stride", short, right, looks_like=missed)

    speed = draw.number(3.0, 4.5)
    waves = lambda p: 1 - torch.cos(speed * p["x"])  # above 1/2 and below again, again and again  # noqa: E731
    at = lambda value: {"x": torch.tensor(value, dtype=double)}  # noqa: E731
    turns = [(2 * math.pi * k + sign * math.pi / 3) / speed for k in range(7) for sign in (-1, 1)]
    crossings = sorted(t for t in turns if t > 0)
    later = {
        f"this is crossing number {k} of the tolerance: stop at the first": t for k, t in enumerate(crossings[1:], 2)
    }
    expect("the first of many walls", reach(waves, at(0.0), at(0.1), 0.5), crossings[0], looks_like=later)
    long = at(46 * 2 * math.pi / speed)  # a stride of this, not of length 1, would pass over two walls
    got = reach(waves, at(0.0), long, 0.5)
    expect("… along a long direction: a stride is a distance", got, crossings[0], looks_like=later)
    slope = lambda p: torch.exp(p["x"])  # noqa: E731
    expect("where w is no minimum, uphill", reach(slope, at(0.0), at(0.1), tolerance), math.log1p(tolerance))
    expect("… and downhill: no wall", reach(slope, at(0.0), at(-1.0), tolerance), math.inf)


def _box(J, tolerance, norms=None, shares=None):
    """Half-widths from ε, the influence of each weight and what the bound adds up."""
    s = J.square().sum(0).sqrt() if norms is None else norms
    total = ((J.abs() / s).sum(1) ** 2).sum() ** 0.5 if shares is None else shares
    return tolerance**0.5 / (s * total)


@part("Part 3, the box", points=3)
def box_of_weights(draw: Draw, box_of_weights):
    names = ("the half-widths", "the bits")
    n, eps = draw.whole(3, 6), draw.number(0.01, 0.2)
    j = draw.away(1, n, dtype=torch.float64)
    hand = _box(j, eps)
    got = unpack(box_of_weights(j, eps), *names)
    signed = abs(float(j.sign().sum()))
    mistakes = {
        "√ε is in the widths, not ε": eps**0.5 * hand,
        "the weights share the tolerance: each of n has one n-th": n * hand,
        "the absolute value is missing: in the worst corner nothing cancels": hand * n / (signed or 1.0),
        "the squares of the shares were added over the weights: the bound adds their absolute values": n**0.5 * hand,
        "all weights got the same width: weights with little influence may be coarser": torch.full_like(
            hand, eps**0.5 / float(j.abs().sum())
        ),
        "these are whole widths: the box reaches from -Δ to +Δ": 2 * hand,
    }
    expect("half-widths for one output", got[0], hand, looks_like=mistakes)
    bits = -hand.log2().sum()
    mistakes = {
        "the logarithm must be that of base 2": bits * math.log(2),
        "the sign is wrong: a small box takes many bits": -bits,
        "this is a mean: add up the bits of all weights": bits / n,
    }
    expect("its bits", got[1], bits, looks_like=mistakes)

    K = draw.whole(2, 5)
    J = draw.normal(K, n, dtype=torch.float64) * 10 ** draw.normal(n, dtype=torch.float64).clamp(-1, 1)
    J[0, 1] = 0.0
    widths, bits = unpack(box_of_weights(J, eps), *names)
    s, right = J.square().sum(0).sqrt(), _box(J, eps)
    mistakes = {
        "the outputs were added before they were squared": _box(J, eps, shares=(J.abs() / s).sum()),
        "s must be the root of a sum of squares over the outputs, not a sum of absolute values": _box(
            J, eps, J.abs().sum(0), ((J.abs() / J.abs().sum(0)).sum(1) ** 2).sum() ** 0.5
        ),
        "the absolute value is missing: in the worst corner nothing cancels": _box(
            J, eps, shares=((J / s).sum(1) ** 2).sum() ** 0.5
        ),
    }
    expect(f"half-widths for {K} outputs", widths, right, looks_like=mistakes)
    nats = -right.log().sum()
    natural = {"the logarithm must be that of base 2": nats}
    expect("its bits", bits, nats / math.log(2), looks_like=natural)
    dead = torch.cat([J[:, :1], torch.zeros(K, 1, dtype=torch.float64), J[:, 1:]], 1)
    widths, bits = unpack(box_of_weights(dead, eps), *names)
    widths = torch.as_tensor(np.asarray([float(width) for width in widths]))
    expect("the width of a weight without influence", widths[1], math.inf)
    expect("… which does not count in the others", torch.cat([widths[:1], widths[2:]]), right)
    expect("… and takes no bits", bits, nats / math.log(2))
    weak = J.clone()
    weak[:, 0] *= 1e-6
    widths, bits = unpack(box_of_weights(weak, eps), *names)
    each, without = (-_box(matrix, eps).log2() for matrix in (weak, weak[:, 1:]))
    none = {"a small influence was taken for none": torch.cat([torch.tensor([-math.inf]), without])}
    got = torch.as_tensor(np.asarray([float(width) for width in widths])).log2()
    expect("-log₂ of the half-widths, where one weight has hardly any influence", -got, each, looks_like=none)
    expect("… and its bits", bits, each.sum())


@part("Part 4, the covariance", points=3)
def minimum_covariance(draw: Draw, minimum_covariance):
    n, d = draw.whole(3, 4), draw.whole(2, 3)
    H, places = _positive(draw, d), draw.normal(n, d, dtype=torch.float64)
    places = places - places.mean(0)  # example i has the loss (w - place) H (w - place) / 2
    g = -places @ H  # the gradients at the minimum of all, which is 0
    got = minimum_covariance(H, g)
    samples = [list(pick) for pick in itertools.product(range(n), repeat=n)]  # every way to redraw the examples
    minima = torch.stack([places[pick].mean(0) for pick in samples])
    right = minima.T @ minima / len(samples)
    mistakes = {
        "this is the covariance for a sample of one example: divide by n": n * right,
        "you divided by n - 1 where the sum of these n is known": n / (n - 1) * right,
        "n went in once too often": right / n,
        "one H⁻¹ is missing: the step is multiplied by it, so the covariance has two": torch.linalg.solve(
            H, g.T @ g / n**2
        ),
        "H must be inverted: flat directions move farther": H @ g.T @ g @ H / n**2,
        "this is the covariance of the gradient": g.T @ g / n**2,
        "this is H⁻¹/n: it holds only if Σ = H": H.inverse() / n,
    }
    expect("the covariance of the minimum", got, right, looks_like=mistakes, tolerance=1e-4)


@part("Part 4, the prices", points=2)
def price_by_direction(draw: Draw, price_by_direction):
    d = draw.whole(3, 4)
    turn = torch.linalg.qr(draw.normal(d, d, dtype=torch.float64))[0]
    values = torch.from_numpy(draw.rng.permutation(d) * 3.0 + draw.rng.uniform(0.5, 2.0, d))
    H, inside = turn @ torch.diag(values) @ turn.T, _positive(draw, d) * draw.number(0.2, 2)
    order = values.argsort()
    inside[order[1]] *= 6  # so that the second direction costs most, and the prices are in no order
    inside[:, order[1]] *= 6
    C = turn @ inside @ turn.T
    got = price_by_direction(H, C)
    eigen, spread = values[order], inside.diagonal()[order]
    right = eigen * spread / 2
    rows = torch.linalg.eigh(H)[1]
    mistakes = {
        "the order must be that of ascending eigenvalues": right.flip(0),
        "the prices were sorted: their order is that of the eigenvalues": right.sort().values,
        "the factor 1/2 of the parabola is missing": 2 * right,
        "the eigenvalue is missing: these are half the variances": spread / 2,
        "the coordinates are those of the weights: take the eigenvectors": H.diagonal() * C.diagonal() / 2,
        "rows were taken for eigenvectors: they are the columns": eigen * (rows @ C @ rows.T).diagonal() / 2,
        "the variance was squared": eigen * spread**2 / 2,
    }
    expect("the prices", got, right, looks_like=mistakes)


@part("Part 5", points=3)
def fair_choice(draw: Draw, fair_choice):
    n, limit, m = draw.whole(3, 5), draw.number(0.01, 0.05), draw.number(0.5, 0.6)
    seeds = draw.rng.permutation(40)[:n]
    luck = np.full(n, -0.03)
    luck[draw.whole(0, n - 1)] += 0.03 * n  # mean 0, and a worst and a middle run below those of the next rate
    single = np.full(n, -0.05 - 0.25 / (n - 1))
    single[draw.whole(0, n - 1)] = 0.2
    near = draw.rng.uniform(-0.002, 0.002, n)
    val = {
        "fair": m + luck,
        "test": m - 0.01 + near,
        "single": m + single,
        "unreached": m + 0.2 + near,
        "nan": m + 0.25,
    }
    test = {"fair": 0.6, "test": 0.85, "single": 0.5, "unreached": 0.9, "nan": 0.95}
    rates = dict(zip(val, draw.rng.permutation([0.003, 0.01, 0.03, 0.1, 0.3]).tolist(), strict=True))
    loss = {name: limit * draw.rng.uniform(0.1, 0.99, n) for name in val}
    loss["fair"][0] = limit  # at most: the limit itself will do
    loss["unreached"] *= 0.5
    loss["unreached"][draw.whole(0, n - 1)] = 1.2 * limit  # in the mean they are below the limit
    loss["nan"][draw.whole(0, n - 1)] = np.nan
    columns = {"seed": seeds, "val_acc": None, "train_loss": None, "test_acc": None}
    rows = [
        pd.DataFrame(
            columns
            | {"lr": rates[name], "val_acc": val[name], "train_loss": loss[name]}
            | {"test_acc": test[name] + draw.rng.uniform(-0.04, 0.04, n)}
        )
        for name in val
    ]
    table = pd.concat(rows)[["lr", "seed", "train_loss", "val_acc", "test_acc"]]
    table = table.iloc[draw.rng.permutation(len(table))].reset_index(drop=True)
    rate, accuracy = unpack(fair_choice(table, limit), "the rate", "its test accuracies")
    mistakes = {
        "this rate was chosen on the test points, or by the worst seed": rates["test"],
        "with this rate one seed has not reached the loss: every seed must, not their mean": rates["unreached"],
        "with this rate one seed diverged: NaN is not at most the limit": rates["nan"],
        "this rate has the best single run: compare means over the seeds": rates["single"],
    }
    expect("the rate", rate, rates["fair"], looks_like=mistakes)
    fair = table[table["lr"] == rates["fair"]]
    right = fair.sort_values("seed")
    mistakes = {
        "these are the validation accuracies: report the test": right["val_acc"],
        "the order must be that of the seeds": fair["test_acc"],
        "the order must be that of the seeds, not of the accuracies": np.sort(right["test_acc"]),
        "all seeds are wanted, not their mean": right["test_acc"].mean(),
    }
    expect("its test accuracies", np.asarray(accuracy, float), right["test_acc"], looks_like=mistakes)
    loose = unpack(fair_choice(table, 20 * limit), "the rate", "its test accuracies")
    expect("with a looser limit", loose[0], rates["unreached"])
    expect_error("a limit that nobody reaches", lambda: fair_choice(table, limit / 1e4), ValueError)
