"""How much the loss rises near these weights: every definition of the lecture.

Each is `f(loss, params, radius, ...)` and says in which norm the radius is measured. Compare networks at equal loss: each
result holds the loss at its centre. The loss decides about data, mode of the layers and weight decay. A list of losses,
one for each chunk, or pairs (loss, size) if the chunks differ (`params.shares`), means their mean, with one graph at a
time in memory. Nothing is changed. Noise comes from a seed or is passed in. All but `box_sharpness_lbfgs` map:
`vmap(lambda p: box_sharpness(loss, p, 1e-3).value, chunk_size=64)(ensemble)`.
ValueError for a radius < 0 or NaN, counts < 1, wrong shapes, a random loss, and half precision, also by `torch.autocast`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev

from sam_lite import climb, pure, require, sam
from sam_lite.ascents import checked
from sam_lite.noise import noise, nonzero
from sam_lite.params import Losses, Params, divisor, from_vector, shares, to_vector, unit

STATUS = climb.STATUS


class Sharpness(NamedTuple):
    value: Tensor  # scalar: the largest rise found, at most the largest there is; inf or NaN where the loss is
    loss: Tensor  # scalar: at the centre
    status: Tensor  # STATUS[status]: settled to 1%, still rising at the last step, met a loss that is not finite, found
    # no way up where there is one, or saw no differences above the rounding of the loss: then 0 does not mean flat, and
    # float64 may tell more (cross-entropy in float32 is known to 1e-7 of the logits, not of the loss)
    direction: Params  # from the centre to the point found


class Average(NamedTuple):
    value: Tensor  # scalar: mean rise
    loss: Tensor  # scalar: at the centre
    error: Tensor  # scalar: standard error of the mean
    status: Tensor  # STATUS[status]: all finite, some not finite, or no differences above the rounding of the loss


@torch.no_grad()
def box_sharpness(
    loss: Losses,
    params: Params,
    radius: float,
    *,
    directions: Tensor | None = None,
    starts: int | Tensor = 1,
    steps: int = 15,
    seed: int = 0,
    method: climb.Climb = climb.box,
) -> Sharpness:
    """Keskar's sharpness: the highest loss in a small box around the weights, in percent of 1 + loss.

    phi = 100 (max f(x + A z) - f(x)) / (1 + f(x)) over the box |z_i| <= radius (|(A+ x)_i| + 1), A+ the pseudo-inverse
    (Keskar et al. 2017, Metric 2.1). radius: their epsilon, 1e-3 or 5e-4. directions: A (n_params, p), whose columns'
    length matters; None is A = I, the full space. starts: points in half widths, [-1, 1], (n_starts, p), or how many of
    `seed`; not 0 at an exact minimum, where nothing climbs. The paper climbs by L-BFGS-B, as `box_sharpness_lbfgs`.
    At the minimum of a quadratic with diagonal H it is 100 radius^2 tr(H) / 2 / (1 + f): like a trace, no eigenvalue.
    NaN for a loss of -1 or less, which a likelihood of densities may have: use `worst_sharpness`, which is no percentage.
    """
    radius = require.number("radius", radius, least=0)
    spread, size = _box(to_vector(params), radius, directions)
    points = noise("starts", starts, params, seed, size=size, law=lambda rng, size: rng.uniform(-1, 1, size))
    found = _rise(loss, params, radius, spread, points.clamp(-1, 1), steps, method)
    return found._replace(value=torch.where(found.loss > -1, 100 * found.value / (1 + found.loss), torch.nan))


def box_sharpness_lbfgs(
    loss: Losses,
    params: Params,
    radius: float,
    *,
    directions: Tensor | None = None,
    starts: int | Tensor = 1,
    steps: int = 10,
    seed: int = 0,
) -> Sharpness:
    """`box_sharpness` as in the paper: by 10 iterations of L-BFGS-B (SciPy's), for one model, not under vmap."""
    where = {"directions": directions, "starts": starts, "steps": steps, "seed": seed}
    return box_sharpness(loss, params, radius, method=climb.lbfgs, **where)


@torch.no_grad()
def worst_sharpness(
    loss: Losses,
    params: Params,
    radius: float,
    *,
    adaptive: bool = False,
    starts: int | Tensor = 3,
    steps: int = 20,
    seed: int = 0,
) -> Sharpness:
    """The largest rise within a distance: max of L(w + e) - L(w) over ||e||_2 <= radius (Foret et al. 2021, eq. 1).

    Args:
        loss: the loss as a function of the weights, or a list of them: see the top of this file.
        params: weights w, name -> (*shape).
        radius: of the ball, in the units of the weights.
        adaptive: over ||e / |w| ||_2 <= radius instead, which rescaling a ReLU network does not change (Kwon et al. 2021,
            eta = 0).
        starts: from how many directions the search climbs, or these, (n_starts, n_params): more find more.
        steps: of projected ascent from each.
        seed: of the directions.

    Returns Sharpness(value, loss, status, direction): the largest rise found. At a minimum with Hessian H it is radius^2
    / 2 times the largest eigenvalue, nearly, as power iteration finds it.

    >>> import torch
    >>> loss = lambda p: (torch.tensor([1.0, 5.0, 3.0]) * p["w"] ** 2).sum() / 2
    >>> found = worst_sharpness(loss, {"w": torch.zeros(3)}, radius=0.1)
    >>> found.value, STATUS[found.status]
    (tensor(0.0250), 'converged')
    """
    radius, points = require.number("radius", radius, least=0), unit(noise("starts", starts, params, seed))
    return _rise(loss, params, radius, _ball(params, radius, adaptive), points, steps, climb.ball)


@torch.no_grad()
def ascent_sharpness(loss: Losses, params: Params, radius: float, *, ascent: sam.Ascent = sam.ascent) -> Sharpness:
    """The rise that SAM sees: L(w + e) - L(w) with e = ascent(gradient, w, radius) (Foret et al. 2021, eq. 2).

    Args:
        loss, params: as in `worst_sharpness`.
        radius: in the norm of `ascent`.
        ascent: any of `sam_lite.ascents`.

    Returns Sharpness. Its value is 0 where the gradient is 0. Close to a minimum it is radius^2 / 2 times a mean of the
    non-zero eigenvalues, which depends on the direction of approach; the smallest is its lower limit (Wen, Ma, Li
    2023, theorem 4.2).

    >>> import torch
    >>> loss = lambda p: (torch.tensor([1.0, 5.0]) * p["w"] ** 2).sum() / 2
    >>> ascent_sharpness(loss, {"w": torch.tensor([1e-3, 0.0])}, radius=0.1).value
    tensor(0.0051)
    """
    radius = require.number("radius", radius, least=0)
    heights, centre = climb.landscape(loss, params, lambda u: u), torch.zeros_like(to_vector(params))
    gradient, base = climb.slope(heights, centre)
    direction = checked(ascent(from_vector(gradient, params), params, radius), params)
    value = climb.height(heights, to_vector({name: direction[name] for name in params})) - base
    return Sharpness(value, base, _status(value, base, radius), direction)


@torch.no_grad()
def average_sharpness(
    loss: Losses, params: Params, radius: float, *, adaptive: bool = False, samples: int | Tensor = 100, seed: int = 0
) -> Average:
    """The mean rise at a distance: L(w + radius u) - L(w), over u uniform on the unit sphere, and its standard error.

    Args:
        loss, params, radius: as in `worst_sharpness`.
        adaptive: the mean of L(w + radius |w| u), entry by entry.
        samples: how many directions u, at least 2, or these, (n_samples, n_params).
        seed: of the directions.

    Returns Average(value, loss, error, status). At a minimum with Hessian H the value is radius^2 / 2 times the mean
    eigenvalue (Wen, Ma, Li 2023, theorem 4.2).

    >>> import torch
    >>> loss = lambda p: (torch.tensor([1.0, 5.0, 3.0]) * p["w"] ** 2).sum() / 2
    >>> found = average_sharpness(loss, {"w": torch.zeros(3)}, radius=0.1, samples=10_000)
    >>> bool((found.value - 0.015).abs() < 4 * found.error)
    True
    """
    radius, rows = require.number("radius", radius, least=0), noise("samples", samples, params, seed)
    require.whole("samples", len(rows), least=2)
    points = unit(nonzero("samples", rows, (rows == 0).all(1, keepdim=True)))
    heights = climb.landscape(loss, params, _ball(params, radius, adaptive))
    base = climb.height(heights, torch.zeros_like(points[0]))
    rises = torch.stack([climb.height(heights, u) for u in points]) - base
    status = torch.where(rises.isfinite().all(), _status(rises.abs().amax(), base, radius), 2)
    return Average(rises.mean(), base, rises.std() / len(points) ** 0.5, status)


def m_sharpness(losses: Losses, params: Params, radius: float, *, measure: Callable = worst_sharpness) -> Tensor:
    """Mean over batches of m, each a loss with its own worst point (Foret et al. 2021). measure: any function above."""
    found = [(share, measure(loss, params, radius)) for loss, share in shares(losses)]
    if not all(hasattr(one, "value") for _, one in found):
        raise TypeError(f"measure must return a result with a value, as the functions above, got {found[0][1]!r}")
    return sum(share * one.value for share, one in found)


@torch.no_grad()
def box_flatness(outputs: Callable[[Params], Tensor], params: Params, tolerance: float) -> tuple[Tensor, Params]:
    """Description length B of the weights, small if flat, and half widths of their box (Hochreiter & Schmidhuber 1997).

    outputs: the K outputs for one input, not a loss. In the box sum_k (change of output k)^2 <= tolerance, to first
    order, with equal shares of all weights: with J = d outputs / dw, s_i^2 = sum_k J_ki^2, S = sum_k (sum_i |J_ki| / s_i)^2
    the widths are (tolerance / S)^1/2 / s_i and B = (-n log tolerance + sum_i log s_i^2 + n log S) / 2, minus the sum
    of their logarithms. A weight without influence has width inf and no part in B.
    """
    tolerance = require.number("tolerance", tolerance, least=0)
    require.measured(params)
    pure.repeated(outputs, params)
    flat = pure.differentiable(lambda x: outputs(from_vector(x, params)).flatten())
    with pure.without(torch.backends.mkldnn):  # whose LSTM cannot go back for all outputs at once
        jacobian = jacrev(flat)(to_vector(params))  # (K, n_params)
    scale = divisor(jacobian.abs().amax(0))  # of each weight, so that the squares below stay in range
    jacobian = torch.where(scale == 0, 0, jacobian / scale)
    influence = torch.linalg.vector_norm(jacobian, dim=0)
    shares = torch.where(influence == 0, 0, jacobian.abs() / influence).sum(1)
    widths = tolerance**0.5 / (influence * torch.linalg.vector_norm(shares)) / scale
    return -torch.where(influence == 0, 0, widths.log()).sum(), from_vector(widths, params)


def _rise(losses: Losses, params: Params, radius: float, spread: climb.Spread, starts: Tensor, steps: int, method):
    u, best, base, status = climb.search(climb.landscape(losses, params, spread), starts, steps, method)
    status = torch.where((status == 4) & (radius == 0), 0, status)
    return Sharpness(best - base, base, status, from_vector(spread(u), params))


def _status(rise: Tensor, base: Tensor, radius: float) -> Tensor:
    """The status of a rise that needs no search; within radius 0 there is none."""
    sure = climb.resolved(rise, base) | (radius == 0)
    return torch.where(rise.isfinite(), torch.where(sure, 0, 4), 2)


def _ball(params: Params, radius: float, adaptive: bool) -> climb.Spread:
    size = radius * (to_vector(params).abs() if adaptive else 1)
    return lambda u: size * u


def _box(x: Tensor, radius: float, directions: Tensor | None) -> tuple[climb.Spread, int]:
    if directions is None:  # u in half widths of the box -> displacement; p
        return lambda u: radius * (x.abs() + 1) * u, len(x)
    if not isinstance(directions, Tensor) or directions.ndim != 2 or len(directions) != len(x):
        found = tuple(directions.shape) if isinstance(directions, Tensor) else type(directions)
        raise ValueError(f"directions must be a tensor of shape (n_params, p) = ({len(x)}, p), got {found}")
    directions = directions.to(x)
    half = radius * ((torch.linalg.pinv(directions) @ x).abs() + 1)
    return lambda u: directions @ (half * u), directions.shape[1]
