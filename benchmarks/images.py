"""The convnet of the image study, one network in a loop or ten in an ensemble: python benchmarks/images.py

Images that a second of one core trains on: `train`'s steps of one network, as a job of the study makes them (in memory
format channels_last), and the gradients of ten networks at once, where `torch.func.vmap` makes grouped convolutions.
Processor time, so that other programs on the machine count less; the median and the range of five alternating rounds.
Batch norm has no ensemble, as its statistics change.
"""

import statistics
import time

import torch
import torch.nn.functional as F

from sam_lite import stacked
from sam_lite.models import build, convnet
from sam_lite.params import Params, add, params_of, stack

ROUNDS, N_MODELS, IMAGES = 5, 10, 8192


def seconds(run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def loop(norm: str | None, x: torch.Tensor, y: torch.Tensor) -> None:
    model = build(lambda: convnet(norm=norm), 0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(IMAGES // len(x)):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def ensemble(x: torch.Tensor, y: torch.Tensor) -> None:
    params: Params = stack([params_of(build(convnet, seed)) for seed in range(N_MODELS)])
    gradient, moments = stacked.gradient(convnet()), {name: torch.zeros_like(p) for name, p in params.items()}
    xs, ys = x.expand(N_MODELS, *x.shape).contiguous(), y.expand(N_MODELS, *y.shape)
    for _ in range(max(1, IMAGES // len(x) // N_MODELS)):
        moments = add(gradient(params, xs, ys), moments, 0.9)
        params = add(params, moments, -0.01)


def row(batch_size: int) -> str:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(batch_size, 784, generator=generator), torch.arange(batch_size) % 10
    together = max(1, IMAGES // batch_size // N_MODELS) * batch_size * N_MODELS
    ways = {
        "loop": (lambda: loop(None, x, y), IMAGES),
        "with batch norm": (lambda: loop("batch", x, y), IMAGES),
        "ensemble": (lambda: ensemble(x, y), together),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (run, n) in ways.items():
            found[name].append(n / seconds(run) / 1000)
    cells = [f"{statistics.median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f})" for rates in found.values()]
    return f"| {batch_size} | {' | '.join(cells)} |"


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, thousands of images a second of one core, n = {ROUNDS}")
    print("| batch | loop | loop, batch norm | ten in an ensemble |\n|---|---|---|---|")
    for batch_size in (64, 1024):
        print(row(batch_size), flush=True)


if __name__ == "__main__":
    main()
