"""Many models at once must be each model alone: torch's own optimizers, one model at a time, are the reference."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from sam_lite import ascents, ensemble, stacked
from sam_lite.data import Data, batches
from sam_lite.ensemble import train_ensemble
from sam_lite.models import build, mlp
from sam_lite.params import load_params, loss_of, member, params_of, stack
from sam_lite.sam import SAM, sam_gradient
from sam_lite.train import evaluate, train

MAKE = partial(mlp, 6, (8, 7), 3)
OTHER = torch.ones(3, requires_grad=True)


def cloud(n=60, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n + 20, 6, generator=g, dtype=dtype)
    y = torch.randint(0, 3, (n + 20,), generator=g)
    x[torch.arange(n + 20), y] += 2  # learnable
    return Data(x[:n], y[:n], x[n:], y[n:])


def alone(make, data, seed, optimizer, batch_size, steps, rho=0.0, schedule=None):
    """The slow reference: one model, torch's optimizer, autograd."""
    model = build(make, seed).to(data.x_train.dtype)
    opt = optimizer(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, schedule) if schedule else None
    g = torch.Generator().manual_seed(seed)
    order = []
    for _ in range(steps):
        order = order or list(batches(len(data.x_train), batch_size, g))
        i = order.pop(0)
        grads, _ = sam_gradient(loss_of(model, data.x_train[i], data.y_train[i]), params_of(model), rho)
        for name, p in model.named_parameters():
            p.grad = grads[name].detach()
        opt.step()
        if scheduler:
            scheduler.step()
    return params_of(model)


SGD, ADAM = torch.optim.SGD, torch.optim.Adam
CASES = {
    "sgd": (dict(lr=0.1), partial(SGD, lr=0.1), 0.0),
    "momentum and decay": (
        dict(lr=0.05, momentum=0.9, weight_decay=0.01),
        partial(SGD, lr=0.05, momentum=0.9, weight_decay=0.01),
        0.0,
    ),
    "adam": (dict(lr=0.01, optimizer="adam"), partial(ADAM, lr=0.01), 0.0),
    "adam and decay": (
        dict(lr=0.01, optimizer="adam", weight_decay=0.1),
        partial(ADAM, lr=0.01, weight_decay=0.1),
        0.0,
    ),
    "sam": (dict(lr=0.1, rho=0.1), partial(SGD, lr=0.1), 0.1),
    "sam, momentum": (dict(lr=0.05, rho=0.2, momentum=0.9), partial(SGD, lr=0.05, momentum=0.9), 0.2),
}


QUICK = ("momentum and decay", "sam, momentum")  # those for `make check`, of many alike


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c not in QUICK)) for c in CASES])
def test_each_member_follows_the_path_it_would_take_alone(case):
    settings, optimizer, rho = CASES[case]
    data = cloud()
    many = train_ensemble(MAKE, data, seeds=[3, 5, 8], batch_size=8, steps=40, **settings)
    for i, seed in enumerate([3, 5, 8]):
        torch.testing.assert_close(
            member(many.params, i), alone(MAKE, data, seed, optimizer, 8, 40, rho), rtol=0, atol=1e-12
        )


def test_schedule_multiplies_the_learning_rate_as_torch_does():
    halve = lambda step: 0.5 ** (step // 10)  # noqa: E731
    data = cloud()
    many = train_ensemble(MAKE, data, seeds=[1], batch_size=8, lr=0.2, steps=40, schedule=halve)
    torch.testing.assert_close(
        member(many.params, 0), alone(MAKE, data, 1, partial(SGD, lr=0.2), 8, 40, 0.0, halve), rtol=0, atol=1e-12
    )


def test_settings_of_one_member_leave_the_others_alone():
    data = cloud()
    mixed = train_ensemble(
        MAKE,
        data,
        seeds=[1, 2, 3],
        batch_size=8,
        lr=[0.1, 0.2, 0.3],
        momentum=[0, 0.5, 0.9],
        weight_decay=[0, 0.1, 0],
        rho=[0, 0, 0.3],
        steps=30,
    )
    for i, s in enumerate(
        [dict(lr=0.1), dict(lr=0.2, momentum=0.5, weight_decay=0.1), dict(lr=0.3, momentum=0.9, rho=0.3)]
    ):
        single = train_ensemble(MAKE, data, seeds=[i + 1], batch_size=8, steps=30, **s)
        torch.testing.assert_close(member(mixed.params, i), member(single.params, 0), rtol=0, atol=1e-12)
    assert mixed.table["gradients"].tolist() == [30, 30, 60]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(
    "criterion",
    [F.cross_entropy, lambda out, y: ((out - torch.eye(3).to(out)[y]) ** 2).mean()],
    ids=["cross-entropy", "squared error"],
)
def test_back_propagation_by_hand_equals_autograd(activation, criterion):
    model = mlp(6, (8, 7), 3, activation=activation).double()
    params = stack([params_of(build(lambda: mlp(6, (8, 7), 3, activation=activation), s)) for s in range(4)])
    params = {k: p.double() for k, p in params.items()}
    data = cloud()
    x, y = data.x_train.reshape(4, 15, 6), data.y_train.reshape(4, 15)
    grads = stacked.gradient(model, criterion)(params, x, y)
    for i in range(4):
        reference = torch.func.grad(loss_of(model, x[i], y[i], criterion))(member(params, i))
        torch.testing.assert_close(member(grads, i), reference, rtol=0, atol=1e-13)


def test_the_climb_of_many_at_once_is_the_mapped_one():
    """`steepest_ascent` itself takes a shorter way than any other function, such as one that calls it."""
    go = partial(train_ensemble, MAKE, cloud(), seeds=[3, 5, 8], batch_size=8, lr=0.1, steps=20, rho=[0.0, 0.1, 0.3])
    quick, mapped = go(), go(ascent=lambda *args: ascents.ascent(*args))
    torch.testing.assert_close(quick.params, mapped.params, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e30, 0.0])
def test_gradients_whose_squares_leave_the_range_are_climbed_by_all_the_same(size):
    params = {"w": torch.ones(2, 3, 4), "b": torch.ones(2, 5)}
    grads = {"w": torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), "b": torch.zeros(2, 5)}
    grads = {name: torch.stack([g[0], size * g[1]]) for name, g in grads.items()}
    assert ascents.lengths(grads) is None
    group = SimpleNamespace(params=params, hyper={"rho": torch.tensor([0.1, 0.5])}, space={})
    found = ensemble._climbed(group, grads, ascents.ascent)
    for i, rho in enumerate([0.1, 0.5]):
        e = ascents.ascent({name: g[i].double() for name, g in grads.items()}, member(params, i), rho)
        torch.testing.assert_close(member(found, i), {name: (1 + x).float() for name, x in e.items()})


def test_gradients_stay_as_they_are_unless_a_space_is_given_to_write_over():
    gradient, data, space = stacked.gradient(MAKE().double()), cloud(), {}
    params = stack([params_of(build(MAKE, s).double()) for s in range(2)])
    first, second = (
        (data.x_train[i : i + 20].reshape(2, 10, 6), data.y_train[i : i + 20].view(2, 10)) for i in (0, 20)
    )
    kept = gradient(params, *first)
    before = {name: g.clone() for name, g in kept.items()}
    other = gradient(params, *second)
    torch.testing.assert_close(kept, before, rtol=0, atol=0)
    again = gradient(params, *first, (), space)
    torch.testing.assert_close(again, before, rtol=0, atol=0)
    gradient(params, *second, (), space)
    torch.testing.assert_close(again, other, rtol=0, atol=0)


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_large_outputs_do_not_overflow(size):
    """exp(1e4) is infinite; softmax is not, whatever is added to all outputs."""
    model, data = MAKE().double(), cloud()
    params = {name: torch.stack([p, p]) for name, p in params_of(model).items()}
    params["4.bias"][1] += size
    x, y = (part.expand(2, *part.shape) for part in data[:2])
    grads = stacked.gradient(model)(params, x, y)
    torch.testing.assert_close(member(grads, 1), member(grads, 0), rtol=0, atol=1e-9)


