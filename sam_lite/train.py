"""One model, one loop, any optimizer."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_lite import callbacks, pure, require
from sam_lite.checkpoint import resume, save, settings_of
from sam_lite.data import Data, batches, floats
from sam_lite.models import seeded
from sam_lite.plan import plan_of

COLUMNS = ["step", "epoch", "gradients", "train_loss", "train_acc", "test_loss", "test_acc"]


class Training(NamedTuple):
    """records: one row for each time that was recorded, the last of them the end; columns COLUMNS and those of `record`.
    status: what ended it: "steps", "stop_loss", "diverged" or "stopped".
    """

    records: pd.DataFrame
    status: str


def train(
    model: nn.Module,
    data: Data,
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    steps: int,
    stop_loss: float | None = None,
    seed: int = 0,
    schedule: Callable[[int], float] | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    check_every: int | None = None,
    record_every: int | None = None,
    record: Callable[[int, nn.Module], dict] | None = None,
    progress: Callable | None = None,
    autocast: bool = False,
    checkpoint: str | Path | None = None,
) -> Training:
    """Train `model` in place, with any optimizer. Arguments that `train_ensemble` has too mean the same there.

    Every step is one `optimizer.step(closure)`, on the batches that `seed` stands for.

    Args:
        model: returns outputs (n, n_classes) for inputs (n, *features).
        data: training and test sets, on the device of the model.
        optimizer: one of torch's, or `SAM` around one, made from `model.parameters()`.
        batch_size: examples a step.
        steps: the most that are made (status "steps").
        stop_loss: ends it at a check, or where a row is recorded, if the loss on all training data is not above this
            (status "stop_loss").
        seed: of the order of the examples, and of dropout, whose random numbers all threads of a process share: so only
            one thread at a time can train.
        schedule: schedule(step), step = 0, 1, ..., multiplies the learning rate of that step.
        criterion: criterion(outputs, y), the loss to minimize.
        check_every: steps between two checks; default: an epoch, at least 25.
        record_every: steps between two rows of `records`; default: one row, at the end. A row holds loss and accuracy on
            all training and all test data, in evaluation mode, and how many gradients there were so far; see `evaluate`.
        record: record(step, model), a dict of numbers and words for the same row, made in evaluation mode.
        progress: such as tqdm; counts steps.
        autocast: compute in bfloat16, with the float32 weights.
        checkpoint: a file, written at every check. A training that finds it goes on from there, exactly as if it had
            never been stopped; only what `record` changed and no `state_dict` holds, such as SAM's rho, a frozen layer or
            a counter in an attribute, starts anew. A file of another model, optimizer, data or setting is refused; `steps`
            and `stop_loss` may be others. One process at a time can use it.

    Ends as "diverged" before an update from a loss that is not finite, with the weights that gave it; as "stopped" by an
    interrupt. An error in `record`, `progress`, `schedule` or `criterion` has the Training until then as its `so_far`.

    >>> import torch
    >>> from sam_lite.data import load
    >>> from sam_lite.models import build, mlp
    >>> from sam_lite.sam import SAM
    >>> model, data = build(lambda: mlp(40, [20], 10), seed=0), load("mnist1d", n_train=100, n_test=100)
    >>> optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
    >>> run = train(model, data, optimizer, batch_size=20, steps=30, record_every=10)
    >>> run.status, run.records["gradients"].tolist()
    ('steps', [20, 40, 60])
    """
    data = Data(*require.tensors("data", data, Data._fields))
    require.functions(criterion, schedule=schedule, record=record)
    n = len(data.x_train)
    plan = plan_of(n, batch_size, steps, check_every, record_every, stop_loss)
    _check(model, data, optimizer, criterion)
    batch, rows, status = _Batch(model, optimizer, criterion, autocast), [], ""
    path = None if checkpoint is None else Path(checkpoint).expanduser()
    fixed: dict[str, Any] = {"batch_size": plan.batch_size, "seed": require.seed(seed), "autocast": bool(autocast)}
    fixed |= {"criterion": criterion, "schedule": schedule, "record_every": record_every}
    settings = settings_of(model, data, optimizer, **fixed) if path else {}
    if path and not (path.name and path.parent.is_dir()):
        remedy = "make that folder first" if path.name else "None writes no file"
        raise require.error("checkpoint", "a file in a folder that is there", str(checkpoint), remedy)
    parts = {"model": model, "optimizer": optimizer}
    parts |= {"criterion": criterion} if isinstance(criterion, nn.Module) and criterion.state_dict() else {}

    def ended(now: dict) -> str:
        """The status at a look; the end has a row."""
        found = plan.status(now["train_loss"], now["step"])
        if found and not (rows and rows[-1]["step"] == now["step"]):
            rows.append(now | aside(_recorded, record, now["step"], model))
        return found

    with (
        callbacks.bar(progress, total=plan.steps) as tell,
        _seeded(data.x_train.device, seed) as (generators, aside),
        pure.mode(model, True),
        _scheduled(optimizer, schedule) as set_rate,
        callbacks.kept(lambda: Training(_records(rows, plan.batch_size, n), "error") if rows else None),
    ):
        try:
            sample = aside(_sample, model, data.x_train) if path else None
            if path and path.exists():
                *rows, now = resume(path, settings, parts, generators, plan.steps, sample)
                batch.step, batch.gradients = now["step"], now["gradients"]
                tell(batch.step)
                status = ended(now)
            for index in () if status else islice(_stream(data, plan.batch_size, seed), batch.step, None):
                set_rate(batch.step)
                batch.take(data.x_train[index], data.y_train[index])
                tell(1)
                recorded, checked = plan.recorded(batch.step), plan.checked(batch.step)
                if not (recorded or checked):
                    continue
                now = batch.counts() | aside(_measures, model, data, criterion)
                if recorded:
                    rows.append(now | aside(_recorded, record, batch.step, model))
                if checked and path:
                    save(path, settings, parts, generators, [*rows, now], sample)
                if status := ended(now):
                    break
        except KeyboardInterrupt:
            status = "stopped"
        except _NotFinite:
            status = "diverged"
            rows.append(batch.counts())
    return Training(_records(rows, plan.batch_size, n), status)


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
        pure.weights_moved()

    def closure(self) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(self.x.device.type, torch.bfloat16) if self.autocast else nullcontext():
            loss = self.criterion(self.model(self.x.clone()), self.y)  # a model may change its input
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise require.error("criterion", "a function that returns the loss, a tensor of one number", loss)
        if not math.isfinite(loss.item()):
            raise _NotFinite
        loss.backward()
        self.gradients += 1
        return loss

    def counts(self) -> dict:
        return {"step": self.step, "gradients": self.gradients}


def evaluate(
    model: nn.Module, x: Tensor, y: Tensor, criterion: Callable = F.cross_entropy, chunk: int = 2048
) -> tuple[float, float]:
    """The loss of all points together, and accuracy, in evaluation mode; the model's mode is put back.

    The model sees `chunk` points at a time, the criterion all outputs at once: with class weights or a sum, too, its
    value is the right one. Accuracy is NaN where it has no meaning: with one output a point, or without one label a point.
    Raises ValueError for a model that does not return one tensor of outputs (n, n_out).
    """
    if not len(x):
        raise ValueError("x must hold one point or more, got none")
    criterion_rests = pure.mode(criterion, False) if isinstance(criterion, nn.Module) else nullcontext()
    with pure.mode(model, False), criterion_rests, torch.no_grad():
        outputs = torch.cat([_outputs(model, xs) for xs in x.split(require.whole("chunk", chunk))])
        if len(outputs) != len(y):
            raise ValueError(f"y must hold a label for each of {len(outputs)} outputs, got {len(y)}")
        known = outputs.ndim == 2 and outputs.shape[1] > 1 and y.ndim == 1
        right = int((outputs.argmax(dim=-1) == y).sum()) / len(y) if known else math.nan
        return float(criterion(outputs, y.clone())), right  # which a criterion may change


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    outputs = model(x.clone())  # which a model may change
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or len(outputs) != len(x):
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise require.error("model", "one that returns a tensor of outputs (n, n_out)", found, f"for {len(x)} points")
    return outputs


def _sample(model: nn.Module, x: Tensor) -> Tensor | None:
    """Outputs at weights that are always the same: they tell what hooks and plain attributes do. None where they vary."""
    dice, state = torch.Generator().manual_seed(0), {}
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        if t.is_floating_point():
            drawn = torch.rand(t.shape, generator=dice, device="cpu")
            if t.ndim > 1 and t.numel():  # matrices of He's size, so that outputs neither vanish nor explode
                drawn = (drawn - 0.5) * (24 * len(t) / t.numel()) ** 0.5
            state[name] = drawn.to(t)
    with pure.untouched(model), pure.mode(model, False), pure.eager(), torch.no_grad():
        try:
            first, second = (functional_call(model, state, (x[:2].clone(),)).float().cpu() for _ in range(2))
        except Exception:  # such as of a model that takes no other tensors than its own
            return None
    return first if torch.equal(first, second) else None


def _measures(model: nn.Module, data: Data, criterion: Callable) -> dict:
    results = evaluate(model, *data[:2], criterion) + evaluate(model, *data[2:], criterion)
    return dict(zip(COLUMNS[3:], results, strict=True))


def _recorded(record: Callable | None, step: int, model: nn.Module) -> dict:
    with pure.mode(model, False):
        return callbacks.columns(record(step, model), [*COLUMNS, "status"]) if record else {}


def _records(rows: list[dict], batch_size: int, n: int) -> pd.DataFrame:
    names = dict.fromkeys(COLUMNS + [key for row in rows for key in row])
    records = pd.DataFrame(rows).reindex(columns=list(names))
    records["epoch"] = records["step"] * batch_size / n
    return records


@contextmanager
def _scheduled(optimizer: torch.optim.Optimizer, schedule: Callable[[int], float] | None) -> Iterator[Callable]:
    """Yields a function of the step that sets the learning rates; at the end they are what they were."""
    if schedule is None:
        yield lambda step: None
        return
    rates = [group["lr"] for group in optimizer.param_groups]

    def scale(factor: float) -> None:
        rates.extend(group["lr"] for group in optimizer.param_groups[len(rates) :])  # of those that `record` has added
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = factor * rate

    try:
        yield lambda step: scale(require.number("what schedule returns", schedule(step), least=0))
    finally:
        scale(1.0)


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[tuple[list[torch.Generator], Callable]]:
    """The generators that dropout draws from, seeded for a while, and a way to call what must not move them."""
    gpus = [device.index] if device.type == "cuda" else []
    with seeded(seed, gpus) as generators:

        def aside(look: Callable, *args: Any) -> Any:
            with torch.random.fork_rng(devices=gpus):
                return look(*args)

        yield generators, aside


def _stream(data: Data, batch_size: int, seed: int) -> Iterator[Tensor]:
    """The batches of all epochs, one after the other, on the device of the data."""
    generator = torch.Generator().manual_seed(require.seed(seed))
    while True:
        yield from torch.stack(list(batches(len(data.x_train), batch_size, generator))).to(data.x_train.device)


def _check(model, data, optimizer, criterion) -> None:
    _check_optimizer(model, optimizer)
    if len(places := {str(t.device) for t in (*model.parameters(), *data)}) > 1:
        raise ValueError(f"model and data must be on one device, got {sorted(places)}; use .to(device) on both")
    with pure.mode(model, False), torch.no_grad():
        for name, x in (("x", data.x_train), ("x_test", data.x_test)):
            try:
                n_outputs = _outputs(model, x[:2]).shape[-1]
            except RuntimeError as error:
                raise floats(x, error, name) from error
    data.check(n_outputs if criterion is F.cross_entropy else None)


def _check_optimizer(model, optimizer) -> None:
    for group in optimizer.param_groups:
        require.number("lr", group.get("lr", 1), above=0)  # some optimizers have none
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not held <= {id(p) for p in model.parameters()}:
        raise ValueError("optimizer must hold parameters of this model, got others; make it from model.parameters()")
    if not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("optimizer must hold a parameter to train, but all have requires_grad=False")
