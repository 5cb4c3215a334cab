"""Loss along lines and on planes.

A loss may return one tensor, or a tuple or dict of tensors (loss and accuracy, train and test); so does what is here.
Points are evaluated one after another without gradients, so any model fits that fits once. Pairs of an ensemble map:
`vmap(lambda start, end: line(loss, start, end, alphas))(starts, ends)`, (n_pairs, n_alphas).
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from sam_lite.params import Params, stack

Values = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
LossLike = Callable[[Params], Values]


def line(loss: LossLike, start: Params, end: Params, alphas: Iterable[float]) -> Values:
    """The loss on the straight line through `start` (alpha = 0) and `end` (alpha = 1), inside and beyond: (n_alphas,).

    f((1 - alpha) start + alpha end) (Keskar et al. 2017, figure 3), so both ends come back exactly.
    The batch statistics of a `loss_of` stay those of its model: for nets with batch norm use `batch_norm_line`.
    Raises ValueError for empty or infinite alphas and for ends of different names or shapes.
    """
    return _path(loss, start, end, [(1 - alpha, alpha) for alpha in _numbers("alphas", alphas)])


def arc(loss: LossLike, start: Params, end: Params, alphas: Iterable[float]) -> Values:
    """The loss on the curved path of Keskar et al. 2017, figure 7: f(cos(alpha pi/2) start + sin(alpha pi/2) end).

    It passes through `start` (alpha = 0) and `end` (alpha = 1) and, for orthogonal ends of one length, keeps that
    length on the way, where the straight line comes nearer to the origin. Raises as `line` does.
    """
    quarter = math.pi / 2
    return _path(loss, start, end, [(math.cos(a * quarter), math.sin(a * quarter)) for a in _numbers("alphas", alphas)])


@torch.no_grad()
def _path(loss: LossLike, start: Params, end: Params, weights: Sequence[tuple[float, float]]) -> Values:
    _check_alike("start", start, "end", end)
    return _stack([loss({name: s * p + e * end[name] for name, p in start.items()}) for s, e in weights])


def _stack(values: list[Values]) -> Values:
    """Values of one kind, each a tensor or a tuple or dict of tensors, along a new first axis."""
    if isinstance(values[0], dict):
        return stack(values)
    return tuple(map(torch.stack, zip(*values, strict=True))) if isinstance(values[0], tuple) else torch.stack(values)


def _numbers(name: str, values: Iterable[float]) -> list[float]:
    numbers = [float(v) for v in values]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be one or more finite numbers, got {numbers}")
    return numbers


def _check_alike(name: str, params: Params, other_name: str, other: Params) -> None:
    shapes, others = ({key: tuple(p.shape) for key, p in each.items()} for each in (params, other))
    if shapes != others:
        raise ValueError(f"{other_name} must have the names and shapes of {name}, {shapes}, got {others}")
