"""SAM against closed forms, finite differences, and itself said in three ways: function, ensemble, optimizer."""

import contextlib
import copy
import io
import math
import os
from functools import partial

import pytest
import torch
import torch.multiprocessing
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from sam_lite.params import add, dot, from_vector, load_params, loss_of, member, params_of, stack, to_vector
from sam_lite.sam import SAM, adaptive_ascent, ascent, frozen_statistics, m_sam_gradient, p_ascent, sam_gradient

ASCENTS = {
    "2": ascent,
    "adaptive": adaptive_ascent,
    "adaptive, eta 0": partial(adaptive_ascent, eta=0.0),
    **{f"p = {p}": p_ascent(p) for p in (1, 1.5, 2, 3, 10, math.inf)},
}
BASES = {
    "SGD": partial(SGD, lr=0.1, weight_decay=0.01),
    "momentum": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": partial(Adam, lr=0.01),
    "AdamW": partial(AdamW, lr=0.01, weight_decay=0.1),
}
each_ascent = pytest.mark.parametrize("climb", ASCENTS.values(), ids=ASCENTS)
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


def some(seed=0, **shapes):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def p_norm(params, p):
    return torch.linalg.vector_norm(to_vector(params), ord=p)


def net(seed=0, norm=False, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)]
        return nn.Sequential(*layers[:1], *[nn.BatchNorm1d(8)] * norm, *layers[1:]).to(dtype)


def batch(seed=0, n=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(n, 5, generator=generator).to(dtype), torch.randint(3, (n,), generator=generator)


def closure_of(model, optimizer, x, y, share=1.0):
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) * share
        loss.backward()
        return loss

    return closure


def run(model, optimizer, steps, scheduler=None, first=0):
    """The loop that serves every torch optimizer, LBFGS too."""
    losses = []
    for step in range(first, first + steps):
        losses.append(optimizer.step(closure_of(model, optimizer, *batch(step))).item())
        if scheduler:
            scheduler.step()
    return losses


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def hessian(loss, params):
    return jacrev(grad(lambda v: loss(from_vector(v, params))))(to_vector(params))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_near(a, b, tolerance=1e-12):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def one_weight(value=1.0, dtype=torch.float64, **settings):
    """A parameter, and a step on `loss(w)` with it."""
    w = nn.Parameter(torch.tensor(value, dtype=dtype))
    optimizer = SAM(SGD([w], lr=settings.pop("lr", 0.1)), settings.pop("rho", 0.05), **settings)

    def step(loss):
        def closure():
            optimizer.zero_grad()
            value = loss(w)
            value.backward()
            return value

        return optimizer.step(closure)

    return w, optimizer, step


# The ascents


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 10, math.inf])
def test_the_step_has_length_rho_and_gains_rho_times_the_dual_norm(p):
    grads, rho = some(w=(4, 3), b=(3,)), 0.3
    e = p_ascent(p)(grads, grads, rho)
    dual = math.inf if p == 1 else 1 if p == math.inf else p / (p - 1)
    assert p_norm(e, p).item() == pytest.approx(rho, rel=1e-13)
    assert dot(e, grads).item() == pytest.approx(rho * p_norm(grads, dual).item(), rel=1e-13)


def test_p_2_is_the_euclidean_ascent():
    grads = some(w=(4, 3), b=(3,))
    assert_near(p_ascent(2)(grads, grads, 0.3), ascent(grads, grads, 0.3), 1e-15)


def test_p_inf_moves_every_weight_and_p_1_the_one_with_the_largest_gradient():
    grads = {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([0.0, 2.0])}
    e = p_ascent(math.inf)(grads, grads, 0.5)
    assert to_vector(e).tolist() == [0.5, -0.5, 0, 0.5]
    e = p_ascent(1)(grads, grads, 0.5)
    assert to_vector(e).tolist() == [0, -0.5, 0, 0]


def test_p_1_shares_rho_between_equally_large_gradients():
    grads = {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([-4.0])}
    assert to_vector(p_ascent(1)(grads, grads, 0.5)).tolist() == [0.25, 0, -0.25]


def test_one_norm_for_all_tensors_of_a_model():
    grads = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    assert to_vector(ascent(grads, grads, 5.0)).tolist() == [3.0, 4.0]


@pytest.mark.parametrize("eta", [0.0, 0.01, 1.0])
def test_the_adaptive_step_has_length_rho_in_units_of_the_weights(eta):
    grads, params, rho = some(1, w=(4, 3), b=(3,)), some(2, w=(4, 3), b=(3,)), 0.3
    e = adaptive_ascent(grads, params, rho, eta=eta)
    size = {name: w.abs() + eta for name, w in params.items()}
    assert p_norm({name: e[name] / size[name] for name in e}, 2).item() == pytest.approx(rho, rel=1e-13)
    gain = rho * p_norm({name: size[name] * grads[name] for name in e}, 2)
    assert dot(e, grads).item() == pytest.approx(gain.item(), rel=1e-13)


def test_the_adaptive_ascent_scales_the_names_it_is_told_to():
    grads, params = some(1, weight=(4, 3), bias=(3,)), some(2, weight=(4, 3), bias=(3,))
    e = adaptive_ascent(grads, params, 1.0, eta=0.5, scaled=lambda name: "weight" in name)
    size = {"weight": params["weight"].abs() + 0.5, "bias": torch.ones(3, dtype=torch.float64)}
    length = p_norm({name: size[name] * grads[name] for name in size}, 2)
    assert_near(e, {name: size[name] ** 2 * grads[name] / length for name in size}, 1e-14)


def test_with_eta_a_zero_weight_moves_and_without_it_does_not():
    grads, params = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([0.0, 1.0])}
    assert adaptive_ascent(grads, params, 1.0)["w"][0] > 0
    assert adaptive_ascent(grads, params, 1.0, eta=0.0)["w"][0] == 0


def test_the_adaptive_loss_is_invariant_where_curvature_is_not():
    """Rescale a ReLU net's layers by (a, 1/a): the same function, and the same perturbed loss, but another Hessian."""
    params, a = some(3, first=(4, 5), second=(2, 4)), 3.0
    rescaled = {"first": a * params["first"], "second": params["second"] / a}
    x, y = some(4, x=(5, 20), y=(2, 20)).values()

    def loss(p):
        return ((p["second"] @ (p["first"] @ x).relu() - y) ** 2).mean()

    def perturbed(p, climb):
        return loss(add(p, climb(grad(loss)(p), p, 0.2))).item()

    def top(p):
        return torch.linalg.eigvalsh(hessian(loss, p))[-1].item()

    exact = partial(adaptive_ascent, eta=0.0)
    assert loss(rescaled).item() == pytest.approx(loss(params).item(), rel=1e-14)
    assert perturbed(rescaled, exact) == pytest.approx(perturbed(params, exact), rel=1e-13)
    assert abs(perturbed(rescaled, ascent) / perturbed(params, ascent) - 1) > 0.01
    assert abs(top(rescaled) / top(params) - 1) > 0.5


