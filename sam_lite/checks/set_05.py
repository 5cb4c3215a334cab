"""Checks of exercise 5: SAM, from the ascent to a step under any optimizer."""

import copy

import torch
from torch import nn
from torch.func import grad

from ..ascents import ascent
from ..params import add, loss_of, norm, params_of, to_vector
from ..sam import sam_gradient
from . import Draw, clones, expect, part, probe, unpack


def each(change, *dicts):
    return {name: change(*(one[name] for one in dicts)) for name in dicts[0]}


@part("Part 1", points=3)
def climb(draw: Draw, climb):
    g = {"weight": draw.normal(draw.whole(2, 5), draw.whole(2, 5)), "bias": 3 * draw.normal(draw.whole(2, 6))}
    rho, scale = draw.number(0.02, 0.5), float(norm(g))
    got = climb(g, rho)
    mistakes = {
        "you took the norm of each tensor by itself; the model has one norm": each(lambda t: rho * t / t.norm(), g),
        "the norms of the tensors were added: add their squares": each(
            lambda t: rho * t / sum(s.norm() for s in g.values()), g
        ),
        "the gradient is not normalized": each(lambda t: rho * t, g),
        "you divided by the square of the norm": each(lambda t: rho * t / scale**2, g),
        "rho is not used": each(lambda t: t / scale, g),
        "the step leads downhill": each(lambda t: -rho * t / scale, g),
    }
    right = each(lambda t: rho * t / scale, g)
    expect("ε", got, right, looks_like=mistakes)
    none = {"a small gradient was taken for none: only where it is exactly zero ε is zero": each(torch.zeros_like, g)}
    for size in (1e-9, 1e-15, 1e6):
        moved = each(lambda t, size=size: size * t, g)
        what = f"ε for a gradient {size:g} times as large (only its direction counts)"
        expect(what, climb(moved, rho), right, looks_like=none)
    zero = {"w": torch.zeros(3, dtype=draw.dtype), "b": torch.zeros(2, 2, dtype=draw.dtype)}
    expect("ε for a gradient of zero", climb(zero, rho), zero)


@part("Part 2, p = ∞", points=1)
def climb_inf(draw: Draw, climb_inf):
    rho = draw.number(0.1, 0.4)
    sizes = draw.away(draw.whole(3, 6), low=0.01, high=3.0)
    sizes[0], sizes[1], sizes[2] = rho / 5, -rho / 3, 0.0  # smaller than rho, and none
    g = {"a": sizes, "b": draw.away(draw.whole(1, 4), draw.whole(1, 3), low=0.01, high=5.0)}
    got = climb_inf(g, rho)
    top = max(t.abs().max() for t in g.values())
    mistakes = {
        "you divided by the largest entry: then only one weight moves by rho": each(lambda t: rho * t / top, g),
        "only the steepest weight moves: that is p = 1": each(
            lambda t: torch.where(t.abs() == top, rho * t.sign(), 0.0), g
        ),
        "the step leads downhill": each(lambda t: -rho * t.sign(), g),
        "this is p = 2": each(lambda t: rho * t / norm(g), g),
        "the gradient was cut off at rho: small entries move by rho, too": each(lambda t: t.clamp(-rho, rho), g),
        "a weight without a gradient moved: ε is zero there": each(
            lambda t: torch.where(t < 0, -rho, rho).to(t.dtype), g
        ),
        "a weight without a gradient moved down: ε is zero there": each(
            lambda t: torch.where(t > 0, rho, -rho).to(t.dtype), g
        ),
        "all weights move the same way: where is the sign of the gradient": each(lambda t: torch.full_like(t, rho), g),
    }
    expect("ε for p = ∞", got, each(lambda t: rho * t.sign(), g), looks_like=mistakes)


