"""SAM among what people use with it: dropout, compilers, schedulers, loss scalers, copies, other optimizers, scripts."""

import copy
import io
import itertools
import math
import pickle
import threading
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, lr_scheduler

from sam_lite.params import add, norm, params_of
from sam_lite.pure import frozen_statistics, random_states
from sam_lite.sam import SAM, adaptive_ascent, ascent, p_ascent, sam_gradient

X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3


def net(*between, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), *between, nn.ReLU(), nn.Linear(8, 3))


def closure_of(optimizer, model, x=X):
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), Y[: len(x)])
        loss.backward()
        return loss

    return closure


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# The radius, for gradients of any size

ASCENTS = {"2": ascent, "adaptive": adaptive_ascent, "p = 1.5": p_ascent(1.5), "p = 3": p_ascent(3)}
SIZES = {
    torch.float32: [1e-45, 1e-42, 1e-38, 1e-30, 1e-23, 1e-19, 1e-10, 1e10, 1e18, 1e20, 1e30, 1e38],
    torch.float64: [5e-324, 1e-310, 1e-200, 1e-155, 1e-20, 1e155, 1e200, 1e305],
}


def length_of(e, weights, name):
    flat = torch.cat([x.flatten() for x in e.values()]).double()
    if name == "adaptive":
        return torch.linalg.vector_norm(flat / torch.cat([w.abs().flatten() + 0.01 for w in weights.values()])).item()
    return torch.linalg.vector_norm(flat, ord={"2": 2, "p = 1.5": 1.5, "p = 3": 3}[name]).item()


@pytest.mark.parametrize("name", ASCENTS)
@pytest.mark.parametrize("dtype", SIZES)
def test_the_step_is_rho_long_for_gradients_of_any_size(name, dtype):
    """For tensors one by one, as under vmap, too; and in the same direction, but for what is lost to denormal numbers."""
    signs = {"a": torch.tensor([[1.0, -1.0, 1.0]] * 4, dtype=dtype), "b": torch.tensor(-1.0, dtype=dtype)}
    weights = {"a": torch.full((4, 3), 0.5, dtype=dtype), "b": torch.tensor(-2.0, dtype=dtype)}
    one = ASCENTS[name](signs, weights, 0.05)
    many = {key: torch.stack([size * s for size in SIZES[dtype]]) for key, s in signs.items()}
    mapped = vmap(lambda g: ASCENTS[name](g, weights, 0.05))(many)
    for i, size in enumerate(SIZES[dtype]):
        e = ASCENTS[name]({key: size * s for key, s in signs.items()}, weights, 0.05)
        assert length_of(e, weights, name) == pytest.approx(0.05, rel=1e-5), size
        for key in e:
            torch.testing.assert_close(e[key], one[key], rtol=1e-5, atol=0)
            torch.testing.assert_close(mapped[key][i], one[key], rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-23, 1e20, 1e30])
def test_the_optimizer_and_the_function_climb_by_rho_too(size):
    w = nn.Parameter(torch.tensor([1.0, 2.0, -1.0]))
    optimizer, seen = SAM(SGD([w], lr=0.0), 0.05), []

    def closure():
        optimizer.zero_grad()
        seen.append(w.detach().clone())
        loss = (w * torch.tensor([3.0, -4.0, 0.0]) * size).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(seen[1] - seen[0], torch.tensor([0.03, -0.04, 0.0]), rtol=1e-4, atol=1e-7)
    slope = lambda p: (p["w"] ** 2 * torch.tensor([3.0, -4.0, 1.0]) * size).sum() / 2  # noqa: E731
    found = sam_gradient(slope, {"w": torch.tensor([1.0, 1.0, 0.0])}, 0.05)[0]["w"] / size
    torch.testing.assert_close(found, torch.tensor([3 * 1.03, -4 * 0.96, 0.0]), rtol=1e-4, atol=1e-6)
    e = vmap(lambda r: ascent({"w": torch.tensor([3.0, -4.0, 0.0]) * size}, {}, r))(torch.tensor([0.05, 0.5]))
    torch.testing.assert_close(e["w"], torch.tensor([[0.03, -0.04, 0.0], [0.3, -0.4, 0.0]]))


