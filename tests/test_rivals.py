"""sam_lite/rivals.py and contest.py: each rival against its formula, or against the implementation of another library."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import grad
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sam_lite import contest, rivals, stacked
from sam_lite.ascents import ascent
from sam_lite.models import build, mlp
from sam_lite.params import add, loss_of, member, norm, params_of, stack, to_vector
from sam_lite.sam import SAM

MAKE = partial(mlp, 4, [5], 3)


@pytest.fixture
def setting():
    """Three networks, each with twelve examples of its own, in float64."""
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(3, 12, 4, generator=dice, dtype=torch.float64)
    y = torch.randint(3, (3, 12), generator=dice)
    start = stack([params_of(build(MAKE, seed).double()) for seed in range(3)])
    return stacked.gradient(MAKE().double()), start, x, y


def loss_at(x, y):
    return loss_of(MAKE().double(), x, y)


def same(a, b, atol=1e-12):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol)


def batches(steps, size, seed, n=12, n_models=3):
    dice = torch.Generator().manual_seed(seed)
    return [torch.randint(n, (n_models, size), generator=dice) for _ in range(steps)]


def test_a_network_goes_where_torch_takes_it_alone(setting):
    gradient, start, x, y = setting
    found = rivals.descend(gradient, start, x, y, lr=0.3, batch_size=5, steps=7, seed=4)
    assert found.gradients == 7
    for i in range(3):
        model = build(MAKE, i).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for index in batches(7, 5, seed=4):
            optimizer.zero_grad()
            cross_entropy(model(x[i, index[i]]), y[i, index[i]]).backward()
            optimizer.step()
        same(member(found.params, i), params_of(model))


def test_sam_is_the_optimizer_of_the_package(setting):
    gradient, start, x, y = setting
    found = rivals.descend(gradient, start, x, y, lr=0.3, batch_size=5, steps=7, direction=rivals.sam(0.2))
    assert found.gradients == 14
    model = build(MAKE, 1).double()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.3), rho=0.2)
    for index in batches(7, 5, seed=0):

        def closure(index=index):
            optimizer.zero_grad()
            loss = cross_entropy(model(x[1, index[1]]), y[1, index[1]])
            loss.backward()
            return loss

        optimizer.step(closure)
    same(member(found.params, 1), params_of(model))


def test_the_mixture_is_the_penalty_to_first_order(setting):
    """The gradient of L + mix rho ||g||, by automatic differentiation: the error falls with rho squared."""
    gradient, start, x, y = setting
    loss, w = loss_at(x[0], y[0]), member(start, 0)
    errors = []
    for rho in (1e-3, 1e-4):
        penalty = grad(lambda p, rho=rho: loss(p) + 0.8 * rho * norm(grad(loss)(p)))(w)
        mixed = rivals.sam(rho, mix=0.8)(gradient, start, x, y, 1)
        errors.append(norm(add(member(mixed, 0), penalty, -1)).item())
    assert errors[0] < 1e-4 and errors[1] < errors[0] / 50


def test_noise_looks_at_a_distance_rho(setting):
    _, start, x, y = setting
    seen = []
    rivals.noise(0.7, seed=2)(lambda p, x, y: seen.append(p) or p, start, x, y, 1)
    steps = add(seen[0], start, -1)
    lengths = [norm(member(steps, i)).item() for i in range(3)]
    assert lengths == pytest.approx([0.7] * 3) and len(seen) == 1
    directions = torch.stack([to_vector(member(steps, i)) for i in range(3)])
    assert torch.corrcoef(directions).triu(1).abs().max() < 0.5, "each network has a direction of its own"
    rivals.noise(0.7, seed=2)(lambda p, x, y: seen.append(p) or p, start, x, y, 1)
    same(seen[0], seen[1])


def test_sometimes_is_the_rare_direction_only_then(setting):
    gradient, start, x, y = setting
    direction = rivals.sometimes(rivals.sam(0.2), lambda step: step % 3 == 0)
    for step in (1, 2, 3, 4):
        expected = rivals.sam(0.2) if step == 3 else rivals.plain
        same(direction(gradient, start, x, y, step), expected(gradient, start, x, y, step))
    found = rivals.descend(gradient, start, x, y, lr=0.1, batch_size=5, steps=10, direction=direction)
    assert found.gradients == 13


def test_a_layers_climb_is_a_share_of_its_norm():
    params, grads = (params_of(build(MAKE, seed)) for seed in (0, 1))
    e = rivals.layer_ascent(grads, params, 0.1)
    for name, weight in params.items():
        if name.endswith("bias"):
            assert not e[name].any()
        else:
            torch.testing.assert_close(e[name], 0.1 * weight.norm() * grads[name] / grads[name].norm())
    zero = {name: torch.zeros_like(g) for name, g in grads.items()}
    same(rivals.layer_ascent(zero, params, 0.1), zero)
    only = {"w": params["0.weight"]}
    same(rivals.layer_ascent(only, only, 0.1 / norm(only)), ascent(only, only, 0.1), atol=1e-7)


def recorded(after, values):
    """What `after` makes of a run through these values: fast and slow at each step."""
    fast = slow = {"w": torch.tensor([[0.0]], dtype=torch.float64)}
    found = []
    for step, value in enumerate(values, start=1):
        fast, slow = after({"w": torch.tensor([[value]], dtype=torch.float64)}, slow, step)
        found.append((fast["w"].item(), slow["w"].item()))
    return found


def test_ema_is_that_of_torch():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)  # torch takes the first weights as they are
    expected = []
    for value in (1.0, -2.0, 5.0):
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        expected.append((value, average.module.weight.item()))
    assert recorded(rivals.ema(0.9), (1.0, -2.0, 5.0)) == [pytest.approx(pair) for pair in expected]


@pytest.mark.parametrize(("start", "every"), [(0, 1), (3, 1), (2, 3), (4, 2)])
def test_swa_is_the_mean_of_what_it_names(start, every):
    values = [float(i * i) for i in range(1, 13)]
    for step, (fast, slow) in enumerate(recorded(rivals.swa(start, every), values), start=1):
        named = values[start + every - 1 : step : every]
        assert fast == values[step - 1]
        assert slow == pytest.approx(sum(named) / len(named) if named else fast)


def test_lookahead_is_its_algorithm():
    """Zhang, Lucas, Hinton and Ba 2019, Algorithm 1, on a bowl."""
    gradient = lambda p, x, y: {"w": p["w"].clone()}  # noqa: E731
    start = {"w": torch.tensor([[2.0]], dtype=torch.float64)}
    data = torch.zeros(1, 4, 1), torch.zeros(1, 4)
    found = rivals.descend(gradient, start, *data, lr=0.1, batch_size=2, steps=6, after=rivals.lookahead(3, 0.4))
    slow = 2.0
    for _ in range(2):
        slow += 0.4 * (slow * 0.9**3 - slow)
    assert found.params["w"].item() == pytest.approx(slow)


def test_a_schedule_multiplies_the_rate():
    gradient = lambda p, x, y: {"w": torch.ones_like(p["w"])}  # noqa: E731
    data = torch.zeros(1, 4, 1), torch.zeros(1, 4)
    settings = {"lr": 0.1, "batch_size": 2, "steps": 100}
    found = rivals.descend(gradient, {"w": torch.zeros(1, 1)}, *data, schedule=rivals.fall, **settings)
    assert found.params["w"].item() == pytest.approx(-0.1 * (50 + 0.5), rel=1e-5)  # the sum of (1 + cos) / 2
    assert rivals.fall(0.0) == 1 and rivals.fall(1.0) == pytest.approx(0)


def test_weight_decay_adds_the_weights(setting):
    gradient, start, x, y = setting
    same(rivals.decayed(0.2)(gradient, start, x, y, 1), add(gradient(start, x, y), start, 0.2))


def test_every_rival_has_as_many_settings_and_one_of_them_was_chosen():
    roster = contest.roster()
    assert {len(settings) for settings in roster.values()} == {2} and list(contest.CHOSEN) == list(roster)
    for name, (lr, setting) in contest.CHOSEN.items():
        assert lr in contest.RATES and setting in roster[name]


def test_the_gradients_of_a_step_are_counted_for_every_rival():
    field = contest.field([3])
    counts = {
        name: contest.run(field, 0.1, **{"steps": 20} | next(iter(settings.values()))).gradients
        for name, settings in contest.roster(20).items()
    }
    twice = ("SGD, twice the steps", "SAM", "gradient penalty", "AWP")
    rare = {"SAM, every 5th step": 24, "SAM, last tenth": 22}
    assert counts == dict.fromkeys(contest.OWN, 20) | dict.fromkeys(twice, 40) | rare


def test_a_field_has_data_of_its_own_for_each_network_and_a_rival_runs_in_it():
    field = contest.field([3, 4])
    assert field.x.shape == (2, 1000, 40) and not torch.equal(field.x[0], field.x[1])
    for i in range(2):
        same(member(field.start, i), params_of(build(partial(mlp, 40, [100, 100], 10), 3 + i)))
    end = contest.run(field, 0.1, smoothing=0.2, steps=2)
    right, over = contest.judge(field, end.params)
    out = field.outputs(member(end.params, 1), field.x_test[1])
    expected = 100 * (out.argmax(1) == field.y_test[1]).double().mean()
    assert right[1] == pytest.approx(expected.item())
    assert over[1].item() == pytest.approx((100 * out.softmax(1).amax(1).double().mean() - expected).item())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rivals.sam(-1.0), "rho must be a finite number >= 0, got -1.0"),
        (lambda: rivals.noise(float("nan")), "rho must be a finite number >= 0"),
        (lambda: rivals.ema(1.0), "decay must be a finite number >= 0 and < 1"),
        (lambda: rivals.swa(0, 0), "every must be an integer >= 1"),
        (lambda: rivals.decayed(-0.1), "weight_decay must be a finite number >= 0, got -0.1"),
        (lambda: rivals.lookahead(5, 0.0), "alpha must be a finite number <= 1 and > 0|alpha must be"),
    ],
)
def test_settings_out_of_bounds_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_frozen_layers_and_negative_rates_are_named(setting):
    gradient, start, x, y = setting
    model = MAKE().double()
    model[0].requires_grad_(False)
    run = partial(rivals.descend, params=start, x=x, y=y, lr=0.1, batch_size=2, steps=1)
    for rival in (rivals.plain, rivals.sam(0.1), rivals.noise(0.1), rivals.decayed(0.1)):
        with pytest.raises(
            ValueError, match=r"gradient must be one by all parameters, got .*'0.bias', '0.weight'.*freeze no"
        ):
            run(stacked.gradient(model), direction=rival)
    with pytest.raises(ValueError, match="what schedule returns must be a finite number >= 0, got -0.5"):
        run(gradient, schedule=lambda t: -0.5)


def test_data_that_do_not_go_with_the_networks_are_named(setting):
    gradient, start, x, y = setting
    settings = {"lr": 0.1, "batch_size": 2, "steps": 1}
    with pytest.raises(ValueError, match=r"x and y must be \(3, n, \*features\) and \(3, n\)"):
        rivals.descend(gradient, start, x[:2], y[:2], **settings)
    with pytest.raises(ValueError, match="lr must be a finite number > 0"):
        rivals.descend(gradient, start, x, y, **settings | {"lr": 0.0})


@pytest.mark.parametrize("when", [lambda step: True, lambda step: step > 1, lambda step: step % 2 == 0])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_direction_that_draws_gives_the_same_descent_each_time(setting, steps, when):
    gradient, start, x, y = setting
    settings = {"lr": 0.3, "batch_size": 5, "steps": steps}
    direction = rivals.sometimes(rivals.noise(1.0, seed=3), when)
    found = [rivals.descend(gradient, start, x, y, direction=direction, **settings).params for _ in "123"]
    fresh = rivals.sometimes(rivals.noise(1.0, seed=3), when)
    same(found[0], rivals.descend(gradient, start, x, y, direction=fresh, **settings).params, atol=0)
    same(found[0], found[1], atol=0)
    same(found[0], found[2], atol=0)


def test_noise_is_drawn_anew_in_every_call_of_a_descent(setting):
    """Also where it is called twice in a step, and where each step has a gradient function of its own."""
    _, start, x, y = setting
    noise, dice = rivals.noise(0.7, seed=2), torch.Generator().manual_seed(2)
    for step in (1, 2, 3):
        here = lambda p, x, y, step=step: p  # noqa: E731
        for _ in range(2 if step == 2 else 1):
            e = add(noise(here, start, x, y, step), start, -1)
            drawn = {name: torch.randn(p.shape, generator=dice).to(p) for name, p in start.items()}
            for i in range(3):
                one = member(drawn, i)
                same(member(e, i), {name: 0.7 / norm(one) * v for name, v in one.items()})


def test_the_field_and_a_direction_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    contest.field([3])
    assert torch.equal(before, torch.get_rng_state())


def test_the_start_is_no_part_of_the_answer(setting):
    """Neither its memory, nor its gradient, whose graph would grow with each step."""
    gradient, params, x, y = setting
    grown = {name: p.clone().requires_grad_() for name, p in params.items()}
    down = partial(rivals.descend, gradient, x=x, y=y, lr=0.1, batch_size=4, steps=2)
    found = down(params=grown, after=rivals.lookahead(3, 0.5)).params  # which does not come to move
    assert not any(p.requires_grad for p in found.values())
    for p in found.values():
        p.zero_()
    assert all(torch.equal(p, params[name]) for name, p in grown.items())
    assert not any(p.requires_grad for p in down(params=grown).params.values())
    with pytest.raises(ValueError, match=r"data for each model, n >= 1, got"):
        rivals.descend(gradient, params, x[:, :0], y[:, :0], lr=0.1, batch_size=4, steps=2)


def test_a_rival_that_is_not_in_the_contest_is_named():
    with pytest.raises(ValueError, match="name must be one of SGD, .*, got 'sam'"):
        contest.chosen(None, "sam")
