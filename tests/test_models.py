import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sam_lite import models
from sam_lite.data import load
from sam_lite.models import GhostBatchNorm1d, GhostBatchNorm2d, build, convnet, keskar, mlp
from sam_lite.params import count, params_of
from sam_lite.train import train


def layer_names(model):
    return [type(layer).__name__ for layer in model]


# --- sizes and shapes


def dense(*sizes):
    return sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False))


def norms(*widths):
    return 2 * sum(widths)


PARAMETERS = {  # by hand, from the layers in the papers
    "F1": dense(784, 512, 512, 512, 512, 512, 10) + norms(*[512] * 5),  # 1,462,794
    "F2": dense(360, *[512] * 7, 1973) + norms(*[512] * 7),
    "C1": 4_864 + 102_464  # 3*25*64+64, 64*25*64+64
    + 1_573_248 + 73_920 + 1_930  # 64*8*8*384+384, 384*192+192, 192*10+10
    + norms(64, 64, 384, 192),
    "C2": 1_792 + 36_928  # 3*9*64+64, 64*9*64+64
    + 73_856 + 147_584  # 64*9*128+128, 128*9*128+128
    + 295_168 + 2 * 590_080  # 128*9*256+256, 256*9*256+256
    + 1_180_160 + 5 * 2_359_808  # 256*9*512+512, 512*9*512+512
    + 262_656 + 5_130  # 512*512+512, 512*10+10
    + norms(64, 64, 128, 128, 256, 256, 256, *[512] * 6, 512),
}  # fmt: skip
PARAMETERS["C3"] = PARAMETERS["C1"] + 90 * 193
PARAMETERS["C4"] = PARAMETERS["C2"] + 90 * 513


@pytest.mark.parametrize("name", PARAMETERS)
def test_keskars_networks_have_the_papers_number_of_weights(name):
    with torch.device("meta"):
        model = keskar(name)
    assert count(params_of(model)) == PARAMETERS[name]


@pytest.mark.parametrize("norm", models.NORMS)
@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_and_gradients(name, norm):
    model = getattr(models, name.lower())(width=4, norm=norm, ghost_size=2)
    x = torch.randn(4, *{"F1": (784,), "F2": (360,)}.get(name, (3, 32, 32)))
    n_out = {"F1": 10, "F2": 1973, "C1": 10, "C2": 10, "C3": 100, "C4": 100}[name]
    outputs = model(x)
    assert outputs.shape == (4, n_out)
    outputs.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(x[:1]).shape == (1, n_out)