@pytest.mark.parametrize("size", [1.0, 1e-200])
def test_one_may_differentiate_through_the_ascent(size):
    """As the lecture does to measure the term that SAM drops; d e / d g = rho (I - u u') / |g| with u = g / |g|."""
    g = size * torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64)
    u = g / (3 * size)
    expected = 0.5 * (torch.eye(3) - torch.outer(u, u)) / (3 * size)
    found = torch.func.jacrev(lambda g: ascent({"g": g}, {}, 0.5)["g"])(g)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    found = torch.autograd.functional.jacobian(lambda g: ascent({"g": g}, {}, 0.5)["g"], g)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_digits_on_raw_pixels_are_never_thrown_far():
    """A linear net on a separable task: its gradients underflow on the way, where steps used to be of size 1e5."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    keep = digits.target < 2
    x, y = torch.from_numpy(digits.data[keep]).float(), torch.from_numpy(digits.target[keep])
    model = nn.Linear(64, 2)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    optimizer, lengths = SAM(SGD(model.parameters(), lr=0.05), 0.05), []
    for step in range(300):
        batch = torch.arange(16 * step, 16 * step + 16) % len(x)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[batch]), y[batch])  # noqa: B023
            loss.backward()
            return loss

        closure()
        before = params_of(model)
        moved = any(p.grad.any() for p in model.parameters())
        with optimizer.perturbed():
            lengths.append((norm(add(params_of(model), before, -1)).item(), 0.05 * moved))
            closure()
        optimizer.base_optimizer.step()
    assert all(length == pytest.approx(rho, rel=0.01) for length, rho in lengths)


@pytest.mark.parametrize("climb", [*ASCENTS.values(), p_ascent(1), p_ascent(math.inf)])
def test_nan_gives_nan_and_zero_zero_whatever_rho(climb):
    params = {"a": torch.ones(2), "b": torch.ones(())}
    bad = climb({"a": torch.tensor([1.0, math.nan]), "b": torch.tensor(2.0)}, params, 0.1)
    assert all(x.isnan().all() for x in bad.values())
    for rho in (0.1, 1e6, torch.tensor(0.1), torch.tensor(0.0)):
        none = climb({"a": torch.zeros(2), "b": torch.zeros(())}, params, rho)
        assert not any(x.any() for x in none.values())


def test_empty_tensors_and_complex_ones_take_part():
    e = ascent({"none": torch.empty(0), "all": torch.tensor([3.0, 4.0])}, {}, 1.0)
    assert e["none"].shape == (0,) and torch.allclose(e["all"], torch.tensor([0.6, 0.8]))
    assert len(p_ascent(3)({"none": torch.empty(0), "all": torch.ones(2)}, {}, 1.0)["none"]) == 0
    e = ascent({"w": torch.tensor([3e-30j, 4e-30 + 0j])}, {}, 1.0)["w"]
    torch.testing.assert_close(e, torch.tensor([0.6j, 0.8 + 0j]))


@pytest.mark.parametrize("step", [None, {}, {"w": torch.ones(3)}, {"w": 0.1}, (torch.ones(2),)])
def test_what_an_ascent_of_ones_own_returns_is_looked_at(step):
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM(SGD([("w", w)], lr=0.1), 0.1, ascent=lambda grads, params, rho: step)
    w.grad = torch.ones(2)
    with pytest.raises(
        TypeError, match="ascent must return (a step for each gradient|tensors of the gradients' shapes)"
    ):
        optimizer.ascend()
    assert torch.equal(w, torch.ones(2))
    with pytest.raises(TypeError, match="ascent must return"):
        sam_gradient(lambda p: p["w"].sum(), {"w": torch.ones(2)}, 0.1, ascent=lambda *_: step)


def test_what_has_no_step_is_named():
    with pytest.raises(ValueError, match="params must be at least one tensor, got"):
        sam_gradient(lambda p: torch.tensor(1.0), {}, 0.1)
    with pytest.raises(TypeError, match=r"SAM needs dense gradients.*sparse=False"):
        sam_gradient(lambda p: F.embedding(torch.tensor([1]), p["w"], sparse=True).sum(), {"w": torch.ones(4, 2)}, 0.1)
    with pytest.raises(TypeError, match="ascent must be a function such as sam_lite.ascents.ascent, got None"):
        SAM(SGD([nn.Parameter(torch.ones(1))], lr=0.1), 0.1, ascent=None)
    with pytest.raises(ValueError, match="eta must be a finite number >= 0, got -1"):
        adaptive_ascent({"w": torch.ones(1)}, {"w": torch.ones(1)}, 0.1, eta=-1)


# The settings


@pytest.mark.parametrize("rho", [torch.tensor(0.05), np.float32(0.05), np.float64(0.05), np.array(0.05)])
def test_rho_is_a_number_of_any_library(rho):
    optimizer = SAM(SGD([nn.Parameter(torch.ones(1))], lr=0.1), rho)
    assert type(optimizer.rho) is float and optimizer.rho == pytest.approx(0.05)
    optimizer.rho = 2 * rho
    assert optimizer.rho == pytest.approx(0.1)
    grads = sam_gradient(lambda p: (p["w"] ** 2).sum(), {"w": torch.ones(1)}, rho)[0]
    assert grads["w"].item() == pytest.approx(2.1)


@pytest.mark.parametrize("rho", [-0.05, math.inf, math.nan, "0.05", None, torch.ones(2), torch.tensor(-1.0)])
def test_rho_cannot_become_what_it_may_not_be(rho):
    optimizer = SAM(SGD([nn.Parameter(torch.ones(1))], lr=0.1), 0.05)
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got"):
        optimizer.rho = rho
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got"):
        sam_gradient(lambda p: p["w"].sum(), {"w": torch.ones(1)}, rho)
    assert optimizer.rho == 0.05


def test_whole_settings_of_any_library_and_never():
    weights = [nn.Parameter(torch.ones(1))]
    settings = {"every": np.int64(2), "start": torch.tensor(1), "probability": np.float32(0.5), "seed": np.uint8(3)}
    optimizer = SAM(SGD(weights, lr=0.1), 0.05, **settings)
    assert (optimizer.every, optimizer.start, optimizer.probability) == (2, 1, 0.5)
    optimizer.every = optimizer.start = math.inf
    optimizer.step(lambda: 0.0)
    assert optimizer.sam_steps == 0


# The base optimizer


@pytest.mark.parametrize("base", [LBFGS, lambda p: SAM(SGD(p, lr=0.1), 0.1)])
def test_a_base_that_needs_the_loss_itself_is_refused(base):
    with pytest.raises(TypeError, match="base_optimizer must step from one gradient, as SGD and Adam do, got"):
        SAM(base([nn.Parameter(torch.ones(1))]), 0.05)


@pytest.mark.parametrize("foreach", [False, True])
def test_where_the_base_maximizes_the_worst_point_is_the_lowest(foreach):
    """max over w of min over |e| <= rho of -a w^2 / 2 is minus SAM's problem: the same path."""
    for optimizer_class in (partial(SGD, lr=0.1, momentum=0.9), partial(Adam, lr=0.1)):
        paths = []
        for sign in (1, -1):
            w = nn.Parameter(torch.tensor(2.0))
            optimizer = SAM(optimizer_class([w], maximize=sign < 0, foreach=foreach), 0.5)

            def closure():
                optimizer.zero_grad()  # noqa: B023
                loss = sign * 3 * w**2 / 2  # noqa: B023
                loss.backward()
                return loss

            for _ in range(5):
                optimizer.step(closure)
            paths.append(w.item())
        assert paths[0] == paths[1] != 2
    w = nn.Parameter(torch.tensor(2.0))
    optimizer = SAM(SGD([w], lr=0.1, maximize=True), 0.5)
    w.grad = torch.tensor(-6.0)
    optimizer.ascend()
    assert w.item() == 2.5


