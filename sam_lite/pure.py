"""What makes a forward pass a pure function: it changes no model and no statistics, and draws no new random numbers."""

import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sam_lite import require

RandomStates = dict[torch.device | None, Tensor]  # of the CPU (None) and of other devices
CONTAINERS = dict, list, set, deque  # that a model may keep things in
twice = partial(nn.attention.sdpa_kernel, nn.attention.SDPBackend.MATH)  # others have no second derivative


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Afterwards `model` holds what it held before: its tensors, attributes, modes, lists and hooks, whatever happens inside.

    Values that a forward pass writes into its parameters and buffers stay; so give it copies of them. Tensors that are
    plain attributes it finds as copies, and so the buffers of modules that stand in its lists and are no part of it.
    `parametrize.cached` keeps nothing inside.
    `torch.func.functional_call` alone is not enough. If a module is reachable by two names, it leaves the tensors that it
    was given in there (PyTorch, issue 164759). And a forward pass leaves what a module keeps for later: an LSTM its
    flattened weights, the old spectral norm its weight, other modules a counter or a cache. Recurrent layers on a GPU
    compute without cuDNN, which takes no tensors of `torch.func` and has no second derivatives.
    """
    modules, caching = list(model.modules()), parametrize._cache_enabled
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
    kept: dict[int, tuple] = {}  # every container, and what it held
    try:
        parametrize._cache_enabled = 0
        _keep(model.__dict__, kept)
        own = {id(module._buffers) for module in modules}
        for values in [value for value, _ in kept.values() if isinstance(value, dict) and "_buffers" in value]:
            for tensors in (values, values["_buffers"]):
                if id(tensors) not in own:
                    tensors |= {name: value.clone() for name, value in tensors.items() if isinstance(value, Tensor)}
        with without(torch.backends.cudnn) if recurrent else nullcontext():
            yield
    finally:
        parametrize._cache_enabled = caching
        for value, before in kept.values():
            if value or before:
                value.clear()
                value.extend(before) if isinstance(value, (list, deque)) else value.update(before)


@contextmanager
def without(backend: Any) -> Iterator[None]:
    """Inside, PyTorch computes without a library of kernels, such as torch.backends.cudnn."""
    enabled, backend.enabled = backend.enabled, False
    try:
        yield
    finally:
        backend.enabled = enabled


def _keep(value: Any, kept: dict[int, tuple]) -> None:
    """Note what a container holds, and the containers and modules in it."""
    kept[id(value)] = value, value.copy()
    for inner in value.values() if isinstance(value, dict) else value:
        inner = inner.__dict__ if isinstance(inner, nn.Module) else inner
        if isinstance(inner, CONTAINERS) and id(inner) not in kept:
            _keep(inner, kept) if inner else kept.setdefault(id(inner), (inner, ()))


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Put the buffers (batch-norm statistics) of every module that is called inside back at the end.

    The modules stay in training mode: they compute the same function, without its side effect. What `functional_call`
    lends a module is put back in value alone. Models that other threads call meanwhile are left alone.
    """
    thread, inside = threading.get_ident(), []  # the handle of the outermost call in progress, if it has buffers
    known: dict[nn.Module, list[nn.Module]] = {}  # a module that was called -> those in it that have buffers
    held: dict[int, tuple[Tensor, Tensor]] = {}  # every buffer that was met, and its value then
    replaced: dict[tuple[nn.Module, str], Tensor] = {}  # where a call put another tensor in the place of a buffer

    def enter(module: nn.Module, _: object = None) -> None:
        if module not in known:
            family = list(module.modules())
            known[module] = owners = [m for m in family if m._buffers]
            known.update({} if owners else dict.fromkeys(family, owners))
        if known[module] and threading.get_ident() == thread:
            places = [(m, name, b) for m in known[module] for name, b in m._buffers.items() if b is not None]
            held.update({id(b): (b, b.clone()) for *_, b in places if id(b) not in held})
            if isinstance(module, torch.jit.ScriptModule):  # which takes no hook
                replaced.update({(m, name): replaced.get((m, name), b) for m, name, b in places})
            elif not inside:
                inside.append(module.register_forward_hook(partial(leave, places), always_call=True))

    def leave(places: list[tuple[nn.Module, str, Tensor]], *_: object) -> None:
        inside.pop().remove()
        replaced.update({(m, n): replaced.get((m, n), b) for m, n, b in places if getattr(m, n, None) is not b})

    try:
        with nn.modules.module.register_module_forward_pre_hook(enter), _no_word_of_global_hooks():
            yield
    finally:
        for handle in inside:  # of a call that an interrupt ended
            handle.remove()
        for (module, name), buffer in replaced.items():
            setattr(module, name, buffer)
        with torch.no_grad():
            for buffer, value in reversed(held.values()):  # of two that share memory the first knows the right value
                if buffer.layout is not torch.strided or 0 not in buffer.stride():  # nothing can write into others
                    buffer.copy_(value)


