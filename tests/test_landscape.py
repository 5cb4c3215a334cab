"""Lines and planes against closed forms, directions against their definition, trajectories against sklearn."""

import collections
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

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


def tanh_net():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return params_of(model), loss_of(model, double(6, 3), torch.tensor([0, 1, 0, 1, 1, 0]))


def inner(p, q):
    return (p["a"] * q["a"]).sum() + 3 * (p["b"] * q["b"]).sum()


def test_line_is_the_parabola_through_both_ends():
    start, end = pair()
    s, m, e = inner(start, start).item(), inner(start, end).item(), inner(end, end).item()
    expected = [0.5 * ((1 - a) ** 2 * s + 2 * a * (1 - a) * m + a**2 * e) for a in ALPHAS]
    values = landscape.line(square, start, end, ALPHAS)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-13)


def test_curve_follows_sine_and_cosine():
    start, end = pair()
    s, m, e = inner(start, start).item(), inner(start, end).item(), inner(end, end).item()
    turn = [(math.cos(a * math.pi / 2), math.sin(a * math.pi / 2)) for a in ALPHAS]
    expected = [0.5 * (c * c * s + 2 * c * d * m + d * d * e) for c, d in turn]
    values = landscape.line(square, start, end, ALPHAS, curved=True)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("curved", [False, True])
def test_both_ends_come_back(curved):
    start, end = pair()
    values = landscape.line(square, start, end, torch.tensor([0.0, 1.0]), curved=curved)
    torch.testing.assert_close(values, torch.stack([square(start), square(end)]), rtol=1e-15 * curved, atol=0)


def test_line_gives_what_the_loss_gives():
    start, end = pair()
    both = landscape.line(lambda p: (square(p), p["b"].sum()), start, end, ALPHAS)
    named = landscape.line(lambda p: {"loss": square(p), "sum": p["b"].sum()}, start, end, ALPHAS)
    assert isinstance(both, tuple) and list(named) == ["loss", "sum"]
    for values in (both[0], named["loss"]):
        assert torch.equal(values, landscape.line(square, start, end, ALPHAS))
    assert torch.equal(both[1], named["sum"])
    torch.testing.assert_close(both[1][3], 0.7 * start["b"].sum() + 0.3 * end["b"].sum())