def test_a_saddle_point_is_sought_with_the_worst_for_each_side():
    """min over u of max over v of u v: u is perturbed up the loss, v down, whose group maximizes."""
    u, v = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(4.0))
    optimizer = SAM(SGD([{"params": [u]}, {"params": [v], "maximize": True}], lr=0.1), 5.0)
    (u * v).backward()
    optimizer.ascend()
    assert (u.item(), v.item()) == (3 + 4, 4 - 3)


# Learning-rate schedules

SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, total_iters=2), lr_scheduler.StepLR(o, 1)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, 3),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_every_scheduler_drives_sam_as_it_drives_the_base(make):
    paths = []
    for inside in (False, True):
        model = net()
        base = SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = SAM(base, 0.05)
        assert isinstance(optimizer, Optimizer)
        scheduler, rates = make(base if inside else optimizer), []
        for _ in range(6):
            loss = optimizer.step(closure_of(optimizer, model))
            scheduler.step(*[loss.item()] * isinstance(scheduler, lr_scheduler.ReduceLROnPlateau))
            rates.append(optimizer.param_groups[0]["lr"])
        paths.append((rates, params_of(model)))
    assert paths[0][0] == paths[1][0] and len(set(paths[0][0])) > 1
    assert_same(paths[0][1], paths[1][1])


