"""sam_lite/paths.py against dense float64 Hessians, differences, SAM of the package, and a case with a closed form."""

from collections import OrderedDict
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.functional import hessian
from torch.func import functional_call, grad, jacrev, vmap

from sam_lite.models import build, mlp
from sam_lite.params import add, dot, from_vector, norm, params_of, stack, to_vector
from sam_lite.paths import PATHS, curvature_paths, logit_share, path_gradient
from sam_lite.sam import sam_gradient

MAKE = partial(mlp, 3, [4], 3, activation="tanh")


@pytest.fixture
def setting():
    """outputs, criterion, params and their unit gradient of a network with 31 weights, in float64."""
    dice = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=dice, dtype=torch.float64), torch.randint(3, (7,), generator=dice)
    model = build(MAKE, 0).double()
    params = {name: 2 * p for name, p in params_of(model).items()}
    outputs = lambda p: functional_call(model, p, (x,))  # noqa: E731
    criterion = lambda z: F.cross_entropy(z, y)  # noqa: E731
    g = grad(lambda p: criterion(outputs(p)))(params)
    return outputs, criterion, params, add({n: torch.zeros_like(v) for n, v in g.items()}, g, 1 / norm(g))


def close(a, b, atol):
    torch.testing.assert_close(to_vector(a), b if isinstance(b, torch.Tensor) else to_vector(b), rtol=0, atol=atol)


def test_both_paths_are_sam(setting):
    outputs, criterion, params, _ = setting
    found = path_gradient(outputs, criterion, params, 0.3)
    close(found, sam_gradient(lambda p: criterion(outputs(p)), params, 0.3)[0], 1e-12)


def test_each_path_moves_its_factor_alone(setting):
    """From dense Jacobians, by a product that the package does not make."""
    outputs, criterion, params, unit = setting
    up = add(params, unit, 0.3)
    flat = lambda w: outputs(from_vector(w, params)).flatten()  # noqa: E731
    slope = lambda p: grad(criterion)(outputs(p)).flatten()  # noqa: E731
    J, J_up = (jacrev(flat)(to_vector(p)) for p in (params, up))
    close(path_gradient(outputs, criterion, params, 0.3, "jacobian"), J_up.T @ slope(params), 1e-12)
    close(path_gradient(outputs, criterion, params, 0.3, "logits"), J.T @ slope(up), 1e-12)
    assert (J_up.T @ slope(params) - J.T @ slope(up)).norm() > 0.01


def test_the_two_parts_are_those_of_the_dense_hessian(setting):
    outputs, criterion, params, unit = setting
    flat = lambda w: outputs(from_vector(w, params)).flatten()  # noqa: E731
    loss = lambda w: criterion(outputs(from_vector(w, params)))  # noqa: E731
    w, d = to_vector(params), to_vector(unit)
    J, z = jacrev(flat)(w), outputs(params)
    curvature = hessian(lambda s: criterion(s.view(z.shape)), z.flatten())
    through_logits, through_jacobian = curvature_paths(outputs, criterion, params, unit)
    close(through_logits, J.T @ curvature @ J @ d, 1e-12)
    close(add(through_logits, through_jacobian), hessian(loss, w) @ d, 1e-12)
    assert norm(through_jacobian) > 0.01 and norm(through_logits) > 0.01


@pytest.mark.parametrize(("path", "parts"), [("logits", [0]), ("jacobian", [1]), ("both", [0, 1])])
def test_what_a_path_adds_is_its_part_of_the_curvature_to_first_order(setting, path, parts):
    outputs, criterion, params, unit = setting
    g = grad(lambda p: criterion(outputs(p)))(params)
    both = curvature_paths(outputs, criterion, params, unit)
    expected = sum(to_vector(both[i]) for i in parts)
    errors = []
    for rho in (1e-3, 1e-4):
        added = to_vector(path_gradient(outputs, criterion, params, rho, path)) - to_vector(g)
        errors.append((added / rho - expected).norm().item())
    assert errors[0] < 0.02 and errors[1] < errors[0] / 8, errors


