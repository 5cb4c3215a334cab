"""One model, one loop, any optimizer."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_lite import callbacks, require
from sam_lite.checkpoint import resume, save, settings_of
from sam_lite.data import Data, batches, floats

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
    all the data and the dict `record(step, model)`, both in evaluation mode, and how many gradients there were so far.
    Status: "steps" after so many; "stop_loss" at a check with training loss <= `stop_loss`; "diverged" before an update
    from a loss that is not finite, with the weights that gave it; "stopped" by an interrupt. scheduler: stepped after
    every step. progress: such as tqdm. autocast: compute in bfloat16, with the float32 weights. checkpoint: a file
    written at every check; a run that finds it goes on from there, exactly as if it had never been stopped, and one of
    another model, optimizer, data or setting is refused; one process at a time can use it. An error in `record`,
    `progress` or `criterion` has the records until then as its `so_far`.
    """
    n = len(data.x_train)
    batch_size, steps, every = _counts(n, batch_size, steps, check_every)
    _check(model, data, optimizer, scheduler, steps, stop_loss, criterion)
    batch, rows, status = _Batch(model, optimizer, criterion, autocast), [], ""
    path = checkpoint and Path(checkpoint).expanduser()
    fixed = {"batch_size": batch_size, "seed": require.seed(seed), "autocast": bool(autocast), "criterion": criterion}
    settings = settings_of(model, data, optimizer, scheduler, **fixed) if path else {}
    if path and not path.parent.is_dir():
        raise require.error("checkpoint", "a file in a folder that is there", str(path), "make that folder first")
    parts = {"model": model, "optimizer": optimizer} | ({"scheduler": scheduler} if scheduler else {})
    with (
        callbacks.bar(progress, total=steps) as tell,
        _seeded(data.x_train.device, seed) as generators,
        _mode(model, True),
        callbacks.kept(lambda: _records(rows, batch_size, n, "error") if rows else None),
    ):
        try:
            if path and path.exists():
                rows = resume(path, settings, parts, generators, steps)
                batch.step, batch.gradients = rows[-1]["step"], rows[-1]["gradients"]
                status = _status(rows[-1], steps, stop_loss)
                tell(batch.step)
            for index in () if status else islice(_stream(data, batch_size, seed), batch.step, None):
                batch.take(data.x_train[index], data.y_train[index])
                if scheduler:
                    scheduler.step()
                tell(1)
                if batch.step % every == 0 or batch.step == steps:
                    rows.append(batch.counts() | _measures(model, data, criterion))
                    rows[-1] |= _recorded(record, batch.step, model)
                    if path:
                        save(path, settings, parts, generators, rows)
                    if status := _status(rows[-1], steps, stop_loss):
                        break
        except KeyboardInterrupt:
            status = "stopped"
        except _NotFinite:
            status = "diverged"
            rows.append(batch.counts())
    return _records(rows, batch_size, n, status)


class _NotFinite(Exception):
    """A loss that no step may be made from."""