# Copies


def through_pickle(pair):
    return pickle.loads(pickle.dumps(pair))


def through_file(pair):
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [lambda pair: pair, copy.deepcopy], ids=["original", "copy"])
def test_a_step_of_the_base_at_perturbed_weights_is_refused(copied):
    """It would be undone: the training would stand still. One after the block is SAM's step."""
    model = net()
    model, optimizer = copied((model, SAM(SGD(model.parameters(), lr=0.1), 0.5)))
    closure, before = closure_of(optimizer, model), params_of(model)
    expected = sam_gradient(lambda p: F.cross_entropy(functional_call(model, p, (X,)), Y), before, 0.5)[0]
    closure()
    with pytest.raises(RuntimeError, match="a step of the base, was called at perturbed weights; call restore.. first"):
        with optimizer.perturbed():
            closure()
            optimizer.base_optimizer.step()
    assert_same(params_of(model), before)
    optimizer.base_optimizer.step()
    torch.testing.assert_close(params_of(model), add(before, expected, -0.1))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_file])
@pytest.mark.parametrize("climb", [ascent, adaptive_ascent, p_ascent(3), partial(adaptive_ascent, eta=0.0)])
def test_a_copy_goes_on_as_the_original(copied, climb):
    model = net(nn.BatchNorm1d(8))
    optimizer = SAM(AdamW(model.named_parameters(), lr=0.01), 0.05, ascent=climb, start=1, probability=0.5, seed=4)
    lr_scheduler.StepLR(optimizer, 2)
    for _ in range(4):
        optimizer.step(closure_of(optimizer, model))
    twin, other = copied((model, optimizer))
    assert other.param_groups is other.base_optimizer.param_groups and other.state is other.base_optimizer.state
    assert all(a is not b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    for m, o in ((model, optimizer), (twin, other)):
        for _ in range(6):
            o.step(closure_of(o, m))
    assert_same(dict(model.state_dict()), dict(twin.state_dict()))
    assert (other.steps, other.sam_steps) == (optimizer.steps, optimizer.sam_steps) and 0 < other.sam_steps < 9
    assert repr(other) == repr(optimizer)


def test_a_copy_alone_and_a_copy_of_a_copy_can_be_used():
    model = net()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.05)
    optimizer.step(closure_of(optimizer, model))
    with optimizer.perturbed():
        inside = copy.deepcopy(optimizer)
    inside.restore()
    again = copy.deepcopy(copy.deepcopy(optimizer))
    for other in (inside, again):
        for p, q in zip(model.parameters(), other.param_groups[0]["params"], strict=True):
            assert torch.equal(p, q) and p is not q
        other.zero_grad()
        other.step(lambda: torch.tensor(1.0))
        assert other.steps == 2 and len(other.state_dict()["sam"]) == 3


# What is kept from the first pass


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).mT


@pytest.mark.parametrize("cached", ["autocast", "parametrization"])
def test_what_is_cached_around_a_step_changes_nothing(cached):
    moved = []
    for around in (True, False):
        model = net() if cached == "autocast" else nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
        if cached == "parametrization":
            torch.manual_seed(0)
            model.load_state_dict({name: torch.randn_like(p) for name, p in model.state_dict().items()})
            nn.utils.parametrize.register_parametrization(model[0], "weight", Symmetric(), unsafe=True)
        optimizer = SAM(SGD(model.parameters(), lr=1.0), 0.5)
        cache = nn.utils.parametrize.cached if cached == "parametrization" else partial(torch.autocast, "cpu")
        inner, outer = (nullcontext, cache) if around else (cache, nullcontext)

        def closure():
            optimizer.zero_grad()  # noqa: B023
            with inner():  # noqa: B023
                loss = F.cross_entropy(model(X), Y)  # noqa: B023
            loss.backward()
            return loss

        with outer():
            for _ in range(2):
                optimizer.step(closure)
        moved.append(params_of(model))
    assert_same(*moved)


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


