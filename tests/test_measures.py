"""Measures against loops over weights and points, NumPy's linear algebra, autograd one point at a time, closed forms."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap

from sam_lite import hessian, measures, sharpness
from sam_lite.models import build, mlp
from sam_lite.params import from_vector, loss_of, member, params_of, stack, to_vector

MAKE = partial(mlp, 5, (6, 4), 3)


MODEL = MAKE()


def outputs(params, x):
    return functional_call(MODEL, params, (x,))


@pytest.fixture(scope="module")
def case():
    """A small network trained for a while, its start, and 40 points; float64."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=g).double(), torch.randint(0, 3, (40,), generator=g)
    x[torch.arange(40), y] += 2
    model = build(MAKE, 0).double()
    start, optimizer = params_of(model), torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return params_of(model), start, x, y


@pytest.fixture(scope="module")
def found(case):
    return {name: value.item() for name, value in measures.measure(outputs, *case).items()}


def numpy_weights(params):
    return [p.numpy() for name, p in params.items() if name.endswith("weight")]


def gamma_by_hand(case):
    params, _, x, y = case
    logits = outputs(params, x).numpy()
    margins = sorted(row[label] - max(np.delete(row, label)) for row, label in zip(logits, y.numpy(), strict=True))
    return margins[4]  # of 40: a tenth of the points stay below


def test_norms_are_sums_over_layers(case, found):
    now, start = numpy_weights(case[0]), numpy_weights(case[1])
    gamma, depth = gamma_by_hand(case), 3
    spec = [np.linalg.svd(w)[1][0] ** 2 for w in now]
    fro = [sum(v * v for v in w.flatten()) for w in now]
    moved = [np.linalg.norm(w - w0) ** 2 for w, w0 in zip(now, start, strict=True)]
    moved_spec = [np.linalg.norm(w - w0, 2) ** 2 for w, w0 in zip(now, start, strict=True)]
    ratio = sum(f / s for f, s in zip(fro, spec, strict=True))
    expected = {
        "l1": sum(abs(w).sum() for w in now),
        "l2": sum(fro),
        "l_inf": max(abs(w).max() for w in now),
        "spec_prod": math.prod(spec),
        "spec_sum": depth * math.prod(spec) ** (1 / depth),
        "spec_prod_over_margin": math.prod(spec) / gamma**2,
        "spec_sum_over_margin": depth * (math.prod(spec) / gamma**2) ** (1 / depth),
        "fro_prod": math.prod(fro),
        "fro_sum": depth * math.prod(fro) ** (1 / depth),
        "fro_prod_over_margin": math.prod(fro) / gamma**2,
        "fro_sum_over_margin": depth * (math.prod(fro) / gamma**2) ** (1 / depth),
        "fro_over_spec": ratio,
        "spec_orig": math.prod(spec) / gamma**2 * ratio,
        "spec_init": math.prod(spec) / gamma**2 * sum(m / s for m, s in zip(moved, spec, strict=True)),
        "fro_distance": sum(moved),
        "spec_distance": sum(moved_spec),
        "inverse_margin": 1 / gamma**2,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-8)


def test_a_network_that_errs_on_a_tenth_has_a_negative_margin():
    logits, y = torch.tensor([[1.0, 3.0], [4.0, 0.0]]).repeat(5, 1), torch.tensor([0, 0]).repeat(5)
    assert measures.margins(logits, y)["inverse_margin"].item() == pytest.approx(-1 / 4)


def test_loss_and_entropy_are_means_over_points(case, found):
    params, _, x, y = case
    p = outputs(params, x).softmax(1).numpy()
    assert found["loss"] == pytest.approx(-np.mean([math.log(row[k]) for row, k in zip(p, y, strict=True)]))
    assert found["negative_entropy"] == pytest.approx(np.mean([sum(v * math.log(v) for v in row) for row in p]))


def test_capacity_counts(found):
    n = 5 * 6 + 6 + 6 * 4 + 4 + 4 * 3 + 3
    assert found["n_params"] == n
    assert found["vc_dimension"] == pytest.approx(n * 3 * math.log2(n))


