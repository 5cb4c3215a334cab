"""Loss along lines and on planes.

A loss may return one tensor, or a tuple or dict of tensors (loss and accuracy, train and test); the functions here return
the same kind. Points are evaluated one by one without gradients, so memory is that of one evaluation. Pairs of an
ensemble map: `vmap(lambda start, end: line(loss, start, end, alphas))(starts, ends)` is (n_pairs, n_alphas).
ValueError for no numbers or numbers that are not finite, for names or shapes that differ, and for a random loss.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sam_lite import pure, require
from sam_lite.params import Loss, Params, add, check_alike, dot, norm

Values: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


@torch.no_grad()
def line(loss: Loss, start: Params, end: Params, alphas: Iterable[float], *, curved: bool = False) -> Values:
    """The loss at (1 - alpha) start + alpha end, within and beyond the ends, where it is exactly theirs: (n_alphas,).

    Args:
        loss: the loss as a function of the weights; may return several numbers in a tensor.
        start, end: weights, name -> (*shape).
        alphas: the points, such as torch.linspace(-1, 2, 25).
        curved: at cos(alpha pi/2) start + sin(alpha pi/2) end instead.

    Keskar et al. 2017, figures 3 and 7.

    >>> import torch
    >>> line(lambda p: (p["w"] ** 2).sum(), {"w": torch.zeros(1)}, {"w": torch.ones(1)}, [0, 0.5, 1, 2])
    tensor([0.0000, 0.2500, 1.0000, 4.0000])

    A `loss_of` keeps its model's batch statistics all along: between batch-norm nets use `batchnorm.loss_between`.
    """
    check_alike(start, "end", end)
    _check_repeats(loss, start, end)
    turn = math.pi / 2
    around = lambda a: (math.cos(a * turn) if a % 2 != 1 else 0.0, math.sin(a * turn) if a % 2 else 0.0)  # noqa: E731
    pairs = [around(a) if curved else (1 - a, a) for a in _numbers("alphas", alphas)]

    def between(s: float, e: float) -> Params:
        if s == 0 or e == 0:  # the other end has no part, even if it is not finite
            return {name: s * p if e == 0 else e * end[name] for name, p in start.items()}
        return {name: s * p + e * end[name] for name, p in start.items()}

    with pure.kept_statistics(loss):
        return _stack([loss(between(s, e)) for s, e in pairs])


@torch.no_grad()
def plane(loss: Loss, center: Params, first: Params, second: Params, a: Iterable[float], b: Iterable[float]) -> Values:
    """The loss at center + a first + b second: (n_a, n_b); at a = b = 0 it is exactly that of `center`."""
    check_alike(center, "first", first)
    check_alike(center, "second", second)
    _check_repeats(loss, center, first, second)
    rows, columns = _numbers("a", a), _numbers("b", b)

    def moved(params: Params, direction: Params, by: float) -> Params:
        return add(params, direction, by) if by else params  # by 0, even if the direction is not finite

    with pure.kept_statistics(loss):
        return _stack([_stack([loss(moved(moved(center, first, s), second, t)) for t in columns]) for s in rows])


@torch.no_grad()
def random_directions(params: Params, seed: int, *, vectors: str = "zero") -> tuple[Params, Params, Tensor]:
    """Two random directions, filter-normalized, and the cosine between them.

    Each filter d_i has normal entries and is scaled to the length of that filter of the weights, d_i |w_i| / |d_i| (Li et
    al. 2018, section 4); filter i is w[i] of a matrix (n_out, n_in) or of a convolution. vectors: what happens to biases
    and norm layers, which have one axis at most: "zero" (they stay, as in the paper) or "scale" (each is one filter).
    Scaling makes random directions less orthogonal; the cosine says how much.
    """
    require.precision(params)
    if vectors not in ("zero", "scale"):
        raise ValueError(f"vectors must be 'zero' or 'scale', got {vectors!r}")
    if vectors == "zero" and all(w.ndim < 2 for w in params.values()):
        raise ValueError("params must have a filter to move, got vectors only; use vectors='scale'")
    generator = torch.Generator().manual_seed(require.whole("seed", seed, least=0, most=2**63 - 1))

    def draw(w: Tensor) -> Tensor:
        d = torch.randn(w.shape, generator=generator, dtype=w.dtype, device="cpu").to(w.device)
        of_w, of_d = (torch.linalg.vector_norm(t, dim=tuple(range(w.ndim > 1, w.ndim)), keepdim=True) for t in (w, d))
        return d * (of_w / of_d) * (w.ndim > 1 or vectors == "scale")

    first, second = ({name: draw(w) for name, w in params.items()} for _ in range(2))
    return first, second, dot(first, second) / (norm(first) * norm(second))


def _stack(values: Sequence) -> Any:
    if isinstance(values[0], dict):
        return {name: _stack([v[name] for v in values]) for name in values[0]}
    if isinstance(values[0], tuple):
        parts = map(_stack, zip(*values, strict=True))
        return values[0]._make(parts) if hasattr(values[0], "_make") else tuple(parts)  # named or not
    kinds = {float: torch.float64}  # as Python's are
    return torch.stack([v if isinstance(v, Tensor) else torch.as_tensor(v, dtype=kinds.get(type(v))) for v in values])


def _numbers(name: str, values: Iterable[float]) -> list[float]:
    single = not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0
    numbers = [] if single else [require.number(f"each of {name}", v) for v in values]
    if not numbers:
        raise require.error(name, "one or more finite numbers in a row", values)
    return numbers


def _check_repeats(loss: Loss, params: Params, *others: Params) -> None:
    require.loss_function(loss)
    for name, p in (item for each in (params, *others) for item in each.items()):
        require.constant(f"the weights {name!r}", p)
    if not getattr(loss, "checked", False) and pure.repeated(loss, params) is None:
        raise require.error("loss(params)", "a tensor, or a tuple or dict of tensors", None)