@each_ascent
def test_a_zero_gradient_gives_a_zero_step(climb):
    grads = {"a": torch.zeros(3), "b": torch.zeros(())}
    assert to_vector(climb(grads, {"a": torch.ones(3), "b": torch.ones(())}, 0.1)).tolist() == [0] * 4


@each_ascent
@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_the_size_of_the_gradient_does_not_matter(climb, size):
    params = {"w": torch.tensor([0.5, -2.0, 1.0])}
    e = climb({"w": torch.tensor([3.0, 1.0, -2.0])}, params, 0.1)
    scaled = climb({"w": size * torch.tensor([3.0, 1.0, -2.0])}, params, 0.1)
    torch.testing.assert_close(scaled, e, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_does_not_pass_for_one_that_is(bad):
    grads = {"a": torch.tensor([1.0, bad]), "b": torch.tensor([2.0])}
    for climb in (ascent, adaptive_ascent, p_ascent(1.5), p_ascent(3)):
        assert not to_vector(climb(grads, {"a": torch.ones(2), "b": torch.ones(1)}, 0.1)).isfinite().all()


@each_ascent
def test_an_ensemble_has_a_norm_and_a_radius_for_each_model(climb):
    """Also: what one model computes in one operation for all tensors is what vmap computes tensor by tensor."""
    grads, params, rho = some(5, w=(3, 4, 2), b=(3, 2)), some(6, w=(3, 4, 2), b=(3, 2)), torch.tensor([0.1, 1, 0])
    together = vmap(climb)(grads, params, rho.double())
    for i in range(3):
        assert_near(member(together, i), climb(member(grads, i), member(params, i), rho[i].item()), 1e-14)


@pytest.mark.parametrize("p", [0.5, 0, -1, math.nan, "2"])
def test_p_is_at_least_1(p):
    with pytest.raises(ValueError, match="p must be a finite number >= 1, got .*; math.inf is allowed"):
        p_ascent(p)


# The SAM gradient


@pytest.mark.parametrize("w", [2.0, -0.3])
def test_on_a_parabola_it_is_a_times_w_plus_rho_sign_w(w):
    params, a, rho = {"w": torch.tensor(w, dtype=torch.float64)}, 3.0, 0.25
    grads, value = sam_gradient(lambda p: a * p["w"] ** 2 / 2, params, rho)
    assert grads["w"].item() == pytest.approx(a * (w + rho * math.copysign(1, w)), rel=1e-15)
    assert value.item() == pytest.approx(a * w * w / 2, rel=1e-15)


def smooth(seed=0):
    """A smooth loss of 6 weights, and a point."""
    a, b = some(seed, a=(6, 6), b=(6,)).values()

    def loss(p):
        v = to_vector(p)
        return (v @ a.T).tanh().square().sum() + torch.cos(v @ b) + (v**4).sum() / 10

    return loss, some(seed + 1, u=(2, 2), v=(2,))


@each_ascent
def test_it_is_the_gradient_at_the_perturbed_weights(climb):
    loss, params = smooth()
    before = {name: p.clone() for name, p in params.items()}
    grads, value = sam_gradient(loss, params, 0.1, ascent=climb)
    point = add(params, climb(grad(loss)(params), params, 0.1))
    h = 1e-6
    for i, direction in enumerate(torch.eye(6, dtype=torch.float64)):
        step = from_vector(direction, params)
        slope = (loss(add(point, step, h)) - loss(add(point, step, -h))) / (2 * h)
        assert to_vector(grads)[i].item() == pytest.approx(slope.item(), abs=1e-8)
    assert value == loss(params)
    assert_same(params, before)


def test_what_is_dropped_is_the_derivative_of_the_step():
    """d/dw L(w + e(w)) = g_sam + (de/dw)' g_sam, with de/dw = rho (I - g g' / |g|^2) H / |g|: finite differences say so."""
    loss, params = smooth()
    rho, h, w = 0.1, 1e-6, to_vector(params)

    def climbed(v):
        p = from_vector(v, params)
        return loss(add(p, ascent(grad(loss)(p), p, rho)))

    whole = torch.stack([(climbed(w + h * d) - climbed(w - h * d)) / (2 * h) for d in torch.eye(6, dtype=w.dtype)])
    g, H = to_vector(grad(loss)(params)), hessian(loss, params)
    slope = rho * (torch.eye(6) - torch.outer(g, g) / g.dot(g)) @ H / g.norm()
    sam = to_vector(sam_gradient(loss, params, rho)[0])
    torch.testing.assert_close(whole, sam + slope.T @ sam, rtol=1e-7, atol=1e-7)
    assert (slope.T @ sam).norm() > 0.01 * sam.norm()


def test_to_first_order_it_adds_rho_times_the_hessian_along_the_gradient():
    loss, params = smooth()
    g = grad(loss)(params)
    term = hessian(loss, params) @ to_vector(g) / to_vector(g).norm()
    error = [(to_vector(sam_gradient(loss, params, r)[0]) - to_vector(g) - r * term).norm() for r in (1e-2, 1e-3)]
    assert error[0] / error[1] == pytest.approx(100, rel=0.1)


def test_the_dtype_stays():
    params = {"w": torch.ones(3), "b": torch.ones(2, dtype=torch.float64)}
    grads, _ = sam_gradient(lambda p: p["w"].square().sum() + p["b"].square().sum(), params, 0.1)
    assert grads["w"].dtype == torch.float32 and grads["b"].dtype == torch.float64
    torch.testing.assert_close(grads["w"], torch.full((3,), 2 * (1 + 0.1 / 5**0.5)))


def test_a_model_that_diverged_does_not_touch_the_others():
    params = {"w": torch.tensor([[1.0, 2.0], [math.inf, 1.0], [math.nan, 1.0], [1.0, 2.0]])}
    grads, value = vmap(lambda p: sam_gradient(lambda q: (q["w"] ** 2).sum(), p, 0.1))(params)
    alone, _ = sam_gradient(lambda q: (q["w"] ** 2).sum(), member(params, 0), 0.1)
    assert torch.equal(grads["w"][0], alone["w"]) and torch.equal(grads["w"][3], alone["w"])
    assert value.isfinite().tolist() == [True, False, False, True]


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf, "0.05", None, True])
def test_rho_is_a_number_of_at_least_0(rho):
    with pytest.raises(ValueError, match=f"^rho must be a finite number >= 0, got {rho!r}$"):
        sam_gradient(lambda p: p["w"] ** 2, {"w": torch.tensor(1.0)}, rho)
    with pytest.raises(ValueError, match=f"^rho must be a finite number >= 0, got {rho!r}$"):
        SAM(SGD([nn.Parameter(torch.ones(1))], lr=0.1), rho)


