"""How much faster many models train together than one after another, and what share of the machine they use.

Run: python benchmarks/ensemble.py          (about seven minutes; `make bench` calls it)

Each row compares, in the same minute, the time per model and step of a plain PyTorch loop (one nn.Sequential,
torch.optim.SGD) with that of `train_ensemble`, and states the share of this machine's matrix-product rate (a 2048 x
2048 float32 product) that the ensemble's 6 x weights x batch operations per step amount to. Medians of `ROUNDS`
alternating rounds with the smallest and largest ratio; checks of the loss are left out of both sides.
"""

import platform
import statistics
import time
from functools import partial

import torch
import torch.nn.functional as F

from sam_lite.data import batches, mnist1d
from sam_lite.ensemble import train_ensemble
from sam_lite.models import mlp
from sam_lite.params import count, params_of

ROUNDS, N_IN, N_OUT = 5, 40, 10


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def loop(make, data, batch_size: int, steps: int) -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator, left = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        left = left or list(batches(len(data.x_train), batch_size, generator))
        i = left.pop()
        optimizer.zero_grad()
        F.cross_entropy(model(data.x_train[i]), data.y_train[i]).backward()
        optimizer.step()


def matrix_rate() -> float:
    """Floating-point operations per second of one large matrix product."""
    a, b = torch.randn(2, 2048, 2048)
    return 2 * 2048**3 / min(seconds(lambda: a @ b) for _ in range(5))


def row(data, width: int, batch_size: int, n_models: int) -> str:
    make = partial(mlp, N_IN, (width, width), N_OUT)
    weights = count(params_of(make()))
    loop_steps = 200
    steps = max(3, min(200, int(3e11 / (6 * weights * batch_size * n_models))))
    together = partial(
        train_ensemble, make, data, seeds=range(n_models), batch_size=batch_size, lr=0.01, check_every=10**9
    )
    ratios, shares = [], []
    for _ in range(ROUNDS):
        one = seconds(lambda: loop(make, data, batch_size, loop_steps)) / loop_steps
        # the difference of two lengths leaves out making the models, their shuffles and the last evaluation
        many = (seconds(lambda: together(steps=2 * steps)) - seconds(lambda: together(steps=steps))) / (
            steps * n_models
        )
        ratios.append(one / many)
        shares.append(6 * weights * batch_size / many / matrix_rate())
    spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"
    return f"| {width} | {batch_size} | {n_models} | {spread} | {statistics.median(shares):.0%} |"


def main() -> None:
    data = mnist1d(1000, 100)
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads, n = {ROUNDS}"
    )
    print("| width | batch | models | times the loop: median (range) | share of matrix rate |\n|---|---|---|---|---|")
    for width in (32, 64, 128):
        for batch_size in (16, 64, 256):
            for n_models in (64, 512):
                print(row(data, width, batch_size, n_models), flush=True)


if __name__ == "__main__":
    main()