@part("Part 2, ASAM", points=3)
def climb_adaptive(draw: Draw, climb_adaptive):
    shapes = {"a": (draw.whole(2, 4),), "b": (draw.whole(1, 3), 2)}
    g, w = ({name: draw.away(*shape) for name, shape in shapes.items()} for _ in range(2))
    rho = draw.number(0.1, 0.9)
    got = climb_adaptive(g, w, rho)
    scaled = each(lambda w, g: w * g, w, g)
    length = norm(scaled)
    mistakes = {
        "one factor |w| is missing: this is δ, not ε": each(lambda w, g: rho * w.abs() * g / length, w, g),
        "the sign of w got into ε: use |w|": each(lambda w, g: rho * w.abs() * w * g / length, w, g),
        "you normalized with the plain gradient": each(lambda w, x: rho * w**2 * x / norm(g), w, g),
        "you normalized with w²g instead of |w|g": each(
            lambda v, g: rho * v**2 * g / norm(each(lambda w, s: w * s, w, scaled)), w, g
        ),
        "you took the norm of each tensor by itself": each(lambda w, g, s: rho * w**2 * g / s.norm(), w, g, scaled),
        "this is SAM: the weights are not used": each(lambda t: rho * t / norm(g), g),
    }
    right = each(lambda w, g: rho * w**2 * g / length, w, g)
    expect("ε of ASAM", got, right, looks_like=mistakes, tolerance=draw.tolerance)
    small = climb_adaptive(each(lambda t: 1e-6 * t, g), w, rho)
    what = "ε of ASAM for a gradient 1e-06 times as large (only its direction counts)"
    expect(what, small, right, tolerance=draw.tolerance)


@part("Part 3", points=3)
def gradient_of_sam(draw: Draw, gradient_of_sam):
    n = draw.whole(2, 4)
    root = draw.normal(n, n)
    H, tilt = root @ root.T + torch.eye(n, dtype=draw.dtype), draw.number(0.05, 0.2)

    def ravine(p):
        return p["w"] @ H @ p["w"] / 2 + tilt * (p["w"] ** 4).sum() + (p["w"][0] - p["b"]).pow(2).sum()

    params, rho = {"w": draw.normal(n), "b": draw.normal(2)}, draw.number(0.1, 0.5)
    got = gradient_of_sam(ravine, params, rho)
    slope = grad(ravine)
    g = slope(params)
    e = each(lambda t: rho * t / norm(g), g)
    right = slope(add(params, e))
    through = grad(lambda p: ravine(add(p, ascent(slope(p), p, rho))))(params)
    mistakes = {
        "this is the gradient at w: the second one is missing": g,
        "you went downhill instead of up": slope(add(params, e, -1.0)),
        "you added both gradients": add(g, right),
        "this is ε, not a gradient": e,
        "the ascent is not normalized": slope(add(params, g, rho)),
        "you took the norm of each tensor by itself": slope(add(params, each(lambda t: rho * t / t.norm(), g))),
        "you differentiated through ε as well: count it as a constant": through,
    }
    expect("the SAM gradient", got, right, looks_like=mistakes, tolerance=draw.tolerance)
    if draw.dtype == torch.float64:
        expect("without a radius SAM is gradient descent", gradient_of_sam(ravine, params, 0.0), g)


def _groups(weights):
    """The first layer, and all others with a rate of their own."""
    weights = list(weights)
    return [{"params": weights[:2]}, {"params": weights[2:], "lr": 0.05}]