# m-SAM


def test_one_chunk_is_sam_and_chunks_of_one_are_the_mean_over_samples():
    model, (x, y) = net(), batch()
    params = params_of(model)
    whole = sam_gradient(loss_of(model, x, y), params, 0.1)
    assert_same(m_sam_gradient([loss_of(model, x, y)], params, 0.1)[0], whole[0])
    grads, value = m_sam_gradient([loss_of(model, x[i : i + 1], y[i : i + 1]) for i in range(12)], params, 0.1)
    alone = [sam_gradient(loss_of(model, x[i : i + 1], y[i : i + 1]), params, 0.1)[0] for i in range(12)]
    assert_near(grads, {name: torch.stack([g[name] for g in alone]).mean(0) for name in params}, 1e-14)
    assert value.item() == pytest.approx(whole[1].item(), rel=1e-14)
    assert not torch.allclose(grads["0.weight"], whole[0]["0.weight"], rtol=1e-3)

    def mapped(x, y):
        loss = lambda p: F.cross_entropy(functional_call(model, p, (x,)), y)  # noqa: E731
        return sam_gradient(loss, params, 0.1)[0]

    chunks = vmap(mapped)(x.view(4, 3, 5), y.view(4, 3))
    losses = [loss_of(model, *chunk) for chunk in zip(x.split(3), y.split(3), strict=True)]
    assert_near({name: g.mean(0) for name, g in chunks.items()}, m_sam_gradient(losses, params, 0.1)[0])


def test_unequal_chunks_count_by_their_size():
    model, (x, y) = net(), batch()
    losses, params = [loss_of(model, x[:9], y[:9]), loss_of(model, x[9:], y[9:])], params_of(model)
    grads, value = m_sam_gradient(losses, params, 0.1, sizes=[9, 3])
    a, b = (sam_gradient(loss, params, 0.1)[0] for loss in losses)
    assert_near(grads, {name: (9 * a[name] + 3 * b[name]) / 12 for name in params}, 1e-14)
    assert value.item() == pytest.approx(loss_of(model, x, y)(params).item(), rel=1e-14)
    with pytest.raises(ValueError, match="zip"):
        m_sam_gradient(losses, params, 0.1, sizes=[9])


# The optimizer: three ways to say the same


@pytest.mark.parametrize(
    "climb",
    [
        pytest.param(climb, id=name, marks=[pytest.mark.slow] * name.startswith(("p = 1", "p = 3")))
        for name, climb in ASCENTS.items()
    ],
)
def test_optimizer_function_and_ensemble_agree(climb):
    rhos, models = [0.0, 0.05, 0.3], [net(seed) for seed in range(3)]
    alone = [params_of(model) for model in models]
    together, rho = stack(alone), torch.tensor(rhos, dtype=torch.float64)
    optimizers = [SAM(SGD(m.parameters(), lr=0.1), r, ascent=climb) for m, r in zip(models, rhos, strict=True)]
    for step in range(20):
        x, y = batch(step)
        loss = loss_of(models[0], x, y)
        losses = [o.step(closure_of(m, o, x, y)) for m, o in zip(models, optimizers, strict=True)]
        grads, values = vmap(lambda p, r: sam_gradient(loss, p, r, ascent=climb))(together, rho)  # noqa: B023
        together = add(together, grads, -0.1)
        for i in range(3):
            g, value = sam_gradient(loss, alone[i], rhos[i], ascent=climb)
            alone[i] = add(alone[i], g, -0.1)
            assert losses[i].item() == pytest.approx(value.item(), rel=1e-12)
            assert values[i].item() == pytest.approx(value.item(), rel=1e-12)
    for i, model in enumerate(models):
        assert_near(params_of(model), alone[i])
        assert_near(member(together, i), alone[i])


def test_on_a_parabola_the_step_is_a_times_w_plus_rho_sign_w():
    w, optimizer, step = one_weight(2.0, lr=0.1, rho=0.5)
    loss = step(lambda w: 3 * w**2 / 2)
    assert w.item() == pytest.approx(2 - 0.1 * 3 * (2 + 0.5), rel=1e-15)
    assert loss.item() == 6.0
    assert (optimizer.steps, optimizer.sam_steps, optimizer.gradients) == (1, 1, 2)


@each_base
def test_weight_decay_is_in_the_base_step_alone(base):
    """By hand: g at w + e, where e knows nothing of the decay, given to the bare optimizer at w."""
    model, bare = net(), net()
    optimizer, by_hand = SAM(base(model.parameters()), 0.1), base(bare.parameters())
    for step in range(5):
        x, y = batch(step)
        optimizer.step(closure_of(model, optimizer, x, y))
        grads, _ = sam_gradient(loss_of(bare, x, y), params_of(bare), 0.1)
        for name, p in bare.named_parameters():
            p.grad = grads[name]
        by_hand.step()
    assert_near(params_of(model), params_of(bare))


OFF = {
    "rho 0": {"rho": 0.0},
    "never": {"every": math.inf},
    "every 11": {"every": 11},
    "start at the end": {"start": 10},
    "never starts": {"start": math.inf},
    "probability 0": {"probability": 0.0},
}


@each_base
@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
def test_switched_off_it_is_the_base_optimizer_to_the_bit(base, off):
    plain, model = net(norm=True, dtype=torch.float32), net(norm=True, dtype=torch.float32)
    optimizer = SAM(base(model.parameters()), **{"rho": 0.1} | off)
    losses = []
    for m, o in ((plain, base(plain.parameters())), (model, optimizer)):
        losses.append([o.step(closure_of(m, o, *batch(step, dtype=torch.float32))).item() for step in range(10)])
    assert losses[0] == losses[1]
    assert_same(weights(plain), weights(model))
    assert (optimizer.steps, optimizer.sam_steps, optimizer.gradients) == (10, 0, 10)


def perturbed_steps(steps=12, **settings):
    """The numbers, from 1, of those steps in which the closure ran twice; and the optimizer."""
    calls = []
    w, optimizer, step = one_weight(**settings)
    for number in range(1, steps + 1):
        step(lambda w: calls.append(number) or w**2)  # noqa: B023
    twice = [number for number in range(1, steps + 1) if calls.count(number) == 2]
    assert len(calls) == steps + len(twice) == optimizer.gradients
    assert (optimizer.steps, optimizer.sam_steps) == (steps, len(twice))
    return twice, optimizer


def test_every_step_every_fourth_late_or_both():
    assert perturbed_steps()[0] == list(range(1, 13))
    assert perturbed_steps(every=4)[0] == [4, 8, 12]
    assert perturbed_steps(start=9)[0] == [10, 11, 12]
    assert perturbed_steps(start=5, every=3)[0] == [8, 11]


