"""What else could explain SAM's gain: its rivals, in one loop for many models, each with data of its own.

A rival differs from gradient descent in the *direction* of a step, a function (gradient, params, x, y, step) -> Params, or
in what comes *after* a step, a function (fast, slow, step) -> (fast, slow): `fast` goes on learning, `slow` is the answer.
Everything is stacked, name -> (n_models, *shape), as in `stacked`. Steps are counted from 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import vmap

from sam_lite import require
from sam_lite.ascents import Ascent, ascent
from sam_lite.params import Params, add

Gradient: TypeAlias = Callable[[Params, Tensor, Tensor], Params]
Direction: TypeAlias = Callable[[Gradient, Params, Tensor, Tensor, int], Params]
After: TypeAlias = Callable[[Params, Params, int], tuple[Params, Params]]


class Descent(NamedTuple):
    """params: name -> (n_models, *shape). gradients: how many of a batch each model has computed."""

    params: Params
    gradients: int


def plain(gradient: Gradient, params: Params, x: Tensor, y: Tensor, step: int) -> Params:
    """The direction of SGD."""
    return gradient(params, x, y)


def newest(fast: Params, slow: Params, step: int) -> tuple[Params, Params]:
    """After a step: the answer is where the step has led."""
    return fast, fast


def descend(
    gradient: Gradient,
    params: Params,
    x: Tensor,
    y: Tensor,
    *,
    lr: float,
    batch_size: int,
    steps: int,
    seed: int = 0,
    direction: Direction = plain,
    after: After = newest,
    schedule: Callable[[float], float] | None = None,
) -> Descent:
    """Go down from `params`, on batches that are drawn with replacement.

    Args:
        gradient: such as `stacked.gradient(model)`.
        params: where to start, name -> (n_models, *shape).
        x, y: training data of each model, (n_models, n, *features) and (n_models, n).
        lr: learning rate.
        batch_size: examples a step, of each model.
        steps: how many.
        seed: of the batches.
        direction, after: the rival.
        schedule: schedule(t), for t from 0 to 1 in the course of the training, multiplies the learning rate.

    ValueError: settings out of bounds, x and y that do not go with params, a gradient that leaves some parameters out.
    """
    lr, size = require.number("lr", lr, above=0), require.whole("batch_size", batch_size)
    n_models, steps = len(next(iter(params.values()))), require.whole("steps", steps)
    if x.shape[:2] != y.shape[:2] or len(x) != n_models or not x.shape[1]:
        found = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise require.error(
            "x and y", f"({n_models}, n, *features) and ({n_models}, n), data for each model, n >= 1", found
        )
    dice, rows = torch.Generator().manual_seed(require.seed(seed)), torch.arange(n_models, device="cpu")[:, None]
    params = {name: p.detach().clone() for name, p in params.items()}  # without a graph, that would grow, and our own
    fast, slow, calls = params, params, 0

    def counted(params: Params, x: Tensor, y: Tensor) -> Params:
        nonlocal calls
        calls, found = calls + 1, gradient(params, x, y)
        if frozen := sorted(params.keys() - found.keys()):
            raise require.error("gradient", "one by all parameters", f"none by {frozen}", "freeze no layer")
        return found

    for step in range(1, steps + 1):
        index = torch.randint(x.shape[1], (n_models, size), generator=dice, device="cpu").to(x.device)
        down = direction(counted, fast, x[rows, index], y[rows, index], step)
        factor = schedule((step - 1) / steps) if schedule else 1.0
        require.number("what schedule returns", factor, least=0)
        fast = add(fast, down, -lr * factor)
        fast, slow = after(fast, slow, step)
    return Descent(slow, calls)


def fall(t: float) -> float:
    """A learning rate that falls to zero along a cosine."""
    return (1 + math.cos(math.pi * t)) / 2


# ---------------------------------------------------------------- other directions


def sam(rho: float, ascent: Ascent = ascent, mix: float = 1.0) -> Direction:
    """(1 - mix) g(w) + mix g(w + e), with e = ascent(g(w), w, rho). mix = 1: SAM.

    To first order in rho this is the gradient of L + mix rho ||g||, a penalty on the gradient's norm (Zhao, Zhang and Hu,
    ICML 2022), who mix the two gradients like this.
    """
    rho, mix = require.number("rho", rho, least=0), require.number("mix", mix, least=0)

    def direction(gradient: Gradient, params: Params, x: Tensor, y: Tensor, step: int) -> Params:
        g = gradient(params, x, y)
        up = gradient(add(params, vmap(lambda g, w: ascent(g, w, rho))(g, params)), x, y)
        return up if mix == 1 else {name: torch.lerp(g[name], up[name], mix) for name in g}

    return direction


def noise(rho: float, seed: int = 0) -> Direction:
    """g(w + e), with e of length rho in a random direction, drawn anew from `seed` in each descent: one gradient a step."""
    rho, seed, dice = require.number("rho", rho, least=0), require.seed(seed), torch.Generator()
    last, caller = math.inf, None

    def direction(gradient: Gradient, params: Params, x: Tensor, y: Tensor, step: int) -> Params:
        nonlocal last, caller
        if step < last or (step == last and gradient is not caller):  # another descent has begun
            dice.manual_seed(seed)
        last, caller = step, gradient
        drawn = {name: torch.randn(p.shape, generator=dice, device="cpu").to(p) for name, p in params.items()}
        e = vmap(lambda g: ascent(g, g, rho))(drawn)  # scaled to length rho
        return gradient(add(params, e), x, y)

    return direction


def sometimes(rare: Direction, when: Callable[[int], bool]) -> Direction:
    """`rare` in the steps for which when(step) is true, else the direction of SGD."""
    return lambda gradient, params, x, y, step: (rare if when(step) else plain)(gradient, params, x, y, step)


def layer_ascent(grads: Params, params: Params, rho: float | Tensor) -> Params:
    """e = rho ||w|| g / ||g|| for each weight matrix by itself, and 0 for biases: adversarial weight perturbation.

    One step of Wu, Xia and Wang (NeurIPS 2020), without their adversarial inputs; rho is their gamma, a share
    of the norm of each layer, not a distance. A zero gradient gives a zero step.
    """
    zero = {name: torch.zeros_like(g) for name, g in grads.items()}
    matrices = [name for name, g in grads.items() if g.ndim > 1]
    return zero | {
        name: ascent({name: grads[name]}, params, rho * torch.linalg.vector_norm(params[name]))[name]
        for name in matrices
    }


def decayed(weight_decay: float) -> Direction:
    """g + weight_decay w."""
    require.number("weight_decay", weight_decay, least=0)
    return lambda gradient, params, x, y, step: add(gradient(params, x, y), params, weight_decay)


# ---------------------------------------------------------------- after a step


def ema(decay: float) -> After:
    """slow = decay slow + (1 - decay) fast: an exponential moving average of the weights."""
    decay = require.number("decay", decay, least=0, below=1)
    return lambda fast, slow, step: (fast, {name: torch.lerp(fast[name], s, decay) for name, s in slow.items()})


def swa(start: int, every: int = 1) -> After:
    """slow = the mean of every `every`-th weights after step `start` (Izmailov and others, UAI 2018); until then fast."""
    start, every = require.whole("start", start, least=0), require.whole("every", every)

    def after(fast: Params, slow: Params, step: int) -> tuple[Params, Params]:
        n, rest = divmod(step - start, every)  # n: how many have been averaged
        if n < 1:
            return fast, fast
        return fast, slow if rest else {name: torch.lerp(s, fast[name], 1 / n) for name, s in slow.items()}

    return after


def lookahead(every: int, alpha: float) -> After:
    """Every `every` steps slow goes a share alpha of the way to fast, and fast goes on from there (Zhang and others 2019)."""
    every, alpha = require.whole("every", every), require.number("alpha", alpha, above=0, most=1)

    def after(fast: Params, slow: Params, step: int) -> tuple[Params, Params]:
        if step % every:
            return fast, slow
        slow = {name: torch.lerp(s, fast[name], alpha) for name, s in slow.items()}
        return slow, slow

    return after
