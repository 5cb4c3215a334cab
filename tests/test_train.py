import argparse
import collections
import copy
import functools
import io
import math
import os
import re
import types
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import CubicSpline
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sam_lite import checkpoint as checkpoint_module
from sam_lite import stacked
from sam_lite.batchnorm import loss_between
from sam_lite.data import batches, mnist1d
from sam_lite.describe import words
from sam_lite.ensemble import train_ensemble
from sam_lite.models import build, mlp
from sam_lite.params import loss_of, params_of, stack
from sam_lite.sam import SAM, p_ascent
from sam_lite.train import COLUMNS, evaluate, train


@pytest.fixture(scope="module")
def data():
    return mnist1d(96, 50)


def net(seed=0, norm=None, widths=(16, 16)):
    return build(lambda: mlp(40, widths, 10, norm=norm), seed)


def noisy_net():
    """With batch statistics and dropout: all the state a training can have."""

    def make():
        return nn.Sequential(nn.Linear(40, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))

    return build(make, 0)


def sgd(model, lr=0.1, **settings):
    return torch.optim.SGD(model.parameters(), lr=lr, **settings)


def assert_same(a, b):
    a, b = (m.state_dict() for m in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "sam": lambda p: SAM(torch.optim.SGD(p, lr=0.05, momentum=0.9), rho=0.1),
}

# --- the loop


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_it_is_the_loop_one_would_write_by_hand(data, name):
    ours, theirs = net(), net()
    records = train(ours, data, OPTIMIZERS[name](ours.parameters()), batch_size=20, steps=10, seed=3).records
    optimizer, generator = OPTIMIZERS[name](theirs.parameters()), torch.Generator().manual_seed(3)
    order = [index for _ in range(3) for index in torch.randperm(96, generator=generator)[:80].split(20)]
    for index in order[:10]:
        optimizer.zero_grad()
        F.cross_entropy(theirs(data.x_train[index]), data.y_train[index]).backward()
        optimizer.step()
    assert_same(ours, theirs)
    assert records["gradients"].iloc[-1] == 10


def test_the_batches_of_a_seed_are_those_of_data_batches(data):
    seen, model = [], net()
    hook = model.register_forward_pre_hook(lambda m, args: seen.append(args[0]) if m.training else None)
    train(model, data, sgd(model), batch_size=32, steps=4, seed=7)
    hook.remove()
    generator = torch.Generator().manual_seed(7)
    expected = [*batches(96, 32, generator), *batches(96, 32, generator)][:4]
    assert all(torch.equal(x, data.x_train[index]) for x, index in zip(seen, expected, strict=True))


def test_full_batch_training_is_gradient_descent(data):
    model = net().double()
    wide = data._replace(x_train=data.x_train.double(), x_test=data.x_test.double())
    train(model, wide, sgd(model), batch_size=96, steps=3)
    other = net().double()
    for _ in range(3):
        loss = F.cross_entropy(other(wide.x_train), wide.y_train)
        for p, g in zip(other.parameters(), torch.autograd.grad(loss, list(other.parameters())), strict=True):
            p.data -= 0.1 * g
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_lbfgs_evaluates_many_gradients_a_step(data):
    model = net()
    before = evaluate(model, data.x_train, data.y_train)[0]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe")
    records = train(model, data, optimizer, batch_size=96, steps=4).records
    state = optimizer.state[next(iter(model.parameters()))]
    assert records["gradients"].iloc[-1] == state["func_evals"] > 4
    assert records["train_loss"].iloc[-1] < before / 2


def test_sam_evaluates_two_gradients_a_step_and_moves_batch_statistics_once(data):
    model = net(norm="batch")
    records = train(model, data, SAM(sgd(model), rho=0.05), batch_size=32, steps=5, record_every=2).records
    assert records["gradients"].tolist() == [4, 8, 10]
    assert model[1].num_batches_tracked == 5


@pytest.mark.parametrize(("settings", "perturbed"), [({}, 6), ({"every": 3}, 2), ({"start": 4}, 2), ({"start": 99}, 0)])
def test_records_tell_how_many_steps_were_really_perturbed(data, settings, perturbed):
    model = net()
    optimizer = SAM(sgd(model), rho=0.05, **settings)
    last = train(model, data, optimizer, batch_size=32, steps=6).records.iloc[-1]
    assert last["gradients"] - last["step"] == optimizer.sam_steps == perturbed


def cosine(step):
    return (1 + math.cos(math.pi * step / 20)) / 2


@pytest.mark.parametrize("name", ["momentum", "sam"])
def test_a_schedule_multiplies_the_rates_as_torchs_scheduler_does_and_is_gone_afterwards(data, name):
    ours, theirs = net(), net()
    optimizer = OPTIMIZERS[name](ours.parameters())
    optimizer.add_param_group({"params": [], "lr": 0.3})
    train(ours, data, optimizer, batch_size=32, steps=5, schedule=cosine)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.3]
    optimizer = OPTIMIZERS[name](theirs.parameters())
    scheduler = LambdaLR(optimizer, cosine)
    for step in range(5):
        train(theirs, data, Once(optimizer, step), batch_size=32, steps=step + 1)
        scheduler.step()
    assert_same(ours, theirs)


def test_a_schedule_takes_layers_that_record_adds(data):
    """Gradual unfreezing, against a plain loop."""

    def halves(step):
        return 0.5**step

    model, other = (build(lambda: mlp(40, [8], 10), 0) for _ in range(2))
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)

    def record(step, model):
        if step == 2:
            optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.3})
        return {}

    train(model, data, optimizer, batch_size=24, steps=4, record_every=1, record=record, schedule=halves)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3]
    dice = torch.Generator().manual_seed(0)
    for step, index in enumerate(batches(96, 24, dice)):
        other.zero_grad()
        F.cross_entropy(other(data.x_train[index]), data.y_train[index]).backward()
        with torch.no_grad():
            for layer, lr in ((other[2], 0.1), (other[0], 0.3 if step >= 2 else 0.0)):
                for p in layer.parameters():
                    p -= lr * halves(step) * p.grad
    torch.testing.assert_close(params_of(model), params_of(other))


class Once(torch.optim.Optimizer):
    """An optimizer that makes only the step of one number, and lets the others pass."""

    def __init__(self, base, step):
        self.base, self.left = base, step
        self.__setstate__({"defaults": base.defaults})

    param_groups = property(lambda self: self.base.param_groups)
    state = property(lambda self: self.base.state)

    def step(self, closure):
        self.left -= 1
        return self.base.step(closure) if self.left < 0 else None


def test_a_warm_up_may_start_from_lr_0(data):
    model = net()
    start = copy.deepcopy(model)
    train(model, data, sgd(model), batch_size=32, steps=1, schedule=lambda step: min(1, step / 2))
    assert_same(model, start)


def test_a_schedule_gives_a_factor(data):
    model = net()
    with pytest.raises(ValueError, match="what schedule returns must be a finite number >= 0, got nan"):
        train(model, data, sgd(model), batch_size=32, steps=1, schedule=lambda step: math.nan)


@pytest.mark.parametrize("widths", [(16, 16), (100, 100), (300, 300)])
def test_one_thread_and_two_give_the_same(data, widths):
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            model = net(widths=widths)
            train(model, data, sgd(model), batch_size=96, steps=10)
            found.append(model)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*(m.parameters() for m in found), strict=True):  # equal bit for bit on some processors only
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_an_autocast_around_a_training_is_autocast(data):
    """Around it PyTorch would keep the bfloat16 copies of the first weights, and measure those."""
    ended, losses = [], []
    for around in (True, False):
        model = net()
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            run = train(model, data, sgd(model), batch_size=32, steps=20, record_every=5, autocast=not around)
        ended.append(model)
        losses.append(run.records["train_loss"].tolist())
    assert_same(*ended)
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert losses[0][0] > losses[0][-1] + 0.02


