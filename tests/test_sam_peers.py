"""SAM beside pytorch_optimizer's: the same paths, and what each promises of steps, groups, closures and state.

The properties are those that users of davda54/sam and of pytorch_optimizer rely on. Where ours differs, it is on
purpose, and the test says why.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from sam_lite.sam import SAM, adaptive_ascent, ascent

peer = pytest.importorskip("pytorch_optimizer", reason="pytorch_optimizer is installed by the extra `bench`")

BASES = {
    "SGD": (SGD, {"lr": 0.1}),
    "momentum": (SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}),
    "AdamW": (AdamW, {"lr": 3e-3, "weight_decay": 0.1}),
}


def train(make_optimizer, dtype, steps=50):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 4)).to(dtype)
        data = torch.randn(steps, 20, 10).to(dtype), torch.randint(4, (steps, 20))
    optimizer = make_optimizer(model.parameters())
    for x, y in zip(*data, strict=True):

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)  # noqa: B023
            loss.backward()
            return loss

        if not isinstance(optimizer, SAM):
            closure()  # the peer wants the first gradients before step
        optimizer.step(closure)
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize(("base", "settings"), BASES.values(), ids=BASES)
@pytest.mark.parametrize(
    "adaptive", [pytest.param(False, id="SAM", marks=pytest.mark.slow), pytest.param(True, id="ASAM")]
)
def test_after_50_steps_the_weights_are_the_same(base, settings, adaptive):
    """ASAM in the peer's convention: all tensors scaled, eta = 0, and rho = 2."""
    rho = 2.0 if adaptive else 0.3
    climb = partial(adaptive_ascent, eta=0.0) if adaptive else ascent
    ours = train(lambda params: SAM(base(params, **settings), rho, ascent=climb), torch.float64)
    theirs = train(lambda params: peer.SAM(params, base, rho=rho, adaptive=adaptive, **settings), torch.float64)
    plain = train(lambda params: SAM(base(params, **settings), 0.0), torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert (ours - plain).norm() > 0.01 * plain.norm()


def test_in_float32_too():
    ours = train(lambda params: SAM(SGD(params, lr=0.1), 0.1), torch.float32)
    theirs = train(lambda params: peer.SAM(params, SGD, rho=0.1, lr=0.1), torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# Properties of both


class Ours:
    """The calls of the two, where they differ: ours takes the base as an instance, and runs the closure twice itself."""

    def __new__(cls, params, base=SGD, rho=0.05, **settings):
        return SAM(base(params, **settings), rho)

    @staticmethod
    def step(optimizer, closure):
        return optimizer.step(closure)


class Theirs:
    def __new__(cls, params, base=SGD, rho=0.05, **settings):
        return peer.SAM(params, base, rho=rho, **settings)

    @staticmethod
    def step(optimizer, closure):
        loss = closure()
        optimizer.step(closure)
        return loss


both = pytest.mark.parametrize("kind", [Ours, Theirs])


def problem(seed=0, groups=1):
    """Three points and two tensors; groups: in how many parameter groups."""
    generator = torch.Generator().manual_seed(seed)
    w = nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64))
    b = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    params = [w, b] if groups == 1 else [{"params": [w]}, {"params": [b], "lr": 0.01}]

    def closure_of(optimizer):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy((x @ w).tanh() + b, torch.arange(20) % 3)
            loss.backward()
            return loss

        return closure

    return w, b, params, closure_of


@both
def test_the_loss_falls_and_weights_move(kind):
    w, b, params, closure_of = problem()
    optimizer, before = kind(params, lr=0.5), w.detach().clone()
    losses = [kind.step(optimizer, closure_of(optimizer)).item() for _ in range(200)]
    assert losses[-1] < 0.8 * losses[0] and not torch.equal(w, before)


@both
def test_the_closure_runs_twice_a_step_at_w_and_at_rho_from_it(kind):
    w, b, params, closure_of = problem()
    optimizer, seen = kind(params, rho=0.3, lr=0.1), []

    def closure():
        seen.append(torch.cat([w.detach().flatten(), b.detach()]))
        return closure_of(optimizer)()

    before = torch.cat([w.detach().flatten(), b.detach()])
    kind.step(optimizer, closure)
    assert len(seen) == 2 and torch.equal(seen[0], before)
    assert (seen[1] - seen[0]).norm().item() == pytest.approx(0.3, rel=1e-6)