def test_any_other_model_goes_through_vmap():
    make = lambda: nn.Sequential(  # noqa: E731
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(16, 3)
    )
    data = cloud()
    many = train_ensemble(make, data, seeds=[0, 4], batch_size=8, lr=0.1, steps=20)
    for i, seed in enumerate([0, 4]):
        torch.testing.assert_close(
            member(many.params, i), alone(make, data, seed, partial(SGD, lr=0.1), 8, 20), rtol=0, atol=1e-12
        )


def test_training_in_chunks_changes_nothing():
    data = cloud()
    whole, parts = (
        train_ensemble(
            MAKE, data, seeds=range(5), batch_size=8, lr=0.2, steps=60, stop_loss=0.2, record_every=15, chunk=c
        )
        for c in (5, 2)
    )
    torch.testing.assert_close(whole.params, parts.params, rtol=0, atol=1e-12)
    assert whole.records["step"].tolist() == parts.records["step"].tolist()


def test_a_member_is_frozen_when_it_reaches_the_loss():
    data = cloud()
    many = train_ensemble(
        MAKE, data, seeds=range(4), batch_size=8, lr=[0.5, 0.2, 0.1, 1e-6], steps=400, stop_loss=0.1, check_every=20
    )
    assert many.table["status"].tolist() == ["stop_loss"] * 3 + ["steps"]
    assert many.table["step"].is_monotonic_increasing and many.table["step"].iloc[0] < 400
    for i, row in many.table.iterrows():
        loss = loss_of(MAKE().double(), data.x_train, data.y_train)(member(many.params, i))
        assert math.isclose(loss, row["train_loss"], rel_tol=1e-12)
        assert row["status"] == "steps" or loss <= 0.1
        again = train_ensemble(MAKE, data, seeds=[i], batch_size=8, lr=row["lr"], steps=int(row["step"]))
        torch.testing.assert_close(member(many.params, i), member(again.params, 0), rtol=0, atol=1e-12)


def test_those_that_go_on_keep_their_momentum_and_rho():
    """The first ends after one check; what it leaves behind must not reach the others."""
    settings = [dict(lr=0.3, momentum=0.5), dict(lr=0.01, momentum=0.9, rho=0.3), dict(lr=0.02, rho=0.1)]
    data, together = cloud(), {name: [s.get(name, 0.0) for s in settings] for name in ("lr", "momentum", "rho")}
    many = train_ensemble(
        MAKE, data, seeds=[0, 1, 2], batch_size=8, steps=90, stop_loss=0.3, check_every=15, **together
    )
    assert many.table["step"].iloc[0] < 90 and many.table["step"].tolist()[1:] == [90, 90], many.table
    for i in (1, 2):
        single = train_ensemble(MAKE, data, seeds=[i], batch_size=8, steps=90, **settings[i])
        torch.testing.assert_close(member(many.params, i), member(single.params, 0), rtol=0, atol=1e-12)


def test_a_diverged_member_is_marked_and_poisons_nobody():
    data = cloud()
    many = train_ensemble(MAKE, data, seeds=[0, 1, 2], batch_size=8, lr=[0.1, 1e200, 0.1], steps=50, check_every=10)
    assert many.table["status"].tolist() == ["steps", "diverged", "steps"]
    assert many.table["step"].tolist() == [50, 10, 50]
    pair = train_ensemble(MAKE, data, seeds=[0, 2], batch_size=8, lr=0.1, steps=50)
    torch.testing.assert_close(member(many.params, 2), member(pair.params, 1), rtol=0, atol=1e-12)


def test_records_and_hook():
    data = cloud()
    many = train_ensemble(
        MAKE,
        data,
        seeds=[7, 9],
        batch_size=10,
        lr=0.1,
        steps=24,
        record_every=8,
        record=lambda params, members: {"number": members * 10, "first": params["0.bias"][:, 0]},
    )
    assert many.records["step"].tolist() == [8, 16, 24] * 2
    assert many.records["number"].tolist() == [0] * 3 + [10] * 3
    assert many.records["epoch"].tolist() == [8 / 6, 16 / 6, 4.0] * 2
    last = many.records.groupby("model").tail(1)
    assert last["first"].tolist() == many.params["0.bias"][:, 0].tolist()
    for i, row in enumerate(last.to_dict("records")):
        for part, x, y in (("train", *data[:2]), ("test", *data[2:])):
            out = functional_call(MAKE().double(), member(many.params, i), (x,))
            assert row[f"{part}_loss"] == pytest.approx(F.cross_entropy(out, y).item(), rel=1e-12)
            assert row[f"{part}_acc"] == pytest.approx((out.argmax(1) == y).double().mean().item(), rel=1e-6)


def test_evaluation_in_blocks_is_evaluation(monkeypatch):
    model, data = MAKE().double(), cloud()
    params, outputs = stack([params_of(build(MAKE, seed).double()) for seed in (0, 1)]), stacked.forward(model)
    whole = stacked.evaluate(outputs, params, data.x_train, data.y_train)
    monkeypatch.setattr(stacked, "BLOCK", 7)  # 60 points: the last block has 4
    torch.testing.assert_close(stacked.evaluate(outputs, params, data.x_train, data.y_train), whole)


@pytest.mark.parametrize("limit", [2**26, 200, 1])  # all models at once, some, one
@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)),
        nn.CrossEntropyLoss(reduction="sum"),
        lambda out, y: out.std(),
        F.cross_entropy,
    ],
    ids=["class weights", "sum", "no mean", "mean"],
)
def test_the_loss_is_that_of_all_points_whatever_the_criterion(monkeypatch, criterion, limit):
    """Sorted labels: no block has the classes of the whole."""
    monkeypatch.setattr(stacked, "BLOCK", 7)
    monkeypatch.setattr(stacked, "OUTPUTS", limit)
    model, data = MAKE().double(), cloud()
    order = data.y_train.argsort()
    x, y = data.x_train[order], data.y_train[order]
    members = [{name: p.double() for name, p in params_of(build(MAKE, seed)).items()} for seed in range(5)]
    loss, accuracy = stacked.evaluate(stacked.forward(model), stack(members), x, y, criterion)
    outs = [functional_call(model, p, (x,)) for p in members]
    torch.testing.assert_close(loss, torch.stack([criterion(out, y) for out in outs]), rtol=1e-12, atol=0)
    assert accuracy.tolist() == pytest.approx([(out.argmax(1) == y).double().mean().item() for out in outs])
    with pytest.raises(ValueError, match="y must hold a label for each row of x, one or more, got 59 for 60"):
        stacked.evaluate(stacked.forward(model), stack(members), x, y[:-1], criterion)


def test_it_starts_where_it_is_told():
    data = cloud()
    first = train_ensemble(MAKE, data, seeds=[0, 1], batch_size=60, lr=0.1, steps=30)
    second = train_ensemble(MAKE, data, seeds=[0, 1], batch_size=60, lr=0.1, steps=10, start=first.params)
    straight = train_ensemble(MAKE, data, seeds=[0, 1], batch_size=60, lr=0.1, steps=40)
    torch.testing.assert_close(second.params, straight.params, rtol=0, atol=1e-12)
    torch.testing.assert_close(second.start, first.params, rtol=0, atol=0)


def test_progress_counts_steps_of_all_groups():
    seen = []

    class Bar:
        def __init__(self, total):
            seen.append(("total", total))

        def update(self, n):
            seen.append(n)

        def close(self):
            seen.append("closed")

    train_ensemble(
        MAKE, cloud(), seeds=[0, 1, 2], batch_size=8, lr=[0.5, 0.5, 1e-6], steps=300, stop_loss=0.2, progress=Bar
    )
    assert seen[0] == ("total", 300) and seen[-1] == "closed" and sum(seen[1:-1]) == 300