class InPlace(nn.Module):
    """Works on its input in place, as a hand-written normalization may."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(40, 10)

    def forward(self, x):
        x -= 0.5
        x /= 2.0
        return self.linear(x)


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_a_model_that_works_in_place_changes_no_data(data, rho):
    kept, ended = [part.clone() for part in data], []
    for make in (InPlace, lambda: nn.Sequential(Halved(), nn.Linear(40, 10))):
        model = build(make, 0)
        optimizer = SAM(sgd(model), rho) if rho else sgd(model)
        records = train(model, data, optimizer, batch_size=32, steps=20, record_every=5).records
        ended.append(([p.detach() for p in model.parameters()], records))
    for one, two in zip(ended[0][0], ended[1][0], strict=True):
        assert one.equal(two)
    pd.testing.assert_frame_equal(ended[0][1], ended[1][1])
    table = train_ensemble(InPlace, data, seeds=[0], batch_size=32, lr=0.1, rho=rho, steps=20).table
    assert table["test_loss"][0] == pytest.approx(ended[0][1]["test_loss"].iloc[-1], rel=1e-4)
    assert all(map(torch.equal, data, kept))


class Halved(nn.Module):
    def forward(self, x):
        return (x - 0.5) / 2.0


def test_measuring_moves_no_criterion_and_it_is_resumed(data, tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, outputs, y):
            loss = F.cross_entropy(outputs, y)
            if self.training:
                self.scale.mul_(0.9).add_(0.1 * loss.detach())
            return loss / self.scale

    model, criterion = net(), Scaled()
    train(model, data, sgd(model), batch_size=32, steps=20, criterion=criterion)
    for last in (10, 20):  # stopped and resumed
        again, other = net(), Scaled()
        settings = {"batch_size": 32, "check_every": 5, "criterion": other, "checkpoint": tmp_path / "run.pt"}
        train(again, data, sgd(again), steps=last, **settings)
    assert_same(model, again)
    assert_same(criterion, other)
    ended = []
    for every in (None, 2):
        model = net()
        criterion = Scaled()
        train(model, data, sgd(model), batch_size=32, steps=20, record_every=every, criterion=criterion)
        assert criterion.training
        ended.append((model, criterion))
    assert_same(ended[0][0], ended[1][0])
    assert_same(ended[0][1], ended[1][1])


def test_autocast_computes_in_bfloat16_with_float32_weights(data):
    model, exact, seen = net(), net(), set()
    hook = model.register_forward_hook(lambda m, args, out: seen.add((m.training, out.dtype)))
    records = train(model, data, sgd(model), batch_size=32, steps=60, autocast=True).records
    hook.remove()
    expected = train(exact, data, sgd(exact), batch_size=32, steps=60).records
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert records["train_loss"].iloc[-1] == pytest.approx(expected["train_loss"].iloc[-1], rel=0.05)
    assert not torch.equal(model[0].weight, exact[0].weight)


def test_another_criterion(data):
    def criterion(outputs, y):
        return (outputs - F.one_hot(y, 10)).square().mean()

    model = net()
    records = train(model, data, sgd(model), batch_size=32, steps=5, criterion=criterion).records
    with torch.no_grad():
        expected = F.mse_loss(model(data.x_test), F.one_hot(data.y_test, 10).float())
    assert records["test_loss"].iloc[-1] == pytest.approx(float(expected), rel=1e-5)


# --- records


def test_records(data):
    model = net()
    records, status = train(
        model,
        data,
        sgd(model),
        batch_size=32,
        steps=7,
        record_every=3,
        record=lambda step, m: {"bias": m[0].bias[0], "twice": np.float64(2 * step)},
    )
    assert list(records.columns) == [*COLUMNS, "bias", "twice"]
    assert records["step"].tolist() == [3, 6, 7] == records["gradients"].tolist()
    assert records["epoch"].tolist() == [1, 2, 7 / 3]
    assert records["twice"].tolist() == [6, 12, 14]
    last = records.iloc[-1]
    assert last["bias"] == model[0].bias[0].item()
    with torch.no_grad():
        for part, x, y in (("train", *data[:2]), ("test", *data[2:])):
            assert last[f"{part}_loss"] == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-5)
            assert last[f"{part}_acc"] == (model(x).argmax(1) == y).double().mean()
    assert status == "steps"
    assert all(dtype.kind in "if" for dtype in records.dtypes)


@pytest.mark.parametrize(("size", "first", "settings"), [(96, 25, {}), (2, 48, {}), (96, 7, {"check_every": 7})])
def test_checks_come_every_epoch_or_25_steps_and_records_only_at_the_end(data, size, first, settings):
    for more, steps, status in (({}, 60, "steps"), ({"stop_loss": 100.0}, first, "stop_loss")):
        model = net()
        run = train(model, data, sgd(model, 0.01), batch_size=size, steps=60, **settings, **more)
        assert (run.records["step"].tolist(), run.status) == ([steps], status)


def test_a_row_can_end_it_too_as_in_an_ensemble(data):
    settings = {"batch_size": 32, "steps": 60, "check_every": 50, "record_every": 4, "stop_loss": 100.0}
    model = net()
    alone = train(model, data, sgd(model), seed=3, **settings)
    many = train_ensemble(net, data, seeds=[3], lr=0.1, **settings)
    assert (alone.records["step"].tolist(), alone.status) == ([4], "stop_loss")
    assert (many.records["step"].tolist(), many.table["status"].tolist()) == ([4], ["stop_loss"])


def test_inputs_that_want_a_gradient_get_none_and_four_tensors_are_data(data):
    found = []
    wanting = data._replace(x_train=data.x_train.clone().requires_grad_())
    for given in (data, wanting, tuple(data)):
        model = build(lambda: mlp(40, [8], 10), 0)
        train(model, given, torch.optim.SGD(model.parameters(), lr=0.1), batch_size=24, steps=5)
        found.append(params_of(model))
    assert wanting.x_train.grad is None and wanting.x_train.requires_grad
    torch.testing.assert_close(found[1:], [found[0]] * 2, rtol=0, atol=0)


def test_evaluate_in_chunks_is_evaluate(data):
    model = noisy_net()
    x, y = data.x_test, data.y_test
    assert model.training
    whole, parts = evaluate(model, x, y), evaluate(model, x, y, chunk=7)
    model.eval()
    with torch.no_grad():
        outputs = model(x)
    assert whole == pytest.approx((float(F.cross_entropy(outputs, y)), float((outputs.argmax(1) == y).sum()) / 50))
    assert parts == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([10.0, 1.0, 0.1])),
        nn.CrossEntropyLoss(ignore_index=2),
        nn.CrossEntropyLoss(reduction="sum"),
        lambda out, y: out.std(),
    ],
    ids=["class weights", "ignored labels", "sum", "no mean"],
)
def test_the_loss_is_that_of_all_points_whatever_the_criterion(criterion):
    """Sorted labels: no chunk has the classes of the whole."""
    y = torch.arange(3).repeat_interleave(1000)
    x = torch.randn(3000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = build(lambda: mlp(4, [5], 3), 0).double()
    criterion = criterion.double() if isinstance(criterion, nn.Module) else criterion
    expected = criterion(model(x), y).item()
    for chunk in (2048, 7, 3000, np.int64(100)):
        assert evaluate(model, x, y, criterion, chunk)[0] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="chunk must be an integer >= 1, got 0"):
        evaluate(model, x, y, criterion, 0)
    with pytest.raises(ValueError, match="x must hold one point or more, got none"):
        evaluate(model, x[:0], y[:0], criterion)
    with pytest.raises(ValueError, match="y must hold a label for each of 3000 outputs, got 2999"):
        evaluate(model, x, y[:-1])


LABELLED = {  # outputs, labels, and a criterion for them
    "labels in a column": (lambda out: out, lambda y: y[:, None], lambda out, y: F.cross_entropy(out, y[:, 0])),
    "one logit": (lambda out: out[:, :1], lambda y: (y > 4).float(), lambda out, y: out[:, 0].sub(y).square().mean()),
    "one-hot labels": (lambda out: out, lambda y: F.one_hot(y, 10).double(), F.cross_entropy),
    "a label for each place": (
        lambda out: out[:, :, None].expand(-1, -1, 4),
        lambda y: y[:, None].expand(-1, 4),
        F.cross_entropy,
    ),
}


@pytest.mark.parametrize("kind", LABELLED)
@pytest.mark.parametrize("n", [10, 50])
def test_accuracy_is_nan_without_one_label_and_several_outputs_for_each_point(data, kind, n):
    """Ten points: as many as classes, so that comparisons of the wrong shapes would not even fail."""
    head, labels, criterion = LABELLED[kind]

    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net().double()

        def forward(self, x):
            return head(self.inner(x))

    model, x, y = Headed(), data.x_test[:n].double(), labels(data.y_test[:n])
    loss, accuracy = evaluate(model, x, y, criterion)
    assert loss == pytest.approx(criterion(model(x), y).item()) and math.isnan(accuracy)
    weights = stack([params_of(model)] * 2)
    if kind != "a label for each place":
        losses, accuracies = stacked.evaluate(stacked.forward(model), weights, x, y, criterion)
        assert losses.tolist() == pytest.approx([loss] * 2) and accuracies.isnan().tolist() == [True] * 2


def test_records_are_taken_in_evaluation_mode_and_move_no_statistics(data):
    model = noisy_net()
    modes = []
    records = train(
        model,
        data,
        sgd(model),
        batch_size=32,
        steps=6,
        record_every=2,
        record=lambda step, m: modes.append({layer.training for layer in m.modules()}) or {},
    ).records
    assert modes == [{False}] * 3 and model.training
    assert model[1].num_batches_tracked == 6
    assert records["train_loss"].iloc[-1] == pytest.approx(evaluate(model, *data[:2])[0])


def test_the_mode_of_every_layer_is_put_back(data):
    model = noisy_net().eval()
    train(model, data, sgd(model), batch_size=32, steps=2)
    assert not any(layer.training for layer in model.modules()) and model[1].num_batches_tracked == 2
    model.train()
    model[1].eval()  # frozen statistics stay frozen
    train(model, data, sgd(model), batch_size=32, steps=2)
    assert model[1].num_batches_tracked == 2 and not model[1].training and model[3].training


def test_dropout_follows_the_seed_and_the_global_generator_stays(data):
    torch.manual_seed(123)
    before, models = torch.get_rng_state(), []
    for seed, global_seed in ((5, 0), (5, 1), (6, 0)):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        model = noisy_net()
        train(model, data, sgd(model), batch_size=96, steps=3, seed=seed)
        assert torch.equal(state, torch.get_rng_state())
        models.append(model)
    torch.set_rng_state(before)
    assert_same(models[0], models[1])
    assert not torch.allclose(models[0][0].weight, models[2][0].weight)


class Shaken(nn.Sequential):
    """Draws random numbers in evaluation mode, too."""

    def forward(self, x):
        return super().forward(x + 0.0 * torch.rand(()))


def test_what_is_drawn_at_a_look_moves_no_masks(data):
    def trained(kind=nn.Sequential, **looks):
        model = kind(*noisy_net())
        train(model, data, sgd(model), batch_size=32, steps=12, **looks)
        return model

    plain = trained()
    assert_same(plain, trained(record_every=2, record=lambda step, model: {"drawn": torch.rand(()).item()}))
    shaken = [trained(Shaken, **looks) for looks in ({"check_every": 2}, {"record_every": 3}, {"check_every": 12})]
    for model in shaken[1:]:
        assert_same(shaken[0], model)


def test_with_equal_points_only_dropout_tells_seeds_apart(data):
    equal = data._replace(x_train=data.x_train[:1].expand(96, -1), y_train=data.y_train[:1].expand(96))
    for p, differ in ((0.0, False), (0.5, True)):
        models = [
            build(lambda p=p: nn.Sequential(nn.Linear(40, 16), nn.Dropout(p), nn.Linear(16, 10)), 0) for _ in "12"
        ]
        for seed, model in enumerate(models):
            train(model, equal, sgd(model), batch_size=32, steps=2, seed=seed)
        assert torch.equal(models[0][0].weight, models[1][0].weight) != differ


class Bar:
    def __init__(self, total):
        self.total, self.n, self.closed = total, 0, 0
        bars.append(self)

    def update(self, n):
        self.n += n

    def close(self):
        self.closed += 1


bars = []


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (None, "record must be a function that returns a dict, got None; where nothing is recorded, return {}"),
        (3.0, "record must be a function that returns a dict, got 3.0"),
        ([("a", 1)], "record must be a function that returns a dict, got "),
        ({"step": 1}, "the name of what record returns must be a word other than step, epoch, .*, got 'step'"),
        ({"gradients": 1}, "must be a word other than .*, got 'gradients'"),
        ({"test_acc": 1}, "must be a word other than .*, got 'test_acc'"),
        ({"epoch": 1}, "must be a word other than .*, got 'epoch'"),
        ({"status": "good"}, "must be a word other than .*, got 'status'"),
        ({3: 1}, "must be a word other than .*, got 3"),
        ({"norms": torch.ones(2)}, r"what record returns as 'norms' must be one number or word, got tensor"),
        ({"norms": np.ones(3)}, "what record returns as 'norms' must be one number or word, got array"),
        ({"norms": [1, 2]}, "what record returns as 'norms' must be one number or word, got .1, 2."),
    ],
)
def test_what_record_may_not_return_is_said_at_once_and_no_training_is_lost(data, found, match):
    model, expected = net(), net()
    with pytest.raises(ValueError, match=match) as caught:
        train(model, data, sgd(model), batch_size=32, steps=20, record_every=3, record=lambda step, m: found)
    train(expected, data, sgd(expected), batch_size=32, steps=3)
    assert_same(model, expected)
    assert not hasattr(caught.value, "so_far") or caught.value.so_far is None
    assert model.training


def test_an_error_has_what_was_recorded_before(data):
    model, expected = net(), net()
    record = lambda step, m: {} if step < 9 else None  # noqa: E731
    with pytest.raises(ValueError, match="record must be a function that returns a dict, got None") as caught:
        train(model, data, sgd(model), batch_size=32, steps=20, record_every=3, record=record)
    records = train(expected, data, sgd(expected), batch_size=32, steps=9, record_every=3).records
    pd.testing.assert_frame_equal(caught.value.so_far.records, records.iloc[:2])
    assert caught.value.so_far.status == "error"


def test_a_name_that_is_recorded_anyway_is_refused(data):
    model = net()
    with pytest.raises(ValueError, match="must be a word other than step, .*, got 'test_acc'"):
        train(model, data, sgd(model), batch_size=32, steps=20, record_every=3, record=lambda step, m: {"test_acc": 0})


@pytest.mark.parametrize("where", ["record", "progress", "criterion", "schedule"])
def test_an_error_of_the_user_takes_the_records_with_it(data, where):
    model, calls = net(), []
    optimizer = sgd(model)

    def fails(*args):
        calls.append(args)
        if len(calls) == 6:
            raise ZeroDivisionError("mine")
        return {}

    settings = {"record": fails} if where == "record" else {}
    if where == "progress":
        bar = Bar(None)
        bar.update = fails
        settings = {"progress": lambda total: bar}
    if where == "criterion":
        hook = model.register_forward_hook(lambda layer, *args: fails() or None if layer.training else None)
    if where == "schedule":
        settings = {"schedule": lambda step: fails() or 1.0}
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        train(model, data, optimizer, batch_size=32, steps=50, record_every=2, **settings)
    if where == "criterion":
        hook.remove()
    assert caught.value.so_far is not None
    records = caught.value.so_far.records
    assert records["step"].tolist() == (list(range(2, 11, 2)) if where == "record" else [2, 4])
    assert records["train_loss"].notna().all() and "so_far" in caught.value.__notes__[0]


@pytest.mark.parametrize("made", [None, 3, [1, 2]])
def test_progress_must_make_a_bar(data, made):
    model = net()
    with pytest.raises(ValueError, match=r"progress must be a function that makes a bar with update\(n\) and close"):
        train(model, data, sgd(model), batch_size=32, steps=5, progress=lambda total: made)
    with pytest.raises(ValueError, match="progress must be a function that makes a bar"):
        train(model, data, sgd(model), batch_size=32, steps=5, progress=True)
    assert_same(model, net())


def test_progress(data, capsys):
    from tqdm import tqdm

    bars.clear()
    model = net()
    train(model, data, sgd(model), batch_size=32, steps=7, progress=Bar)
    train(model, data, sgd(model, 1e9), batch_size=32, steps=700, progress=Bar)
    assert (bars[0].total, bars[0].n, bars[0].closed) == (7, 7, 1)
    assert bars[1].total == 700 and bars[1].closed == 1
    model = net()
    train(model, data, sgd(model), batch_size=32, steps=7, progress=tqdm)
    assert "7/7" in capsys.readouterr().err


# --- how it ends


def test_it_stops_at_a_loss(data):
    model = net()
    settings = {"batch_size": 8, "stop_loss": 0.5, "check_every": 10, "record_every": 10}
    records, status = train(model, data, sgd(model, 0.2), steps=3000, **settings)
    losses = records["train_loss"].to_numpy()
    assert status == "stop_loss" and losses[-1] <= 0.5 and (losses[:-1] > 0.5).all()
    assert records["step"].tolist() == list(range(10, 10 * len(losses) + 1, 10))
    model = net()
    assert train(model, data, sgd(model), batch_size=8, stop_loss=1e-9, steps=5).status == "steps"


def test_divergence_ends_before_the_update_and_the_model_can_be_trained_again(data):
    model = net()
    records, status = train(model, data, sgd(model, 1e9), batch_size=32, steps=50, check_every=50)
    assert status == "diverged"
    assert records["step"].iloc[-1] == records["gradients"].iloc[-1] + 1 < 50
    assert math.isnan(records["train_loss"].iloc[-1]) and list(records.columns) == COLUMNS
    assert all(p.isfinite().all() for p in model.parameters()) and model.training
    start = net()
    model.load_state_dict(start.state_dict())
    assert train(model, data, sgd(model), batch_size=32, steps=5).status == "steps"


@pytest.mark.parametrize("name", ["momentum", "adam", "sam"])
def test_a_nan_in_the_first_batch_leaves_the_weights(data, name):
    spoilt = data._replace(x_train=torch.full_like(data.x_train, math.nan))
    model = net()
    records, status = train(model, spoilt, OPTIMIZERS[name](model.parameters()), batch_size=32, steps=5)
    assert status == "diverged" and records["step"].tolist() == [1]
    assert_same(model, net())


def test_a_nan_found_at_a_check_is_divergence(data):
    last = next(batches(96, 95, torch.Generator().manual_seed(0)))
    x = data.x_train.clone()
    x[[i for i in range(96) if i not in last.tolist()]] = math.nan  # in no batch of the first epoch
    model = net()
    records, status = train(model, data._replace(x_train=x), sgd(model), batch_size=95, steps=1)
    assert status == "diverged" and math.isnan(records["train_loss"].iloc[-1])
    assert all(p.isfinite().all() for p in model.parameters())


class Interrupt:
    """Raises KeyboardInterrupt at call number `at`."""

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return {}

    def hook(self, layer, *args):
        self()

    def hook_in(self, training):
        """Counts forward passes in one of the two modes only."""
        return lambda layer, *args: self.hook(layer) if layer.training == training else None


@pytest.mark.parametrize("where", ["forward", "backward", "evaluation", "record", "progress", "schedule"])
@pytest.mark.parametrize("name", ["momentum", "sam"])
def test_stop_leaves_a_model_and_the_records(data, name, where):
    model = net(norm="batch")
    optimizer = OPTIMIZERS[name](model.parameters())
    interrupt, settings, hooks = Interrupt(at=8 if name == "sam" else 6), {}, []
    if where == "forward":
        hooks = [model[2].register_forward_hook(interrupt.hook_in(training=True))]
    elif where == "backward":
        hooks = [model[2].register_full_backward_hook(interrupt.hook)]
    elif where == "evaluation":
        hooks = [model[2].register_forward_hook(interrupt.hook_in(training=False))]
    elif where == "record":
        settings["record"] = interrupt
    elif where == "progress":
        bar = Bar(None)
        bar.update = interrupt
        settings["progress"] = lambda total: bar
    else:
        settings["schedule"] = lambda step: interrupt() or 1.0
    perturbed = []
    if name == "sam" and where in ("forward", "backward"):  # the eighth pass is at perturbed weights
        original = optimizer.restore
        optimizer.restore = lambda: (perturbed.append(bool(optimizer._saved[0])), original())
    records, status = train(model, data, optimizer, batch_size=32, steps=1000, record_every=1, **settings)
    for hook in hooks:
        hook.remove()
    assert status == "stopped"
    assert 1 <= len(records) < 12 and list(records.columns) == COLUMNS
    assert all(layer.training for layer in model.modules())
    assert not perturbed or perturbed[-1]
    after = train(model, data, sgd(model), batch_size=32, steps=5)
    assert after.status == "steps" and math.isfinite(after.records["train_loss"].iloc[-1])


def test_stop_in_the_perturbed_pass_leaves_the_weights_of_the_last_step(data):
    model, interrupt = net(), Interrupt(at=6)  # the second pass of the third step
    hook = model[0].register_forward_hook(interrupt.hook_in(training=True))
    optimizer = OPTIMIZERS["sam"](model.parameters())
    train(model, data, optimizer, batch_size=32, steps=10)
    hook.remove()
    other = net()
    train(other, data, OPTIMIZERS["sam"](other.parameters()), batch_size=32, steps=2)
    assert_same(model, other)


def test_stop_before_the_first_check_still_has_columns(data):
    model = net()
    hook = model[1].register_full_backward_hook(Interrupt(at=1).hook)
    records, status = train(model, data, sgd(model), batch_size=32, steps=10)
    hook.remove()
    assert list(records.columns) == COLUMNS and len(records) == 0 and status == "stopped"


def test_other_errors_come_through_with_the_mode_put_back(data):
    model = net().eval()
    bars.clear()
    with pytest.raises(ZeroDivisionError):
        train(model, data, sgd(model), batch_size=32, steps=10, record_every=1, record=lambda s, m: 1 / 0, progress=Bar)
    assert not model.training and bars[0].closed == 1


# --- checkpoints


def run(path, data, name, *, steps=20, interrupt=None, schedule=True, **settings):
    model = noisy_net()
    optimizer = OPTIMIZERS[name](model.parameters())
    hook = model[2].register_full_backward_hook(Interrupt(interrupt).hook)
    arguments = {"batch_size": 20, "steps": steps, "check_every": 3, "record_every": 3, "checkpoint": path}
    arguments["schedule"] = cosine if schedule else None
    done = train(model, data, optimizer, **arguments | settings)
    hook.remove()
    return model, done, optimizer


@pytest.mark.parametrize("schedule", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_interrupted_and_resumed_is_uninterrupted(data, tmp_path, name, schedule):
    path = tmp_path / "run.pt"
    model, expected, _ = run(None, data, name, schedule=schedule)
    times = 2 if name == "sam" else 1
    for at in (8, 4):  # between checks, in the second and in the third epoch
        _, part, _ = run(path, data, name, schedule=schedule, interrupt=at * times)
        assert part.status == "stopped" and 0 < len(part.records) < len(expected.records)
    resumed, again, optimizer = run(str(path), data, name, schedule=schedule)
    assert_same(model, resumed)
    pd.testing.assert_frame_equal(expected.records, again.records, check_exact=True)
    assert again.status == expected.status == "steps"
    # a finished run is not trained again
    finished, same, _ = run(path, data, name, schedule=schedule, interrupt=1)
    assert_same(model, finished)
    pd.testing.assert_frame_equal(expected.records, same.records, check_exact=True)
    assert os.listdir(tmp_path) == ["run.pt"]


def test_resuming_with_the_same_objects(data, tmp_path):
    path = tmp_path / "run.pt"
    expected, (records, _), _ = run(None, data, "momentum")
    model = noisy_net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    arguments = {"batch_size": 20, "steps": 20, "check_every": 3, "record_every": 3, "schedule": cosine}
    arguments["checkpoint"] = path
    hook = model[2].register_full_backward_hook(Interrupt(11).hook)
    assert train(model, data, optimizer, **arguments).status == "stopped"
    hook.remove()
    again = train(model, data, optimizer, **arguments).records
    assert_same(model, expected)
    pd.testing.assert_frame_equal(records, again, check_exact=True)


def test_more_steps_go_on_from_a_finished_run(data, tmp_path):
    expected, (records, _), _ = run(None, data, "adam", steps=21)
    assert run(tmp_path / "run.pt", data, "adam", steps=13)[1].records["step"].tolist() == [3, 6, 9, 12, 13]
    model, (again, _), _ = run(tmp_path / "run.pt", data, "adam", steps=21)
    assert_same(model, expected)
    pd.testing.assert_frame_equal(records, again, check_exact=True)
    with pytest.raises(ValueError, match=r"run.pt is at step 21, beyond steps=12"):
        run(tmp_path / "run.pt", data, "adam", steps=12)


def test_a_run_stopped_at_its_loss_stays_stopped(data, tmp_path):
    arguments = {"steps": 500, "record_every": 100, "record": lambda step, model: {"twice": 2 * step}}
    model, first, _ = run(tmp_path / "run.pt", data, "adam", stop_loss=2.2, **arguments)
    again, same, _ = run(tmp_path / "run.pt", data, "adam", stop_loss=2.2, interrupt=1, **arguments)
    assert_same(model, again)
    assert same.status == first.status == "stop_loss"
    pd.testing.assert_frame_equal(first.records, same.records, check_exact=True)
    lower = run(tmp_path / "run.pt", data, "adam", stop_loss=2.0, **arguments)[1]
    assert lower.records["step"].iloc[-1] > first.records["step"].iloc[-1] and lower.status == "stop_loss"


def test_a_crash_while_writing_keeps_the_old_file(data, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    expected, (records, _), _ = run(None, data, "adam")
    run(path, data, "adam", steps=6)
    old = path.read_bytes()

    def half(state, file):
        file.write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.torch, "save", half)
        assert run(path, data, "adam")[1].status == "stopped"
    assert path.read_bytes() == old
    model, again, _ = run(path, data, "adam")
    assert_same(model, expected)
    pd.testing.assert_frame_equal(records, again.records, check_exact=True)


def test_a_file_that_cannot_be_written_is_named_with_the_remedy(data, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    record = lambda step, model: folder.rmdir() if step == 3 else {}  # noqa: E731
    with pytest.raises(OSError, match=r"run.pt cannot be written; free some space, or make its folder again") as lost:
        run(folder / "run.pt", data, "adam", record=lambda step, model: record(step, model) or {})
    assert lost.value.so_far.records["step"].tolist() == [3]


def test_a_checkpoint_of_other_settings(data, tmp_path):
    path = tmp_path / "run.pt"
    run(path, data, "momentum", steps=6)
    with pytest.raises(ValueError, match=r"run.pt was saved with other settings, batch_size 20 instead of 24"):
        run(path, data, "momentum", batch_size=24)
    with pytest.raises(ValueError, match="other settings, seed 0 instead of 1"):
        run(path, data, "momentum", seed=1)
    with pytest.raises(ValueError, match="other settings, optimizer SGD instead of Adam"):
        run(path, data, "adam")
    with pytest.raises(ValueError, match="other settings, schedule cosine .* instead of None"):
        run(path, data, "momentum", schedule=False)
    with pytest.raises(ValueError, match="other settings, lr 0.05 instead of 0.1"):
        run(path, data, "sgd")
    with pytest.raises(ValueError, match=r"other settings, x_train \(96, 40\) torch.float32 \(checksum"):
        run(path, mnist1d(96, 50, seed=1), "momentum")
    with pytest.raises(ValueError, match="other settings, y_test"):
        run(path, data._replace(y_test=data.y_test.flip(0)), "momentum")
    with pytest.raises(ValueError, match="other settings, autocast False instead of True"):
        run(path, data, "momentum", autocast=True)
    model = net()
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    with pytest.raises(ValueError, match=r"other settings, model \(1\): BatchNorm1d\(16.* instead of \(1\): ReLU"):
        train(model, data, optimizer, batch_size=20, steps=20, record_every=3, schedule=cosine, checkpoint=path)


def test_a_checkpoint_of_another_rho_or_base(data, tmp_path):
    path = tmp_path / "run.pt"
    run(path, data, "sam", steps=6)
    for base, rho, match in ((torch.optim.SGD, 0.2, "rho 0.1 instead of 0.2"), (torch.optim.Adam, 0.1, "base SGD")):
        model = noisy_net()
        optimizer = SAM(base(model.parameters(), lr=0.05), rho)
        with pytest.raises(ValueError, match=f"other settings, {match}"):
            train(model, data, optimizer, batch_size=20, steps=20, record_every=3, schedule=cosine, checkpoint=path)


def resumed(path, data, *, make=noisy_net, optimizer=None, **settings):
    """Go on with what `path` holds, 4 steps after its 4, or begin it."""
    model = make()
    optimizer = (optimizer or (lambda model: SAM(sgd(model, 0.05), 0.1)))(model)
    settings = {"batch_size": 20, "steps": 8 if path.exists() else 4, "record_every": 4, "checkpoint": path} | settings
    return train(model, data, optimizer, **settings).records


class Weighing(nn.Module):
    def __init__(self, by):
        super().__init__()
        self._times = by

    def forward(self, outputs, y):
        return self._times * F.cross_entropy(outputs, y)


class Attending(nn.Module):
    """The number of heads changes no shape."""

    def __init__(self, n):
        super().__init__()
        self.mix, self.out = nn.MultiheadAttention(8, n, batch_first=True), nn.Linear(40, 10)

    def forward(self, x):
        parts = x.view(-1, 5, 8)
        return self.out(self.mix(parts, parts, parts)[0].flatten(1))


def of_width(width):
    return lambda model: SAM(sgd(model, 0.05), 0.1, ascent=lambda g, w, rho: {k: rho * width * v for k, v in g.items()})


def warm_up(steps):
    return lambda step: min(1, (step + 1) / steps)


def weighted(weight):
    return lambda outputs, y: F.cross_entropy(outputs, y, weight=weight)


def with_layers(change):
    def make():
        model = noisy_net()
        change(model)
        return model

    return make


def backwards(model):
    return SAM(torch.optim.SGD(reversed(list(model.parameters())), lr=0.05), 0.1)


def named(order):
    def make():  # the same names, shapes and numbers in all, made in another order
        model = nn.Module()
        for name in order:
            setattr(model, name, build(lambda: nn.Linear(40, 40), 0))
        model.out = build(lambda: nn.Linear(40, 10), 0)
        model.forward = lambda x: model.out(F.relu(model.b(F.relu(model.a(x)))))
        return model

    return make


SWAPPED = named("ab"), named("ba")

ANOTHER = {  # what the file was made with, what goes on with it, and what the refusal names
    "every": ({}, {"optimizer": lambda m: SAM(sgd(m, 0.05), 0.1, every=2)}, "every 1 instead of 2"),
    "start": ({}, {"optimizer": lambda m: SAM(sgd(m, 0.05), 0.1, start=2)}, "start 0 instead of 2"),
    "probability": (
        {},
        {"optimizer": lambda m: SAM(sgd(m, 0.05), 0.1, probability=0.5)},
        "probability 1 instead of 0.5",
    ),
    "ascent": ({}, {"optimizer": lambda m: SAM(sgd(m, 0.05), 0.1, ascent=p_ascent(4))}, "ascent ascent .*p_ascent"),
    "ascent's own number": ({"optimizer": of_width(1)}, {"optimizer": of_width(2)}, "ascent .*<lambda>"),
    "p of the ascent": (
        {"optimizer": lambda m: SAM(sgd(m, 0.05), 0.1, ascent=p_ascent(3))},
        {"optimizer": lambda m: SAM(sgd(m, 0.05), 0.1, ascent=p_ascent(4))},
        "ascent .*p_ascent",
    ),
    "no SAM": ({}, {"optimizer": lambda m: sgd(m, 0.05)}, "optimizer SAM instead of SGD"),
    "weight decay": ({}, {"optimizer": lambda m: SAM(sgd(m, 0.05, weight_decay=0.1), 0.1)}, "weight_decay 0 instead"),
    "criterion": ({}, {"criterion": F.nll_loss}, "criterion cross_entropy .*instead of nll_loss"),
    "class weights": (
        {"criterion": weighted(torch.ones(10))},
        {"criterion": weighted(torch.arange(10.0))},
        "criterion weighted",
    ),
    "weights of a module": (
        {"criterion": nn.CrossEntropyLoss(torch.ones(10))},
        {"criterion": nn.CrossEntropyLoss(torch.ones(10), label_smoothing=0.1)},
        "criterion CrossEntropyLoss",
    ),
    "number of the schedule": ({"schedule": warm_up(3)}, {"schedule": warm_up(5)}, "schedule warm_up"),
    "another schedule": ({"schedule": warm_up(3)}, {"schedule": cosine}, "schedule warm_up.* instead of cosine"),
    "rows": ({}, {"record_every": 2}, "record_every 4 instead of 2"),
    "dropout": ({}, {"make": with_layers(lambda m: setattr(m[3], "p", 0.1))}, r"model \(3\): Dropout\(p=0.5.*p=0.1"),
    "a frozen layer": (
        {},
        {"make": with_layers(lambda m: m[0].requires_grad_(False))},
        r"parameters of the model 0.weight \(16, 40\) torch.float32 instead of .* frozen",
    ),
    "frozen statistics": (
        {},
        {"make": with_layers(lambda m: m[1].eval())},
        "layers in evaluation mode none instead of 1",
    ),
    "order of parameters": ({}, {"optimizer": backwards}, "parameters of the optimizer 0.weight instead of 4.bias"),
    "order of layers": (
        {"make": SWAPPED[0], "optimizer": lambda m: sgd(m, momentum=0.9)},
        {"make": SWAPPED[1], "optimizer": lambda m: sgd(m, momentum=0.9)},
        r"model \(a\): Linear.* instead of \(b\): Linear",
    ),
    "groups": (
        {
            "optimizer": lambda m: torch.optim.SGD(
                [{"params": m[0].parameters()}, {"params": m[4].parameters()}], lr=0.1
            )
        },
        {
            "optimizer": lambda m: torch.optim.SGD(
                [{"params": m[0].parameters()}, {"params": m[4].parameters(), "lr": 0.2}], lr=0.1
            )
        },
        "lr of group 1 0.1 instead of 0.2",
    ),
}


@pytest.mark.parametrize("what", ANOTHER)
def test_what_a_run_was_is_what_it_goes_on_as(data, tmp_path, what):
    first, then, match = ANOTHER[what]
    path = tmp_path / "run.pt"
    resumed(path, data, **first)
    before = path.read_bytes()
    make = (first | then).get("make", noisy_net)
    models = []
    with pytest.raises(ValueError, match=f"run.pt was saved with other settings, {match}"):
        resumed(path, data, **first | then | {"make": lambda: models.append(make()) or models[-1]})
    assert path.read_bytes() == before
    assert_same(models[0], make())
    assert resumed(path, data, **first)["step"].tolist() == [4, 8]


class Smooth:
    """Keeps what it took under another name."""

    factor = 1.0

    def __init__(self, by):
        self._keep = by

    def __call__(self, outputs, y):
        return self.factor * F.cross_entropy(outputs, y, label_smoothing=self._keep)


class Hidden:
    """Keeps what it took under its name with a "_"."""

    def __init__(self, by):
        self._by = by

    def __call__(self, outputs, y):
        return F.cross_entropy(outputs, y, label_smoothing=self._by)


class Edited(Hidden):
    def __call__(self, outputs, y):
        return super().__call__(2 * outputs, y)


Edited.__name__ = Edited.__qualname__ = "Hidden"


class Config:
    smoothing = 0.0


def smoothed(settings):
    return lambda outputs, y: F.cross_entropy(outputs, y, label_smoothing=settings.smoothing)


def with_smoothing(settings, by):
    settings.smoothing = by
    return smoothed(settings)


def written(source):
    names = {"F": F}
    exec(source, names)
    return names["criterion"]


class Scaled(nn.Module):
    """Its factor stands in neither its state nor its repr."""

    def __init__(self, by, inside=None):
        super().__init__()
        self.layer, self.by = nn.Linear(40, 10), by
        self.register_buffer("shift", torch.full((1,), 1.0 if inside is None else inside), persistent=False)

    def forward(self, x):
        return self.by * self.layer(x) + self.shift


class Rewritten(Scaled):
    def forward(self, x):
        return super().forward(torch.relu(x))


Rewritten.__name__ = Rewritten.__qualname__ = "Scaled"


def masked(by):
    def change(model):
        model[0].weight.register_hook(lambda g: by * g)

    return with_layers(change)


class Slotted:
    __slots__ = ("by",)

    def __init__(self, smoothing):
        self.by = smoothing

    def __call__(self, outputs, y):
        return F.cross_entropy(outputs, y, label_smoothing=self.by)


def times(numbers):
    return lambda outputs, y: len(numbers) * F.cross_entropy(outputs, y)


class Falling(NamedTuple):
    steps: int

    def __call__(self, step):
        return 1 / (1 + step / self.steps)


class Rising(NamedTuple):
    steps: int

    def __call__(self, step):
        return 1 + step / self.steps


def where(pattern):
    return lambda outputs, y: (1 + bool(pattern.search("weight"))) * F.cross_entropy(outputs, y)


OF_CONFIG = "class Config: k = {}\ndef criterion(outputs, y): return Config.k * F.cross_entropy(outputs, y)"
HIDDEN = {  # made with one, gone on with the other: neither shows in the other's numbers or in a repr
    "argparse": [{"criterion": smoothed(argparse.Namespace(smoothing=by))} for by in (0.0, 0.5)],
    "namespace": [{"criterion": smoothed(types.SimpleNamespace(smoothing=by))} for by in (0.0, 0.5)],
    "plain object": [{"criterion": with_smoothing(Config(), by)} for by in (0.1, 0.5)],
    "class attribute": [{"criterion": smoothed(type("Config", (Config,), {"smoothing": by}))} for by in (0.0, 0.5)],
    "class of a cell": [{"criterion": written(OF_CONFIG.format(k))} for k in (1, 2)],
    "another name": [{"criterion": Smooth(by)} for by in (0.0, 0.5)],
    "a name with _": [{"criterion": Hidden(by)} for by in (0.0, 0.5)],
    "class of an object": [{"criterion": type("S", (Smooth,), {"factor": by})(0.0)} for by in (1.0, 2.0)],
    "code of a class": [{"criterion": kind(0.0)} for kind in (Hidden, Edited)],
    "cached function": [{"criterion": functools.lru_cache(weighted(w))} for w in (torch.ones(10), torch.arange(10.0))],
    "module's own number": [{"criterion": Weighing(by)} for by in (1.0, 5.0)],
    "attribute": [{"make": lambda by=by: Scaled(by)} for by in (1.0, 3.0)],
    "options": [{"make": lambda by=by: Scaled(torch.tensor(2.0), by)} for by in (1.0, 3.0)],
    "code of the model": [{"make": lambda kind=kind: kind(1.0)} for kind in (Scaled, Rewritten)],
    "inner layer": [{"make": lambda by=by: nn.Sequential(Scaled(by))} for by in (1.0, 3.0)],
    "heads": [{"make": lambda n=n: Attending(n)} for n in (2, 4)],
    "hook on a gradient": [{"make": masked(by)} for by in (1.0, 0.0)],
    "method of a list": [{"schedule": ([by] * 9).__getitem__} for by in (1.0, 0.5)],
    "method of an array": [{"schedule": np.full(9, by).item} for by in (1.0, 0.5)],
    "method of a table": [{"schedule": pd.Series([by] * 9).get} for by in (1.0, 0.5)],
    "slots": [{"criterion": Slotted(by)} for by in (0.0, 0.5)],
    "slots and attributes": [{"schedule": CubicSpline([0, 5, 9], [1, by, 1])} for by in (1.0, 0.5)],
    "range": [{"criterion": times(range(n))} for n in (1, 2)],
    "deque": [{"criterion": times(collections.deque([1] * n))} for n in (1, 2)],
    "class of a named tuple": [{"schedule": kind(9)} for kind in (Falling, Rising)],
    "regular expression": [{"criterion": where(re.compile(name))} for name in ("weight", "bias")],
}


@pytest.mark.parametrize("what", HIDDEN)
def test_another_method_is_refused_wherever_its_settings_are_kept(data, tmp_path, what):
    def of(which):
        torch.manual_seed(0)
        settings = HIDDEN[what][which] | ({} if "make" in HIDDEN[what][which] else {"make": net})
        return resumed(tmp_path / "run.pt", data, optimizer=sgd, **settings)

    of(0)
    with pytest.raises(ValueError, match="run.pt was saved with other settings, (criterion|details|schedule) "):
        of(1)
    assert of(0)["step"].tolist() == [4, 8]


def test_what_moves_when_it_is_used_is_no_setting_and_tables_may_be_read_only():
    dice, rows = np.random.default_rng(0), iter([1, 2])
    locked, series = np.arange(3.0)[::-1], pd.Series([1.0, 2.0])
    locked.flags.writeable = False
    before = [words(thing) for thing in (dice.random, rows, locked, series)]
    dice.random(), next(rows), series.index.is_unique
    assert [words(thing) for thing in (dice.random, rows, locked.copy(), series)] == before
    assert words(series) != words(series.rename({0: "first"}))


def test_attributes_that_a_call_leaves_are_no_settings(data, tmp_path):
    class Looked(nn.Sequential):
        seen, kept = None, ()

        def forward(self, x):
            self.seen, self.kept = super().forward(x), [x]
            return self.seen

    model = Looked(*noisy_net())
    model.names = np.array(["a", "b"])
    optimizer = sgd(model)
    for steps in (4, 8):
        records = resumed(tmp_path / "run.pt", data, make=lambda: model, optimizer=lambda model: optimizer, steps=steps)
    assert records["step"].tolist() == [4, 8]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
def test_a_compiled_model_has_the_details_of_what_was_compiled():
    def told(model):
        model.compile() if type(model) is nn.Sequential else None
        found = checkpoint_module.settings_of(model, mnist1d(10, 10), sgd(model))["details"].replace("_orig_mod.", "")
        return [line for line in found.splitlines() if "_is_torch_compile" not in line]

    expected = [
        "0.in_features: 40",
        "0.out_features: 16",
        "1.inplace: False",
        "2.in_features: 16",
        "2.out_features: 16",
    ]
    expected += ["3.inplace: False", "4.in_features: 16", "4.out_features: 10"]
    assert told(torch.compile(net())) == told(net()) == expected


def limited(parameters, limit, *_):
    """To be called around a step: the gradients stay in a box."""
    nn.utils.clip_grad_value_(parameters, limit)


@pytest.mark.parametrize("place", ["optimizer", "base", "layer"])
def test_hooks_on_gradients_and_steps_are_those_that_a_file_was_saved_with(data, tmp_path, place):
    def run(limit, path, steps):
        model = build(lambda: mlp(40, [8], 10), 0)
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = SAM(base, 0.05)
        if place == "layer":
            model[2].register_full_backward_hook(lambda layer, inner, outer: tuple(g * limit for g in inner))
        else:
            change = functools.partial(limited, list(model.parameters()), limit)
            optimizer.register_step_post_hook(change) if place == "optimizer" else base.register_step_pre_hook(change)
        train(model, data, optimizer, batch_size=24, steps=steps, check_every=4, checkpoint=path)
        return params_of(model)

    run(0.01, tmp_path / "run.pt", 4)
    with pytest.raises(ValueError, match="run.pt was saved with other settings, hooks "):
        run(0.02, tmp_path / "run.pt", 8)
    torch.testing.assert_close(run(0.01, tmp_path / "run.pt", 8), run(0.01, None, 8), rtol=0, atol=0)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    del saved["settings"]["hooks"]
    torch.save(saved, tmp_path / "early.pt")
    run(0.02, tmp_path / "early.pt", 12)  # an early file goes on


class Projected(nn.Module):
    """With a random matrix that is no buffer, and that no `state_dict` holds."""

    def __init__(self, kind, seed):
        super().__init__()
        matrix = torch.randn(40, 40, generator=torch.Generator().manual_seed(seed))
        self.layers, self.held, self.last = (
            nn.Sequential(nn.Linear(40, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)),
            {},
            None,
        )
        if kind == "hook":
            self.layers.register_forward_pre_hook(lambda layer, args: (args[0] @ matrix,))
        elif kind == "attribute":
            self.matrix = matrix
        else:
            self.held = {"matrix": matrix}

    def forward(self, x):
        self.last = self.layers(x @ getattr(self, "matrix", self.held.get("matrix", torch.eye(40))))  # for later
        return self.last


@pytest.mark.parametrize("kind", ["hook", "attribute", "dict"])
def test_a_model_that_computes_something_else_with_the_same_weights_does_not_go_on(data, tmp_path, kind):
    def run(seed, path, steps):
        torch.manual_seed(steps)  # other weights at the start, which the file replaces
        model = Projected(kind, seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train(model, data, optimizer, batch_size=24, steps=steps, check_every=4, checkpoint=path)
        return model

    run(0, tmp_path / "run.pt", 4)
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(
        ValueError, match="something else with the same weights, by tensors in plain attributes or by ho"
    ):
        run(1, tmp_path / "run.pt", 12)
    assert (tmp_path / "run.pt").read_bytes() == before
    torch.manual_seed(4)
    whole = Projected(kind, 0)
    train(whole, data, torch.optim.SGD(whole.parameters(), lr=0.1), batch_size=24, steps=12, check_every=4)
    resumed = run(0, tmp_path / "run.pt", 12)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    torch.save({key: value for key, value in saved.items() if key != "sample"}, tmp_path / "early.pt")
    run(1, tmp_path / "early.pt", 16)  # an early file goes on


def test_a_file_from_before_details_were_kept_goes_on(data, tmp_path):
    path = tmp_path / "run.pt"
    resumed(path, data)
    saved = torch.load(path, weights_only=True)
    del saved["settings"]["details"]
    torch.save(saved, path)
    assert resumed(path, data)["step"].tolist() == [4, 8]


@pytest.mark.parametrize("what", ["x_train", "x_test"])
def test_other_values_of_the_data_are_another_run(data, tmp_path, what):
    path = tmp_path / "run.pt"
    resumed(path, data)
    moved = getattr(data, what).clone()
    moved[-1, -1] += 1e-3
    with pytest.raises(ValueError, match=f"other settings, {what} "):
        resumed(path, data._replace(**{what: moved}))


@pytest.mark.parametrize(("key", "value"), [("torch", "2.12.1"), ("python", "3.9"), ("format", "1"), ("format", None)])
def test_a_file_of_another_version_is_named_as_such(data, tmp_path, key, value):
    path = tmp_path / "run.pt"
    resumed(path, data)
    saved = torch.load(path, weights_only=True)
    saved["settings"][key] = value
    if value is None:
        del saved["settings"][key]
    torch.save(saved, path)
    match = "written in format 1, and this version reads 3" if key == "format" else f"{key} {value} instead of"
    with pytest.raises(ValueError, match=match):
        resumed(path, data)


def test_the_same_settings_in_other_numbers_and_places_go_on(data, tmp_path):
    def of_numpy(model):
        return SAM(
            torch.optim.SGD(model.parameters(), lr=np.float64(0.05), momentum=0), np.float64(0.1), every=np.int64(1)
        )

    path = tmp_path / "run.pt"
    schedule = {"schedule": lambda step: np.float64(0.5) ** (step > 3)}
    resumed(path, data, optimizer=of_numpy, criterion=weighted(torch.ones(10)), record=numpy_record, **schedule)
    records = resumed(path, data, criterion=weighted(torch.ones(10)), seed=np.int64(0), record=numpy_record, **schedule)
    plain = resumed(tmp_path / "other.pt", data, criterion=weighted(torch.ones(10)), record=numpy_record, **schedule)
    plain = resumed(tmp_path / "other.pt", data, criterion=weighted(torch.ones(10)), record=numpy_record, **schedule)
    pd.testing.assert_frame_equal(records, plain, check_exact=True)
    assert records["twice"].tolist() == [8, 16] and records["word"].tolist() == ["a", "a"]


def numpy_record(step, model):
    return {"twice": np.int64(2 * step), "share": np.float32(0.5), "word": "a", "one": torch.ones(1), "none": None}


def test_a_state_that_could_not_be_read_again_is_named_when_it_is_written(data, tmp_path):
    class Odd(torch.optim.SGD):
        def state_dict(self):
            return super().state_dict() | {"since": complex, "at": pd.Timestamp("2020-01-01")}

    with pytest.raises(
        ValueError, match=r"run.pt can hold numbers, words and tensors, but a state of the .* has others"
    ):
        resumed(tmp_path / "run.pt", data, optimizer=lambda m: Odd(m.parameters(), lr=0.1))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_is_named(data, tmp_path, damage):
    path = tmp_path / "run.pt"
    run(path, data, "momentum", steps=6)
    content = path.read_bytes()
    flipped = content.replace(b"PK\x01\x02", b"PK\x01\x03")
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "flipped": flipped}[damage])
    with pytest.raises(ValueError, match=r"run.pt is cut off or damaged; name another file, or move this one away"):
        run(path, data, "momentum")


OTHER_FILES = {
    "csv": lambda path: pd.DataFrame({"loss": [1.0]}).to_csv(path),
    "a list": lambda path: torch.save([1, 2, 3], path),
    "a model": lambda path: torch.save(net(), path),
    "weights": lambda path: torch.save(net().state_dict(), path),
    "arrays": lambda path: path.write_bytes(npz()),
    "pickle": lambda path: pd.to_pickle({"settings": np.float64(1)}, path),
}


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_another_kind_of_file_is_refused_and_stays(data, tmp_path, kind):
    path = tmp_path / "mine"
    OTHER_FILES[kind](path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="mine is not a file that `train` has written; name another file") as caught:
        run(path, data, "momentum")
    assert "delete" not in str(caught.value) and path.read_bytes() == before


def test_a_folder_is_no_checkpoint(data, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint must be a file, got '.*'; name one in it, such as .*run.pt"):
        run(tmp_path, data, "momentum")
    with pytest.raises(ValueError, match=r"checkpoint must be a file in a folder that is there, got '.*lost.*run.pt'"):
        run(tmp_path / "lost" / "run.pt", data, "momentum")


def test_no_name_is_no_checkpoint(data):
    for name in ("", "/"):
        with pytest.raises(
            ValueError, match="checkpoint must be a file in a folder that is there, got '/?'; None writes"
        ):
            run(name, data, "momentum")


def test_a_name_may_be_as_long_as_names_are(data, tmp_path):
    path = tmp_path / ("ü" * 120 + ".checkpoint.pt")  # 254 bytes
    _, part, _ = run(path, data, "momentum", interrupt=8)
    expected, again = run(None, data, "momentum")[1], run(path, data, "momentum")[1]
    assert part.status == "stopped" and os.listdir(tmp_path) == [path.name]
    pd.testing.assert_frame_equal(expected.records, again.records, check_exact=True)


def test_a_home_is_found(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run("~/run.pt", data, "momentum", steps=3)
    assert os.listdir(tmp_path) == ["run.pt"]


class Clipped(torch.optim.Optimizer):
    """A wrapper of a user's own."""

    def __init__(self, base, most):
        self.base, self.most = base, most
        self.__setstate__({"defaults": base.defaults})

    param_groups = property(lambda self: self.base.param_groups)
    state = property(lambda self: self.base.state)

    def step(self, closure):
        closure()
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], self.most)
        self.base.step()


