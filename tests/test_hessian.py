"""Lanczos and its relatives against dense float64 Hessians and closed forms."""

import math
from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, jacfwd, vmap

from sam_lite.hessian import dense, hvp, spectral_density, top_eigenvalues, trace
from sam_lite.lanczos import lanczos
from sam_lite.noise import noise
from sam_lite.params import add, count, from_vector, loss_of, member, params_of, stack, to_vector


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def net_of(*layers, seed=0, dtype=torch.float64):
    """A model with weights of N(0, 1)."""
    model = nn.Sequential(*layers).to(dtype)
    for i, p in enumerate(model.parameters()):
        p.data = random(*p.shape, seed=100 * seed + i, dtype=dtype)
    return model


def tanh_net(seed=0, dtype=torch.float64):
    """A model of 19 weights and its loss on 12 points."""
    model = net_of(
        nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1, bias=False), seed=seed, dtype=dtype
    )
    x, y = random(12, 2, seed=seed, dtype=dtype), random(12, 1, seed=9, dtype=dtype)
    return params_of(model), loss_of(model, x, y, nn.functional.mse_loss)


def relu_net(n_points=40, dtype=torch.float64):
    """Data, a model of 131 weights with two kinks on the way, and its loss."""
    model = net_of(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3, bias=True), seed=3, dtype=dtype
    )
    x, y = random(n_points, 6, seed=1, dtype=dtype), torch.arange(n_points) % 3
    return model, x, y, loss_of(model, x, y)


def autograd_hessian(loss, params):
    """The Hessian, (n_params, n_params), in float64 by torch.autograd."""
    params = {name: p.double() for name, p in params.items()}
    blocks = torch.autograd.functional.hessian(
        lambda *tensors: loss(dict(zip(params, tensors, strict=True))), tuple(params.values())
    )
    sizes = [p.numel() for p in params.values()]
    return torch.cat([torch.cat([b.reshape(n, -1) for b in row], 1) for n, row in zip(sizes, blocks, strict=True)])


def quadratic(*curvatures, dtype=torch.float64):
    """sum h w^2 / 2 and a point: the Hessian is diag(h) everywhere."""
    h = torch.tensor(curvatures, dtype=dtype)
    return {"w": torch.ones(len(h), dtype=dtype)}, lambda p: 0.5 * (h * p["w"] ** 2).sum()


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def test_hvp_and_dense_are_those_of_autograd():
    params, loss = tanh_net(1)
    expected = autograd_hessian(loss, params)
    close(dense(loss, params), expected, 1e-13)
    v = from_vector(random(19, seed=3), params)
    close(to_vector(hvp(loss, params)(v)), expected @ to_vector(v), 1e-13)


def test_hessian_of_a_convolution_with_group_norm():
    layers = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)
    model = net_of(*layers)
    params, loss = params_of(model), loss_of(model, random(5, 1, 6, 6), torch.tensor([0, 1, 0, 1, 1]))
    expected = autograd_hessian(loss, params)
    close(dense(loss, params), expected)
    close(
        vmap(lambda p: top_eigenvalues(loss, p, steps=82).values)(stack([params] * 2))[1, 0],
        torch.linalg.eigvalsh(expected)[-1],
    )


# Lanczos


def test_all_of_19_eigenvalues_in_order():
    params, loss = tanh_net()
    expected = torch.linalg.eigvalsh(autograd_hessian(loss, params)).flip(0)
    found = top_eigenvalues(loss, params, k=19)
    close(found.values, expected, 1e-12)
    assert found.residuals.max() < 1e-11 and expected[-1] < 0


def test_top_five_of_a_relu_net_with_their_vectors():
    model, _, _, loss = relu_net()
    params = params_of(model)
    hessian = autograd_hessian(loss, params)
    expected = torch.linalg.eigvalsh(hessian).flip(0)[:5]
    found = top_eigenvalues(loss, params, k=5, steps=60)
    close(found.values, expected, 1e-9)
    vectors = torch.stack([to_vector(member(found.vectors, i)) for i in range(5)])
    assert {name: v.shape[1:] for name, v in found.vectors.items()} == {name: p.shape for name, p in params.items()}
    close(vectors @ vectors.T, torch.eye(5, dtype=torch.float64), 1e-12)
    close(found.residuals, torch.linalg.vector_norm(vectors @ hessian - found.values[:, None] * vectors, dim=1))


def test_residual_says_how_far_a_value_may_be_off():
    model, _, _, loss = relu_net()
    params = params_of(model)
    spectrum = torch.linalg.eigvalsh(autograd_hessian(loss, params))
    for steps in (3, 6, 12):
        found = top_eigenvalues(loss, params, k=3, steps=steps)
        off = (spectrum - found.values[:, None]).abs().amin(1)
        assert (off <= found.residuals + 1e-12).all() and found.residuals.max() > 1e-6
        assert (found.values <= spectrum.flip(0)[:3] + 1e-12).all()


