"""Every notion of sharpness against closed forms: quadratics, linear losses, and what rescaling must not change."""

import inspect
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from sam_lite import climb, sam, sharpness
from sam_lite.ascents import ascent
from sam_lite.hessian import top_eigenvalues
from sam_lite.params import add, from_vector, loss_of, params_of, stack, to_vector
from sam_lite.sharpness import (
    STATUS,
    ascent_sharpness,
    average_sharpness,
    box_flatness,
    box_sharpness,
    box_sharpness_lbfgs,
    m_sharpness,
    worst_sharpness,
)

BOXES = [box_sharpness, box_sharpness_lbfgs]
MAPPED = [box_sharpness, worst_sharpness, ascent_sharpness, average_sharpness]
ALL = [*MAPPED, box_sharpness_lbfgs]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def point(values):
    return {"w": torch.as_tensor(values, dtype=torch.float64)}


def quadratic(hessian, floor=0.3):
    hessian = hessian if hessian.ndim == 2 else hessian.diag()
    return lambda p: 0.5 * p["w"] @ hessian @ p["w"] + floor


def positive(n, seed=0):
    """A random Hessian without negative eigenvalues."""
    q = random(n, n, seed=seed)
    return q @ q.T / n


def relu_net(seed=0, bias=False):
    """Parameters of a two-layer ReLU network and its loss on 20 points."""
    model = nn.Sequential(nn.Linear(4, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias)).double()
    x, y = random(20, 4, seed=50), torch.arange(20) % 3
    params = {name: random(*p.shape, seed=seed + i) for i, (name, p) in enumerate(params_of(model).items())}
    return params, loss_of(model, x, y), model, x, y


def close(a, b, rtol=1e-9):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=rtol, atol=1e-14)


# Keskar's box


@pytest.mark.parametrize("box", BOXES)
def test_diagonal_hessian_at_the_minimum(box):
    h, eps = random(12).abs(), 1e-3
    found = box(quadratic(h), point([0.0] * 12), eps)
    close(found.value, 100 * 0.5 * eps**2 * h.sum() / 1.3)
    assert STATUS[found.status] == "converged" and found.loss == 0.3
    close(found.direction["w"].abs(), [eps] * 12)


def test_every_measure_says_what_it_is():
    """In which norm the radius is, and whose definition it follows; the module, what the loss decides."""
    norms = {box_sharpness: "|z_i| <= radius", worst_sharpness: "||e||_2 <= radius", average_sharpness: "unit sphere"}
    norms |= {box_sharpness_lbfgs: "`box_sharpness`", ascent_sharpness: "in the norm of `ascent`"}
    norms |= {m_sharpness: "Foret et al. 2021", box_flatness: "<= tolerance"}
    public = {f for f in vars(sharpness).values() if getattr(f, "__module__", "") == sharpness.__name__}
    assert {f for f in public if inspect.isfunction(f) and f.__name__[0] != "_"} == norms.keys()
    for measure, norm in norms.items():
        assert norm in " ".join(measure.__doc__.split()), measure.__name__
    for word in ("in which norm the radius is", "data", "mode of the layers", "weight decay", "equal loss"):
        assert word in " ".join(sharpness.__doc__.split())


def test_the_box_sees_the_trace_the_ball_the_largest_and_the_average_their_mean():
    """Curvatures 4 and 1 at the minimum: 5, 4 and 2.5 times radius^2 / 2."""
    loss, x, radius = quadratic(torch.tensor([4.0, 1.0], dtype=torch.float64), floor=0.0), point([0.0, 0.0]), 1e-2
    unit = radius**2 / 2
    close(box_sharpness(loss, x, radius).value / 100, 5 * unit)
    close(worst_sharpness(loss, x, radius).value, 4 * unit, 1e-4)
    close(average_sharpness(loss, x, radius, samples=torch.eye(2)).value, 2.5 * unit)


@pytest.mark.parametrize("box", BOXES)
def test_box_grows_with_the_weights_and_the_figure_is_relative_to_one_plus_the_loss(box):
    """A linear loss c.x + 5 is highest in a corner: it rises by sum |c_i| eps (|x_i| + 1)."""
    c, x, eps = random(7), random(7, seed=1), 0.01
    found = box(lambda p: c @ p["w"] + 5, point(x), eps)
    close(found.value, 100 * (c.abs() * eps * (x.abs() + 1)).sum() / (1 + 5 + c @ x))
    close(found.loss, 5 + c @ x)
    close(found.direction["w"], c.sign() * eps * (x.abs() + 1))


@pytest.mark.parametrize("box", BOXES)
def test_half_widths_of_a_subspace_use_the_pseudo_inverse(box):
    c, x, a, eps = random(7), random(7, seed=1), random(7, 3, seed=2), 0.01
    half = eps * (np.abs(np.linalg.lstsq(a.numpy(), x.numpy(), rcond=None)[0]) + 1)
    rise = (np.abs(a.numpy().T @ c.numpy()) * half).sum()
    found = box(lambda p: c @ p["w"] + 5, point(x), eps, directions=a)
    close(found.value, 100 * rise / (6 + c @ x).item())
    coordinates = np.linalg.lstsq(a.numpy(), found.direction["w"].numpy(), rcond=None)[0]
    np.testing.assert_allclose(np.abs(coordinates), half, rtol=1e-9)
    close(
        box(lambda p: c @ p["w"] + 5, point(x), eps, directions=torch.eye(7)).value,
        box(lambda p: c @ p["w"] + 5, point(x), eps).value,
    )


