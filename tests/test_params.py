"""Parameters as dicts: against torch's own vectors, and a loss that is pure."""

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn.utils import parameters_to_vector

from sam_lite import params as P


def net(seed=0, *, norm=False, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(5)] if norm else []
        return nn.Sequential(nn.Linear(4, 5), *middle, nn.Dropout(dropout), nn.ReLU(), nn.Linear(5, 3)).double()


def batch(n=7):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g)


def test_params_are_copies_without_graph():
    model = net()
    params = P.params_of(model)
    before = parameters_to_vector(model.parameters()).detach().clone()
    for p in params.values():
        assert not p.requires_grad
        p.add_(1)
    assert torch.equal(parameters_to_vector(model.parameters()).detach(), before)


def test_a_tied_parameter_appears_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert sorted(P.params_of(model)) == ["0.bias", "0.weight", "1.bias"]


def test_loading_is_the_inverse_and_in_place():
    model, other = net(0), net(1)
    tensors = list(model.parameters())
    assert P.load_params(model, P.params_of(other)) is model
    assert all(a is b for a, b in zip(tensors, model.parameters(), strict=True))
    assert torch.equal(parameters_to_vector(model.parameters()), parameters_to_vector(other.parameters()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("0.bias"), "params must have the names of the model"),
        (lambda p: p.update({"9.weight": torch.ones(1)}), "params must have the names of the model"),
        (lambda p: p.update({"0.bias": torch.ones(6)}), r"params\['0.bias'\] must have shape \(5,\), got \(6,\)"),
    ],
)
def test_params_of_another_model_are_named(change, message):
    params = P.params_of(net())
    change(params)
    with pytest.raises(ValueError, match=message):
        P.load_params(net(), params)


@pytest.mark.parametrize("criterion", [nn.functional.cross_entropy, lambda out, y: (out[:, 0] - y).square().mean()])
def test_the_loss_is_the_models(criterion):
    model, (x, y) = net(), batch()
    loss = P.loss_of(model, x, y, criterion)
    params = P.params_of(net(1))
    torch.testing.assert_close(loss(params), criterion(P.load_params(model, params)(x), y), rtol=1e-15, atol=0)


def test_the_loss_is_pure_where_the_model_is_not():
    model, (x, y) = net(norm=True), batch()
    state = {name: b.clone() for name, b in model.state_dict().items()}
    loss, params = P.loss_of(model, x, y), P.params_of(model)
    assert torch.equal(loss(params), loss(params))
    model[1].running_mean.add_(5)  # later training of the model must not change the loss either
    model.eval()(x)
    model.train()
    first = loss(params)
    model(x)
    assert torch.equal(first, loss(params))
    model.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))


def test_a_random_loss_is_refused():
    x, y = batch()
    with pytest.raises(
        ValueError, match="must not be random, but layer '1' is Dropout.*draws random numbers; call model.eval"
    ):
        P.loss_of(net(dropout=0.5), x, y)
    P.loss_of(net(dropout=0.5).eval(), x, y)
    P.loss_of(net(dropout=0.0), x, y)


def test_stack_and_member_are_inverses_and_losses_map():
    members, (x, y) = [P.params_of(net(seed)) for seed in range(3)], batch()
    ensemble = P.stack(members)
    for i, one in enumerate(members):
        assert all(torch.equal(one[name], P.member(ensemble, i)[name]) for name in one)
    loss = P.loss_of(net(), x, y)
    torch.testing.assert_close(vmap(loss)(ensemble), torch.stack([loss(m) for m in members]), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="members must hold at least one model, got none"):
        P.stack([])


def test_vectors_are_torchs():
    model = net()
    params = P.params_of(model)
    vector = P.to_vector(params)
    assert torch.equal(vector, parameters_to_vector(model.parameters()).detach())
    back = P.from_vector(vector, params)
    assert list(back) == list(params)
    assert all(torch.equal(back[name], params[name]) for name in params)
    assert P.count(params) == len(vector) == 4 * 5 + 5 + 5 * 3 + 3
    with pytest.raises(ValueError, match=r"vector must have shape \(43,\) to fill these parameters, got \(42,\)"):
        P.from_vector(vector[1:], params)


def test_sums_products_and_norms_are_those_of_the_vectors():
    a, b = P.params_of(net(0)), P.params_of(net(1))
    u, v = P.to_vector(a), P.to_vector(b)
    torch.testing.assert_close(P.to_vector(P.add(a, b)), u + v, rtol=1e-15, atol=0)
    torch.testing.assert_close(P.to_vector(P.add(a, b, -0.3)), u - 0.3 * v, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(P.dot(a, b), u @ v, rtol=1e-12, atol=0)
    torch.testing.assert_close(P.norm(a), u.norm(), rtol=1e-12, atol=0)