def test_largest_by_value_not_by_magnitude():
    params, loss = quadratic(-9, -4, 1, 3)
    close(top_eigenvalues(loss, params, k=2).values, torch.tensor([3.0, 1.0], dtype=torch.float64))


def test_more_steps_than_weights_change_nothing():
    params, loss = tanh_net()
    exact, more = (top_eigenvalues(loss, params, k=3, steps=steps).values for steps in (19, 500))
    assert torch.equal(exact, more)


@pytest.mark.parametrize("curvatures", [(1, 4), (0, 0, 0), (1, 1, 1), (5, 5, 1, 0), (-7, -1, -2), (3,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_breakdown_gives_repeated_and_zero_eigenvalues(curvatures, dtype):
    params, loss = quadratic(*curvatures, dtype=dtype)
    n, tol = len(curvatures), 20 * torch.finfo(dtype).eps
    expected = torch.tensor(sorted(curvatures, reverse=True), dtype=dtype)
    for start in (None, torch.eye(n)[0]):  # an eigenvector spans an invariant space alone
        found = top_eigenvalues(loss, params, k=n, start=start)
        close(found.values, expected, tol)
        mapped = vmap(lambda p, start=start: top_eigenvalues(loss, p, k=n, start=start))(stack([params] * 3))
        close(mapped.values, expected.expand(3, n), tol)
        assert max(found.residuals.max(), mapped.residuals.max()) < 5 * tol


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_eigenvalue_of_matrices_of_any_rank(dtype):
    """Rank-deficient ones, with repeated or tiny eigenvalues: the basis breaks down on the way and stays orthonormal."""
    for seed in range(40):
        n, rank = 3 + seed, seed % 7 + 1 if seed % 2 else 2 + seed // 2
        values = torch.zeros(n, dtype=torch.float64)
        values[:rank] = (
            random(rank, seed=seed).round() if seed % 3 else random(rank, seed=seed) * 10.0 ** (seed % 5 - 3)
        )
        q = torch.linalg.qr(random(n, n, seed=seed))[0]
        matrix = (q * values @ q.T if seed % 4 else values.diag()).to(dtype)
        found, mixes, basis = lanczos(lambda v, a=matrix: a @ v, random(n, seed=1, dtype=dtype), n)
        eps, size = torch.finfo(dtype).eps, values.abs().max()
        torch.testing.assert_close(found.double(), values.sort()[0], rtol=0, atol=100 * eps * size.item())
        torch.testing.assert_close(basis @ basis.T, torch.eye(n, dtype=dtype), rtol=0, atol=50 * eps)
        vectors = mixes.T @ basis
        torch.testing.assert_close(vectors @ matrix, found[:, None] * vectors, rtol=0, atol=100 * eps * size.item())


def test_float32_basis_stays_orthonormal():
    model, x, y, loss = relu_net(dtype=torch.float32)
    params = params_of(model)
    product = lambda v: to_vector(hvp(loss, params)(from_vector(v, params)))  # noqa: E731
    _, _, basis = lanczos(product, random(131, dtype=torch.float32), 100)
    close(basis @ basis.T, torch.eye(100), 3e-6)
    found = top_eigenvalues(loss, params, k=5, steps=100)
    spectrum = torch.linalg.eigvalsh(autograd_hessian(loss_of(model.double(), x.double(), y), params)).flip(0)
    torch.testing.assert_close(found.values.double(), spectrum[:5], rtol=1e-5, atol=0)
    assert found.values.dtype == torch.float32


def test_starts_agree_and_the_start_is_an_argument():
    params, loss = tanh_net()
    close(top_eigenvalues(loss, params, start=random(19, seed=5)).values, top_eigenvalues(loss, params, seed=7).values)
    few = [top_eigenvalues(loss, params, steps=2, seed=seed).values.item() for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    by_hand = top_eigenvalues(loss, params, steps=2, start=noise("", 1, params, 1)[0]).values.item()
    assert by_hand == few[2]


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**60])
def test_eigenvalues_have_the_unit_of_the_loss(scale):
    params, loss = tanh_net()
    one, other = (top_eigenvalues(lambda p, c=c: c * loss(p), params, k=3, steps=12) for c in (1.0, scale))
    close(other.values / scale, one.values)
    close(other.residuals / scale, one.residuals)


def test_tol_stops_as_soon_as_the_residual_allows():
    model, _, _, loss = relu_net()
    params = params_of(model)
    calls = []

    def counted(v):
        calls.append(1)
        return to_vector(hvp(loss, params)(from_vector(v, params)))

    used = []
    for tol in (1e-2, 1e-4, 0.0):
        calls.clear()
        lanczos(counted, random(131), 100, k=2, tol=tol)
        used.append(len(calls))
        found = top_eigenvalues(loss, params, k=2, steps=100, tol=tol)
        assert (found.residuals <= max(tol, 1e-12) * found.values * (1 + 1e-6)).all()
    assert used[0] < used[1] < used[2] == 100
    one_less = top_eigenvalues(loss, params, k=2, steps=used[1] - 1, start=random(131))
    assert (one_less.residuals > 1e-4 * one_less.values).any()


def test_tol_cannot_be_used_under_vmap():
    params, loss = tanh_net()
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        vmap(lambda p: top_eigenvalues(loss, p, tol=1e-3).values)(stack([params] * 2))


# many models, much data


def test_everything_maps_over_an_ensemble():
    models = [tanh_net(seed)[0] for seed in range(3)]
    _, loss = tanh_net()
    for measure in (
        lambda p: top_eigenvalues(loss, p, k=3, steps=8),
        lambda p: trace(loss, p, probes=5),
        lambda p: spectral_density(loss, p, steps=6, probes=2, points=20),
        lambda p: dense(loss, p),
    ):
        mapped = vmap(measure, chunk_size=2)(stack(models))
        for i, params in enumerate(models):
            alone = measure(params)
            pairs = zip(mapped, alone, strict=True) if isinstance(alone, tuple) else [(mapped, alone)]
            for many, one in pairs:
                many, one = (member(many, i), one) if isinstance(one, dict) else ({"": many[i]}, {"": one})
                for name in one:
                    close(many[name], one[name], 1e-9)


def test_a_diverged_model_does_not_spoil_its_neighbours():
    good, loss = tanh_net()
    bad = {name: torch.full_like(p, torch.nan) for name, p in good.items()}
    mapped = vmap(lambda p: top_eigenvalues(loss, p, k=2))(stack([bad, good]))
    assert mapped.values[0].isnan().all() and mapped.residuals[0].isnan().all()
    close(mapped.values[1], top_eigenvalues(loss, good, k=2).values)
    density = vmap(lambda p: spectral_density(loss, p, steps=5, probes=2))(stack([bad, good]))
    assert density.nodes[0].isnan().all() and density.values[1].isfinite().all()
    assert top_eigenvalues(loss, bad).values.isnan().all() and trace(loss, bad).mean.isnan()


@pytest.mark.slow
def test_a_list_of_losses_means_their_mean():
    model, x, y, loss = relu_net()
    params, chunks = params_of(model), [loss_of(model, x[i::4], y[i::4]) for i in range(4)]
    close(dense(chunks, params), dense(loss, params), 1e-12)
    close(top_eigenvalues(chunks, params, k=2).values, top_eigenvalues(loss, params, k=2).values)
    close(trace(tuple(chunks), params).mean, trace(loss, params).mean)
    close(spectral_density(chunks, params, steps=5).weights, spectral_density(loss, params, steps=5).weights)
    mapped = vmap(lambda p: top_eigenvalues(chunks, p).values)(stack([params] * 2))
    close(mapped[1], top_eigenvalues(loss, params).values)


# trace and density


@pytest.mark.slow
def test_trace_comes_with_its_standard_error():
    params, loss = tanh_net()
    hessian = autograd_hessian(loss, params)
    signs = random(50, 19, seed=2)
    found = trace(loss, params, probes=signs)
    samples = np.array([(v @ hessian @ v).item() for v in signs.sign()])
    close(found.mean, torch.tensor(samples.mean()))
    close(found.error, torch.tensor(samples.std(ddof=1) / math.sqrt(50)))
    misses = [
        (trace(loss, params, seed=seed).mean - hessian.trace()) / trace(loss, params, seed=seed).error
        for seed in range(50)
    ]
    assert sum(abs(miss) < 2 for miss in misses) >= 42 and max(map(abs, misses)) < 4


def test_trace_of_a_diagonal_hessian_is_exact():
    params, loss = quadratic(1, 4, -2)
    found = trace(loss, params, probes=2)
    assert found.mean == 3 and found.error == 0


def test_density_of_diag_1_4_is_half_and_half():
    params, loss = quadratic(1, 4)
    found = spectral_density(loss, params, probes=3)
    close(found.nodes, torch.tensor([[1.0, 4.0]] * 3, dtype=torch.float64), 1e-13)
    close(found.weights, torch.full((3, 2), 1 / 6, dtype=torch.float64), 1e-13)
    assert torch.trapezoid(found.values[found.grid < 2.5], found.grid[found.grid < 2.5]).item() == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_density_is_one_and_carries_the_moments(steps):
    params, loss = tanh_net()
    hessian = autograd_hessian(loss, params)
    found = spectral_density(loss, params, steps=steps, probes=6, seed=1)
    assert found.weights.shape == found.nodes.shape == (6, min(steps, 19))
    assert (
        not found.weights.is_complex() and (found.weights >= 0).all() and found.weights.sum().item() == pytest.approx(1)
    )
    assert torch.trapezoid(found.values, found.grid).item() == pytest.approx(1, abs=1e-5)
    signs = noise("", 6, params, seed=1).sign()
    first = torch.stack([v @ hessian @ v for v in signs]).mean() / 19  # a quadrature with m nodes is exact to 2m - 1
    close((found.weights * found.nodes).sum(), first, 1e-9)
    if steps > 1:
        third = torch.stack([v @ hessian @ hessian @ hessian @ v for v in signs]).mean() / 19
        close((found.weights * found.nodes**3).sum(), third, 1e-9)


@pytest.mark.slow
def test_density_of_all_coordinates_is_the_spectrum():
    """With the unit vectors as probes, were they signs, it is exact; averaged over many signs it comes near."""
    params, loss = tanh_net()
    spectrum = torch.linalg.eigvalsh(autograd_hessian(loss, params))
    found = spectral_density(loss, params, steps=19, probes=150)
    for cut in [(a + b) / 2 for a, b in pairwise(spectrum) if b - a > 0.02]:
        assert found.weights[found.nodes < cut].sum().item() == pytest.approx(
            (spectrum < cut).double().mean().item(), abs=0.03
        )


def test_smoothing_does_not_depend_on_the_scale_of_the_loss():
    params, loss = tanh_net()
    one, thousand, thousandth = (
        spectral_density(lambda p, c=c: c * loss(p), params, steps=10, points=200) for c in (1, 1024, 1 / 1024)
    )
    close(thousand.grid, 1024 * one.grid)
    close(thousand.values, one.values / 1024)
    close(thousandth.grid, one.grid / 1024)
    close(thousandth.values, 1024 * one.values)
    flat = spectral_density(*reversed(quadratic(0, 0)))
    assert torch.trapezoid(flat.values, flat.grid).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("width", "points"), [(1e-3, 200), (1e-4, 500), (1e-6, 30), (0.01, 50), (1e-3, 3000)])
def test_the_density_has_the_integral_and_the_mean_of_the_nodes_however_narrow(width, points):
    """A Gaussian narrower than the steps of the grid would be missed, or count for more."""
    params, loss = tanh_net()
    found = spectral_density(loss, params, steps=10, probes=3, width=width, points=points)
    assert torch.trapezoid(found.values, found.grid).item() == pytest.approx(1, abs=2e-3)
    mean, spread = (found.nodes * found.weights).sum(), found.grid[-1] - found.grid[0]
    assert (torch.trapezoid(found.values * found.grid, found.grid) - mean).abs() < 2e-3 * spread
    if points == 3000:  # as narrow as it was asked for
        assert found.values.max() * found.nodes.abs().max() * width * (2 * math.pi) ** 0.5 > 0.9 * found.weights.max()


# traps


def test_a_parameter_that_takes_no_part_is_a_block_of_zeros():
    params, own = tanh_net()
    spare = {"unused": random(3)} | params | {"last": random(2, 2)}
    loss = lambda p: own({name: p[name] for name in params})  # noqa: E731
    hessian = dense(loss, spare)
    close(hessian[3:22, 3:22], autograd_hessian(loss, params))
    hessian[3:22, 3:22] = 0
    assert hessian.shape == (26, 26) and (hessian == 0).all()
    found = top_eigenvalues(loss, spare, k=26)
    assert (found.values.abs() < 1e-12).sum() >= 7
    close(found.values[0], top_eigenvalues(loss, params).values[0])
    linear = top_eigenvalues(lambda p: p["unused"].sum(), spare, k=2)
    assert (linear.values == 0).all() and (linear.residuals == 0).all()


def test_attention_has_a_hessian():
    q, x = random(6, 4), random(2, 3, 5, 6)

    def loss(p):
        return nn.functional.scaled_dot_product_attention(x @ p["q"], x @ q, x @ q).square().mean()

    params = {"q": random(6, 4, seed=1)}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = autograd_hessian(loss, params)
    close(dense(loss, params), expected)
    close(top_eigenvalues(loss, params).values[0], torch.linalg.eigvalsh(expected)[-1])
    assert torch.backends.cuda.flash_sdp_enabled()  # and the kernels are as they were


def test_finite_differences_are_wrong_for_relu_and_this_is_not():
    """A difference of gradients across a kink grows as 1 / h; with tanh it is fine."""
    model, _, _, loss = relu_net(400)
    params, tanh_params, tanh_loss = params_of(model), *tanh_net()

    def difference(loss, params, v, h):
        ahead, behind = (to_vector(grad(loss)(add(params, from_vector(v, params), s * h))) for s in (1, -1))
        return (ahead - behind) / (2 * h)

    def error(loss, params, h):
        v = random(count(params), seed=8)
        exact = to_vector(hvp(loss, params)(from_vector(v, params)))
        close(exact, autograd_hessian(loss, params) @ v)
        return (
            torch.linalg.vector_norm(difference(loss, params, v, h) - exact) / torch.linalg.vector_norm(exact)
        ).item()

    assert error(tanh_loss, tanh_params, 1e-3) < 1e-4 and error(loss, params, 1e-3) > 0.1


def test_twice_is_the_same_and_nothing_else_is_touched():
    model = net_of(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.0), nn.Linear(4, 2)).train()
    x, y = random(8, 3), torch.arange(8) % 2
    nn.functional.cross_entropy(model(x), y).backward()
    kept = [p.grad.clone() for p in model.parameters()], {n: b.clone() for n, b in model.state_dict().items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    params, loss = dict(model.named_parameters()), loss_of(model, x, y)

    for measure in (
        lambda: top_eigenvalues(loss, params, k=2)[::2],
        lambda: trace(loss, params),
        lambda: spectral_density(loss, params),
        lambda: [dense(loss, params)],
        lambda: [hvp(loss, params)(params_of(model))["0.weight"]],
    ):
        first, second = measure(), measure()
        assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(first, second, strict=True))
    assert model.training and all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), kept[0], strict=True))
    assert all(torch.equal(b, kept[1][n]) for n, b in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()
    assert torch.is_grad_enabled()


CALLS = {
    "hvp": lambda loss, p: hvp(loss, p),
    "dense": dense,
    "top_eigenvalues": lambda loss, p: top_eigenvalues(loss, p, steps=5),
    "trace": lambda loss, p: trace(loss, p, probes=2),
    "spectral_density": lambda loss, p: spectral_density(loss, p, steps=2, probes=2),
    "in a list": lambda loss, p: dense([lambda q: (to_vector(q) ** 2).sum(), loss], p),
    "mapped": lambda loss, p: vmap(lambda q: trace(loss, q, probes=2).mean, randomness="different")(stack([p, p])),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_random_loss_is_refused_wherever_it_comes_from(call):
    params, _ = tanh_net()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="loss must not be random, but at the same parameters it draws random numbers"):
        call(lambda p: (nn.functional.dropout(to_vector(p)) ** 2).sum(), params)
    assert torch.equal(torch.get_rng_state(), state)
    numbers = iter(range(100))
    if call is not CALLS["mapped"]:  # there no value can be compared
        with pytest.raises(ValueError, match="loss must not be random, but .* it is .* at first and then"):
            call(lambda p: (to_vector(p) ** 2).sum() * next(numbers), params)
        assert next(numbers) == 2


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_types_of_numbers_are_refused(call, dtype):
    params = {"w": torch.ones(3, dtype=dtype)}
    remedy = "take torch.view_as_real" if dtype.is_complex else r"use .float\(\)"
    with pytest.raises(ValueError, match=rf"params\['w'\] must be float32 or float64, got {dtype}; {remedy}"):
        call(lambda p: (to_vector(p) ** 2).sum().real, params)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_inside_autocast_float32_is_refused_and_float64_is_as_outside(call):
    params, loss = tanh_net(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(
            ValueError, match=r"autocast must be off while float32 weights.*autocast\('cpu', enabled=False"
        ):
            call(loss, params)
        with torch.autocast("cpu", enabled=False):
            call(loss, params)
    params, loss = tanh_net()
    with torch.autocast("cpu", torch.bfloat16):
        call(loss, params)
        inside = dense(loss, params)
    assert torch.equal(inside, dense(loss, params))


@pytest.mark.parametrize("value", [lambda p: p["w"], lambda p: 1.0, lambda p: None, lambda p: p["w"].sum()[None]])
def test_a_loss_is_one_number(value):
    with pytest.raises(ValueError, match=r"loss\(params\) must be a tensor of one number, got"):
        top_eigenvalues(value, {"w": torch.ones(3)})


def test_counters_among_the_parameters_are_refused_with_advice_that_fits():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()
    loss = loss_of(model, random(6, 4).float(), torch.arange(6) % 3)
    with pytest.raises(ValueError, match=r"params\['1.num_.* float64, got torch.int64; give params_of\(model\)"):
        trace(loss, model.state_dict())
    with pytest.raises(ValueError, match=r"got .*'1.running_mean'.*; params_of\(model\) gives them"):
        trace(loss, {name: p for name, p in model.state_dict().items() if p.is_floating_point()})


OTHER = {"w": torch.ones(3, requires_grad=True)}
BEFORE = (to_vector(OTHER) ** 2).sum()
CONSTANT = {
    "no_grad": torch.no_grad()(lambda p: (to_vector(p) ** 2).sum()),
    "detached": lambda p: (to_vector(p).detach() ** 2).sum(),
    "other weights": lambda p: (to_vector(OTHER) ** 2).sum(),
    "computed before": lambda p: BEFORE,
    "a number": lambda p: torch.tensor(1.0),
}


@pytest.mark.parametrize("loss", CONSTANT.values(), ids=CONSTANT)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_loss_without_a_derivative_is_not_flat(call, loss):
    with pytest.raises(ValueError, match="the loss must be a differentiable function of the weights, got 'a constant'"):
        call(loss, {"w": torch.ones(3)})


def test_where_the_loss_is_not_finite_nothing_is_flat():
    model, x, y, loss = relu_net()
    params = params_of(model)
    nothing = [loss_of(model, x[:0], y[:0]), loss_of(model, x, torch.full_like(y, -100)), lambda p: loss(p) + math.inf]
    for lost in (*nothing, [(loss, 1), (nothing[0], 1)]):
        found = top_eigenvalues(lost, params, k=2, steps=3)
        assert found.values.isnan().all() and found.residuals.isnan().all()
        assert trace(lost, params, probes=2).mean.isnan() and dense(lost, params).isnan().all()
        assert spectral_density(lost, params, steps=2, probes=1).nodes.isnan().all()
    assert to_vector(hvp(nothing[0], params)(params)).isnan().all()
    many = stack([params, {name: p * math.nan for name, p in params.items()}])
    found = vmap(lambda p: top_eigenvalues(loss, p, steps=5).values)(many)
    assert found[1].isnan().all()
    close(found[0], top_eigenvalues(loss, params, steps=5).values)


@pytest.mark.parametrize("measure", [trace, spectral_density])
def test_probes_with_zeros_are_no_signs(measure):
    params, loss = tanh_net()
    signs = random(4, 19).sign()
    measure(loss, params, probes=signs)
    for wrong in ((signs + 1) / 2, signs > 0, 0 * signs):
        with pytest.raises(ValueError, match="probes must be without zeros, which have no direction, got tensor"):
            measure(loss, params, probes=wrong)
    found = vmap(lambda v: trace(loss, params, probes=v).mean)(torch.stack([signs, (signs + 1) / 2]))
    assert found[1].isnan()  # there no value can be read
    close(found[0], trace(loss, params, probes=signs).mean)


def test_a_start_without_direction_is_refused():
    params, loss = tanh_net()
    with pytest.raises(ValueError, match="start must be without zeros, which have no direction, got tensor"):
        top_eigenvalues(loss, params, start=torch.zeros(19))
    start = random(19).masked_fill(torch.arange(19) < 5, 0)  # some zeros are no matter
    close(top_eigenvalues(loss, params, start=start).values, torch.linalg.eigvalsh(dense(loss, params))[-1:])
    found = vmap(lambda v: top_eigenvalues(loss, params, start=v).values)(torch.stack([start, 0 * start]))
    assert found[1].isnan().all()
    close(found[0], top_eigenvalues(loss, params, start=start).values)
    with pytest.raises(
        ValueError, match=r"start must be a vector \(n_params,\), got .*dict.*; give to_vector\(start\)"
    ):
        top_eigenvalues(loss, params, start=params)


def test_parameters_of_two_types_have_one_hessian():
    params, h = {"a": torch.ones(2), "b": torch.ones(1, dtype=torch.float64)}, torch.tensor([3.0, 1.0, 2.0])
    loss = lambda p: 0.5 * (h[:2] @ p["a"] ** 2 + h[2] * p["b"][0] ** 2)  # noqa: E731
    close(dense(loss, params), h.double().diag())
    close(top_eigenvalues(loss, params, k=3).values, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_have_a_hessian_in_float32_too(make):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = make(3, 2, batch_first=True), nn.Linear(2, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Recurrent()
    x, y, enabled = random(6, 4, 3, dtype=torch.float32), torch.arange(6) % 2, torch.backends.mkldnn.enabled
    found = dense(loss_of(model, x, y), params_of(model))
    exact = autograd_hessian(loss_of(model.double(), x.double(), y), params_of(model))
    close(found.double(), exact, 1e-5)
    assert torch.backends.mkldnn.enabled == enabled


def test_chunks_of_unlike_size_count_by_their_points_or_class_weights():
    model, x, y, loss = relu_net()
    params = params_of(model)
    chunks = [(loss_of(model, xs, ys), len(xs)) for xs, ys in zip(x.split(24), y.split(24), strict=True)]
    close(dense(chunks, params), dense(loss, params), 1e-12)
    close(top_eigenvalues(chunks, params, k=2).values, top_eigenvalues(loss, params, k=2).values)
    with pytest.raises(ValueError, match=r"losses alone must be of equal size, got \[24.0, 16.0\]"):
        trace([one for one, _ in chunks], params)
    weight = torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)
    y = y.sort()[0]
    weighted = nn.CrossEntropyLoss(weight)
    pairs = [
        (loss_of(model, xs, ys, weighted), weight[ys].sum()) for xs, ys in zip(x.split(20), y.split(20), strict=True)
    ]
    close(dense(pairs, params), dense(loss_of(model, x, y, weighted), params), 1e-12)


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e20])
def test_small_and_large_curvatures_in_float32(scale):
    """The squares of the products are out of range: norms must not be taken from them."""
    params, loss = quadratic(7, 4, 1, -2, dtype=torch.float32)
    found = top_eigenvalues(lambda p: scale * loss(p), params, k=4)
    close(found.values / scale, torch.tensor([7.0, 4.0, 1.0, -2.0]), 1e-5)
    assert (found.residuals < 1e-5 * scale * 7).all()
    density = spectral_density(lambda p: scale * loss(p), params, probes=2)
    assert torch.trapezoid(density.values.double(), density.grid.double()).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor])