def test_for_a_linear_model_functional_sam_is_gradient_descent_and_the_logits_are_all_of_sam():
    """Its Jacobian is the same everywhere. z = W x, one example: SAM's gradient is (softmax((W + e) x) - y) x^T."""
    x, W = torch.tensor([1.0, -2.0]).double(), {"W": torch.tensor([[0.5, 0.1], [-0.3, 0.7], [0.0, 0.2]]).double()}
    outputs, criterion = lambda p: p["W"] @ x, lambda z: F.cross_entropy(z, torch.tensor(1))
    right = torch.tensor([0.0, 1.0, 0.0]).double()
    g = torch.outer((W["W"] @ x).softmax(0) - right, x)
    up = torch.outer(((W["W"] + 0.4 * g / g.norm()) @ x).softmax(0) - right, x)
    for path, expected in zip(PATHS, (up, g, up), strict=True):
        torch.testing.assert_close(path_gradient(outputs, criterion, W, 0.4, path)["W"], expected, rtol=0, atol=1e-12)


def test_the_share_of_the_logits_is_all_of_a_linear_model_and_that_of_dense_matrices(setting):
    outputs, criterion, params, unit = setting
    flat = lambda w: outputs(from_vector(w, params)).flatten()  # noqa: E731
    J, z = jacrev(flat)(to_vector(params)), outputs(params)
    gauss_newton = J.T @ hessian(lambda s: criterion(s.view(z.shape)), z.flatten()) @ J @ to_vector(unit)
    whole = hessian(lambda w: criterion(outputs(from_vector(w, params))), to_vector(params)) @ to_vector(unit)
    expected = (gauss_newton @ whole / (whole @ whole)).item()
    assert logit_share(outputs, criterion, params).item() == pytest.approx(expected) and 0.01 < expected < 0.99
    x = torch.tensor([1.0, -2.0]).double()
    linear = logit_share(
        lambda p: p["W"] @ x, lambda z: F.cross_entropy(z, torch.tensor(1)), {"W": torch.eye(2).double()}
    )
    assert linear.item() == pytest.approx(1)


def test_many_models_each_have_their_own(setting):
    outputs, criterion, params, _ = setting
    many = stack([params, add(params, params, 0.1)])
    found = vmap(lambda p: path_gradient(outputs, criterion, p, 0.2, "jacobian"))(many)
    alone = path_gradient(outputs, criterion, add(params, params, 0.1), 0.2, "jacobian")
    close({name: p[1] for name, p in found.items()}, alone, 1e-12)
    assert dot(alone, {name: p[0] for name, p in found.items()}) != norm(alone) ** 2


def test_another_path_and_a_negative_radius_are_refused(setting):
    outputs, criterion, params, _ = setting
    with pytest.raises(ValueError, match="path must be one of both, jacobian, logits, got 'logit'"):
        path_gradient(outputs, criterion, params, 0.1, "logit")
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -1"):
        path_gradient(outputs, criterion, params, -1)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-15, 1e15, 1e25])
def test_no_unit_of_the_loss_matters_to_the_share(setting, scale):
    outputs, criterion, params, _ = setting
    right = logit_share(outputs, criterion, params)
    single = {name: p.float() for name, p in params.items()}
    rounded = lambda p: outputs({name: v.double() for name, v in p.items()}).float()  # noqa: E731
    found = logit_share(rounded, lambda z: criterion(z) * scale, single)
    assert found.item() == pytest.approx(right.item(), rel=1e-4)


@pytest.mark.parametrize("where", ["outputs", "criterion"])
@pytest.mark.parametrize("call", [*PATHS, "curvature", "share"])
def test_what_has_no_derivative_is_refused(setting, where, call):
    """Its gradient would be zero, and its step none."""
    outputs, criterion, params, unit = setting
    if where == "outputs":
        outputs = lambda p, whole=outputs: whole(p).detach()  # noqa: E731
    else:
        criterion = lambda z, whole=criterion: whole(z.detach())  # noqa: E731
    with pytest.raises(ValueError, match="the loss must be a differentiable function of the weights, got 'a constant'"):
        if call == "share":
            logit_share(outputs, criterion, params)
        elif call == "curvature":
            curvature_paths(outputs, criterion, params, unit)
        else:
            path_gradient(outputs, criterion, params, 0.1, call)


