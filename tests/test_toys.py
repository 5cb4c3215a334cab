"""Every closed form of `toys` against SAM itself, iterated here with autograd in float64."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch.func import grad, jacrev, vmap

from sam_lite import sharpness, toys


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def hessian(loss):
    return jacrev(grad(loss))


def sam_gradient(loss, params, rho, normalise=True):
    """The gradient at w + rho g / |g|, or at w + rho g."""
    g = grad(loss)(params)
    length = torch.sqrt(sum((t**2).sum() for t in g.values())) if normalise else 1.0
    return grad(loss)({name: p + rho * g[name] / length for name, p in params.items()})


def sam_step(loss, params, lr, rho, normalise=True):
    g = sam_gradient(loss, params, rho, normalise)
    return {name: p - lr * g[name] for name, p in params.items()}


def sam(loss, params, lr, rho, steps, normalise=True):
    for _ in range(steps):
        params = sam_step(loss, params, lr, rho, normalise)
    return params


def minimum(f, start):
    options = {"xatol": 1e-8, "fatol": 1e-14, "maxiter": 2000}
    return scipy.optimize.minimize(f, start, method="Nelder-Mead", options=options)


# quadratics


def test_quadratic_has_its_hessian():
    h = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    w = {"w": tensor(1.0, -2.0)}
    assert toys.quadratic(h)(w) == (3 * 1 + 2 * 1 * -2 + 2 * 4) / 2
    torch.testing.assert_close(hessian(toys.quadratic(h))(w)["w"]["w"], h)
    for bad in (torch.tensor([[0.0, 1.0], [2.0, 0.0]]), tensor(1.0, 2.0), torch.ones(2, 3)):
        with pytest.raises(
            ValueError, match=r"hessian must be a symmetric matrix, got shape \(2.*use \(h \+ h.T\) / 2"
        ):
            toys.quadratic(bad)


@pytest.mark.slow
def test_sam_ends_on_the_two_cycle():
    """papers.md 7.4 item 1: lr lam from 0.05 to 1.9, beyond the proved range, and lam_2 / lam_1 up to 0.97."""
    lams = torch.stack([tensor(3.0, 1.0, 0.5), tensor(3.0, 0.97 * 3, 1.5)]).repeat(6, 1)  # (12, 3)
    lrs, rho = tensor(0.05, 0.2, 0.5, 1.0, 1.5, 1.9).repeat_interleave(2) / 3, 0.1
    step = vmap(lambda lam, w, lr: sam_step(lambda p: (lam * p["w"] ** 2).sum() / 2, {"w": w}, lr, rho)["w"])
    w = tensor(0.3, 0.2, 0.1).expand(12, 3)
    for _ in range(900):
        w = step(lams, w, lrs)
    expected = tensor(*(toys.two_cycle_amplitude(lr, rho, 3.0) for lr in lrs.tolist()))
    torch.testing.assert_close(w[:, 0].abs(), expected, rtol=1e-8, atol=0)
    assert (w[:, 1:].abs() < 1e-12).all()
    torch.testing.assert_close(step(lams, w, lrs), -w, rtol=1e-8, atol=1e-12)


def test_from_the_second_eigenvector_sam_stays_on_its_cycle_and_just_off_it_leaves():
    """papers.md 7.4 item 4: the top eigenvector wins from almost every start, not from every one."""
    loss, lr, rho = toys.quadratic(torch.diag(tensor(3.0, 2.0))), 0.2, 0.1
    on = sam(loss, {"w": tensor(0.0, 0.3)}, lr, rho, 300)["w"]
    assert on[0] == 0 and abs(on[1].abs() - toys.two_cycle_amplitude(lr, rho, 2.0)) < 1e-12
    off = sam(loss, {"w": tensor(1e-9, 0.3)}, lr, rho, 300)["w"]
    assert abs(off[1]) < 1e-12 and abs(off[0].abs() - toys.two_cycle_amplitude(lr, rho, 3.0)) < 1e-12


@pytest.mark.parametrize("product", [0.05, 0.6, 1.0, 1.9])
def test_transverse_multiplier_is_the_derivative_of_a_step(product):
    """papers.md 7.4 item 2, by autograd through a step of SAM on the cycle."""
    lam, rho, ratios = 3.0, 0.1, [0.1, 0.5, 0.97, 1.5]
    lr = product / lam
    loss = toys.quadratic(torch.diag(lam * tensor(1.0, *ratios)))
    on = torch.zeros(5, dtype=torch.float64)
    on[0] = toys.two_cycle_amplitude(lr, rho, lam)
    jacobian = jacrev(lambda w: sam_step(loss, {"w": w}, lr, rho)["w"])(on)
    expected = [toys.transverse_multiplier(lr, lam, r) for r in ratios]
    torch.testing.assert_close(jacobian.diagonal()[1:], tensor(*expected), rtol=0, atol=1e-12)
    assert [abs(m) < 1 for m in expected] == [True, True, True, False]  # only the top cycle is stable


def test_transverse_multiplier_is_seen_in_the_iterates():
    lr, rho, lams = 0.2, 0.1, tensor(3.0, 1.2)
    start = {"w": tensor(toys.two_cycle_amplitude(lr, rho, 3.0), 1e-7)}
    w = sam(toys.quadratic(torch.diag(lams)), start, lr, rho, 5)["w"]
    expected = 1e-7 * toys.transverse_multiplier(lr, 3.0, 0.4) ** 5
    assert abs(w[1] / expected - 1) < 1e-8


def test_a_step_of_sam_on_a_quadratic_is_one_of_gradient_descent_on_a_cone():
    """J = f + rho |grad f|, whose kink at the minimum is why SAM cannot settle (lecture 8)."""
    f, lr, rho = toys.quadratic(torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)), 0.2, 0.1

    def cone(params):
        return f(params) + rho * grad(f)(params)["w"].norm()

    for w in torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        torch.testing.assert_close(sam_step(f, {"w": w}, lr, rho)["w"], w - lr * grad(cone)({"w": w})["w"])


def test_without_normalization_sam_settles_at_the_minimum():
    f = toys.quadratic(torch.diag(tensor(3.0, 1.0)))
    assert sam(f, {"w": tensor(0.3, 0.5)}, 0.2, 0.1, 300, normalise=False)["w"].norm() < 1e-12


# edge of stability


def test_sam_edge_at_the_cycle_is_the_curvature():
    """papers.md 7.4 item 3: on the two-cycle SAM sits on its own edge."""
    for lr, rho, lam in ((0.1, 0.05, 3.0), (0.3, 0.2, 6.0), (0.01, 1.0, 20.0)):
        gradient = lam * toys.two_cycle_amplitude(lr, rho, lam)
        assert abs(toys.sam_edge(lr, rho, gradient) / lam - 1) < 1e-12


def test_sam_edge_is_the_root_in_long_and_bartletts_form():
    for lr, rho, g in ((0.1, 0.05, 3.0), (0.3, 0.2, 0.01), (1.0, 1.0, 1.0)):
        printed = g / (2 * rho) * (math.sqrt(1 + 8 * rho / (lr * g)) - 1)
        assert abs(toys.sam_edge(lr, rho, g) / printed - 1) < 1e-12
    assert toys.sam_edge(0.1, 0.0, 3.0) == 2 / 0.1
    assert abs(toys.sam_edge(0.1, 0.5, 1e-14) / math.sqrt(2e-14 / (0.1 * 0.5)) - 1) < 1e-6


@pytest.mark.parametrize("side", [0.99, 1.01])
def test_unnormalised_sam_diverges_above_its_edge_and_not_below(side):
    lr, rho = 0.1, 0.3
    lam = side * toys.sam_edge(lr, rho, 1.0)
    start = {"w": tensor(1.0)}
    w = sam(toys.quadratic(torch.full((1, 1), lam, dtype=torch.float64)), start, lr, rho, 50, normalise=False)["w"]
    assert (abs(w[0]) > 1) == (side > 1)


# ravines: the drift


def ravine(z):
    """A ravine with curvature 1 + z^2, and z, its curvature and slope there."""
    return toys.ravine(lambda z: 1 + z**2), z, 1 + z**2, 2 * z


@pytest.mark.parametrize("lr", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("rho", [1e-4, 1e-5])
def test_drift_of_one_step_on_the_cycle(lr, rho):
    """papers.md 7.2, with its finite-lr factor; the gradient itself, since z + 1e-12 would round."""
    loss, z, lam, slope = ravine(0.5)
    on = {"z": torch.tensor(z, dtype=torch.float64), "w": tensor(toys.two_cycle_amplitude(lr, rho, lam))[0]}
    drift = -lr * sam_gradient(loss, on, rho)["z"].item()
    expected = toys.drift_per_step(lr, rho, lam, slope)
    assert abs(drift / expected - 1) < 4e-8  # and what is left is O(rho^2)
    assert abs(drift / expected - 1) < 4 * rho**2 + 1e-12
    assert abs(drift / (-lr * rho**2 / 2 * slope) - 1) > 0.1  # Bartlett et al.'s leading term alone


def test_drift_moves_the_iterates_down_the_ravine():
    """300 steps of SAM against the drift summed up, on a path where h falls."""
    loss, z, _, _ = ravine(0.5)
    lr, rho = 0.2, 0.05
    on = {"z": torch.tensor(z, dtype=torch.float64), "w": tensor(toys.two_cycle_amplitude(lr, rho, 1.25))[0]}
    end = sam(loss, on, lr, rho, 300)
    for _ in range(300):
        z += toys.drift_per_step(lr, rho, 1 + z**2, 2 * z)
    assert abs((end["z"] - 0.5) / (z - 0.5) - 1) < 2e-3
    assert abs(end["w"].abs() / toys.two_cycle_amplitude(lr, rho, 1 + z**2) - 1) < 1e-3


# saddles


@pytest.mark.parametrize(("rho", "c"), [(0.5, 1.0), (2.0, 1.0), (0.5, 3.0), (0.0, 1.0)])
def test_unnormalised_sam_at_a_saddle(rho, c):
    """papers.md 7.4 item 6: it is attracted where rho c > 1."""
    lr, steps = 0.05, 20
    y = sam(toys.quadratic(torch.diag(tensor(1.0, -c))), {"w": tensor(0.5, 0.3)}, lr, rho, steps, False)["w"][1]
    multiplier = toys.saddle_multiplier(lr, rho, c)
    assert abs(y / (0.3 * multiplier**steps) - 1) < 1e-8
    assert (abs(multiplier) < 1) == (rho * c > 1) == (abs(y) < 0.3)


# Wen, Ma, Li: three sharpnesses


def at(x1, x2, x3=0.0, x4=0.0):
    return {"x": tensor(x1, x2, x3, x4)}


def test_limiting_sharpness_of_a_matrix():
    q = torch.linalg.qr(torch.arange(16, dtype=torch.float64).reshape(4, 4).sin())[0]
    found = toys.limiting_sharpness(q @ torch.diag(tensor(5.0, 2.0, 0.0, 1.0)) @ q.T)
    for name, value in (("max", 2.5), ("ascent", 0.5), ("average", 1.0)):
        assert abs(found[name] - value) < 1e-12
    assert toys.limiting_sharpness(torch.zeros(2, 2))["ascent"] == math.inf
    turned = torch.linalg.qr(torch.arange(36.0).reshape(6, 6).sin() + torch.eye(6))[0]  # in float32
    noisy = turned @ torch.diag(torch.tensor([4.0, 1.0, 0.0, 0.0, 0.0, 0.0])) @ turned.T
    assert toys.limiting_sharpness((noisy + noisy.T) / 2)["ascent"].item() == pytest.approx(0.5, rel=1e-5)
    both = vmap(toys.limiting_sharpness)(torch.stack([torch.eye(3), torch.diag(torch.tensor([4.0, 0.0, 2.0]))]))
    torch.testing.assert_close(both["ascent"], torch.tensor([0.5, 1.0]))


@pytest.mark.slow
def test_one_eigenvalue_makes_the_three_sharpnesses_one():
    """A single example of the toy, F1 x3^2: why 1-SAM lowers the trace (Wen et al. 2023, section 5)."""
    one = lambda p: toys.wen_terms(p)[0]  # noqa: E731
    floor, beside = ({"x": tensor(0.3, 0.6, x3, 0.0)} for x3 in (0.0, 1e-9))
    worst = sharpness.worst_sharpness(one, floor, 1e-3, steps=200).value
    axes = torch.eye(4, dtype=torch.float64)
    average = 4 * sharpness.average_sharpness(one, floor, 1e-3, samples=axes).value
    for other in (sharpness.ascent_sharpness(one, beside, 1e-3).value, average):
        assert abs(other / worst - 1) < 1e-4


@pytest.mark.parametrize("point", [(0.0, 0.0), (0.3, 0.8), (1.0, 1.0)])
def test_wens_minima_are_flat_in_two_directions(point):
    h = hessian(toys.wen)(at(*point))["x"]["x"]
    f1, f2 = toys.wen_curvatures(tensor(*point, 0.0, 0.0))
    assert toys.wen(at(*point)) == 0 and f1 > f2
    torch.testing.assert_close(h, torch.diag(torch.stack([f1 * 0, f1 * 0, 2 * f1, 2 * f2])))
    found = toys.limiting_sharpness(h)
    for name, value in (("max", f1), ("ascent", f2), ("average", (f1 + f2) / 4)):
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=0)


def test_wens_curvatures_and_terms():
    f1, f2 = toys.wen_curvatures(tensor(0.5, 0.25, 9.0, 9.0))
    assert (f1, f2) == (0.25 + 6 / 16 + 8, 4 * 0.25 + 9 / 16 + 1)
    x = at(0.5, 0.25, 2.0, 3.0)
    torch.testing.assert_close(toys.wen_terms(x), torch.stack([4 * f1, 9 * f2]))
    torch.testing.assert_close(toys.wen(x), 4 * f1 + 9 * f2)


RHO = 0.1


def test_average_sharpness_is_least_where_the_trace_is():
    """papers.md 6.4. The mean over a sphere in 4-D of a polynomial of degree 4: that over the 24-cell, a 5-design."""
    corners = [(a, b, s, t) for a, b in itertools.combinations(range(4), 2) for s in (1, -1) for t in (1, -1)]
    cell = tensor(*([s * (i == a) + t * (i == b) for i in range(4)] for a, b, s, t in corners)) / math.sqrt(2)

    def average(x):
        return vmap(lambda v: toys.wen({"x": torch.as_tensor(x) + RHO * v}))(cell).mean().item() / RHO**2

    found = minimum(average, [0.5, 0.5, 0.1, 0.1])
    assert abs(found.x - [0.8, 1 / 7, 0, 0]).max() < 1e-5
    limit = toys.limiting_sharpness(hessian(toys.wen)(at(0.8, 1 / 7))["x"]["x"])["average"].item()
    assert abs(found.fun - limit - 0.5 * RHO**2) < 1e-8  # E[v1^2 v3^2] = 1 / 24 times the curvatures of F1 + F2


def test_worst_sharpness_is_least_where_the_top_eigenvalue_is():
    """papers.md 6.4, on the manifold of minima, over a grid of directions that holds the axes."""
    side = torch.linspace(-0.6, 0.6, 13, dtype=torch.float64)
    turn = torch.linspace(0, math.pi / 2, 5, dtype=torch.float64)
    e1, e2, angle = (t.reshape(-1) for t in torch.meshgrid(side, side, turn, indexing="ij"))
    rest = (1 - e1**2 - e2**2).sqrt()
    directions = torch.stack([e1, e2, rest * angle.cos(), rest * angle.sin()], 1)

    def worst(x):
        return vmap(lambda v: toys.wen({"x": at(*x)["x"] + RHO * v}))(directions).max().item() / RHO**2

    found = minimum(worst, [0.5, 0.5])
    limit = toys.limiting_sharpness(hessian(toys.wen)(at(0, 0))["x"]["x"])["max"].item()
    assert abs(found.x).max() < 0.03 and abs(found.fun - limit) < 1e-3


def test_ascent_sharpness_is_least_where_the_smallest_nonzero_eigenvalue_is():
    """papers.md 6.4. The loss jumps on the manifold, so it is approached: at 1e-8 from it, from every side (x3, x4)."""

    def ascent(x):
        x = at(x[0], x[1], 1e-8 * math.cos(x[2]), 1e-8 * math.sin(x[2]))["x"]
        g = grad(toys.wen)({"x": x})["x"]
        return toys.wen({"x": x + RHO * g / g.norm()}).item() / RHO**2

    found = minimum(ascent, [0.5, 0.5, 0.8])
    limit = toys.limiting_sharpness(hessian(toys.wen)(at(1, 1))["x"]["x"])["ascent"].item()
    assert abs(found.x - [1, 1, math.pi / 2]).max() < 1e-6 and abs(found.fun - limit) < 1e-6


@pytest.mark.slow
def test_full_batch_sam_finds_the_least_top_eigenvalue():
    """papers.md 6.4: x1 and x2 reach (0, 0), and x3 the two-cycle of 2 F1 = 16."""
    lr, rho = 0.05, 0.5
    x = sam(toys.wen, at(0.54, 0.49, 0.3, 0.3), lr, rho, 500)["x"]
    assert x[:2].abs().max() < 1e-8 and abs(x[3]) < 1e-12
    assert abs(x[2].abs() - toys.two_cycle_amplitude(lr, rho, 16.0)) < 1e-8


def test_gradient_descent_stays_where_it_meets_the_minima():
    x = sam(toys.wen, at(0.54, 0.49, 0.01, 0.01), 0.05, 0.0, 300)["x"]
    assert (x[:2] - tensor(0.54, 0.49)).abs().max() < 1e-3 and x[2:].abs().max() < 1e-8


@pytest.mark.slow
def test_one_sam_finds_the_least_trace():
    """papers.md 6.4: batch size 1 settles around (0.8, 1/7), with an error in lr that extrapolation removes."""
    chains, rho, steps = 96, 0.3, 1200
    generator = torch.Generator().manual_seed(0)
    lr = tensor(0.02, 0.01).repeat_interleave(chains)
    x = at(0.54, 0.49, 0.1, 0.1)["x"].expand(2 * chains, 4)
    step = vmap(lambda k, lr, x: sam_step(lambda p: (k * toys.wen_terms(p)).sum(), {"x": x}, lr, rho)["x"])
    total = torch.zeros(2 * chains, 2, dtype=torch.float64)
    for i in range(steps):
        sample = torch.nn.functional.one_hot(torch.randint(2, (2 * chains,), generator=generator), 2).double()
        x = step(sample, lr, x)
        total += x[:, :2] * (i >= steps // 2)
    coarse, fine = (total / (steps - steps // 2)).reshape(2, chains, 2).mean(1)
    trace = tensor(0.8, 1 / 7)
    assert ((fine - trace).abs() < (coarse - trace).abs()).all() and (fine - trace).abs().max() < 0.04
    assert (2 * fine - coarse - trace).abs().max() < 0.02


# diagonal linear networks


def sparse_regression(seed, n=20, d=30):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    beta = torch.zeros(d, dtype=torch.float64)
    beta[:3] = torch.randn(3, generator=generator, dtype=torch.float64).sign()
    return x, x @ beta, beta


def test_diagonal_net_is_a_quarter_of_the_squared_error_of_a_product():
    x, y, beta = sparse_regression(0)
    u, v = torch.linspace(-1, 1, 30, dtype=torch.float64), torch.linspace(0, 2, 30, dtype=torch.float64)
    expected = sum((float(x[i] @ (u * v)) - float(y[i])) ** 2 for i in range(20)) / 80
    torch.testing.assert_close(toys.diagonal_net(x, y)({"u": u, "v": v}).item(), expected)
    assert toys.diagonal_net(x, y)({"u": beta, "v": beta.abs()}) == 0
    for bad in (y[:5], y[:, None]):
        with pytest.raises(ValueError, match=r"x must be \(n, d\) and y \(n,\), got \(20, 30\) and"):
            toys.diagonal_net(x, bad)


def test_the_trace_of_a_diagonal_net_that_fits_is_at_least_the_weighted_sum_of_beta():
    """tr H = sum_j s_j (u_j^2 + v_j^2) / 2 >= sum_j s_j |u_j v_j|, equal for balanced weights (lecture 9)."""
    x, _, beta = sparse_regression(2)
    weights = (x**2).mean(0)
    for scale in (1.0, 3.0):
        u, v = scale * beta.abs().sqrt(), beta.sign() * beta.abs().sqrt() / scale
        h = hessian(toys.diagonal_net(x, x @ beta))({"u": u, "v": v})
        trace = h["u"]["u"].trace() + h["v"]["v"].trace()
        torch.testing.assert_close(trace, (weights * (u**2 + v**2)).sum() / 2)
        least = (weights * beta.abs()).sum()
        assert trace > 1.5 * least if scale > 1 else abs(trace / least - 1) < 1e-12


def test_n_sam_multiplies_the_sum_and_the_difference_of_a_diagonal_net():
    x, y, _ = sparse_regression(1)
    u, v = torch.linspace(-1, 1, 30, dtype=torch.float64), torch.linspace(0, 0.5, 30, dtype=torch.float64)
    lr, rho = 0.1, 0.2
    new = sam_step(toys.diagonal_net(x, y), {"u": u, "v": v}, lr, rho, normalise=False)
    g = x.T @ (x @ (u * v) - y) / 40
    after = x.T @ (x @ ((u + rho * g * v) * (v + rho * g * u)) - y) / 40
    torch.testing.assert_close(new["u"] + new["v"], (u + v) * (1 - lr * after * (1 + rho * g)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(new["u"] - new["v"], (u - v) * (1 + lr * after * (1 - rho * g)), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_one_sam_finds_sparser_diagonal_nets_than_gradient_descent():
    """papers.md 8.2 (Andriushchenko, Flammarion 2022), in each of five draws of the data."""
    x, y, beta = map(torch.stack, zip(*map(sparse_regression, range(5)), strict=True))
    lr, steps = 0.3, 400

    def error(rho):
        def per_row(x, y, p):
            return sam_gradient(toys.diagonal_net(x[None], y[None]), p, rho, normalise=False)

        def step(x, y, p):
            g = vmap(per_row, in_dims=(0, 0, None))(x, y, p)
            return {name: t - lr * g[name].mean(0) for name, t in p.items()}

        p = {"u": torch.full_like(beta, 0.1), "v": torch.zeros_like(beta)}
        for _ in range(steps):
            p = vmap(step)(x, y, p)
        return ((p["u"] * p["v"] - beta) ** 2).sum(1)

    assert (error(0.1) < 0.9 * error(0.0)).all()


# domains


@pytest.mark.parametrize("f", [toys.two_cycle_amplitude, lambda lr, rho, lam: toys.drift_per_step(lr, rho, lam, 1.0)])
def test_forms_of_lr_rho_lam_refuse_what_has_no_cycle(f):
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -0.1"):
        f(0.1, -0.1, 1.0)
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got nan"):
        f(0.1, math.nan, 1.0)
    with pytest.raises(ValueError, match="lr must be a finite number > 0, got 0"):
        f(0, 0.1, 1.0)
    for lr, lam in ((0.1, 20.0), (1.0, 5.0), (0.1, 0.0), (0.1, -1.0), (0.1, math.nan)):
        with pytest.raises(
            ValueError, match=r"lr \* lam must be a finite number > 0 and < 2, got .* there is no cycle"
        ):
            f(lr, 0.1, lam)
    assert f(0.1, 0.0, 1.0) == 0


def test_numbers_that_are_none_are_refused():
    bad = (math.nan, math.inf, "0.1", None, True, torch.ones(2))
    calls = {
        "lr": lambda v: toys.saddle_multiplier(v, 0.1, 1.0),
        "rho": lambda v: toys.sam_edge(0.1, v, 1.0),
        "c": lambda v: toys.saddle_multiplier(0.1, 0.1, v),
        "ratio": lambda v: toys.transverse_multiplier(0.1, 1.0, v),
        "slope": lambda v: toys.drift_per_step(0.1, 0.1, 1.0, v),
        "tolerance": lambda v: toys.limiting_sharpness(torch.eye(2), tolerance=v),
    }
    for name, call in calls.items():
        for value in bad:
            with pytest.raises(ValueError, match=f"{name} must be a finite number.*, got"):
                call(value)
    assert toys.sam_edge(np.float32(0.5), torch.tensor(0.0), np.int64(1)) == 4
    assert toys.two_cycle_amplitude(torch.tensor(0.5), np.float64(0.1), 1) == pytest.approx(0.05 / 1.5)


def test_a_matrix_of_whole_numbers_is_refused():
    with pytest.raises(ValueError, match=r"hessian must be of floating-point numbers, got torch.int64; use .double"):
        toys.limiting_sharpness(torch.eye(2, dtype=torch.int64))


def test_other_forms_refuse_values_outside_their_domain():
    with pytest.raises(ValueError, match=r"lr \* lam must be a finite number > 0 and < 2, got 2.0"):
        toys.transverse_multiplier(0.5, 4.0, 0.5)
    for f in (toys.sam_edge, toys.saddle_multiplier):
        with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -0.1"):
            f(0.1, -0.1, 1.0)
        with pytest.raises(ValueError, match="lr must be a finite number > 0, got -1"):
            f(-1, 0.1, 1.0)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="grad_norm must be a finite number > 0, got"):
            toys.sam_edge(0.1, 0.1, bad)


def test_limiting_sharpness_of_half_a_matrix_is_refused_and_of_a_rounded_one_is_not():
    """An eigenvalue solver reads one triangle alone: of a triangular matrix it would find the diagonal."""
    whole = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    for half in (whole.triu(), whole.tril()):
        with pytest.raises(
            ValueError, match=r"hessian must be a symmetric matrix, got tensor(.|\n)*use \(h \+ h.T\) / 2"
        ):
            toys.limiting_sharpness(half)
    rounded = whole + torch.tensor([[0.0, 1e-5], [0.0, 0.0]])
    for name, value in (("max", 1.5), ("ascent", 0.5), ("average", 1.0)):
        assert toys.limiting_sharpness(rounded)[name].item() == pytest.approx(value, rel=1e-4)


def test_limiting_sharpness_is_of_one_square_matrix():
    """Of many at once it mixed their eigenvalues."""
    many = torch.stack([torch.eye(3), 2 * torch.eye(3)])
    with pytest.raises(ValueError, match=r"square matrix, got 'shape \(2, 3, 3\)'; take many by torch.vmap"):
        toys.limiting_sharpness(many)
    assert torch.func.vmap(toys.limiting_sharpness)(many)["max"].tolist() == [0.5, 1.0]
    for shape in ((2, 3), (0, 0), (3,), ()):
        with pytest.raises(ValueError, match="hessian must be a square matrix, got 'shape"):
            toys.limiting_sharpness(torch.ones(shape))
