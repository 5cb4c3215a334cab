"""Parameters as a dict of tensors, and the loss as a function of them.

Everything in `sam_lite` is said with two types:

    Params = dict[str, Tensor]            one model: name -> (*shape)
                                          an ensemble: name -> (n_models, *shape)
    Loss   = Callable[[Params], Tensor]   scalar and pure: no state, no randomness, no `.item()`

A loss needs no data and no model class: `lambda p: (p["w"] ** 2).sum()` is one.
A function written for one model maps over an ensemble with `torch.func.vmap`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Params = dict[str, Tensor]
Loss = Callable[[Params], Tensor]


def params_of(model: nn.Module) -> Params:
    """Detached copies of a model's parameters; a tied parameter appears once."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@torch.no_grad()
def load_params(model: nn.Module, params: Params) -> nn.Module:
    """Copy `params` into `model` in place and return the model."""
    own = dict(model.named_parameters())
    if own.keys() != params.keys():
        raise ValueError(f"params must have the names of the model, {sorted(own)}, got {sorted(params)}")
    for name, p in own.items():
        if p.shape != params[name].shape:
            raise ValueError(f"params[{name!r}] must have shape {tuple(p.shape)}, got {tuple(params[name].shape)}")
        p.copy_(params[name])
    return model


def loss_of(
    model: nn.Module, x: Tensor, y: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> Loss:
    """The model's loss on the batch (x, y) as a pure function of its parameters.

    x: (n, *features), y: (n,) labels or (n, *targets) values. Buffers (batch-norm statistics) are read, never
    written: every call works on copies of those the model had here. Weight decay is not part of it.
    Raises ValueError for a model with active dropout, whose loss would be random.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training and layer.p > 0:
            raise ValueError(
                f"a loss must not be random, but layer {name!r} is {layer} in training mode; call model.eval() first"
            )
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}

    def loss(params: Params) -> Tensor:
        state = params | {name: b.clone() for name, b in buffers.items()}
        return criterion(functional_call(model, state, (x,)), y)

    return loss


def stack(members: Sequence[Params]) -> Params:
    """Many models of one shape as one ensemble: name -> (n_models, *shape)."""
    if not members:
        raise ValueError("members must hold at least one model, got none")
    return {name: torch.stack([m[name] for m in members]) for name in members[0]}


def member(params: Params, i: int) -> Params:
    """Model number `i` of an ensemble (views, no copies)."""
    return {name: p[i] for name, p in params.items()}


def to_vector(params: Params) -> Tensor:
    """All entries in one vector, (n_params,), in the order of the dict."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def from_vector(vector: Tensor, like: Params) -> Params:
    """The inverse of `to_vector`: cut (n_params,) into the names and shapes of `like`."""
    n = count(like)
    if vector.shape != (n,):
        raise ValueError(f"vector must have shape ({n},) to fill these parameters, got {tuple(vector.shape)}")
    parts = vector.split([p.numel() for p in like.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(like.items(), parts, strict=True)}


def count(params: Params) -> int:
    """Number of scalar parameters of one model."""
    return sum(p.numel() for p in params.values())


def add(params: Params, direction: Params, scale: float | Tensor = 1.0) -> Params:
    """params + scale * direction, name by name."""
    return {name: p + scale * direction[name] for name, p in params.items()}


def dot(a: Params, b: Params) -> Tensor:
    """The inner product over all tensors together (a scalar)."""
    return sum((a[name] * b[name]).sum() for name in a)


def norm(params: Params) -> Tensor:
    """The Euclidean norm over all tensors together: one number for one model, not one for each tensor."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p) for p in params.values()]))