def kept_statistics(*losses: Callable) -> AbstractContextManager:
    """Inside, losses of one's own leave the statistics of their models as they are; those of `loss_of` do so by themselves."""
    return nullcontext() if all(getattr(loss, "checked", False) for loss in losses) else frozen_statistics()


@contextmanager
def _no_word_of_global_hooks() -> Iterator[None]:
    """Without PyTorch's warning that compiled code may call a global hook once more; here that changes nothing."""
    if not _compiled():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        yield


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """In training or evaluation mode for a while. A model in training mode may have frozen layers: they stay so."""
    before = {module: module.training for module in model.modules()}
    if not (training and model.training):
        model.train(training)
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def weights_moved() -> None:
    """Forget what was computed from the weights where they were: copies of `torch.autocast`, `parametrize.cached`."""
    torch.clear_autocast_cache()
    parametrize._cache.clear()


def check_model(model: nn.Module) -> None:
    """Raise ValueError for models that can only use their own tensors (TorchScript, DataParallel) or change them."""
    apart(list(model.parameters()))
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise require.error("model", "without max_norm, which changes the weights", f"{module} {name!r}")
        if isinstance(module, torch.jit.ScriptModule | nn.DataParallel):
            raise require.error(
                "model", "plain modules", f"{type(module).__name__} {name!r}", "use what it was made of"
            )


