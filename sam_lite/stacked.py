"""Forward and gradient of many models of one shape, stacked: name -> (n_models, *shape).

`torch.func.vmap` does this for any model. For chains of linear layers with ReLU or tanh between them, the networks of
most of this course, back-propagation by hand does the same with less memory traffic (`make bench` says how much).
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sam_lite import pure
from sam_lite.params import Params, room, stack

Criterion = Callable[[Tensor, Tensor], Tensor]
Forward = Callable[[Params, Tensor], Tensor]
BLOCK = 2048  # samples evaluated together
OUTPUTS = 2**26  # numbers that a criterion is given at once, of as many models as that is

# the activation, in place; derivative of the loss by its input, from that by its output d, in place of the output itself
ACTIVATIONS = {
    nn.ReLU: (torch.relu_, lambda d, out: torch.ops.aten.threshold_backward(d, out, 0, grad_input=out)),
    nn.Tanh: (torch.tanh_, lambda d, out: torch.ops.aten.tanh_backward(d, out, grad_input=out)),
}


def check_layers(model: nn.Module) -> None:
    """Raise ValueError for layers that stacked models cannot have, such as batch statistics and random masks."""
    for name, layer in model.named_modules():
        rate = layer.p if isinstance(layer, nn.modules.dropout._DropoutNd) else getattr(layer, "dropout", 0)
        problem = ""
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats and layer.training:
            problem = "keeps batch statistics, which stacked models cannot; use GroupNorm"
        elif isinstance(rate, (int, float)) and rate > 0 and layer.training:
            problem = "draws random masks, which stacked models cannot; use p=0 or weight_decay"
        elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and (layer.sparse or layer.max_norm is not None):
            problem = "has sparse gradients or max_norm, which stacked models cannot; leave out both"
        if problem:
            raise ValueError(f"layer {name!r}, {layer}, {problem}")


def forward(model: nn.Module) -> Forward:
    """(params, x) -> outputs (n_models, n, n_out) for x (n_models, n, *features).

    Raises ValueError, which names the layer, for a model that cannot be mapped over.
    """
    check_layers(model)
    layers = chain(model)
    if layers:
        return lambda params, x: _activations(layers, params, x)[-1]
    return _each(model, lambda params, x: functional_call(model, params, (x.clone(),)))  # which a model may change


def gradient(model: nn.Module, criterion: Criterion = F.cross_entropy) -> Callable[..., Params]:
    """(params, x, y) -> each model's gradient of criterion(model(x), y), for x (n_models, n, *features), y (n_models, n).

    Only parameters that `model` does not freeze (`requires_grad=False`) have a gradient. For a chain, a fourth argument
    `masks` multiplies the values of its hidden layers: see `dropout`. A fifth, `space`, is a dict that keeps all results:
    the next call with it writes over them.
    """
    check_layers(model)
    layers, learned = chain(model), [name for name, p in model.named_parameters() if p.requires_grad]
    if layers:
        slope = _softmax_slope if criterion is F.cross_entropy else vmap(grad(pure.differentiable(criterion)))
        back = torch.no_grad()(partial(_backward, layers, slope))
        return lambda *args: {name: g for name, g in back(*args).items() if name in learned}
    loss = lambda some, rest, x, y: criterion(functional_call(model, some | rest, (x.clone(),)), y)  # noqa: E731
    slope = grad(pure.differentiable(loss))

    def one(params: Params, x: Tensor, y: Tensor) -> Params:
        rest = {name: p for name, p in params.items() if name not in learned}
        return slope({name: params[name] for name in learned}, rest, x, y)

    each = _each(model, one)
    return lambda params, x, y, *_: each(params, x, y)


def hidden(model: nn.Module) -> list[int]:
    """Widths of the hidden layers of a chain with ReLU between its layers, which `dropout` can take; else ValueError."""
    if not all(type(m) is nn.ReLU for _, m in chain(model)[1::2]) or not chain(model):
        raise ValueError(f"dropout needs a chain of linear layers with ReLU between them, got {model}")
    return [m.out_features for _, m in chain(model)[:-1:2]]


def dropout(
    rates: Tensor, generators: Sequence[torch.Generator], n: int, widths: Sequence[int], device: torch.device
) -> list[Tensor]:
    """For each hidden layer a mask (n_models, n, width) on `device`: 0 with the model's rate, else 1 / (1 - rate).

    Srivastava et al. 2014, with the factor at training time. rates (n_models,) are rounded to 1/256, since one random
    byte of the model's own generator decides about each unit; they lie on the CPU, so that no GPU is waited for. A model
    with rate 0 draws nothing.
    """
    draws = rates.new_zeros(len(rates), -(-n * sum(widths) // 8), dtype=torch.int64)
    for row, rate, generator in zip(draws, rates.tolist(), generators, strict=True):
        if rate > 0:
            row.random_(-(2**63), None, generator=generator)
    drop = (256 * rates).round()[:, None].to(device)
    kept = draws.view(torch.uint8)[:, : n * sum(widths)].to(device) >= drop.to(torch.uint8)
    sizes = [n * width for width in widths]
    masks = (kept * (256 / (256 - drop))).split(sizes, dim=1)
    return [mask.view(len(rates), n, width) for mask, width in zip(masks, widths, strict=True)]


@torch.no_grad()
def evaluate(
    outputs: Forward, params: Params, x: Tensor, y: Tensor, criterion: Criterion = F.cross_entropy
) -> tuple[Tensor, Tensor]:
    """Loss of all points together and accuracy of every model, (n_models,) each; x (n, *features), y (n,) labels.

    Accuracy is NaN where it has no meaning: with one output a point, or without one label a point.
    The models see blocks of points, but the criterion sees all outputs at once, so it need not be a mean over points.
    """
    first, found = next(iter(params.values())), []
    if len(x) != len(y) or not len(x):
        raise ValueError(f"y must hold a label for each row of x, one or more, got {len(y)} for {len(x)}")
    n_out = outputs({name: p[:1] for name, p in params.items()}, x[None, :2]).shape[-1]
    for i in range(0, len(first), together := max(1, OUTPUTS // (len(x) * n_out))):
        some = {name: p[i : i + together] for name, p in params.items()}
        n = min(together, len(first) - i)
        out = torch.cat([outputs(some, xs.expand(n, *xs.shape)) for xs in x.split(BLOCK)], dim=1)
        loss = vmap(criterion, in_dims=(0, None))(out, y.clone())  # which it may change
        known = out.ndim == 3 and n_out > 1 and y.ndim == 1
        found.append((loss, (out.argmax(2) == y).sum(1) / len(x) if known else torch.full_like(loss, torch.nan)))
    return tuple(map(torch.cat, zip(*found, strict=True)))


def _each(model: nn.Module, one: Callable) -> Callable:
    """`one(params, x, ...)` for every model: by vmap, or one after the other where torch has no rule for a layer.

    Raises ValueError, with the name of the layer, for a model that vmap cannot handle or that depends on other things.
    """
    mapped, names = vmap(one), [name for name, _ in model.named_parameters()]

    def each(params: Params, x: Tensor, *rest: Tensor) -> Params | Tensor:
        before = {name: (id(b), b._version) for name, b in model.named_buffers()}
        with pure.untouched(model), warnings.catch_warnings():
            try:
                warnings.filterwarnings("ignore", message="There is a performance drop")
                found = mapped(params, x, *rest)
            except (RuntimeError, NotImplementedError) as error:
                first = {name: params[name][0] for name in names}
                functional_call(model, first, (x[0].clone(),))  # its own error comes first
                if "Batching rule not implemented" not in str(error):
                    raise _refusal(_where(model, lambda: mapped(params, x, *rest)), error) from error
                found = _in_turn(model, one, params, x, *rest)
            for name, b in model.named_buffers():
                if before.get(name) != (id(b), b._version):
                    raise _refusal(f"buffer {name!r} changes when the model is called, which")
        return found

    return each


def _in_turn(model: nn.Module, one: Callable, params: Params, *batch: Tensor) -> Params | Tensor:
    """`one` for one model after the other, such as those with recurrent layers."""
    state = torch.get_rng_state()
    found = [one({name: p[i] for name, p in params.items()}, *(b[i] for b in batch)) for i in range(len(batch[0]))]
    if not torch.equal(state, torch.get_rng_state()):
        raise _refusal(f"{type(model).__name__} draws random numbers, which")
    return stack(found) if isinstance(found[0], dict) else torch.stack(found)


def _refusal(what: str, reason: Exception | str = "") -> ValueError:
    remedy = (
        "cannot be had in stacked models; put another layer in its place, or train the models one by one with `train`"
    )
    return ValueError(f"{what} {remedy}{reason and ': '}{str(reason).partition(chr(10))[0]}")


def _where(model: nn.Module, call: Callable[[], object]) -> str:
    """The innermost layer that has not returned when the call fails."""
    names, inside = {id(layer): name for name, layer in model.named_modules()}, []
    enter = nn.modules.module.register_module_forward_pre_hook(lambda layer, args: inside.append(layer))
    leave = nn.modules.module.register_module_forward_hook(lambda layer, args, out: inside.pop() and None)
    try:
        call()
    except (RuntimeError, NotImplementedError):
        return f"layer {names.get(id(inside[-1]), '')!r}, {inside[-1]}," if inside else "the gradient of this model"
    finally:
        enter.remove()
        leave.remove()
    return "this model"


def chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Named layers when they are linear ones with one of ACTIVATIONS between each two, else nothing.

    Layers that share weights, or have hooks such as the old `weight_norm`, are no such chain. An activation may be one
    object under several names.
    """
    layers = list(model._modules.items()) if type(model) is nn.Sequential else []
    linear, between = layers[::2], layers[1::2]
    fits = len(layers) % 2 and all(type(m) is nn.Linear and m.bias is not None for _, m in linear)
    own = {f"{name}.{part}" for name, _ in linear for part in ("weight", "bias")}
    fits = fits and own == {name for name, _ in model.named_parameters()} and not any(map(_has_hooks, model.modules()))
    return layers if fits and all(type(m) in ACTIVATIONS for _, m in between) else []


