"""A training on disk: written at once or not at all, and gone on with exactly, as the training that it was."""

import os
import pickle
import sys
import types
import warnings
import zlib
from collections import Counter, OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sam_lite import require
from sam_lite.describe import details, settings_in, without_addresses, words, written_by_the_user

FORMAT = "3"  # of the file; earlier ones had none


def settings_of(model: nn.Module, data: Any, optimizer: Optimizer, **others) -> dict[str, str]:
    """In words, what must be the same for a training to go on; its end, `steps` or `stop_loss`, may be another."""
    say = partial(words, own=frozenset(map(id, (*model.modules(), *model.parameters(), optimizer))))
    found = {"format": FORMAT, "torch": torch.__version__.partition("+")[0]}
    found |= {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}  # functions are compared by byte code
    found |= {name: say(value) for name, value in others.items()} | _layers(model)
    for kind, part in _wrapped(optimizer).items():
        found[kind] = type(part).__name__
        told = {name: say(value) for name, value in settings_in(part).items() if not isinstance(value, Optimizer)}
        found |= {f"{name} of the {kind}" if name in found else name: value for name, value in told.items()}
    kinds = {"model": type(model)} | {kind: type(part) for kind, part in _wrapped(optimizer).items()}
    inner = details(model) | {name: kind for name, kind in kinds.items() if written_by_the_user(kind)}
    found["details"] = "\n".join(f"{name}: {say(value)}" for name, value in inner.items())
    found["hooks"] = "\n".join(f"{name}: {say(hook)}" for name, hook in _hooks(model, optimizer)) or "none"
    names = {id(p): name for name, p in model.named_parameters()}
    for i, group in enumerate(optimizer.param_groups):
        which = f" of group {i}" if len(optimizer.param_groups) > 1 else ""
        found |= {name + which: say(value) for name, value in group.items() if name not in ("params", "param_names")}
        found["parameters of the optimizer" + which] = "\n".join(names[id(p)] for p in group["params"])
    return found | {name: say(values) for name, values in data._asdict().items()}


def _wrapped(optimizer: Optimizer) -> dict[str, Optimizer]:
    """The optimizer and, if it is a wrapper such as SAM, its base, and the base of that."""
    found, inner = {"optimizer": optimizer}, optimizer
    while inner := next((v for v in settings_in(inner).values() if isinstance(v, Optimizer)), None):
        found["base " * (len(found) - 1) + "base"] = inner
    return found


def _hooks(model: nn.Module, optimizer: Optimizer) -> list[tuple[str, Any]]:
    """Functions that change gradients on the way back through a layer, or what a step does, each with its place.

    Methods are left out: what their objects hold may be what they count.
    """
    kinds = "_backward_hooks", "_backward_pre_hooks", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"
    things = [*model.named_modules(), *_wrapped(optimizer).items()]
    hooks = [(name, hook) for name, one in things for kind in kinds for hook in vars(one).get(kind, {}).values()]
    return [(name, hook) for name, hook in hooks if isinstance(hook, (types.FunctionType, partial))]


def _layers(model: nn.Module) -> dict[str, str]:
    parameters = model.named_parameters()
    shapes = [f"{k} {tuple(p.shape)} {p.dtype}{'' if p.requires_grad else ' frozen'}" for k, p in parameters]
    resting = [name for name, layer in model.named_modules() if model.training and not layer.training]
    return {
        "model": f"{type(model).__qualname__}\n{without_addresses(repr(model))}",
        "parameters of the model": "\n".join(shapes),
        "layers in evaluation mode": ", ".join(resting) or "none",
    }