def test_with_a_probability_drawn_from_a_seed():
    assert perturbed_steps(probability=1.0)[0] == list(range(1, 13))
    first, _ = perturbed_steps(400, probability=0.25)
    assert 70 < len(first) < 130  # 100, with a standard deviation of 8.7
    state = torch.get_rng_state()
    assert perturbed_steps(400, probability=0.25, seed=0)[0] == first
    assert perturbed_steps(400, probability=0.25, seed=1)[0] != first
    assert torch.equal(torch.get_rng_state(), state)


def test_ascent_on_a_fraction_of_the_batch():
    model, (x, y) = net(), batch()
    params, optimizer = params_of(model), SAM(SGD(model.parameters(), lr=0.1), 0.1, every=2)
    whole, part = closure_of(model, optimizer, x, y), closure_of(model, optimizer, x[:3], y[:3])
    assert optimizer.step(whole, ascent_closure=part).item() == loss_of(model, x, y)(params).item()  # no SAM: not used
    params = add(params, grad(loss_of(model, x, y))(params), -0.1)
    assert_near(params_of(model), params)
    loss = optimizer.step(whole, ascent_closure=part)
    assert loss.item() == pytest.approx(loss_of(model, x[:3], y[:3])(params).item(), rel=1e-12)
    e = ascent(grad(loss_of(model, x[:3], y[:3]))(params), params, 0.1)
    assert_near(params_of(model), add(params, grad(loss_of(model, x, y))(add(params, e)), -0.1))


# The optimizer: groups, state, schedules, checkpoints


def make(base, **settings):
    model = net()
    optimizer = SAM(base(model.parameters()), 0.1, **settings)
    return model, optimizer, CosineAnnealingLR(optimizer, 12)


@each_base
def test_resume_is_exact_to_the_bit(base):
    settings = {"every": 2, "start": 1, "probability": 0.6, "seed": 0}
    model, optimizer, scheduler = make(base, **settings)
    run(model, optimizer, 5, scheduler)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    losses = run(model, optimizer, 5, scheduler, first=5)
    again, resumed, schedule = make(base, **settings)
    file.seek(0)
    for part, state in zip((again, resumed, schedule), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert run(again, resumed, 5, schedule, first=5) == losses
    assert_same(weights(model), weights(again))
    assert (resumed.steps, resumed.sam_steps) == (optimizer.steps, optimizer.sam_steps)
    assert 0 < resumed.sam_steps < 5


@pytest.mark.parametrize("through", ["SAM", "base"])
def test_after_loading_a_scheduler_still_reaches_the_weights(through):
    model, optimizer, _ = make(BASES["momentum"])
    run(model, optimizer, 2)
    (optimizer if through == "SAM" else optimizer.base_optimizer).load_state_dict(optimizer.base_optimizer.state_dict())
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    assert optimizer.state is optimizer.base_optimizer.state
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = weights(model)
    run(model, optimizer, 3, scheduler)
    assert_same(weights(model), before)


def test_a_scheduler_of_the_base_optimizer_works_as_well():
    (a, one, scheduler), (b, two, _) = make(BASES["SGD"]), make(BASES["SGD"])
    run(a, one, 4, scheduler)
    run(b, two, 4, CosineAnnealingLR(two.base_optimizer, 12))
    assert_same(weights(a), weights(b))


def test_from_a_checkpoint_of_the_base_optimizer_alone():
    model, plain = net(), net()
    base = BASES["momentum"](plain.parameters())
    run(plain, base, 3)
    model.load_state_dict(plain.state_dict())
    optimizer = SAM(BASES["momentum"](model.parameters()), 0.0)
    optimizer.load_state_dict(copy.deepcopy(base.state_dict()))
    run(plain, base, 3, first=3)
    run(model, optimizer, 3, first=3)
    assert_same(weights(model), weights(plain))


def test_a_group_added_later_is_perturbed_and_updated():
    for add_group in (SAM.add_param_group, lambda optimizer, group: optimizer.base_optimizer.add_param_group(group)):
        w, optimizer, step = one_weight(2.0, rho=0.5)
        v = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        add_group(optimizer, {"params": [v], "lr": 0.01})
        step(lambda w: w * v)  # noqa: B023  gradient (3, 2), length sqrt(13)
        assert w.item() == pytest.approx(2 - 0.1 * (3 + 0.5 * 2 / 13**0.5), rel=1e-14)
        assert v.item() == pytest.approx(3 - 0.01 * (2 + 0.5 * 3 / 13**0.5), rel=1e-14)


def test_zero_grad_and_repr_see_the_groups():
    w, optimizer, step = one_weight()
    step(lambda w: w**2)
    assert w.grad is not None and "lr: 0.1" in repr(optimizer)
    optimizer.zero_grad()
    assert w.grad is None


def test_step_hooks_run_once_a_step():
    w, optimizer, step = one_weight()
    seen = []
    optimizer.register_step_post_hook(lambda *args: seen.append(w.item()))
    step(lambda w: w**2)
    assert seen == [w.item()]


# The optimizer: gradients and weights of every kind


def test_a_gradient_in_the_first_pass_alone_leaves_no_trace():
    w, v = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    optimizer, passes = SAM(SGD([w, v], lr=0.0, momentum=0.9), 0.5), []

    def closure():
        optimizer.zero_grad()
        passes.append(v.item())
        loss = w**2 + (v**2 if len(passes) % 2 else 0)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        assert (w.item(), v.item()) == (1.0, 1.0)
        assert v.grad is None
    assert passes[1] > 1
    assert v not in optimizer.state


def test_a_gradient_in_the_second_pass_alone_is_used():
    w, v = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))
    optimizer, passes = SAM(SGD([w, v], lr=0.25), 0.5), []

    def closure():
        optimizer.zero_grad()
        passes.append(v.item())
        loss = w**2 + (v**2 if len(passes) % 2 == 0 else 0)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert passes == [1.0, 1.0]
    assert (w.item(), v.item()) == (1 - 0.25 * 2 * 1.5, 0.5)


@each_ascent
def test_at_a_minimum_it_stays(climb):
    w, optimizer, step = one_weight([0.0, 0.0], ascent=climb)
    assert step(lambda w: (w**2).sum()).item() == 0
    assert w.tolist() == [0, 0]


@each_ascent
def test_without_any_gradient_it_stays(climb):
    w, optimizer, _ = one_weight(1.0, ascent=climb)
    assert optimizer.step(lambda: torch.tensor(7.0)).item() == 7
    assert w.item() == 1


def test_weights_come_back_by_copy_not_by_subtraction():
    start = torch.linspace(0.1, 1, 50)
    w, _, step = one_weight(start.tolist(), dtype=torch.float32, lr=0.0, rho=3e7)
    for _ in range(3):
        step(lambda w: (w**2).sum())
    assert torch.equal(w, start)