def test_layers_of_the_two_convolutional_networks():
    shallow = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"] * 2 + ["Flatten"]
    shallow += ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert layer_names(keskar("C1", width=2)) == shallow
    deep = keskar("C2", width=2)
    conv = ["Conv2d", "BatchNorm2d", "ReLU"]
    stacks = [(conv + ["Dropout"]) * (n - 1) + conv + ["MaxPool2d"] for n in (2, 2, 3, 3, 3)]
    head = ["Flatten", "Dropout", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert layer_names(deep) == sum(stacks, []) + head
    assert [d.p for d in deep if isinstance(d, nn.Dropout)] == [0.3] + [0.4] * 7 + [0.5] * 2


def test_the_convnet_has_26698_weights_and_halves_the_image_twice():
    conv = 8 * 9 + 8, 16 * 8 * 9 + 16  # 3 x 3 filters
    assert count(params_of(convnet())) == sum(conv) + dense(16 * 7 * 7, 32, 10) == 26_698
    assert count(params_of(convnet(norm="batch"))) == 26_698 + norms(8, 16)
    layers = [
        "Unflatten",
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Flatten",
        "Linear",
        "ReLU",
    ]
    assert layer_names(convnet(norm="batch")) == [*layers, "Linear"]
    x = torch.randn(4, 784)
    assert convnet(width=2, n_out=3)[:3](x).shape == (4, 2, 14, 14) and convnet(width=2, n_out=3)(x).shape == (4, 3)
    rows = convnet(1, norm="ghost", ghost_size=2)(x)
    assert rows.shape == (4, 10)
    for wrong in ({"width": 0}, {"n_out": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be an integer >= 1, got 0"):
            convnet(**wrong)


def test_mlp_layers_are_numbered():
    assert layer_names(mlp(3, [4, 5], 2, "tanh")) == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert list(params_of(mlp(3, [4], 2))) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert layer_names(mlp(3, [4], 2, norm="batch")) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert layer_names(mlp(3, [], 2)) == ["Linear"]


def test_mlp_computes_what_it_says():
    model = mlp(3, [4], 2, "tanh").double()
    x = torch.randn(5, 3, dtype=torch.float64)
    first, _, last = model
    expected = torch.tanh(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("width", "groups"), [(512, 32), (64, 4), (16, 1), (20, 1)])
def test_groups_hold_16_channels_or_all(width, groups):
    assert mlp(3, [width], 2, norm="group")[1].num_groups == groups


@pytest.mark.parametrize("activation", models.ACTIVATIONS)
def test_every_activation_runs(activation):
    assert mlp(3, [4], 2, activation)(torch.randn(5, 3)).shape == (5, 2)


# --- build


def test_build_repeats_and_leaves_the_global_generator_alone():
    def make():
        return mlp(3, [4], 2)

    before = torch.get_rng_state()
    a, b, other = (params_of(build(make, seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["0.weight"], other["0.weight"])
    torch.manual_seed(1)
    assert torch.equal(make()[0].weight, a["0.weight"])


def test_one_thread_at_a_time_draws_from_a_seed(monkeypatch):
    make = partial(mlp, 3, [4], 2)
    expected = [params_of(build(make, seed))["0.weight"] for seed in range(4)]

    def slow():  # while the others would seed
        time.sleep(0.02)
        return make()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: build(slow, seed)[0].weight, range(4)))
        assert all(map(torch.equal, found, expected))
        monkeypatch.setattr(models, "PATIENCE", 0.01)
        with models.seeded(0), pytest.raises(RuntimeError, match="one thread at a time .*; use processes"):
            pool.submit(build, make, 1).result()
        assert torch.equal(pool.submit(build, make, 1).result()[0].weight, expected[1])


def test_trainings_in_two_threads_do_not_share_their_masks(monkeypatch):
    monkeypatch.setattr(models, "PATIENCE", 0.01)
    data, inside = load("mnist1d", n_train=40, n_test=10), []

    def record(step, model):
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="one thread at a time"):
            pool.submit(trained).result()
        inside.append(step)
        return {}

    def trained(record=None):
        model = build(lambda: nn.Sequential(nn.Linear(40, 20), nn.Dropout(), nn.Linear(20, 10)), 0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return train(model, data, optimizer, batch_size=10, steps=4, record_every=2, record=record).records

    assert trained(record).equals(trained()) and inside == [2, 4]


def test_build_puts_the_generator_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        build(lambda: torch.randn(3) / (1 // 0), 0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("made", [None, mlp])
def test_build_refuses_what_is_no_model(made):
    with pytest.raises(ValueError, match="make must be a function that builds a model, got .*; has it a `return`"):
        build(lambda: made, 0)


def test_build_refuses_another_device():
    with pytest.raises(ValueError, match=r"make must build on the CPU.*then use \.to\(device\)"):
        build(lambda: mlp(3, [4], 2).to("meta"), 0)


# --- Ghost batch norm (Hoffer et al. 2017)


@pytest.mark.parametrize(
    ("ghost", "full", "shape"),
    [(GhostBatchNorm1d, nn.BatchNorm1d, (12, 5)), (GhostBatchNorm2d, nn.BatchNorm2d, (12, 5, 3, 2))],
)
def test_one_ghost_of_the_whole_batch_is_batch_norm_exactly(ghost, full, shape):
    ours, theirs = ghost(5, ghost_size=12), full(5)
    for seed in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        assert torch.equal(ours(a), theirs(b))
        (ours(a) ** 3).sum().backward()
        (theirs(b) ** 3).sum().backward()
        assert torch.equal(a.grad, b.grad)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert torch.equal(ours.eval()(x[:5]), theirs.eval()(x[:5]))


def test_each_ghost_has_mean_0_and_variance_1():
    x = 3 * torch.randn(12, 5, dtype=torch.float64) + torch.arange(12, dtype=torch.float64)[:, None]
    outputs = GhostBatchNorm1d(5, ghost_size=4, affine=False).double()(x).view(3, 4, 5)
    torch.testing.assert_close(outputs.mean(1), torch.zeros(3, 5, dtype=torch.float64), atol=1e-12, rtol=0)
    variance = x.view(3, 4, 5).var(1, correction=0)
    torch.testing.assert_close(outputs.var(1, correction=0), variance / (variance + 1e-5), atol=1e-12, rtol=0)


def test_running_statistics_after_two_ghosts_in_closed_form():
    layer = GhostBatchNorm1d(5, ghost_size=4, momentum=0.3).double()
    old_mean, old_var = torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    layer.running_mean.copy_(old_mean)
    layer.running_var.copy_(old_var)
    x = torch.randn(8, 5, dtype=torch.float64)
    layer(x)
    first, second = x.view(2, 4, 5)
    m = 0.3
    mean = (1 - m) ** 2 * old_mean + (1 - m) * m * first.mean(0) + m * second.mean(0)
    var = (1 - m) ** 2 * old_var + (1 - m) * m * first.var(0) + m * second.var(0)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(layer.running_var, var, rtol=1e-12, atol=1e-14)
    assert layer.num_batches_tracked == 2
    layer.eval()(x[:3])
    assert layer.num_batches_tracked == 2


def test_evaluation_takes_any_batch_and_one_point_at_a_time():
    layer = GhostBatchNorm1d(5, ghost_size=4)
    layer(torch.randn(8, 5))
    layer.eval()
    x = torch.randn(7, 5)
    torch.testing.assert_close(layer(x), torch.cat([layer(row[None]) for row in x]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [3, 10])
def test_a_batch_that_is_no_multiple_of_the_ghost(n):
    with pytest.raises(ValueError, match=f"batch must be a multiple of ghost_size=4, got {n}"):
        GhostBatchNorm1d(5, ghost_size=4)(torch.randn(n, 5))


def test_ghosts_check_their_dimensions():
    with pytest.raises(ValueError, match="expected 4D input"):
        GhostBatchNorm2d(5, ghost_size=4)(torch.randn(4, 5))
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        GhostBatchNorm1d(5, ghost_size=4)(torch.randn(4, 5, 2, 2))


# --- bad input


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="activation must be one of relu, tanh, gelu, softplus, sigmoid, got 'rleu'"):
        mlp(3, [4], 2, "rleu")
    with pytest.raises(ValueError, match="norm must be one of None, 'batch', 'group', 'ghost', got 'layer'"):
        mlp(3, [4], 2, norm="layer")
    with pytest.raises(ValueError, match="norm must be one of None, 'batch', 'group', 'ghost', got 'layer'"):
        models.c2(norm="layer", width=2)
    with pytest.raises(ValueError, match="name must be one of F1, F2, C1, C2, C3, C4, got 'F3'"):
        keskar("F3")


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ((0, [4], 2), "n_in must be an integer >= 1, got 0"),
        ((3, [4, -1], 2), r"widths\[1\] must be an integer >= 1, got -1"),
        ((3, [4.0], 2), r"widths\[0\] must be an integer >= 1, got 4.0"),
        ((3, [True], 2), r"widths\[0\] must be an integer >= 1, got True"),
        ((3, [4], None), "n_out must be an integer >= 1, got None"),
        ((3, 4, 2), r"widths must be integers >= 1 in a row, such as \[50, 50\], got 4"),
        ((3, "4", 2), r"widths\[0\] must be an integer >= 1, got '4'"),
    ],
)
def test_sizes_must_be_positive_integers(sizes, match):
    with pytest.raises(ValueError, match=match):
        mlp(*sizes)


def test_sizes_may_come_from_numpy_torch_and_a_table():
    study = pd.DataFrame({"width": [4, 5], "depth": [1, 2], "seed": [0, 1]})  # an entry of it is NumPy's
    expected = layer_sizes(mlp(3, [5, 5], 2))
    n = study["width"][1]
    assert layer_sizes(mlp(np.int64(3), [n] * study["depth"][1], np.uint8(2))) == expected
    assert layer_sizes(mlp(3, np.array([5, 5]), 2)) == layer_sizes(mlp(3, torch.tensor([5, 5]), 2)) == expected
    assert layer_sizes(keskar("F1", width=n)) == layer_sizes(keskar("F1", width=5))
    assert GhostBatchNorm1d(5, np.int64(4)).ghost_size == 4
    a, b = (params_of(build(lambda: mlp(3, [4], 2), seed)) for seed in (study["seed"][1], 1))
    assert torch.equal(a["0.weight"], b["0.weight"])


def layer_sizes(model):
    return [tuple(p.shape) for p in model.parameters()]


@pytest.mark.parametrize("seed", [-1, 0.5, "1", None, 2**63])
def test_seeds_are_integers_that_torch_takes(seed):
    with pytest.raises(ValueError, match="seed must be an integer from 0 to 9223372036854775807, got"):
        build(lambda: mlp(3, [4], 2), seed)


@pytest.mark.parametrize("width", [0, -2, 2.5])
def test_width_must_be_a_positive_integer(width):
    with pytest.raises(ValueError, match="width must be an integer >= 1"):
        keskar("C1", width=width)


@pytest.mark.parametrize("size", [0, 1, 2.0])
def test_a_ghost_holds_two_or_more(size):
    with pytest.raises(ValueError, match="ghost_size must be an integer >= 2, got"):
        GhostBatchNorm1d(5, ghost_size=size)
