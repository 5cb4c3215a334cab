"""A step of SAM beside a step of SGD, ours and that of pytorch_optimizer: python benchmarks/sam.py [device]

Two gradients take two SGD steps, less one update of the weights; what is above that is the price of the climb. The
same networks, batches, SGD and closure for all. `ROUNDS` rounds, in each every contender for some `SECONDS`; a ratio
is taken within a round, and its median and quartiles over the rounds are printed. Memory: the most that one step has
allocated at once beyond what was there before it, in units of the weights.
"""

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytorch_optimizer
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from sam_lite.data import best_device
from sam_lite.models import build, mlp
from sam_lite.sam import SAM

ROUNDS, SECONDS, LR, RHO = 31, 0.1, 1e-3, 0.05


def machine(device: torch.device) -> str:
    """What the figures were taken with."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")] or [platform.processor()]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else names[0]
    return f"torch {torch.__version__}, Python {platform.python_version()}, {name}, {torch.get_num_threads()} threads"


def seconds(run: Callable, times: int, device: torch.device) -> float:
    """Seconds per call."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(times):
        run()
    wait()
    return (time.perf_counter() - start) / times


def compared(contenders: dict[str, Callable], device: torch.device, rounds=ROUNDS) -> dict[str, list[float]]:
    """Seconds per call of every contender in every round, all of them in turn, each first in some of the rounds."""
    times = {name: seconds(run, 1, device) and seconds(run, 1, device) for name, run in contenders.items()}
    times = {name: max(1, round(SECONDS / one)) for name, one in times.items()}
    found, names = {name: [] for name in contenders}, list(contenders)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            found[name].append(seconds(contenders[name], times[name], device))
    return found


def ratio(of: list[float], to: list[float]) -> str:
    """Median and quartiles of the ratios within rounds."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(of, to, strict=True)], n=4)
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


def peak(run: Callable, device: torch.device) -> int:
    """The most bytes that a call has allocated at once beyond those that were there before. It must free none of them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ["KINETO_LOG_LEVEL"] = "99"  # or the profiler tells of its starts and stops
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def convnet() -> nn.Sequential:
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * 5 * 5, 10))


NETWORKS = {
    "MLP 40–100–100–10, batch 64": (partial(mlp, 40, (100, 100), 10), (64, 40)),
    "the same, batch 1000": (partial(mlp, 40, (100, 100), 10), (1000, 40)),
    "convnet of 28 × 28, batch 64": (convnet, (64, 1, 28, 28)),
    "60 tensors, width 32, batch 64": (partial(mlp, 40, [32] * 29, 10), (64, 40)),
    "the same, batch 512": (partial(mlp, 40, [32] * 29, 10), (512, 40)),
}
OPTIMIZERS = {
    "SGD": lambda params: SGD(params, lr=LR),
    "ours": lambda params: SAM(SGD(params, lr=LR), rho=RHO),
    "peer": lambda params: pytorch_optimizer.SAM(params, SGD, rho=RHO, lr=LR),
    "peer, foreach": lambda params: pytorch_optimizer.SAM(params, SGD, rho=RHO, lr=LR, foreach=True),
}


def step_of(make: Callable, shape: tuple, optimizer: Callable, device: torch.device) -> tuple[Callable, nn.Module]:
    """A function that takes one step, and the model that it moves."""
    model = build(make, 0).to(device)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    y = (torch.arange(len(x)) % 10).to(device)
    optimizer = optimizer(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    if isinstance(optimizer, pytorch_optimizer.SAM):  # which wants the first gradients before step
        return lambda: (closure(), optimizer.step(closure)), model
    return lambda: optimizer.step(closure), model


def main() -> None:
    device = best_device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    print(f"{machine(device)}; pytorch_optimizer {version('pytorch_optimizer')}; n = {ROUNDS} rounds")
    print("time of a step: median (quartiles) of the ratio; memory: SGD, ours, peer\n")
    print("| network | SAM / SGD | peer / SGD | ours / peer | ours / peer with foreach | memory, in weights |")
    print("|---|---|---|---|---|---|")
    for name, (make, shape) in NETWORKS.items():
        runs = {who: step_of(make, shape, optimizer, device) for who, optimizer in OPTIMIZERS.items()}
        t = compared({who: run for who, (run, _) in runs.items()}, device)
        weights, memory = sum(p.nbytes for p in make().parameters()), []
        for run, model in (runs[who] for who in ("SGD", "ours", "peer")):
            model.zero_grad()
            memory.append(f"{peak(run, device) / weights:.1f}")
        cells = [ratio(t["ours"], t["SGD"]), ratio(t["peer"], t["SGD"]), ratio(t["ours"], t["peer"])]
        print("|", " | ".join([name, *cells, ratio(t["ours"], t["peer, foreach"]), ", ".join(memory)]), "|", flush=True)


if __name__ == "__main__":
    main()
