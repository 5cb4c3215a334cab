"""Checks of exercise 5: SAM, from the ascent to a step under any optimizer."""

import copy

import torch
from torch import nn
from torch.func import grad
from torch.nn.functional import cross_entropy

from ..ascents import ascent
from ..params import add, loss_of, norm, params_of, to_vector
from ..sam import sam_gradient
from . import Draw, clones, expect, part


def each(change, *dicts):
    return {name: change(*(one[name] for one in dicts)) for name in dicts[0]}


@part("Part 1", points=3)
def climb(draw: Draw, climb):
    g = {"weight": draw.normal(draw.whole(2, 5), draw.whole(2, 5)), "bias": 3 * draw.normal(draw.whole(2, 6))}
    rho, before, scale = draw.number(0.02, 0.5), clones(g), float(norm(g))
    got = climb(g, rho)
    mistakes = {
        "you took the norm of each tensor by itself; the model has one norm": each(
            lambda t: rho * t / t.norm(), before
        ),
        "the norms of the tensors were added: add their squares": each(
            lambda t: rho * t / sum(s.norm() for s in before.values()), before
        ),
        "the gradient is not normalized": each(lambda t: rho * t, before),
        "you divided by the square of the norm": each(lambda t: rho * t / scale**2, before),
        "rho is not used": each(lambda t: t / scale, before),
        "the step leads downhill": each(lambda t: -rho * t / scale, before),
    }
    right = each(lambda t: rho * t / scale, before)
    expect("ε", got, right, looks_like=mistakes)
    expect("grads must stay as they were", g, before)
    for size in (1e-9, 1e6):
        moved = each(lambda t, size=size: size * t, before)
        expect(f"ε for a gradient {size:g} times as large (only its direction counts)", climb(moved, rho), right)
    zero = {"w": torch.zeros(3, dtype=draw.dtype), "b": torch.zeros(2, 2, dtype=draw.dtype)}
    expect("ε for a gradient of zero", climb(zero, rho), zero)


@part("Part 2, p = ∞", points=1)
def climb_inf(draw: Draw, climb_inf):
    rho = draw.number(0.1, 0.4)
    sizes = draw.away(draw.whole(3, 6), low=0.01, high=3.0)
    sizes[0], sizes[1], sizes[2] = rho / 5, -rho / 3, 0.0  # smaller than rho, and none
    g = {"a": sizes, "b": draw.away(draw.whole(1, 4), draw.whole(1, 3), low=0.01, high=5.0)}
    before = clones(g)
    got = climb_inf(g, rho)
    top = max(t.abs().max() for t in before.values())
    mistakes = {
        "you divided by the largest entry: then only one weight moves by rho": each(lambda t: rho * t / top, before),
        "only the steepest weight moves: that is p = 1": each(
            lambda t: torch.where(t.abs() == top, rho * t.sign(), 0.0), before
        ),
        "this is p = 2": each(lambda t: rho * t / norm(before), before),
        "the gradient was cut off at rho: small entries move by rho, too": each(lambda t: t.clamp(-rho, rho), before),
        "all weights move the same way: where is the sign of the gradient": each(
            lambda t: torch.full_like(t, rho), before
        ),
    }
    expect("ε for p = ∞", got, each(lambda t: rho * t.sign(), before), looks_like=mistakes)
    expect("grads must stay as they were", g, before)


@part("Part 2, ASAM", points=3)
def climb_adaptive(draw: Draw, climb_adaptive):
    shapes = {"a": (draw.whole(2, 4),), "b": (draw.whole(1, 3), 2)}
    g, w = ({name: draw.away(*shape) for name, shape in shapes.items()} for _ in range(2))
    rho, kept = draw.number(0.1, 0.9), (clones(g), clones(w))
    got = climb_adaptive(g, w, rho)
    g_, w_ = kept
    scaled = each(lambda w, g: w * g, w_, g_)
    length = norm(scaled)
    mistakes = {
        "one factor |w| is missing: this is δ, not ε": each(lambda w, g: rho * w.abs() * g / length, w_, g_),
        "the sign of w got into ε: use |w|": each(lambda w, g: rho * w.abs() * w * g / length, w_, g_),
        "you normalized with the plain gradient": each(lambda w, g: rho * w**2 * g / norm(g_), w_, g_),
        "you normalized with w²g instead of |w|g": each(
            lambda w, g: rho * w**2 * g / norm(each(lambda w, s: w * s, w_, scaled)), w_, g_
        ),
        "you took the norm of each tensor by itself": each(lambda w, g, s: rho * w**2 * g / s.norm(), w_, g_, scaled),
        "this is SAM: the weights are not used": each(lambda g: rho * g / norm(g_), g_),
    }
    right = each(lambda w, g: rho * w**2 * g / length, w_, g_)
    expect("ε of ASAM", got, right, looks_like=mistakes, tolerance=draw.tolerance)
    expect("grads and params must stay as they were", {"g": g, "w": w}, {"g": g_, "w": w_})