def test_the_settings_of_a_wrapper_of_ones_own_are_compared(data, tmp_path):
    path = tmp_path / "run.pt"
    clipped = lambda most, lr=0.1: lambda model: Clipped(sgd(model, lr), most)  # noqa: E731
    resumed(path, data, optimizer=clipped(1.0))
    with pytest.raises(ValueError, match="other settings, most 1 instead of 2"):
        resumed(path, data, optimizer=clipped(2.0))
    with pytest.raises(ValueError, match="other settings, lr 0.1 instead of 0.2"):
        resumed(path, data, optimizer=clipped(1.0, lr=0.2))
    assert resumed(path, data, optimizer=clipped(1))["step"].tolist() == [4, 8]


# --- bad input


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"steps": None}, "steps must be an integer >= 1, got None"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"steps": 2.5}, "steps must be an integer >= 1, got 2.5"),
        ({"check_every": 0}, "check_every must be an integer >= 1, got 0"),
        ({"stop_loss": math.nan}, "stop_loss must be a finite number > 0, got nan"),
        ({"stop_loss": 0.0}, "stop_loss must be a finite number > 0, got 0.0"),
        ({"record_every": 1.5}, "record_every must be an integer >= 1, got 1.5"),
        ({"stop_loss": "0.1"}, "stop_loss must be a finite number > 0, got '0.1'"),
        ({"seed": 0.5}, "seed must be an integer from 0 to .*, got 0.5"),
        ({"batch_size": 97}, "batch_size must be an integer from 1 to 96, got 97"),
        ({"batch_size": 0}, "batch_size must be an integer from 1 to 96, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer from 1 to 96, got 2.5"),
        ({"batch_size": 97, "check_every": 1}, "batch_size must be an integer from 1 to 96, got 97"),
    ],
)
def test_settings_are_checked_before_anything_moves(data, settings, match):
    model = net()
    with pytest.raises(ValueError, match=match):
        train(model, data, sgd(model), **{"batch_size": 32, "steps": 5} | settings)
    assert_same(model, net())