def test_a_gradient_that_is_not_finite_does_no_more_than_without_sam():
    """inf - inf would be NaN for ever; here lr = 0 leaves the weights as they were."""
    w, optimizer, step = one_weight([1.0, 2.0])
    optimizer.ascend()
    w.grad = torch.tensor([math.inf, 1.0], dtype=torch.float64)
    with optimizer.perturbed():
        assert not w.isfinite().all()
    assert w.tolist() == [1, 2]
    loss = step(lambda w: (w * math.nan).sum())
    assert loss.isnan() and w.isnan().all() and optimizer.steps == 1  # what SGD does


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_refused(dtype):
    with pytest.raises(TypeError, match=f"SAM in {dtype} loses .* use float32 weights with torch.autocast"):
        SAM(SGD(net().to(dtype).parameters(), lr=0.1), 0.05)
    w, optimizer, step = one_weight(2.0)
    w.data = w.data.to(dtype)
    with pytest.raises(TypeError, match="use float32 weights with torch.autocast"):
        step(lambda w: w**2)
    assert w.item() == 2
    frozen = nn.Parameter(torch.ones(1, dtype=dtype), requires_grad=False)
    SAM(SGD([frozen, nn.Parameter(torch.ones(1))], lr=0.1), 0.05)


def test_sparse_gradients_are_refused():
    model = nn.Embedding(4, 2, sparse=True)
    before, optimizer = weights(model), SAM(SGD(model.parameters(), lr=0.1), 0.05)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(TypeError, match=r"SAM needs dense gradients.*sparse=False"):
        optimizer.step(closure)
    assert_same(weights(model), before)


def test_weights_that_are_not_contiguous_are_tied_or_of_several_dtypes():
    tied = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64).t())
    single = nn.Parameter(torch.tensor([2.0]))
    assert not tied.is_contiguous()
    optimizer = SAM(SGD([tied, single], lr=0.1), 0.5)

    def loss(p):
        return (p["tied"] @ p["tied"].t()).sum() + (p["single"] ** 2).sum()

    def closure():
        optimizer.zero_grad()
        value = loss({"tied": tied, "single": single})
        value.backward()
        return value

    params = {"tied": tied.detach().clone(), "single": single.detach().clone()}
    optimizer.step(closure)
    grads, _ = sam_gradient(loss, params, 0.5)
    assert_near({"tied": tied.detach(), "single": single.detach()}, add(params, grads, -0.1), 1e-7)
    assert tied.stride() == (1, 2) and single.dtype == torch.float32


def test_a_layer_used_twice_is_one_weight():
    model = net()
    model.append(nn.Tanh()).append(nn.Linear(3, 3, bias=False)).append(nn.Linear(3, 3, bias=False)).double()
    model[-1].weight = model[-2].weight
    params, (x, y) = params_of(model), batch()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.3)
    optimizer.step(closure_of(model, optimizer, x, y))
    assert_near(params_of(model), add(params, sam_gradient(loss_of(model, x, y), params, 0.3)[0], -0.1))


@each_ascent
def test_nothing_waits_for_the_device(climb):
    """Tensors on "meta" have no values: reading one would raise."""
    model = net(norm=True, dtype=torch.float32).to("meta")
    optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), 0.05, ascent=climb)
    x, y = torch.empty(12, 5, device="meta"), torch.empty(12, dtype=torch.int64, device="meta")
    assert optimizer.step(closure_of(model, optimizer, x, y)).is_meta
    assert optimizer.sam_steps == 1


def test_weights_on_two_devices_are_an_error():
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device="meta"))]
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="device"):
        SAM(SGD(params, lr=0.1), 0.05).ascend()


# The optimizer: closures


def test_the_loop_for_lbfgs_is_the_loop_for_sam():
    for make_optimizer in (torch.optim.LBFGS, lambda p: SAM(SGD(p, lr=0.1), 0.05)):
        model = net()
        losses = run(model, make_optimizer(model.parameters()), 3)
        assert losses[0] == loss_of(net(), *batch(0))(params_of(net())).item()


def test_it_returns_the_loss_before_the_climb():
    w, _, step = one_weight(3.0, rho=1.0)
    assert [step(lambda w: w**2).item() for _ in range(2)] == [9.0, pytest.approx((3 - 0.1 * 8) ** 2)]


def test_a_closure_that_forgets_zero_grad_does_not_add_the_passes():
    w, optimizer, _ = one_weight(2.0, rho=0.5)

    def closure():
        loss = w**2
        loss.backward()
        return loss

    optimizer.step(closure)
    assert w.item() == pytest.approx(2 - 0.1 * 2 * 2.5)


def test_gradients_are_on_in_the_closure_even_where_they_are_off():
    w, _, step = one_weight(2.0, rho=0.5)
    with torch.no_grad():
        step(lambda w: w**2)
    assert w.item() == pytest.approx(2 - 0.1 * 2 * 2.5)


@pytest.mark.parametrize("closure", [None, torch.tensor(1.0)])
def test_without_a_closure_the_error_shows_the_call(closure):
    w, optimizer, _ = one_weight()
    with pytest.raises(TypeError, match=r"call optimizer.step\(closure\)"):
        optimizer.step(closure)
    with pytest.raises(TypeError, match=r"call optimizer.step\(closure\)"):
        optimizer.step()


@pytest.mark.parametrize("value", [None, torch.ones(2), "0.5"])
def test_a_closure_must_return_one_number(value):
    w, optimizer, _ = one_weight(2.0)
    w.grad = torch.ones_like(w)
    with pytest.raises(TypeError, match=r"closure\(\) must return the loss, one number, got"):
        optimizer.step(lambda: value)
    assert (w.item(), optimizer.steps) == (2, 0)


def test_a_closure_may_return_a_float():
    w, optimizer, _ = one_weight(2.0)
    assert optimizer.step(lambda: 0.5) == 0.5


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", [1, 2])
def test_stopped_in_either_pass_the_weights_are_as_before(error, at):
    model, at_start = net(norm=True), []
    optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), 0.3)
    closure = closure_of(model, optimizer, *batch())

    def stops():
        at_start.append(weights(model))
        loss = closure()
        if len(at_start) == at:
            raise error("stop")
        return loss

    before = params_of(model)
    with pytest.raises(error, match="stop"):
        optimizer.step(stops)
    assert_same(params_of(model), before)
    assert model[1].num_batches_tracked == 1  # the first pass alone
    if at == 2:
        assert not torch.equal(at_start[1]["0.weight"], before["0.weight"])
        assert_same(buffers(model), {name: at_start[1][name] for name in buffers(model)})
    assert (optimizer.steps, optimizer.sam_steps) == (0, 0)
    optimizer.step(closure)
    assert optimizer.sam_steps == 1


# Batch statistics


def buffers(model):
    return {name: b.clone() for name, b in model.named_buffers()}


