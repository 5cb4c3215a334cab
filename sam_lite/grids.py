"""Networks behind the explorers: a grid of batch sizes and one of radii, trained once and kept in grids.npz.

    python -m sam_lite.grids      make grids.npz anew, in about five minutes

Multilayer perceptrons 40-50-50-10 on 1,000 points of MNIST-1D, the seeds 0 to 4, plain SGD, all in float32.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.func import vmap

from sam_lite import hessian, landscape, stacked
from sam_lite.data import Data, load
from sam_lite.ensemble import Ensemble, train_ensemble
from sam_lite.models import build, mlp
from sam_lite.params import Params, loss_of, member, params_of, stack

FILE = Path(__file__).with_name("grids.npz")
SEEDS = range(5)
SIZES = (8, 16, 32, 64, 128, 256, 512, 1000)
RULES = {"the same": 0.0, "times √k": 0.5, "times k": 1.0}  # the power of k = batch size / 32 in the learning rate
BUDGETS = ("updates", "epochs")  # of which all sizes get at most as many as a batch of 32 with UPDATES steps
UPDATES, BASE_SIZE, BASE_LR = 5000, 32, 0.1
ENOUGH = 0.01  # the training loss at which a network is done, so that all are compared at the same
RHOS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
ALPHAS = np.linspace(-0.5, 1.5, 21)
SIDE = np.linspace(-1.0, 1.0, 25)
make = partial(mlp, 40, [50, 50], 10)


@cache
def data() -> Data:
    """The same for all: 1,000 points to train on and 3,000 fresh ones."""
    return load("mnist1d", n_train=1000, n_test=3000, seed=0)


def schedule(size: int, rule: str, budget: str) -> dict:
    """batch_size, lr and steps of a setting."""
    k = size / BASE_SIZE
    steps = UPDATES if budget == "updates" else max(1, round(UPDATES / k))
    return {"batch_size": size, "lr": BASE_LR * k ** RULES[rule], "steps": steps}


def training(batch_size: int, lr: float, steps: int, *, order: int = 0) -> Iterator[tuple[float, Params]]:
    """Yields (share of the steps done, networks so far) after every whole number of epochs of 50 steps or more.

    order: number of the order in which the examples come. The first weights depend on the seed alone, so a live run
    differs from the recorded one only in the order. A network stays as it is once its training loss is 0.01 or not finite.
    """
    epoch = len(data().x_train) // batch_size
    piece = epoch * -(-50 // epoch)
    params, left = stack([params_of(build(make, seed)) for seed in SEEDS]), list(range(len(SEEDS)))
    for number, done in enumerate(range(0, steps, piece)):
        draws = [SEEDS[i] + 100 * number + 100_000 * order for i in left]
        some, start = min(piece, steps - done), {name: p[left] for name, p in params.items()}
        plan: dict[str, Any] = {"batch_size": batch_size, "lr": lr, "steps": some, "stop_loss": ENOUGH}
        run = train_ensemble(make, data(), seeds=draws, start=start, **plan)
        _refuse_part(run)
        for name, p in params.items():
            p[left] = run.params[name]
        left = [i for i, status in zip(left, run.table["status"], strict=True) if status == "steps"]
        yield (done + some) / steps, params
        if not left:
            return


def _refuse_part(run: Ensemble) -> None:
    """An interrupt, which `train_ensemble` takes for an end, goes on here: half-trained networks are no result."""
    if "stopped" in run.table["status"].tolist():
        raise KeyboardInterrupt


def measured(params: Params, reference: Params) -> dict[str, np.ndarray]:
    """test_acc, train_loss, lambda_max: (5,), and line (5, 21), the training loss from `reference` (α = 0) to `params` (1).

    A network that diverged has NaN everywhere.
    """
    d, outputs = data(), stacked.forward(build(make, 0))
    fit, test = (stacked.evaluate(outputs, params, x, y) for x, y in ((d.x_train, d.y_train), (d.x_test, d.y_test)))
    line = landscape.line(lambda p: stacked.evaluate(outputs, p, d.x_train, d.y_train)[0], reference, params, ALPHAS)
    found = {"test_acc": test[1], "train_loss": fit[0], "lambda_max": top(params, 1)[:, 0], "line": line.T}
    good = fit[0].isfinite().numpy()
    return {name: np.where(good if v.ndim == 1 else good[:, None], v.numpy(), np.nan) for name, v in found.items()}


def top(params: Params, k: int) -> torch.Tensor:
    """The k largest eigenvalues of the Hessian of the training loss, (n_models, k); NaN for weights that are not finite."""
    loss = loss_of(build(make, 0), data().x_train, data().y_train)
    finite = torch.stack([p.flatten(1).isfinite().all(1) for p in params.values()]).all(0)
    values = torch.full((len(finite), k), torch.nan)
    if finite.any():
        some = {name: p[finite] for name, p in params.items()}
        values[finite] = vmap(lambda p: hessian.top_eigenvalues(loss, p, k).values)(some)
    return values


def batch_cell(size: int, rule: str, budget: str, reference: Params, *, order: int = 0) -> dict[str, np.ndarray]:
    """`measured` for one setting of the grid of batch sizes."""
    *_, (_, params) = training(**schedule(size, rule, budget), order=order)
    return measured(params, reference)


def reference() -> Params:
    """The networks trained with a batch of 32: (5, *shape)."""
    *_, (_, params) = training(**schedule(BASE_SIZE, "the same", "updates"))
    return params


def rho_cells(rhos: Sequence[float] = RHOS) -> dict[str, np.ndarray]:
    """Networks trained by SAM to a loss of 0.01 or for 4,000 steps: test_acc, train_loss (n_rhos, 5), spectrum
    (n_rhos, 5, 10) and surface (n_rhos, 25, 25), the loss around seed 0 along two filter-normalised directions."""
    pairs = list(itertools.product(rhos, SEEDS))
    run = train_ensemble(
        make,
        data(),
        seeds=[seed for _, seed in pairs],
        rho=[rho for rho, _ in pairs],
        batch_size=BASE_SIZE,
        lr=BASE_LR,
        steps=4000,
        stop_loss=ENOUGH,
    )
    _refuse_part(run)
    loss, surfaces = loss_of(build(make, 0), data().x_train, data().y_train), []
    for i in range(0, len(pairs), len(SEEDS)):
        params = member(run.params, i)
        first, second, _ = landscape.random_directions(params, seed=0)
        surfaces.append(landscape.plane(loss, params, first, second, SIDE, SIDE).numpy())
    found = {name: run.table[name].to_numpy().reshape(-1, len(SEEDS)) for name in ("test_acc", "train_loss")}
    spectrum = top(run.params, 10).reshape(-1, len(SEEDS), 10).numpy()
    return {**found, "spectrum": spectrum, "surface": np.stack(surfaces)}


def main() -> None:
    argparse.ArgumentParser(prog="python -m sam_lite.grids", description=__doc__).parse_args()
    base = reference()
    cells = {key: batch_cell(*key, base) for key in itertools.product(SIZES, RULES, BUDGETS)}
    arrays = {f"batch/{name}": np.stack([c[name] for c in cells.values()]) for name in next(iter(cells.values()))}
    arrays |= {f"rho/{name}": values for name, values in rho_cells().items()}
    arrays |= {f"reference/{name}": p.numpy() for name, p in base.items()}
    np.savez_compressed(FILE, **{name: values.astype(np.float32) for name, values in arrays.items()})


@cache
def recorded() -> dict[str, dict]:
    """batch: (size, rule, budget) -> name -> array; rho: name -> array; reference: params. As `main` wrote them."""
    with np.load(FILE) as file:
        parts = {part: {n.split("/")[1]: file[n] for n in file if n.startswith(part)} for part in ("batch", "rho")}
        base = {n.split("/")[1]: torch.from_numpy(file[n]) for n in file if n.startswith("reference")}
    keys = itertools.product(SIZES, RULES, BUDGETS)
    batch = {key: {name: values[i] for name, values in parts["batch"].items()} for i, key in enumerate(keys)}
    return {"batch": batch, "rho": parts["rho"], "reference": base}


if __name__ == "__main__":
    main()