def _has_hooks(layer: nn.Module) -> bool:
    """Whether a layer does more than its class: by hooks, or by a `forward` of its own."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return any(hooks) or "forward" in vars(layer)


def _activations(layers: list, params: Params, x: Tensor, masks=(), space=None) -> list[Tensor]:
    """The input of every linear layer, and the output of the last. weight: (n_models, n_out, n_in)."""
    values = [x]
    for name, layer in layers:
        if isinstance(layer, nn.Linear):
            weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
            values.append(torch.baddbmm(bias[:, None], values[-1], weight.mT, out=room(space, ("out", name), x)))
        else:
            ACTIVATIONS[type(layer)][0](values[-1])
            if masks:
                values[-1].mul_(masks[len(values) - 2])
    return values


def _backward(layers: list, slope: Callable, params: Params, x: Tensor, y: Tensor, masks=(), space=None) -> Params:
    """Back-propagation: d is the derivative of the loss by the output of the current linear layer."""
    *inputs, out = _activations(layers, params, x, masks, space)
    grads, d, masks = {}, slope(out, y), list(masks)
    for (name, _), (_, activation), value in zip(
        layers[::-2], [*layers[-2::-2], ("", None)], reversed(inputs), strict=True
    ):
        grads[f"{name}.weight"] = torch.bmm(d.mT, value, out=room(space, (name, "weight"), d))
        grads[f"{name}.bias"] = torch.sum(d, 1, out=room(space, (name, "bias"), d))
        if activation is not None:
            d = torch.bmm(d, params[f"{name}.weight"], out=room(space, ("d", *value.shape[1:]), d))
            d = ACTIVATIONS[type(activation)][1](d.mul_(masks.pop()) if masks else d, value)
    return {name: grads[name] for name in params}


def _softmax_slope(out: Tensor, y: Tensor) -> Tensor:
    """Derivative of the mean cross-entropy by the outputs, in their place: (softmax(out) - onehot(y)) / n."""
    d = out.sub_(out.amax(2, keepdim=True)).exp_()  # torch.softmax takes three times as long over a few classes
    d /= d.sum(2, keepdim=True).mul_(y.shape[1])
    return d.scatter_add_(2, y[..., None], d.new_full((1, 1, 1), -1 / y.shape[1]).expand(*y.shape, 1))
