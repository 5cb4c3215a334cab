"""How much the loss rises near these weights: every definition of the lecture.

Each is `f(loss, params, radius, ...)` and says in which norm the radius is. The loss is all it knows: data, mode of the
layers, weight decay only where the loss has it in. Compare networks at equal loss: a result holds the loss it was taken
at. A list of losses, one for each chunk of equal size, means their mean, with one graph at a time in memory.
All but `box_sharpness_lbfgs` map: `vmap(lambda p: box_sharpness(loss, p, 1e-3).value, chunk_size=64)(ensemble)`.
Nothing is changed, no gradient is kept, and noise comes from a seed or is passed in: twice is the same.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad_and_value

from sam_lite.params import Loss, Params, from_vector, to_vector

Losses = Loss | Sequence[Loss]
Spread = Callable[[Tensor], Tensor]  # u (p,) in the unit box or ball -> displacement of the weights (n_params,)
Heights = list[Callable[[Tensor], Tensor]]  # the loss, or its chunks, over u

STATUS = ("converged", "iterations", "nonfinite")
# what a slope points to, how far two of these agree, the nearest point inside
BOX = (torch.sign, torch.mul, lambda u: u.clamp(-1, 1))


class Sharpness(NamedTuple):
    """The largest rise found, a lower bound of the largest there is."""

    value: Tensor  # scalar; inf or NaN where the loss is
    loss: Tensor  # scalar: at the centre
    status: Tensor  # STATUS[status]: settled to 1%, still rising at the last step, a loss that is not finite
    direction: Params  # from the centre to the point found


@torch.no_grad()
def box_sharpness(
    loss: Losses,
    params: Params,
    radius: float,
    *,
    directions: Tensor | None = None,
    start: Tensor | None = None,
    restarts: int = 1,
    steps: int = 15,
    seed: int = 0,
) -> Sharpness:
    """Keskar's sharpness: the highest loss in a small box around the weights, in percent of 1 + loss.

    phi = 100 (max f(x + A z) - f(x)) / (1 + f(x)) over the box |z_i| <= radius (|(A+ x)_i| + 1), A+ the pseudo-inverse
    (Keskar et al. 2017, Metric 2.1). radius: their epsilon, 1e-3 or 5e-4. directions: A (n_params, p), whose columns'
    length matters; None is A = I, the full space. start: in half widths, [-1, 1], (p,) or (restarts, p); or by `seed`.
    From 0 at an exact minimum nothing climbs: its slope is 0. The paper takes L-BFGS-B (`box_sharpness_lbfgs`). Here
    each weight climbs by the sign of its slope, from face to face, and less far once its slope has turned.
    At the minimum of a quadratic with diagonal H it is 100 radius^2 tr(H) / 2 / (1 + f): like a trace, no eigenvalue.
    Raises ValueError for a radius < 0 or NaN, restarts or steps < 1, wrong shapes.
    """
    spread, size = _box(params, radius, directions)
    starts = _noise("start", start, restarts, size, params, seed, _uniform).clamp(-1, 1)
    centre, best, status, z = _climb(_heights(loss, params, spread), starts, steps, BOX)
    return Sharpness(100 * (best - centre) / (1 + centre), centre, status, from_vector(spread(z), params))


@torch.no_grad()
def box_sharpness_lbfgs(
    loss: Losses,
    params: Params,
    radius: float,
    *,
    directions: Tensor | None = None,
    start: Tensor | None = None,
    steps: int = 10,
    seed: int = 0,
) -> Sharpness:
    """`box_sharpness` of one model as in the paper: `steps` iterations of L-BFGS-B (SciPy's), from a random point.

    Variables in half widths, first slope scaled to a mean of 1, tolerances 0: so that no unit matters.
    """
    spread, size = _box(params, radius, directions)
    heights = _heights(loss, params, spread)
    z = _noise("start", start, 1, size, params, seed, _uniform)[0].clamp(-1, 1)
    centre = best = _height(heights, torch.zeros_like(z))
    scale, best_z = 1 / (_slope(heights, z)[0].abs().mean().item() or 1.0), torch.zeros_like(z)

    def descend(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, best_z
        here = torch.from_numpy(u.copy()).to(z)
        slope, value = _slope(heights, here)
        best, best_z = torch.maximum(value, best), here if value > best else best_z
        return -scale * value.item(), -scale * slope.cpu().double().numpy()

    options = {"maxiter": _at_least_one("steps", steps), "ftol": 0.0, "gtol": 0.0}
    u = z.cpu().double().numpy()
    result = minimize(descend, u, jac=True, method="L-BFGS-B", bounds=[(-1, 1)] * size, options=options)
    status = torch.tensor(int(result.status != 0) if best.isfinite() else 2)
    return Sharpness(100 * (best - centre) / (1 + centre), centre, status, from_vector(spread(best_z), params))


def _box(params: Params, radius: float, directions: Tensor | None) -> tuple[Spread, int]:
    """From half widths of the box to displacements, and p."""
    x, radius = to_vector(params), _radius(radius)
    if directions is None:
        return lambda u: radius * (x.abs() + 1) * u, len(x)
    if directions.ndim != 2 or len(directions) != len(x):
        raise ValueError(f"directions must have shape (n_params, p) = ({len(x)}, p), got {tuple(directions.shape)}")
    directions = directions.to(x)
    half = radius * ((torch.linalg.pinv(directions) @ x).abs() + 1)
    return lambda u: directions @ (half * u), directions.shape[1]


def _heights(loss: Losses, params: Params, spread: Spread) -> Heights:
    x, parts = to_vector(params), [loss] if callable(loss) else list(loss)
    return [lambda u, part=part: part(from_vector(x + spread(u), params)) for part in parts]


def _height(heights: Heights, u: Tensor) -> Tensor:
    return sum(height(u) for height in heights) / len(heights)


def _slope(heights: Heights, u: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (p,) and value of the mean height."""
    slope = value = 0
    for height in heights:
        one, here = grad_and_value(height)(u)
        slope, value = slope + one / len(heights), value + here / len(heights)
    return slope, value


def _climb(heights: Heights, starts: Tensor, steps: int, shape: tuple) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best of the projected ascents from starts (n, p): height of the centre, best height, status, best point (p,)."""
    best_u = torch.zeros_like(starts[0])
    centre = best = _height(heights, best_u)
    settled = centre.isfinite()
    for start in starts:
        high, before, u = _climb_from(start, centre, heights, steps, *shape)
        settled = torch.where(high > best, before - centre >= 0.99 * (high - centre), settled)
        best_u, best = torch.where(high > best, u, best_u), torch.maximum(high, best)
    return centre, best, torch.where(best.isfinite(), (~settled).long(), 2), best_u


def _climb_from(u: Tensor, best: Tensor, heights: Heights, steps: int, towards, agree, project):
    """Best height, best before the last step, best point. Steps begin 2 long, the width of the box."""
    best_u, step, last = torch.zeros_like(u), torch.full_like(u, 2.0), torch.zeros_like(u)
    for _ in range(_at_least_one("steps", steps)):
        slope, value = _slope(heights, u)
        best_u, best = torch.where(value > best, u, best_u), torch.maximum(value, best)
        now = towards(slope)
        step = torch.where(agree(now, last) < 0, 0.7 * step, (1.2 * step).clamp(max=2.0))
        u, last = project(u + step * now), now
    value = _height(heights, u)
    return torch.maximum(value, best), best, torch.where(value > best, u, best_u)


def _uniform(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.uniform(-1, 1, shape)


def _noise(name: str, given: Tensor | None, rows: int, size: int, params: Params, seed: int, draw: Callable) -> Tensor:
    """What was given, or drawn (NumPy's: under vmap torch refuses to draw), as (rows, size) beside the parameters."""
    like = next(iter(params.values()))
    if given is None:
        given = torch.from_numpy(draw(np.random.default_rng(seed), (_at_least_one("restarts", rows), size)))
    if given.ndim not in (1, 2) or given.shape[-1] != size:
        raise ValueError(f"{name} must have shape ({size},) or (rows, {size}), got {tuple(given.shape)}")
    return given.to(like.device, like.dtype).reshape(-1, size)


def _radius(radius: float | Tensor) -> float | Tensor:
    if not isinstance(radius, Tensor) and not (isinstance(radius, int | float) and 0 <= radius < float("inf")):
        raise ValueError(f"radius must be a finite number >= 0, got {radius!r}")
    return radius


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return value
