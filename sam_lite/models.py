"""The networks of the papers, and small ones.

Every network ends in logits (n, n_out), without a softmax. It is built on the CPU; move it with `.to(device)`.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from sam_lite import require

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "softplus": nn.Softplus, "sigmoid": nn.Sigmoid}
NORMS = (None, "batch", "group", "ghost")
PATIENCE = 5  # seconds for which a thread waits for torch's random numbers
_seeding = threading.RLock()  # held by the thread that draws from a seed


@contextmanager
def seeded(seed: int, gpus: Sequence[int] = ()) -> Iterator[list[torch.Generator]]:
    """Yields torch's generators, of the CPU and of `gpus`: inside they draw from `seed`, afterwards they go on as before.

    All threads of a process share them, so another thread that comes in meanwhile gets a RuntimeError.
    """
    if not _seeding.acquire(timeout=PATIENCE):
        raise RuntimeError(
            "one thread at a time must build or train models, since all threads share torch's random numbers, and another "
            "does so now; use processes in place of threads, or train_ensemble for many models"
        )
    try:
        with torch.random.fork_rng(devices=gpus):
            generators = [torch.default_generator, *(torch.cuda.default_generators[i] for i in gpus)]
            for generator in generators:
                generator.manual_seed(require.seed(seed))
            yield generators
    finally:
        _seeding.release()


def build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """`make()` with the initial weights that `seed` stands for; the global random state stays as it was.

    RuntimeError while another thread trains: all threads share torch's random numbers.

    Args:
        make: builds a model, on the CPU.
        seed: an integer >= 0.

    >>> build(lambda: mlp(40, [100], 10), seed=0)
    Sequential(
      (0): Linear(in_features=40, out_features=100, bias=True)
      (1): ReLU()
      (2): Linear(in_features=100, out_features=10, bias=True)
    )
    """
    with seeded(seed), torch.device("cpu"):
        model = make()
    if not isinstance(model, nn.Module):
        raise require.error("make", "a function that builds a model", model, "has it a `return`?")
    if any(p.device.type != "cpu" for p in model.parameters()):
        raise ValueError(
            "make must build on the CPU, where the seed gives the same weights always; then use .to(device)"
        )
    return model


def mlp(
    n_in: int,
    widths: Sequence[int],
    n_out: int,
    activation: str = "relu",
    norm: str | None = None,
    ghost_size: int = 128,
) -> nn.Sequential:
    """Linear layers of these widths, each followed by its norm, if any, and the activation: (n, n_in) -> (n, n_out).

    Args:
        n_in, n_out: numbers in, numbers out.
        widths: of the hidden layers, such as [100, 100].
        activation: one of ACTIVATIONS.
        norm: one of NORMS.
        ghost_size: points that a "ghost" norm takes together.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if not hasattr(widths, "__len__"):
        raise require.error("widths", "integers >= 1 in a row, such as [50, 50]", widths)
    inner = [require.whole(f"widths[{i}]", width) for i, width in enumerate(widths)]
    layers, sizes = [], [require.whole("n_in", n_in), *inner]
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(before, after), *_norm(norm, ghost_size, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], require.whole("n_out", n_out)))


def keskar(name: str, *, width: int | None = None, norm: str | None = "batch", ghost_size: int = 128) -> nn.Sequential:
    """The six networks of Keskar et al. 2017, appendix B; layers of C1 - C4 as in the authors' published code.

    F1 (MNIST): 784 - 5 x 512 - 10.     F2 (TIMIT): 360 - 7 x 512 - 1973.     Inputs in a row, no dropout.
    C1 (CIFAR-10), C3 (CIFAR-100): two 5 x 5 convolutions of 64 channels, dense 384 and 192, dropout 0.5.
    C2 (CIFAR-10), C4 (CIFAR-100): 3 x 3 convolutions, 2 of 64, 2 of 128, 3 of 256, 6 of 512, dense 512, dropout.
    Images are (n, 3, 32, 32). width: another number for 512 (F) or 64 (C, where all other sizes keep in proportion).
    """
    dense, images = {"F1": (784, 5, 10), "F2": (360, 7, 1973)}, {"C1": 10, "C2": 10, "C3": 100, "C4": 100}
    if name not in dense | images:
        raise ValueError(f"name must be one of {', '.join(dense | images)}, got {name!r}")
    width = None if width is None else require.whole("width", width, remedy="None stands for the paper's")
    if name in dense:
        n_in, depth, n_out = dense[name]
        return mlp(n_in, [width or 512] * depth, n_out, "relu", norm, ghost_size)
    layers = _shallow if name in ("C1", "C3") else _deep
    return nn.Sequential(*layers(width or 64, images[name], partial(_norm, norm, ghost_size)))


