"""Where the loss rises fastest: the worst step in a ball, to first order, one function for each shape of the ball.

Each is pure, an `Ascent`: it knows gradients, weights and radius, and maps over an ensemble, each model by itself.
A zero gradient gives a zero step; one that is not finite gives NaN.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor

from sam_lite.params import Params

Radius = float | Tensor  # a tensor without dimensions, such as one of many radii under vmap
Ascent = Callable[[Params, Params, Radius], Params]  # (grads, params, rho) -> e


def ascent(grads: Params, params: Params, rho: Radius) -> Params:
    """The worst e with ||e||_2 <= rho: e = rho g / ||g||_2, one norm for all tensors of a model.

    Foret, Kleiner, Mobahi, Neyshabur (ICLR 2021), eq. 2 with p = 2.
    """
    g = list(grads.values())
    length = torch.linalg.vector_norm(torch.stack(_each(torch._foreach_norm, torch.linalg.vector_norm, g)))
    e = _each(torch._foreach_div, torch.div, g, length.clamp(min=1e-30) / rho)  # 0 / 1e-30 is 0
    return dict(zip(grads, e, strict=True))


def adaptive_ascent(
    grads: Params, params: Params, rho: Radius, *, eta: float = 0.01, scaled: Callable[[str], bool] = lambda name: True
) -> Params:
    """The worst e with ||e / T||_2 <= rho, T = |w| + eta: e = rho T^2 g / ||T g||_2 (ASAM; Kwon et al., ICML 2021).

    If the layers of a ReLU net are rescaled by (a, 1/a), so is e: exactly with eta = 0. With eta > 0 zeros can move.
    T = 1 for names that are not `scaled`. By default all are; in the authors' code those that contain "weight" (SAM
    knows names if its base optimizer was given `model.named_parameters()`). rho is relative to |w|, so some 10 times
    that of `ascent`, and depends on the convention: 0.5 in the authors' code, 2.0 in a popular one without eta.
    """
    size = {name: w.abs() + eta if scaled(name) else torch.ones_like(w) for name, w in params.items()}
    e = ascent({name: size[name] * g for name, g in grads.items()}, params, rho)
    return {name: size[name] * e[name] for name in e}


def p_ascent(p: float) -> Ascent:
    """The worst e with ||e||_p <= rho: e = rho sign(g) |g|^(q-1) / (||g||_q^q)^(1/p), 1/p + 1/q = 1.

    Foret et al. (2021), eq. 2. p = 2 is `ascent`; p = inf moves every weight by rho; p = 1 only the one with the largest
    gradient (equally large ones share rho). Raises ValueError for p < 1, which is no norm.
    """
    in_bounds("p", p, 1)
    q = math.inf if p == 1 else 1 / (1 - 1 / p)

    def ascent(grads: Params, params: Params, rho: Radius) -> Params:
        largest = torch.stack([g.abs().max() for g in grads.values()]).max()
        unit = {name: g / largest.masked_fill(largest == 0, 1.0) for name, g in grads.items()}  # keeps powers in range
        total = sum((u.abs() ** q).sum() for u in unit.values()).clamp(min=1.0)  # less than 1 only if g = 0
        return {name: rho * u.sgn() * u.abs() ** (q - 1) / total ** (1 / p) for name, u in unit.items()}

    return ascent


def _each(together: Callable, single: Callable, tensors: list[Tensor], *args: Tensor) -> Sequence[Tensor]:
    """One operation for all tensors together, many times faster on a GPU; one for each under vmap, which has no such."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return together(tensors, *args)
    return [single(x, *args) for x in tensors]


def in_bounds(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless value is a number from low to high."""
    if not (isinstance(value, Real) and low <= value <= high):
        raise ValueError(f"{name} must be >= {low}{'' if high == math.inf else f' and <= {high}'}, got {value!r}")