BAD = [
    (dict(seeds=[]), "seeds must hold at least one seed, got none"),
    (dict(batch_size=61), "batch_size must be an integer from 1 to 60, got 61"),
    (dict(batch_size=0), "batch_size must be an integer from 1 to 60, got 0"),
    (dict(lr=0.0), "lr must be a finite number > 0, got 0.0"),
    (dict(lr=float("nan")), "lr must be a finite number > 0, got nan"),
    (dict(lr="0"), r"lr must be one number or one per model, 2, got 1"),
    (dict(lr=None), "lr must be a finite number > 0, got None"),
    (dict(lr=[0.1]), "lr must be one number or one per model, 2, got 1"),
    (dict(momentum=1.0), "momentum must be a finite number >= 0 and < 1, got 1.0"),
    (dict(momentum=[0, 0.9], optimizer="adam"), "momentum must be 0 with Adam, which has rates of its own, got 0.9"),
    (dict(weight_decay=-1), "weight_decay must be a finite number >= 0, got -1"),
    (dict(rho=[0.1, -0.1]), r"rho\[1\] must be a finite number >= 0, got -0.1"),
    (dict(steps=0), "steps must be an integer >= 1, got 0"),
    (dict(steps=1e4), "steps must be an integer >= 1, got 10000.0"),
    (dict(check_every=0), "check_every must be an integer >= 1, got 0"),
    (dict(record_every=2.5), "record_every must be an integer >= 1, got 2.5"),
    (dict(chunk=0), "chunk must be an integer >= 1, got 0"),
    (dict(stop_loss=0.0), "stop_loss must be a finite number > 0, got 0.0"),
    (dict(optimizer="lion"), "optimizer must be 'sgd' or 'adam', got 'lion'"),
    (dict(start=stack([params_of(MAKE())])), "start must hold 2 models, one per seed, with shapes .*got .*1, "),
    (dict(start={"w": torch.zeros(2, 3)}), "start must hold 2 models, one per seed, with shapes .*got {'w'"),
]


@pytest.mark.parametrize("change, message", BAD, ids=[str(m) for _, m in BAD])
def test_bad_settings_are_named(change, message):
    good = dict(seeds=[0, 1], batch_size=8, lr=0.1, steps=5)
    with pytest.raises(ValueError, match=message):
        train_ensemble(MAKE, cloud(), **good | change)


@pytest.mark.parametrize(
    ("seeds", "match"),
    [
        (3, "seeds must be integers in a row, such as range"),
        (np.int64(3), "seeds must be integers in a row, such as range"),
        ("01", "seeds must be integers in a row, such as range"),
        (["a"], r"seeds\[0\] must be an integer from 0 to .*, got 'a'"),
        ([1, 0.5], r"seeds\[1\] must be an integer from 0 to .*, got 0.5"),
        ([-1], r"seeds\[0\] must be an integer from 0 to .*, got -1"),
    ],
    ids=str,
)
def test_seeds_are_integers(seeds, match):
    with pytest.raises(ValueError, match=match):
        train_ensemble(MAKE, cloud(), seeds=seeds, batch_size=8, lr=0.1, steps=5)


def test_numbers_of_numpy_and_torch_serve_too():
    good = dict(batch_size=8, lr=0.1, steps=5)
    expected = train_ensemble(MAKE, cloud(), seeds=[0, 1], **good).table["train_loss"]
    for seeds, lr in (
        (np.arange(2), np.float64(0.1)),
        (torch.arange(2), torch.tensor([0.1, 0.1], dtype=torch.float64)),
        (pd.Series([0, 1], index=[5, 7]), pd.Series([0.1, 0.1], index=[5, 7])),
        ([np.int32(0), torch.tensor(1)], (torch.tensor(0.1, dtype=torch.float64), np.float64(0.1))),
    ):
        assert train_ensemble(MAKE, cloud(), seeds=seeds, **good | {"lr": lr}).table["train_loss"].equals(expected)
    study = pd.DataFrame({"batch_size": [8], "steps": [5], "check": [2]}).iloc[0]
    numbers = dict(
        batch_size=study["batch_size"], steps=study["steps"], check_every=study["check"], record_every=study["check"]
    )
    found = train_ensemble(MAKE, cloud(), seeds=[0, 1], chunk=np.int64(1), stop_loss=np.float32(1e-9), **good | numbers)
    assert found.table["train_loss"].tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_model_in_place_of_its_maker_and_labels_it_does_not_have_are_named():
    good = dict(seeds=[0], batch_size=8, lr=0.1, steps=5)
    with pytest.raises(TypeError, match="make must be a function that builds a model"):
        train_ensemble(MAKE(), cloud(), **good)
    with pytest.raises(ValueError, match=r"labels must lie in 0..1, got 2 in y_train"):
        train_ensemble(lambda: nn.Sequential(nn.Linear(6, 2)), cloud(), **good)


@pytest.mark.parametrize(
    "layer, message",
    [(nn.BatchNorm1d(8), "layer '1', BatchNorm1d.*use GroupNorm"), (nn.Dropout(0.3), "layer '1', Dropout.*use p=0")],
)
def test_layers_that_cannot_be_stacked_are_named(layer, message):
    make = lambda: nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, 3))  # noqa: E731
    with pytest.raises(ValueError, match=message):
        train_ensemble(make, cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5)


def one_by_one(make, data, seed, *, rho=0.0, lr=0.1, steps=20, **settings):
    """The other route: `train`, for one model."""
    model = build(make, seed)
    model = model.to(data.x_train.dtype) if data.x_train.is_floating_point() else model
    optimizer = SGD(model.parameters(), lr=lr, **settings)
    train(model, data, SAM(optimizer, rho) if rho else optimizer, batch_size=8, steps=steps, seed=seed)
    return params_of(model)


def freezing(*names, make=MAKE):
    def made():
        model = make()
        for name, p in model.named_parameters():
            p.requires_grad_(name not in names)
        return model

    return made


def as_vmap(make):
    """The same model, but no chain of layers to `stacked`."""
    return lambda: nn.Sequential(*make(), nn.Identity())


@pytest.mark.parametrize("make", [MAKE, as_vmap(MAKE)], ids=["chain", "vmap"])
@pytest.mark.parametrize(
    "settings", [{}, {"rho": 0.1}, {"momentum": 0.9, "weight_decay": 0.1}], ids=["sgd", "sam", "momentum"]
)
@pytest.mark.parametrize(
    "frozen",
    [
        pytest.param(("0.weight", "0.bias"), id="first", marks=pytest.mark.slow),
        pytest.param(("2.bias",), id="bias", marks=pytest.mark.slow),
        pytest.param(("4.weight", "4.bias", "2.weight"), id="last"),
    ],
)
def test_what_make_freezes_stays_bit_by_bit_and_the_rest_learns_as_in_train(make, settings, frozen):
    data, make = cloud(), freezing(*frozen, make=make)
    many = train_ensemble(make, data, seeds=[0, 4], batch_size=8, lr=0.1, steps=20, **settings)
    for i, seed in enumerate([0, 4]):
        for name in frozen:
            assert torch.equal(many.params[name][i], many.start[name][i])
            assert torch.equal(many.params[name][i], params_of(build(make, seed))[name].double())
        torch.testing.assert_close(member(many.params, i), one_by_one(make, data, seed, **settings), rtol=0, atol=1e-12)


def test_adam_leaves_what_is_frozen():
    make = freezing("2.weight")
    many = train_ensemble(make, cloud(), seeds=[0], batch_size=8, lr=0.01, steps=9, optimizer="adam", weight_decay=0.1)
    assert torch.equal(many.params["2.weight"], many.start["2.weight"])
    assert not torch.equal(many.params["0.weight"], many.start["0.weight"])