OPTIMIZERS = {  # by round
    "SGD with momentum": lambda w, lr: torch.optim.SGD(w, lr=lr, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda w, lr: torch.optim.AdamW(w, lr=lr, weight_decay=0.3),
    "SGD with a rate for each layer": lambda w, lr: torch.optim.SGD(_groups(w), lr=2 * lr),
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


def _walk(model, make, batches, gradient, *, stays_up=0.0, late=False, calls=1, decays=True):
    """The weights that an optimizer reaches if `gradient` says what stands in .grad.

    stays_up: rho, if the step is made from w + ε; late: whether ε is taken away after it.
    """
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
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= e[name] if late else 0.0
    return clones(params_of(model))


def _step_and_mode(sam_step, model, x, y, optimizer, rho):
    return sam_step(model, x, y, optimizer, rho), model.training


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
    returned, training = unpack(probe(_step_and_mode, sam_step, model, *batches[0], optimizer, rho), "loss", "mode")
    first, w = loss_of(start, *batches[0]), params_of(start)
    mistakes = {
        "this is the loss at w + ε: keep that at w": lambda: first(add(w, ascent(grad(first)(w), w, rho))),
        "this is the loss after the step": lambda: first(params_of(model)),
    }
    expect("the returned loss", returned, first(w), looks_like=mistakes)
    right = lambda loss, w, left: sam_gradient(loss, w, rho)[0]  # noqa: E731
    plain = lambda w: torch.optim.SGD(w, lr=lr)  # noqa: E731
    walk = lambda how=right, make=make, n=1, **other: lambda: _walk(start, make, batches[:n], how, **other)  # noqa: E731

    def first_layer(loss, w, left):
        g = {name: t for name, t in grad(loss)(w).items() if name.startswith("0.")}
        return grad(loss)(w | each(lambda p, t: p + rho * t / norm(g), {name: w[name] for name in g}, g))

    wrong = {mistake: walk(how) for mistake, how in _gradients(decay, rho).items()} | {
        "the step was taken from w + ε: go back to w first": walk(stays_up=rho),
        "the way back came after the step: the optimizer's weight decay must see w": walk(stays_up=rho, late=True),
        "optimizer.step() was called twice": walk(calls=2),
        "the optimizer's own step is lost: leave the last line to optimizer.step()": walk(make=plain),
        "the optimizer's weight decay is lost": walk(decays=False),
        "only the first of the optimizer's groups climbed: all parameters of the model do": walk(first_layer),
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

    assert training, "the model must stay in training mode: you left it in eval()."
    for length in (1e-3, 1e4):
        _at_another_scale(draw, sam_step, length, rho, lr)

    model = copy.deepcopy(start).float()
    before = to_vector(params_of(model)).clone()
    x, y = batches[0]
    for _ in range(20):
        sam_step(model, x.float(), y, torch.optim.SGD(model.parameters(), lr=0.0), 0.5)
    drift = (to_vector(params_of(model)) - before).abs().max().item()
    assert drift == 0.0, (
        f"with a learning rate of 0 the weights must stay, to the bit, and moved by {drift:.1g}: copy them back."
    )


def _at_another_scale(draw, sam_step, length, rho, lr):
    """One step from a place with a gradient of about this length: nothing may be cut off at either end."""
    model, y = nn.Linear(3, 2, bias=False).double(), torch.tensor([0, 1, 0, 1])
    x = max(length, 1.0) * draw.away(1, 3, dtype=torch.float64, low=1.0).expand(4, 3)  # of both classes: no loss is 0
    with torch.no_grad():
        model.weight.copy_(min(length, 1.0) * draw.away(2, 3, dtype=torch.float64, low=1.0))
    start, plain = copy.deepcopy(model), lambda w: torch.optim.SGD(w, lr=lr)
    sam_step(model, x, y, plain(model.parameters()), rho)
    right = _walk(start, plain, [(x, y)], lambda loss, w, left: sam_gradient(loss, w, rho)[0])
    what = "a tiny" if length < 1 else "a huge"
    cut = {
        "the climb became too short: its length is ρ however small the gradient is": _walk(
            start, plain, [(x, y)], lambda loss, w, left: grad(loss)(add(w, grad(loss)(w), rho / 0.01))
        )
    }
    expect(f"the weights after a step from {what} gradient", params_of(model), right, looks_like=cut)


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
    n = len(losses)
    got = one_big_batch(losses, params, rho)
    climbs = [ascent(grad(loss)(params), params, rho) for loss in losses]
    right = sam_gradient(lambda p: sum(loss(p) for loss in losses) / n, params, rho)[0]
    mistakes = {
        "every micro-batch climbed by itself: this is m-SAM": _mean([sam_gradient(f, params, rho)[0] for f in losses]),
        "the sum was taken for the mean": each(lambda t: n * t, right),
        "this is the gradient without any ascent": _mean([grad(loss)(params) for loss in losses]),
        "ε came from the first micro-batch alone": _mean([grad(loss)(add(params, climbs[0])) for loss in losses]),
        "the normalized gradients were averaged: average first, then normalize": _mean(
            [grad(loss)(add(params, _mean(climbs))) for loss in losses]
        ),
    }
    expect("the gradient of one big batch", got, right, looks_like=mistakes, tolerance=draw.tolerance)


@part("Part 5, m-SAM", points=2, rounds=4)
def own_ascents(draw: Draw, own_ascents):
    losses, params, rho = _micro_batches(draw)
    n = len(losses)
    got = own_ascents(losses, params, rho)
    single = [sam_gradient(loss, params, rho)[0] for loss in losses]
    right = _mean(single)
    mistakes = {
        "one ε served all micro-batches: this is the big batch": sam_gradient(
            lambda p: sum(loss(p) for loss in losses) / n, params, rho
        )[0],
        "the sum was taken for the mean": each(lambda t: n * t, right),
        "only the last micro-batch counts": single[-1],
        "this is the gradient without any ascent": _mean([grad(loss)(params) for loss in losses]),
    }
    expect("the gradient of m-SAM", got, right, looks_like=mistakes, tolerance=draw.tolerance)
