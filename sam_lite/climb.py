"""The highest point of a loss over a box or ball of weights.

`Heights` are the loss, or the losses of chunks of the data with their shares, as functions of u (p,) in the unit box or
ball; their mean is meant. A climb is a function `(heights, u, base, steps) -> (point, height, ended)` that makes `steps`
steps up from u. base is the height of the centre, and height >= base. ended is a number of STATUS, or True for 0 (the
last step brought less than 1% of the rise) and False for 1.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad_and_value

from sam_lite import pure, require
from sam_lite.params import Loss, Losses, Params, add, from_vector, shares, unit

Spread = Callable[[Tensor], Tensor]  # u (p,) -> displacement of the weights (n_params,)
Heights = list[tuple[Callable[[Tensor], Tensor], float]]  # and the share of each in the mean
Climb = Callable[[Heights, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]
STATUS = ("converged", "iterations", "nonfinite", "failed", "below resolution")


def landscape(losses: Losses, params: Params, spread: Spread) -> Heights:
    """The loss, or each of a list of losses, over u, with the weights `params` at u = 0."""

    def over(loss: Loss) -> Callable[[Tensor], Tensor]:
        pure.check(loss, params)

        def at(u: Tensor) -> Tensor:
            return loss(add(params, from_vector(spread(u), params)))

        at.checked = getattr(loss, "checked", False)  # type: ignore[attr-defined]
        return at

    return [(over(loss), share) for loss, share in shares(losses)]


def height(heights: Heights, u: Tensor) -> Tensor:
    with _kept(heights):
        return sum(share * each(u) for each, share in heights)


def slope(heights: Heights, u: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (p,) and value of the mean height, with one graph at a time in memory."""
    with _kept(heights):
        found = [(share, *grad_and_value(pure.differentiable(each))(u)) for each, share in heights]
    return sum(share * g for share, g, _ in found), sum(share * value for share, _, value in found)


def _kept(heights: Heights) -> AbstractContextManager:
    """Around a derivative, not in it: the way back needs the buffers as the way forward left them."""
    return pure.kept_statistics(*(each for each, _ in heights))


def search(heights: Heights, starts: Tensor, steps: int, method: Climb) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best of the climbs from starts (n_starts, p): its point, its height, that of the centre, and the STATUS.

    STATUS 2: a height is not finite. 3, "failed": the climb says so, or the centre lies on a slope and yet no climb found
    a higher point. 4, "below resolution": all heights equal that of the centre to within a hundred roundings.
    """
    steps = require.whole("steps", steps)
    point = torch.zeros_like(starts[0])
    base = best = height(heights, point)
    flat, seen = (slope(heights, point)[0] == 0).all(), torch.zeros_like(base)
    status = worst = torch.zeros_like(base, dtype=torch.long)
    for start in starts:
        found = method(heights, start, base, steps)
        if not (isinstance(found, tuple) and len(found) == 3):
            raise TypeError(f"method must return (point, height, ended), got {found!r}")
        there, high, ended = found[0], *(torch.as_tensor(one, device=base.device) for one in found[1:])
        ended = (~ended).long() if ended.dtype == torch.bool else ended
        point, status = torch.where(high > best, there, point), torch.where(high > best, ended, status)
        best, worst = torch.maximum(high, best), torch.maximum(ended, worst)
        seen = torch.maximum(seen, (height(heights, start) - base).abs())
    status = torch.where(best > base, status, torch.where(flat, worst, 3))
    status = torch.where(resolved(torch.maximum(seen, best - base), base), status, 4)
    return point, best, base, torch.where(best.isfinite(), status, 2)


def resolved(difference: Tensor, height: Tensor) -> Tensor:
    """Whether a difference of heights near `height` is known to 1% despite rounding; 0 never is, NaN counts as known."""
    return ~(difference.abs() <= 100 * torch.finfo(height.dtype).eps * height.abs())


def box(heights: Heights, u: Tensor, base: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Climb in the box: the step triples until every coordinate jumps from face to face, and shrinks when the slope turns."""

    def step(g: Tensor, t: int) -> Tensor:
        g = unit(g)  # whose mean can be taken, whatever the unit of the loss
        size = g.abs().mean()
        return (0.25 * 3.0 ** min(t, 30) * g / size.masked_fill(size == 0, 1)).clamp(-2, 2)

    return _ascend(heights, u, base, steps, step, torch.mul, lambda u: u.clamp(-1, 1))


def ball(heights: Heights, u: Tensor, base: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Climb in the ball: steps of its diameter, then back to its surface; they shrink when two slopes oppose each other."""

    def project(u: Tensor) -> Tensor:
        return u / torch.linalg.vector_norm(u).clamp(min=1)

    return _ascend(heights, u, base, steps, lambda g, t: 4 * unit(g), torch.dot, project)


def _ascend(heights: Heights, u: Tensor, base: Tensor, steps: int, towards, agree, project):
    """Projected ascent without branches, so that it maps. It keeps the best point; the step recovers gradually."""
    point, best, size, last = torch.zeros_like(u), base, torch.ones_like(u), torch.zeros_like(u)
    for t in range(steps):
        up, high = slope(heights, u)
        point, best = torch.where(high > best, u, point), torch.maximum(high, best)
        step = towards(up, t)
        size = torch.where(agree(step, last) < 0, 0.7 * size, (1.1 * size).clamp(max=1))
        u, last = project(u + size * step), step
    high = height(heights, u)
    settled = best - base >= 0.99 * (high - base)
    return torch.where(high > best, u, point), torch.maximum(high, best), settled


def lbfgs(heights: Heights, u: Tensor, base: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """L-BFGS-B (SciPy) over the box: one landscape at a time, not under vmap.

    The heights are scaled so that the first slope has mean size 1, and all tolerances are 0: so units do not matter.
    """
    point, best = torch.zeros_like(u), base
    scale = 1 / (slope(heights, u)[0].cpu().double().abs().mean().item() or 1.0)

    def descend(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal point, best
        here = torch.from_numpy(x.copy()).to(u)
        up, high = slope(heights, here)
        point, best = here if high > best else point, torch.maximum(high, best)
        return -scale * high.item(), -scale * up.cpu().double().numpy()

    options = {"maxiter": steps, "ftol": 0.0, "gtol": 0.0}
    start, bounds = u.cpu().double().numpy(), [(-1, 1)] * len(u)
    result = minimize(descend, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return point, best, torch.tensor({0: 0, 1: 1}.get(result.status, 3), device=u.device)
