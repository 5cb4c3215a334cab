"""The same Hessian through other people's code: curvlinops (any precision) and PyHessian (float32, stops early)."""

import importlib
import math

import pytest
import torch
from torch import nn

from sam_lite.hessian import dense, hvp, spectral_density, top_eigenvalues, trace
from sam_lite.lanczos import lanczos
from sam_lite.params import from_vector, loss_of, params_of, to_vector

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),  # curvlinops
    pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True"),  # PyHessian
]


def problem(dtype):
    """A trained ReLU network of 131 weights and 60 points, so that no eigenvalue stands alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)
        x, y = torch.randn(60, 6, dtype=dtype), torch.arange(60) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, x, y, loss_of(model, x, y), params_of(model)


def imported(name):
    """The module, or skip and say why: a torchvision built for another torch raises RuntimeError in its import."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


@pytest.fixture(scope="module")
def curvlinops():
    return imported("curvlinops")


@pytest.fixture
def operator(curvlinops):
    model, x, y, *_ = problem(torch.float64)
    named = dict(model.named_parameters())
    return curvlinops.HessianLinearOperator(model, nn.CrossEntropyLoss(), list(named.values()), [(x, y)])


def close(a, b, tol=1e-9):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def test_dense_hessian_is_that_of_curvlinops(operator):
    *_, loss, params = problem(torch.float64)
    close(dense(loss, params), operator @ torch.eye(131, dtype=torch.float64), 1e-12)


def test_top_eigenvalues_are_those_of_curvlinops_with_arpack(operator):
    from scipy.sparse.linalg import eigsh

    *_, loss, params = problem(torch.float64)
    expected = torch.from_numpy(eigsh(operator.to_scipy(), k=5, which="LA", return_eigenvectors=False))
    close(top_eigenvalues(loss, params, k=5, steps=60).values, expected.sort(descending=True)[0], 1e-8)


def test_trace_is_that_of_curvlinops_on_the_same_probes(curvlinops, operator):
    from curvlinops.sampling import random_vector

    *_, loss, params = problem(torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = curvlinops.hutchinson_trace(operator, num_matvecs=20)
        torch.manual_seed(3)
        probes = torch.stack([random_vector(131, "rademacher", operator.device, operator.dtype) for _ in range(20)])
    found = trace(loss, params, probes=probes)
    close(found.mean, expected)
    assert abs(found.mean - dense(loss, params).trace()) < 4 * found.error


def test_density_is_that_of_curvlinops_from_the_same_start(curvlinops, operator):
    from curvlinops.papyan2020traces.spectrum import fast_lanczos, lanczos_approximate_spectrum_from_iter

    *_, loss, params = problem(torch.float64)
    product = hvp(loss, params)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        nodes, mixes = fast_lanczos(operator, 10)
        torch.manual_seed(5)
        start = torch.randn(131, dtype=torch.float64)
    values, vectors, _ = lanczos(lambda v: to_vector(product(from_vector(v, params))), start, 10)
    close(values, nodes)
    close(vectors[0] ** 2, mixes[0] ** 2)

    found = spectral_density(loss, params, steps=10, probes=1, width=0.03, points=200)
    bounds = found.grid[0].item(), found.grid[-1].item()
    sigma = 0.03 * found.nodes.abs().max().item() * 2 / (bounds[1] - bounds[0])  # theirs: in units of half the range
    kappa = math.exp((2 / 9 / sigma) ** 2 / 8)
    run = found.nodes[0], found.weights.sqrt()
    grid, density = lanczos_approximate_spectrum_from_iter(run, bounds, 200, kappa, margin=0.0)
    close(found.grid, grid)
    close(found.values, density)


@pytest.fixture(scope="module")
def pyhessian():
    return imported("pyhessian")


def test_pyhessian_agrees_when_it_is_made_to_go_on(pyhessian):
    """It stops a power iteration once two values in a row are alike; told to go on, it comes to ours."""
    model, x, y, loss, params = problem(torch.float32)
    ours = top_eigenvalues(loss, params, k=2, steps=60)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = pyhessian.hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False)
        patient = peer.eigenvalues(maxIter=2000, tol=1e-7, top_n=2)[0]
        samples = torch.tensor(peer.trace(maxIter=200, tol=0.0))
    torch.testing.assert_close(torch.tensor(patient), ours.values, rtol=1e-3, atol=0)
    assert (ours.residuals < 1e-5 * ours.values).all()
    found = trace(loss, params, probes=200)
    assert abs(samples.mean() - found.mean) < 4 * math.hypot(found.error, samples.std() / 200**0.5)
