"""Forward and gradient of many models of one shape, stacked: name -> (n_models, *shape).

`torch.func.vmap` does this for any model. For chains of linear layers with ReLU or tanh between them, the networks of
most of this course, back-propagation by hand does the same with less memory traffic (`make bench` says how much).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sam_lite.params import Params

Criterion = Callable[[Tensor, Tensor], Tensor]
Forward = Callable[[Params, Tensor], Tensor]
BLOCK = 2048  # samples evaluated together

# the activation, in place; derivative of the loss by its input, from that by its output and the output itself
ACTIVATIONS = {
    nn.ReLU: (torch.relu_, lambda d, out: torch.ops.aten.threshold_backward(d, out, 0)),
    nn.Tanh: (torch.tanh_, lambda d, out: torch.ops.aten.tanh_backward(d, out)),
}


def check_layers(model: nn.Module) -> None:
    """Raise ValueError for layers that models cannot have side by side: batch statistics and random masks."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"layer {name!r}, {layer}, keeps batch statistics, which stacked models cannot; use GroupNorm"
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ValueError(
                f"layer {name!r}, {layer}, draws random masks, which stacked models cannot; use p=0 or weight_decay"
            )


def forward(model: nn.Module) -> Forward:
    """(params, x) -> outputs (n_models, n, n_out) for x (n_models, n, *features)."""
    check_layers(model)
    layers = _chain(model)
    if layers:
        return lambda params, x: _activations(layers, params, x)[-1]
    return vmap(lambda params, x: functional_call(model, params, (x,)))


def gradient(model: nn.Module, criterion: Criterion = F.cross_entropy) -> Callable[..., Params]:
    """(params, x, y) -> each model's gradient of criterion(model(x), y), for x (n_models, n, *features), y (n_models, n).

    A chain takes a fourth argument, `masks` by which the values of its hidden layers are multiplied: see `dropout`.
    """
    check_layers(model)
    layers = _chain(model)
    if layers:
        slope = _softmax_slope if criterion is F.cross_entropy else vmap(grad(criterion))
        return torch.no_grad()(lambda params, x, y, masks=(): _backward(layers, slope, params, x, y, masks))
    return vmap(grad(lambda params, x, y: criterion(functional_call(model, params, (x,)), y)))


def hidden(model: nn.Module) -> list[int]:
    """Widths of the hidden layers of a chain with ReLU between its layers, which `dropout` can take; else ValueError."""
    if not all(type(m) is nn.ReLU for _, m in _chain(model)[1::2]) or not _chain(model):
        raise ValueError(f"dropout needs a chain of linear layers with ReLU between them, got {model}")
    return [m.out_features for _, m in _chain(model)[:-1:2]]


def dropout(
    rates: Tensor, generators: Sequence[torch.Generator], n: int, widths: Sequence[int], device: torch.device
) -> list[Tensor]:
    """For each hidden layer a mask (n_models, n, width) on `device`: 0 with the model's rate, else 1 / (1 - rate).

    Srivastava et al. 2014, with the factor at training time. rates (n_models,), on the CPU lest a GPU be waited for,
    are taken to 1/256: one random byte for each unit, of the model's own generator, and none where the rate is 0.
    """
    draws = torch.zeros(len(rates), -(-n * sum(widths) // 8), dtype=torch.int64)
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
    """Mean loss and accuracy of every model on the same data, (n_models,) each; x (n, *features), y (n,) labels."""
    n_models = len(next(iter(params.values())))
    loss = accuracy = torch.zeros(n_models, device=x.device)
    for xs, ys in zip(x.split(BLOCK), y.split(BLOCK), strict=True):
        out = outputs(params, xs.expand(n_models, *xs.shape))
        loss = loss + vmap(criterion, in_dims=(0, None))(out, ys) * len(xs) / len(x)
        accuracy = accuracy + (out.argmax(2) == ys).sum(1) / len(x)
    return loss, accuracy


def _chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Named layers when they are linear ones with one of ACTIVATIONS between each two, else nothing."""
    layers = list(model.named_children()) if type(model) is nn.Sequential else []
    linear, between = layers[::2], layers[1::2]
    fits = len(layers) % 2 and all(type(m) is nn.Linear and m.bias is not None for _, m in linear)
    return layers if fits and all(type(m) in ACTIVATIONS for _, m in between) else []


def _activations(layers: list, params: Params, x: Tensor, masks: Sequence[Tensor] = ()) -> list[Tensor]:
    """The input of every linear layer, and the output of the last. weight: (n_models, n_out, n_in)."""
    values = [x]
    for name, layer in layers:
        if isinstance(layer, nn.Linear):
            weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
            values.append(torch.bmm(values[-1], weight.mT).add_(bias[:, None]))
        else:
            ACTIVATIONS[type(layer)][0](values[-1])
            if masks:
                values[-1].mul_(masks[len(values) - 2])
    return values


def _backward(layers: list, slope: Callable, params: Params, x: Tensor, y: Tensor, masks: Sequence[Tensor]) -> Params:
    """Back-propagation: d is the derivative of the loss by the output of the current linear layer."""
    *inputs, out = _activations(layers, params, x, masks)
    grads, d, masks = {}, slope(out, y), list(masks)
    for (name, _), (_, activation), value in zip(
        layers[::-2], [*layers[-2::-2], ("", None)], reversed(inputs), strict=True
    ):
        grads[f"{name}.weight"] = torch.bmm(d.mT, value)
        grads[f"{name}.bias"] = d.sum(1)
        if activation is not None:
            d = torch.bmm(d, params[f"{name}.weight"])
            d = ACTIVATIONS[type(activation)][1](d.mul_(masks.pop()) if masks else d, value)
    return {name: grads[name] for name in params}


def _softmax_slope(out: Tensor, y: Tensor) -> Tensor:
    """Derivative of the mean cross-entropy by the outputs: (softmax(out) - onehot(y)) / n."""
    d = (out - out.amax(2, keepdim=True)).exp_()  # torch.softmax takes three times as long over a few classes
    d /= d.sum(2, keepdim=True)
    d.scatter_add_(2, y[..., None], d.new_full((1, 1, 1), -1.0).expand(*y.shape, 1))
    return d.div_(y.shape[1])