def test_path_norm_is_the_sum_over_all_paths():
    def make():
        layers = (nn.Linear(n, m, bias=False) for n, m in ((2, 3), (3, 4), (4, 2)))
        return nn.Sequential(next(layers), nn.ReLU(), next(layers), nn.ReLU(), next(layers))

    model = build(make, 0).double()
    a, b, c = numpy_weights(params_of(model))
    by_hand = sum(
        (a[j, i] * b[k, j] * c[o, k]) ** 2 for i, j, k, o in itertools.product(range(2), range(3), range(4), range(2))
    )
    out = lambda p, x: functional_call(model, p, (x,))  # noqa: E731
    value = measures.path_norms(out, params_of(model), torch.zeros(7, 2).double(), torch.tensor(2.0))
    assert value["path_norm"].item() == pytest.approx(by_hand)
    assert value["path_norm_over_margin"].item() == pytest.approx(by_hand / 4)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 3)])
def test_power_iteration_finds_the_largest_singular_value(shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert measures.spectral(w).item() == pytest.approx(np.linalg.svd(w.numpy())[1][0], rel=1e-6)
    assert measures.spectral(0 * w).item() == 0
    for unit in (1e-30, 1e-12, 1e-5, 1e9, 1e30):
        assert measures.spectral(unit * w.float()).item() == pytest.approx(unit * measures.spectral(w).item(), rel=1e-5)


def test_power_iteration_of_equal_and_of_cancelling_columns():
    assert measures.spectral(torch.eye(4)).item() == pytest.approx(1)
    assert measures.spectral(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])).item() == pytest.approx(2)


def accuracy_by_hand(case, v):
    params, _, x, y = case
    hits = [outputs(from_vector(v, params), x[i : i + 1]).argmax().item() == y[i].item() for i in range(len(y))]
    return sum(hits) / len(hits)


STEP = 10 ** (4 / 512)  # resolution of the searches


@pytest.mark.parametrize("mag", [False, True])
def test_sigma_is_where_noise_costs_a_tenth_of_the_accuracy(case, found, mag):
    w = to_vector(case[0])
    draws = np.random.default_rng(0).standard_normal((8, len(w)))
    sigma = found["flatness_mag" if mag else "flatness"] ** -0.5
    base = accuracy_by_hand(case, w)

    def fall(s):
        spread = np.sqrt((s * w.numpy()) ** 2 + 0.001**2) if mag else s
        return base - np.mean([accuracy_by_hand(case, w + torch.from_numpy(spread * u)) for u in draws])

    assert fall(sigma) <= 0.1 < fall(sigma * STEP * 1.0001)


def test_alpha_of_a_linear_classifier_is_the_mean_weight():
    """Two classes, all points on one ray: the logits' difference falls by 2 alpha |x|_1, and is w . x: alpha = mean(w) / 2."""
    w = torch.tensor([0.3, 0.1, 0.2, 0.6], dtype=torch.float64)
    params = {"weight": torch.stack([w, 0 * w])}
    x = torch.linspace(1, 2, 20, dtype=torch.float64)[:, None].expand(20, 4)
    y = torch.zeros(20, dtype=torch.long)
    found = measures.flatness(lambda p, x: x @ p["weight"].T, params, params, x, y)
    alpha = found["sharpness"].item() ** -0.5
    assert alpha <= w.mean().item() / 2 < alpha * STEP * 1.0001
    # in proportion, only the first row can move: alpha' w + 0.001 + 0.001 for the other row
    alpha = found["sharpness_mag"].item() ** -0.5
    expected = (w.sum().item() - 4 * 0.002) / w.sum().item()
    assert alpha <= expected < alpha * STEP * 1.0001


@pytest.mark.slow
@pytest.mark.parametrize("mag", [False, True])
def test_alpha_is_near_what_a_long_attack_finds(case, found, mag):
    """300 steps from each of 10 corners: it costs a tenth where alpha says so, and not yet at a third of alpha."""
    params, _, x, y = case
    w, base = to_vector(params), accuracy_by_hand(case, to_vector(params))
    slope = torch.func.grad(lambda v: F.cross_entropy(outputs(from_vector(v, params), x), y))
    alpha = found["sharpness_mag" if mag else "sharpness"] ** -0.5

    def fall(size):
        box = size * w.abs() + 0.001 if mag else size * torch.ones_like(w)
        worst, g = 0.0, torch.Generator().manual_seed(0)
        for _ in range(10):
            u = box * torch.randn(len(w), generator=g).double().sign()
            for _ in range(300):
                u = (u + 0.05 * box * slope(w + u).sign()).clamp(-box, box)
            worst = max(worst, base - accuracy_by_hand(case, w + u))
        return worst

    assert fall(alpha / 3) <= 0.1 < fall(alpha * STEP * 1.001)


