"""Does it hold on real images? Fashion-MNIST and a convnet: batch size, SAM, Adam and wrong labels, ten networks of each.

`python -m sam_lite.image_study FOLDER` makes the study, or goes on with it, and ends in FOLDER/image_study.parquet:
`image_study.md` says how long it takes and what the columns are. `tried` is one setting on held-out training images,
`network` one network of the study with all that is measured on it. Each is a job of `sweep`.
"""

import argparse
import functools
import math
import platform
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sam_lite import cluster, image_network, require, sweep, tables
from sam_lite.data import Data, best_device, fashion_mnist, wrong_labels
from sam_lite.image_network import NORMS, SMALL, Arm, line, measured, moments, one_of, trained
from sam_lite.train import evaluate

VERSION = "1"  # of what a job computes; results of another are refused
N_TRAIN, N_HELD_OUT = 12_288, 10_000  # of the 60,000 training images; 12 batches of 1,024 or 192 of 64
LARGE, EPOCHS = 1024, 8  # images in a large batch; epochs
EQUAL_LOSSES = (0.4, 0.25)  # nats over the training images, where networks are compared at equal loss
SEEDS, TUNING_SEEDS = tuple(range(10)), (100, 101)
RHOS = (0.02, 0.05, 0.1, 0.2)
DECAYS = (0.0, 3e-4, 1e-3, 3e-3)
GRID = {  # learning rates, and rho for SAM or weight decay for the others: as many settings for each
    "sgd": ((0.003, 0.01, 0.03), DECAYS),
    "sam": ((0.003, 0.01, 0.03), RHOS),
    "adam": ((3e-4, 1e-3, 3e-3), DECAYS),
}


