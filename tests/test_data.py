import gzip
import os
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from sam_lite import data, images
from sam_lite.data import Data, batches, best_device, digits, fashion_mnist, load, mnist, mnist1d, wrong_labels

# --- MNIST-1D


@pytest.fixture(scope="module")
def ours():
    return mnist1d(20_000, 20_000, seed=3)


def test_mnist1d_shapes_and_standardisation(ours):
    assert [tuple(t.shape) for t in ours] == [(20_000, 40), (20_000,)] * 2
    assert ours.x_train.dtype == ours.x_test.dtype == torch.float32 and ours.y_train.dtype == torch.int64
    assert abs(float(ours.x_train.mean())) < 1e-5 and abs(float(ours.x_train.std()) - 1) < 1e-4
    assert ours.n_classes == 10


def test_mnist1d_classes_are_balanced_up_to_one():
    d = mnist1d(1003, 17)
    for y in (d.y_train, d.y_test):
        counts = torch.bincount(y, minlength=10)
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(d.y_train, torch.arange(1003) % 10)


def test_mnist1d_training_points_depend_on_the_seed_alone():
    a, b, other = mnist1d(50, 10), mnist1d(50, 400), mnist1d(50, 10, seed=1)
    assert torch.equal(a.x_train, b.x_train) and torch.equal(a.y_train, b.y_train)
    assert not torch.equal(a.x_train, other.x_train)


def test_mnist1d_train_and_test_share_no_point():
    d = mnist1d(1000, 1000)
    assert len(torch.cat([d.x_train, d.x_test]).unique(dim=0)) == 2000


def test_mnist1d_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    mnist1d(10, 10)
    assert torch.equal(before, torch.get_rng_state())


def test_mnist1d_is_the_same_with_one_and_two_threads():
    threads = torch.get_num_threads()
    try:
        found = []
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(mnist1d(5000, 100))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0].x_train, found[1].x_train)


def peer_mnist1d(n, seed):
    peer = pytest.importorskip("mnist1d.data", reason="pip install mnist1d to compare with it", exc_type=ImportError)
    args = peer.get_dataset_args()
    args.num_samples, args.train_split, args.seed = n, 1.0, seed
    made = peer.make_dataset(args)
    return made["x"], made["y"]


def worst_z(xs, ys):
    """Largest |z| over class means, class covariances and the covariance within classes, of two samples.

    In the directions of the first sample's principal axes, where small parts of the noise show as large ones do.
    """
    pairs = list(zip(xs, ys, strict=True))
    within = [np.concatenate([x[y == c] - x[y == c].mean(0) for c in range(10)]).astype(float) for x, y in pairs]
    _, axes = np.linalg.eigh(np.cov(within[0].T))
    classes = [[x[y == c] @ axes for x, y in pairs] for c in range(10)]
    means = [(a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b)) for a, b in classes]
    i, j = np.triu_indices(40)
    covariances = []
    for pair in [*classes, [w @ axes for w in within]]:
        products = [(s - s.mean(0))[:, i] * (s - s.mean(0))[:, j] for s in pair]
        error = np.sqrt(sum(p.var(0) / len(p) for p in products))
        covariances.append((products[0].mean(0) - products[1].mean(0)) / error)
    return np.abs(means).max(), np.abs(covariances[:10]).max(), np.abs(covariances[10]).max()


@pytest.mark.slow
def test_mnist1d_has_the_class_means_and_covariances_of_the_mnist1d_package(ours):
    x, y = peer_mnist1d(6000, seed=42)
    assert_same_distribution((ours.x_train.numpy(), x), (ours.y_train.numpy(), y))


def assert_same_distribution(xs, ys):
    # Each z is standard normal by the central limit theorem; by chance, a bound is passed in one of 1,000 data sets.
    for z, comparisons in zip(worst_z(xs, ys), (400, 8200, 820), strict=True):
        assert z < stats.norm.isf(1e-3 / 2 / comparisons)  # Bonferroni


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["narrower noise", "another digit"])
def test_that_comparison_sees_a_wrong_generator(ours, monkeypatch, wrong):
    smoothing, (templates, inside) = data._smoothing, data._dilated()
    if wrong == "narrower noise":
        monkeypatch.setattr(data, "_smoothing", lambda n: smoothing(n, 1.8))
    else:
        monkeypatch.setattr(data, "_dilated", lambda: (templates[:, [0, 1, 2, 2, 4, 5, 6, 7, 8, 9]], inside))
    made = mnist1d(6000, 10, seed=5)
    with pytest.raises(AssertionError, match="assert "):
        assert_same_distribution(
            (ours.x_train.numpy(), made.x_train.numpy()), (ours.y_train.numpy(), made.y_train.numpy())
        )