@pytest.mark.parametrize("box", BOXES)
def test_box_is_zero_for_radius_zero_and_grows_with_it(box):
    hessian, x = positive(8), point(random(8, seed=4))
    values = [box(quadratic(hessian), x, eps).value.item() for eps in (0, 0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0)]
    assert values[:2] == [0, 0] and values[2] > 0 and values == sorted(values)


@pytest.mark.parametrize("box", BOXES)
def test_from_zero_at_an_exact_minimum_nothing_climbs(box):
    loss, minimum = quadratic(positive(6)), point([0.0] * 6)
    trapped = box(loss, minimum, 1e-2, starts=torch.zeros(1, 6))
    assert trapped.value == 0 and (trapped.direction["w"] == 0).all()
    assert box(loss, minimum, 1e-2).value > 1e-3


def box_maximum(hessian):
    """The largest z'Hz/2 over the corners of [-1, 1]^n: a convex function has its maximum there."""
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(hessian))), dtype=torch.float64)
    return 0.5 * ((corners @ hessian) * corners).sum(1).max()


@pytest.mark.slow
def test_both_climbs_come_near_the_true_maximum():
    shares = {box: [] for box in BOXES}
    for seed in range(40):
        hessian = positive(12, seed)
        for box in BOXES:
            found = box(quadratic(hessian), point([0.0] * 12), 1.0, seed=seed)
            shares[box].append((found.value * 1.3 / 100 / box_maximum(hessian)).item())
    for share in shares.values():
        assert max(share) <= 1 + 1e-12 and sum(share) / 40 > 0.8
    assert sum(shares[box_sharpness]) >= sum(shares[box_sharpness_lbfgs])


@pytest.mark.slow
def test_more_starts_find_more():
    for seed in range(10):
        loss, zero = quadratic(positive(12, seed)), point([0.0] * 12)
        for measure in (box_sharpness, box_sharpness_lbfgs, worst_sharpness):
            values = [measure(loss, zero, 1.0, starts=n).value for n in (1, 3, 9)]
            assert values == sorted(values)
        best = box_sharpness(loss, zero, 1.0, starts=9).value * 1.3 / 100
        assert best > 0.8 * box_maximum(positive(12, seed))


@pytest.mark.slow
def test_box_is_at_least_as_good_as_lbfgs_on_networks():
    for seed in range(5):
        params, loss, *_ = relu_net(seed, bias=True)
        for eps in (1e-3, 1e-1):
            ours, papers = (box(loss, params, eps, seed=seed).value for box in BOXES)
            assert ours >= 0.999 * papers > 0


@pytest.mark.parametrize("box", BOXES)
def test_box_with_negative_curvature_has_its_maximum_inside(box):
    found = box(quadratic(torch.tensor([2.0, -9.0, 1.0, -5.0], dtype=torch.float64)), point([0.0] * 4), 1.0, steps=30)
    close(found.value, 100 * 1.5 / 1.3, 1e-3)


@pytest.mark.parametrize("measure", [box_sharpness, box_sharpness_lbfgs, worst_sharpness])
def test_the_best_point_met_is_kept(measure):
    """On waves much shorter than the steps a climb goes up and down."""
    seen, early = [], []

    def waves(p):
        value = torch.sin(90 * p["w"]).sum() + torch.cos(37 * p["w"][0])
        seen.append(value.detach())
        return value

    for seed in range(5):
        seen.clear()
        found = measure(waves, point([0.1, -0.2]), 1.0, seed=seed)
        met = torch.stack([torch.tensor(value.item(), dtype=torch.float64) for value in seen])
        early.append(met.argmax() < len(met) - 3)
        highest = found.value * (1 + found.loss) / 100 if measure in BOXES else found.value
        close(highest, met.max() - found.loss)
        close(waves(add(point([0.1, -0.2]), found.direction)), met.max())
    assert any(early) or measure is box_sharpness_lbfgs  # whose line search ends on top


def test_the_start_is_an_argument_in_half_widths():
    hessian = positive(12)
    for seed in range(3):
        u = np.random.default_rng(seed).uniform(-1, 1, (1, 12))
        for box in BOXES:
            by_hand = box(quadratic(hessian), point([0.5] * 12), 0.1, starts=torch.from_numpy(u))
            drawn = box(quadratic(hessian), point([0.5] * 12), 0.1, seed=seed)
            assert by_hand.value == drawn.value and torch.equal(by_hand.direction["w"], drawn.direction["w"])
    values = {box_sharpness(quadratic(hessian), point([0.0] * 12), 0.1, seed=seed).value.item() for seed in range(6)}
    assert len(values) > 1


def test_status_tells_whether_the_climb_settled():
    loss, x = quadratic(positive(12, 3)), point([0.0] * 12)
    assert [STATUS[box_sharpness(loss, x, 1.0, steps=steps).status] for steps in (1, 50)] == ["iterations", "converged"]
    assert [STATUS[box_sharpness_lbfgs(loss, x, 1.0, steps=steps).status] for steps in (1, 50)] == [
        "iterations",
        "converged",
    ]