def convnet(width: int = 8, n_out: int = 10, norm: str | None = None, ghost_size: int = 128) -> nn.Sequential:
    """A small convolutional network for grey images of 28 x 28 pixels in a row: (n, 784) -> (n, n_out).

    Two 3 x 3 convolutions that halve the image (stride 2, in place of pooling, as Springenberg et al. 2015), of `width`
    and twice as many channels, each followed by its norm, if any, and ReLU; a dense layer of four times `width`, ReLU;
    and the outputs. 26,698 weights by default, and 48 more with batch norm.

    Args:
        width: channels of the first convolution.
        n_out: classes.
        norm: one of NORMS, after each convolution.
        ghost_size: points that a "ghost" norm takes together.
    """
    width, layers = require.whole("width", width), []
    for n, m in ((1, width), (width, 2 * width)):  # images 28 -> 14 -> 7
        layers += [nn.Conv2d(n, m, 3, stride=2, padding=1), *_norm(norm, ghost_size, m, True), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(2 * width * 7 * 7, 4 * width), nn.ReLU()]
    last = nn.Linear(4 * width, require.whole("n_out", n_out))
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *layers, last)


f1, f2, c1, c2, c3, c4 = (partial(keskar, name) for name in ("F1", "F2", "C1", "C2", "C3", "C4"))


def _shallow(w: int, n_out: int, norm: Callable) -> list[nn.Module]:
    layers = []
    for n in (3, w):  # images 32 -> 16 -> 8
        layers += [nn.Conv2d(n, w, 5, padding=2), *norm(w, True), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    layers += [nn.Flatten()]
    for n, m in ((64 * w, 6 * w), (6 * w, 3 * w)):
        layers += [nn.Linear(n, m), *norm(m), nn.ReLU(), nn.Dropout(0.5)]
    return [*layers, nn.Linear(3 * w, n_out)]


def _deep(w: int, n_out: int, norm: Callable) -> list[nn.Module]:
    layers, n = [], 3
    for times, m in ((2, w), (2, 2 * w), (3, 4 * w), (3, 8 * w), (3, 8 * w)):  # images 32 -> 1
        for i in range(times):
            end = nn.MaxPool2d(2) if i == times - 1 else nn.Dropout(0.3 if m == w else 0.4)
            layers += [nn.Conv2d(n, m, 3, padding=1), *norm(m, True), nn.ReLU(), end]
            n = m
    layers += [nn.Flatten(), nn.Dropout(0.5), nn.Linear(n, n), *norm(n), nn.ReLU(), nn.Dropout(0.5)]
    return [*layers, nn.Linear(n, n_out)]


def _norm(norm: str | None, ghost_size: int, n: int, images: bool = False) -> list[nn.Module]:
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, got {norm!r}")
    if norm == "group":  # 16 channels in a group (Wu and He 2018), or all in one
        return [nn.GroupNorm(n // 16 if n % 16 == 0 else 1, n)]
    if norm == "ghost":
        return [GhostBatchNorm2d(n, ghost_size) if images else GhostBatchNorm1d(n, ghost_size)]
    return [] if norm is None else [nn.BatchNorm2d(n) if images else nn.BatchNorm1d(n)]


class GhostBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over small parts of a batch, "ghosts" of `ghost_size` points each (Hoffer et al. 2017, Algorithm 1).

    In training, each ghost has its own mean and variance and moves the running statistics once, one after the other:
    after k ghosts mean = (1 - m)^k mean + sum_i (1 - m)^(k - i) m mean_i, where m is the momentum. In evaluation it is
    batch norm. Raises ValueError for a batch that is no multiple of `ghost_size`.
    """

    def __init__(self, n: int, ghost_size: int = 128, momentum: float | None = 0.1, affine: bool = True):
        ghost_size = require.whole("ghost_size", ghost_size, least=2)
        super().__init__(n, momentum=momentum, affine=affine)
        self.ghost_size = ghost_size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if len(x) % self.ghost_size:
            raise ValueError(f"batch must be a multiple of ghost_size={self.ghost_size}, got {len(x)}")
        return torch.cat(list(map(super().forward, x.split(self.ghost_size))))


class GhostBatchNorm2d(GhostBatchNorm1d):
    """`GhostBatchNorm1d` for images (n, channels, height, width)."""

    _check_input_dim = nn.BatchNorm2d._check_input_dim