@part("Part 3", points=3)
def gradient_of_sam(draw: Draw, gradient_of_sam):
    n = draw.whole(2, 4)
    root = draw.normal(n, n)
    H, tilt = root @ root.T + torch.eye(n, dtype=draw.dtype), draw.number(0.05, 0.2)

    def ravine(p):
        return p["w"] @ H @ p["w"] / 2 + tilt * (p["w"] ** 4).sum() + (p["w"][0] - p["b"]).pow(2).sum()

    params, rho = {"w": draw.normal(n), "b": draw.normal(2)}, draw.number(0.1, 0.5)
    kept = clones(params)
    got = gradient_of_sam(ravine, params, rho)
    slope = grad(ravine)
    g = slope(kept)
    e = each(lambda t: rho * t / norm(g), g)
    right = slope(add(kept, e))
    through = grad(lambda p: ravine(add(p, ascent(slope(p), p, rho))))(kept)
    mistakes = {
        "this is the gradient at w: the second one is missing": g,
        "you went downhill instead of up": slope(add(kept, e, -1.0)),
        "you added both gradients": add(g, right),
        "this is ε, not a gradient": e,
        "the ascent is not normalized": slope(add(kept, g, rho)),
        "you took the norm of each tensor by itself": slope(add(kept, each(lambda t: rho * t / t.norm(), g))),
        "you differentiated through ε as well: count it as a constant": through,
    }
    expect("the SAM gradient", got, right, looks_like=mistakes, tolerance=draw.tolerance)
    expect("params must stay as they were", params, kept)
    if draw.dtype == torch.float64:
        expect("without a radius SAM is gradient descent", gradient_of_sam(ravine, params, 0.0), g)


OPTIMIZERS = {  # by round
    "SGD with momentum": lambda w, lr: torch.optim.SGD(w, lr=lr, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda w, lr: torch.optim.AdamW(w, lr=lr, weight_decay=0.3),
    "SGD": lambda w, lr: torch.optim.SGD(w, lr=2 * lr),
    "Nesterov's momentum": lambda w, lr: torch.optim.SGD(w, lr=lr, momentum=0.8, nesterov=True, weight_decay=0.02),
}


def _gradients(decay, rho):
    """mistake -> gradient(loss, w, left): what ends in .grad if w is where the step begins; left: what was there."""

    def by_tensor(loss, w, left):
        return grad(loss)(add(w, each(lambda t: rho * t / t.norm(), grad(loss)(w))))

    def decayed(loss, w, left):
        g = add(grad(loss)(w), w, decay)
        return grad(loss)(add(w, g, rho / norm(g)))

    def stale(loss, w, left):
        g = grad(loss)(w) if left is None else add(grad(loss)(w), left)
        return grad(loss)(add(w, g, rho / norm(g)))

    return {
        "the second gradient was added to the first: clear it before the second backward()": lambda loss, w, left: add(
            sam_gradient(loss, w, rho)[0], grad(loss)(w)
        ),
        "only the gradient at w is used": lambda loss, w, left: grad(loss)(w),
        "weight decay got into the ascent": decayed,
        "you took the norm of each tensor by itself": by_tensor,
        "you went downhill instead of up": lambda loss, w, left: grad(loss)(
            add(w, ascent(grad(loss)(w), w, rho), -1.0)
        ),
        "the gradient of the last step was still in .grad when you climbed: clear it first, too": stale,
    }


def _walk(model, make, batches, gradient, *, stays_up=0.0, calls=1, decays=True):
    """The weights that an optimizer reaches if `gradient` says what stands in .grad; stays_up: rho, if w + ε is kept."""
    model = copy.deepcopy(model)
    optimizer, left = make(model.parameters()), None
    if not decays:
        optimizer.param_groups[0]["weight_decay"] = 0.0
    for x, y in batches:
        w, loss = clones({name: p.detach() for name, p in model.named_parameters()}), loss_of(model, x, y)
        left = gradient(loss, w, left)
        e = ascent(grad(loss)(w), w, stays_up)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.grad = left[name].clone()
                p += e[name] if stays_up else 0.0
        for _ in range(calls):
            optimizer.step()
    return clones(params_of(model))


@part("Part 4", points=7, rounds=4)
def sam_step(draw: Draw, sam_step):
    kind = list(OPTIMIZERS)[draw.round]
    inputs, hidden, classes = draw.whole(3, 6), draw.whole(4, 9), draw.whole(2, 4)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * draw.normal(*p.shape, dtype=torch.float64))
    sizes = [draw.whole(6, 14) for _ in range(5)]
    batches = [
        (draw.normal(n, inputs, dtype=torch.float64), torch.from_numpy(draw.rng.integers(0, classes, n))) for n in sizes
    ]
    rho, lr = draw.number(0.1, 0.4), draw.number(0.05, 0.1)
    make = lambda w: OPTIMIZERS[kind](w, lr)  # noqa: E731
    start = copy.deepcopy(model)
    optimizer = make(model.parameters())
    decay = optimizer.param_groups[0]["weight_decay"]
    returned = sam_step(model, *batches[0], optimizer, rho)
    expect("the returned loss", returned, cross_entropy(start(batches[0][0]), batches[0][1]))
    right = lambda loss, w, left: sam_gradient(loss, w, rho)[0]  # noqa: E731
    plain = lambda w: torch.optim.SGD(w, lr=lr)  # noqa: E731
    walk = lambda how=right, make=make, n=1, **other: lambda: _walk(start, make, batches[:n], how, **other)  # noqa: E731
    wrong = {mistake: walk(how) for mistake, how in _gradients(decay, rho).items()} | {
        "the step was taken from w + ε: go back to w first": walk(stays_up=rho),
        "optimizer.step() was called twice": walk(calls=2),
        "the optimizer's own step is lost: leave the last line to optimizer.step()": walk(make=plain),
        "the optimizer's weight decay is lost": walk(decays=False),
    }
    one = _walk(start, make, batches[:1], right)
    expect(f"the weights after one step with {kind}", params_of(model), one, looks_like=wrong)
    for x, y in batches[1:]:
        sam_step(model, x, y, optimizer, rho)
    forgets = lambda w: torch.optim.SGD(w, lr=lr, weight_decay=decay)  # noqa: E731
    wrong = {mistake: walk(how, n=5) for mistake, how in _gradients(decay, rho).items()}
    wrong["momentum is lost"] = walk(make=forgets, n=5)
    five = _walk(start, make, batches, right)
    expect(f"the weights after five steps with {kind}", params_of(model), five, looks_like=wrong)

    model = copy.deepcopy(start).float()
    before = to_vector(params_of(model)).clone()
    x, y = batches[0]
    for _ in range(20):
        sam_step(model, x.float(), y, torch.optim.SGD(model.parameters(), lr=0.0), 0.5)
    drift = (to_vector(params_of(model)) - before).abs().max().item()
    assert drift == 0.0, (
        f"with a learning rate of 0 the weights must stay, to the bit, and moved by {drift:.1g}: copy them back."
    )