@pytest.mark.parametrize("measure", [box_sharpness, box_sharpness_lbfgs, worst_sharpness, ascent_sharpness])
@pytest.mark.parametrize("barrier", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_said_to_be_so(measure, barrier):
    def cliff(p):
        return torch.where(p["w"].sum() > 0.5, barrier, p["w"].sum())

    found = measure(cliff, point([0.1, 0.1]), 1.0)
    assert STATUS[found.status] == "nonfinite" and not found.value.isfinite() and found.loss == 0.2
    lost = measure(lambda p: p["w"].sum() * math.nan, point([0.1, 0.1]), 1.0)
    assert STATUS[lost.status] == "nonfinite" and lost.value.isnan()


def confident(dtype):
    """A net so sure of its three classes that in float32 its loss is 0: the rounding of 1 - exp(-20)."""
    x, y = torch.eye(3, dtype=dtype), torch.arange(3)
    return (lambda p: nn.functional.cross_entropy(x @ p["w"], y)), {"w": 20 * torch.eye(3, dtype=dtype)}


@pytest.mark.parametrize("measure", [box_sharpness, box_sharpness_lbfgs, worst_sharpness, ascent_sharpness])
def test_below_the_resolution_of_the_loss_no_0_is_called_converged(measure):
    found, exact = measure(*confident(torch.float32), 1e-3), measure(*confident(torch.float64), 1e-3)
    assert (found.value.item(), STATUS[found.status]) == (0, "below resolution")
    assert 0 < exact.value < 1e-7 and STATUS[exact.status] == "converged"
    high = measure(lambda p: 1e6 + (p["w"] ** 2).sum(), {"w": torch.ones(4)}, 1e-4)
    assert STATUS[high.status] == "below resolution"
    flat = measure(lambda p: 0 * p["w"].sum() + 1, {"w": torch.ones(4)}, 0.1)
    assert (flat.value.item(), STATUS[flat.status]) == (0, "below resolution")


def test_so_is_the_average_below_resolution():
    found, exact = (
        average_sharpness(*confident(torch.float32), 1e-3),
        average_sharpness(*confident(torch.float64), 1e-3),
    )
    assert (found.value, found.error, STATUS[found.status]) == (0, 0, "below resolution")
    assert exact.value != 0 and STATUS[exact.status] == "converged"
    lost = average_sharpness(lambda p: p["w"].sum() * math.nan, point([0.1]), 1.0)
    assert STATUS[lost.status] == "nonfinite"


@pytest.mark.parametrize("measure", [box_sharpness, box_sharpness_lbfgs, worst_sharpness, ascent_sharpness])
def test_within_radius_0_there_is_no_rise_and_that_is_certain(measure):
    found = measure(quadratic(positive(3)), point([1.0, 2.0, 3.0]), 0)
    assert (found.value.item(), STATUS[found.status]) == (0, "converged")


def test_a_maximum_is_found_to_be_one():
    for measure in (box_sharpness, box_sharpness_lbfgs, worst_sharpness):
        found = measure(quadratic(-torch.ones(4, dtype=torch.float64)), point([0.0] * 4), 0.1)
        assert (found.value.item(), STATUS[found.status]) == (0, "converged")


@pytest.mark.parametrize("box", BOXES)
def test_a_search_that_fails_says_so(box):
    """The value rises with |w| and the gradient says the opposite, so no line search ends well."""

    def against(p):
        square = (p["w"] ** 2).sum()
        return 2 * square.detach() - square

    found = box(against, {"w": torch.full((6,), 0.3)}, 1e-3)
    assert (found.value.item(), STATUS[found.status]) == (0, "failed")
    if box is box_sharpness_lbfgs:  # says so itself, although it came upon a higher point
        found = box(against, {"w": torch.zeros(6)}, 1e-3)
        assert found.value > 0 and STATUS[found.status] == "failed"


def test_a_climb_of_ones_own_may_say_how_it_ended():
    for wrong in (lambda heights, u, base, steps: (u, base), lambda *_: None):
        with pytest.raises(TypeError, match=r"method must return \(point, height, ended\), got"):
            box_sharpness(lambda p: p["w"].sum(), point([0.0] * 3), 0.1, method=wrong)
    with pytest.raises(TypeError, match="measure must return a result with a value, as the functions above, got 1.0"):
        m_sharpness([lambda p: p["w"].sum()], point([0.0] * 3), 0.1, measure=lambda *_: 1.0)
    for ended, status in ((True, "converged"), (False, "iterations"), (3, "failed")):

        def stays(heights, u, base, steps):
            return u, climb.height(heights, u), ended  # noqa: B023

        found = box_sharpness(lambda p: p["w"].sum(), point([0.0] * 3), 0.1, starts=torch.ones(1, 3), method=stays)
        assert STATUS[found.status] == status and found.value > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e15, 1e30])
def test_no_unit_of_the_loss_matters_in_float32(scale):
    c, x = random(7).float(), {"w": random(7, seed=1).float()}
    for measure in (worst_sharpness, ascent_sharpness, partial(box_sharpness, directions=torch.eye(7))):
        one, other = (measure(lambda p, s=s: s * (c @ p["w"]), x, 0.1) for s in (1.0, scale))
        torch.testing.assert_close(other.direction["w"], one.direction["w"], rtol=1e-2, atol=1e-4)
        assert STATUS[other.status] == "converged"
    newton = [box_sharpness_lbfgs(lambda p, s=s: s * (c @ p["w"]), x, 0.1).direction["w"] for s in (1.0, scale)]
    torch.testing.assert_close(*newton, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("measure", ALL)
def test_a_random_loss_and_half_precision_are_refused(measure):
    with pytest.raises(ValueError, match="loss must not be random"):
        measure(lambda p: nn.functional.dropout(p["w"]).sum(), point([0.1] * 5), 0.1)
    with pytest.raises(ValueError, match=r"params\['w'\] must be float32 or float64, got torch.bfloat16"):
        measure(lambda p: p["w"].sum(), {"w": torch.ones(3, dtype=torch.bfloat16)}, 0.1)
    with pytest.raises(ValueError, match=r"loss\(params\) must be a tensor of one number, got torch.Size\(\[5\]\)"):
        measure(lambda p: p["w"], point([0.1] * 5), 0.1)


@pytest.mark.parametrize("measure", [*ALL, box_flatness])
def test_inside_autocast_rises_of_float32_are_refused(measure):
    """A step of 0.001 is lost in the rounding of bfloat16."""
    given = {"w": torch.ones(2, 3)}
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="torch.autocast must be off while float32"),
    ):
        measure(lambda p: (p["w"] @ p["w"].T).sum(), given, 1e-3)