def test_batch_statistics_see_every_batch_once():
    model, plain = net(norm=True), net(norm=True)
    optimizer = SAM(SGD(model.parameters(), lr=0.0), 0.5)
    hooks = len(nn.modules.module._global_forward_pre_hooks)
    for step in range(3):
        optimizer.step(closure_of(model, optimizer, *batch(step)))
        plain(batch(step)[0])
        assert_same(buffers(model), buffers(plain))
    assert model[1].num_batches_tracked == 3
    assert model[1].momentum == 0.1 and model.training
    assert len(nn.modules.module._global_forward_pre_hooks) == hooks


def test_the_second_gradient_tends_to_the_first():
    """It would not if the second pass used running statistics instead of the batch's."""
    model, gradients = net(norm=True), []
    optimizer = SAM(SGD(model.parameters(), lr=0.0), 1e-8)
    closure = closure_of(model, optimizer, *batch())

    def keeps():
        loss = closure()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        return loss

    optimizer.step(keeps)
    assert_near(gradients[1], gradients[0], 1e-6)
    model.eval()
    optimizer.step(keeps)
    assert not torch.allclose(gradients[2]["0.weight"], gradients[0]["0.weight"], rtol=0.1)


def test_modules_called_one_by_one_or_later_are_found_too():
    first, second, later = (net(seed, norm=True) for seed in range(3))
    plain = [net(seed, norm=True) for seed in range(3)]
    params = [p for m in (first, second, later) for p in m.parameters()]
    optimizer = SAM(SGD(params, lr=0.0), 0.5)
    for used in ([0, 1], [0, 1], [0, 1, 2], [2]):

        def closure():
            optimizer.zero_grad()
            loss = sum(F.cross_entropy([first, second, later][i](batch()[0]), batch()[1]) for i in used)  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
        for i in used:
            plain[i](batch()[0])
        for model, alone in zip((first, second, later), plain, strict=True):
            assert_same(buffers(model), buffers(alone))


class Counter(nn.Module):
    """A module that makes a new tensor of its buffer, instead of changing it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("absent", None)

    def forward(self, x):
        self.calls = self.calls + 1
        return x


def test_a_buffer_that_is_replaced_comes_back():
    counter = Counter()
    owner = counter.calls
    with frozen_statistics():
        counter(1)
        counter(1)
        assert counter.calls == 2
    assert counter.calls == 0 and counter.calls is owner


def test_frozen_statistics_nested_and_with_an_error_inside():
    model, x = net(norm=True), batch()[0]
    model(x)
    before = buffers(model)
    with frozen_statistics():
        model(x)
        inside = buffers(model)
        with pytest.raises(KeyError, match="stop"), frozen_statistics():
            model(x)
            raise KeyError("stop")
        assert_same(buffers(model), inside)
    assert_same(buffers(model), before)
    assert model[1].momentum == 0.1 and model.training
    model(x)
    assert model[1].num_batches_tracked == 2


# Written out: ascend and restore, clipping, accumulation, loss scaling, autocast, several processes


def test_ascend_and_restore():
    w, optimizer, step = one_weight([3.0, 4.0], rho=5.0)
    w.grad = torch.tensor([0.6, 0.8], dtype=torch.float64)
    optimizer.ascend()
    assert w.tolist() == [6, 8]
    with pytest.raises(RuntimeError, match=r"call restore\(\) first"):
        optimizer.ascend()
    optimizer.restore()
    assert w.tolist() == [3, 4]
    optimizer.restore()
    assert w.tolist() == [3, 4]
    with pytest.raises(RuntimeError, match=r"call restore\(\) first"), optimizer.perturbed(), optimizer.perturbed():
        pass
    assert w.tolist() == [3, 4]
    assert not optimizer.state


def test_a_students_ascent_plugs_in():
    calls = []

    def unnormalized(grads, params, rho):
        calls.append((list(grads), list(params), rho))
        return {name: rho * g for name, g in grads.items()}

    params, (x, y) = params_of(net()), batch()
    expected = add(params, sam_gradient(loss_of(net(), x, y), params, 0.3, ascent=unnormalized)[0], -0.1)
    names, numbers = list(params), ["0", "1", "2", "3"]
    for named, given in ((True, names), (False, numbers)):
        model = net()
        base = SGD(model.named_parameters() if named else model.parameters(), lr=0.1)
        optimizer = SAM(base, 0.3, ascent=unnormalized)
        optimizer.step(closure_of(model, optimizer, x, y))
        assert calls.pop() == (given, given, 0.3)
        assert_near(params_of(model), expected)


def test_groups_whose_names_repeat_are_still_perturbed_whole():
    one, two = (nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in (3.0, 4.0))
    groups = [{"params": [("weight", one)]}, {"params": [("weight", two)]}]
    optimizer = SAM(SGD(groups, lr=0.1), 5.0)
    one.grad, two.grad = torch.tensor([0.6], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    optimizer.ascend()
    assert (one.item(), two.item()) == (6, 8)


def test_an_ascent_by_name_scales_the_weights_alone():
    """The authors' convention for ASAM, in the optimizer as in the function."""
    climb = partial(adaptive_ascent, scaled=lambda name: "weight" in name)
    model, (x, y) = net(), batch()
    params, optimizer = params_of(model), SAM(SGD(model.named_parameters(), lr=0.1), 0.5, ascent=climb)
    optimizer.step(closure_of(model, optimizer, x, y))
    grads, _ = sam_gradient(loss_of(model, x, y), params, 0.5, ascent=climb)
    assert_near(params_of(model), add(params, grads, -0.1))


def test_clipping_the_first_gradient_changes_nothing_and_the_second_is_the_one_to_clip():
    models = [net(), net()]
    for clip, model in zip((True, False), models, strict=True):
        optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.1)
        closure = closure_of(model, optimizer, *batch())
        closure()
        if clip:
            assert nn.utils.clip_grad_norm_(model.parameters(), 1e-3) > 1e-3
        with optimizer.perturbed():
            closure()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.base_optimizer.step()
    assert_near(params_of(models[0]), params_of(models[1]))
    length = p_norm(add(params_of(models[0]), params_of(net()), -1.0), 2)
    assert length.item() == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_accumulation_in_the_closure_is_one_big_batch():
    model, (x, y) = net(), batch()
    params, optimizer = params_of(model), SAM(SGD(model.parameters(), lr=0.1), 0.1)

    def closure():
        optimizer.zero_grad()
        total = 0.0
        for a, b in zip(x.split([9, 3]), y.split([9, 3]), strict=True):
            loss = F.cross_entropy(model(a), b) * len(b) / 12
            loss.backward()
            total += loss.detach()
        return total

    value = optimizer.step(closure)
    assert value.item() == pytest.approx(loss_of(model, x, y)(params).item(), rel=1e-12)
    assert_near(params_of(model), add(params, sam_gradient(loss_of(model, x, y), params, 0.1)[0], -0.1))


