"""Small datasets as four tensors.

Inputs are float32 and standardised (minus the mean, over the standard deviation, of all training inputs together),
labels are int64. `seed` says which points; the same seed gives the same points on every device.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam_lite import images, require


class Data(NamedTuple):
    """x: (n, *features) float32. y: (n,) int64 in 0 .. n_classes - 1."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def n_classes(self) -> int:
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    def to(self, device: str | torch.device) -> "Data":
        return Data(*(t.to(torch.device(device)) for t in self))

    def check(self, n_classes: int | None = None) -> "Data":
        """Returns itself; ValueError unless there is a label in 0 .. n_classes - 1 for each row of x."""
        for name, one in zip(self._fields, self, strict=True):
            if not isinstance(one, Tensor):
                raise require.error(name, "a tensor", type(one), "use torch.from_numpy or torch.as_tensor")
        for part, x, y in (("train", *self[:2]), ("test", *self[2:])):
            if y.dtype != torch.int64 or y.shape != x.shape[:1] or len(x) == 0:
                raise ValueError(
                    f"y_{part} must hold an int64 label for each row of x, got {y.dtype}, {tuple(y.shape)}"
                )
            for label in (int(y.min()), int(y.max())):
                if not 0 <= label < (n_classes or math.inf):
                    raise ValueError(f"labels must lie in 0..{(n_classes or math.inf) - 1}, got {label} in y_{part}")
        return self


def load(
    name: str,
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    download: bool = False,
) -> Data:
    """The dataset called `name`, made by the function of that name below.

    Args:
        name: "mnist1d", "digits", "fashion_mnist", "mnist" or "cifar10".
        n_train, n_test: how many; None: as many as that function's own default.
        seed: which sample.
        folder: where the files of an image set are; None: where it is usually kept.
        download: whether it may be fetched where it is missing.

    Returns Data(x_train, y_train, x_test, y_test): x (n, *features), of mean 0 and variance 1, and labels y (n,).

    >>> load("mnist1d", n_train=100, n_test=50).x_train.shape
    torch.Size([100, 40])
    """
    makers = {f.__name__: f for f in (mnist1d, digits, fashion_mnist, mnist, cifar10)}
    if name not in makers:
        raise ValueError(f"name must be one of {', '.join(makers)}, got {name!r}")
    settings: dict[str, Any] = {"n_train": n_train, "n_test": n_test, "seed": seed}
    settings |= {"folder": folder, "download": download} if name not in ("mnist1d", "digits") else {}
    return makers[name](**{key: value for key, value in settings.items() if value is not None or key == "seed"})


def mnist1d(n_train: int = 1000, n_test: int = 3000, *, seed: int = 0) -> Data:
    """Ten shapes of 40 numbers, moved, stretched, sheared and noisy: (n, 40), 10 classes.

    Greydanus and Kobak 2024, "Scaling down deep learning with MNIST-1D", with the settings of their release. Every seed
    is a fresh sample, train and test are independent draws, and the training points do not depend on `n_test`: ask for
    100,000 test points to measure the true loss. Classes are equally frequent, up to one, in both parts.
    """
    generator = torch.Generator().manual_seed(require.seed(seed))
    parts = []
    for n in (require.whole("n_train", n_train), require.whole("n_test", n_test)):
        with torch.device("cpu"):
            y = (torch.arange(n) % 10)[torch.randperm(n, generator=generator)]
            parts += [torch.cat([_signals(chunk, generator) for chunk in y.split(50_000)]), y]
    return _standardised(*parts)


def _signals(y: Tensor, generator: torch.Generator) -> Tensor:
    """One random signal of each label: (n,) -> (n, 40)."""
    n = len(y)
    templates, inside = _dilated()
    padding = torch.randint(25, (n,), generator=generator)
    shift = torch.randint(48, (n, 1), generator=generator)
    size, shear = torch.rand(2, n, 1, generator=generator, dtype=torch.float32) - 0.5
    noise, jitter = torch.randn(2, n, 72, generator=generator, dtype=torch.float32)
    source = (torch.arange(72) - shift) % 72  # translation, round the end
    x = templates[padding, y].gather(1, source) * (1 + 0.4 * size)
    x = torch.where(inside[padding].gather(1, source), x, 0.25 * noise @ _smoothing(72).T) + 0.02 * jitter
    x -= 0.75 * shear * torch.linspace(-0.5, 0.5, 72, dtype=torch.float32)
    return x @ _interpolation(72, 40).T