def test_chunks_of_unlike_size_count_by_it():
    params, loss, model, x, y = relu_net()
    chunks = [(loss_of(model, x[:15], y[:15]), 15), (loss_of(model, x[15:], y[15:]), 5)]
    for measure in ALL:
        close(measure(chunks, params, 0.05).value, measure(loss, params, 0.05).value)
        with pytest.raises(ValueError, match=r"losses alone must be of equal size, got \[15.0, 5.0\]; give pairs"):
            measure([one for one, _ in chunks], params, 0.05)
    mean = m_sharpness(chunks, params, 0.05, measure=ascent_sharpness)
    alone = [ascent_sharpness(one, params, 0.05).value for one, _ in chunks]
    close(mean, 0.75 * alone[0] + 0.25 * alone[1])


@pytest.mark.parametrize("number", [np.int64, np.int32, torch.tensor])
def test_counts_of_any_library(number):
    loss, x = quadratic(positive(3)), point([0.1, 0.2, 0.3])
    for measure in (box_sharpness, box_sharpness_lbfgs, worst_sharpness):
        ours = measure(loss, x, 0.1, starts=2, steps=3, seed=4)
        theirs = measure(loss, x, torch.tensor(0.1), starts=number(2), steps=number(3), seed=number(4))
        close(theirs.value, ours.value, 1e-6)
    assert average_sharpness(loss, x, 0.1, samples=number(3), seed=number(1)).error > 0


def test_a_radius_for_each_model_of_an_ensemble():
    params, loss, *_ = relu_net()
    for measure in MAPPED:
        found = vmap(lambda r: measure(loss, params, r).value)(torch.tensor([0.01, 0.1], dtype=torch.float64))  # noqa: B023
        close(found, torch.stack([measure(loss, params, r).value for r in (0.01, 0.1)]), 1e-8)


def test_flatness_of_random_or_imprecise_outputs_is_refused():
    with pytest.raises(ValueError, match="loss must not be random"):
        box_flatness(lambda p: nn.functional.dropout(p["w"]), point([0.1] * 5), 0.1)
    with pytest.raises(ValueError, match="must be float32 or float64"):
        box_flatness(lambda p: p["w"], {"w": torch.ones(3, dtype=torch.float16)}, 0.1)


# ball, ascent, average


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_quadratics_at_the_minimum(seed):
    """Wen, Ma, Li 2023, theorem 4.2: largest, any non-zero, and mean eigenvalue, each times rho^2 / 2."""
    hessian, rho, zero = positive(6, seed), 0.1, point([0.0] * 6)
    spectrum, vectors = torch.linalg.eigh(hessian)
    found = worst_sharpness(quadratic(hessian), zero, rho, steps=200)
    close(found.value, rho**2 * spectrum[-1] / 2, 1e-6)
    close(torch.linalg.vector_norm(found.direction["w"]), rho)
    assert found.loss == 0.3 and STATUS[found.status] == "converged"
    average = average_sharpness(quadratic(hessian), zero, rho, samples=2000)
    assert abs(average.value - rho**2 * hessian.trace() / 12) < 4 * average.error < 0.1 * average.value
    at_minimum = ascent_sharpness(quadratic(hessian), zero, rho)
    assert at_minimum.value == 0 and (at_minimum.direction["w"] == 0).all()


def test_ascent_sees_the_smallest_non_zero_eigenvalue_from_its_side():
    h = torch.tensor([0.0, 0.5, 2.0, 7.0], dtype=torch.float64)
    for i in (1, 2, 3):
        near = point(1e-9 * torch.eye(4)[i])
        close(ascent_sharpness(quadratic(h), near, 0.1).value, 0.01 * h[i] / 2, 1e-6)
    values = [ascent_sharpness(quadratic(h), point(1e-9 * random(4, seed=s)), 0.1).value.item() for s in range(50)]
    assert 0.01 * 0.5 / 2 <= min(values) * (1 + 1e-6)


def test_average_of_random_directions_has_its_standard_error():
    hessian, samples = positive(5), random(30, 5, seed=7)
    found = average_sharpness(quadratic(hessian), point(random(5)), 0.5, samples=samples)
    w = random(5)
    u = samples / torch.linalg.vector_norm(samples, dim=1, keepdim=True)
    rises = np.array([(0.5 * v @ hessian @ v + v @ hessian @ w).item() for v in 0.5 * u])
    close(found.value, rises.mean())
    close(found.error, rises.std(ddof=1) / math.sqrt(30))
    close(found.loss, quadratic(hessian)(point(w)))


def test_worst_of_a_linear_loss_is_along_its_gradient():
    c, x = random(9), random(9, seed=1)
    found = worst_sharpness(lambda p: c @ p["w"], point(x), 0.2, starts=1)
    close(found.value, 0.2 * torch.linalg.vector_norm(c))
    close(found.direction["w"], 0.2 * c / torch.linalg.vector_norm(c))
    adaptive = worst_sharpness(lambda p: c @ p["w"], point(x), 0.2, adaptive=True)
    close(adaptive.value, 0.2 * torch.linalg.vector_norm(c * x))
    close(torch.linalg.vector_norm(adaptive.direction["w"] / x), 0.2)