def test_a_climb_for_every_micro_batch_is_m_sam():
    model, (x, y) = net(), batch()
    params, optimizer = params_of(model), SAM(SGD(model.parameters(), lr=0.1), 0.1)
    chunks = list(zip(x.split([9, 3]), y.split([9, 3]), strict=True))
    total = [torch.zeros_like(p) for p in model.parameters()]
    for a, b in chunks:
        closure = closure_of(model, optimizer, a, b, share=len(b) / 12)
        closure()
        with optimizer.perturbed():
            closure()
        torch._foreach_add_(total, [p.grad for p in model.parameters()])
    for p, g in zip(model.parameters(), total, strict=True):
        p.grad = g
    optimizer.base_optimizer.step()
    grads, _ = m_sam_gradient([loss_of(model, a, b) for a, b in chunks], params, 0.1, sizes=[9, 3])
    assert_near(params_of(model), add(params, grads, -0.1))
    big, _ = sam_gradient(loss_of(model, x, y), params, 0.1)
    assert not torch.allclose(big["0.weight"], grads["0.weight"], rtol=1e-3)


def scaled_step(model, optimizer, scaler, x, y, broken=()):
    for number in (1, 2):
        with optimizer.perturbed() if number == 2 else contextlib.nullcontext():
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if number in broken:
                model[0].weight.grad[0, 0] = math.inf
    scaler.step(optimizer.base_optimizer)
    scaler.update()


@each_base
def test_with_a_scaled_loss_it_takes_the_same_steps(base):
    plain, scaled = net(dtype=torch.float32), net(dtype=torch.float32)
    optimizer = SAM(base(plain.parameters()), 0.1)
    other, scaler = SAM(base(scaled.parameters()), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for step in range(5):
        x, y = batch(step, dtype=torch.float32)
        optimizer.step(closure_of(plain, optimizer, x, y))
        scaled_step(scaled, other, scaler, x, y)
    assert_near(params_of(scaled), params_of(plain), 1e-6)


@pytest.mark.parametrize("broken", [(1,), (2,), (1, 2)])
def test_an_overflow_in_either_pass_skips_the_step(broken):
    model = net(dtype=torch.float32)
    optimizer, scaler = SAM(SGD(model.parameters(), lr=0.1), 0.1), torch.amp.GradScaler("cpu", init_scale=8.0)
    before = params_of(model)
    scaled_step(model, optimizer, scaler, *batch(dtype=torch.float32), broken=broken)
    assert_same(params_of(model), before)
    assert scaler.get_scale() == 4.0
    scaled_step(model, optimizer, scaler, *batch(dtype=torch.float32))
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_under_autocast_the_weights_and_the_step_are_float32():
    model, (x, y) = net(dtype=torch.float32), batch(dtype=torch.float32)
    params, optimizer, seen = params_of(model), SAM(SGD(model.parameters(), lr=0.1), 0.1), []

    def loss(p):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = functional_call(model, p, (x,))
            seen.append(out.dtype)
            return F.cross_entropy(out, y)

    def closure():
        optimizer.zero_grad()
        value = loss(dict(model.named_parameters()))
        value.backward()
        seen.append(add(params_of(model), params, -1.0))
        return value

    optimizer.step(closure)
    assert [value for value in seen if isinstance(value, torch.dtype)] == [torch.bfloat16] * 2
    assert p_norm(seen[3], 2).item() == pytest.approx(0.1, rel=1e-4)
    assert_near(params_of(model), add(params, sam_gradient(loss, params, 0.1)[0], -0.1), 1e-6)


def one_process(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, y = (part.chunk(2)[rank] for part in batch())
    for way in ("together", "each"):
        model = net()
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), 0.1)
        closure = closure_of(parallel, optimizer, x, y)

        def first():
            with parallel.no_sync():  # noqa: B023
                return closure()  # noqa: B023

        for _ in range(3):
            optimizer.step(closure, ascent_closure=first if way == "each" else None)
        torch.save(params_of(model), f"{folder}/{way}{rank}")
    # Gloo's threads outlive the group; one that lets go of its last tensor while the interpreter ends would abort it.
    torch.distributed.barrier()
    os._exit(0)


@pytest.mark.slow
def test_two_processes_climb_together_or_each_on_its_own_batch(tmp_path):
    torch.multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=2)
    model, (x, y) = net(), batch()
    halves = [loss_of(model, a, b) for a, b in zip(x.chunk(2), y.chunk(2), strict=True)]
    ways = {"together": [loss_of(model, x, y)], "each": halves}
    for way, losses in ways.items():
        one, other = (torch.load(tmp_path / f"{way}{rank}") for rank in (0, 1))
        assert_same(one, other)
        base = SGD(load_params(model, params_of(net())).parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            grads, _ = m_sam_gradient(losses, params_of(model), 0.1)
            for name, p in model.named_parameters():
                p.grad = grads[name]
            base.step()
        assert_near(one, params_of(model))


# Settings


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"every": 0}, "every must be an integer >= 1, got 0; math.inf is never"),
        ({"every": "2"}, "every must be an integer >= 1, got '2'; math.inf is never"),
        ({"every": 2.5}, "every must be an integer >= 1, got 2.5; math.inf is never"),
        ({"start": -1}, "start must be an integer >= 0, got -1; math.inf is never"),
        ({"start": math.nan}, "start must be an integer >= 0, got nan; math.inf is never"),
        ({"probability": 1.5}, "probability must be a finite number >= 0 and <= 1, got 1.5"),
        ({"probability": -0.5}, "probability must be a finite number >= 0 and <= 1, got -0.5"),
        ({"seed": -1}, f"seed must be an integer from 0 to {2**63 - 1}, got -1"),
    ],
)
def test_settings_out_of_bounds(setting, rule):
    with pytest.raises(ValueError, match=f"^{rule}$"):
        one_weight(**setting)
    if "seed" not in setting:
        optimizer = one_weight()[1]
        with pytest.raises(ValueError, match=f"^{rule}$"):
            setattr(optimizer, *next(iter(setting.items())))


@pytest.mark.parametrize("base", [SGD, [nn.Parameter(torch.ones(1))]])
def test_the_base_is_an_optimizer(base):
    with pytest.raises(TypeError, match=r"base_optimizer must be an optimizer, as in SAM\(SGD\(...\), rho\), got"):
        SAM(base, 0.05)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_derivative_of_the_ascent_is_the_one_of_the_formula(size):
    """d e / d w = rho / ||g|| (I - g g^T / ||g||^2) H, here for g = size H w."""
    a = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hessian, w = size * (a @ a.T), torch.arange(1.0, 6.0, dtype=torch.float64)
    loss = lambda p: p["w"] @ hessian @ p["w"] / 2  # noqa: E731
    found = jacrev(lambda x: ascent(grad(loss)({"w": x}), {"w": x}, 0.3)["w"])(w)
    g = hessian @ w
    across = torch.eye(5, dtype=torch.float64) - torch.outer(g, g) / (g @ g)
    torch.testing.assert_close(found, 0.3 / g.norm() * across @ hessian)