@pytest.mark.parametrize("path", PATHS)
def test_a_linear_criterion_has_a_derivative_and_no_part_through_the_logits(setting, path):
    outputs, _, params, unit = setting
    through, rest = curvature_paths(outputs, torch.sum, params, unit)
    assert norm(through) == 0 and norm(rest) > 0.01
    found = path_gradient(outputs, torch.sum, params, 0.3, path)
    close(
        found, grad(lambda p: outputs(p).sum())(add(params, unit_of(outputs, params), 0.3 * (path != "logits"))), 1e-12
    )


def unit_of(outputs, params):
    g = grad(lambda p: outputs(p).sum())(params)
    return {name: v / norm(g) for name, v in g.items()}


def test_half_precision_is_refused_which_would_round_the_climb_away():
    half = {"w": torch.full((3,), 100.0, dtype=torch.bfloat16)}
    outputs, criterion = (lambda p: p["w"]), (lambda z: (z**2).sum() / 2)
    for call in (lambda: path_gradient(outputs, criterion, half, 0.05), lambda: logit_share(outputs, criterion, half)):
        with pytest.raises(ValueError, match=r"params\['w'\] must be float32 or float64, got torch.bfloat16"):
            call()


def test_names_may_come_in_any_order_and_any_kind_of_dict(setting):
    outputs, criterion, params, unit = setting
    expected = curvature_paths(outputs, criterion, params, unit)
    assert_close = partial(torch.testing.assert_close, rtol=0, atol=0)
    assert_close(curvature_paths(outputs, criterion, params, dict(reversed(unit.items()))), expected)
    assert_close(logit_share(outputs, criterion, OrderedDict(params)), logit_share(outputs, criterion, params))
    with pytest.raises(ValueError, match="two sets of parameters must be of the same names"):
        curvature_paths(outputs, criterion, params, {"0.bias": unit["0.bias"]})


def with_dropout(mask=None):
    """Outputs of a network that leaves out half of its hidden units: at random, or those that the mask tells."""
    dice = torch.Generator().manual_seed(3)
    x = torch.randn(7, 3, generator=dice, dtype=torch.float64)

    def outputs(p):
        hidden = torch.tanh(x @ p["0.weight"].T + p["0.bias"])
        return (F.dropout(hidden) if mask is None else hidden * mask) @ p["2.weight"].T + p["2.bias"]

    return outputs


def test_dropout_leaves_out_the_same_units_at_every_call(setting):
    _, criterion, params, unit = setting
    random = with_dropout()

    def seeded(call, *args):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return call(*args), torch.rand(1)

    masked = with_dropout(seeded(F.dropout, torch.ones(7, 4, dtype=torch.float64))[0])
    after = seeded(random, params)[1]  # as if drawn once
    for path in PATHS:
        found, then = seeded(path_gradient, random, criterion, params, 0.3, path)
        close(found, path_gradient(masked, criterion, params, 0.3, path), 1e-14)
        assert then.equal(after)
    found, then = seeded(curvature_paths, random, criterion, params, unit)
    for one, other in zip(found, curvature_paths(masked, criterion, params, unit), strict=True):
        close(one, other, 1e-14)
    share, last = seeded(logit_share, random, criterion, params)
    assert share.item() == pytest.approx(logit_share(masked, criterion, params).item(), rel=1e-12)
    assert then.equal(after) and last.equal(after)


def test_attention_has_both_paths():
    """The fused kernels of attention have no second derivative, which both parts of the Hessian need."""
    dice = torch.Generator().manual_seed(0)
    keys, x = (torch.randn(2, 3, 5, 4, generator=dice, dtype=torch.float64) for _ in range(2))
    params = {"q": torch.randn(4, 4, generator=dice, dtype=torch.float64)}
    outputs = lambda p: F.scaled_dot_product_attention(x @ p["q"], keys, keys)  # noqa: E731
    criterion = lambda z: z.pow(4).mean()  # noqa: E731
    direction = {"q": torch.eye(4, dtype=torch.float64)}
    parts = curvature_paths(outputs, criterion, params, direction)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = hessian(lambda v: criterion(outputs({"q": v.view(4, 4)})), to_vector(params))
        g = grad(lambda p: criterion(outputs(p)))(params)
        through = curvature_paths(outputs, criterion, params, g)[0]
    close(add(*parts), dense @ to_vector(direction), 1e-12)
    share = to_vector(through) @ dense @ to_vector(g) / (dense @ to_vector(g)).square().sum()
    torch.testing.assert_close(logit_share(outputs, criterion, params), share)