@pytest.mark.parametrize("curved", [False, True])
def test_line_maps_over_pairs(curved):
    like, loss = tanh_net()
    ends = [[from_vector(double(count(like), seed=i), like) for i in range(j, j + 3)] for j in (0, 3)]
    mapped = vmap(lambda s, e: landscape.line(loss, s, e, ALPHAS, curved=curved))(*map(stack, ends))
    one_by_one = [landscape.line(loss, s, e, ALPHAS, curved=curved) for s, e in zip(*ends, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(one_by_one), rtol=1e-12, atol=1e-12)


def test_line_needs_no_gradient_and_leaves_the_ends_alone():
    start, end = pair()
    start["a"].requires_grad_()
    before = to_vector(start).clone()
    assert not landscape.line(square, start, end, ALPHAS).requires_grad
    assert torch.equal(to_vector(start), before) and start["a"].grad is None


def test_a_random_loss_has_no_landscape_and_one_of_plain_numbers_has():
    (start, end), numbers = pair(), iter(range(100))
    for loss in (lambda p: nn.functional.dropout(p["b"]).sum(), lambda p: {"a": square(p), "n": next(numbers)}):
        for call in (
            lambda: landscape.line(loss, start, end, [0.5]),  # noqa: B023
            lambda: landscape.plane(loss, start, end, end, [0.5], [0.1]),  # noqa: B023
        ):
            with pytest.raises(ValueError, match="loss must not be random"):
                call()
    with pytest.raises(ValueError, match=r"loss\(params\) must be a tensor, or a tuple or dict of tensors, got None"):
        landscape.line(lambda p: None, start, end, [0.5])
    values = landscape.line(lambda p: (square(p), square(p).item()), start, end, ALPHAS)
    torch.testing.assert_close(values[0], values[1].double())


def test_numbers_and_seeds_of_any_library():
    start, end = pair()
    for alphas in (
        np.array(ALPHAS),
        torch.tensor(ALPHAS),
        [np.float64(a) for a in ALPHAS],
        tuple(map(torch.tensor, ALPHAS)),
    ):
        torch.testing.assert_close(
            landscape.line(square, start, end, alphas), landscape.line(square, start, end, ALPHAS)
        )
    one, other = (landscape.random_directions(start, seed)[0]["a"] for seed in (3, np.int64(3)))
    assert torch.equal(one, other)
    for seed in (-1, 2.5, "3", None, 2**63):
        with pytest.raises(ValueError, match=f"seed must be an integer from 0 to {2**63 - 1}, got"):
            landscape.random_directions(start, seed)
    for value in ("0.5", True, None):
        with pytest.raises(ValueError, match="each of alphas must be a finite number, got"):
            landscape.line(square, start, end, [value])


@pytest.mark.parametrize("alphas", [[], 5, None, torch.tensor(0.5), [0.0, math.nan], [math.inf]])
def test_alphas_must_be_there_and_finite(alphas):
    with pytest.raises(ValueError, match="alphas must be (one or more finite numbers in a row|a finite number), got"):
        landscape.line(square, *pair(), alphas)
    start, end = pair()
    for a, b, name in (([1], alphas, "b"), (alphas, [1], "a")):
        with pytest.raises(
            ValueError, match=f"^(each of )?{name} must be (one or more finite numbers in a row|a finite number), got"
        ):
            landscape.plane(square, start, start, end, a, b)


def test_ends_and_directions_must_be_alike():
    start, end = pair()
    shapes = r"the names and shapes \{'a': \(3, 2\), 'b': \(4,\)\}, got"
    with pytest.raises(ValueError, match=f"end must have {shapes} .*'a': .3, 2.}}$"):
        landscape.line(square, start, {"a": end["a"]}, ALPHAS)
    short = end | {"b": end["b"][:1]}
    with pytest.raises(ValueError, match=f"end must have {shapes} .*'b': .1,.}}$"):
        landscape.line(square, start, short, ALPHAS, curved=True)
    with pytest.raises(ValueError, match=f"first must have {shapes}"):
        landscape.plane(square, start, short, end, [0], [0])
    with pytest.raises(ValueError, match=f"second must have {shapes}"):
        landscape.plane(square, start, end, short, [0], [0])


def test_plane_is_the_paraboloid_and_its_center_is_exact():
    center, first = pair()
    second = pair(seed=5)[0]
    a, b = [-1.0, 0.0, 0.5], [0.0, 2.0]
    values = landscape.plane(square, center, first, second, a, b)
    assert values.shape == (3, 2) and values[1, 0] == square(center)
    for i, s in enumerate(a):
        for j, t in enumerate(b):
            gram = [[inner(p, q) for q in (center, first, second)] for p in (center, first, second)]
            weights = torch.tensor([1.0, s, t], dtype=torch.float64)
            torch.testing.assert_close(values[i, j], 0.5 * weights @ torch.tensor(gram, dtype=torch.float64) @ weights)
    both = landscape.plane(lambda p: (square(p), {"sum": p["b"].sum()}), center, first, second, a, b)
    assert torch.equal(both[0], values) and both[1]["sum"].shape == (3, 2)


@pytest.mark.parametrize("vectors", ["zero", "scale"])
def test_every_filter_gets_the_length_of_its_weights(vectors):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()
    params = {name: p * 3 for name, p in params_of(model).items()} | {"scale": torch.tensor(-2.0).double()}
    params["3.weight"][1] = 0
    for direction in landscape.random_directions(params, 0, vectors=vectors)[:2]:
        for name, p in params.items():
            for d, w in zip(direction[name], p, strict=True) if p.ndim > 1 else [(direction[name], p)]:
                length = (w**2).sum().sqrt() * (p.ndim > 1 or vectors == "scale")
                torch.testing.assert_close((d**2).sum().sqrt(), length, rtol=1e-12, atol=0)


def test_directions_are_two_have_mean_zero_and_a_seed():
    params = {"a": torch.ones(100, 100), "b": torch.ones(1000)}
    first, second, cosine = landscape.random_directions(params, 3, vectors="scale")
    again, other = landscape.random_directions(params, 3, vectors="scale"), landscape.random_directions(params, 4)
    assert all(
        torch.equal(first[name], again[0][name]) and torch.equal(second[name], again[1][name]) for name in params
    )
    assert not torch.equal(first["a"], second["a"]) and not torch.equal(first["a"], other[0]["a"])
    for direction in (first, second):
        assert abs(direction["a"].mean()) < 4 / 100 and abs(direction["b"].mean()) < 4 / 1000**0.5
    x, y = to_vector(first).double(), to_vector(second).double()
    torch.testing.assert_close(cosine.double(), x @ y / (x @ x * (y @ y)) ** 0.5, rtol=1e-4, atol=1e-6)
    assert cosine == again[2] and 0 < abs(cosine) < 4 / 11000**0.5


def test_filters_of_unlike_length_leave_a_cosine():
    params = {"a": torch.ones(2, 50), "b": torch.full((1, 2), 1000.0)}
    cosines = [abs(landscape.random_directions(params, seed)[2]) for seed in range(20)]
    assert max(cosines) > 0.9  # nearly all the length lies in the filter of two weights


def test_directions_map_over_an_ensemble():
    models = [{"a": double(3, 2, seed=i), "b": double(4, seed=9 + i)} for i in range(3)]
    mapped = vmap(lambda p: landscape.random_directions(p, 5), randomness="same")(stack(models))
    for i, params in enumerate(models):
        for got, expected in zip(mapped[:2], landscape.random_directions(params, 5)[:2], strict=True):
            torch.testing.assert_close(got["a"][i], expected["a"])


def test_directions_refuse_what_cannot_move():
    with pytest.raises(ValueError, match="vectors must be 'zero' or 'scale', got 'ones'"):
        landscape.random_directions({"a": torch.ones(2, 2)}, 0, vectors="ones")
    with pytest.raises(ValueError, match="params must have a filter to move, got vectors only; use vectors='scale'"):
        landscape.random_directions({"a": torch.ones(2)}, 0)
    with pytest.raises(ValueError, match=r"params\['n'\] must be float32 or float64, got torch.int64; give params_of"):
        landscape.random_directions({"a": torch.ones(2, 2), "n": torch.tensor(3)}, 0)  # as in a state_dict


def test_directions_from_the_weights_of_a_model_carry_no_graph():
    model = torch.nn.Linear(3, 2)
    own = dict(model.named_parameters())
    first, second, cosine = landscape.random_directions(own, 0)
    assert not any(t.requires_grad for t in (*first.values(), *second.values(), cosine))
    detached = landscape.random_directions({name: p.detach() for name, p in own.items()}, 0)
    assert torch.equal(first["weight"], detached[0]["weight"]) and torch.equal(cosine, detached[2])


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_diverged_end_spoils_not_the_other(lost):
    """At both ends the loss is exactly theirs."""
    good, bad = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, lost])}
    loss = lambda p: (p["w"] ** 2).sum()  # noqa: E731
    there, back = landscape.line(loss, good, bad, [0, 0.5, 1]), landscape.line(loss, bad, good, [0, 0.5, 1])
    assert there[0] == 5 and not there[1:].isfinite().any()
    assert back[2] == 5 and not back[:2].isfinite().any()


