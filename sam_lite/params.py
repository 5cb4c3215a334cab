"""Parameters as a dict of tensors, and the loss as a function of them.

Everything in `sam_lite` is said with two types:

    Params = dict[str, Tensor]            one model: name -> (*shape)
                                          an ensemble: name -> (n_models, *shape)
    Loss   = Callable[[Params], Tensor]   scalar and pure: no state, no randomness, no `.item()`

A loss needs no data and no model class: `lambda p: (p["w"] ** 2).sum()` is one.
A function written for one model **maps** if it works under `torch.func.vmap`: then one call serves a whole ensemble.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_lite import pure, require

Params = dict[str, Tensor]
Loss = Callable[[Params], Tensor]
Space = dict[object, Tensor]  # results that the next call writes over, so that no memory is asked for
Losses = Loss | Sequence[Loss | tuple[Loss, float]]  # a loss, or one for each chunk of the data: see `shares`


def params_of(model: nn.Module) -> Params:
    """Detached copies of a model's parameters, name -> (*shape); a tied parameter appears once.

    >>> import torch
    >>> {name: tuple(p.shape) for name, p in params_of(torch.nn.Linear(3, 2)).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@torch.no_grad()
def load_params(model: nn.Module, params: Params) -> nn.Module:
    """Copy `params` into `model` in place and return the model."""
    own = dict(model.named_parameters())
    if own.keys() != require.parameters(params).keys():
        raise ValueError(f"params must have the names of the model, {sorted(own)}, got {sorted(params)}")
    for name, p in own.items():
        _check_shape(name, params[name], p.shape)
    for name, p in own.items():
        p.copy_(params[name])
    return model


def loss_of(
    model: nn.Module, x: Tensor, y: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> Loss:
    """The model's loss on the batch (x, y) as a pure function of its parameters.

    Args:
        model: nothing of it is changed. Buffers (batch-norm statistics) and modes are those that it has at this call.
        x: inputs (n, *features).
        y: labels (n,), or targets (n, *targets).
        criterion: criterion(outputs, y).

    Returns a function of Params; those that it is not given are the model's. Weight decay is not part of it. It raises
    ValueError for other names and shapes; this one does for a loss that is random, for TorchScript and DataParallel,
    which take no other parameters than their own, and for a model that changes its weights when it is called.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> loss = loss_of(model, torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))
    >>> loss({name: torch.zeros_like(p) for name, p in params_of(model).items()})
    tensor(0.6931)
    """
    pure.check_model(model)
    require.functions(criterion)
    shapes = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    modes = [(module, module.training) for module in model.modules()]

    def loss(params: Params) -> Tensor:
        if not require.parameters(params) or not shapes.keys() >= params.keys():
            raise require.error(
                "params", f"of the model, {sorted(shapes)}", sorted(params), "params_of(model) gives them"
            )
        for name, p in params.items():
            _check_shape(name, p, shapes[name])
        zero = torch.zeros_like(next(iter(params.values())).flatten()[:1].sum())  # many under vmap, as statistics then
        state = params | {name: _copy(b, zero) for name, b in buffers.items()}
        with pure.untouched(model), pure.eager():
            for module, training in modes:
                module.training = training
            given, labels = (t.clone() if isinstance(t, Tensor) else t for t in (x, y))  # both may be changed inside
            return criterion(functional_call(model, state, (given,)), labels)

    params = params_of(model)
    if isinstance(x, Tensor):  # a model may be made in one place and type, and its parameters be given in others
        params = {name: p.to(x if x.is_floating_point() else x.device) for name, p in params.items()}
    noisy = [f"layer {name!r} is {type(m).__name__} in training mode" for name, m in model.named_modules() if _drops(m)]
    before = {name: p._version for name, p in params.items() if not p.is_inference()}
    value = pure.repeated(loss, params, ", ".join(noisy[:3]))
    if changed := [name for name, version in before.items() if params[name]._version != version]:
        raise require.error(
            "model", "one that leaves its weights as they are", f"changes of {changed}", "use no max_norm"
        )
    loss.checked = isinstance(value, Tensor) and value.ndim == 0  # type: ignore[attr-defined]
    loss.size = _size(y, criterion)  # type: ignore[attr-defined]
    return loss


def shares(losses: Losses) -> list[tuple[Loss, float]]:
    """Each loss with its weight in the mean over all data: pairs (loss, size) count by size, losses alone count alike.

    A mean over all points is the mean over chunks weighted by their sizes. A size is the number of points or, where the
    criterion divides by the class weights, as cross-entropy does, the sum of the weights of their labels. Losses of `loss_of`
    given alone must therefore be of equal size; a criterion of one's own is taken for a mean over points.
    Raises ValueError if they are not, if there are no losses, and for a size that is not positive.
    """
    if callable(losses) or losses is None or isinstance(losses, Tensor):
        return [(losses, 1.0)]
    if not (losses := list(losses)):
        raise require.error("the number of losses", "at least 1", 0)
    pairs = [one if isinstance(one, tuple) and len(one) == 2 else (one, None) for one in losses]
    if odd := [one for one, _ in pairs if not callable(one)]:
        raise require.error(
            "losses", "functions of params, alone or in pairs (loss, size)", odd[0], "put pairs in a list"
        )
    if not any(isinstance(one, tuple) for one in losses):
        told = (getattr(one, "size", None) for one in losses)
        known = [float(size) for size in told if not (size is None or getattr(size, "is_meta", False))]
        if known and max(known) > min(known) * (1 + 1e-6):
            raise require.error("losses alone", "of equal size", known, "give pairs (loss, size) to weigh them")
        pairs = [(one, 1) for one, _ in pairs]
    sizes = [require.number("size of a loss", size, above=0, remedy="its number of points") for _, size in pairs]
    return [(one, size / sum(sizes)) for (one, _), size in zip(pairs, sizes, strict=True)]


def _copy(buffer: Tensor, zero: Tensor) -> Tensor:
    """A copy, under vmap one for each model; a buffer that takes no sum with a number, as a sparse one, is of all."""
    try:
        return buffer + zero.to(buffer.dtype)
    except (RuntimeError, TypeError):
        return buffer.clone()


def _check_shape(name: str, p: Tensor, shape: torch.Size) -> None:
    if p.shape != shape:
        raise ValueError(f"params[{name!r}] must have shape {tuple(shape)}, got {tuple(p.shape)}")


def _drops(layer: nn.Module) -> bool:
    rate = layer.p if isinstance(layer, nn.modules.dropout._DropoutNd) else getattr(layer, "dropout", 0)
    return layer.training and isinstance(rate, float | int) and rate > 0


def _size(y: Tensor, criterion: Callable) -> int | Tensor | None:
    """The size of the loss on y, as `shares` weighs it; None where the criterion is no mean, or not known to be one."""
    settings = vars(criterion) if isinstance(criterion, nn.Module) else getattr(criterion, "keywords", {})
    reduction = getattr(criterion, "reduction", settings.get("reduction", "mean"))
    if not isinstance(y, Tensor) or y.ndim == 0 or reduction not in ("mean", "batchmean"):
        return None
    weight = settings.get("weight", settings.get("_buffers", {}).get("weight"))
    kinds = {getattr(criterion, "func", None), *type(criterion).__mro__}  # others divide by the number of points
    by_class = isinstance(weight, Tensor) and kinds & {nn.CrossEntropyLoss, nn.NLLLoss, F.cross_entropy, F.nll_loss}
    if y.is_floating_point() or not by_class and y.device.type != "cpu":  # nothing is asked of a GPU that can be spared
        return len(y)
    counted = y != settings.get("ignore_index", -100)
    return (weight[y.where(counted, 0)] * counted).sum() if by_class else counted.sum()


def stack(members: Sequence[Params]) -> Params:
    """Many models of one shape as one ensemble: name -> (n_models, *shape)."""
    if not members:
        raise ValueError("members must hold at least one model, got none")
    for i, m in enumerate(members):
        check_alike(members[0], f"members[{i}]", m)
    return {name: torch.stack([m[name] for m in members]) for name in members[0]}


def check_alike(params: Params, name: str, other: Params) -> None:
    """ValueError unless `other`, the argument called `name`, has the names and shapes of `params`."""
    shapes, others = ({key: tuple(p.shape) for key, p in require.parameters(each).items()} for each in (params, other))
    if shapes != others:
        raise ValueError(f"{name} must have the names and shapes {shapes}, got {others}")


def member(params: Params, i: int) -> Params:
    """Model number `i` of an ensemble (views, no copies)."""
    return {name: p[i] for name, p in require.parameters(params).items()}


def to_vector(params: Params) -> Tensor:
    """All entries in one vector, (n_params,), in the order of the dict."""
    return torch.cat([p.reshape(-1) for p in require.parameters(params).values()])


def from_vector(vector: Tensor, like: Params) -> Params:
    """The inverse of `to_vector`: cut (n_params,) into the names and shapes of `like`."""
    n = count(like)
    if vector.shape != (n,):
        raise ValueError(f"vector must have shape ({n},) to fill these parameters, got {tuple(vector.shape)}")
    parts = vector.split([p.numel() for p in like.values()])
    return {name: part.view(p.shape).to(p.dtype) for (name, p), part in zip(like.items(), parts, strict=True)}


def room(space: Space | None, key: object, like: Tensor) -> Tensor | None:
    """Where an operation is to put its result (`out=`): what `space` holds under `key`, of any size at first."""
    if space is None:
        return None
    if key not in space:
        space[key] = like.new_empty(0)
    return space[key]


def count(params: Params) -> int:
    """Number of scalar parameters of one model."""
    return sum(p.numel() for p in require.parameters(params).values())


def add(params: Params, direction: Params, scale: float | Tensor = 1.0) -> Params:
    """params + scale * direction, name by name; ValueError if they have not the same names."""
    require.same_names(params, direction)
    return {name: p + scale * direction[name] for name, p in params.items()}


def dot(a: Params, b: Params) -> Tensor:
    """The inner product over all tensors together (a scalar); ValueError if they have not the same names."""
    require.same_names(a, b)
    return sum((a[name] * b[name]).sum() for name in a)


def norm(params: Params) -> Tensor:
    """The Euclidean norm over all tensors together: one number for one model, not one for each tensor."""
    return length(to_vector(params))


def length(x: Tensor) -> Tensor:
    """The Euclidean norm along the last axis, also where the squares of the entries overflow or underflow."""
    rough = in_range(torch.linalg.vector_norm(x, dim=-1, keepdim=True))
    return torch.linalg.vector_norm(x / rough, dim=-1) * rough.squeeze(-1)


def unit(x: Tensor) -> Tensor:
    """x (..., n) scaled to length 1 along the last axis, however large or small it is; 0 stays 0."""
    u = x / in_range(torch.linalg.vector_norm(x, dim=-1, keepdim=True))
    return u / nonzero(torch.linalg.vector_norm(u, dim=-1, keepdim=True))


def divisor(size: Tensor) -> Tensor:
    """A first divisor for what has this size: 1, unless squares of it leave the range; then what brings it back there."""
    tiny = torch.finfo(size.dtype).tiny
    return size / size.clamp(tiny**0.4, tiny**-0.4)


def in_range(norm: Tensor) -> Tensor:
    """A first divisor for a vector whose norm came out as 0 or inf because the squares of its entries left the range.

    The quotient has a length between 1e-18 and 1e15 (in float32), so its square can be computed.
    """
    tiny = torch.finfo(norm.dtype).tiny
    return norm.clamp(tiny**0.7, tiny**-0.64)


def nonzero(norm: Tensor) -> Tensor:
    """A norm as a divisor: 1 in place of 0."""
    return norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.7)
