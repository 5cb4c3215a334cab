"""What a function may be given: each check names the argument, the rule, the value and, where it helps, the remedy.

Those for one number return it as a plain Python number. NumPy's numbers and tensors of one number are numbers too.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def number(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    remedy: str = "",
) -> float:
    """A finite number within the bounds: `least` and `most` are allowed themselves, `above` and `below` are not.

    Raises ValueError for anything else. A tensor whose value cannot be read without waiting (on a GPU) or not at all
    (one of many under `torch.vmap`) is returned as it is, and so is one by which a derivative is taken.
    """
    plain = pythons(value)
    if isinstance(plain, Tensor) and plain.ndim == 0:
        return plain
    try:
        good = isinstance(plain, Real) and not isinstance(plain, bool) and math.isfinite(plain)
    except OverflowError:  # such as 10**400
        good = False
    if not (good and least <= plain <= most and above < plain < below):
        signs = ((">=", least), (">", above), ("<=", most), ("<", below))
        limits = " and ".join(f"{sign} {limit:g}" for sign, limit in signs if math.isfinite(limit))
        raise error(name, f"a finite number {limits}".strip(), value, remedy)
    if isinstance(value, Tensor) and (value.requires_grad or torch._C._functorch.is_gradtrackingtensor(value)):
        if not torch.is_grad_enabled():
            constant(name, value)
        return value  # by which somebody takes a derivative
    return plain if isinstance(plain, (int, float)) else float(plain)  # of a fraction


def whole(name: str, value: object, *, least: int = 1, most: float = math.inf, remedy: str = "") -> int:
    """An integer from `least` to `most`, both allowed; ValueError for anything else, 2.5 and True among it."""
    plain = pythons(value)
    if not isinstance(plain, Integral) or isinstance(plain, bool) or not least <= int(plain) <= most:
        limits = f">= {least}" if most == math.inf else f"from {least} to {most}"
        raise error(name, f"an integer {limits}", value, remedy)
    return int(plain)


def seed(value: object, name: str = "seed") -> int:
    """An integer that torch and NumPy take for the start of their random numbers; ValueError for anything else."""
    return whole(name, value, least=0, most=2**63 - 1)


def tensors(name: str, values: Iterable, parts: Sequence[str]) -> list[Tensor]:
    """One for each of `parts`, without the gradients they may ask for; ValueError for what is no tensor, such as arrays."""
    found = list(islice(values, len(parts) + 1))  # of a data set perhaps, of which each item is one
    if len(found) != len(parts) or not all(isinstance(one, Tensor) for one in found):
        kinds = [type(one).__name__ for one in found]
        raise error(name, f"tensors {', '.join(parts)}", kinds, "use torch.as_tensor on arrays")
    return [one.detach() for one in found]


def functions(criterion: object, **others: object) -> None:
    """Raise ValueError for what cannot be called, or is a class of criteria; None is allowed for all but `criterion`."""
    for name, value in {"criterion": criterion, **others}.items():
        odd = isinstance(value, type) and issubclass(value, torch.nn.Module)
        if odd or not (callable(value) or value is None and name != "criterion"):
            raise error(name, "a function", value, "make one of the class, as in nn.CrossEntropyLoss()" if odd else "")


def constant(name: str, value: Tensor) -> None:
    """Raise ValueError for a variable of `torch.func.grad`, where no graph is kept: its derivative would come out as 0."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_gradtrackingtensor(value) and value.requires_grad:
            rule = "a constant, since this function keeps no graph and its gradient would be 0"
            remedy = "give p.detach() if a constant is meant, or use torch.func.jacfwd, which needs no graph"
            raise error(name, rule, "a variable of torch.func.grad", remedy)
        value = functorch.get_unwrapped(value)


def parameters(params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same; ValueError for what is no dict, such as a model in the place of its parameters."""
    if not isinstance(params, Mapping):
        raise error("params", "a dict of tensors, name -> (*shape)", type(params).__name__, "give params_of(model)")
    return params


def loss_function(loss: object) -> None:
    """Raise ValueError for what is no function of parameters, such as a model in the place of its loss."""
    if not callable(loss) or isinstance(loss, torch.nn.Module) and any(True for _ in loss.parameters()):
        raise error("loss", "a function of params", type(loss).__name__, "give loss_of(model, x, y)")


def precision(params: Mapping[str, Tensor]) -> None:
    """Raise ValueError for an empty dict or none, and for types other than float32 and float64: rounding hides differences."""
    if not parameters(params):
        raise error("params", "at least one tensor", params)
    for name, p in params.items():
        if p.dtype not in (torch.float32, torch.float64):
            counts = not (p.is_floating_point() or p.is_complex())  # such as a buffer of state_dict()
            remedy = "give params_of(model)" if counts else "use .float() on model and data"
            remedy = "take torch.view_as_real(p) for the parameter" if p.is_complex() else remedy
            raise error(f"params[{name!r}]", "float32 or float64", p.dtype, remedy)


def measured(params: Mapping[str, Tensor]) -> None:
    """`precision` and `constant`, and ValueError inside `torch.autocast`, which computes in half precision what it can."""
    precision(params)
    for name, p in params.items():
        constant(f"params[{name!r}]", p)
    for kind in {p.device.type for p in params.values() if p.dtype == torch.float32}:
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            remedy = f"measure outside of it, or in `with torch.autocast({kind!r}, enabled=False)`"
            raise error("torch.autocast", "off while float32 weights are measured", "on", remedy)


def same_names(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Raise ValueError for names that one of two sets of parameters lacks: a sum over the rest would be another one."""
    if parameters(one).keys() != parameters(other).keys():
        raise error("two sets of parameters", "of the same names", f"{sorted(one)} and {sorted(other)}")


def dense(grads: Iterable[Tensor]) -> None:
    """Raise TypeError for sparse gradients, which have no norm and no step."""
    if any(g.layout != torch.strided for g in grads):
        raise TypeError("SAM needs dense gradients, got a sparse one; use nn.Embedding(..., sparse=False)")


def error(name: str, rule: str, value: object, remedy: str = "") -> ValueError:
    """The one form of an error at the door: `raise error("rho", "a finite number >= 0", -1)`."""
    return ValueError(f"{name} must be {rule}, got {value!r}{remedy and f'; {remedy}'}")


def pythons(value: Any) -> Any:
    """A NumPy number or a tensor of one number, as Python's; anything else as it is."""
    if isinstance(value, Tensor):
        if value.ndim or value.device.type != "cpu":
            return value
        try:
            return value.item()
        except RuntimeError:  # one of many under vmap
            return value
    single = (
        hasattr(value, "item") and getattr(value, "ndim", None) == 0 and value is not np.ma.masked
    )  # whose item is 0
    return value.item() if single else value