@both
def test_with_a_learning_rate_of_0_the_weights_come_back_to_the_bit(kind):
    w, b, params, closure_of = problem()
    optimizer, before = kind(params, rho=0.7, lr=0.0), w.detach().clone()
    for _ in range(5):
        kind.step(optimizer, closure_of(optimizer))
    assert torch.equal(w, before)


@both
def test_with_rho_0_it_is_the_base(kind):
    paths = []
    for plain in (True, False):
        w, b, params, closure_of = problem()
        optimizer = SGD(params, lr=0.1, momentum=0.9) if plain else kind(params, rho=0.0, lr=0.1, momentum=0.9)
        for _ in range(10):
            optimizer.step(closure_of(optimizer)) if plain else kind.step(optimizer, closure_of(optimizer))
        paths.append(w.detach())
    assert torch.equal(*paths)


@both
def test_groups_keep_their_settings_and_share_one_norm(kind):
    w, b, params, closure_of = problem(groups=2)
    optimizer = kind(params, rho=0.3, lr=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    one_w, one_b, one_params, one_closure = problem()
    single = kind(one_params, rho=0.3, lr=0.1)
    before = one_w.detach().clone(), one_b.detach().clone()
    kind.step(optimizer, closure_of(optimizer))
    kind.step(single, one_closure(single))
    torch.testing.assert_close(w, one_w)
    torch.testing.assert_close((b - before[1]) * 10, one_b - before[1])


@both
def test_the_rate_of_a_group_can_be_changed_on_the_way(kind):
    w, b, params, closure_of = problem(groups=2)
    optimizer, before = kind(params, lr=0.1), b.detach().clone()
    optimizer.param_groups[1]["lr"] = 0.0
    kind.step(optimizer, closure_of(optimizer))
    assert torch.equal(b, before)


@both
def test_state_of_the_base_is_there_and_comes_back(kind):
    w, b, params, closure_of = problem()
    optimizer = kind(params, base=AdamW, lr=0.01)
    for _ in range(3):
        kind.step(optimizer, closure_of(optimizer))
    assert set(optimizer.state[w]) >= {"step", "exp_avg", "exp_avg_sq"} and optimizer.state[w]["step"] == 3
    saved, weights = copy.deepcopy(optimizer.state_dict()), [w.detach().clone(), b.detach().clone()]
    for _ in range(3):
        kind.step(optimizer, closure_of(optimizer))
    other_w, other_b, params, other_closure = problem()
    with torch.no_grad():
        other_w.copy_(weights[0]), other_b.copy_(weights[1])
    other = kind(params, base=AdamW, lr=0.01)
    other.load_state_dict(saved)
    assert other.state is other.base_optimizer.state and other.param_groups is other.base_optimizer.param_groups
    for _ in range(3):
        kind.step(other, other_closure(other))
    assert torch.equal(other_w, w) and torch.equal(other_b, b)


@both
def test_a_weight_without_a_gradient_stays(kind):
    w, b, params, closure_of = problem()
    spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = kind([w, b, spare], lr=0.1)
    kind.step(optimizer, closure_of(optimizer))
    assert torch.equal(spare, torch.ones(2, dtype=torch.float64)) and spare.grad is None


@both
def test_zero_gradients_move_nothing(kind):
    w = nn.Parameter(torch.zeros(3))
    optimizer = kind([w], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    kind.step(optimizer, closure)
    assert torch.equal(w, torch.zeros(3))


@both
def test_a_step_needs_a_closure_and_rho_is_not_negative(kind):
    w, b, params, closure_of = problem()
    optimizer = kind(params, lr=0.1)
    error = TypeError if kind is Ours else Exception  # the peer's own
    with pytest.raises(error, match="closure"):
        optimizer.step()
    with pytest.raises(ValueError, match="rho"):
        kind(params, rho=-0.1, lr=0.1)
    with pytest.raises(ValueError, match="learning rate"):
        kind(params, lr=-0.1)


@both
def test_schedulers_take_either(kind):
    w, b, params, closure_of = problem()
    optimizer = kind(params, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(2):
        kind.step(optimizer, closure_of(optimizer))
        scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.025


# Where ours differs on purpose


def test_ours_returns_the_loss_at_w_since_the_peers_caller_has_it_already():
    w, b, params, closure_of = problem()
    optimizer = Ours(params, lr=0.1)
    assert optimizer.step(closure_of(optimizer)).item() == pytest.approx(loss_at(problem()))
    optimizer = Theirs(problem()[2], lr=0.1)
    assert optimizer.step(closure_of(optimizer)) is None


def loss_at(case):
    w, b, _, closure_of = case
    return closure_of(SGD([w, b], lr=0.1))().item()


def test_ours_gives_an_added_group_the_settings_of_the_base_which_the_peers_lacks():
    w, b, _, closure_of = problem()
    for kind in (Ours, Theirs):
        optimizer, before = kind([w], lr=0.1), b.detach().clone()
        optimizer.add_param_group({"params": [b]})
        assert len(optimizer.param_groups) == len(optimizer.base_optimizer.param_groups) == 2
        if kind is Ours:
            kind.step(optimizer, closure_of(optimizer))
            assert not torch.equal(b, before)
        else:
            with pytest.raises(KeyError, match="fused"):
                kind.step(optimizer, closure_of(optimizer))


def test_ours_keeps_the_radius_of_small_gradients_where_a_constant_in_the_norm_shrinks_it():
    """The peer adds 1e-12 to the norm (davda54/sam too): close to a minimum it climbs less. Eq. 2 has no such term."""
    lengths = []
    for kind in (Ours, Theirs):
        w = nn.Parameter(torch.full((3,), 1e-13, dtype=torch.float64))
        optimizer, seen = kind([w], rho=0.05, lr=0.0), []

        def closure():
            optimizer.zero_grad()  # noqa: B023
            seen.append(w.detach().clone())  # noqa: B023
            loss = (w**2).sum() / 2  # noqa: B023
            loss.backward()
            return loss

        kind.step(optimizer, closure)
        lengths.append((seen[1] - seen[0]).norm().item())
    assert lengths[0] == pytest.approx(0.05, rel=1e-9) and lengths[1] < 0.2 * 0.05


def test_ours_scales_by_weight_plus_eta_as_the_authors_of_asam_where_the_peer_has_no_eta():
    """So a weight of 0 can leave 0: in the peer's convention it is held there by the ascent. With eta = 0 they agree."""
    grads, params = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([0.0, 1.0])}
    assert adaptive_ascent(grads, params, 1.0)["w"][0] > 0
    w = nn.Parameter(params["w"].clone())
    w.grad = grads["w"].clone()
    optimizer = peer.SAM([w], SGD, rho=1.0, adaptive=True, lr=0.1)
    optimizer.first_step()
    assert w.tolist() == [0.0, 2.0]
    assert adaptive_ascent(grads, params, 1.0, eta=0.0)["w"].tolist() == [0.0, 1.0]


def test_ours_freezes_batch_statistics_and_random_numbers_where_the_peers_move_twice():
    """Two passes are one function of one batch: every statistic counts it once, and dropout leaves out the same units."""
    counts, alike = [], []
    for kind in (Ours, Theirs):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
            x, y = torch.randn(9, 4), torch.arange(9) % 3
            optimizer, seen = kind(model.parameters(), rho=1e-6, lr=0.0), []

            def closure():
                optimizer.zero_grad()  # noqa: B023
                loss = F.cross_entropy(model(x), y)  # noqa: B023
                loss.backward()
                seen.append(model[0].weight.grad.clone())  # noqa: B023
                return loss

            kind.step(optimizer, closure)
        counts.append(model[1].num_batches_tracked.item())
        alike.append(torch.allclose(*seen, rtol=1e-2, atol=1e-4))
    assert counts == [1, 2] and alike == [True, False]


def test_ours_takes_the_worst_point_of_what_is_maximized_where_the_peer_takes_the_best():
    ends = []
    for kind in (Ours, Theirs):
        w = nn.Parameter(torch.tensor([2.0]))
        optimizer, seen = kind([w], rho=0.5, lr=0.1, maximize=True), []

        def closure():
            optimizer.zero_grad()  # noqa: B023
            seen.append(w.item())  # noqa: B023
            loss = -(w**2).sum()  # noqa: B023
            loss.backward()
            return loss

        kind.step(optimizer, closure)
        ends.append(seen[1])
    assert ends == [2.5, 1.5]


def test_ours_refuses_what_the_peer_does_in_silence():
    """bfloat16 weights, which no step of rho moves; a base that needs the loss; an instance in place of a class is fine."""
    w = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    peer.SAM([w], SGD, rho=1e-3, lr=0.1)
    with pytest.raises(TypeError, match="use float32 weights with torch.autocast"):
        SAM(SGD([w], lr=0.1), 1e-3)
    with pytest.raises(TypeError, match="base_optimizer must be an optimizer"):
        SAM(SGD, 1e-3)