def test_without_noise_every_signal_is_a_moved_stretched_sheared_template(monkeypatch):
    """x = size * (template, dilated and moved) + shear * ramp: find the four numbers of each signal again."""
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, dtype: torch.zeros(shape))
    digit, n, grid = 3, 4000, np.linspace(0, 1, 72)
    x = data._signals(torch.full((n,), digit), torch.Generator().manual_seed(0)).double().numpy()
    shape = np.array([5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5])
    shape = (shape - 5) / shape.std() / 6
    dilated = [np.interp(grid * (11 + p), np.arange(12 + p), np.pad(shape, (0, p))) for p in range(36, 61)]
    moved = np.stack([np.roll(d, shift) for d in dilated for shift in range(48)])
    known = np.stack([np.interp(np.linspace(0, 1, 40), grid, m) for m in moved])  # (25 * 48, 40)
    ramp = np.linspace(-1, 1, 40) / np.linalg.norm(np.linspace(-1, 1, 40))
    away = known - np.outer(known @ ramp, ramp)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    which = (x @ away.T).argmax(axis=1)
    size = (x * away[which]).sum(1) / (known[which] * away[which]).sum(1)
    rest = x - size[:, None] * known[which]
    shear = rest[:, 0] - rest[:, -1]
    np.testing.assert_allclose(rest, np.outer(shear, np.linspace(0.5, -0.5, 40)), atol=1e-6)
    assert stats.chisquare(np.bincount(which // 48, minlength=25)).pvalue > 1e-3  # 36 .. 60 zeros
    assert stats.chisquare(np.bincount(which % 48, minlength=48)).pvalue > 1e-3  # moved by 0 .. 47
    assert stats.kstest(size, stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3
    assert stats.kstest(shear, stats.uniform(-0.375, 0.75).cdf).pvalue > 1e-3


def test_templates_are_those_of_the_mnist1d_package():
    peer = pytest.importorskip("mnist1d.data", reason="pip install mnist1d to compare with it", exc_type=ImportError)
    templates, inside = data._dilated()
    for i in range(25):
        padded = np.pad(peer.get_templates()["x"], [(0, 0), (0, 36 + i)])
        at = np.linspace(0, 47 + i, 72)
        expected = np.stack([np.interp(at, np.arange(48 + i), row) for row in padded])
        np.testing.assert_allclose(templates[i], expected, atol=1e-6)
        assert torch.equal(inside[i], torch.arange(72) * (47 + i) < 12 * 71)


def test_smoothing_is_scipys_gaussian_filter():
    noise = np.random.default_rng(0).normal(size=72)
    np.testing.assert_allclose(
        data._smoothing(72).double().numpy() @ noise, ndimage.gaussian_filter(noise, 2), atol=1e-6
    )


def test_interpolation_is_numpys():
    x = np.random.default_rng(0).normal(size=72)
    expected = np.interp(np.linspace(0, 1, 40), np.linspace(0, 1, 72), x)
    np.testing.assert_allclose(data._interpolation(72, 40).double().numpy() @ x, expected, atol=1e-6)


# --- the other sources


def test_digits():
    from sklearn.datasets import load_digits

    d = digits(1000, seed=1)
    assert [tuple(t.shape) for t in d] == [(1000, 64), (1000,), (797, 64), (797,)]
    assert abs(float(d.x_train.mean())) < 1e-6 and abs(float(d.x_train.std()) - 1) < 1e-3
    x, y = load_digits(return_X_y=True)  # together the two parts are all of scikit-learn's, one by one
    pixels = x - x.min()
    mine = torch.cat([d.x_train, d.x_test]).double()
    mine = ((mine - mine.min()) / (mine.max() - mine.min()) * 16).round().numpy()
    expected = (mine[1000:] - mine[:1000].mean()) / mine[
        :1000
    ].std()  # the test part by the numbers of the training part
    np.testing.assert_allclose(d.x_test.numpy(), expected, atol=1e-5)
    labels = torch.cat([d.y_train, d.y_test]).numpy()
    assert sorted(map(tuple, np.c_[mine, labels])) == sorted(map(tuple, np.c_[pixels, y]))
    assert len(digits(1000, 100).y_test) == 100
    assert not torch.equal(d.x_train, digits(1000, seed=2).x_train)


def write_idx(path, array, damage=None):
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    content = gzip.compress(content[:-5] if damage == "short" else content)
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)


@pytest.fixture
def folder(tmp_path):
    """A tiny dataset in the files of MNIST: image number i is all i."""
    for part, n in (("train", 30), ("t10k", 20)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.arange(n).repeat(784).reshape(n, 28, 28))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    return tmp_path


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
def test_idx_files_are_read(folder, name):
    d = load(name, folder=folder)
    assert [tuple(t.shape) for t in d] == [(30, 784), (30,), (20, 784), (20,)]
    values = (d.x_train[:, 0] * np.arange(30).std() + np.arange(30).mean()).round().long()
    assert torch.equal(values.sort().values, torch.arange(30)) and torch.equal(values % 10, d.y_train)
    assert (d.x_train == d.x_train[:, :1]).all()
    assert torch.equal(d.x_test.sort(dim=0).values, d.x_train.sort(dim=0).values[:20])  # scaled by the training set


def test_a_subset_depends_on_the_seed_alone(folder):
    a, b = fashion_mnist(7, 5, folder=folder, seed=4), fashion_mnist(7, 20, folder=folder, seed=4)
    assert torch.equal(a.x_train, b.x_train) and torch.equal(a.y_test, b.y_test[:5])
    assert not torch.equal(a.y_train, fashion_mnist(7, folder=folder, seed=5).y_train)


@pytest.mark.parametrize("damage", ["truncated", "short", "text", "empty", "header"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_damaged_file_is_named(folder, name, damage):
    path = folder / name
    array = np.zeros((30, 28, 28)) if "images" in name else np.zeros(20)
    if damage in ("truncated", "short"):
        write_idx(path, array, damage)
    else:
        path.write_bytes({"text": b"<html>404</html>", "empty": b"", "header": gzip.compress(b"\0\0")}[damage])
    with pytest.raises(ValueError, match=f"{name} is damaged, fetch it again"):
        fashion_mnist(folder=folder)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"begins with \[0, 0, 8, 3\], this is empty"),
        (b"\0\0\x0d\3" + bytes(12), r"begins with \[0, 0, 8, 3\], this begins with \[0, 0, 13, 3\]"),  # floats
        (struct.pack(">HBBI", 0, 8, 1, 30) + bytes(30), r"of 3 axes begins with .*, this begins with \[0, 0, 8, 1\]"),
        (b"a,b\n1,2\n", "of 3 axes begins with"),
        (struct.pack(">HBB3I", 0, 8, 3, 30, 28, 28), "30 x 28 x 28 bytes are announced, 0 there"),
        (struct.pack(">HBB3I", 0, 8, 3, 30, 28, 28) + bytes(30 * 784 + 1), "are announced, 23521 there"),
        (struct.pack(">HBB3I", 0, 8, 3, 30, 32, 32) + bytes(30 * 1024), r"it must hold images of 28 x 28 pixels"),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28), r"it must hold images of 28 x 28 pixels, not \(0, 784\)"),
    ],
)
def test_a_foreign_file_says_what_it_is_not(folder, content, match):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte.gz is damaged.*{match}"):
        fashion_mnist(folder=folder)