def test_counts_of_any_library(number):
    params, loss = tanh_net()
    assert top_eigenvalues(loss, params, k=number(2), steps=number(5), seed=number(1)).values.shape == (2,)
    assert trace(loss, params, probes=number(3), seed=number(1)).mean == trace(loss, params, probes=3, seed=1).mean
    assert spectral_density(loss, params, steps=number(3), probes=number(2), points=number(9)).grid.shape == (9,)


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_weight_decay_are_those_of_the_loss(training):
    """Batch norm by hand, in either mode; weight decay moves every eigenvalue by its own size."""
    model, x, y = (
        net_of(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)),
        random(8, 3),
        torch.arange(8) % 2,
    )
    model.train()(10 * x + 1)  # running statistics far from those of the batch
    params, mean, var = params_of(model), model[1].running_mean.clone(), model[1].running_var.clone()

    def by_hand(p):
        h = x @ p["0.weight"].T + p["0.bias"]
        m, v = (h.mean(0), h.var(0, correction=0)) if training else (mean, var)
        h = ((h - m) / (v + model[1].eps).sqrt() * p["1.weight"] + p["1.bias"]).tanh()
        return nn.functional.cross_entropy(h @ p["3.weight"].T + p["3.bias"], y)

    loss, exact = loss_of(model.train(training), x, y), torch.linalg.eigvalsh(autograd_hessian(by_hand, params)).flip(0)
    close(top_eigenvalues(loss, params, k=3, steps=count(params)).values, exact[:3], 1e-8)
    decayed = top_eigenvalues(
        lambda p: loss(p) + 0.01 / 2 * to_vector(p).square().sum(), params, k=3, steps=count(params)
    )
    close(decayed.values, exact[:3] + 0.01, 1e-8)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p, loss: top_eigenvalues(loss, p, k=0), "k must be an integer from 1 to 19, got 0; there are as many"),
        (
            lambda p, loss: top_eigenvalues(loss, p, k=20),
            "k must be an integer from 1 to 19, got 20; there are as many",
        ),
        (lambda p, loss: top_eigenvalues(loss, p, k=5, steps=4), "steps must be an integer >= 5, got 4"),
        (lambda p, loss: top_eigenvalues(loss, p, steps=0), "steps must be an integer >= 1, got 0"),
        (
            lambda p, loss: top_eigenvalues(loss, p, start=torch.ones(18)),
            r"start must have shape \(n, 19\).* got \(1, 18\)",
        ),
        (lambda p, loss: top_eigenvalues([], p), "the number of losses must be at least 1, got 0"),
        (lambda p, loss: trace(loss, p, probes=1), "probes must be an integer >= 2, got 1"),
        (lambda p, loss: trace(loss, p, probes=0), "probes must be an integer >= 1, got 0"),
        (lambda p, loss: trace(loss, p, probes=torch.ones(19)), r"probes must have shape \(n, 19\).* got \(19,\)"),
        (lambda p, loss: spectral_density(loss, p, steps=0), "steps must be an integer >= 1, got 0"),
        (lambda p, loss: top_eigenvalues(loss, p, k=2.0), "k must be an integer from 1 to 19, got 2.0"),
        (lambda p, loss: top_eigenvalues(loss, p, k=True), "k must be an integer from 1 to 19, got True"),
        (lambda p, loss: top_eigenvalues(loss, p, tol=-1e-3), "tol must be a finite number >= 0, got -0.001"),
        (lambda p, loss: top_eigenvalues(loss, p, tol=math.nan), "tol must be a finite number >= 0, got nan"),
        (lambda p, loss: top_eigenvalues(loss, p, seed=-1), "seed must be an integer >= 0, got -1"),
        (lambda p, loss: trace(loss, p, probes=2.5), "probes must be an integer >= 1, got 2.5"),
        (lambda p, loss: spectral_density(loss, p, points=1), "points must be an integer >= 2, got 1"),
        (lambda p, loss: spectral_density(loss, p, probes=0), "probes must be an integer >= 1, got 0"),
        (lambda p, loss: spectral_density(loss, p, width=0.0), "width must be a finite number >= 1e-06, got 0.0"),
        (lambda p, loss: spectral_density(loss, p, width=math.nan), "width must be a finite number >= 1e-06, got nan"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*tanh_net())