@pytest.mark.parametrize("lr", [0.0, -0.1, math.nan, math.inf])
def test_lr_must_be_positive_and_finite(data, lr):
    model = net()
    optimizer = sgd(model)
    optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match=f"lr must be a finite number > 0, got {lr}"):
        train(model, data, optimizer, batch_size=32, steps=5)


def test_labels_must_have_an_output(data):
    model = build(lambda: mlp(40, [8], 9), 0)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.8, got 9 in y_train"):
        train(model, data, sgd(model), batch_size=32, steps=5)


def test_devices_must_agree(data):
    model = net()
    with pytest.raises(
        ValueError, match=r"model and data must be on one device, got \['cpu', 'meta'\]; use .to\(device\)"
    ):
        train(model, data.to("meta"), sgd(model), batch_size=32, steps=5)


def test_the_optimizer_must_be_of_this_model(data):
    with pytest.raises(ValueError, match="optimizer must hold parameters of this model, got others"):
        train(net(), data, sgd(net()), batch_size=32, steps=5)


def test_something_must_be_left_to_train(data):
    model = net().requires_grad_(False)
    with pytest.raises(ValueError, match="optimizer must hold a parameter to train, but all have requires_grad=False"):
        train(model, data, sgd(model), batch_size=32, steps=5)


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda out: (out, None), "'tuple'"), (lambda out: out[:, 0], r"\(2,\)"), (lambda out: out[:1], r"\(1, 10\)")],
)
def test_a_model_must_return_a_row_of_outputs_for_each_point(data, change, found):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            return change(self.inner(x))

    model = Other()
    with pytest.raises(
        ValueError, match=rf"model must be one that returns a tensor of outputs \(n, n_out\), got {found}"
    ):
        train(model, data, sgd(model), batch_size=32, steps=5)
    with pytest.raises(ValueError, match="model must be one that returns a tensor of outputs"):
        evaluate(model, data.x_test[:2], data.y_test[:2])