ARMS = {
    "sgd": Arm("sgd", 2),
    "large": Arm("sgd", LARGE // SMALL, LARGE),
    "large_sqrt": Arm("sgd", LARGE // SMALL, LARGE, (LARGE / SMALL) ** 0.5),
    "large_linear": Arm("sgd", LARGE // SMALL, LARGE, LARGE / SMALL),
    **{f"sam_{rho}": Arm("sam", rho=rho) for rho in RHOS},
    "adam": Arm("adam", 2),
    "wrong_20_sgd": Arm("sgd", 2, wrong=0.2),
    "wrong_20_sam": Arm("sam", wrong=0.2),
    "wrong_40_sgd": Arm("sgd", 2, wrong=0.4),
    "wrong_40_sam": Arm("sam", wrong=0.4),
}


def load() -> pd.DataFrame:
    """The recorded study, a row for each moment of each network, for lines and for the tuning: see image_study.md."""
    return pd.read_parquet(files("sam_lite") / "image_study.parquet")


def values(table: pd.DataFrame, arm: str, column: str, moment: str = "end", norm: str = "none") -> pd.Series:
    """What the networks of an arm have in a column at a moment: a number for each seed that got there, by seed.

    table: as of `load`. arm, moment, norm, column: words of image_study.md. Series of two arms are subtracted or divided
    seed by seed. ValueError for an arm, a moment or a norm of which the table has no network, or a column it has not, and
    for a network that is there twice, as in two studies in one table; on lines each has a row for each alpha.
    """
    for name, word in (("arm", arm), ("moment", moment), ("norm", norm)):
        one_of(name, word, dict.fromkeys(table[name].dropna()))
    chosen_rows = (table["arm"] == arm) & (table["moment"] == moment) & (table["norm"] == norm)
    found = table[chosen_rows].set_index("seed")[one_of("column", column, dict.fromkeys(table))]
    if not moment.startswith("line") and len(twice := found.index[found.index.duplicated()]):
        remedy = "look at one study at a time, since a seed counts once"
        raise require.error("table", "one row for each network", f"two of {arm!r} with the seed {twice[0]}", remedy)
    return found.dropna().astype(float)


@functools.cache
def photographs(folder: str | None = None) -> Data:
    """All that the study uses of Fashion-MNIST: N_TRAIN + N_HELD_OUT training images, chosen once, and 10,000 of the test.

    folder: where its files are; None: where `data.fashion_mnist` finds them. Raises FileNotFoundError where they are
    not, ValueError where they are damaged or not whole.
    """
    whole = fashion_mnist(folder=folder, seed=0)
    if (n := (len(whole.y_train), len(whole.y_test))) != (60_000, 10_000):
        rule = "whole: 60,000 training images and 10,000 test images"
        raise require.error("Fashion-MNIST", rule, n, "fetch its four files again: apt install dataset-fashion-mnist")
    used = N_TRAIN + N_HELD_OUT
    return whole._replace(x_train=whole.x_train[:used].clone(), y_train=whole.y_train[:used].clone())


def split(*, held_out: bool = False) -> Data:
    """N_TRAIN training images, and the test images; held_out: N_HELD_OUT other training images in the place of these.

    A copy, which may be changed without a change of what the study uses.
    """
    data, rest = photographs(), slice(N_TRAIN, N_TRAIN + N_HELD_OUT)
    judges = (data.x_train[rest], data.y_train[rest]) if held_out else data[2:]
    used = Data(data.x_train[:N_TRAIN], data.y_train[:N_TRAIN], *judges)
    return Data(*(part.clone() for part in used))


def tried(
    norm: str, method: str, lr: float, strength: float, seed: int, *, data: Data | None = None, epochs: int = EPOCHS
) -> pd.DataFrame:
    """One setting, judged on training images that it was not trained on: a row with their loss and accuracy.

    norm: a key of NORMS. method: of GRID. lr: learning rate. strength: rho of SAM, or the weight decay of the others.
    data: with the held-out images in the place of the test images; no test image has a part in this. epochs: as many for
    SAM; twice as many for the others, which so have as many gradients. ValueError for other words and numbers.
    """
    started = time.perf_counter()
    if data is None:
        data = split(held_out=True).to(best_device())
    arm = Arm(one_of("method", method, GRID), 1 if method == "sam" else 2)
    run, kept = trained(norm, arm, lr, strength, seed, data, epochs)
    row = run.records.iloc[-1][["step", "epoch", "gradients", "train_loss", "train_acc"]].to_dict()
    loss, acc = evaluate(kept[row["step"]], *data[2:]) if run.status == "steps" else (math.nan, 0.0)
    row |= {"status": run.status, "held_out_loss": loss, "held_out_acc": acc}
    return pd.DataFrame([row | {"seconds": time.perf_counter() - started}])


def chosen(tuning: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """method -> (lr, strength): the best mean accuracy on held-out images in a table of `tried`, for one norm.

    ValueError for a table of several norms, such as the recorded study, of which each has its own best setting.
    """
    if "norm" in tuning and len(norms := tuning["norm"].dropna().unique()) > 1:
        raise require.error("tuning", "the rows of one norm", ", ".join(norms), "give tuning[tuning['norm'] == 'none']")
    best = tuning.groupby(["method", "lr", "strength"])["held_out_acc"].mean().groupby("method").idxmax()
    return {method: key[1:] for method, key in best.items()}


def network(
    norm: str,
    arm: str,
    seed: int,
    lr: float,
    strength: float,
    *,
    data: Data | None = None,
    epochs: int = EPOCHS,
    equal_losses: Sequence[float] = EQUAL_LOSSES,
    autocast: bool = False,
) -> pd.DataFrame:
    """One network of the study: a row for each `moment` of its training, and lines for large batches.

    Args:
        norm: a key of NORMS.
        arm: a key of ARMS.
        seed: of the initial weights, the batches, and the wrong labels.
        lr, strength: learning rate, and rho of SAM or weight decay of the others, as `jobs` has them.
        data: Fashion-MNIST as the study has it, if not given.
        epochs: in place of EPOCHS.
        equal_losses: in place of EQUAL_LOSSES.
        autocast: train in bfloat16.

    The moments are "loss_0.4", the first look at which the loss over all training images is not above 0.4, and so on for
    each of `equal_losses`; "epochs", after `epochs` epochs, where the arm goes on; and "end". Rows with the moment
    "line_0.4" hold the loss between the network of small batches and this one, both at that loss. Columns are told in
    image_study.md. ValueError for other words and numbers.
    """
    started = time.perf_counter()
    how = ARMS[one_of("arm", arm, ARMS)]
    if data is None:
        data = split().to(best_device())
    true_labels = data.y_train
    data = data._replace(y_train=wrong_labels(true_labels, how.wrong, seed))
    run, kept = trained(norm, how, lr, strength, seed, data, epochs, autocast)
    steps = moments(run.records, equal_losses, epochs * (len(data.x_train) // how.batch_size))
    rows: list[dict] = []
    for moment, step in steps.items():
        row = run.records.set_index("step").loc[step, ["epoch", "gradients"]].to_dict()
        found = measured(kept[step], data, true_labels) if step in kept else {}
        rows.append({"moment": moment, "step": step} | row | {"status": run.status} | found)
    if how.batch_size == LARGE and any(moment.startswith("loss") for moment in steps):
        small, nets = trained(norm, ARMS["sgd"], lr / how.factor, strength, seed, data, epochs, autocast)
        for moment, step in moments(small.records, equal_losses, 0).items():
            if moment.startswith("loss") and moment in steps:
                name = moment.replace("loss", "line")
                rows += [{"moment": name} | row for row in line(nets[step], kept[steps[moment]], data)]
    seconds = [time.perf_counter() - started if row["moment"] == "end" else math.nan for row in rows]
    return pd.DataFrame(rows).assign(seconds=seconds)


def provenance(table: pd.DataFrame) -> dict[str, Any]:
    """What made a table, for its `attrs`, which Parquet keeps: versions, settings, processor hours."""
    names = "N_TRAIN N_HELD_OUT LARGE EPOCHS EQUAL_LOSSES SEEDS TUNING_SEEDS GRID"
    found: dict[str, Any] = {name: globals()[name] for name in names.split()}
    found |= {name: getattr(image_network, name) for name in "SMALL WARM_UP MEASURED BOX NEAR FAR".split()}
    found["ARMS"] = {name: arm._asdict() for name, arm in ARMS.items()}
    versions = {"torch": torch.__version__, "python": platform.python_version(), "processor": platform.machine()}
    return found | {"versions": versions, "hours": round(table["seconds"].sum() / 3600, 3)}


def tuning_jobs(norm: str) -> list[tables.Job]:
    """All of GRID, with each of TUNING_SEEDS."""
    return [
        {"norm": norm, "method": method, "lr": lr, "strength": strength, "seed": seed}
        for method, (rates, strengths) in GRID.items()
        for lr in rates
        for strength in strengths
        for seed in TUNING_SEEDS
    ]


def jobs(norm: str, tuned: dict[str, tuple[float, float]]) -> list[tables.Job]:
    """All of ARMS, seed by seed, each at the best setting of its method but for what the arm is about."""
    found: list[tables.Job] = []
    for seed in SEEDS:
        for name, arm in ARMS.items():
            lr, strength = tuned[arm.method]
            strength = strength if arm.rho is None else arm.rho
            found.append({"norm": norm, "arm": name, "seed": seed, "lr": arm.factor * lr, "strength": strength})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sam_lite.image_study", description=__doc__)
    parser.add_argument("folder", type=Path, help="for the results; when it holds some, the study goes on from there")
    parser.add_argument("--workers", type=int, default=0, help="processes of one thread each (needs dask.distributed)")
    options = parser.parse_args()
    photographs()  # one error now, where the images are missing, and not one for each job
    client = cluster.local(options.workers)
    from tqdm import tqdm

    how: dict[str, Any] = {"version": VERSION, "client": client, "limit": client and 3600, "progress": tqdm}
    parts = []
    for norm in NORMS:
        tuning = sweep.run(tried, tuning_jobs(norm), options.folder / f"{norm}_tuning", **how)
        networks = sweep.run(network, jobs(norm, chosen(tuning)), options.folder / f"{norm}_networks", **how)
        parts += [tuning.assign(moment="tuning"), networks]
        table = pd.concat(parts, ignore_index=True)
        table.attrs = provenance(table)
        tables.write(table, options.folder / "image_study.parquet")  # so each norm is a whole study
        print(table.groupby(["norm", "moment"]).size().to_string())


if __name__ == "__main__":
    main()