@pytest.mark.parametrize(
    "settings", [{"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "adam"}], ids=["sgd", "adam"]
)
def test_weight_decay_leaves_what_the_loss_does_not_depend_on(settings):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle, self.cut = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 6)

        def forward(self, x):
            return self.used(self.cut(x).detach())

    data, made = cloud(), {"sgd": partial(SGD, momentum=0.9), "adam": ADAM}[settings["optimizer"]]
    many = train_ensemble(Idle, data, seeds=[4], batch_size=8, lr=0.01, weight_decay=0.5, rho=0.1, steps=9, **settings)
    model = build(Idle, 4).double()
    train(model, data, SAM(made(model.parameters(), lr=0.01, weight_decay=0.5), 0.1), batch_size=8, steps=9, seed=4)
    torch.testing.assert_close(member(many.params, 0), params_of(model), rtol=0, atol=1e-9)


def test_bare_parameters_a_number_and_a_frozen_list_learn_as_in_train():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.scale = nn.Parameter(torch.randn(6, 3) / 2), nn.Parameter(torch.tensor(1.0))
            self.shift = nn.ParameterList([nn.Parameter(torch.ones(3), requires_grad=False)])

        def forward(self, x):
            return self.scale * (x @ self.w) + self.shift[0]

    data = cloud()
    many = train_ensemble(Bare, data, seeds=[0, 4], batch_size=8, lr=0.1, rho=0.1, momentum=0.5, steps=20)
    expected = one_by_one(Bare, data, 4, rho=0.1, momentum=0.5)
    torch.testing.assert_close(member(many.params, 1), expected, rtol=0, atol=1e-12)


class Holding(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.linear, self.held = nn.Linear(3, 3), held

    def forward(self, x):
        return self.linear(x[:, self.held])


def test_integers_among_the_parameters_stay_integers():
    """Such as those that choose columns; they are frozen."""
    make, data = lambda: Holding(nn.Parameter(torch.tensor([0, 2, 4]), requires_grad=False)), cloud()
    many = train_ensemble(make, data, seeds=[4], batch_size=8, lr=0.1, rho=0.1, steps=9)
    assert many.params["held"].tolist() == [[0, 2, 4]] and many.params["held"].dtype == torch.int64
    torch.testing.assert_close(member(many.params, 0), one_by_one(make, data, 4, rho=0.1, steps=9), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer], ids=["parameter", "buffer"])
def test_complex_tensors_are_refused(kind):
    """In the type of the data they would lose their imaginary parts."""
    with pytest.raises(ValueError, match=r"a model of real tensors, got \['held'\]; keep torch.view_as_real of them"):
        train_ensemble(lambda: Holding(kind(torch.ones(3) * 1j)), cloud(), seeds=[4], batch_size=8, lr=0.1, steps=9)


def test_layers_without_a_shape_are_refused():
    with pytest.raises(
        ValueError, match="make must build a model with all shapes known, but '0.weight' has none; use no"
    ):
        train_ensemble(lambda: nn.Sequential(nn.LazyLinear(3)), cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5)


def test_a_model_with_nothing_to_learn_is_refused():
    for make in (lambda: MAKE().requires_grad_(False), nn.Flatten):
        with pytest.raises(
            ValueError, match="make must build a model with a parameter to train, but there is none, or"
        ):
            train_ensemble(make, cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5)


class OfTokens(nn.Module):
    """The mean of the tokens' vectors, or the last state of a recurrent layer."""

    def __init__(self, inner=None, **settings):
        super().__init__()
        self.tokens, self.inner, self.out = (
            nn.Embedding(9, 6, **settings),
            inner and inner(6, 5, batch_first=True),
            None,
        )
        self.out = nn.Linear(5 if inner else 6, 3)

    def forward(self, x):
        h = self.tokens(x)
        return self.out(self.inner(h)[0][:, -1] if self.inner else h.mean(1))


def sentences():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 9, (80, 4), generator=g)
    y = x[:, 0] % 3
    return Data(x[:60], y[:60], x[60:], y[60:])


SETTINGS = {"plain": {}, "padding": {"padding_idx": 0}, "frequency": {"scale_grad_by_freq": True}}
WORDS = [
    pytest.param(inner, settings, id=f"{name}-{how}", marks=[pytest.mark.slow] * (name in ("GRU", "RNN")))
    for name, inner in {"mean": None, "LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}.items()
    for how, settings in SETTINGS.items()
]


@pytest.mark.parametrize(("inner", "settings"), WORDS)
def test_words_and_recurrent_layers_learn_as_in_train(inner, settings):
    make, data = partial(OfTokens, inner, **settings), sentences()
    many = train_ensemble(make, data, seeds=[0, 4], batch_size=8, lr=0.1, momentum=0.9, rho=0.1, steps=20)
    assert many.params["tokens.weight"].dtype == torch.float32
    for i, seed in enumerate([0, 4]):
        expected = one_by_one(make, data, seed, rho=0.1, momentum=0.9)
        torch.testing.assert_close(member(many.params, i), expected, rtol=1e-4, atol=1e-5)
        loss, acc = evaluate_one(make, expected, data)
        assert many.table["test_loss"][i] == pytest.approx(loss, rel=1e-4) and many.table["test_acc"][
            i
        ] == pytest.approx(acc)


def evaluate_one(make, params, data):
    return evaluate(load_params(make(), params), data.x_test, data.y_test)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"])
def test_normed_weights_learn_as_in_train(norm):
    make, data = lambda: nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)), cloud()
    many = train_ensemble(make, data, seeds=[0, 4], batch_size=8, lr=0.1, rho=0.1, steps=20)
    for i, seed in enumerate([0, 4]):
        torch.testing.assert_close(member(many.params, i), one_by_one(make, data, seed, rho=0.1), rtol=0, atol=1e-10)