def save(path: Path, settings: dict, parts: dict, generators: list, rows: list[dict], sample: Tensor | None) -> None:
    """Write the states of `parts` (model, optimizer) and generators, the rows recorded so far, and a sample of outputs.

    Raises ValueError for a state that could not be read again, OSError on a full disk; the file that was there stays.
    """
    path = Path(os.path.realpath(path))  # a link stays, and what it leads to is written
    states = {name: _plain(part.state_dict()) for name, part in parts.items()}
    random = [generator.get_state() for generator in generators]
    short = f"{zlib.crc32(os.fsencode(path.name)):08x}"  # since the file's own name may be as long as names can be
    unfinished = path.with_name(f"{short}.{os.getpid()}.tmp")
    try:
        found = {"settings": settings, "states": states, "random": random, "rows": _plain(rows), "sample": sample}
        torch.save(found, unfinished)
        torch.load(unfinished, map_location="cpu", weights_only=True, mmap=True)
        os.replace(unfinished, path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {path} can hold numbers, words and tensors, but a state of the {', '.join(parts)} has others, "
            f"which could not be read again: {error}"
        ) from error
    except RuntimeError as error:  # what torch makes of a full disk, or of a folder that is gone
        remedy = "free some space, or make its folder again, and the same call goes on"
        raise OSError(f"checkpoint {path} cannot be written; {remedy}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def resume(
    path: Path,
    settings: dict,
    parts: dict,
    generators: list,
    steps: int | None = None,
    sample: Tensor | None = None,
) -> list[dict]:
    """Put `parts` and generators in the states of the file; returns its rows.

    Raises ValueError, and changes nothing, for a file that cannot be read, and for one of a training with other
    settings, with another `sample` of outputs at equal weights, or beyond `steps`.
    """
    saved = _read(path)
    old, states, random, rows = (saved[key] for key in ("settings", "states", "random", "rows"))
    for key in ("details", "hooks"):
        old.setdefault(key, settings[key])  # which early files do not have
    for key in dict.fromkeys([*settings, *old]):
        if (before := old.get(key, "none")) != (now := settings.get(key, "none")):
            before, now = _where_they_part(before, now)
            raise ValueError(
                f"checkpoint {path} was saved with other settings, {key} {before} instead of {now}; "
                "use those, or name another file"
            )
    there = saved.get("sample")  # which early files do not have
    if not (there is None or sample is None or torch.allclose(there, sample, rtol=1e-3, atol=1e-4, equal_nan=True)):
        raise ValueError(
            f"checkpoint {path} was saved with a model that computes something else with the same weights, by tensors in "
            "plain attributes or by hooks; use that, or name another file"
        )
    if steps and rows[-1]["step"] > steps:
        raise ValueError(f"checkpoint {path} is at step {rows[-1]['step']}, beyond steps={steps}; name another file")
    for name, part in parts.items():
        try:
            part.load_state_dict(states[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"checkpoint {path} was saved with another {name}: {error}") from error
    for generator, state in zip(generators, random, strict=False):  # fewer when it was saved on a CPU
        generator.set_state(state)
    return rows


def _read(path: Path) -> dict:
    if not path.is_file():
        remedy = f"name one in it, such as {path / 'run.pt'}" if path.is_dir() else ""
        raise require.error("checkpoint", "a file", str(path), remedy)
    another = "name another file, or move this one away to start again"
    try:
        with warnings.catch_warnings(action="ignore"):  # of other kinds of file
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        with open(path, "rb") as file:
            start = file.read(512)
        torn = not start or (b"data.pkl" in start and not isinstance(error, pickle.UnpicklingError))
        what = "is cut off or damaged" if torn else "is not a file that `train` has written"
        raise ValueError(f"checkpoint {path} {what}; {another}: {error}") from error
    if not (isinstance(saved, dict) and {"settings", "states", "random", "rows"} <= saved.keys()):
        raise ValueError(f"checkpoint {path} is not a file that `train` has written; {another}")
    if (there := saved["settings"].get("format", "1")) != FORMAT:
        raise ValueError(f"checkpoint {path} was written in format {there}, and this version reads {FORMAT}; {another}")
    return saved


def _where_they_part(before: str, now: str) -> tuple[str, str]:
    """Of two texts of many lines the first that differ."""
    lines = [text.splitlines() for text in (before, now)]
    at = next((i for i, (a, b) in enumerate(zip(*lines, strict=False)) if a != b), min(map(len, lines)))
    first, second = (text[at].strip() if at < len(text) else "nothing" for text in lines)
    return first, second


def _plain(state: Any) -> Any:
    """The same with Python's numbers for NumPy's, which torch would write but not read again."""
    if type(state) in (dict, Counter) or (type(state) is OrderedDict and not hasattr(state, "_metadata")):
        return type(state)({_plain(key): _plain(value) for key, value in state.items()})
    if type(state) in (list, tuple):
        return type(state)(map(_plain, state))
    return state.item() if isinstance(state, np.generic) else state