def test_labels_that_do_not_fit_the_images_are_named(folder):
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(30))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz is damaged: it must hold one label in 0..9"):
        fashion_mnist(folder=folder)
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(29))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz is damaged: .* each of 30 images"):
        fashion_mnist(folder=folder)


def test_missing_files_name_the_three_ways(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*apt install dataset-fashion-mnist.*folder=.*download=True"):
        fashion_mnist(folder=tmp_path / "nowhere")
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte.gz.*copy it.*folder=.*download=True"):
        load("mnist", folder=folder)


def test_the_default_places_are_debians_and_then_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(images, "DEBIAN", {"fashion_mnist": folder})
    assert len(fashion_mnist().y_train) == 30
    monkeypatch.setattr(images, "DEBIAN", {"fashion_mnist": tmp_path / "nowhere"})
    with pytest.raises(FileNotFoundError, match="FashionMNIST"):
        fashion_mnist()


class FakeTorchvision:
    """Stands in for torchvision.datasets: "downloads" by making the files."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def MNIST(self, root, download):  # noqa: N802
        self.asked.append(download)
        (root / "MNIST").mkdir(parents=True)
        os.symlink(self.folder, root / "MNIST" / "raw")

    def CIFAR10(self, root, train, download):  # noqa: N802
        self.asked.append(download)
        if not download:
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        n = 12 if train else 6
        pixels = np.zeros((n, 32, 32, 3), dtype=np.uint8)
        pixels[..., 2] = np.arange(n)[:, None, None]
        return SimpleNamespace(data=pixels, targets=list(range(n // 2)) * 2)


@pytest.fixture
def torchvision(folder, tmp_path, monkeypatch):
    fake = FakeTorchvision(folder)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=fake))
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    return fake


def test_mnist_is_downloaded_only_when_asked(torchvision):
    with pytest.raises(FileNotFoundError, match="download=True"):
        load("mnist")
    assert torchvision.asked == []
    assert len(load("mnist", download=True).y_train) == 30 and torchvision.asked == [True]
    assert len(load("mnist").y_train) == 30 and torchvision.asked == [True]


def test_cifar10_comes_from_torchvision(torchvision):
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not at .*folder=.*download=True"):
        load("cifar10")
    d = load("cifar10", n_test=4, download=True)
    assert d.x_train.shape == (12, 3, 32, 32) and d.x_test.shape == (4, 3, 32, 32)
    blue, black = d.x_train[:, 2, 5, 7], d.x_train[0, 0, 0, 0]
    index = ((blue - black) / (blue.max() - black) * 11).round().long()
    assert torch.equal(index.sort().values, torch.arange(12)) and torch.equal(index % 6, d.y_train)
    assert (d.x_train[:, :2] == black).all()


def test_cifar10_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="cifar10 needs torchvision, made for this torch: pip install torchvision"):
        load("cifar10")


def test_fashion_mnist_of_debian():
    if not images.DEBIAN["fashion_mnist"].is_dir():
        message = "not installed: apt install dataset-fashion-mnist"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    d = fashion_mnist(2000)
    assert [tuple(t.shape) for t in d] == [(2000, 784), (2000,), (10_000, 784), (10_000,)]
    assert torch.equal(torch.bincount(d.y_test), torch.full((10,), 1000)) and d.n_classes == 10
    assert abs(float(d.x_train.mean())) < 1e-5 and abs(float(d.x_train.std()) - 1) < 1e-3
    # Xiao et al. 2017, class 9: ankle boots. Their means are not the images' of another class: nearest mean works.
    means = torch.stack([d.x_train[d.y_train == label].mean(0) for label in range(10)])
    assert (torch.cdist(d.x_test, means).argmin(1) == d.y_test).float().mean() > 0.6


# --- bad input


def test_an_unknown_dataset_lists_the_known():
    with pytest.raises(
        ValueError, match="name must be one of mnist1d, digits, fashion_mnist, mnist, cifar10, got 'mnst'"
    ):
        load("mnst")


@pytest.mark.parametrize("n", [0, -3, 2.5, "10", True, None])
def test_sizes_must_be_positive_integers(n):
    with pytest.raises(ValueError, match=r"n_train must be an integer >= 1, got"):
        mnist1d(n)
    with pytest.raises(ValueError, match=r"n_train must be an integer from 1 to 1796, got"):
        digits(n)


def test_sizes_and_seeds_may_come_from_numpy_and_torch():
    a, b = mnist1d(50, 20, seed=3), mnist1d(np.int64(50), torch.tensor(20), seed=np.int32(3))
    assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    a, b = digits(1000, 10, seed=1), load("digits", np.int64(1000), np.uint8(10), seed=np.int64(1))
    assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    assert next(batches(11, np.int64(3), torch.Generator().manual_seed(5))).shape == (3,)
    with pytest.raises(ValueError, match="seed must be an integer from 0 to .*, got 0.5"):
        mnist1d(50, 20, seed=0.5)


def test_sizes_beyond_the_data(folder):
    with pytest.raises(ValueError, match="n_train must be an integer from 1 to 30, got 31"):
        fashion_mnist(31, folder=folder)
    with pytest.raises(ValueError, match="n_test must be an integer from 1 to 20, got 21"):
        fashion_mnist(3, 21, folder=folder)
    with pytest.raises(ValueError, match="n_train must be an integer from 1 to 1796, got 1797"):
        digits(1797)
    with pytest.raises(ValueError, match="n_test must be an integer from 1 to 797, got 798"):
        load("digits", 1000, 798)


def test_load_is_each_function(folder):
    for a, b in [(load("mnist1d", 20, 30, seed=2), mnist1d(20, 30, seed=2)), (load("digits"), digits())]:
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def test_data_moves_to_devices_and_keeps_its_types():
    few = mnist1d(20, 20)
    assert all(t.is_meta for t in few.to("meta")) and few.to(torch.device("cpu")).y_train.dtype == torch.int64
    with pytest.raises(TypeError, match="device"):  # labels would become floats
        few.to(torch.float64)


def test_check_finds_labels_out_of_range():
    good = mnist1d(20, 20)
    assert good.check() is good and good.check(10) is good
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.8, got 9 in y_train"):
        good.check(9)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.inf, got -1 in y_test"):
        good._replace(y_test=good.y_test - 1).check()
    with pytest.raises(
        ValueError, match=r"y_train must hold an int64 label for each row of x, got torch.float32, \(20,\)"
    ):
        good._replace(y_train=good.y_train.float()).check()
    with pytest.raises(
        ValueError, match=r"y_test must hold an int64 label for each row of x, got torch.int64, \(19,\)"
    ):
        good._replace(y_test=good.y_test[:19]).check()
    with pytest.raises(ValueError, match="y_test must hold"):
        good._replace(x_test=good.x_test[:0], y_test=good.y_test[:0]).check()


def test_to_moves_all_four():
    moved = mnist1d(10, 10).to("meta")
    assert isinstance(moved, Data) and all(t.device.type == "meta" for t in moved)


# --- batches and devices


def test_batches_are_an_epoch_in_the_order_of_randperm():
    found = list(batches(11, 3, torch.Generator().manual_seed(5)))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.stack(found), order[:9].view(3, 3)) and found[0].dtype == torch.int64


def test_batches_go_on_with_the_generator():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.stack(list(batches(100, 10, generator))) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first.flatten().sort().values, torch.arange(100))
    assert len(list(batches(100, 100, generator))) == 1


@pytest.mark.parametrize("size", [0, 12, 2.0])
def test_a_batch_must_fit_the_data_already_when_asked(size):
    with pytest.raises(ValueError, match="batch_size must be an integer from 1 to 11, got"):
        batches(11, size, torch.Generator())


def test_best_device(monkeypatch):
    assert best_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert best_device() == torch.device("cuda") and best_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="got 'cuda:2'"):
        best_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert best_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="device must be one of cpu on this machine, got 'cuda'"):
        best_device("cuda")
    with pytest.raises(ValueError, match="device must be one of cpu on this machine, got 'tpu'"):
        best_device("tpu")
    with pytest.raises(ValueError, match="device must be one of cpu on this machine, got 'cpu:first'"):
        best_device("cpu:first")
    assert best_device(torch.device("cpu")) == torch.device("cpu")


def test_0_is_no_name_of_a_device():
    for name in (0, "", False):
        with pytest.raises(ValueError, match=f"device must be one of .*cpu.* on this machine, got {name!r}"):
            best_device(name)


@pytest.fixture
def other_defaults():
    """As somebody else may have set them for all of torch."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def test_neither_the_default_device_nor_type_changes_what_is_drawn(request, folder):
    def drawn():
        parts = [*mnist1d(40, 20, seed=1), *digits(30, 20, seed=1), *mnist(5, 2, folder=folder, seed=1)]
        parts += list(batches(20, 5, torch.Generator().manual_seed(1)))
        return [*parts, wrong_labels(parts[1], 0.5, seed=1)]

    expected = drawn()
    request.getfixturevalue("other_defaults")
    found = drawn()
    assert all(a.device.type == "cpu" and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))
    torch.set_default_device(None)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_wrong_labels_keep_their_type_and_are_those_of_ten_classes(dtype):
    y = (torch.arange(60) % 10).to(dtype)
    found = wrong_labels(y, 0.5, seed=0)
    assert found.dtype == dtype and (found != y).sum() == 30
    assert torch.equal(found.long(), wrong_labels(y.long(), 0.5, seed=0))
    assert len(wrong_labels(y[:0], 0.5, seed=0)) == 0
    with pytest.raises(ValueError, match=r"y must be labels from 0 to 9, got \[10\]"):
        wrong_labels(y + 1, 0.5, seed=0)


def test_arrays_are_no_tensors():
    """Their int64 is another one, so that the error asked for what it was given."""
    data = Data(*(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)) * 2)
    for i, name in enumerate(("x_train", "y_train", "x_test", "y_test")):
        odd = Data(*(part.numpy() if j == i else part for j, part in enumerate(data.check())))
        with pytest.raises(ValueError, match=f"{name} must be a tensor, got .*ndarray.*; use torch.from_numpy"):
            odd.check()


@pytest.mark.parametrize("y", [torch.ones(6, dtype=torch.bool), torch.ones(6), torch.ones(6, 1, dtype=torch.int64)])
def test_what_holds_no_ten_classes_has_no_wrong_labels(y):
    """Of True, eight of nine other classes are True again."""
    with pytest.raises(ValueError, match="y must be integers in a row, got .*; use .long()"):
        wrong_labels(y, 0.5, seed=0)