def test_worst_with_negative_curvature():
    """Power iteration on H would run into the eigenvalue -9, of the largest magnitude."""
    h = torch.tensor([2.0, -9.0, 1.0, -5.0], dtype=torch.float64)
    close(worst_sharpness(quadratic(h), point([0.0] * 4), 0.1, steps=60).value, 0.01 * 2 / 2, 0.05)
    inside = worst_sharpness(quadratic(-h.abs()), point([0.0, 0.05, 0.0, 0.0]), 0.1, steps=60)  # the top is inside
    close(inside.value, 9 * 0.05**2 / 2, 1e-3)


def test_worst_is_the_worst():
    params, loss, *_ = relu_net(2)
    worst = worst_sharpness(loss, params, 0.3).value
    assert worst >= ascent_sharpness(loss, params, 0.3).value > average_sharpness(loss, params, 0.3).value
    x = to_vector(params)
    for seed in range(200):
        u = random(len(x), seed=seed)
        assert loss(add(params, from_vector(0.3 * u / torch.linalg.vector_norm(u), params))) - loss(params) <= worst
    values = [worst_sharpness(loss, params, rho).value.item() for rho in (0.0, 0.1, 0.3, 1.0)]
    assert values[0] == 0 and values == sorted(values)


@pytest.mark.parametrize("measure", ALL[:-1])
def test_the_direction_leads_to_the_value(measure):
    params, loss, *_ = relu_net(1)
    found = measure(loss, params, 0.05)
    assert found.loss == loss(params)
    if measure is not average_sharpness:
        rise = loss(add(params, found.direction)) - loss(params)
        close(found.value, 100 * rise / (1 + loss(params)) if measure is box_sharpness else rise)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.2, 5.0])
def test_adaptive_sharpness_does_not_see_a_rescaled_relu_network(alpha):
    """Dinh et al. 2017: layers times alpha and 1 / alpha compute the same. lambda_max and the plain ball see it."""
    params, loss, *_ = relu_net()
    rescaled = {"0.weight": params["0.weight"] * alpha, "2.weight": params["2.weight"] / alpha}
    close(loss(rescaled), loss(params))
    unscaled = lambda *args, **kw: sam.adaptive_ascent(*args, eta=0.0, **kw)  # noqa: E731
    for measure in (
        lambda p: worst_sharpness(loss, p, 0.2, adaptive=True),
        lambda p: average_sharpness(loss, p, 0.2, adaptive=True),
        lambda p: ascent_sharpness(loss, p, 0.2, ascent=unscaled),
    ):
        close(measure(rescaled).value, measure(params).value, 1e-8)
    for measure in (
        lambda p: worst_sharpness(loss, p, 0.2),
        lambda p: average_sharpness(loss, p, 0.2),
        lambda p: box_sharpness(loss, p, 0.01),
        lambda p: ascent_sharpness(loss, p, 0.2, ascent=sam.adaptive_ascent),  # eta = 0.01 breaks it
    ):
        assert abs(measure(rescaled).value / measure(params).value - 1) > 1e-3
    tops = [top_eigenvalues(loss, p, steps=50).values.item() for p in (params, rescaled)]
    assert tops[1] > 2 * tops[0]


def test_ascent_sharpness_takes_any_ascent():
    c, x = random(5), point(random(5, seed=1))
    found = ascent_sharpness(lambda p: c @ p["w"], x, 0.1, ascent=sam.p_ascent(math.inf))
    close(found.value, 0.1 * c.abs().sum())
    close(found.direction["w"], 0.1 * c.sign())


@pytest.mark.slow
def test_m_sharpness_is_the_mean_over_batches():
    params, whole, model, x, y = relu_net()
    losses = [loss_of(model, x[i::4], y[i::4]) for i in range(4)]
    for measure in MAPPED:
        alone = [measure(loss, params, 0.05).value.item() for loss in losses]
        close(m_sharpness(losses, params, 0.05, measure=measure), np.mean(alone))
    assert m_sharpness([whole], params, 0.05) == worst_sharpness(whole, params, 0.05).value
    assert (
        m_sharpness(losses, params, 0.05) > worst_sharpness(losses, params, 0.05).value
    )  # each batch has its own worst


# Hochreiter and Schmidhuber


def jacobian_of(outputs, params):
    return torch.autograd.functional.jacobian(lambda w: outputs({"w": w}), params["w"])


def flatness_by_the_formula(j, eps):
    """B as in the paper (Hochreiter & Schmidhuber 1997), j (K, L)."""
    s2 = (j**2).sum(0)
    inner = sum(sum(abs(j[k, i]) / s2[i].sqrt() for i in range(j.shape[1])) ** 2 for k in range(j.shape[0]))
    return 0.5 * (-j.shape[1] * math.log(eps) + s2.log().sum() + j.shape[1] * inner.log())


def test_description_length_is_that_of_the_paper():
    j, params, eps = random(3, 7), point(random(7, seed=1)), 0.01
    length, widths = box_flatness(lambda p: j @ p["w"], params, eps)
    close(length, flatness_by_the_formula(j, eps))
    close(length, -widths["w"].log().sum())


def test_box_keeps_the_outputs_within_the_tolerance_with_equal_shares():
    j, params, eps = random(3, 7), point(random(7, seed=1)), 0.01
    _, widths = box_flatness(lambda p: j @ p["w"], params, eps)
    half = widths["w"]
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=7)), dtype=torch.float64) * half
    changes = ((corners @ j.T) ** 2).sum(1)
    assert 0.3 * eps < changes.max() <= eps
    close((((j.abs() @ half) ** 2).sum()), eps)  # the bound that the paper uses
    shares = half**2 * (j**2).sum(0)
    close(shares, shares.mean().expand(7))


