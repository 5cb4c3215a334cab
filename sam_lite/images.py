"""Image files, read as bytes: the images and labels of the training set, then those of the test set."""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

CACHE = Path("~/.cache/sam_lite")  # where downloads go
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}  # the package dataset-fashion-mnist


def idx(name: str, folder: str | Path | None, download: bool) -> list[Tensor]:
    """Four gzipped IDX files of "mnist" or "fashion_mnist": (n, 784) and (n,), twice, uint8.

    In `folder`, or else in Debian's, or else where torchvision's download puts them.
    """
    kind = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}[name]
    cache, here = CACHE.expanduser() / kind / "raw", Path(folder or DEBIAN.get(name) or "").expanduser()
    folder = here if folder or (name in DEBIAN and here.is_dir()) else cache
    if download and folder == cache:
        getattr(_torchvision(name), kind)(CACHE.expanduser(), download=True)
    parts = []
    for part in ("train", "t10k"):
        paths = [folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz"]
        if lost := [path for path in paths if not path.is_file()]:
            raise FileNotFoundError(_missing(name, lost[0]))
        x, y = _bytes(paths[0], axes=3), _bytes(paths[1], axes=1)
        if x.shape[1:] != (784,) or len(x) == 0:
            raise ValueError(f"{paths[0]} is damaged: it must hold images of 28 x 28 pixels, not {tuple(x.shape)}")
        if len(x) != len(y) or y.max() > 9:
            raise ValueError(f"{paths[1]} is damaged: it must hold one label in 0..9 for each of {len(x)} images")
        parts += [x, y]
    return parts


def _bytes(path: Path, axes: int) -> Tensor:
    """A gzipped IDX file: 0, 0, 8, number of axes, their lengths as big-endian int32, bytes. Images become rows."""
    try:
        content = bytearray(gzip.decompress(path.read_bytes()))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged, fetch it again: {error}") from error
    start, magic = 4 + 4 * axes, [0, 0, 8, axes]
    if list(content[:4]) != magic:
        found = f"begins with {list(content[:4])}" if content else "is empty"
        raise ValueError(
            f"{path} is damaged, fetch it again: an IDX file of {axes} axes begins with {magic}, this {found}"
        )
    n, *rest = (int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    if len(content) != start + n * math.prod(rest):
        told = " x ".join(map(str, (n, *rest)))
        raise ValueError(f"{path} is damaged, fetch it again: {told} bytes are announced, {len(content) - start} there")
    return torch.frombuffer(content, dtype=torch.uint8)[start:].view(n, *[math.prod(rest)] * (axes > 1))


def cifar10(folder: str | Path | None, download: bool) -> list[Tensor]:
    """(n, 3, 32, 32) and (n,), twice, from the folder that holds torchvision's `cifar-10-batches-py`."""
    root = Path(folder or CACHE).expanduser()
    parts = []
    for train in (True, False):
        try:
            read = _torchvision("cifar10").CIFAR10(root, train=train, download=download)
        except RuntimeError as error:  # torchvision's "not found or corrupted"
            raise FileNotFoundError(_missing("cifar10", root)) from error
        parts += [torch.from_numpy(read.data).permute(0, 3, 1, 2), torch.tensor(read.targets)]
    return parts


def _torchvision(name: str):
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: made for another version of torch
        raise ImportError(f"{name} needs torchvision, made for this torch: pip install torchvision") from error
    return datasets


def _missing(name: str, where: Path) -> str:
    package = ": apt install dataset-fashion-mnist" if name in DEBIAN else " from another machine"
    return (
        f"{name} is not at {where}, or not whole. Three ways to get it: copy it there{package}; "
        "name the folder that holds it with folder=; let torchvision fetch it with download=True"
    )