def test_a_loss_of_ones_own_leaves_batch_norm_as_it_is():
    """A model in training mode averages the statistics of every batch that it is given."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    x, y, params = torch.randn(20, 3), torch.arange(20) % 2, params_of(model)
    before = {name: b.clone() for name, b in model.state_dict().items()}
    own = lambda p: nn.functional.cross_entropy(functional_call(model, p, (x,)), y)  # noqa: E731
    further = {name: 2 * p for name, p in params.items()}
    found = landscape.line(own, params, further, [0, 1, 2])
    torch.testing.assert_close(found, landscape.line(loss_of(model, x, y), params, further, [0, 1, 2]))
    landscape.plane(own, params, further, further, [0, 1], [0, 1])
    assert all(torch.equal(b, before[name]) for name, b in model.state_dict().items())


def test_the_derivative_of_a_landscape_is_refused_in_reverse_mode():
    """It would be 0, since no graph is kept."""
    loss, w = (lambda p: (p["w"] ** 2).sum()), {"w": torch.ones(2)}
    for call in (lambda p: landscape.line(loss, w, p, [0.5]), lambda p: landscape.plane(loss, w, p, w, [1.0], [0.0])):
        with pytest.raises(ValueError, match="the weights 'w' must be a constant, .* gradient would be 0"):
            torch.func.grad(lambda p, call=call: call(p).sum())(w)


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_what_has_no_part_spoils_nothing(lost):
    """On a curve the start has no part at 1, nor the end at 0 and 2; on a plane a direction has none at 0."""
    good, bad = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, lost])}
    loss = lambda p: (p["w"] ** 2).sum()  # noqa: E731
    assert landscape.line(loss, bad, good, [1, -1], curved=True).tolist() == [5, 5]
    assert landscape.line(loss, good, bad, [0, 2], curved=True).tolist() == [5, 5]
    found = landscape.plane(loss, good, bad, good, [0, 1], [0, 1])
    assert found[0].tolist() == [5, 20] and not found[1].isfinite().any()


def test_a_loss_may_return_words_with_several_numbers_each():
    found = landscape.line(lambda p: {"w": (p["w"].sum(), p["w"])}, {"w": torch.zeros(2)}, {"w": torch.ones(2)}, [0, 1])
    torch.testing.assert_close(found, {"w": (torch.tensor([0.0, 2.0]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))})


def test_floats_of_python_keep_their_digits():
    """A loss that ends in .item() came back in float32, which hides what is small beside it."""
    w = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    found = landscape.line(lambda p: p["w"].square().sum().item() / 3, w, w, [0, 0.5])
    assert found.dtype == torch.float64 and found.tolist() == [5 / 3] * 2
    heights = iter([0, 0, 0, 1 / 3])  # the first two are a look at whether the loss is random
    assert landscape.line(lambda p: next(heights), w, w, [0, 1]).tolist() == [0, 1 / 3]


def test_named_tuples_keep_their_names():
    w = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    named = collections.namedtuple("named", "loss largest")
    both = landscape.line(lambda p: named(p["w"].sum(), p["w"].max()), w, w, [0, 0.5, 1])
    assert isinstance(both, named) and both.loss.tolist() == [3] * 3 and both.largest.tolist() == [2] * 3
    assert landscape.plane(lambda p: named(1.0, p["w"].max()), w, w, w, [0], [0, 1]).largest.tolist() == [[2, 4]]