def test_flatness_of_a_recurrent_network():
    """oneDNN computes an LSTM in float32, and cannot go back from all outputs at once."""
    torch.manual_seed(0)
    model, x = nn.LSTM(3, 2), torch.randn(4, 1, 3)
    out = lambda p: functional_call(model, p, (x,))[0][-1]  # noqa: E731
    exact = lambda p: functional_call(model, p, (x.double(),))[0][-1]  # noqa: E731
    params = params_of(model)
    length = box_flatness(exact, {name: p.double() for name, p in params.items()}, 0.1)[0]
    close(box_flatness(out, params, 0.1)[0], length, 1e-4)


def test_flatness_of_a_network_and_of_a_rescaled_one():
    """Dividing the Jacobian by a, as when the weights are multiplied by a, changes B by exactly -L log a."""
    outputs = lambda p: torch.tanh(random(2, 4) @ p["w"] ** 2)  # noqa: E731
    params, a = point(random(4, seed=3)), 3.0
    length, _ = box_flatness(outputs, params, 0.1)
    close(length, flatness_by_the_formula(jacobian_of(outputs, params), 0.1))
    scaled, _ = box_flatness(lambda p: outputs({"w": p["w"] / a}), point(a * params["w"]), 0.1)
    close(scaled - length, -4 * math.log(a))


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1e-12, 1e12, 1e25])
def test_no_unit_of_the_outputs_matters_to_their_flatness(scale):
    """In float32, where the squares leave the range, against the formula in float64; one weight keeps its influence."""
    j, params = random(3, 7), point(random(7, seed=1))
    sizes = torch.tensor([*[scale] * 4, 1.0, 1.0, 0.0], dtype=torch.float64)
    length, widths = box_flatness(lambda p: (j * sizes).float() @ p["w"], {"w": params["w"].float()}, 1e-3)
    known = (j * sizes)[:, :6]
    assert length.item() == pytest.approx(flatness_by_the_formula(known, 1e-3).item(), rel=1e-4)
    equal, _ = box_flatness(lambda p: (scale * j).float() @ p["w"], {"w": params["w"].float()}, 1e-3)
    assert equal.item() == pytest.approx(flatness_by_the_formula(scale * j, 1e-3).item(), rel=1e-4)
    assert widths["w"][6] == math.inf


def test_weights_without_influence_have_no_part_in_the_length():
    j = random(3, 4)
    outputs = lambda p: j @ p["w"][:4]  # noqa: E731
    length, widths = box_flatness(outputs, point(random(6)), 0.01)
    close(length, flatness_by_the_formula(j, 0.01))
    assert (widths["w"][4:] == math.inf).all() and widths["w"][:4].isfinite().all()
    nothing, widths = box_flatness(lambda p: p["w"][:2] * 0, point(random(6)), 0.01)
    assert nothing == 0 and (widths["w"] == math.inf).all()


def test_flatness_maps_over_inputs_and_models():
    params, _, model, x, _ = relu_net()
    lengths = vmap(lambda row: box_flatness(lambda p: functional_call(model, p, (row,)), params, 0.1)[0])(x)
    close(lengths[4], box_flatness(lambda p: functional_call(model, p, (x[4],)), params, 0.1)[0])
    models = stack([relu_net(seed)[0] for seed in range(3)])
    many = vmap(lambda p: box_flatness(lambda p: functional_call(model, p, (x[0],)), p, 0.1)[0])(models)
    close(many[2], box_flatness(lambda p: functional_call(model, p, (x[0],)), relu_net(2)[0], 0.1)[0])


# for all of them


@pytest.mark.parametrize("measure", MAPPED)
def test_ensemble_equals_loop(measure):
    models, loss = [relu_net(seed)[0] for seed in range(4)], relu_net()[1]
    mapped = vmap(lambda p: measure(loss, p, 0.05), chunk_size=3)(stack(models))
    for i, params in enumerate(models):
        alone = measure(loss, params, 0.05)
        close(mapped.value[i], alone.value)
        close(mapped.loss[i], alone.loss)
        if measure is average_sharpness:
            close(mapped.error[i], alone.error)
        else:
            assert mapped.status[i] == alone.status
            close(mapped.direction["0.weight"][i], alone.direction["0.weight"], 1e-5)


@pytest.mark.parametrize("measure", MAPPED)
def test_radii_and_subspaces_map_too(measure):
    params, loss, *_ = relu_net()
    radii = torch.tensor([0.01, 0.05])
    mapped = vmap(lambda radius: measure(loss, params, radius).value)(radii)
    close(mapped[1], measure(loss, params, radii[1].item()).value, 1e-6)
    if measure is box_sharpness:
        a = random(42, 5, seed=2)
        many = vmap(lambda p: box_sharpness(loss, p, 0.05, directions=a).value)(stack([params, relu_net(1)[0]]))
        close(many[1], box_sharpness(loss, relu_net(1)[0], 0.05, directions=a).value)


@pytest.mark.parametrize("measure", MAPPED)
def test_a_diverged_model_does_not_spoil_its_neighbours(measure):
    params, loss, *_ = relu_net()
    bad = {name: torch.full_like(p, torch.nan) for name, p in params.items()}
    mapped = vmap(lambda p: measure(loss, p, 0.05))(stack([bad, params]))
    assert mapped.value[0].isnan()
    close(mapped.value[1], measure(loss, params, 0.05).value)
    if measure is not average_sharpness:
        assert mapped.status.tolist()[0] == STATUS.index("nonfinite") != mapped.status[1]


@pytest.mark.parametrize("measure", ALL)
def test_a_list_of_losses_means_their_mean(measure):
    params, loss, model, x, y = relu_net()
    chunks = [loss_of(model, x[i::4], y[i::4]) for i in range(4)]
    whole, parts = measure(loss, params, 0.05), measure(chunks, params, 0.05)
    close(parts.value, whole.value)
    close(parts.loss, whole.loss)