@pytest.mark.parametrize("way", ["teacher first", "student first", "functional alone"])
def test_buffers_that_functional_call_lends_stay_the_callers(way):
    """A mean teacher and two domains are one module with other tensors: each moves once a step, and keeps its own."""
    model = normed()
    own, before = dict(model.named_buffers()), {name: b.clone() for name, b in model.named_buffers()}
    lent = [{name: b.clone() for name, b in own.items()} for _ in range(2)]
    optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.05)

    def closure():
        optimizer.zero_grad()
        calls = [lambda: functional_call(model, lent[0], (X + 7,)), lambda: functional_call(model, lent[1], (X - 7,))]
        calls.insert({"teacher first": 2, "student first": 0}.get(way, 0), lambda: model(X))
        loss = sum(F.cross_entropy(call(), Y) for call in calls[way == "functional alone" :])
        loss.backward()
        return loss

    optimizer.step(closure)
    for name, b in model.named_buffers():
        assert b is own[name]
    assert [int(one["1.num_batches_tracked"]) for one in lent] == [1, 1]
    means = [one["1.running_mean"] for one in (own, *lent)]
    if way == "functional alone":
        assert_same(dict(model.named_buffers()), before)
    else:
        assert own["1.num_batches_tracked"] == 1 and not own["1.running_mean"].equal(before["1.running_mean"])
        weights = normed()(X) is not None and normed()
        weights(X)
        torch.testing.assert_close(own["1.running_mean"], weights[1].running_mean)
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(means, 2))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_a_call_that_is_stopped_leaves_no_hook_in_the_model(stop):
    model, passes = normed(), []

    def stopped(x):
        passes.append(x)
        if len(passes) == 2:
            raise stop
        return nn.Linear.forward(model[2], x)

    model[2].forward = stopped
    optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.05)
    with pytest.raises(stop, match="^$"):
        optimizer.step(closure_of(optimizer, model))
    assert len(passes) == 2 and not any(module._forward_hooks for module in model.modules())
    assert model[1].num_batches_tracked == 1


def test_two_views_of_one_buffer_move_once():
    first, second = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    second.running_mean = first.running_mean.view(5)
    model = nn.ModuleList([first, second, nn.Linear(5, 3)])
    optimizer, seen = SAM(SGD(model.parameters(), lr=0.0), 0.05), []

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model[2](second(first(X + 1))), Y)
        loss.backward()
        seen.append(first.running_mean.clone())
        return loss

    optimizer.step(closure)
    assert first.running_mean.equal(seen[0]) and not seen[0].equal(seen[1])


def test_a_model_in_another_thread_keeps_its_statistics():
    model, other = normed(), normed()
    optimizer, passes = SAM(SGD(model.parameters(), lr=0.1), 0.05), []

    def closure():
        loss = closure_of(optimizer, model)()
        passes.append(loss)
        if len(passes) == 2:
            thread = threading.Thread(target=other, args=(X,))
            thread.start()
            thread.join()
        return loss

    optimizer.step(closure)
    assert other[1].num_batches_tracked == model[1].num_batches_tracked == 1


# Dropout: the second pass is the same function


def with_dropout(p=0.5):
    return net(nn.Dropout(p))


def dropped(params, model=None):
    return F.cross_entropy(functional_call(model or with_dropout(), params, (X,)), Y)


def test_both_passes_leave_out_the_same_units():
    model = with_dropout()
    optimizer, seen = SAM(SGD(model.parameters(), lr=0.0), 1e-7), []

    def closure():
        loss = closure_of(optimizer, model)()
        seen.append(gradients(model))
        return loss

    for _ in range(3):
        optimizer.step(closure)
    for first, second in (seen[:2], seen[2:4], seen[4:]):
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(seen[0]["0.weight"], seen[2]["0.weight"], rtol=0.1)  # other units in each step


def test_after_a_step_the_random_state_is_that_after_one_pass():
    model = with_dropout()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.05)
    torch.manual_seed(3)
    model(X)
    one_pass = torch.get_rng_state()
    torch.manual_seed(3)
    optimizer.step(closure_of(optimizer, model))
    assert torch.equal(torch.get_rng_state(), one_pass)


