"""What a setting is, in words that are the same in every process: numbers by value, tensors and functions by checksum."""

import copyreg
import dis
import inspect
import re
import sys
import types
import zlib
from collections.abc import Iterator, Mapping, Set
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# what changes in a scheduler while it is used, and what it takes from its optimizer
MOVING = {"optimizer", "base_lrs", "last_epoch", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter"}
MOVING |= {"_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step"}


def words(thing: Any, own: frozenset[int] = frozenset()) -> str:
    """A description that two things share if they do the same.

    Things whose id is in `own` are left out. Of an object of unknown kind it has what the constructor took or, where not
    all of that is kept, all attributes; of a class that the user wrote, a NamedTuple too, also the code and the attributes.
    """
    if id(thing) in own:
        return "its own"
    inside = partial(words, own=own | {id(thing)})
    thing = thing.item() if isinstance(thing, (np.generic, Tensor)) and thing.ndim == 0 else thing
    if isinstance(thing, Real) and not isinstance(thing, bool):
        return repr(int(thing) if thing == thing // 1 and abs(thing) < 2**63 else thing)  # type: ignore
    if isinstance(thing, np.ndarray) and thing.dtype.kind not in "biufc":
        return inside(thing.tolist())
    if isinstance(thing, (Tensor, np.ndarray)):
        values = thing if isinstance(thing, Tensor) else torch.from_numpy(np.array(thing, order="C"))  # not read-only
        return _array(values.detach().cpu())
    if isinstance(thing, (Mapping, list, tuple, Set)):
        kind = inside(type(thing)) if written_by_the_user(type(thing)) else ""  # whose methods may compute
        if isinstance(thing, Mapping):
            return kind + "{" + ", ".join(f"{inside(k)}: {inside(v)}" for k, v in thing.items()) + "}"
        parts = map(inside, thing)
        return f"{kind}[{', '.join(sorted(parts) if isinstance(thing, Set) else parts)}]"
    if isinstance(thing, partial):
        return f"partial of {inside(thing.func)} with {inside(thing.args)} and {inside(thing.keywords)}"
    if isinstance(thing, types.MethodType):
        return f"{inside(thing.__func__)} of {inside(thing.__self__)}"
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    if (
        isinstance(thing, types.FunctionType) and "site-packages" in thing.__code__.co_filename
    ):  # versions tell the rest
        return f"{thing.__qualname__} with {inside([_content(cell) for cell in thing.__closure__ or ()])}"
    if isinstance(thing, types.FunctionType):
        return f"{thing.__qualname__} (code {_checksum(_code(thing, thing.__code__, inside).encode())})"
    if isinstance(thing, type) and (written := _written(thing)):
        return f"{thing.__qualname__} (code {_checksum(inside(written).encode())})"
    free = isinstance(thing, types.BuiltinFunctionType) and isinstance(
        thing.__self__, (type, types.ModuleType, type(None))
    )
    if free or isinstance(thing, type):
        return thing.__qualname__
    if hasattr(thing, "to_numpy"):  # a table, whose other attributes are caches
        return f"{type(thing).__name__} of {inside(thing.to_numpy())} at {inside(getattr(thing, 'axes', None))}"
    if isinstance(thing, (staticmethod, classmethod)):
        return inside(thing.__func__)
    if isinstance(thing, property):
        return inside([thing.fget, thing.fset])
    if thing is None or isinstance(thing, (bool, str, bytes, complex, types.CodeType, torch.dtype, torch.device)):
        return repr(thing)
    name = inside(type(thing)) if written_by_the_user(type(thing)) else type(thing).__name__
    return f"{name}({inside(settings_in(thing))})"


def settings_in(thing: object) -> dict:
    """An object's settings: of torch's schedulers everything that does not move, of others what their constructors took,
    and all attributes of those that do not keep all of that under its name, or under its name with a "_" before it; what
    would be pickled of those without a `__dict__`, such as a range, a path, or the method `values.__getitem__` of a list.
    """
    if isinstance(thing, LRScheduler) and type(thing).__module__.startswith("torch."):
        return {name: value for name, value in vars(thing).items() if name not in MOVING}
    try:
        names = list(inspect.signature(type(thing)).parameters)
    except ValueError:  # some written in C have no signature
        names = []
    found = {name: getattr(thing, at) for name in names for at in (f"_{name}", name) if hasattr(thing, at)}
    if isinstance(thing, nn.Module):
        found |= {"training": thing.training, "layers": without_addresses(repr(thing)), **thing.state_dict()}
        return found | {name: value for name, value in details(thing).items() if name not in found}
    if isinstance(thing, Optimizer):
        return {name: value for name, value in found.items() if name != "params"}
    if not hasattr(thing, "__dict__") and (not names or len(found) < len(names)):
        inner = _inner(thing)
        return found if inner is None else {**found, "state": inner}
    library = type(thing).__module__.partition(".")[0]
    kept = library in ("argparse", "functools", "types") or library not in {*sys.stdlib_module_names, "torch"}
    if (names and len(found) == len(names)) or not kept:
        return found
    held: Any = object.__getstate__(thing)  # attributes, and what stands in slots, as in a spline of SciPy
    return {**((held[0] or {}) | held[1] if isinstance(held, tuple) else held or {}), **found}


def _inner(thing: object) -> object:
    """What pickle would keep, but not of that which moves when it is used: iterators and random generators."""
    if isinstance(thing, (Iterator, torch.Generator, np.random.Generator, np.random.BitGenerator)):
        return None
    try:
        known = copyreg.dispatch_table.get(type(thing))  # such as that of regular expressions
        kept = known(thing)[1:] if known else thing.__reduce_ex__(2)
    except Exception:  # of what cannot be pickled
        return None
    return kept if isinstance(kept, str) else [*kept[:3], *map(list, filter(None, kept[3:5]))]  # items, as of a deque


def details(model: nn.Module) -> dict[str, Any]:
    """What a model computes with that neither its state nor its shapes tell, with the names of its layers.

    These are attributes that hold no tensor, buffers that are not saved, hooks on gradients, and what the user wrote.
    """
    found, usual = {}, vars(nn.Module()).keys() | {"_compiled_call_impl"}
    for name, layer in model.named_modules():
        if type(layer).__module__.startswith("torch._"):  # around a compiled model, with addresses of code
            continue
        held = {key: value for key, value in vars(layer).items() if key not in usual and _still(value)}
        held |= {key: layer._buffers[key] for key in layer._non_persistent_buffers_set}
        for key, p in layer._parameters.items():
            kinds = (getattr(p, kind, None) or {} for kind in ("_backward_hooks", "_post_accumulate_grad_hooks"))
            hooks = [hook for kind in kinds for hook in kind.values()]
            held |= {f"hooks of {key}": hooks} if hooks else {}
        held |= {"class": type(layer)} if written_by_the_user(type(layer)) and layer is not model else {}
        found |= {f"{name}.{key}".lstrip("."): value for key, value in held.items()}
    return found


def _still(value: object) -> bool:
    """Whether an attribute is no result of a call: None, a tensor, a layer, or some of these together."""
    parts = list(value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ())
    return value is not None and not isinstance(value, (Tensor, nn.Module)) and all(map(_still, parts))


def written_by_the_user(kind: type) -> bool:
    """Whether a class is neither Python's own nor of an installed library, whose versions tell the rest."""
    name = kind.__module__.partition(".")[0]
    python = name in sys.stdlib_module_names and not (name == "builtins" and kind.__flags__ & 1 << 9)  # made by `exec`
    return not python and "site-packages" not in (getattr(sys.modules.get(kind.__module__), "__file__", None) or "")


def _written(kind: type) -> list[dict[str, Any]]:
    """The methods and attributes of a class and of its bases, as far as the user wrote them."""
    ours = [vars(one).items() for one in kind.__mro__ if written_by_the_user(one)]
    return [{name: v for name, v in one if name == "__call__" or not name.startswith("__")} for one in ours]


def without_addresses(text: str) -> str:
    """`<function f at 0x7f...>` without the address, which differs from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _array(values: Tensor) -> str:
    content = values.contiguous().reshape(-1).view(torch.uint8) if values.numel() else values.reshape(-1)
    return f"{tuple(values.shape)} {values.dtype} (checksum {_checksum(content.numpy())})"


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


def _code(function: types.FunctionType, code: types.CodeType, inside) -> str:
    """The byte code, its constants, and the values that it reads from outside itself and does not set."""
    steps = {name: set() for name in ("LOAD_GLOBAL", "STORE_GLOBAL", "STORE_DEREF")}
    for step in dis.get_instructions(code):
        steps.setdefault(step.opname, set()).add(step.argval)
    free = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    outside = {name: _content(cell) for name, cell in free.items() if name not in steps["STORE_DEREF"]}
    known = (steps["LOAD_GLOBAL"] - steps["STORE_GLOBAL"]) & function.__globals__.keys()
    outside |= {name: function.__globals__[name] for name in sorted(known)}
    nested = [_code(function, one, inside) for one in code.co_consts if isinstance(one, types.CodeType)]
    plain = [inside(one) for one in code.co_consts if not isinstance(one, types.CodeType)]
    defaults = (function.__defaults__, function.__kwdefaults__)
    return repr((code.co_code, code.co_names, plain, nested, inside(defaults), inside(outside)))


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is set later
        return None
