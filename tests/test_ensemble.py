"""Many models at once must be each model alone: torch's own optimizers, one model at a time, are the reference."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from sam_lite import stacked
from sam_lite.data import Data, batches
from sam_lite.ensemble import train_ensemble
from sam_lite.models import build, mlp
from sam_lite.params import loss_of, member, params_of, stack
from sam_lite.sam import sam_gradient

MAKE = partial(mlp, 6, (8, 7), 3)


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


@pytest.mark.parametrize("case", CASES)
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


def test_it_starts_where_it_is_told():
    data = cloud()
    first = train_ensemble(MAKE, data, seeds=[0, 1], batch_size=60, lr=0.1, steps=30)
    second = train_ensemble(MAKE, data, seeds=[0, 1], batch_size=60, lr=0.1, steps=10, start=first.params)
    straight = train_ensemble(MAKE, data, seeds=[0, 1], batch_size=60, lr=0.1, steps=40)
    torch.testing.assert_close(second.params, straight.params, rtol=0, atol=1e-12)
    torch.testing.assert_close(second.start, first.params, rtol=0, atol=0)


def test_progress_counts_models():
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
    assert seen[0] == ("total", 3) and seen[-1] == "closed" and sum(n for n in seen[1:-1]) == 3


BAD = [
    (dict(seeds=[]), "seeds must hold at least one seed, got none"),
    (dict(batch_size=61), "batch_size must be an integer from 1 to 60, got 61"),
    (dict(batch_size=0), "batch_size must be an integer from 1 to 60, got 0"),
    (dict(lr=0.0), "lr must be > 0, got 0.0"),
    (dict(lr=float("nan")), "lr must be > 0, got nan"),
    (dict(lr=[0.1]), "lr must be one number or one per model, 2, got 1"),
    (dict(momentum=1.0), r"momentum must be in \[0, 1\), got 1.0"),
    (dict(weight_decay=-1), "weight_decay must be >= 0, got -1.0"),
    (dict(rho=[0.1, -0.1]), "rho must be >= 0, got -0.1"),
    (dict(steps=0), "steps must be an integer >= 1, got 0"),
    (dict(steps=1e4), "steps must be an integer >= 1, got 10000.0"),
    (dict(check_every=0), "check_every must be an integer >= 1, got 0"),
    (dict(record_every=2.5), "record_every must be an integer >= 1, got 2.5"),
    (dict(chunk=0), "chunk must be an integer >= 1, got 0"),
    (dict(stop_loss=0.0), "stop_loss must be > 0, got 0.0"),
    (dict(optimizer="lion"), "optimizer must be 'sgd' or 'adam', got 'lion'"),
    (dict(start=stack([params_of(MAKE())])), "start must hold 2 models, one per seed, with shapes .*got .*1, "),
    (dict(start={"w": torch.zeros(2, 3)}), "start must hold 2 models, one per seed, with shapes .*got {'w'"),
]


@pytest.mark.parametrize("change, message", BAD, ids=[str(m) for _, m in BAD])
def test_bad_settings_are_named(change, message):
    good = dict(seeds=[0, 1], batch_size=8, lr=0.1, steps=5)
    with pytest.raises(ValueError, match=message):
        train_ensemble(MAKE, cloud(), **good | change)


@pytest.mark.parametrize("seeds", [3, ["a"], [0.5]], ids=str)
def test_seeds_are_integers(seeds):
    with pytest.raises(TypeError, match="seeds must be integers in a row, such as range"):
        train_ensemble(MAKE, cloud(), seeds=seeds, batch_size=8, lr=0.1, steps=5)


def test_numbers_of_numpy_and_torch_serve_too():
    good = dict(batch_size=8, lr=0.1, steps=5)
    expected = train_ensemble(MAKE, cloud(), seeds=[0, 1], **good).table["train_loss"]
    for seeds, lr in (
        (np.arange(2), np.float64(0.1)),
        (torch.arange(2), torch.tensor([0.1, 0.1], dtype=torch.float64)),
    ):
        assert train_ensemble(MAKE, cloud(), seeds=seeds, **good | {"lr": lr}).table["train_loss"].equals(expected)


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


def test_dropout_needs_a_chain_with_relu():
    with pytest.raises(ValueError, match="dropout needs a chain of linear layers with ReLU between them, got"):
        train_ensemble(
            partial(mlp, 6, (8,), 3, activation="tanh"), cloud(), seeds=[0], batch_size=8, lr=0.1, dropout=0.1, steps=1
        )
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 0.99\], got 1.0"):
        train_ensemble(MAKE, cloud(), seeds=[0], batch_size=8, lr=0.1, dropout=1.0, steps=1)
