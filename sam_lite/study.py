"""The study of Jiang et al. 2020 at the size of a laptop: 10,935 networks of seven settings, and what is measured on each.

`python -m sam_lite.study FOLDER` makes it, or goes on with it, and ends in FOLDER/study.parquet: `study.md` says how
long it takes and what the columns are. `group` trains and measures the networks of one shape and batch size together.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.func import functional_call, vmap

from sam_lite import cluster, measures, require, stacked, sweep
from sam_lite.data import Data, best_device, mnist1d
from sam_lite.ensemble import train_ensemble
from sam_lite.models import mlp

AXES: dict[str, tuple] = {  # one ensemble for each combination of these ...
    "width": (50, 70, 100),
    "depth": (2, 3, 4),
    "batch_size": (25, 50, 100),
    "optimizer": ("sgd", "momentum", "adam"),
    "dropout": (0.0, 0.01, 0.02),
}
LR = {"sgd": (0.1, 0.2, 0.4), "momentum": (0.01, 0.02, 0.04), "adam": (0.002, 0.004, 0.008)}
WEIGHT_DECAY, SEEDS = (0.0, 3e-5, 1e-4), (0, 1, 2, 3, 4)  # ... with these, and lr_level 0, 1, 2, in it
SETTINGS = (*AXES, "lr_level", "weight_decay")
STEPS, STOP_LOSS, EVERY = 8000, 0.01, 50


def group(
    width: int,
    depth: int,
    batch_size: int,
    optimizer: str,
    dropout: float,
    *,
    lr_levels: Sequence[int] = (0, 1, 2),
    weight_decays: Sequence[float] = WEIGHT_DECAY,
    seeds: Sequence[int] = SEEDS,
    data: Data | None = None,
    samples: int = 8,
    progress: Callable | None = None,
) -> pd.DataFrame:
    """Networks of `depth` hidden layers, trained together until their cross-entropy is 0.01, and measured: a row each.

    lr_levels: places in LR[optimizer]. data: MNIST-1D, 1,000 and 10,000 points, if not given. Columns are told in
    study.md. Networks that end without the loss have no measures (NaN).
    """
    if optimizer not in LR:
        raise require.error("optimizer", f"one of {', '.join(LR)}", optimizer)
    lr_levels = [require.whole("lr_levels", level, least=0, most=len(LR[optimizer]) - 1) for level in lr_levels]
    depth, samples = require.whole("depth", depth, least=0), require.whole("samples", samples)
    data = mnist1d(1000, 10_000, seed=0).to(best_device()) if data is None else data
    members: list[dict[str, Any]] = sweep.grid(lr_level=lr_levels, weight_decay=weight_decays, seed=seeds)
    make = partial(mlp, data.x_train.shape[1], (width,) * depth, int(data.y_train.max()) + 1)
    few = data._replace(x_test=data.x_test[:1], y_test=data.y_test[:1])  # while they train nobody looks at the test
    ensemble = train_ensemble(
        make,
        few,
        seeds=[member["seed"] for member in members],
        batch_size=batch_size,
        lr=[LR[optimizer][member["lr_level"]] for member in members],
        weight_decay=[member["weight_decay"] for member in members],
        momentum=0.9 if optimizer == "momentum" else 0.0,
        dropout=dropout,
        optimizer="adam" if optimizer == "adam" else "sgd",
        steps=STEPS,
        stop_loss=STOP_LOSS,
        check_every=EVERY,
        record_every=EVERY,
        progress=progress,
    )
    table = pd.DataFrame(members).join(ensemble.table[["lr", "status", "step", "train_loss", "train_acc"]])
    early = ensemble.records[ensemble.records["train_loss"] <= 0.1].groupby("model")["step"].min()
    table = table.assign(steps_to_0_1=early, steps_0_1_to_0_01=table["step"] - early)
    ended = (table["status"] == "stop_loss").to_numpy().nonzero()[0]
    return table.join(_measured(make(), ensemble, ended, data, samples)) if len(ended) else table


def _measured(model: torch.nn.Module, ensemble, which, data: Data, samples: int) -> pd.DataFrame:
    params, start = ({name: p[which] for name, p in part.items()} for part in (ensemble.params, ensemble.start))
    outputs = lambda p, x: functional_call(model, p, (x,))  # noqa: E731
    of_one = partial(measures.measure, outputs, x=data.x_train, y=data.y_train, samples=samples)
    chunk = max(4, 60_000 // sum(p[0].numel() for p in params.values())) if data.x_train.device.type == "cpu" else None
    found = vmap(of_one, chunk_size=chunk)(params, start)
    test = stacked.evaluate(stacked.forward(model), params, data.x_test, data.y_test)
    found |= {"test_loss": test[0], "test_acc": test[1]}
    found = pd.DataFrame({name: values.cpu().numpy() for name, values in found.items()}, index=which)
    return found.assign(gap=ensemble.table["train_acc"][which] - found["test_acc"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sam_lite.study", description=__doc__)
    parser.add_argument("folder", type=Path, help="for the results; when it holds some, the study goes on from there")
    parser.add_argument("--workers", type=int, default=0, help="processes of one thread each (needs dask.distributed)")
    settings = parser.parse_args()
    client = cluster.local(settings.workers)
    from tqdm import tqdm

    jobs = sweep.grid(**AXES)
    limit = client and 3600  # seconds without a group that ends: then a worker hangs
    table = sweep.run(group, jobs, settings.folder / "groups", version="1", client=client, limit=limit, progress=tqdm)
    table.to_parquet(settings.folder / "study.parquet", compression="zstd")
    print(table["status"].value_counts().to_string())


if __name__ == "__main__":
    main()
