"""Lanczos and its relatives against dense float64 Hessians and closed forms."""

import pytest
import torch
from torch import nn
from torch.func import vmap

from sam_lite.hessian import hvp, top_eigenvalues
from sam_lite.params import loss_of, params_of, stack, to_vector


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tanh_net(seed=0, dtype=torch.float64):
    """A net of 19 weights and its loss on 12 points."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1, bias=True))[:3]
        model.append(nn.Linear(2, 1, bias=False)).to(dtype)
    x = torch.randn(12, 2, generator=generator(seed), dtype=dtype)
    y = torch.randn(12, 1, generator=generator(9), dtype=dtype)
    return model, loss_of(model, x, y, nn.functional.mse_loss)


def dense_of(loss, params):
    """The Hessian of `loss` in float64, by torch.autograd."""
    params = {name: p.double() for name, p in params.items()}

    def flat(*tensors):
        return loss(dict(zip(params, tensors, strict=True)))

    blocks = torch.autograd.functional.hessian(flat, tuple(params.values()))
    rows = [
        torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for p, row in zip(params.values(), blocks, strict=True)
    ]
    return torch.cat(rows)


def quadratic(*curvatures):
    h = torch.tensor(curvatures, dtype=torch.float64)
    return lambda p: 0.5 * (h * p["w"] ** 2).sum()


def test_19_weights_against_the_dense_hessian():
    model, loss = tanh_net()
    params = params_of(model)
    expected = torch.linalg.eigvalsh(dense_of(loss, params)).flip(0)
    assert len(expected) == 19 and expected[-1] < 0
    found = top_eigenvalues(loss, params, k=19)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-12)
    assert found.residuals.max() < 1e-11


@pytest.mark.parametrize("curvatures", [(1, 4), (0, 0, 0), (1, 1, 1), (5, 5, 1, 0), (-7, -1, -2)])
def test_breakdown_gives_repeated_and_zero_eigenvalues(curvatures):
    loss, n = quadratic(*curvatures), len(curvatures)
    expected = torch.tensor(sorted(curvatures, reverse=True), dtype=torch.float64)
    one = {"w": torch.ones(n, dtype=torch.float64)}
    found = top_eigenvalues(loss, one, k=n)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-13)
    mapped = vmap(lambda p: top_eigenvalues(loss, p, k=n))(stack([one] * 3))
    torch.testing.assert_close(mapped.values, expected.expand(3, n), rtol=0, atol=1e-13)
    assert mapped.residuals.max() < 1e-13


def test_hvp_is_the_dense_product():
    model, loss = tanh_net(1)
    params = params_of(model)
    v = {name: torch.randn(p.shape, generator=generator(3), dtype=p.dtype) for name, p in params.items()}
    expected = dense_of(loss, params) @ to_vector(v)
    torch.testing.assert_close(to_vector(hvp(loss, params)(v)), expected, rtol=1e-12, atol=1e-12)
