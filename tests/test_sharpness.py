"""Every notion of sharpness on quadratics, where its value is known."""

import itertools

import pytest
import torch
from torch.func import vmap

from sam_lite.params import stack
from sam_lite.sharpness import STATUS, box_sharpness, box_sharpness_lbfgs

BOXES = [box_sharpness, box_sharpness_lbfgs]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quadratic(hessian, floor=0.3):
    return lambda p: 0.5 * p["w"] @ hessian @ p["w"] + floor


@pytest.mark.parametrize("box", BOXES)
def test_diagonal_hessian_at_the_minimum(box):
    h, eps = random(12).abs(), 1e-3
    found = box(quadratic(h.diag()), {"w": torch.zeros(12, dtype=torch.float64)}, eps)
    torch.testing.assert_close(found.value, 100 * 0.5 * eps**2 * h.sum() / 1.3, rtol=1e-9, atol=0)
    assert STATUS[found.status] == "converged" and found.loss == 0.3
    torch.testing.assert_close(found.direction["w"].abs(), torch.full((12,), eps, dtype=torch.float64))


def box_maximum(hessian):
    """The largest z'Hz/2 over the corners of [-1, 1]^n: a convex function has its maximum there."""
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(hessian))), dtype=torch.float64)
    return 0.5 * ((corners @ hessian) * corners).sum(1).max()


def test_both_ascents_come_near_the_true_maximum():
    shares = {box: [] for box in BOXES}
    for seed in range(20):
        q = random(12, 12, seed=seed)
        hessian, zero = q @ q.T / 12, {"w": torch.zeros(12, dtype=torch.float64)}
        for box in BOXES:
            found = box(quadratic(hessian), zero, 1.0, seed=seed).value * 1.3 / 100
            shares[box].append((found / box_maximum(hessian)).item())
    for share in shares.values():
        assert max(share) <= 1 + 1e-12 and 0.8 < sum(share) / 20


def test_ensemble_equals_loop():
    hessian, models = random(6, 6).diag().abs().diag(), [{"w": random(6, seed=s)} for s in range(4)]
    mapped = vmap(lambda p: box_sharpness(quadratic(hessian), p, 1e-2).value)(stack(models))
    torch.testing.assert_close(mapped, torch.stack([box_sharpness(quadratic(hessian), p, 1e-2).value for p in models]))