def test_integers_that_a_model_does_not_take_are_named(data):
    model, raw = net(), data._replace(x_train=(9 * data.x_train).to(torch.uint8))
    with pytest.raises(ValueError, match=r"this model does not take x of torch.uint8; use x.float\(\), or begin with"):
        train(model, raw, sgd(model), batch_size=32, steps=5)
    other = build(lambda: mlp(39, [8], 10), 0)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(other, data, sgd(other), batch_size=32, steps=5)


@pytest.mark.parametrize("criterion", [lambda out, y: 0.5, lambda out, y: F.cross_entropy(out, y, reduction="none")])
def test_a_criterion_must_return_one_number(data, criterion):
    model = net()
    with pytest.raises(
        ValueError, match="criterion must be a function that returns the loss, a tensor of one number, got"
    ):
        train(model, data, sgd(model), batch_size=32, steps=5, criterion=criterion)


def test_data_are_four_tensors(data):
    arrays = [part.numpy() for part in data]
    for call in (lambda: train(net(), arrays, sgd(net()), batch_size=20, steps=4), lambda: in_ensemble(arrays)):
        with pytest.raises(ValueError, match="data must be tensors x_train, y_train, .*use torch.as_tensor on arrays"):
            call()
    assert in_ensemble(tuple(data)).table.equals(in_ensemble(data).table)


