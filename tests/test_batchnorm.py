"""Batch statistics on a line between two trained batch-norm nets: own losses at the ends, `update_bn` as the peer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from sam_lite.batchnorm import loss_between
from sam_lite.landscape import line
from sam_lite.models import GhostBatchNorm1d
from sam_lite.params import load_params, loss_of, params_of

ALPHAS = [-1.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0]


def data(seed=0):
    x = torch.randn(64, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    return x, (x[:, 0] * x[:, 1] > 1).long()


def trained(seed, norm=nn.BatchNorm1d):
    """A net after some steps, whose running statistics lag behind its weights, in training mode as training left it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [
            nn.Linear(5, 8),
            norm(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(8, 8),
            norm(8),
            nn.ReLU(),
            nn.Linear(8, 2),
        ]
        model = nn.Sequential(*layers).double()
        x, y = data()
        optimizer = torch.optim.SGD(model.parameters(), 0.3)
        for _ in range(8):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def own_loss(model, x, y):
    return F.cross_entropy(copy.deepcopy(model).eval()(x), y).detach()


def values(start, end, statistics, alphas=ALPHAS):
    return line(loss_between(start, end, *data(1), statistics), params_of(start), params_of(end), alphas)


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["keep", "interpolate"])
def test_each_net_has_its_own_loss_at_its_end(statistics):
    start, end = trained(0), trained(1)
    expected = torch.stack([own_loss(net, *data(1)) for net in (start, end)])
    torch.testing.assert_close(values(start, end, statistics, [0, 1]), expected, rtol=1e-15, atol=0)


def without_dropout(model):
    model = copy.deepcopy(model)
    for layer in model:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, lambda n: GhostBatchNorm1d(n, ghost_size=16)])
def test_recomputed_statistics_are_those_of_update_bn(norm):
    start, end = trained(0, norm), trained(1, norm)
    x_train = data()[0]
    for alpha, value in zip(ALPHAS, values(start, end, x_train), strict=True):
        peer = without_dropout(start)
        ends = params_of(start), params_of(end)
        load_params(peer, {name: (1 - alpha) * p + alpha * ends[1][name] for name, p in ends[0].items()})
        update_bn([x_train], peer)
        torch.testing.assert_close(value, own_loss(peer, *data(1)), rtol=1e-13, atol=0)


