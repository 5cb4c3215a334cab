"""Where the loss rises fastest: the worst step in a ball, to first order, one function for each shape of the ball.

Each is an `Ascent`: a pure function of gradients, weights and radius that maps over an ensemble. The length of the
gradient does not matter. A zero gradient gives a zero step; a gradient that is not finite gives NaN.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from sam_lite import require
from sam_lite.params import Params, in_range, nonzero

Radius: TypeAlias = float | Tensor  # a tensor without dimensions, such as one of many radii under vmap
Ascent = Callable[[Params, Params, Radius], Params]  # (grads, params, rho) -> e


def ascent(grads: Params, params: Params, rho: Radius) -> Params:
    """The worst e with ||e||_2 <= rho: e = rho g / ||g||_2, one norm for all tensors of a model.

    Args:
        grads: gradient g of the loss, name -> (*shape).
        params: weights, as every ascent is given them; not used here.
        rho: radius of the ball, in the units of the weights.

    Returns e, like `grads`. Foret, Kleiner, Mobahi, Neyshabur (ICLR 2021), eq. 2 with p = 2.

    >>> import torch
    >>> ascent({"w": torch.tensor([3.0, -4.0])}, {"w": torch.zeros(2)}, 0.5)["w"]
    tensor([ 0.3000, -0.4000])
    """
    g: Sequence[Tensor] = list(grads.values())
    size = _norm(g)
    if not _sure(size):  # first scale to a length whose square can be computed
        g = _each(torch._foreach_div, torch.div, g, in_range(size))
        size = nonzero(_norm(g))
    return dict(zip(grads, _each(torch._foreach_div, torch.div, g, size / rho), strict=True))


def adaptive_ascent(
    grads: Params, params: Params, rho: Radius, *, eta: float = 0.01, scaled: Callable[[str], bool] = lambda name: True
) -> Params:
    """The worst e with ||e / T||_2 <= rho, T = |w| + eta: e = rho T^2 g / ||T g||_2 (ASAM; Kwon et al., ICML 2021).

    If the layers of a ReLU net are rescaled by (a, 1/a), so is e: exactly with eta = 0. With eta > 0 zeros can move.
    T = 1 for names that are not `scaled`. By default all are; in the authors' code those that contain "weight" (SAM
    knows names if its base optimizer was given `model.named_parameters()`). rho is relative to |w|, so some 10 times
    that of `ascent`, and depends on the convention: 0.5 in the authors' code, 2.0 in a popular one without eta.
    Raises ValueError for eta < 0.
    """
    require.number("eta", eta, least=0)
    size = {name: w.abs() + eta if scaled(name) else torch.ones_like(w) for name, w in params.items()}
    u = ascent(grads, params, 1.0)
    e = ascent({name: size[name] * u[name] for name in u}, params, rho)
    return {name: size[name] * e[name] for name in e}


def p_ascent(p: float) -> Ascent:
    """The worst e with ||e||_p <= rho: e = rho sign(g) |g|^(q-1) / (||g||_q^q)^(1/p), 1/p + 1/q = 1.

    p = 2 is `ascent`; p = inf moves every weight by rho; p = 1 only the one with the largest gradient (equally large ones
    share rho).

    Args:
        p: of the norm, from 1 to math.inf; less is no norm and raises ValueError.

    Returns a function (grads, params, rho) -> e, to be used as `ascent`. Foret et al. (2021), eq. 2.

    >>> import math, torch
    >>> g, w = {"w": torch.tensor([3.0, -4.0])}, {"w": torch.zeros(2)}
    >>> p_ascent(math.inf)(g, w, 0.5)["w"], p_ascent(1)(g, w, 0.5)["w"]
    (tensor([ 0.5000, -0.5000]), tensor([ 0.0000, -0.5000]))
    """
    if p != math.inf:
        p = require.number("p", p, least=1, remedy="math.inf is allowed")
    return partial(_p_ascent, p=p, q=math.inf if p == 1 else 1 / (1 - 1 / p))


def _p_ascent(grads: Params, params: Params, rho: Radius, *, p: float, q: float) -> Params:
    largest = torch.stack([g.abs().max() for g in grads.values() if g.numel()]).max()
    u = {name: g / largest.masked_fill(largest == 0, 1.0) for name, g in grads.items()}  # keeps powers in range
    total = sum((x.abs() ** q).sum() for x in u.values()).clamp(min=1.0)  # less than 1 only if g = 0
    step = rho / total ** (1 / p) + 0 * total  # NaN for g that is not finite, whose sign is 0, and whose power 0 is 1
    return {name: x.sgn() * x.abs() ** (q - 1) * step for name, x in u.items()}


def checked(e: Params, params: Params) -> Params:
    """What an ascent returned, if it is a step for these parameters; else TypeError."""
    if not (isinstance(e, dict) and e.keys() == params.keys()):
        found = sorted(e) if isinstance(e, dict) else repr(e)
        raise TypeError(f"ascent must return a step for each gradient, a dict with keys {sorted(params)}, got {found}")
    for name, p in params.items():
        if getattr(e[name], "shape", None) != p.shape:
            raise TypeError(f"ascent must return tensors of the gradients' shapes, got {e[name]!r} for {name!r}")
    return e


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(_each(torch._foreach_norm, torch.linalg.vector_norm, tensors)))


def lengths(grads: Params) -> Tensor | None:
    """||g||_2 of every model, (n_models,), for stacked gradients; None where `ascent` would have to scale them first."""
    size = torch.stack([torch.linalg.vector_norm(g[..., None].flatten(1), dim=1) for g in grads.values()])
    size = torch.linalg.vector_norm(size, dim=0)
    return size if _sure(size) else None


def _sure(size: Tensor) -> bool:
    """Whether the squares are known to be in range. Only numbers on a CPU are read: reading a GPU's would wait for it."""
    if torch.compiler.is_compiling():
        return False
    while torch._C._functorch.is_functorch_wrapped_tensor(size):
        size = torch._C._functorch.get_unwrapped(size)
    if size.device.type != "cpu":
        return False
    root = torch.finfo(size.dtype).tiny ** 0.4
    return root < size.item() < 1 / root if size.ndim == 0 else all(root < one < 1 / root for one in size.tolist())


def _each(together: Callable, single: Callable, tensors: Sequence[Tensor], *args: Tensor) -> Sequence[Tensor]:
    """One operation for all tensors together, which is many times faster on a GPU; under vmap, one for each tensor."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return together(tensors, *args)
    return [single(x, *args) for x in tensors]