def test_bounds_are_their_formulas(case, found):
    w, w0 = to_vector(case[0]).numpy(), to_vector(case[1]).numpy()
    m, n, e = 40, len(w), 1e-3
    expected = {}
    for origin, v in (("init", w - w0), ("orig", w)):
        s, a = found["flatness"] ** -0.5, found["sharpness"] ** -0.5
        square = sum(x * x for x in v)
        expected[f"pacbayes_{origin}"] = square / (4 * s**2) + math.log(m / s) + 10
        expected[f"sharp_{origin}"] = square * math.log(2 * n) / (4 * a**2) + math.log(m / a) + 10
        s, a = found["flatness_mag"] ** -0.5, found["sharpness_mag"] ** -0.5
        terms = [math.log((e**2 + (s**2 + 1) * square / n) / (e**2 + s**2 * x**2)) for x in v]
        expected[f"pacbayes_mag_{origin}"] = sum(terms) / 4 + math.log(m / s) + 10
        wide = a**2 + 4 * math.log(2 * n / 0.1)
        terms = [math.log((e**2 + wide * square / n) / (e**2 + a**2 * x**2)) for x in v]
        expected[f"sharp_mag_{origin}"] = sum(terms) / 4 + math.log(m / a) + 10
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-8)


def each_gradient(case):
    params, _, x, y = case
    model = MAKE().double()
    return [
        to_vector(torch.func.grad(loss_of(model, x[i : i + 1], y[i : i + 1]))(params)).numpy() for i in range(len(y))
    ]


def test_gradients_one_point_at_a_time(case, found):
    params, _, x, y = case
    g, w = np.array(each_gradient(case)), to_vector(params).numpy()
    assert found["fisher_rao"] == pytest.approx(16 * np.mean([(w @ gi) ** 2 for gi in g]))
    assert found["gradient_norm"] == pytest.approx(np.linalg.norm(g.mean(0)))
    single = measures.gradients(outputs, params, x, y, batch=1)["gradient_variance"].item()
    assert single == pytest.approx(sum(np.linalg.norm(gi - g.mean(0)) ** 2 for gi in g) / (len(g) - 1))
    of_five = measures.gradients(outputs, params, x, y, batch=5)["gradient_variance"].item()
    means = g.reshape(8, 5, -1).mean(1)
    assert of_five == pytest.approx(5 * sum(np.linalg.norm(b - means.mean(0)) ** 2 for b in means) / 7)


@pytest.mark.slow
def test_curvature_is_that_of_the_dense_hessian(case):
    params, _, x, y = case
    loss = loss_of(MAKE().double(), x, y)
    dense = hessian.dense(loss, params)
    found = measures.curvature(outputs, params, x, y, samples=400)
    error = hessian.trace(loss, params, probes=800).error.item()
    assert found["trace"].item() == pytest.approx(dense.trace().item(), abs=4 * error)
    assert error < 0.1 * dense.trace().item()
    assert found["lambda_max"].item() == pytest.approx(np.linalg.eigvalsh(dense.numpy())[-1], rel=0.02)
    assert found["sam"].item() == sharpness.ascent_sharpness(loss, params, 0.05).value.item()
    assert found["box"].item() == pytest.approx(sharpness.box_sharpness(loss, params, 1e-3).value.item(), rel=0.02)


def test_networks_with_attention_are_measured():
    """Whose fused kernels have no second derivative: Fisher-Rao by one gradient for each point."""
    model = build(lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 1, 5), nn.Flatten()), 0)
    model, x, y = model.double().eval(), torch.randn(12, 8, dtype=torch.float64), torch.arange(12) % 8
    params, out = params_of(model), lambda p, x: functional_call(model, p, (x,))
    found = measures.measure(out, params, params, x, y, samples=2)
    each = [torch.autograd.grad(F.cross_entropy(model(x)[i], y[i]), list(model.parameters())) for i in range(12)]
    along = [sum((g * p).sum() for g, p in zip(one, params.values(), strict=True)) for one in each]
    layers = len(measures.matrices(params))
    torch.testing.assert_close(found["fisher_rao"], (layers + 1) ** 2 * torch.stack(along).square().mean())


def test_there_are_more_than_forty_and_each_is_told(found):
    told = " ".join(getattr(measures, name).__doc__ or "" for name in vars(measures) if callable(vars(measures)[name]))
    short = {name.removesuffix("_over_margin") for name in found}
    short = {name.replace("_mag_orig", "_orig") for name in short} - {"flatness_mag", "sharpness_mag"}
    assert len(found) >= 40
    assert [name for name in short if name not in told] == []