def _dilated() -> tuple[Tensor, Tensor]:
    """The templates followed by 36 .. 60 zeros, at 72 points: (25, 10, 72); where the template is: (25, 72).

    The templates are data of github.com/greydanus/mnist1d (S. Greydanus, Apache-2.0).
    """
    shapes = """5 6 6.5 6.75 7 7 7 7 6.75 6.5 6 5    5 3 3 3.4 3.8 4.2 4.6 5 5.4 5.8 5 5
                5 6 6.5 6.5 6 5.25 4.75 4 3.5 3.5 4 5    5 6 6.5 6.5 6 5 5 6 6.5 6.5 6 5
                5 4.4 3.8 3.2 2.6 2.6 5 5 5 5 5 5    5 3 3 3 3 5 6 6.5 6.5 6 4.5 5
                5 4 3.5 3.25 3 3 3 3 3.25 3.5 4 5    5 7 7 6.6 6.2 5.8 5.4 5 4.6 4.2 5 5
                5 4 3.5 3.5 4 5 5 4 3.5 3.5 4 5    5 4 3.5 3.5 4 5 5 5 5 4.7 4.3 5"""
    shapes = torch.tensor([float(value) for value in shapes.split()], dtype=torch.float32).view(10, 12)
    shapes = (shapes - shapes[:, :1]) / shapes.std(dim=1, keepdim=True, correction=0) / 6  # starts and ends at 0
    maps = torch.stack([_interpolation(12 + padding, 72)[:, :12] for padding in range(36, 61)])  # (25, 72, 12)
    return torch.einsum("pij,cj->pci", maps, shapes), (maps != 0).any(dim=2)


def _interpolation(n_in: int, n_out: int) -> Tensor:
    """Linear interpolation from n_in to n_out equally spaced points, first on first, last on last: (n_out, n_in)."""
    at = torch.arange(n_out, dtype=torch.float64) * (n_in - 1) / (n_out - 1)
    return (1 - (at[:, None] - torch.arange(n_in)).abs()).clamp(min=0).float()


def _smoothing(n: int, sigma: float = 2.0) -> Tensor:
    """A Gaussian filter cut off at 4 sigma, with mirrored ends: (n, n)."""
    offsets = torch.arange(-int(4 * sigma), int(4 * sigma) + 1)
    weights = torch.softmax(-((offsets.float() / sigma) ** 2) / 2, dim=0)
    at = (torch.arange(n)[:, None] + offsets) % (2 * n)
    at = torch.minimum(at, 2 * n - 1 - at)
    return torch.zeros(n, n, dtype=torch.float32).scatter_add_(1, at, weights.expand(n, -1))


def digits(n_train: int = 1000, n_test: int | None = None, *, seed: int = 0) -> Data:
    """The 1,797 digits of 8 x 8 pixels that come with scikit-learn: (n, 64), 10 classes. `n_test` None: all others."""
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    n_train = require.whole("n_train", n_train, most=len(x) - 1)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(require.seed(seed)), device="cpu")
    train, test = chosen[:n_train], chosen[n_train:]
    return _subset([x[train], y[train], x[test], y[test]], None, n_test, seed)


def fashion_mnist(
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    folder: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
) -> Data:
    """Photographs of clothes, 28 x 28 pixels in a row: (n, 784), 10 classes; 60,000 and 10,000 unless told fewer.

    Xiao, Rasul and Vollgraf 2017. Read from `folder`, or else from Debian's package, or else from an earlier download.
    """
    return _subset(images.idx("fashion_mnist", folder, download), n_train, n_test, seed)