class _Batch:
    """What an optimizer calls: the loss on a batch and its gradient. Counts steps and gradients."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, criterion: Callable, autocast: bool):
        self.model, self.optimizer, self.criterion, self.autocast = model, optimizer, criterion, autocast
        self.step, self.gradients = 0, 0

    def take(self, x: Tensor, y: Tensor) -> None:
        self.step, self.x, self.y = self.step + 1, x, y
        self.optimizer.step(self.closure)

    def closure(self) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(self.x.device.type, torch.bfloat16) if self.autocast else nullcontext():
            loss = self.criterion(self.model(self.x), self.y)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise require.error("criterion", "a function that returns the loss, a tensor of one number", loss)
        if not math.isfinite(loss.item()):
            raise _NotFinite
        loss.backward()
        self.gradients += 1
        return loss

    def counts(self) -> dict:
        return {"step": self.step, "gradients": self.gradients}


def evaluate(model: nn.Module, x: Tensor, y: Tensor, criterion=F.cross_entropy, chunk=2048) -> tuple[float, float]:
    """The loss of all points together, and accuracy, in evaluation mode; the model's mode is put back.

    The model sees `chunk` points at a time, the criterion all outputs at once: with class weights or a sum, too, its
    value is the right one. Raises ValueError for a model that does not return one tensor of outputs (n, n_out).
    """
    if not len(x):
        raise ValueError("x must hold one point or more, got none")
    with _mode(model, False), torch.no_grad():
        outputs = torch.cat([_outputs(model, xs) for xs in x.split(require.whole("chunk", chunk))])
        if len(outputs) != len(y):
            raise ValueError(f"y must hold a label for each of {len(outputs)} outputs, got {len(y)}")
        return float(criterion(outputs, y)), int((outputs.argmax(dim=-1) == y).sum()) / len(y)


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    outputs = model(x)
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or len(outputs) != len(x):
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise require.error("model", "one that returns a tensor of outputs (n, n_out)", found, f"for {len(x)} points")
    return outputs


def _measures(model: nn.Module, data: Data, criterion: Callable) -> dict:
    results = evaluate(model, *data[:2], criterion) + evaluate(model, *data[2:], criterion)
    return dict(zip(COLUMNS[3:], results, strict=True))


def _recorded(record: Callable | None, step: int, model: nn.Module) -> dict:
    with _mode(model, False):
        return callbacks.columns(record(step, model), [*COLUMNS, "status"]) if record else {}


def _records(rows: list[dict], batch_size: int, n: int, status: str) -> pd.DataFrame:
    names = dict.fromkeys(COLUMNS + [key for row in rows for key in row])
    records = pd.DataFrame(rows).reindex(columns=list(names))
    records["epoch"] = records["step"] * batch_size / n
    records.attrs["status"] = status
    return records


def _status(row: dict, steps: int | None, stop_loss: float | None) -> str:
    if not math.isfinite(row["train_loss"]):
        return "diverged"
    if stop_loss is not None and row["train_loss"] <= stop_loss:
        return "stop_loss"
    return "steps" if row["step"] == steps else ""


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[list[torch.Generator]]:
    """The generators that dropout draws from, seeded for a while."""
    gpus = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        generators = [torch.default_generator, *(torch.cuda.default_generators[i] for i in gpus)]
        for generator in generators:
            generator.manual_seed(require.seed(seed))
        yield generators


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
    generator = torch.Generator().manual_seed(require.seed(seed))
    while True:
        yield from torch.stack(list(batches(len(data.x_train), batch_size, generator))).to(data.x_train.device)


def _counts(n: int, batch_size: int, steps: int | None, check_every: int | None) -> tuple[int, int | None, int]:
    batch_size = require.whole("batch_size", batch_size, most=n)
    every = max(25, n // batch_size) if check_every is None else require.whole("check_every", check_every)
    return batch_size, steps if steps is None else require.whole("steps", steps), every


def _check(model, data, optimizer, scheduler, steps, stop_loss, criterion) -> None:
    if steps is None and stop_loss is None:
        raise ValueError("steps or stop_loss must say when to end, got neither")
    if stop_loss is not None:
        require.number("stop_loss", stop_loss)
    _check_optimizer(model, optimizer, scheduler)
    if len(places := {str(t.device) for t in (*model.parameters(), *data)}) > 1:
        raise ValueError(f"model and data must be on one device, got {sorted(places)}; use .to(device) on both")
    with _mode(model, False), torch.no_grad():
        try:
            n_outputs = _outputs(model, data.x_train[:2]).shape[-1]
        except RuntimeError as error:
            raise floats(data.x_train, error) from error
    data.check(n_outputs if criterion is F.cross_entropy else None)


def _check_optimizer(model, optimizer, scheduler) -> None:
    for group in optimizer.param_groups:
        require.number("lr", group.get("initial_lr", group["lr"]), above=0)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held <= {id(p) for p in model.parameters()}:
        raise ValueError("optimizer must hold parameters of this model, got others; make it from model.parameters()")
    if not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("optimizer must hold a parameter to train, but all have requires_grad=False")
    if scheduler is None:
        return
    try:
        inspect.signature(scheduler.step).bind()
    except TypeError as error:
        kind = type(scheduler).__name__
        remedy = "leave it out, and call its step with the loss in `record`"
        raise require.error("scheduler", "one whose step() needs no value", kind, remedy) from error
    if getattr(scheduler, "optimizer", optimizer).param_groups is not optimizer.param_groups:
        raise ValueError("scheduler must be one of this optimizer, got one of another; make it from this optimizer")