def apart(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The same; ValueError for two parameters in one memory, which would move twice, and be two to a derivative."""
    first: dict[tuple, Tensor] = {}
    for p in tensors:
        placed = type(p) is nn.Parameter and p.layout == torch.strided and p.numel() and not p.is_meta
        if placed and first.setdefault((p.device, p.data_ptr()), p) is not p:
            remedy = "tie them as one parameter, as in b.weight = a.weight"
            raise require.error("parameters", "apart in memory", f"two of shape {tuple(p.shape)} in one", remedy)
    return tensors


def eager() -> AbstractContextManager:
    """Inside, compiled code runs uncompiled: torch.compile would compile again for every new tensor of parameters."""
    if not _compiled() or torch.compiler.is_compiling():
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _compiled() -> bool:
    """Whether torch.compile was called, as far as PyTorch tells: every optimizer loads the module of this name."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return bool(frames) and getattr(frames, "cached_backends", {}).keys() != {id(None)}


def random_states(tensors: Iterable[Tensor]) -> RandomStates:
    """The states of the random generators of the CPU and of the devices of `tensors`; no device is waited for."""
    devices = {tensor.device for tensor in tensors} - {torch.device("cpu")}
    return _read([None, *(d for d in devices if hasattr(getattr(torch, d.type, None), "get_rng_state"))])


@contextmanager
def from_states(states: RandomStates) -> Iterator[None]:
    """Inside, random numbers are drawn from `states`; what follows goes on from there, or, if nothing was drawn, as before.

    So a pass repeats the numbers of an earlier one. If only the later one draws, its numbers are not drawn again.
    """
    before = _read(states)
    drawn = {device: state for device, state in states.items() if not state.equal(before[device])}  # from, meanwhile
    _set(drawn)
    try:
        yield
    finally:
        _set({device: before[device] for device, now in _read(drawn).items() if now.equal(drawn[device])})


def check(loss: Callable[[dict[str, Tensor]], Tensor], params: dict[str, Tensor]) -> None:
    """Raise ValueError unless the loss is one number, not random and in full precision, as sharpness and curvature need.

    A loss from `loss_of` was checked when it was made (`loss.checked`).
    """
    require.measured(params)
    require.loss_function(loss)
    if not getattr(loss, "checked", False):
        value = repeated(loss, params)
        if not (isinstance(value, Tensor) and value.ndim == 0):
            raise require.error(
                "loss(params)", "a tensor of one number", getattr(value, "shape", value), "use the mean"
            )


def differentiable(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss for `torch.func.grad`, which takes a constant, such as what `no_grad` leaves of a loss, for a flat one.

    ValueError, when it is called, for a value to which no graph leads from the tensors that it is given, and for a loss
    that writes into other tensors.
    """

    def value(*given: Any) -> Tensor:
        try:
            found = loss(*given)
        except RuntimeError as error:
            if "mutate a captured Tensor" not in str(error):
                raise
            remedy = "take loss_of(model, x, y), or call model.eval() first"
            rule = "a function that changes no tensor, such as batch-norm statistics"
            raise require.error("the loss", rule, "one that does", remedy) from error
        known = isinstance(found, Tensor) and not torch.compiler.is_compiling()
        if known and not (torch._C._functorch.is_gradtrackingtensor(found) and found.requires_grad):
            remedy = "leave out no_grad, .detach(), .item() and .argmax()"
            raise require.error("the loss", "a differentiable function of the weights", "a constant", remedy)
        return found

    return value


def repeated(loss: Callable[[dict[str, Tensor]], object], params: dict[str, Tensor], perhaps: str = "") -> object:
    """loss(params), evaluated twice; ValueError if it draws random numbers, or gives two different values.

    A value on a GPU cannot be read without waiting, and one under `torch.vmap` not at all: there, only draws of random
    numbers are noticed. The random state stays as it was, and so do batch-norm statistics.
    """
    before = random_states(params.values())
    try:
        with torch.no_grad(), frozen_statistics():
            first, after_first = loss(params), random_states(params.values())
            second, after_second = loss(params), random_states(params.values())
    finally:
        _set(before)
    if not all(map(torch.equal, after_first.values(), after_second.values())):
        found = "draws random numbers"
    elif not all(map(_alike, _leaves(first), _leaves(second))):
        found = f"is {first} at first and then {second}"
    else:
        return first
    raise ValueError(
        f"loss must not be random, but {perhaps and perhaps + ': '}at the same parameters it {found}; call model.eval() first,"
        " which turns dropout off, and use the same data for every evaluation"
    )


def _leaves(value: Any) -> list:
    parts = value.values() if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in _leaves(part)] if isinstance(value, dict | tuple) else [value]


def _alike(a: Any, b: Any) -> bool:
    """Whether two values differ by rounding at the most; True for those that cannot be read without waiting."""
    try:
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        tolerance = 1e3 * torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
        return a.device.type != "cpu" or torch.allclose(a, b, rtol=tolerance, atol=0.0, equal_nan=True)
    except (RuntimeError, TypeError, ValueError):  # no numbers, or one of many under vmap
        return True


def _read(devices: Iterable[torch.device | None]) -> RandomStates:
    return {d: torch.get_device_module(d).get_rng_state(d) if d else torch.get_rng_state() for d in devices}


def _set(states: RandomStates) -> None:
    for device, state in states.items():
        torch.get_device_module(device).set_rng_state(state, device) if device else torch.set_rng_state(state)
