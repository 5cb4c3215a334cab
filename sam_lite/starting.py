"""What the models of an ensemble start from, with all checks: settings, seeds, weights, and the outputs of the model."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_lite import pure, require, stacked
from sam_lite.data import Data, floats
from sam_lite.describe import details, words
from sam_lite.models import build, seeded
from sam_lite.params import Params, params_of, stack

BUILDS = "a function that builds a model"
ALIKE = "a function that builds models that differ in their weights alone"


def settings(n_models: int, **given: Any) -> dict[str, list[float]]:
    """name -> one number per model, checked."""
    bounds: dict[str, dict[str, Any]] = {
        "lr": {"above": 0},
        "momentum": {"least": 0, "below": 1},
        "dropout": {"least": 0, "most": 0.99},
    }
    found = {}
    for name, value in given.items():
        row = isinstance(value, Iterable) and not isinstance(value, Mapping | Set) and getattr(value, "ndim", 1) > 0
        values = list(value) if row else [value] * n_models
        if len(values) != n_models:
            raise ValueError(f"{name} must be one number or one per model, {n_models}, got {len(values)} numbers")
        limits = bounds.get(name, {"least": 0})
        labels = [f"{name}[{i}]" if row else name for i in range(n_models)]
        found[name] = [float(require.number(at, v, **limits)) for at, v in zip(labels, values, strict=True)]
    return found


def seeds_of(seeds: Sequence[int]) -> list[int]:
    if not isinstance(seeds, Iterable) or isinstance(seeds, str) or getattr(seeds, "ndim", 1) == 0:
        raise require.error("seeds", "integers in a row, such as range(5)", seeds)
    found = [require.seed(seed, f"seeds[{i}]") for i, seed in enumerate(seeds)]
    if not found:
        raise ValueError("seeds must hold at least one seed, got none")
    return found


def models(make: Callable, data: Data, seeds: list[int], start: Params | None) -> tuple[nn.Module, Params]:
    """One model, and the weights that all start from, on the device of the data and, if they are floats, of their type."""
    if isinstance(make, nn.Module):
        raise TypeError(f"make must be a function that builds a model, such as lambda: mlp(...), got a model, {make}")
    make = partial(_unseeded, make) if start is None else make
    model, first = build(make, seeds[0]), build(make, seeds[0])
    pure.check_model(model)
    if hooked := [name for name, p in model.named_parameters() if p._backward_hooks or p._post_accumulate_grad_hooks]:
        raise require.error("make", "a model without hooks on its parameters", hooked, "use `train`, one by one")
    if hidden := _hidden(model):
        raise require.error("make", f"{BUILDS} that knows its layers", hidden, "use nn.ModuleList")
    shared = {*model.modules(), *model.parameters()} & {*first.modules(), *first.parameters()}
    model = copy.deepcopy(model) if shared else model  # what belongs to the caller stays as it is
    model = model if model.training else model.train()  # as `train` does; layers may rest in evaluation mode
    if lazy := [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]:
        raise ValueError(f"make must build a model with all shapes known, but {lazy[0]!r} has none; use no lazy layers")
    if odd := [name for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_complex()]:
        raise require.error("make", f"{BUILDS} of real tensors", odd, "keep torch.view_as_real of them")
    wanted = {name: (len(seeds), *p.shape) for name, p in model.named_parameters()}
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("make must build a model with a parameter to train, but there is none, or all are frozen")
    if start is None:
        if shared.issuperset(p for p in first.parameters() if p.requires_grad):
            raise require.error("make", f"{BUILDS} at each call", "the same again", "or give start")
        if not all(map(torch.equal, first.parameters(), model.parameters())):
            rule = f"{BUILDS} from its seed alone"
            raise require.error("make", rule, "two of one seed that differ", "draw with torch")
        told, look = _told(model), partial(_outputs, params=params_of(first), x=data.x_train[:2])
        expected = None if stacked.chain(model) else look(model)
        members = []
        for each in (first, *(build(make, seed) for seed in seeds[1:])):
            members.append(_weights(each, model, told))
            if expected is not None and not _close(look(each), expected):
                remedy = "make tensors that lists, dicts or hooks hold parameters with requires_grad=False"
                raise require.error("make", ALIKE, "other outputs with the same weights", remedy)
        start = stack(members)
    start = {name: p if isinstance(p, Tensor) else torch.as_tensor(p) for name, p in start.items()}
    if (shapes := {name: tuple(p.shape) for name, p in start.items()}) != wanted:
        raise ValueError(f"start must hold {len(seeds)} models, one per seed, with shapes {wanted}, got {shapes}")
    device, dtype = data.x_train.device, data.x_train.dtype if data.x_train.is_floating_point() else None
    types = {name: dtype if p.is_floating_point() else None for name, p in model.named_parameters()}
    return model.to(device, dtype), {k: start[k].detach().to(device, types[k], copy=True) for k in wanted}


def outputs_of(model: nn.Module, data: Data, start: Params, batch_size: int, criterion: Callable) -> stacked.Forward:
    """The stacked forward pass, after a check that `criterion` takes its outputs."""
    outputs, first = stacked.forward(model), {name: p[:1] for name, p in start.items()}
    x, y = data.x_train[:batch_size], data.y_train[:batch_size]
    with pure.untouched(model), torch.no_grad():
        for name, rows in (("x", x), ("x_test", data.x_test[:2])):
            try:
                model(rows.clone())  # whose own error names shapes
            except RuntimeError as error:
                raise floats(rows, error, name) from error
        out = outputs(first, x[None])
        if not isinstance(out, Tensor) or out.ndim != 3 or out.shape[1] != len(x):
            found = tuple(out.shape[1:]) if isinstance(out, Tensor) else type(out).__name__
            raise require.error("make", f"{BUILDS} with a tensor of outputs (n, n_out)", found)
        with pure.mode(model, False):
            rested = outputs(first, x[None])
        if rested.shape != out.shape or not _close(rested, out):
            rule = f"{BUILDS} that computes the same in training and in evaluation mode"
            raise require.error("make", rule, "another result", "use `train`, one by one")
        if moved := _moved(model, {name: p[0] for name, p in first.items()}, x):
            rule = f"{BUILDS} that computes the same at every call"
            raise require.error("make", rule, moved, "use `train`, one by one")
        data.check(out.shape[-1] if criterion is F.cross_entropy else None)
        dice = torch.get_rng_state()  # two masks may happen to give nearly one loss
        loss, again = (criterion(out[0].clone(), y.clone()) for _ in range(2))
    if not isinstance(loss, Tensor) or loss.ndim:
        raise require.error("criterion", "a function that returns the loss, a tensor without dimensions", loss)
    if not (_close(loss, again) and dice.equal(torch.get_rng_state())):
        rule = "one that gives equal outputs one loss"
        raise require.error("criterion", rule, [loss, again], "use `train`, one by one")
    return outputs


def rest_unused(model: nn.Module, data: Data, batch_size: int, criterion: Callable) -> None:
    """Freeze what the loss does not depend on: no optimizer of torch moves what has no gradient, by weight decay either."""
    learned = [p for p in model.parameters() if p.requires_grad]
    with pure.untouched(model), torch.enable_grad():
        loss = criterion(model(data.x_train[:batch_size].clone()), data.y_train[:batch_size].clone())
    if loss.requires_grad:
        for p, g in zip(learned, torch.autograd.grad(loss, learned, allow_unused=True), strict=True):
            p.requires_grad_(g is not None)


def _unseeded(make: Callable) -> Any:
    """make(); ValueError if it seeds the random numbers itself, which makes all models the same."""
    seed, model = torch.initial_seed(), make()
    if torch.initial_seed() != seed:
        raise require.error("make", "a function that draws from the seed it is given", "one that calls manual_seed")
    return model


def _weights(model: nn.Module, first: nn.Module, expected: dict[str, Any]) -> Params:
    """The weights of one model; ValueError if it differs from the first, of which this is told, in more than its weights."""
    remedy = "make it a parameter with requires_grad=False"
    for (name, b), other in zip(model.named_buffers(), first.buffers(), strict=True):
        if not torch.equal(b, other):
            raise ValueError(f"buffer {name!r} must be equal for all seeds; {remedy}")
    for (name, layer), other in zip(model.named_modules(), first.modules(), strict=True):
        for key, value in vars(layer).items():
            same = vars(other).get(key)
            other_kind = not isinstance(value, Tensor) or value.requires_grad
            if not (other_kind or isinstance(same, Tensor) and value.equal(same)):
                what = f"tensor {f'{name}.{key}'.lstrip('.')!r} of the model"
                raise require.error(what, "equal for all seeds", "another", remedy)
    told = _told(model)
    if odd := [name for name in told if told[name] != expected.get(name)]:
        raise require.error("make", ALIKE, odd)
    return params_of(model)


def _outputs(model: nn.Module, params: Params, x: Tensor) -> Any:
    """What the model returns for x; None where it raises an error, which comes again where it is explained."""
    state = params | {name: b.clone() for name, b in model.named_buffers()}
    like = next((p for p in params.values() if p.is_floating_point() and x.is_floating_point()), x)
    place = next(iter(params.values())).device
    with pure.untouched(model), torch.no_grad(), seeded(0):
        try:
            return functional_call(model, state, (x.to(place, like.dtype, copy=True),))
        except Exception:
            return None


def _moved(model: nn.Module, params: Params, x: Tensor) -> str | list[str]:
    """What each call changes in the model: numbers, such as a counter, or what comes out of the next call."""
    found, numbers = [], []
    with pure.untouched(model):
        for _ in range(2):
            found.append(functional_call(model, params, (x.clone(),)))
            held = ((f"{name}.{k}".lstrip("."), v) for name, m in model.named_modules() for k, v in vars(m).items())
            numbers.append({name: repr(value) for name, value in held if isinstance(value, (int, float))})
    counters = [name for name, value in numbers[1].items() if value != numbers[0].get(name)]
    return counters or ("" if _close(*found) else "another result")


def _close(a: Any, b: Any) -> bool:
    """Whether two outputs are the same up to rounding; True for what are no outputs of one shape."""
    known = isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape
    return not known or torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)


def _hidden(model: nn.Module) -> list[str]:
    """The attributes that keep layers which are no modules of the model, such as a plain list of them."""
    known = set(model.modules())
    return [
        f"{name}.{key}".lstrip(".")
        for name, layer in model.named_modules()
        for key, value in vars(layer).items()
        if isinstance(value, (list, tuple, dict)) and key != "_modules"
        for one in (value.values() if isinstance(value, dict) else value)
        if isinstance(one, nn.Module) and one not in known
    ]


def _told(model: nn.Module) -> dict[str, Any]:
    """What a model computes with beside its tensors, and what of it is trained, in a form that can be compared."""
    own = frozenset(map(id, (*model.modules(), *model.parameters())))
    found = {name: words(value, own=own) for name, value in details(model).items()}
    return found | {f"{name}.requires_grad": p.requires_grad for name, p in model.named_parameters()}