@pytest.mark.parametrize("alone", ["first", "second"])
def test_a_pass_that_draws_alone_draws_anew_in_every_step(alone):
    model = with_dropout()
    optimizer, seen = SAM(SGD(model.parameters(), lr=0.0), 1e-7), []

    def random():
        loss = closure_of(optimizer, model)()
        seen.append(gradients(model)["0.weight"])
        return loss

    def still():
        model.eval()
        loss = closure_of(optimizer, model)()
        model.train()
        return loss

    first, second = (random, still) if alone == "first" else (still, random)
    for _ in range(3):
        optimizer.step(second, ascent_closure=first)
    assert len(seen) == 3
    for a, b in itertools.combinations(seen, 2):
        assert not torch.allclose(a, b, rtol=0.1)


def test_optimizer_function_and_the_passes_written_out_agree_with_dropout():
    expected = None
    for way in ("step", "written out", "function", "ensemble"):
        model = with_dropout()
        optimizer, params = SAM(SGD(model.parameters(), lr=1.0), 0.05), params_of(model)
        torch.manual_seed(1)
        if way == "step":
            optimizer.step(closure_of(optimizer, model))
        elif way == "written out":
            states = random_states(model.parameters())
            closure_of(optimizer, model)()
            with optimizer.perturbed(states):
                closure_of(optimizer, model)()
            optimizer.base_optimizer.step()
        elif way == "function":
            params = add(params, sam_gradient(lambda p: dropped(p, model), params, 0.05)[0], -1.0)  # noqa: B023
        else:
            many = {name: p[None] for name, p in params.items()}
            found = vmap(lambda p: sam_gradient(lambda q: dropped(q, model), p, 0.05)[0], randomness="same")(many)  # noqa: B023
            params = add(params, {name: g[0] for name, g in found.items()}, -1.0)
        params = params_of(model) if way in ("step", "written out") else params
        expected = expected or params
        for name in params:
            torch.testing.assert_close(params[name], expected[name], rtol=1e-5, atol=1e-6)
    torch.manual_seed(1)
    start = params_of(with_dropout())
    plain = add(start, grad(dropped)(start), -1.0)
    assert not torch.allclose(plain["0.weight"], expected["0.weight"], rtol=1e-4)


def test_passes_written_out_without_states_go_on_drawing():
    model = with_dropout()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.05)
    closure_of(optimizer, model)()
    before = torch.get_rng_state()
    with optimizer.perturbed():
        closure_of(optimizer, model)()
    assert not torch.equal(torch.get_rng_state(), before)


# Batch statistics