def _micro_batches(draw: Draw):
    centres = draw.away(draw.whole(2, 5), 2)
    losses = [lambda p, c=c: ((p["w"] - c) ** 4).sum() + p["b"] ** 2 * c[1] for c in centres]
    params = {"w": 0.5 * draw.normal(2), "b": draw.away(dtype=draw.dtype)}
    return losses, params, draw.number(0.1, 0.5)


def _mean(gradients):
    return {name: torch.stack([g[name] for g in gradients]).mean(0) for name in gradients[0]}


@part("Part 5, one big batch", points=2, rounds=4)
def one_big_batch(draw: Draw, one_big_batch):
    losses, params, rho = _micro_batches(draw)
    kept, n = clones(params), len(losses)
    got = one_big_batch(losses, params, rho)
    climbs = [ascent(grad(loss)(kept), kept, rho) for loss in losses]
    right = sam_gradient(lambda p: sum(loss(p) for loss in losses) / n, kept, rho)[0]
    mistakes = {
        "every micro-batch climbed by itself: this is m-SAM": _mean([sam_gradient(f, kept, rho)[0] for f in losses]),
        "the sum was taken for the mean": each(lambda t: n * t, right),
        "this is the gradient without any ascent": _mean([grad(loss)(kept) for loss in losses]),
        "ε came from the first micro-batch alone": _mean([grad(loss)(add(kept, climbs[0])) for loss in losses]),
        "the normalized gradients were averaged: average first, then normalize": _mean(
            [grad(loss)(add(kept, _mean(climbs))) for loss in losses]
        ),
    }
    expect("the gradient of one big batch", got, right, looks_like=mistakes, tolerance=draw.tolerance)
    expect("params must stay as they were", params, kept)


@part("Part 5, m-SAM", points=2, rounds=4)
def own_ascents(draw: Draw, own_ascents):
    losses, params, rho = _micro_batches(draw)
    kept, n = clones(params), len(losses)
    got = own_ascents(losses, params, rho)
    single = [sam_gradient(loss, kept, rho)[0] for loss in losses]
    right = _mean(single)
    mistakes = {
        "one ε served all micro-batches: this is the big batch": sam_gradient(
            lambda p: sum(loss(p) for loss in losses) / n, kept, rho
        )[0],
        "the sum was taken for the mean": each(lambda t: n * t, right),
        "only the last micro-batch counts": single[-1],
        "this is the gradient without any ascent": _mean([grad(loss)(kept) for loss in losses]),
    }
    expect("the gradient of m-SAM", got, right, looks_like=mistakes, tolerance=draw.tolerance)
    expect("params must stay as they were", params, kept)