@pytest.mark.parametrize("measure", ALL)
def test_twice_is_the_same_and_nothing_else_is_touched(measure):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double().train()
    x, y = random(8, 3), torch.arange(8) % 2
    nn.functional.cross_entropy(model(x), y).backward()
    kept = {n: b.clone() for n, b in model.state_dict().items()}, [p.grad.clone() for p in model.parameters()]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    params, loss = dict(model.named_parameters()), loss_of(model, x, y)
    first, second = measure(loss, params, 0.01), measure(loss, params, 0.01)
    assert first.value == second.value and not first.value.requires_grad
    assert all(torch.equal(b, kept[0][n]) for n, b in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), kept[1], strict=True))
    assert model.training and torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("radius", [-0.1, math.nan, math.inf, "0.1", None])
def test_bad_radius(measure, radius):
    with pytest.raises(ValueError, match=f"radius must be a finite number >= 0, got {radius!r}"):
        measure(quadratic(positive(3)), point([0.0] * 3), radius)


@pytest.mark.parametrize("measure", ALL)
def test_a_radius_may_be_a_number_of_numpy(measure):
    where = quadratic(positive(3)), point([0.1, 0.2, 0.3])
    assert measure(*where, np.float32(0.5)).value == measure(*where, 0.5).value


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda loss, p: box_sharpness(loss, p, 0.1, steps=0), "steps must be an integer >= 1, got 0"),
        (lambda loss, p: box_sharpness_lbfgs(loss, p, 0.1, steps=-1), "steps must be an integer >= 1, got -1"),
        (lambda loss, p: worst_sharpness(loss, p, 0.1, steps=0), "steps must be an integer >= 1, got 0"),
        (lambda loss, p: box_sharpness(loss, p, 0.1, starts=0), "starts must be an integer >= 1, got 0"),
        (lambda loss, p: worst_sharpness(loss, p, 0.1, starts=-3), "starts must be an integer >= 1, got -3"),
        (lambda loss, p: average_sharpness(loss, p, 0.1, samples=1), "samples must be an integer >= 2, got 1"),
        (lambda loss, p: average_sharpness(loss, p, 0.1, samples=0), "samples must be an integer >= 1, got 0"),
        (
            lambda loss, p: box_sharpness(loss, p, 0.1, directions=torch.ones(2, 3)),
            r"directions must .* = \(3, p\), got \(2, 3\)",
        ),
        (
            lambda loss, p: box_sharpness(loss, p, 0.1, directions=torch.ones(3)),
            r"directions must .* = \(3, p\), got \(3,\)",
        ),
        (
            lambda loss, p: box_sharpness(loss, p, 0.1, starts=torch.ones(3)),
            r"starts must have shape \(n, 3\).* got \(3,\)",
        ),
        (
            lambda loss, p: box_sharpness(loss, p, 0.1, directions=torch.ones(3, 2), starts=torch.ones(1, 3)),
            r"starts .* \(n, 2\)",
        ),
        (
            lambda loss, p: worst_sharpness(loss, p, 0.1, starts=torch.ones(1, 4)),
            r"starts must have shape \(n, 3\).* \(1, 4\)",
        ),
        (
            lambda loss, p: average_sharpness(loss, p, 0.1, samples=torch.ones(5, 2)),
            r"samples must have shape \(n, 3\)",
        ),
        (lambda loss, p: box_sharpness([], p, 0.1), "the number of losses must be at least 1, got 0"),
        (lambda loss, p: ascent_sharpness([], p, 0.1), "the number of losses must be at least 1, got 0"),
        (lambda loss, p: m_sharpness([], p, 0.1), "the number of losses must be at least 1, got 0"),
        (lambda loss, p: box_flatness(lambda p: p["w"], p, -1.0), "tolerance must be a finite number >= 0, got -1.0"),
        (
            lambda loss, p: box_flatness(lambda p: p["w"], p, math.nan),
            "tolerance must be a finite number >= 0, got nan",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(quadratic(positive(3)), point([0.0] * 3))


@pytest.mark.parametrize("measure", [box_sharpness, box_sharpness_lbfgs, worst_sharpness, ascent_sharpness])
def test_a_loss_without_a_derivative_is_not_flat(measure):
    w = torch.ones(3, requires_grad=True)
    for constant in (torch.no_grad()(lambda p: (p["w"] ** 2).sum()), lambda p: (w**2).sum()):
        with pytest.raises(ValueError, match="the loss must be a differentiable function of the weights"):
            measure(constant, point([0.1, 0.2, 0.3]), 0.1)
    with pytest.raises(ValueError, match="the loss must be a differentiable function of the weights"):
        box_flatness(torch.no_grad()(lambda p: p["w"] ** 2), point([0.1, 0.2, 0.3]), 0.1)


def test_a_loss_of_ones_own_leaves_batch_norm_as_it_is():
    """A model in training mode averages the statistics of every batch that it is given; a derivative takes none that move."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    x, y, params = random(20, 4), torch.arange(20) % 3, params_of(model)
    before = {name: b.clone() for name, b in model.named_buffers()}
    own = lambda p: nn.functional.cross_entropy(functional_call(model, p, (x,)), y)  # noqa: E731
    found = average_sharpness(own, params, 0.1, samples=5)
    torch.testing.assert_close(found, average_sharpness(loss_of(model, x, y), params, 0.1, samples=5))
    for call in (worst_sharpness, ascent_sharpness, *BOXES, lambda *given: top_eigenvalues(*given[:2])):
        with pytest.raises(ValueError, match=r"changes no tensor, such as batch-norm .* take loss_of\(model, x, y\)"):
            call(own, params, 0.1)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())


class Masked(nn.Linear):
    """As in autoregressive flows and pruned networks: the derivative needs the buffer."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.register_buffer("mask", torch.rand(n_out, n_in).gt(0.5).double())

    def forward(self, x):
        return nn.functional.linear(x, self.mask * self.weight, self.bias)


def test_a_loss_of_ones_own_may_read_buffers():
    """Nothing is written into the buffers of a model that rests before the derivative has read them."""
    torch.manual_seed(0)
    model = nn.Sequential(Masked(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x, y, params = random(20, 4), torch.arange(20) % 3, params_of(model)
    own = lambda p: nn.functional.cross_entropy(functional_call(model, p, (x,)), y)  # noqa: E731
    for measure in (worst_sharpness, ascent_sharpness, average_sharpness, *BOXES):
        torch.testing.assert_close(measure(own, params, 0.1), measure(loss_of(model, x, y), params, 0.1))
    w = {name: p.clone().requires_grad_() for name, p in params.items()}
    slope = dict(zip(w, torch.autograd.grad(own(w), list(w.values())), strict=True))
    e = ascent(slope, w, 0.1)
    close(ascent_sharpness(own, params, 0.1).value, own({k: w[k] + e[k] for k in w}) - own(w), 1e-9)


def test_an_ascent_may_return_its_steps_in_any_order():
    w = {"a": torch.ones(2).double(), "b": torch.zeros(3).double()}
    loss = lambda p: p["a"].sum() + 2 * p["b"].sum()  # noqa: E731
    turned = lambda grads, params, rho: dict(reversed(list(ascent(grads, params, rho).items())))  # noqa: E731
    close(ascent_sharpness(loss, w, 0.1, ascent=turned).value, torch.tensor(0.1 * 14**0.5).double(), 1e-6)


def test_samples_without_direction_are_refused():
    directions = torch.cat([random(3, 3), torch.zeros(1, 3).double()])
    with pytest.raises(ValueError, match="samples must be without zeros, which have no direction, got tensor"):
        average_sharpness(quadratic(positive(3)), point([0.0] * 3), 0.1, samples=directions)


def test_a_climb_of_ones_own_plugs_in():
    """`method` is the seam for an exercise: here one step to the corner that the slope at the start points to."""

    def corner(heights, u, base, steps):
        there = climb.slope(heights, u)[0].sign()
        return there, climb.height(heights, there), torch.tensor(True)

    c = random(5)
    found = box_sharpness(lambda p: c @ p["w"], point([0.0] * 5), 0.1, method=corner)
    close(found.value, 100 * 0.1 * c.abs().sum())


@pytest.mark.parametrize("box", BOXES)
def test_there_is_no_percentage_of_a_loss_below_minus_one(box):
    loss, x = lambda p: (p["w"] ** 2).sum(), point([0.3, -0.2])
    for shift in (-1.2, -7.0):
        assert box(lambda p, s=shift: loss(p) + s, x, 1e-3).value.isnan()
    above = box(lambda p: loss(p) - 1.1, x, 1e-3)
    corner = loss(point([0.3 + 1.3e-3, -0.2 - 1.2e-3]))
    close(above.value, 100 * (corner - loss(x)) / (loss(x) - 0.1))
    both = vmap(lambda s: box_sharpness(lambda p: loss(p) + s, x, 1e-3).value)(torch.tensor([-7.0, 0.0]))
    assert both[0].isnan() and both[1] > 0


@pytest.mark.parametrize("rows", [np.eye(3), np.eye(3).tolist()], ids=["array", "list"])
def test_rows_that_are_no_tensor_are_refused_with_the_remedy(rows):
    loss = lambda p: (p["w"] ** 2).sum()  # noqa: E731
    for measure, name in ((worst_sharpness, "starts"), (average_sharpness, "samples"), (box_sharpness, "starts")):
        with pytest.raises(
            ValueError, match=rf"(?s){name} must be an integer.*; give rows as a tensor, by torch.as_tensor"
        ):
            measure(loss, point([0.0] * 3), 0.1, **{name: rows})
        measure(loss, point([0.0] * 3), 0.1, **{name: torch.as_tensor(rows)})


@pytest.mark.parametrize("measure", MAPPED)
def test_a_derivative_in_reverse_mode_is_refused_and_not_0(measure):
    loss, w = (lambda p: (p["w"] ** 2).sum()), point([1.0, 2.0])
    with pytest.raises(ValueError, match=r"params\['w'\] must be a constant, .* gradient would be 0"):
        torch.func.grad(lambda p: measure(loss, p, 0.1).value)(w)
    with pytest.raises(ValueError, match="radius must be a constant"):
        torch.func.grad(lambda radius: measure(loss, w, radius).value)(torch.tensor(0.1))


@pytest.mark.parametrize("rows", [np.eye(3), [[1.0], [0.0], [0.0]]])
def test_directions_are_a_tensor(rows):
    with pytest.raises(
        ValueError, match=r"directions must be a tensor of shape \(n_params, p\) = \(3, p\), got <class"
    ):
        box_sharpness(lambda p: p["w"].sum(), point([1.0, 2.0, 3.0]), 0.1, directions=rows)


def test_no_rows_are_no_starts():
    for measure, name in ((worst_sharpness, "starts"), (box_sharpness, "starts"), (average_sharpness, "samples")):
        with pytest.raises(ValueError, match=rf"{name} must have shape \(n, 3\) with n > 0, .*got \(0, 3\)"):
            measure(lambda p: p["w"].sum(), point([1.0, 2.0, 3.0]), 0.1, **{name: torch.empty(0, 3)})