def mnist(
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    folder: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
) -> Data:
    """Handwritten digits (LeCun et al. 1998), 28 x 28 pixels in a row: (n, 784), 10 classes; 60,000 and 10,000."""
    return _subset(images.idx("mnist", folder, download), n_train, n_test, seed)


def cifar10(
    n_train: int | None = None,
    n_test: int | None = None,
    *,
    folder: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
) -> Data:
    """Colour photographs (Krizhevsky 2009): (n, 3, 32, 32), 10 classes; 50,000 and 10,000. Needs torchvision."""
    return _subset(images.cifar10(folder, download), n_train, n_test, seed)


def _subset(parts: Sequence[Tensor], n_train: int | None, n_test: int | None, seed: int) -> Data:
    """Random images of each part, bytes of (n, *features), as Data."""
    generator, found = torch.Generator().manual_seed(require.seed(seed)), []
    for name, x, y, n in (("n_train", *parts[:2], n_train), ("n_test", *parts[2:], n_test)):
        n = len(x) if n is None else require.whole(name, n, most=len(x))
        chosen = torch.randperm(len(x), generator=generator, device="cpu")[:n]
        found += [x[chosen].float(), y[chosen].long()]
    return _standardised(*found)


def _standardised(x_train: Tensor, y_train: Tensor, x_test: Tensor, y_test: Tensor) -> Data:
    mean = x_train.mean(dtype=torch.float64)  # in float64, so that the number of threads does not show
    std = (x_train.square().mean(dtype=torch.float64) - mean**2).sqrt()
    return Data(x_train.sub_(mean).div_(std), y_train, x_test.sub_(mean).div_(std), y_test)


def floats(x: Tensor, error: Exception, name: str = "x") -> Exception:
    """The error of a model that was called on x, or one that says what may be the reason: integers, or unlike test data."""
    if x.is_floating_point() and name == "x":
        return error
    why = "; use x.float(), or begin with a layer for integers"
    if x.is_floating_point():
        why = f", rows {tuple(x.shape[1:])}, but takes x_train"
    return ValueError(f"this model does not take {name} of {x.dtype}{why}: {error}")


def batches(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch in random order: the indices of each batch, (batch_size,) int64 on the CPU; no incomplete batch."""
    batch_size = require.whole("batch_size", batch_size, most=n)
    order = torch.randperm(n, generator=generator, device="cpu")
    return iter(order[: n // batch_size * batch_size].split(batch_size))


def wrong_labels(y: Tensor, share: float, seed: int) -> Tensor:
    """y (n,), from 0 to 9, with round(share n) labels, chosen by `seed`, replaced by one of the other nine; uniformly."""
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise require.error("y", "integers in a row", f"{y.dtype}, {tuple(y.shape)}", "use .long()")
    if y.numel() and (odd := [label for label in (int(y.min()), int(y.max())) if not 0 <= label <= 9]):
        raise require.error("y", "labels from 0 to 9", odd)
    n, generator = len(y), torch.Generator().manual_seed(require.seed(seed))
    wrong = round(require.number("share", share, least=0, most=1) * n)
    which = torch.randperm(n, generator=generator, device="cpu")[:wrong]
    shift, found = torch.randint(1, 10, (len(which),), generator=generator, device="cpu"), y.clone()
    which = which.to(y.device)
    found[which] = ((y[which] + shift.to(y.device)) % 10).to(y.dtype)
    return found


def best_device(name: str | torch.device | None = None) -> torch.device:
    """The device called `name`, such as "cuda:1", or the best there is: cuda, then cpu. "mps" by name only: no float64."""
    n = {"cuda": torch.cuda.device_count(), "cpu": 1, "mps": int(torch.backends.mps.is_available())}
    kind, _, index = str(next(k for k in n if n[k]) if name is None else name).partition(":")
    if kind not in n or not (index or "0").isdecimal() or int(index or 0) >= n[kind]:
        raise ValueError(f"device must be one of {', '.join(k for k in n if n[k])} on this machine, got {name!r}")
    return torch.device(kind if name is None else name)