@pytest.mark.slow
def test_all_measures_map_over_an_ensemble(case):
    params, start, x, y = case
    other = {name: 1.5 * p for name, p in params.items()}
    many = vmap(lambda p, s: measures.measure(outputs, p, s, x, y))(stack([params, other]), stack([start, params]))
    for i, (p, s) in enumerate([(params, start), (other, params)]):
        single = measures.measure(outputs, p, s, x, y)
        assert {k: v.item() for k, v in member(many, i).items()} == pytest.approx(
            {k: v.item() for k, v in single.items()}, rel=1e-9
        )


def test_the_start_is_told_by_name(case, found):
    params, start, x, y = case
    other = dict(reversed(list(start.items())))
    again = measures.measure(outputs, params, other, x, y)
    assert {name: value.item() for name, value in again.items()} == found
    for wrong in (start | {"0.bias": torch.zeros(2)}, {n: p for n, p in start.items() if n != "0.bias"}):
        for call in (lambda s: measures.norms(params, s, 1.0), lambda s: measures.flatness(outputs, params, s, x, y)):
            with pytest.raises(
                ValueError, match="start must have the names and shapes {'0.weight': .*}, got {'0.weight'"
            ):
                call(wrong)


def test_outputs_without_a_derivative_are_not_flat(case):
    params, start, x, y = case
    for call in (
        lambda out: measures.flatness(out, params, start, x, y),
        lambda out: measures.curvature(out, params, x, y),
        lambda out: measures.gradients(out, params, x, y),
    ):
        with pytest.raises(
            ValueError, match="the loss must be a differentiable function of the weights, got 'a constant'"
        ):
            call(torch.no_grad()(outputs))


def test_a_diverged_network_has_no_number_and_spoils_no_other(case):
    params, start, x, y = case
    broken = {name: p * math.nan for name, p in params.items()}
    many = vmap(lambda p, s: measures.measure(outputs, p, s, x, y))(stack([broken, params]), stack([start, start]))
    assert many["trace"][0].isnan() and many["l2"][0].isnan() and many["inverse_margin"][0].isnan()
    single = measures.measure(outputs, params, start, x, y)
    assert many["trace"][1].item() == pytest.approx(single["trace"].item())


def test_measures_of_too_few_points_or_classes_are_refused(case):
    params, start, x, y = case
    for n in (0, 1):
        with pytest.raises(ValueError, match=f"the number of points must be an integer >= 2, got {n}"):
            measures.measure(outputs, params, start, x[:n], y[:n])
        with pytest.raises(ValueError, match=f"the number of points must be an integer >= 2, got {n}"):
            measures.gradients(outputs, params, x[:n], y[:n])
    assert all(v.ndim == 0 for v in measures.measure(outputs, params, start, x[:2], y[:2], samples=1).values())
    with pytest.raises(ValueError, match="y must be labels of shape .40,., one for each row of logits, got .39,."):
        measures.measure(outputs, params, start, x, y[:39])
    for wrong in (lambda p, x: outputs(p, x)[:, :1], lambda p, x: outputs(p, x).sum(), lambda p, x: None):
        with pytest.raises(
            ValueError, match=r"outputs\(params, x\) must be logits \(40, n_classes\) of 2 classes or more"
        ):
            measures.measure(wrong, params, start, x, 0 * y)
    with pytest.raises(ValueError, match="batch must be an integer >= 1, got 0"):
        measures.gradients(outputs, params, x, y, batch=0)


def test_measures_of_random_outputs_and_in_half_precision_are_refused(case):
    params, start, x, y = case
    noisy = lambda p, x: F.dropout(outputs(p, x))  # noqa: E731
    for call in (
        lambda: measures.measure(noisy, params, start, x, y),
        lambda: measures.flatness(noisy, params, start, x, y),
        lambda: measures.curvature(noisy, params, x, y),
        lambda: measures.gradients(noisy, params, x, y),
    ):
        with pytest.raises(ValueError, match="loss must not be random"):
            call()
    half = {name: p.half() for name, p in params.items()}
    with pytest.raises(ValueError, match="must be float32 or float64, got torch.float16"):
        measures.measure(outputs, half, half, x.half(), y)


def test_counts_of_measures_are_of_any_library(case):
    found = [measures.measure(outputs, *case, samples=n(2), seed=n(3)) for n in (int, np.int64)]
    assert {k: v.item() for k, v in found[0].items()} == {k: v.item() for k, v in found[1].items()}
    assert measures.controls([0.1, 0.2], seed=np.int64(1)).shape == (2, 3)


