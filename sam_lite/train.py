"""One model, one loop, any optimizer."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_lite.checkpoint import resume, save, settings_of
from sam_lite.data import Data, batches, check_size

COLUMNS = ["step", "epoch", "gradients", "train_loss", "train_acc", "test_loss", "test_acc"]


def train(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    steps: int | None = None,
    stop_loss: float | None = None,
    seed: int = 0,
    check_every: int | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    record: Callable[[int, nn.Module], dict] | None = None,
    progress: Callable | None = None,
    autocast: bool = False,
    checkpoint: str | Path | None = None,
) -> pd.DataFrame:
    """Train `model` in place; returns its records, with what ended the training in `records.attrs["status"]`.

    Every step is one `optimizer.step(closure)`, on the batches that `seed` stands for; dropout follows the seed too.
    Every `check_every` steps (default: an epoch, at least 25) and at the end a row is recorded: loss and accuracy on
    all the data and `record(step, model)`, both in evaluation mode, and how many gradients were evaluated so far.
    Status: "steps" after so many; "stop_loss" at a check with training loss <= `stop_loss`; "diverged" before an update
    from a loss that is not finite, with the weights that gave it; "stopped" by an interrupt. scheduler: stepped after
    every step. progress: such as tqdm. autocast: compute in bfloat16, with the float32 weights. checkpoint: a file
    written at every check; a run that finds it goes on from there, exactly as if it had never been stopped.
    """
    n = len(data.x_train)
    every = max(25, len(list(batches(n, batch_size, torch.Generator())))) if check_every is None else check_every
    _check(model, data, optimizer, steps, stop_loss, every, criterion)
    settings = settings_of(data, optimizer, scheduler, batch_size, seed, autocast)
    parts = {"model": model, "optimizer": optimizer} | ({"scheduler": scheduler} if scheduler else {})
    device, rows, step, gradients, status = data.x_train.device, [], 0, 0, ""
    precision = torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext()

    def closure() -> Tensor:
        nonlocal gradients
        optimizer.zero_grad()
        with precision:
            loss = criterion(model(x), y)
        if not math.isfinite(loss.item()):
            raise FloatingPointError
        loss.backward()
        gradients += 1
        return loss

    bar = progress(total=steps) if progress else None
    gpus = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), _mode(model, True):
        generators = [torch.default_generator, *(torch.cuda.default_generators[i] for i in gpus)]
        for generator in generators:
            generator.manual_seed(seed)
        try:
            if checkpoint and Path(checkpoint).exists():
                rows = resume(Path(checkpoint), settings, parts, generators)
                step, gradients, status = rows[-1]["step"], rows[-1]["gradients"], _status(rows[-1], steps, stop_loss)
                if steps and step > steps:
                    raise ValueError(
                        f"checkpoint {checkpoint} is at step {step}, beyond steps={steps}; name another file"
                    )
            if bar:
                bar.update(step)
            for index in () if status else islice(_stream(data, batch_size, seed), step, None):
                step += 1
                x, y = data.x_train[index], data.y_train[index]
                optimizer.step(closure)
                if scheduler:
                    scheduler.step()
                if bar:
                    bar.update(1)
                if step % every == 0 or step == steps:
                    row = {"step": step, "gradients": gradients}
                    rows.append(row | _measures(model, data, criterion, step, record))
                    if checkpoint:
                        save(Path(checkpoint), settings, parts, generators, rows)
                    if status := _status(rows[-1], steps, stop_loss):
                        break
        except KeyboardInterrupt:
            status = "stopped"
        except FloatingPointError:
            status = "diverged"
            rows.append({"step": step, "gradients": gradients})
        finally:
            if bar:
                bar.close()
    records = pd.DataFrame(rows).reindex(columns=list(dict.fromkeys(COLUMNS + [key for row in rows for key in row])))
    records["epoch"] = records["step"] * batch_size / n
    records.attrs["status"] = status
    return records


def evaluate(model: nn.Module, x: Tensor, y: Tensor, criterion=F.cross_entropy, chunk=2048) -> tuple[float, float]:
    """Mean loss and accuracy in evaluation mode, `chunk` points at a time; the model's mode is put back."""
    loss, right = 0.0, 0
    with _mode(model, False), torch.no_grad():
        for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True):
            outputs = model(xs)
            loss += float(criterion(outputs, ys)) * len(xs) / len(x)
            right += int((outputs.argmax(dim=-1) == ys).sum())
    return loss, right / len(x)


def _measures(model: nn.Module, data: Data, criterion: Callable, step: int, record: Callable | None) -> dict:
    results = evaluate(model, *data[:2], criterion) + evaluate(model, *data[2:], criterion)
    with _mode(model, False):
        extra = record(step, model) if record else {}
    extra = {name: value.item() if hasattr(value, "item") else value for name, value in extra.items()}
    return dict(zip(COLUMNS[3:], results, strict=True)) | extra


def _status(row: dict, steps: int | None, stop_loss: float | None) -> str:
    if not math.isfinite(row["train_loss"]):
        return "diverged"
    if stop_loss is not None and row["train_loss"] <= stop_loss:
        return "stop_loss"
    return "steps" if row["step"] == steps else ""


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """In training or evaluation mode for a while. A model in training mode may have frozen layers: they stay so."""
    before = {module: module.training for module in model.modules()}
    if not (training and model.training):
        model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def _stream(data: Data, batch_size: int, seed: int) -> Iterator[Tensor]:
    """The batches of all epochs, one after the other, on the device of the data."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.stack(list(batches(len(data.x_train), batch_size, generator))).to(data.x_train.device)


def _check(model, data, optimizer, steps, stop_loss, every, criterion) -> None:
    if steps is None and stop_loss is None:
        raise ValueError("steps or stop_loss must say when to end, got neither")
    if steps is not None:
        check_size("steps", steps)
    check_size("check_every", every)
    if stop_loss is not None and math.isnan(stop_loss):
        raise ValueError("stop_loss must be a number, got nan")
    for lr in (group.get("initial_lr", group["lr"]) for group in optimizer.param_groups):
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be > 0 and finite, got {float(lr)}")
    if not {id(p) for g in optimizer.param_groups for p in g["params"]} <= {id(p) for p in model.parameters()}:
        raise ValueError("optimizer must hold parameters of this model, got others; make it from model.parameters()")
    if len(places := {str(t.device) for t in (*model.parameters(), *data)}) > 1:
        raise ValueError(f"model and data must be on one device, got {sorted(places)}; use .to(device) on both")
    with _mode(model, False), torch.no_grad():
        n_outputs = model(data.x_train[:1]).shape[-1]
    data.check(n_outputs if criterion is F.cross_entropy else None)
