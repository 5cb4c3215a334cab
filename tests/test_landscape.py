"""Lines, arcs and planes against closed forms, sklearn and PyTorch's own batch-norm tools."""

import math

import pytest
import torch
from torch import nn
from torch.func import vmap

from sam_lite import landscape
from sam_lite.params import count, from_vector, loss_of, params_of, stack, to_vector

ALPHAS = [-1.0, -0.25, 0.0, 0.3, 0.5, 1.0, 2.0]


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(seed=0):
    """Two points of a model with a matrix and a vector."""
    return [{"a": double(3, 2, seed=seed + i), "b": double(4, seed=seed + 10 + i)} for i in (0, 1)]


def square(params):
    """A quadratic with a different curvature in each tensor."""
    return 0.5 * ((params["a"] ** 2).sum() + 3 * (params["b"] ** 2).sum())


def inner(p, q):
    return (p["a"] * q["a"]).sum() + 3 * (p["b"] * q["b"]).sum()


def test_line_is_the_parabola_through_both_ends():
    start, end = pair()
    s, m, e = inner(start, start).item(), inner(start, end).item(), inner(end, end).item()
    expected = [0.5 * ((1 - a) ** 2 * s + 2 * a * (1 - a) * m + a**2 * e) for a in ALPHAS]
    values = landscape.line(square, start, end, ALPHAS)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-13)


def test_arc_follows_sine_and_cosine():
    start, end = pair()
    s, m, e = inner(start, start).item(), inner(start, end).item(), inner(end, end).item()
    turn = [(math.cos(a * math.pi / 2), math.sin(a * math.pi / 2)) for a in ALPHAS]
    expected = [0.5 * (c * c * s + 2 * c * d * m + d * d * e) for c, d in turn]
    values = landscape.arc(square, start, end, ALPHAS)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("path", [landscape.line, landscape.arc])
def test_both_ends_come_back(path):
    start, end = pair()
    values = path(square, start, end, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(values, torch.stack([square(start), square(end)]), rtol=1e-15, atol=0)


def test_line_gives_what_the_loss_gives():
    start, end = pair()
    both = landscape.line(lambda p: (square(p), p["b"].sum()), start, end, ALPHAS)
    named = landscape.line(lambda p: {"loss": square(p), "sum": p["b"].sum()}, start, end, ALPHAS)
    assert isinstance(both, tuple) and list(named) == ["loss", "sum"]
    for values in (both[0], named["loss"]):
        assert torch.equal(values, landscape.line(square, start, end, ALPHAS))
    assert torch.equal(both[1], named["sum"])
    torch.testing.assert_close(both[1][3], 0.7 * start["b"].sum() + 0.3 * end["b"].sum())


@pytest.mark.parametrize("path", [landscape.line, landscape.arc])
def test_paths_map_over_pairs(path):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    loss = loss_of(model, double(6, 3), torch.tensor([0, 1, 0, 1, 1, 0]))
    ends = [
        [from_vector(double(count(params_of(model)), seed=i), params_of(model)) for i in range(j, j + 3)]
        for j in (0, 3)
    ]
    mapped = vmap(lambda s, e: path(loss, s, e, ALPHAS))(stack(ends[0]), stack(ends[1]))
    one_by_one = torch.stack([path(loss, s, e, ALPHAS) for s, e in zip(*ends, strict=True)])
    torch.testing.assert_close(mapped, one_by_one, rtol=1e-12, atol=1e-12)


def test_paths_need_no_gradient_and_leave_the_ends_alone():
    start, end = pair()
    start["a"].requires_grad_()
    before = to_vector(start).clone()
    assert not landscape.line(square, start, end, ALPHAS).requires_grad
    assert torch.equal(to_vector(start), before) and start["a"].grad is None


@pytest.mark.parametrize("alphas", [[], [0.0, math.nan], [math.inf]])
@pytest.mark.parametrize("path", [landscape.line, landscape.arc])
def test_alphas_must_be_there_and_finite(path, alphas):
    with pytest.raises(ValueError, match="alphas must be one or more finite numbers, got"):
        path(square, *pair(), alphas)


def test_ends_must_be_alike():
    start, end = pair()
    with pytest.raises(
        ValueError, match=r"end must have the names and shapes of start, \{'a': \(3, 2\), 'b': \(4,\)\}, got"
    ):
        landscape.line(square, start, {"a": end["a"]}, ALPHAS)
    with pytest.raises(ValueError, match=r"got \{'a': \(3, 2\), 'b': \(1,\)\}"):
        landscape.arc(square, start, end | {"b": end["b"][:1]}, ALPHAS)
