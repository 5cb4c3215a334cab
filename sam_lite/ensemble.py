"""Many small models at once: the same step with one more axis.

A laptop trains one tiny network almost as slowly as fifty, because the time goes into calling operations, not into
arithmetic. Here models of one shape are stacked, name -> (n_models, *shape), and each operation is done for all of
them. Each keeps its own seed, batches, learning rate, momentum, weight decay and rho, follows the path that
`train.train` would give it alone, and is frozen when it reaches the loss it is to stop at, or diverges.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from sam_lite import callbacks, require, stacked, starting
from sam_lite.ascents import ascent as steepest_ascent
from sam_lite.ascents import lengths
from sam_lite.data import Data, batches
from sam_lite.params import Params, Space, add, count, room
from sam_lite.plan import Plan, plan_of
from sam_lite.updates import UPDATES

COLUMNS = ["model", "step", "epoch", "gradients", "train_loss", "train_acc", "test_loss", "test_acc"]
RESERVED = [*COLUMNS, "status", "seed", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "rho", "dropout"]
CACHE_BYTES = 1_000_000  # weights trained together on a CPU, for each of its threads: about a core's own cache


class Ensemble(NamedTuple):
    """params, start: name -> (n_models, *shape). table: a row per model. records: a row per model and recorded step."""

    params: Params
    start: Params
    table: pd.DataFrame
    records: pd.DataFrame


def train_ensemble(
    make: Callable[[], nn.Module],
    data: Data,
    *,
    seeds: Sequence[int],
    batch_size: int,
    lr: float | Sequence[float],
    steps: int,
    stop_loss: float | None = None,
    momentum: float | Sequence[float] = 0.0,
    weight_decay: float | Sequence[float] = 0.0,
    rho: float | Sequence[float] = 0.0,
    dropout: float | Sequence[float] = 0.0,
    ascent: Callable[[Params, Params, Tensor], Params] = steepest_ascent,
    optimizer: str = "sgd",
    schedule: Callable[[int], float] | None = None,
    criterion: stacked.Criterion = F.cross_entropy,
    start: Params | None = None,
    check_every: int | None = None,
    record_every: int | None = None,
    record: Callable[[Params, Tensor], dict[str, Tensor]] | None = None,
    progress: Callable | None = None,
    chunk: int | None = None,
) -> Ensemble:
    """Train one model for each seed, all at once. Arguments that `train` has too mean the same there.

    Args:
        make: builds a model at each call, without batch norm or dropout; what it freezes (`requires_grad=False`) stays.
        data: training and test sets; the models train on its device.
        seeds: one for each of the n_models: of its initial weights, of its batches and of its dropout.
        batch_size: examples a step.
        lr, momentum, weight_decay: one number, or one for each model. Momentum is SGD's alone. Weight decay is a part of
            the gradient, as in torch's SGD and Adam.
        steps: the most that are made (status "steps").
        stop_loss: at a check, or where a row is recorded, a model whose loss on all training data is not above this stops
            learning (status "stop_loss").
        rho: radius of SAM's climb, one number or one for each model; 0: no SAM.
        dropout: share of the hidden units of ReLU chains that is left out, rounded to 1/256; SAM climbs and descends with
            the same masks.
        ascent: ascent(gradients, params, rho), the climb.
        optimizer: "sgd" or "adam".
        schedule: schedule(step), step = 0, 1, ..., multiplies the learning rate of that step.
        criterion: criterion(outputs, y), the loss to minimize.
        start: initial weights instead, name -> (n_models, *shape).
        check_every: steps between two checks; default: an epoch, at least 25.
        record_every: steps between two rows of `records` for each model; default: one row, at its end. A row holds loss
            and accuracy on all training and all test data, and how many gradients there were so far.
        record: record(params, members), a dict for the same rows: (n,) each, for the n models numbered `members`.
        progress: such as tqdm; counts steps.
        chunk: models trained together; default: what a CPU's caches hold, all of them on a GPU.

    A model whose loss is not finite at a check stops as "diverged". An interrupt leaves the others as they are then
    ("stopped", without losses). An error, such as one in `record`, has the Ensemble until then as its `so_far`.

    >>> from sam_lite.data import load
    >>> from sam_lite.models import mlp
    >>> data = load("mnist1d", n_train=100, n_test=100)
    >>> run = train_ensemble(lambda: mlp(40, [20], 10), data, seeds=range(3), batch_size=20, lr=0.1, steps=30, rho=0.05)
    >>> run.table["status"].tolist(), run.table["gradients"].tolist(), run.params["0.weight"].shape
    (['steps', 'steps', 'steps'], [60, 60, 60], torch.Size([3, 20, 40]))
    """
    seeds, data = starting.seeds_of(seeds), Data(*require.tensors("data", data, Data._fields))
    require.functions(criterion, schedule=schedule, record=record)
    n_models, n_train = len(seeds), len(data.x_train)
    plan = plan_of(n_train, batch_size, steps, check_every, record_every, stop_loss)
    batch_size, steps = plan.batch_size, plan.steps
    hyper = starting.settings(n_models, lr=lr, momentum=momentum, weight_decay=weight_decay, rho=rho, dropout=dropout)
    model, start = starting.models(make, data, seeds, start)
    if any(hyper["rho"]) and any(p.dtype.itemsize < 4 for p in start.values()):
        raise require.error(
            "data", "float32 or float64 where rho > 0", data.x_train.dtype, "SAM's steps would be rounded"
        )
    outputs = starting.outputs_of(model, data, start, batch_size, criterion)
    if any(hyper["weight_decay"]):
        starting.rest_unused(model, data, batch_size, criterion)
    chunk = _chunk(start) if chunk is None else require.whole("chunk", chunk)
    groups = torch.arange(n_models, device="cpu").split(chunk)
    advance = _advance(model, data, batch_size, hyper, optimizer, ascent, schedule, criterion)
    look = partial(_look, outputs, data, criterion, record, plan)
    run = _Run(
        {name: p.clone() for name, p in start.items()}, torch.zeros(n_models, dtype=torch.int64, device="cpu"), []
    )
    table = pd.DataFrame({"seed": seeds, "batch_size": batch_size, "optimizer": optimizer, **hyper})
    done = lambda status: _ensemble(run, start, table, n_train, status)  # noqa: E731
    try:
        with (
            callbacks.bar(progress, total=steps * len(groups)) as tell,
            callbacks.kept(lambda: done("error") if run.steps.any() else None),
        ):
            for members in groups:
                with _Group(members, start, hyper, seeds).kept_in(run) as group:
                    for step in range(1, steps + 1):
                        advance(group, step)
                        tell(1)
                        recorded = plan.recorded(step)
                        if recorded or plan.checked(step):
                            ended = look(group, recorded, run.rows)
                            if group.keep(~ended, run) == 0:
                                break
                    tell(steps - step)
    except KeyboardInterrupt:
        pass
    return done("stopped")


def evaluate(
    model: nn.Module, params: Params, x: Tensor, y: Tensor, criterion: stacked.Criterion = F.cross_entropy
) -> tuple[Tensor, Tensor]:
    """Loss and accuracy of every model of an ensemble, (n_models,) each; x: (n, *features), y: (n,). As `train.evaluate`
    of each by itself. model: one of their shape, such as `make()`. params: name -> (n_models, *shape), of one or more.
    """
    require.functions(criterion)
    n, found = len(next(iter(params.values()), ())), {name: tuple(p.shape) for name, p in params.items()}
    wanted = {name: (n, *p.shape) for name, p in model.named_parameters()}
    if not n or wanted.items() - found.items():
        raise require.error("params", f"one or more models with shapes {wanted}", found, "stack([p]) is one model")
    return stacked.evaluate(stacked.forward(model), params, x, y, criterion)


class _Run(NamedTuple):
    """What is there so far: params name -> (n_models, *shape), steps done (n_models,), rows of `records`."""

    params: Params
    steps: Tensor
    rows: list[dict]


def _ensemble(run: _Run, start: Params, table: pd.DataFrame, n_train: int, status: str) -> Ensemble:
    """All models, with `status` for those that have not ended."""
    nothing = pd.DataFrame(columns=[*COLUMNS, "status"]).drop(columns="epoch")
    records = pd.concat([pd.DataFrame(row) for row in run.rows]) if run.rows else nothing
    records.insert(2, "epoch", records["step"] * table["batch_size"].iloc[0] / n_train)
    records = records.sort_values(["model", "step"], ignore_index=True)
    last = records[records["status"] != ""].set_index("model").reindex(table.index)
    last["step"] = run.steps.tolist()
    last["gradients"] = last["step"] * (1 + (table["rho"] > 0))
    last["epoch"] = last["step"] * table["batch_size"] / n_train
    last["status"] = last["status"].astype(object).where(last["status"].notna(), status).astype(str)
    return Ensemble(run.params, start, table.join(last), records.drop(columns="status"))


def _look(outputs, data: Data, criterion, record, plan: Plan, group: "_Group", recorded: bool, rows) -> Tensor:
    """Which models of the group have ended, (n,) bool; adds a row for each of these, or of all when it is `recorded`."""
    fit = stacked.evaluate(outputs, group.params, data.x_train, data.y_train, criterion)
    status = [plan.status(loss, group.step) for loss in fit[0].tolist()]
    ended = torch.tensor([s != "" for s in status], device="cpu")
    if recorded or ended.any():
        who = (ended | recorded).nonzero().flatten()
        those = {name: p[who] for name, p in group.params.items()}
        test = stacked.evaluate(outputs, those, data.x_test, data.y_test, criterion)
        row = {"model": group.members[who], "step": group.step}
        row |= {"gradients": group.step * (1 + (group.hyper["rho"][who] > 0).long())}
        row |= {"train_loss": fit[0][who], "train_acc": fit[1][who], "test_loss": test[0], "test_acc": test[1]}
        row = {name: v.tolist() if isinstance(v, Tensor) else v for name, v in row.items()}
        rows.append(row | {"status": [status[i] for i in who]})
        if record:
            found = callbacks.columns(record(those, group.members[who]), RESERVED, len(who))
            rows[-1] = row | found | {"status": rows[-1]["status"]}
    return ended


def _advance(model, data: Data, batch_size: int, hyper: dict, optimizer: str, ascent, schedule, criterion) -> Callable:
    """(group, step) -> None: one step of every model of the group."""
    if optimizer not in UPDATES:
        raise require.error("optimizer", "'sgd' or 'adam'", optimizer)
    if optimizer == "adam" and any(hyper["momentum"]):
        raise require.error("momentum", "0 with Adam, which has rates of its own", max(hyper["momentum"]))
    widths = stacked.hidden(model) if any(hyper["dropout"]) else []
    gradient, update = stacked.gradient(model, criterion), UPDATES[optimizer]

    def advance(group: _Group, step: int) -> None:
        index = group.batch(step, len(data.x_train), batch_size)
        x, y = (part.index_select(0, index.flatten()).unflatten(0, index.shape) for part in data[:2])
        batch = x, y, group.masks(batch_size, widths), group.space
        grads = gradient(group.params, *batch)
        if group.uses["rho"]:
            grads = gradient(_climbed(group, grads, ascent), *batch)
        factor = require.number("what schedule returns", schedule(step - 1), least=0) if schedule else 1.0
        update(group, grads, step, factor)
        group.step = step

    return advance


class _Group:
    """Models that train together, and become fewer as they end."""

    def __init__(self, members: Tensor, start: Params, hyper: dict[str, list[float]], seeds: Sequence[int]):
        self.members, self.params = members, {name: p[members].clone() for name, p in start.items()}
        like = next(p for p in start.values() if p.is_floating_point())
        exact = torch.promote_types(like.dtype, torch.float32)  # bfloat16 would round a momentum of 0.999 to 1
        self.hyper = {
            name: like.new_tensor([values[i] for i in members], dtype=exact) for name, values in hyper.items()
        }
        self.uses = {name: any(values) for name, values in hyper.items()}  # known without asking the device
        self.rates = self.hyper["dropout"].cpu()
        self.generators = [torch.Generator().manual_seed(int(seeds[i])) for i in members]
        self.moments: list[Params] = []  # the optimizer's running means
        self.space: Space = {}
        self.epoch, self.step = torch.empty(0), 0

    @contextmanager
    def kept_in(self, run: _Run) -> Iterator["_Group"]:
        """Itself; at the end, whatever ends it, the models still in it are in `run`."""
        try:
            yield self
        finally:
            self.leave(torch.ones_like(self.members, dtype=torch.bool), run)

    def leave(self, mask: Tensor, run: _Run) -> None:
        """Copy the models in `mask` to `run`."""
        run.steps[self.members[mask]] = self.step
        for name, p in self.params.items():
            run.params[name][self.members[mask]] = p[mask]

    def batch(self, step: int, n_train: int, batch_size: int) -> Tensor:
        """Indices of each model's next batch, (n, batch_size)."""
        at = (step - 1) % (n_train // batch_size)
        if at == 0:
            orders = [torch.stack(list(batches(n_train, batch_size, g))) for g in self.generators]
            self.epoch = torch.stack(orders).to(self.hyper["lr"].device)  # (n, batches, batch_size)
        return self.epoch[:, at]

    def masks(self, batch_size: int, widths: list[int]) -> list[Tensor]:
        """What dropout leaves of each model's hidden layers, where it is in use."""
        return stacked.dropout(self.rates, self.generators, batch_size, widths, self.epoch.device) if widths else []

    def each(self, name: str, p: Tensor) -> Tensor:
        """A hyper-parameter shaped to multiply a stacked tensor."""
        return _shaped(self.hyper[name], p)

    def keep(self, mask: Tensor, run: _Run) -> int:
        """Go on with the models in `mask` alone; their number. The others go to `run`."""
        if not mask.all():
            self.leave(~mask, run)
            self.members, kept = self.members[mask], mask.to(self.epoch.device)
            self.params = {name: p[kept] for name, p in self.params.items()}
            self.moments = [{name: p[kept] for name, p in m.items()} for m in self.moments]
            self.hyper = {name: v[kept] for name, v in self.hyper.items()}
            self.rates = self.rates[mask]
            self.generators = [g for g, k in zip(self.generators, mask.tolist(), strict=True) if k]
            self.epoch, self.space = self.epoch[kept], {}
        return len(self.members)


def _climbed(group: _Group, grads: Params, ascent: Callable) -> Params:
    """The weights from which SAM descends, every norm and rho being one model's own; what is frozen stays."""
    learned, rho = {name: group.params[name] for name in grads}, group.hyper["rho"]
    size = lengths(grads) if ascent is steepest_ascent else None
    if size is None:
        return group.params | add(learned, vmap(ascent)(grads, learned, rho))
    where = {name: room(group.space, ("climbed", name), p) for name, p in learned.items()}
    climbed = {
        name: torch.addcdiv(p, grads[name], _shaped(size / rho, p), out=where[name]) for name, p in learned.items()
    }
    return group.params | climbed


def _shaped(each: Tensor, p: Tensor) -> Tensor:
    return each.view(-1, *[1] * (p.dim() - 1))


def _chunk(start: Params) -> int:
    first = next(iter(start.values()))
    bytes_each = count(start) // len(first) * first.element_size()
    together = CACHE_BYTES * torch.get_num_threads() // bytes_each
    return max(1, together) if first.device.type == "cpu" else len(first)