def test_a_net_with_recomputed_statistics_has_its_own_loss_at_its_end():
    nets = [without_dropout(trained(seed)) for seed in (0, 1)]
    for net in nets:
        update_bn([data()[0]], net)
    expected = torch.stack([own_loss(net, *data(1)) for net in nets])
    torch.testing.assert_close(values(*nets, data()[0], [0, 1]), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_kept_and_interpolated_statistics_are_what_they_say(alpha):
    start, end = trained(0), trained(1)
    between = copy.deepcopy(start)
    ends = params_of(start), params_of(end)
    load_params(between, {name: (1 - alpha) * p + alpha * ends[1][name] for name, p in ends[0].items()})
    for statistics in ("keep", "interpolate"):
        share = alpha if statistics == "interpolate" else float(alpha >= 0.5)
        for layer, other, this in zip(start, end, between, strict=True):
            if isinstance(layer, nn.BatchNorm1d):
                this.running_mean.copy_((1 - share) * layer.running_mean + share * other.running_mean)
                this.running_var.copy_(((1 - share) * layer.running_var + share * other.running_var).clamp(min=0))
        expected = own_loss(between, *data(1))
        torch.testing.assert_close(values(start, end, statistics, [alpha])[0], expected, rtol=1e-12, atol=0)


def test_beyond_the_ends_no_variance_is_negative():
    start, end = trained(0), trained(1)
    end[1].running_var.mul_(100)
    assert values(start, end, "interpolate", [-3.0, 3.0]).isfinite().all()


def test_the_choice_matters_and_the_nets_stay_as_they_were():
    start, end = trained(0), trained(1)
    before = [copy.deepcopy(net.state_dict()) for net in (start, end)]
    keep, interpolate, recompute = (values(start, end, s)[3] for s in ("keep", "interpolate", data()[0]))
    assert min(abs(keep - interpolate), abs(keep - recompute), abs(interpolate - recompute)) > 1e-3
    for net, state in zip((start, end), before, strict=True):
        assert net.training and net[1].momentum == 0.1
        assert all(torch.equal(v, state[name]) for name, v in net.state_dict().items())


def test_one_net_twice_has_one_loss():
    net = trained(0)
    assert (values(net, net, "keep", [0, 0.5]) == own_loss(net, *data(1))).all()


def test_data_that_a_net_changes_stay_what_they_are():
    (x, y), (start, end) = data(1), ([nn.Sequential(nn.ReLU(inplace=True), trained(i)) for i in (0, 1)])
    given, training = x.clone(), data()[0]
    loss = loss_between(start, end, given, y, training)
    value = loss(params_of(end))
    assert torch.equal(given, x) and torch.equal(training, data()[0])
    end[1][3].p = 0.0  # which `update_bn` leaves on
    update_bn([training.clone()], end)
    torch.testing.assert_close(value, own_loss(end, x.clone(), y), rtol=0, atol=1e-12)


def test_norms_without_running_statistics_and_awkward_nets_are_taken():
    """One that uses the batch's own, one module under two names, and what cannot be copied after a forward pass."""
    norm = nn.utils.spectral_norm(nn.Linear(8, 8).double())
    net = nn.Sequential(nn.Linear(5, 8).double(), nn.BatchNorm1d(8, track_running_stats=False).double(), norm, norm)
    net(data()[0]).sum().backward()
    net.append(nn.BatchNorm1d(8).double())
    weight = net[2].weight
    for statistics in ("keep", "interpolate", data()[0]):
        assert values(net, net, statistics, [0, 0.5]).isfinite().all()
    assert net[2].weight is weight and net[4].num_batches_tracked == 0


def test_unknown_words_and_unlike_nets_are_refused():
    net = trained(0)
    with pytest.raises(
        ValueError, match="'keep', 'interpolate' or a tensor of training data to recompute from, got 'recompute'"
    ):
        loss_between(net, net, *data(), "recompute")
    with pytest.raises(ValueError, match="end must have the parameters and buffers of start"):
        loss_between(net, nn.Sequential(nn.Linear(5, 2)), *data(), "keep")


def test_statistics_of_other_layers_are_not_recomputed_but_refused():
    """`update_bn` passes over them, too."""
    norm = lambda n: nn.InstanceNorm1d(n, track_running_stats=True)  # noqa: E731
    start, end = (nn.Sequential(nn.Unflatten(1, (1, 5)), norm(1), nn.Flatten(), nn.Linear(5, 2)).double() for _ in "12")
    end(data()[0])
    for nets in ((start, end), (start, start)):
        with pytest.raises(
            ValueError, match=r"statistics must be of batch norm to be recomputed, got .*1.running_mean"
        ):
            values(*nets, data()[0])
    expected = torch.stack([own_loss(net, *data(1)) for net in (start, end)])
    torch.testing.assert_close(values(start, end, "interpolate", [0, 1]), expected, rtol=1e-15, atol=0)

    class Centred(nn.Module):
        def __init__(self, mean):
            super().__init__()
            self.register_buffer("mean", torch.full((5,), mean, dtype=torch.float64))

        def forward(self, x):
            return x - self.mean

    nets = [nn.Sequential(Centred(mean), nn.BatchNorm1d(5), nn.Linear(5, 2)).double() for mean in (0.0, 1.0)]
    with pytest.raises(ValueError, match="got .*0.mean.*; use 'keep' or 'interpolate'"):
        values(*nets, data()[0])
    assert values(nets[0], nets[0], data()[0]).isfinite().all()


@pytest.mark.parametrize("rows", [[[1.0] * 5] * 4, torch.empty(0, 5), None])
def test_training_data_are_a_tensor_with_rows(rows):
    """Of no rows the recomputed statistics would be those before any training."""
    with pytest.raises(ValueError, match="or a tensor of training data to recompute from, got "):
        loss_between(trained(0), trained(1), *data(), rows)


@pytest.mark.parametrize("statistics", ["interpolate", data()[0]], ids=["interpolated", "recomputed"])
def test_no_derivative_leaves_out_that_statistics_move(statistics):
    start, end = trained(0), trained(1)
    loss, params = loss_between(start, end, *data(), statistics), params_of(start)
    with pytest.raises(
        ValueError, match="kept where a derivative is taken, .*; use 'keep' for a derivative, and torch.no_grad"
    ):
        torch.func.grad(loss)(params)
    asking = dict(start.named_parameters())
    with pytest.raises(ValueError, match="kept where a derivative is taken"):
        loss(asking)
    with torch.no_grad():
        assert loss(asking) == loss(params)
    plain = nn.Linear(5, 2).double()
    found = torch.func.grad(loss_between(plain, plain, *data(), statistics))(params_of(plain))  # nothing moves here
    torch.testing.assert_close(found, torch.func.grad(loss_of(plain, *data()))(params_of(plain)))


def test_targets_that_a_criterion_changes_stay_what_they_are():
    net, (x, _) = trained(0), data()
    y = x[:, :2].clone()
    loss = loss_between(net, net, x, y, "keep", lambda out, target: (out - target.mul_(2)).square().mean())
    assert loss(params_of(net)) == loss(params_of(net))
    torch.testing.assert_close(y, x[:, :2], rtol=0, atol=0)


class Shuffled(nn.Module):
    """As in flows: the order of the features is a buffer of integers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.randperm(6))

    def forward(self, x):
        return x[:, self.order]


@pytest.mark.parametrize("statistics", ["keep", "interpolate", torch.eye(6)])
def test_nets_with_other_integers_have_nothing_between_them(statistics):
    """The loss at alpha = 1 was that of the end's weights on the start's order."""
    torch.manual_seed(0)
    start, end = (nn.Sequential(Shuffled(), nn.Linear(6, 3), nn.BatchNorm1d(3)).eval() for _ in range(2))
    x, y = torch.randn(5, 6), torch.arange(5) % 3
    with pytest.raises(ValueError, match=r"end must be a net with the integers .* got \"another '0.order'\"; there is"):
        loss_between(start, end, x, y, statistics)
    end[0].order.copy_(start[0].order)
    end[2].num_batches_tracked.add_(3)
    if isinstance(statistics, str):
        found = loss_between(start, end, x, y, statistics)(params_of(end))
        torch.testing.assert_close(found, F.cross_entropy(end(x), y).detach())
