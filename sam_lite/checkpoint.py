"""A training on disk: written at once or not at all, and gone on with exactly."""

import os
import pickle
import zlib
from pathlib import Path

import torch


def settings_of(data, optimizer, scheduler, batch_size: int, seed: int, autocast: bool) -> dict:
    """What must be the same for a training to go on; its end, `steps` or `stop_loss`, may be another."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    groups = [group | {"lr": group.get("initial_lr", group["lr"])} for group in groups]  # as before any schedule
    inner = getattr(optimizer, "base_optimizer", optimizer)  # a wrapper's, such as SAM's
    names = {"optimizer": type(optimizer).__name__, "base": type(inner).__name__, "scheduler": type(scheduler).__name__}
    numbers = {"batch_size": batch_size, "seed": seed, "autocast": autocast}
    labels = zlib.crc32(data.y_train.cpu().numpy().tobytes())
    return (
        names
        | numbers
        | {
            "rho": getattr(optimizer, "rho", None),
            "groups": repr(groups),
            "x_train": tuple(data.x_train.shape),
            "checksum of y_train": labels,
        }
    )


def save(path: Path, settings: dict, parts: dict, generators: list[torch.Generator], rows: list[dict]) -> None:
    """Write the states of `parts` (model, optimizer, scheduler) and generators, and the rows recorded so far."""
    states = {name: part.state_dict() for name, part in parts.items()}
    random = [generator.get_state() for generator in generators]
    unfinished = path.with_name(path.name + ".tmp")
    torch.save({"settings": settings, "states": states, "random": random, "rows": rows}, unfinished)
    os.replace(unfinished, path)


def resume(path: Path, settings: dict, parts: dict, generators: list[torch.Generator]) -> list[dict]:
    """Put `parts` and generators in the states of the file; returns its rows.

    Raises ValueError for a damaged file, and for one of a training with other settings.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        old, states, random, rows = (saved[key] for key in ("settings", "states", "random", "rows"))
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {path} is damaged; delete it to start again: {error}") from error
    for key, value in settings.items():
        if old.get(key) != value:
            raise ValueError(
                f"checkpoint {path} was saved with other settings, {key} {old.get(key)} instead of {value}; "
                "use those, or name another file"
            )
    for name, part in parts.items():
        try:
            part.load_state_dict(states[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"checkpoint {path} was saved with another {name}: {error}") from error
    for generator, state in zip(generators, random, strict=False):  # fewer when it was saved on a CPU
        generator.set_state(state)
    return rows