def test_layers_that_share_weights_or_have_hooks_learn_as_in_train():
    def tied():
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
        model[2].weight = model[0].weight
        return model

    def hooked():
        model = MAKE()
        model[1].register_forward_hook(lambda layer, args, out: 2 * out)
        return model

    def resting():
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        model[1].eval()
        model[3].eval()
        return model

    data = cloud()
    for make in (tied, hooked, resting):
        many = train_ensemble(make, data, seeds=[0, 4], batch_size=8, lr=0.1, steps=20)
        for i, seed in enumerate([0, 4]):
            torch.testing.assert_close(member(many.params, i), one_by_one(make, data, seed), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tail", [False, True], ids=["at the end", "within"])
def test_an_activation_used_twice_is_there_twice(tail):
    def make():
        relu = nn.ReLU()
        return nn.Sequential(nn.Linear(6, 8), relu, nn.Linear(8, 8 if tail else 3), relu, *[nn.Linear(8, 3)] * tail)

    data = cloud()
    many = train_ensemble(make, data, seeds=[0, 4], batch_size=8, lr=0.1, steps=20)
    for i, seed in enumerate([0, 4]):
        torch.testing.assert_close(member(many.params, i), one_by_one(make, data, seed), rtol=0, atol=1e-12)
    model = load_params(make(), member(many.params, 1)).double()
    loss, acc = ensemble.evaluate(model, many.params, data.x_test, data.y_test)
    assert evaluate(model, data.x_test, data.y_test) == pytest.approx((loss[1].item(), acc[1].item()))


def test_a_forward_pass_of_ones_own_is_that_of_train():
    def make():
        model = MAKE()
        inner = model[0].forward
        model[0].forward = lambda x: 2 * inner(x)
        return model

    data = cloud()
    many = train_ensemble(make, data, seeds=[0, 4], batch_size=8, lr=0.1, steps=20)
    for i, seed in enumerate([0, 4]):
        model = build(make, seed).double()
        train(model, data, SGD(model.parameters(), lr=0.1), batch_size=8, steps=20, seed=seed)
        torch.testing.assert_close(member(many.params, i), params_of(model), rtol=0, atol=1e-12)


def test_hooks_on_the_way_back_are_not_passed_over():
    def layer():
        model = MAKE()
        model[1].register_full_backward_pre_hook(lambda layer, grads: (0 * grads[0],))
        return model

    def weight(register):
        model = MAKE()
        getattr(model[0].weight, register)(lambda grad: None)
        return model

    good = dict(data=cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5)
    with pytest.raises(ValueError, match=r"layer '1', ReLU\(\), cannot be had in stacked models"):
        train_ensemble(layer, **good)
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        with pytest.raises(
            ValueError, match=r"make must be a model without hooks on its parameters, got \['0.weight'\]; use `train`"
        ):
            train_ensemble(partial(weight, register), **good)


def test_batch_norm_without_statistics_learns_as_in_train():
    def make():
        norm = nn.BatchNorm1d(8, track_running_stats=False)
        return nn.Sequential(nn.Linear(6, 8), norm, nn.ReLU(), nn.Linear(8, 3))

    data = cloud()
    many = train_ensemble(make, data, seeds=[0, 4], batch_size=8, lr=0.1, steps=20)
    for i, seed in enumerate([0, 4]):
        expected = one_by_one(make, data, seed)
        torch.testing.assert_close(member(many.params, i), expected, rtol=0, atol=1e-10)
        assert many.table["test_loss"][i] == pytest.approx(evaluate_one(lambda: make().double(), expected, data)[0])


def test_the_callers_model_and_its_parts_stay_as_they_are():
    own = mlp(6, (8, 7), 3).eval()
    before, good = params_of(own), dict(seeds=[0, 1], batch_size=8, lr=0.1, steps=5)
    first = train_ensemble(MAKE, cloud(), **good)
    for make in (lambda: own, lambda: nn.Sequential(*own)):
        with pytest.raises(
            ValueError, match="make must be a function that builds a model at each call, got 'the same a"
        ):
            train_ensemble(make, cloud(), **good)
        found = train_ensemble(make, cloud(), **good, start=first.start)
        torch.testing.assert_close(found.params, first.params, rtol=0, atol=0)
    found = train_ensemble(lambda: nn.Sequential(*own[:-1], nn.Linear(7, 3)), cloud(), **good)
    assert torch.equal(found.start["0.weight"][1].float(), own[0].weight) and found.start["4.weight"].std(0).min() > 0
    assert not own.training and not own[0].training
    torch.testing.assert_close(params_of(own), before, rtol=0, atol=0)  # and of their type


def test_a_function_that_seeds_itself_is_refused():
    def make():
        torch.manual_seed(3)
        return MAKE()

    good = dict(seeds=[0, 1], batch_size=8, lr=0.1, steps=5)
    with pytest.raises(ValueError, match="make must be a function that draws from the seed it is given, got 'one that"):
        train_ensemble(make, cloud(), **good)
    first = train_ensemble(MAKE, cloud(), **good)
    again = train_ensemble(make, cloud(), **good, start=first.start)
    torch.testing.assert_close(again.params, first.params, rtol=0, atol=0)


def test_models_that_come_from_other_dice_or_from_a_row_are_refused():
    """The seed would not stand for them, and of a row the second would be the first."""
    dice, row = np.random.default_rng(0), iter([MAKE() for _ in range(9)])

    def other_dice():
        model = MAKE()
        model[0].weight.data = torch.from_numpy(dice.normal(size=(8, 6))).float()
        return model

    for make in (other_dice, lambda: next(row)):
        with pytest.raises(
            ValueError, match="a model from its seed alone, got 'two of one seed that differ'; draw with torch"
        ):
            train_ensemble(make, cloud(), seeds=[0, 1], batch_size=8, lr=0.1, steps=2)
    start = stack([params_of(MAKE()) for _ in range(2)])
    found = train_ensemble(lambda: next(row), cloud(), seeds=[0, 1], batch_size=8, lr=0.1, steps=2, start=start)
    torch.testing.assert_close(found.start, {name: p.double() for name, p in start.items()})


def test_models_that_hide_others_are_refused():
    message = "model must be plain modules, got .*DataParallel.*; use what it was made of"
    if torch.cuda.is_available():  # where DataParallel sends what it is given
        message = "make must build on the CPU"
    with pytest.raises(ValueError, match=message):
        train_ensemble(lambda: nn.DataParallel(MAKE()), cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sam_in_half_precision_is_refused_as_by_sam(dtype):
    good = dict(seeds=[0, 1], batch_size=8, lr=0.1, steps=2)
    train_ensemble(MAKE, cloud(dtype=dtype), **good)
    with pytest.raises(ValueError, match=f"data must be float32 or float64 where rho > 0, got {dtype}; SAM's steps"):
        train_ensemble(MAKE, cloud(dtype=dtype), rho=[0.0, 0.1], **good)


@pytest.mark.parametrize("make", [MAKE, partial(mlp, 6, (8,), 3, "gelu")], ids=["chain", "vmap"])
def test_inputs_that_want_a_gradient_get_none(make):
    data, good = cloud(), dict(seeds=[0, 1], batch_size=8, lr=0.1, rho=0.1, steps=5)
    wanting = data._replace(x_train=data.x_train.clone().requires_grad_())
    found = train_ensemble(make, wanting, **good)
    torch.testing.assert_close(found.params, train_ensemble(make, data, **good).params, rtol=0, atol=0)
    assert wanting.x_train.grad is None and not any(p.requires_grad for p in found.params.values())


class Fading(nn.Module):
    """A loss of its own at every call, since a warm-up counts them or a mask is drawn."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.calls, self.mask = kind, 0, nn.Dropout(0.5)

    def forward(self, out, y):
        self.calls += 1
        return F.cross_entropy(out, y) / self.calls if self.kind == "count" else F.cross_entropy(self.mask(out), y)


@pytest.mark.parametrize("kind", ["count", "mask"])
def test_a_criterion_with_another_loss_at_each_call_is_refused(kind):
    """It is called once for all models together, and at each look at all data."""
    run = partial(train_ensemble, MAKE, cloud(), seeds=[0, 1], batch_size=8, lr=0.1, steps=5)
    with pytest.raises(
        ValueError, match="criterion must be one that gives equal outputs one loss, got .*; use `train`"
    ):
        run(criterion=Fading(kind))
    with pytest.raises(ValueError, match="criterion must be one that gives equal outputs one loss"):
        run(criterion=lambda out, y: F.cross_entropy(out, y) + 1e-7 * torch.rand(()))  # seen in what is drawn alone
    run(criterion=lambda out, y: F.cross_entropy(out * 1.0, y))
    gelu = partial(mlp, 6, (8,), 3, "gelu")  # of which a criterion may change the outputs
    found = train_ensemble(gelu, cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5, criterion=doubled)
    other = train_ensemble(gelu, cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5, criterion=twice)
    torch.testing.assert_close(found.params, other.params)


def doubled(out, y):
    return F.cross_entropy(out.mul_(2), y)


def twice(out, y):
    return F.cross_entropy(2 * out, y)


@pytest.mark.parametrize("make", [MAKE, partial(mlp, 6, (8,), 3, "gelu")], ids=["chain", "vmap"])
@pytest.mark.parametrize(
    "criterion",
    [torch.no_grad()(F.cross_entropy), lambda out, y: OTHER.square().sum()],
    ids=["no_grad", "other weights"],
)
def test_a_criterion_without_a_derivative_is_refused(make, criterion):
    with pytest.raises(ValueError, match="the loss must be a differentiable function of the weights, got 'a constant'"):
        train_ensemble(make, cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5, criterion=criterion)


class Functional(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.inner, self.call = MAKE(), call
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        return self.call(self, self.inner(x))


def counting(model, out):
    model.seen += 1
    return out


def averaging(model, out):
    model.seen = 0.9 * model.seen + 0.1 * out.mean().detach()
    return out


CANNOT = {
    "random function": (
        lambda: Functional(lambda m, out: F.dropout(out, 0.5)),
        "(?s)layer '', Functional.*cannot be had in stacked models; put another layer",
    ),
    "random activation": (
        lambda: nn.Sequential(nn.Linear(6, 3), nn.RReLU()),
        "layer '1', RReLU.*cannot be had in stacked models",
    ),
    "spectral norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)), nn.Identity()),
        "buffer '0.parametrizations.weight.0._u' must be equal for all seeds",
    ),
    "counting buffer": (lambda: Functional(counting), "buffer 'seen' changes when the model is called"),
    "averaging buffer": (lambda: Functional(averaging), "buffer 'seen' changes when the model is called"),
    "instance statistics": (
        lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()),
        "layer '2', InstanceNorm1d.*keeps batch statistics",
    ),
    "tuple": (
        lambda: Functional(lambda m, out: (out, out)),
        r"make must be a function .* outputs \(n, n_out\), got 'tuple'",
    ),
    "column": (lambda: Functional(lambda m, out: out[:, 0]), r"with a tensor of outputs \(n, n_out\), got \(8,\)"),
}


@pytest.mark.parametrize("what", CANNOT)
def test_a_model_that_cannot_be_stacked_names_its_layer(what):
    make, match = CANNOT[what]
    with pytest.raises(ValueError, match=match):
        train_ensemble(
            lambda: nn.Sequential(nn.Linear(6, 6), *make()) if what == "instance statistics" else make(),
            cloud(),
            seeds=[0, 1],
            batch_size=8,
            lr=0.1,
            steps=5,
        )


@pytest.mark.parametrize(
    "layer",
    [nn.LSTM(6, 6, 2, dropout=0.5), nn.MultiheadAttention(6, 2, dropout=0.5), nn.Embedding(3, 6, sparse=True)],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_with_masks_inside_are_named(layer):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.out = layer, nn.Linear(6, 3)

        def forward(self, x):
            return self.out(x)

    with pytest.raises(ValueError, match="(?s)layer 'part', .*(draws random masks|has sparse gradients)"):
        train_ensemble(Model, cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5)


def test_random_numbers_beside_a_recurrent_layer_are_refused():
    class Model(OfTokens):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5)

    with pytest.raises(ValueError, match="Model draws random numbers, which cannot be had in stacked models"):
        train_ensemble(partial(Model, nn.LSTM), sentences(), seeds=[0], batch_size=8, lr=0.1, steps=5)


def test_an_error_of_the_model_itself_comes_through():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train_ensemble(
            lambda: nn.Sequential(nn.Linear(5, 3), nn.Identity()), cloud(), seeds=[0], batch_size=8, lr=0.1, steps=5
        )


@pytest.mark.parametrize("make", [MAKE, as_vmap(MAKE)], ids=["chain", "vmap"])
def test_integers_that_a_model_does_not_take_are_named(make):
    raw = cloud()._replace(x_train=(9 * cloud().x_train).long())
    with pytest.raises(ValueError, match="this model does not take x of torch.int64; use x.float"):
        train_ensemble(make, raw, seeds=[0], batch_size=8, lr=0.1, steps=5)


@pytest.mark.parametrize("change", [lambda x: x.view(-1, 1, 2, 3), lambda x: x[:, :5]], ids=["images", "too few"])
def test_data_that_a_chain_of_layers_does_not_take_are_named_as_by_the_model_alone(change):
    x, x_test = change(cloud().x_train), change(cloud().x_test)
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied \((16x3|8x5) and 6x8\)"):
        train_ensemble(MAKE, cloud()._replace(x_train=x, x_test=x_test), seeds=[0], batch_size=8, lr=0.1, steps=5)


def test_buffers_that_differ_by_seed_are_refused():
    make = lambda: Functional(lambda m, out: out + m.seen)  # noqa: E731

    def random():
        model = make()
        model.seen = torch.randn(())
        return model

    assert len(train_ensemble(make, cloud(), seeds=[0, 1], batch_size=8, lr=0.1, steps=2).table) == 2
    with pytest.raises(
        ValueError, match="buffer 'seen' must be equal for all seeds; make it a parameter with requires_g"
    ):
        train_ensemble(random, cloud(), seeds=[0, 1], batch_size=8, lr=0.1, steps=2)


class Differs(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.linear, self.kind = nn.Linear(5, 3), kind
        drawn = torch.randn(5, 5)
        if kind == "tensor":
            self.features = drawn
        elif kind == "list":
            self.features = drawn.tolist()
        elif kind == "tensors":
            self.features = [drawn, drawn]
        elif kind == "hook":
            self.linear.register_forward_pre_hook(lambda layer, args: (args[0] @ drawn,))
        elif kind == "hidden":
            self.layers = [nn.Linear(5, 3)]
        elif kind == "frozen":
            self.linear.bias.requires_grad_(bool(drawn[0, 0] > 0))

    def forward(self, x):
        features = self.features[-1] if self.kind == "tensors" else getattr(self, "features", None)
        out = self.linear(x if features is None else x @ torch.as_tensor(features))
        return out.softmax(1) if self.kind == "rested" and not self.training else out


def differing(kind):
    return Differs(kind)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "tensor",
            "tensor 'features' of the model must be equal for all seeds.*; make it a parameter with requires_grad=F",
        ),
        ("list", r"make must be a function that builds models that differ in their weights alone, got \['features'\]"),
        (
            "tensors",
            "weights alone, got 'other outputs with the same weights'; make tensors that lists, dicts or hooks",
        ),
        (
            "hook",
            "weights alone, got 'other outputs with the same weights'; make tensors that lists, dicts or hooks hold",
        ),
        ("hidden", r"a model that knows its layers, got \['layers'\]; use nn.ModuleList"),
        (
            "rested",
            "computes the same in training and in evaluation mode, got 'another result'; use `train`, one by one",
        ),
        ("frozen", r"differ in their weights alone, got \['linear.bias.requires_grad'\]"),
    ],
)
def test_what_differs_by_seed_beside_the_weights_is_refused(kind, said):
    run = partial(train_ensemble, data=blobs(), batch_size=8, lr=0.1, steps=2)
    with pytest.raises(ValueError, match=said):
        run(partial(differing, kind), seeds=range(8))
    if kind not in ("hidden", "rested"):
        assert len(run(partial(differing, kind), seeds=[3, 3]).table) == 2  # the same twice


class Counting(nn.Module):
    """Keeps something from call to call outside its buffers."""

    def __init__(self, kind):
        super().__init__()
        self.linear, self.kind, self.calls, self.mean, self.seen = nn.Linear(5, 3), kind, 0, torch.zeros(5), 0

    def forward(self, x):
        if self.kind == "counter":  # which matters much later
            self.calls += 1
        elif self.kind == "mean":
            self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        elif self.kind == "note":  # that stays the same
            self.seen = len(x)
        return self.linear(x - self.mean) if self.calls < 1000 else x[:, :3]


@pytest.mark.parametrize(("kind", "said"), [("counter", r"\['calls'\]"), ("mean", "'another result'"), ("note", "")])
def test_what_a_model_keeps_from_call_to_call_outside_its_buffers_is_refused(kind, said):
    run = partial(train_ensemble, partial(Counting, kind), blobs(), seeds=[4], batch_size=8, lr=0.1, steps=3)
    if said:
        with pytest.raises(ValueError, match=f"computes the same at every call, got {said}; use `train`, one by one"):
            run()
    else:
        expected = alone(lambda: Counting("none"), blobs(), 4, partial(SGD, lr=0.1), 8, 3)
        found = run().params
        assert all(torch.allclose(found[name][0], p, atol=1e-6) for name, p in expected.items())


def test_numbers_of_the_optimizer_are_not_rounded_to_the_type_of_the_weights():
    """0.999 is 1 in bfloat16, and 0.1 is 0 as an integer, of which the first parameter may be."""

    class Words(nn.Module):
        def __init__(self, places=True):
            super().__init__()
            if places:
                self.places = nn.Parameter(torch.arange(5), requires_grad=False)
            self.table = nn.Embedding(9, 3)

        def forward(self, x):
            return self.table(x).mean(1)

    x = torch.randint(9, (32, 5), generator=torch.Generator().manual_seed(0))
    words, start = Data(x, x.sum(1) % 3, x, x.sum(1) % 3), {"table.weight": torch.ones(1, 9, 3).cumsum(1)}
    settings = {"seeds": [0], "batch_size": 8, "lr": 0.1, "steps": 5}
    found = train_ensemble(Words, words, start={"places": torch.arange(5)[None]} | start, **settings)
    plain = train_ensemble(partial(Words, False), words, start=start, **settings)
    assert found.params["table.weight"].equal(plain.params["table.weight"])
    data = blobs()
    half = Data(data.x_train.bfloat16(), data.y_train, data.x_test.bfloat16(), data.y_test)
    losses = {}
    for momentum in (0.999, 0.9999):
        run = partial(train_ensemble, lambda: nn.Linear(5, 3), seeds=[0], batch_size=8, lr=0.01, steps=60)
        losses[momentum] = run(data=half, momentum=momentum).params["weight"]
    assert not losses[0.999].equal(losses[0.9999])


def blobs():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 5, generator=generator), torch.arange(32) % 3
    return Data(x, y, x, y)


def test_the_global_generator_stays():
    before = torch.get_rng_state()
    train_ensemble(MAKE, cloud(), seeds=[0, 1], batch_size=8, lr=0.1, dropout=0.5, steps=2)
    assert torch.equal(before, torch.get_rng_state())


# --- what a user's functions return, and stops

GOOD = dict(seeds=[0, 1, 2], batch_size=8, lr=0.1, steps=40)


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (None, "record must be a function that returns a dict, got None; where nothing is recorded, return {}"),
        (3.0, "record must be a function that returns a dict, got 3.0"),
        (
            {"step": torch.ones(3)},
            "the name of what record returns must be a word other than model, step, .*, got 'step'",
        ),
        ({"status": ["a"] * 3}, "must be a word other than .*, got 'status'"),
        ({"lr": torch.ones(3)}, "must be a word other than .*, got 'lr'"),
        ({"seed": torch.ones(3)}, "must be a word other than .*, got 'seed'"),
        (
            {"norm": torch.ones(2)},
            "'norm' must be one value for each of the 3 models in `members`, got .*; these are 2",
        ),
        ({"norm": [1.0] * 4}, "'norm' must be one value for each of the 3 models in `members`, got .*; these are 4"),
        ({"norm": torch.ones(3, 2)}, r"what record returns as 'norm' must be one number or word, got \[1.0, 1.0\]"),
    ],
)
def test_what_record_may_not_return_is_said_at_once_and_no_training_is_lost(found, match):
    with pytest.raises(ValueError, match=match) as caught:
        train_ensemble(MAKE, cloud(), record=lambda params, members: found, record_every=10, **GOOD)
    run = caught.value.so_far
    expected = train_ensemble(MAKE, cloud(), **GOOD | {"steps": 10})
    torch.testing.assert_close(run.params, expected.params, rtol=0, atol=0)
    assert run.table["status"].tolist() == ["error"] * 3 and run.table["step"].tolist() == [10] * 3
    assert run.records["train_loss"].tolist() == pytest.approx(expected.table["train_loss"].tolist(), rel=1e-12)


def test_too_few_values_are_refused():
    with pytest.raises(ValueError, match="'norm' must be one value for each of the 3 models in `members`"):
        train_ensemble(MAKE, cloud(), record=lambda params, members: {"norm": params["4.bias"][0, :2]}, **GOOD)


def test_what_record_may_return():
    record = lambda params, members: {  # noqa: E731
        "array": np.arange(len(members)) + 0.5, "list": ["a"] * len(members), "one": 2.0, "scalar": torch.tensor(3.0),
        "series": pd.Series(members.tolist(), index=members.tolist()), "none": None,
    }  # fmt: skip
    found = train_ensemble(MAKE, cloud(), record=record, **GOOD).table
    assert found["array"].tolist() == [0.5, 1.5, 2.5] and found["list"].tolist() == ["a"] * 3
    assert found["one"].tolist() == [2.0] * 3 and found["scalar"].tolist() == [3.0] * 3
    assert found["series"].tolist() == [0, 1, 2] and found["none"].isna().all()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("mine")], ids=["Stop", "error"])
@pytest.mark.parametrize("where", ["record", "progress", "schedule", "ascent", "criterion"])
def test_a_stop_or_an_error_keeps_what_there_is(where, error):
    """The first group has ended, the second is under way, the third has not begun."""
    calls, seen = [], {}

    def fails(*args):
        calls.append(args)
        if len(calls) == at[where]:
            raise error
        return {}

    at = {"record": 3, "progress": 55, "schedule": 61, "ascent": 62, "criterion": 60}
    settings = {
        "record": {"record": lambda params, members: fails() or seen.update(step=1) or {}},
        "progress": {"progress": lambda total: SimpleNamespace(update=fails, close=lambda: seen.update(closed=1))},
        "schedule": {"schedule": lambda step: fails() or 1.0},
        "ascent": {"rho": 0.05, "ascent": lambda g, w, rho: fails() or {k: rho * v for k, v in g.items()}},
        "criterion": {"criterion": lambda out, y: fails() or F.cross_entropy(out, y)},
    }[where]
    go = partial(train_ensemble, MAKE, cloud(), chunk=1, record_every=20, check_every=20, **GOOD | settings)
    if isinstance(error, KeyboardInterrupt):
        run, word = go(), "stopped"
    else:
        with pytest.raises(ZeroDivisionError, match="mine") as caught:
            go()
        run, word = caught.value.so_far, "error"
    assert run.table["status"].tolist() == ["steps", word, word]
    first, second, third = run.table["step"]
    assert first == 40 and 0 < second < 40 and third == 0
    assert run.table["gradients"].tolist() == [n * (2 if where == "ascent" else 1) for n in (40, second, 0)]
    assert run.table["train_loss"].isna().tolist() == [False, True, True]
    assert set(run.records["model"]) == ({0, 1} if second >= 20 else {0})
    torch.testing.assert_close(member(run.params, 2), member(run.start, 2), rtol=0, atol=0)
    plain = {"rho": 0.05, "ascent": lambda g, w, rho: {k: rho * v for k, v in g.items()}} if where == "ascent" else {}
    for i, steps in ((0, 40), (1, second)):
        alone = train_ensemble(MAKE, cloud(), chunk=1, **GOOD | plain | {"steps": int(steps)})
        torch.testing.assert_close(member(run.params, i), member(alone.params, i), rtol=0, atol=1e-12)
    assert where != "progress" or seen["closed"]


def test_a_stop_before_anything_is_recorded_has_all_columns():
    run = train_ensemble(MAKE, cloud(), schedule=Stop(), **GOOD)
    whole = train_ensemble(MAKE, cloud(), **GOOD)
    assert list(run.table) == list(whole.table) and list(run.records) == list(whole.records)
    assert run.table["status"].tolist() == ["stopped"] * 3 and run.table["step"].tolist() == [0] * 3
    torch.testing.assert_close(run.params, whole.start, rtol=0, atol=0)


class Stop:
    def __call__(self, *args):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(schedule=lambda step: None), "what schedule returns must be a finite number >= 0, got None"),
        (dict(schedule=lambda step: float("nan")), "what schedule returns must be a finite number >= 0, got nan"),
        (dict(schedule=lambda step: -0.5), "what schedule returns must be a finite number >= 0, got -0.5"),
        (
            dict(criterion=lambda out, y: 1.0),
            "criterion must be a function that returns the loss, a tensor without dim",
        ),
        (
            dict(criterion=partial(F.cross_entropy, reduction="none")),
            "criterion must be a function that returns the loss",
        ),
        (dict(progress=lambda total: None), "progress must be a function that makes a bar"),
        (dict(make=lambda: None), "make must be a function that builds a model, got None; has it a `return`"),
    ],
)
def test_what_other_functions_may_not_return(change, match):
    with pytest.raises(ValueError, match=match):
        train_ensemble(**dict(make=MAKE, data=cloud()) | GOOD | change)


def test_the_start_may_be_of_numpy_and_in_any_order():
    first = train_ensemble(MAKE, cloud(), **GOOD)
    start = {name: p.numpy() for name, p in reversed(list(first.params.items()))}
    again = train_ensemble(MAKE, cloud(), start=start, **GOOD)
    expected = train_ensemble(MAKE, cloud(), start=first.params, **GOOD)
    torch.testing.assert_close(again.params, expected.params, rtol=0, atol=0)
    assert list(again.params) == list(first.params)


def test_dropout_is_back_propagation_through_the_masked_network():
    model, data = MAKE().double(), cloud()
    params = stack([{k: p.double() for k, p in params_of(build(MAKE, s)).items()} for s in range(4)])
    x, y = data.x_train.reshape(4, 15, 6), data.y_train.reshape(4, 15)
    g = torch.Generator().manual_seed(0)
    masks = [2.0 * (torch.rand(4, 15, width, generator=g) < 0.5) for width in (8, 7)]
    grads = stacked.gradient(model)(params, x, y, [m.double() for m in masks])
    for i in range(4):

        def masked(p, i=i):
            h = F.relu(x[i] @ p["0.weight"].T + p["0.bias"]) * masks[0][i]
            h = F.relu(h @ p["2.weight"].T + p["2.bias"]) * masks[1][i]
            return F.cross_entropy(h @ p["4.weight"].T + p["4.bias"], y[i])

        reference = torch.func.grad(masked)(member(params, i))
        torch.testing.assert_close(member(grads, i), reference, rtol=0, atol=1e-13)


def test_masks_drop_units_at_the_models_own_rate_and_keep_the_mean():
    rates = torch.tensor([0.0, 0.25, 0.5])
    masks = stacked.dropout(rates, [torch.Generator().manual_seed(s) for s in range(3)], 500, [40, 60], rates.device)
    assert [m.shape for m in masks] == [(3, 500, 40), (3, 500, 60)]
    for i, rate in enumerate(rates.tolist()):
        units = torch.cat([m[i].flatten() for m in masks])  # 50,000: the rate to 0.007, at 3 standard errors
        assert units.unique().tolist() == pytest.approx([1.0] if rate == 0 else [0.0, 1 / (1 - rate)])
        assert (units == 0).float().mean().item() == pytest.approx(rate, abs=0.007)
        assert abs(torch.corrcoef(masks[1][i].T)[0, 1:].nan_to_num()).max() < 0.2  # units do not go together


def test_dropout_of_a_member_does_not_depend_on_its_neighbours():
    data = cloud()
    mixed = train_ensemble(MAKE, data, seeds=[1, 2, 3], batch_size=8, lr=0.1, dropout=[0, 0.25, 0.5], steps=30)
    for i, rate in enumerate([0, 0.25, 0.5]):
        single = train_ensemble(MAKE, data, seeds=[i + 1], batch_size=8, lr=0.1, dropout=rate, steps=30)
        torch.testing.assert_close(member(mixed.params, i), member(single.params, 0), rtol=0, atol=1e-12)
    plain = train_ensemble(MAKE, data, seeds=[1], batch_size=8, lr=0.1, steps=30)
    torch.testing.assert_close(member(mixed.params, 0), member(plain.params, 0), rtol=0, atol=1e-12)


def test_sam_climbs_and_descends_with_the_same_masks():
    data = cloud()
    seen = []
    true = stacked.dropout

    def counted(*args):
        seen.append(true(*args))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacked, "dropout", counted)
        many = train_ensemble(MAKE, data, seeds=[1], batch_size=60, lr=0.1, rho=0.1, dropout=0.5, steps=1)
    (masks,) = seen
    start = member(many.start, 0)
    order = next(batches(60, 60, torch.Generator().manual_seed(1)))
    x, y = data.x_train[order], data.y_train[order]

    def masked(p):
        h = F.relu(x @ p["0.weight"].T + p["0.bias"]) * masks[0][0]
        h = F.relu(h @ p["2.weight"].T + p["2.bias"]) * masks[1][0]
        return F.cross_entropy(h @ p["4.weight"].T + p["4.bias"], y)

    reference = sam_gradient(masked, start, 0.1)[0]
    moved = {name: (start[name] - many.params[name][0]) / 0.1 for name in start}
    torch.testing.assert_close(moved, {k: g.detach() for k, g in reference.items()}, rtol=0, atol=1e-10)


class Masked(nn.Module):
    """Dropout with given masks: the next one for each new random number, the same for the same one."""

    def __init__(self, masks):
        super().__init__()
        self.masks, self.known = masks, {}

    def forward(self, x):
        if not self.training:
            return x
        drawn = torch.rand(()).item()
        if drawn not in self.known:
            self.known[drawn] = self.masks.pop(0)
        return x * self.known[drawn]


def test_with_dropout_and_sam_a_member_is_what_train_makes_of_it(monkeypatch):
    """SAM's two passes drop the same units, here and there."""
    true, seen = stacked.dropout, []
    monkeypatch.setattr(stacked, "dropout", lambda *args: (seen.append(true(*args)), seen[-1])[1])
    data, settings = cloud(), dict(batch_size=8, steps=7)  # one epoch: later ones have other batches, after other draws
    many = train_ensemble(MAKE, data, seeds=[3], lr=0.1, rho=0.2, dropout=0.4, **settings)
    first, relu, second, _, last = build(MAKE, 3).double()
    layers = [Masked([masks[i][0] for masks in seen]) for i in range(2)]
    model = nn.Sequential(first, relu, layers[0], second, relu, layers[1], last)
    train(model, data, SAM(SGD(model.parameters(), lr=0.1), rho=0.2), seed=3, **settings)
    expected = dict(zip(many.params, params_of(model).values(), strict=True))
    torch.testing.assert_close(member(many.params, 0), expected, rtol=0, atol=1e-12)
    assert len(seen) == 7 and not any(layer.masks for layer in layers)


def test_dropout_needs_a_chain_with_relu():
    with pytest.raises(ValueError, match="dropout needs a chain of linear layers with ReLU between them, got"):
        train_ensemble(
            partial(mlp, 6, (8,), 3, activation="tanh"), cloud(), seeds=[0], batch_size=8, lr=0.1, dropout=0.1, steps=1
        )
    with pytest.raises(ValueError, match="dropout must be a finite number >= 0 and <= 0.99, got 1.0"):
        train_ensemble(MAKE, cloud(), seeds=[0], batch_size=8, lr=0.1, dropout=1.0, steps=1)


def test_evaluate_says_of_each_model_what_train_evaluate_says_of_it_alone():
    x, y = torch.randn(50, 6), torch.arange(50) % 3
    params = stack([params_of(build(MAKE, seed)) for seed in range(3)])
    losses, accuracies = ensemble.evaluate(MAKE(), params, x, y)
    for i in range(3):
        alone = evaluate(load_params(MAKE(), member(params, i)), x, y)
        assert (losses[i].item(), accuracies[i].item()) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("rates", [{1: 0.1, 2: 0.2}, {0.1, 0.2}])
def test_settings_of_many_are_in_a_row(rates):
    """A dict would give its keys, and a set its own order."""
    with pytest.raises(ValueError, match="lr must be a finite number > 0, got {"):
        train_ensemble(MAKE, cloud(), seeds=[0, 1], batch_size=8, lr=rates, steps=5)


def test_evaluated_are_one_or_more_models_of_one_shape():
    data = cloud()
    params = train_ensemble(MAKE, data, seeds=[0, 1], batch_size=8, lr=0.1, steps=5).params
    first = next(iter(params))
    for odd in (member(params, 0), {k: p[:0] for k, p in params.items()}, params | {first: params[first][:1]}, {}):
        with pytest.raises(
            ValueError, match=r"params must be one or more models with shapes .*; stack\(\[p\]\) is one model"
        ):
            ensemble.evaluate(MAKE(), odd, data.x_test, data.y_test)