def test_lanczos_has_no_more_room_than_the_matrix_and_needs_a_direction():
    """Beyond its n dimensions it would find eigenvalues that the matrix does not have."""
    a = random(6, 6)
    a, start = a + a.T, random(6, seed=1)
    values = torch.linalg.eigvalsh(a)
    close(lanczos(lambda v: a @ v, start, 6)[0], values)
    with pytest.raises(ValueError, match="steps must be an integer from 1 to 6, got 8; as many as the matrix has rows"):
        lanczos(lambda v: a @ v, start, 8)
    with pytest.raises(ValueError, match="start must be without zeros, which have no direction"):
        lanczos(lambda v: a @ v, 0 * start, 6)
    both = vmap(lambda s: lanczos(lambda v: a @ v, s, 6)[0])(torch.stack([start, 0 * start]))
    close(both[0], values)
    assert both[1].isnan().all()


CUBE, EDGES = (
    (lambda p: (p["w"] ** 3).sum() / 6),
    {"w": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)},
)  # H = diag(w)
ONES = {"w": torch.ones(3, dtype=torch.float64)}
NUMBERS = {  # and the derivative by w
    "hvp": (lambda p: hvp(CUBE, p)(ONES)["w"].sum(), [1.0, 1.0, 1.0]),
    "dense": (lambda p: dense(CUBE, p).diagonal()[0], [1.0, 0.0, 0.0]),
    "largest": (lambda p: top_eigenvalues(CUBE, p).values[0], [0.0, 0.0, 1.0]),
    "trace": (lambda p: trace(CUBE, p).mean, [1.0, 1.0, 1.0]),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by torch's own forward derivatives
@pytest.mark.parametrize("name", NUMBERS)
def test_a_derivative_is_right_or_refused_and_never_0(name):
    """Reverse mode needs a graph, which none of these keeps; forward mode needs none."""
    number, right = NUMBERS[name]
    torch.testing.assert_close(jacfwd(number)(EDGES)["w"], torch.tensor(right, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"params\['w'\] must be a constant, .* gradient would be 0, .*jacfwd"):
        grad(number)(EDGES)
    with pytest.raises(ValueError, match="must be a constant"):
        grad(lambda many: vmap(number)(many).sum())(stack([EDGES, EDGES]))
    meant = grad(lambda p: number({"w": p["w"].detach()}) * p["w"].sum())(EDGES)["w"]
    torch.testing.assert_close(meant, number(EDGES).expand(3))
    times = grad(lambda a: a * number(EDGES))(torch.tensor(2.0, dtype=torch.float64))  # by something else
    torch.testing.assert_close(times, number(EDGES))


def test_a_product_is_of_the_weights_that_it_was_made_for():
    """Also when an optimizer has moved them since, in place."""
    params, loss = tanh_net()
    wanted = to_vector(params).sin()
    right = dense(loss, params) @ wanted
    product = hvp(loss, params)
    for p in params.values():
        p.add_(0.5)
    torch.testing.assert_close(to_vector(product(from_vector(wanted, params))), right)


def test_names_may_come_in_any_order_and_any_kind_of_dict():
    params, loss = tanh_net()
    v = {name: p.cos() for name, p in params.items()}
    found = hvp(loss, params)(dict(reversed(v.items())))
    torch.testing.assert_close(found, hvp(loss, params)(v))
    torch.testing.assert_close(trace(loss, OrderedDict(params)).mean, trace(loss, params).mean)
    with pytest.raises(ValueError, match="two sets of parameters must be of the same names"):
        hvp(loss, params)({"0.weight": v["0.weight"]})