class Domains(nn.Module):
    """One layer for all, a norm for each domain: which one is used changes, and the weights in use do not."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(5, 8), nn.Linear(8, 3)
        self.norms = nn.ModuleList([nn.BatchNorm1d(8, affine=False) for _ in range(2)])

    def forward(self, x, domain):
        return self.out(self.norms[domain](self.layer(x)).relu())


@pytest.mark.parametrize("parts", [False, True])
def test_norms_that_take_turns_see_every_batch_once(parts):
    """In one module, or called one by one by the closure."""
    model, plain = Domains(), Domains()
    plain.load_state_dict(model.state_dict())
    optimizer = SAM(SGD(model.parameters(), lr=0.0), 0.5)
    for step in range(6):
        domain, x = step % 2, X + step

        def forward(net):
            if parts:
                return net.out(net.norms[domain](net.layer(x)).relu())  # noqa: B023
            return net(x, domain)  # noqa: B023

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(model), Y)  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
        forward(plain)
        assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))
    assert [norm.num_batches_tracked.item() for norm in model.norms] == [3, 3]


def test_a_norm_added_or_replaced_on_the_way_is_seen_too():
    model = net(nn.BatchNorm1d(8, affine=False))
    optimizer = SAM(SGD(model.parameters(), lr=0.0), 0.5)
    for step in range(3):
        model[1] = nn.BatchNorm1d(8, affine=False)
        optimizer.step(closure_of(optimizer, model, X + step))
        assert model[1].num_batches_tracked == 1


@pytest.mark.filterwarnings("ignore:.torch.jit.(script|trace). is deprecated")
def test_scripted_models_with_batch_norm_train_as_their_sources():
    source = net(nn.BatchNorm1d(8))
    for scripted in (torch.jit.script(copy.deepcopy(source)), nn.Sequential(torch.jit.script(copy.deepcopy(source)))):
        plain = copy.deepcopy(source)
        for model in (plain, scripted):
            optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.05)
            for _ in range(3):
                optimizer.step(closure_of(optimizer, model))
        for a, b in zip(plain.state_dict().values(), scripted.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)
        assert plain[1].num_batches_tracked == 3


def test_a_buffer_that_asks_for_gradients_is_frozen_as_well():
    model = nn.BatchNorm1d(5)
    model.register_buffer("scale", torch.ones(5, requires_grad=True))
    with frozen_statistics():
        model(X)
    assert model.num_batches_tracked == 0 and model.scale.requires_grad


# Compilers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the compiler
def test_a_compiled_step_is_the_step():
    """lr = 0: nothing may move. Whichever part is inside what is compiled."""
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM(SGD([w], lr=0.0), 0.5)

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    def perturbed():
        closure()
        with optimizer.perturbed():
            closure()
        optimizer.base_optimizer.step()

    def ascended():
        closure()
        optimizer.ascend()
        closure()
        optimizer.restore()
        optimizer.base_optimizer.step()

    for way in (lambda: optimizer.step(closure), perturbed, ascended):
        step = torch.compile(way, backend="eager")
        for _ in range(3):
            w.grad = None
            step()
            assert torch.equal(w, torch.ones(3)) and torch.allclose(w.grad, torch.full((3,), 2 * (1 + 0.5 / 3**0.5)))
    assert (optimizer.steps, optimizer.sam_steps) == (3, 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated")
def test_compiled_and_not_the_path_is_the_same():
    paths = []
    for compiled in ("nothing", "model", "step", "scheduled step"):
        model = net(nn.BatchNorm1d(8), nn.Dropout(0.3))
        optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), 0.05, every=2)
        if compiled == "scheduled step":
            lr_scheduler.ConstantLR(optimizer, 1.0, 99)
        forward = torch.compile(model, backend="eager") if compiled == "model" else model
        closure = closure_of(optimizer, forward)
        step = torch.compile(optimizer.step, backend="eager") if "step" in compiled else optimizer.step
        torch.manual_seed(2)
        losses = [step(closure).item() for _ in range(12)]
        assert model[1].num_batches_tracked == 12 and optimizer.sam_steps == 6
        paths.append((losses, dict(model.state_dict())))
    for losses, weights in paths[1:]:
        assert losses == pytest.approx(paths[0][0], rel=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(value, paths[0][1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_gradient_is_the_gradient():
    params, loss = {"w": torch.tensor([1.0, 2.0])}, lambda p: (p["w"] ** 4).sum()
    found = torch.compile(lambda p: sam_gradient(loss, p, 0.1)[0], backend="eager")(params)
    torch.testing.assert_close(found, sam_gradient(loss, params, 0.1)[0])


# Loss scaling


@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_recipe_for_a_scaler_and_clipping(clip):
    plain, scaled = net(), net()
    one = SAM(SGD(plain.parameters(), lr=0.1), 0.05)
    other, scaler = SAM(SGD(scaled.parameters(), lr=0.1), 0.05), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        closure_of(one, plain)()
        with one.perturbed():
            closure_of(one, plain)()
        other.zero_grad()
        scaler.scale(F.cross_entropy(scaled(X), Y)).backward()
        with other.perturbed():
            other.zero_grad()
            scaler.scale(F.cross_entropy(scaled(X), Y)).backward()
        if clip:
            nn.utils.clip_grad_norm_(plain.parameters(), clip)
            scaler.unscale_(other.base_optimizer)
            nn.utils.clip_grad_norm_(scaled.parameters(), clip)
        one.base_optimizer.step()
        scaler.step(other.base_optimizer)
        scaler.update()
    for name, value in params_of(scaled).items():
        torch.testing.assert_close(value, params_of(plain)[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("call", ["unscale_", "step"])
def test_a_scaler_is_not_to_be_given_the_sam_object(call):
    model = net()
    optimizer, scaler = SAM(SGD(model.parameters(), lr=0.1), 0.05), torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(F.cross_entropy(model(X), Y)).backward()
    before, weights = gradients(model), params_of(model)
    with pytest.raises(
        TypeError, match=r"GradScaler must be given the base optimizer: scaler.*optimizer.base_optimizer"
    ):
        getattr(scaler, call)(optimizer)
    assert_same(gradients(model), before)
    assert_same(params_of(model), weights)
    scaler.step(optimizer.base_optimizer)
    scaler.update()
    assert not torch.equal(model[0].weight, weights["0.weight"])
