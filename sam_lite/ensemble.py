"""Many small models at once: the same step with one more axis.

A laptop trains one tiny network almost as slowly as fifty, because the time goes into calling operations, not into
arithmetic. Here models of one shape are stacked, name -> (n_models, *shape), and each operation is done for all of
them. Each keeps its own seed, batches, learning rate, momentum, weight decay and rho, follows the path that
`train.train` would give it alone, and is frozen when it reaches the loss it is to stop at, or diverges.
"""

import math
from collections.abc import Callable, Sequence
from operator import index
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from sam_lite import stacked
from sam_lite.data import Data, batches, check_size
from sam_lite.models import build
from sam_lite.params import Params, add, count, params_of, stack
from sam_lite.sam import ascent as steepest_ascent

CACHE_BYTES = 4_000_000  # weights trained together on a CPU: about what its caches hold


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
    """Train one model for each seed, all at once.

    make: builds one model, without batch norm or dropout. start: initial weights instead, name -> (n_models, *shape).
    lr, momentum, weight_decay (part of the gradient, as in torch's SGD and Adam), rho (0: no SAM) and dropout (of the
    hidden units of ReLU chains): one number, or one per model. optimizer: "sgd" or "adam". schedule(step), step = 0, 1,
    ..., multiplies lr.
    Every `check_every` steps (default: an epoch, at least 25) a model with training loss <= `stop_loss` is frozen
    (status "stop_loss"), and so is one whose loss is not finite ("diverged"); the others end after `steps` ("steps").
    Every `record_every` steps and at its end a model gets a row in `records`: losses, accuracies, and what
    `record(params, members)` returns, (n,) each, for the n models numbered `members`. progress: such as tqdm, counts
    models that ended. chunk: models trained together; default: what a CPU's caches hold, all of them on a GPU.
    """
    seeds = _checked_seeds(seeds)
    n_models, n_train = len(seeds), len(data.x_train)
    counts = {"steps": steps, "check_every": check_every, "record_every": record_every, "chunk": chunk}
    _check(make, batch_size, n_train, stop_loss, optimizer, **counts)
    hyper = {
        "lr": _per_model("lr", lr, n_models, "> 0", lambda v: v > 0),
        "momentum": _per_model("momentum", momentum, n_models, "in [0, 1)", lambda v: 0 <= v < 1),
        "weight_decay": _per_model("weight_decay", weight_decay, n_models, ">= 0", lambda v: v >= 0),
        "rho": _per_model("rho", rho, n_models, ">= 0", lambda v: v >= 0),
        "dropout": _per_model("dropout", dropout, n_models, "in [0, 0.99]", lambda v: 0 <= v <= 0.99),
    }
    model = make()
    widths = stacked.hidden(model) if any(hyper["dropout"]) else []
    outputs, gradient = stacked.forward(model), stacked.gradient(model, criterion)
    if any(hyper["rho"]):
        gradient = _sam(gradient, ascent)
    update = {"sgd": _sgd, "adam": _adam}[optimizer]
    if criterion is F.cross_entropy:
        with torch.no_grad():
            data.check(model.to(data.x_train)(data.x_train[:1]).shape[-1])
    start = start or stack([params_of(build(make, seed)) for seed in seeds])
    start = {name: p.to(data.x_train, copy=True) for name, p in start.items()}
    wanted = {name: (n_models, *p.shape) for name, p in model.named_parameters()}
    if (shapes := {name: tuple(p.shape) for name, p in start.items()}) != wanted:
        raise ValueError(f"start must hold {n_models} models, one per seed, with shapes {wanted}, got {shapes}")
    every = check_every or max(25, n_train // batch_size)
    params, rows = {name: p.clone() for name, p in start.items()}, []
    bar = progress(total=n_models) if progress else None
    for members in torch.arange(n_models).split(chunk or _chunk(start)):
        group = _Group(members, start, hyper, seeds)
        for step in range(1, steps + 1):
            index = group.batch(step, n_train, batch_size)
            grads = gradient(
                group.params, data.x_train[index], data.y_train[index], *group.masks(batch_size, widths), *group.rho
            )
            update(group, grads, step, schedule(step - 1) if schedule else 1.0)
            recorded = bool(record_every) and step % record_every == 0
            if not (recorded or step % every == 0 or step == steps):
                continue
            fit = stacked.evaluate(outputs, group.params, data.x_train, data.y_train, criterion)
            status = [_status(loss, stop_loss, step == steps) for loss in fit[0].tolist()]
            ended = torch.tensor([s != "" for s in status])
            if recorded or ended.any():
                who = (ended | recorded).nonzero().flatten()
                those = {name: p[who] for name, p in group.params.items()}
                test = stacked.evaluate(outputs, those, data.x_test, data.y_test, criterion)
                row = {"model": group.members[who], "step": step, "epoch": step * batch_size / n_train}
                row |= {"gradients": step * (1 + (group.hyper["rho"][who] > 0).long())}
                row |= {"train_loss": fit[0][who], "train_acc": fit[1][who], "test_loss": test[0], "test_acc": test[1]}
                row |= record(those, group.members[who]) if record else {}
                rows.append(_frame(row | {"status": [status[i] for i in who]}))
            for name, p in group.params.items():
                params[name][group.members[ended]] = p[ended]
            if bar:
                bar.update(int(ended.sum()))
            if group.keep(~ended) == 0:
                break
    if bar:
        bar.close()
    records = pd.concat(rows).sort_values(["model", "step"], ignore_index=True)
    last = records[records["status"] != ""].set_index("model")
    table = pd.DataFrame({"seed": list(seeds), "batch_size": batch_size, "optimizer": optimizer, **hyper})
    return Ensemble(params, start, table.join(last), records.drop(columns="status"))


class _Group:
    """Models that train together, and become fewer as they end."""

    def __init__(self, members: Tensor, start: Params, hyper: dict[str, list[float]], seeds: Sequence[int]):
        self.members, self.params = members, {name: p[members].clone() for name, p in start.items()}
        like = next(iter(start.values()))
        self.hyper = {name: like.new_tensor([values[i] for i in members]) for name, values in hyper.items()}
        self.uses = {name: any(values) for name, values in hyper.items()}  # known without asking the device
        self.rho, self.rates = [self.hyper["rho"]] if self.uses["rho"] else [], self.hyper["dropout"].cpu()
        self.generators = [torch.Generator().manual_seed(int(seeds[i])) for i in members]
        self.moments: list[Params] = []  # the optimizer's running means
        self.epoch = torch.empty(0)

    def batch(self, step: int, n_train: int, batch_size: int) -> Tensor:
        """Indices of each model's next batch, (n, batch_size)."""
        at = (step - 1) % (n_train // batch_size)
        if at == 0:
            orders = [torch.stack(list(batches(n_train, batch_size, g))) for g in self.generators]
            self.epoch = torch.stack(orders).to(self.hyper["lr"].device)  # (n, batches, batch_size)
        return self.epoch[:, at]

    def masks(self, batch_size: int, widths: list[int]) -> list[list[Tensor]]:
        """What dropout leaves of each model's hidden layers, where it is in use."""
        return [stacked.dropout(self.rates, self.generators, batch_size, widths, self.epoch.device)] if widths else []

    def each(self, name: str, p: Tensor) -> Tensor:
        """A hyper-parameter shaped to multiply a stacked tensor."""
        return self.hyper[name].view(-1, *[1] * (p.dim() - 1))

    def keep(self, mask: Tensor) -> int:
        """Go on with the models in `mask` alone; their number."""
        if not mask.all():
            self.members, kept = self.members[mask], mask.to(self.epoch.device)
            self.params = {name: p[kept] for name, p in self.params.items()}
            self.moments = [{name: p[kept] for name, p in m.items()} for m in self.moments]
            self.hyper = {name: v[kept] for name, v in self.hyper.items()}
            self.rho, self.rates = [r[kept] for r in self.rho], self.rates[mask]
            self.generators = [g for g, k in zip(self.generators, mask.tolist(), strict=True) if k]
            self.epoch = self.epoch[kept]
        return len(self.members)


def _frame(columns: dict) -> pd.DataFrame:
    return pd.DataFrame({name: v.tolist() if isinstance(v, Tensor) else v for name, v in columns.items()})


def _sgd(group: _Group, grads: Params, step: int, factor: float) -> None:
    """torch.optim.SGD's arithmetic: buffer = momentum buffer + g + weight_decay w, then w -= lr buffer."""
    grads = _decayed(group, grads)
    if group.uses["momentum"]:
        if not group.moments:
            group.moments = [{name: torch.zeros_like(g) for name, g in grads.items()}]
        for name, m in group.moments[0].items():
            m.mul_(group.each("momentum", m)).add_(grads[name])
        grads = group.moments[0]
    for name, p in group.params.items():
        p.addcmul_(grads[name], group.each("lr", p), value=-factor)


def _adam(group: _Group, grads: Params, step: int, factor: float) -> None:
    """torch.optim.Adam's arithmetic with its default settings (Kingma and Ba 2015, Algorithm 1)."""
    grads, (b1, b2), eps = _decayed(group, grads), (0.9, 0.999), 1e-8
    if not group.moments:
        group.moments = [{name: torch.zeros_like(g) for name, g in grads.items()} for _ in range(2)]
    first, second = group.moments
    for name, p in group.params.items():
        first[name].lerp_(grads[name], 1 - b1)
        second[name].mul_(b2).addcmul_(grads[name], grads[name], value=1 - b2)
        scale = second[name].sqrt().div_(math.sqrt(1 - b2**step)).add_(eps)
        p.addcmul_(first[name] / scale, group.each("lr", p), value=-factor / (1 - b1**step))


def _decayed(group: _Group, grads: Params) -> Params:
    if not group.uses["weight_decay"]:
        return grads
    return {name: g.addcmul(group.params[name], group.each("weight_decay", g)) for name, g in grads.items()}


def _sam(gradient: Callable, ascent: Callable) -> Callable:
    """`sam.sam_gradient` for stacked models: climb, then the gradient there, every norm and rho being one model's own."""

    def sam(params: Params, *rest) -> Params:
        *batch, rho = rest
        climb = vmap(ascent)(gradient(params, *batch), params, rho)
        return gradient(add(params, climb), *batch)

    return sam


def _status(loss: float, stop_loss: float | None, last: bool) -> str:
    if not math.isfinite(loss):
        return "diverged"
    if stop_loss is not None and loss <= stop_loss:
        return "stop_loss"
    return "steps" if last else ""


def _chunk(start: Params) -> int:
    first = next(iter(start.values()))
    bytes_each = count(start) // len(first) * first.element_size()
    return max(1, CACHE_BYTES // bytes_each) if first.device.type == "cpu" else len(first)


def _per_model(name: str, value: float | Sequence[float], n_models: int, rule: str, holds: Callable) -> list[float]:
    values = torch.as_tensor(value, dtype=torch.float64)
    values = [values.item()] * n_models if values.ndim == 0 else values.tolist()
    if len(values) != n_models:
        raise ValueError(f"{name} must be one number or one per model, {n_models}, got {len(values)} numbers")
    for v in values:
        if not (math.isfinite(v) and holds(v)):
            raise ValueError(f"{name} must be {rule}, got {v}")
    return values


def _checked_seeds(seeds: Sequence[int]) -> list[int]:
    try:
        found = [index(seed) for seed in seeds]
    except TypeError as error:
        raise TypeError(f"seeds must be integers in a row, such as range(5), got {seeds!r}") from error
    if not found:
        raise ValueError("seeds must hold at least one seed, got none")
    return found


def _check(make: Callable, batch_size: int, n_train: int, stop_loss: float | None, optimizer: str, **counts) -> None:
    if isinstance(make, nn.Module):
        raise TypeError(f"make must be a function that builds a model, such as lambda: mlp(...), got a model, {make}")
    check_size("batch_size", batch_size, n_train)
    for name, value in counts.items():
        if value is not None:
            check_size(name, value)
    if stop_loss is not None and not stop_loss > 0:
        raise ValueError(f"stop_loss must be > 0, got {stop_loss}")
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer must be 'sgd' or 'adam', got {optimizer!r}")
