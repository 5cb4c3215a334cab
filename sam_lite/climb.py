"""The highest point of a loss over a box or ball of weights.

A landscape is the loss, or the loss on each chunk of the data, over u (p,) in the unit box or ball; the mean is meant.
A climb is `(heights, u, base, steps) -> (point, height, settled)`: from u so many steps up. height >= base, the height
of the centre; settled if the last step brought less than 1% of the rise.
"""

from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad_and_value

from sam_lite.noise import at_least
from sam_lite.params import Loss, Params, add, from_vector

Losses = Loss | Sequence[Loss]
Spread = Callable[[Tensor], Tensor]  # u (p,) -> displacement of the weights (n_params,)
Heights = list[Callable[[Tensor], Tensor]]
Climb = Callable[[Heights, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]


def landscape(loss: Losses, params: Params, spread: Spread) -> Heights:
    """The loss, or each of a list of losses, over u, with the weights `params` at u = 0."""
    parts = [loss] if callable(loss) else list(loss)
    at_least("the number of losses", len(parts), 1)
    return [lambda u, part=part: part(add(params, from_vector(spread(u), params))) for part in parts]


def height(heights: Heights, u: Tensor) -> Tensor:
    return sum(each(u) for each in heights) / len(heights)


def slope(heights: Heights, u: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (p,) and value of the mean height, with one graph at a time in memory."""
    slopes, values = zip(*(grad_and_value(each)(u) for each in heights), strict=True)
    return sum(slopes) / len(heights), sum(values) / len(heights)


def search(heights: Heights, starts: Tensor, steps: int, method: Climb) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best of the climbs from starts (n_starts, p): its point, its height, that of the centre, and the status.

    Status 0: settled; 1: still rising; 2: met a height that is not finite, which is then inf or NaN.
    """
    at_least("steps", steps, 1)
    point = torch.zeros_like(starts[0])
    base = best = height(heights, point)
    settled = base.isfinite()
    for start in starts:
        there, high, settles = method(heights, start, base, steps)
        point, settled = torch.where(high > best, there, point), torch.where(high > best, settles, settled)
        best = torch.maximum(high, best)
    return point, best, base, torch.where(best.isfinite(), (~settled).long(), 2)


def box(heights: Heights, u: Tensor, base: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Steps along the slope that triple, until every entry goes by its sign from face to face; shorter once it turns."""

    def step(g: Tensor, t: int) -> Tensor:
        size = g.abs().mean()
        return (0.25 * 3.0 ** min(t, 30) * g / size.masked_fill(size == 0, 1)).clamp(-2, 2)

    return _ascend(heights, u, base, steps, step, torch.mul, lambda u: u.clamp(-1, 1))


def ball(heights: Heights, u: Tensor, base: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Steps along the slope, twice through the ball and back to its surface; shorter once two slopes oppose."""
    return _ascend(heights, u, base, steps, lambda g, t: 4 * unit(g), torch.dot, lambda u: u / length(u).clamp(min=1))


def _ascend(heights: Heights, u: Tensor, base: Tensor, steps: int, towards, agree, project):
    """Projected ascent without branches, so that it maps. Keeps the best point; the step grows again by and by."""
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

    The height is scaled so that the first slope has mean size 1, and the tolerances are 0: no unit matters.
    """
    point, best = torch.zeros_like(u), base
    scale = 1 / (slope(heights, u)[0].abs().mean().item() or 1.0)

    def descend(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal point, best
        here = torch.from_numpy(x.copy()).to(u)
        up, high = slope(heights, here)
        point, best = here if high > best else point, torch.maximum(high, best)
        return -scale * high.item(), -scale * up.cpu().double().numpy()

    options = {"maxiter": steps, "ftol": 0.0, "gtol": 0.0}
    start, bounds = u.cpu().double().numpy(), [(-1, 1)] * len(u)
    result = minimize(descend, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return point, best, torch.tensor(result.status == 0, device=u.device)


def length(u: Tensor) -> Tensor:
    return torch.linalg.vector_norm(u, dim=-1, keepdim=True)


def unit(u: Tensor) -> Tensor:
    """u (..., p) at length 1; 0 stays 0."""
    size = length(u)
    return u / size.masked_fill(size == 0, 1)


def checked(radius: float | Tensor) -> float | Tensor:
    """The radius, if it is one; a tensor, such as one of many under vmap, is taken as it is."""
    if not isinstance(radius, Tensor) and not (isinstance(radius, Real) and 0 <= radius < float("inf")):
        raise ValueError(f"radius must be a finite number >= 0, got {radius!r}")
    return radius