@pytest.mark.parametrize("name", ["rho", "adaptive"])
def test_a_radius_of_one_group_is_refused_at_every_door(name):
    """Other SAMs read it from there, and it would change nothing here."""
    a, b = (nn.Parameter(torch.ones(2)) for _ in "ab")
    match = f"'{name}' of a parameter group must be left out, got 0.0; set it for all, as in SAM"
    with pytest.raises(ValueError, match=match):
        SAM(SGD([{"params": [a], name: 0.0}, {"params": [b]}], lr=0.1), 0.5)
    for rho in (0.5, 0.0):
        optimizer = SAM(SGD([a], lr=0.1), rho)
        with pytest.raises(ValueError, match=match):
            optimizer.add_param_group({"params": [b], name: 0.0})
        assert len(optimizer.param_groups) == 1
        optimizer.param_groups[0][name] = 0.0
        before = a.detach().clone()
        with pytest.raises(ValueError, match=match):
            optimizer.step(lambda: pytest.fail("nothing is computed"))
        a.grad = torch.ones(2)
        with pytest.raises(ValueError, match=match):
            optimizer.ascend()
        assert torch.equal(a, before)


def test_a_base_may_have_a_rho_of_its_own():
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.Adadelta([{"params": [w], "rho": 0.8}], lr=0.1), 0.5)

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.sam_steps == 1 and not torch.equal(w, torch.ones(2))


class Elsewhere:
    """The random state of SAM after torch.load(..., map_location="cuda"): on another device until it is asked for."""

    def __init__(self, state):
        self.state = state

    def cpu(self):
        return self.state


def test_a_state_that_was_loaded_onto_a_device_draws_the_same():
    model, optimizer, _ = make(BASES["momentum"], probability=0.5)
    run(model, optimizer, 4)
    saved, weights_then = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    saved["sam"] = (*saved["sam"][:2], Elsewhere(saved["sam"][2]))
    losses = run(model, optimizer, 8, first=4)
    again, resumed, _ = make(BASES["momentum"], probability=0.5)
    again.load_state_dict(weights_then)
    resumed.load_state_dict(saved)
    assert run(again, resumed, 8, first=4) == losses and resumed.sam_steps == optimizer.sam_steps
    broken = saved | {"sam": (9, 9, torch.zeros(3, dtype=torch.uint8))}
    before = copy.deepcopy(resumed.state_dict())
    with pytest.raises(RuntimeError, match="RNG state"):
        resumed.load_state_dict(broken | {"state": {}})
    after = resumed.state_dict()
    assert after["state"].keys() == before["state"].keys() and after["sam"][:2] == before["sam"][:2] != (9, 9)


def test_hooks_of_the_state_run_on_all_of_it_as_in_any_optimizer():
    (model, optimizer, _), seen = make(BASES["momentum"]), []
    run(model, optimizer, 2)
    plain = optimizer.state_dict()
    optimizer.register_state_dict_pre_hook(lambda o: seen.append(o))
    optimizer.register_state_dict_post_hook(lambda o, state: state | {"note": len(state)})
    optimizer.register_load_state_dict_pre_hook(lambda o, state: {k: v for k, v in state.items() if k != "note"})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.steps))
    saved = optimizer.state_dict()
    assert saved.keys() == plain.keys() | {"note"} and saved["note"] == 3 and seen == [optimizer]
    optimizer.steps = 0
    optimizer.load_state_dict(saved)
    assert seen == [optimizer, 2] and "note" in saved


def test_an_expanded_buffer_is_left_alone_and_all_others_are_put_back():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("five", torch.zeros(1).expand(5))

        def forward(self, x):
            self.five = self.five + 1
            return x + self.five.sum()

    for order in (1, -1):
        layers = [Constant(), nn.BatchNorm1d(5), nn.Linear(5, 2)][::order]
        layers = [nn.Linear(5, 5) if order < 0 and isinstance(layer, nn.Linear) else layer for layer in layers]
        model = nn.Sequential(*layers)
        optimizer = SAM(SGD(model.parameters(), lr=0.1), 0.5)
        norm = next(layer for layer in model if isinstance(layer, nn.BatchNorm1d))
        constant = next(layer for layer in model if isinstance(layer, Constant))
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))

        def closure():
            optimizer.zero_grad()  # noqa: B023
            loss = model(x).square().mean()  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
        assert norm.num_batches_tracked == 1 and constant.five.tolist() == [1.0] * 5
        five = torch.zeros(1).expand(5)
        constant.five = five
        with frozen_statistics():
            model(x)
        assert norm.num_batches_tracked == 1 and constant.five is five


def test_complex_weights_are_refused_with_a_remedy():
    w = {"w": torch.ones(2, dtype=torch.complex64)}
    with pytest.raises(
        ValueError, match=r"params\['w'\] must be float32 or float64, got torch.complex64; take torch.view_as_real"
    ):
        sam_gradient(lambda p: p["w"].abs().square().sum(), w, 0.1)


def test_a_loss_without_a_derivative_is_refused_and_not_taken_for_a_flat_one():
    @torch.no_grad()
    def evaluated(p):
        return (p["w"] ** 2).sum()

    for constant in (evaluated, lambda p: torch.tensor(1.0)):
        with pytest.raises(ValueError, match="the loss must be a differentiable function of the weights.*no_grad"):
            sam_gradient(constant, {"w": torch.ones(2)}, 0.1)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by torch's own forward derivatives
def test_a_derivative_by_rho_is_that_of_the_formula():
    """On a parabola with curvatures a, d/d rho of a (w + rho g / ||g||) is a g / ||g||, with g = a w."""
    a, w = torch.tensor([1.0, 5.0, 3.0]), {"w": torch.tensor([1.0, 2.0, 3.0])}
    right = (a * a * w["w"] / (a * w["w"]).norm()).sum()
    total = lambda rho: sam_gradient(lambda p: (a * p["w"] ** 2).sum() / 2, w, rho)[0]["w"].sum()  # noqa: E731
    rho = torch.tensor(0.1, requires_grad=True)
    total(rho).backward()
    found = [grad(total)(rho.detach()), jvp(total, (rho.detach(),), (torch.ones(()),))[1], rho.grad]
    torch.testing.assert_close(found, [right] * 3)
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got "):
        grad(total)(torch.tensor(-0.1))
    assert type(SAM(SGD([torch.nn.Parameter(a)], lr=0.1), rho).rho) is float


def test_a_group_is_added_as_the_base_adds_it():
    class Counting(SGD):
        def add_param_group(self, group):
            super().add_param_group(group | {"number": len(self.param_groups)})

    optimizer = SAM(Counting([torch.nn.Parameter(torch.ones(2))], lr=0.1), rho=0.1)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
    assert [group["number"] for group in optimizer.param_groups] == [0, 1]