def in_ensemble(data, **settings):
    return train_ensemble(
        lambda: mlp(40, [4], 10), data, **{"seeds": [0], "batch_size": 20, "lr": 0.1, "steps": 4} | settings
    )


@pytest.mark.parametrize("change", [lambda x: x[:, :20], lambda x: x.double()])
def test_test_data_that_the_model_does_not_take_are_named_before_it_is_trained(data, change):
    model, odd = net(), data._replace(x_test=change(data.x_test))
    before = params_of(model)
    for call in (lambda: train(model, odd, sgd(model), batch_size=20, steps=4), lambda: in_ensemble(odd)):
        with pytest.raises(
            ValueError, match=r"this model does not take x_test of torch.float.*, rows \((20|40),\), but takes x_train"
        ):
            call()
    torch.testing.assert_close(params_of(model), before, rtol=0, atol=0)


def test_a_class_is_no_criterion_wherever_one_is_asked_for(data):
    odd, model = nn.CrossEntropyLoss, net()
    for call in (
        lambda: train(model, data, sgd(model), batch_size=20, steps=4, criterion=odd),
        lambda: in_ensemble(data, criterion=odd),
        lambda: loss_of(model, data.x_test, data.y_test, odd),
        lambda: loss_between(model, model, data.x_test, data.y_test, "keep", odd),
    ):
        with pytest.raises(ValueError, match=r"criterion must be a function, .* as in nn.CrossEntropyLoss\(\)"):
            call()


def test_a_link_stays_and_what_it_leads_to_is_written(data, tmp_path):
    (tmp_path / "scratch").mkdir()
    link = tmp_path / "run.pt"
    link.symlink_to(tmp_path / "scratch" / "far.pt")
    for steps in (4, 8):
        model = net()
        run = train(model, data, sgd(model), batch_size=20, steps=steps, record_every=4, checkpoint=link)
    assert run.records["step"].tolist() == [4, 8] and link.is_symlink() and (tmp_path / "scratch" / "far.pt").is_file()


def test_an_optimizer_may_have_no_rate(data):
    class Fixed(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        @torch.no_grad()
        def step(self, closure):
            with torch.enable_grad():
                closure()
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad, alpha=0.1)

    one, other = net(), net()
    train(one, data, Fixed(one.parameters()), batch_size=20, steps=4)
    train(other, data, sgd(other), batch_size=20, steps=4)
    torch.testing.assert_close(params_of(one), params_of(other), rtol=0, atol=0)