def test_nothing_is_changed(case):
    params, start, x, y = case
    before = {name: p.clone() for name, p in params.items()}
    state = torch.get_rng_state()
    measures.measure(outputs, params, start, x, y)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(params, before, rtol=0, atol=0)


def test_controls_are_the_gap_in_noise_and_noise():
    gap = np.random.default_rng(0).uniform(0.3, 0.5, 20_000)
    found = measures.controls(gap, seed=1)
    assert (found["oracle_02"] - gap).std() == pytest.approx(0.02, rel=0.05)
    assert (found["oracle_05"] - gap).std() == pytest.approx(0.05, rel=0.05)
    assert abs(np.corrcoef(found["random"], gap)[0, 1]) < 0.03
    assert found.equals(measures.controls(gap, seed=1)) and not found.equals(measures.controls(gap, seed=2))


@pytest.mark.parametrize(
    "change", [lambda y: y[:, None], lambda y: y[:1], lambda y: y[None]], ids=["column", "1", "row"]
)
def test_margins_of_labels_that_do_not_fit_are_refused(case, change):
    """A column of labels would stand against every row of logits."""
    params, _, x, y = case
    with pytest.raises(ValueError, match=r"y must be labels of shape \(40,\), one for each row of logits, got \("):
        measures.margins(outputs(params, x), change(y))


@pytest.mark.parametrize("size", [0.003, 1.0])
def test_the_root_of_a_product_beyond_float32_is_that_of_float64(size):
    g = torch.Generator().manual_seed(0)
    deep = {f"{i}": size * torch.randn(30, 40, generator=g, dtype=torch.float64) for i in range(24)}
    gamma = torch.tensor(0.3)
    single = measures.norms(*[{name: w.float() for name, w in deep.items()}] * 2, gamma)
    double = measures.norms(deep, deep, gamma.double())
    assert not 1e-37 < double["fro_prod"] < 1e38 and single["fro_prod"] in (0, math.inf)
    for name in ("spec_sum", "fro_sum", "spec_sum_over_margin", "fro_sum_over_margin"):
        assert single[name].item() == pytest.approx(double[name].item(), rel=1e-4)
    fro = np.array([(w.numpy() ** 2).sum() for w in deep.values()])
    assert double["fro_sum"].item() == pytest.approx(24 * np.exp(np.log(fro).mean()))
    assert measures.norms(deep | {"0": 0 * deep["0"]}, deep, gamma)["fro_sum"] == 0


def test_a_class_that_is_ruled_out_by_a_logit_of_minus_infinity_has_no_part():
    """As of a mask over classes or words: each point against its own classes alone."""
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(20, 5, generator=g, dtype=torch.float64), torch.arange(20) % 4
    logits[:9, 4] = logits[14:, 4] = -math.inf
    found = {name: value.item() for name, value in measures.margins(logits, y).items()}
    gaps, losses, entropies = [], [], []
    for row, label in zip(logits.tolist(), y.tolist(), strict=True):
        total = math.log(sum(math.exp(v) for v in row))
        gaps.append(row[label] - max(v for k, v in enumerate(row) if k != label))
        losses.append(total - row[label])
        entropies.append(sum(math.exp(v - total) * (v - total) for v in row if v > -math.inf))
    gamma = sorted(gaps)[2]
    expected = {
        "inverse_margin": 1 / (gamma * abs(gamma)),
        "loss": np.mean(losses),
        "negative_entropy": np.mean(entropies),
    }
    assert found == pytest.approx(expected)


def test_a_network_without_a_number_for_some_point_has_no_margin():
    logits, y = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), torch.zeros(3, dtype=torch.int64)
    assert measures.margins(logits, y)["inverse_margin"] == 1
    logits[0, 1] = math.nan
    assert all(math.isnan(value) for value in measures.margins(logits, y).values())


def test_networks_without_weights_or_without_matrices_are_named(case):
    *_, x, y = case
    with pytest.raises(ValueError, match="params must be at least one tensor"):
        measures.measure(lambda p, x: x, {}, {}, x, y)
    scale = {"scale": torch.ones(x.shape[1])}
    with pytest.raises(ValueError, match=r"params must be of a network with a weight matrix or more, got \['scale'\]"):
        measures.measure(lambda p, x: x * p["scale"], scale, scale, x, y)
