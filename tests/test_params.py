"""Parameters as dicts: against torch's own vectors, and a loss that is pure."""

import itertools
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn.utils import parameters_to_vector

from sam_lite import hessian, landscape, measures, sam, sharpness
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


def test_parameters_that_do_not_fit_are_not_loaded_in_part():
    model = net(0)
    before = P.params_of(model)
    with pytest.raises(ValueError, match=r"params\['3.bias'\] must have shape \(3,\), got \(7,\)"):
        P.load_params(model, P.params_of(net(1)) | {"3.bias": torch.ones(7)})
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_names_and_shapes_that_the_model_does_not_have_are_refused():
    (x, y), model = batch(), net(norm=True)
    loss, params = P.loss_of(model, x, y), P.params_of(model)
    bias = params.pop("0.bias")
    torch.testing.assert_close(loss(params), loss(P.params_of(model)), rtol=0, atol=0)
    for name, value in (("0.bais", bias), ("1.running_mean", torch.zeros(5))):
        with pytest.raises(ValueError, match=rf"params must be of the model, .*, got .*'{name}'.*; params_of\(model\)"):
            loss(params | {name: value})
    with pytest.raises(ValueError, match=r"params\['0.bias'\] must have shape \(5,\), got \(1,\)"):
        loss(params | {"0.bias": bias[:1]})
    with pytest.raises(ValueError, match=r"params\['0.bias'\] must have shape \(5,\), got \(6,\)"):
        vmap(loss)({"0.bias": torch.zeros(2, 6).double()})


class Mixing(nn.Module):
    """A linear layer, and a buffer of a kind to which no number can be added."""

    def __init__(self, buffer):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mix", buffer)

    def forward(self, x):
        return self.mix @ self.layer(x) if self.mix.is_sparse else self.layer(x) * self.mix.to(x.dtype)


@pytest.mark.parametrize(
    "buffer",
    [torch.eye(7).to_sparse(), *(torch.full((3,), 2).to(t) for t in (torch.uint16, torch.float8_e4m3fn, torch.bool))],
    ids=["sparse", "uint16", "float8", "bool"],
)
def test_buffers_of_every_kind_stay_what_they_are(buffer):
    (x, y), model = batch(), Mixing(buffer)
    loss, params = P.loss_of(model, x.float(), y), P.params_of(model)
    own = nn.functional.cross_entropy(model(x.float()), y)
    torch.testing.assert_close(loss(params), own.detach())
    expected = torch.autograd.grad(own, model.parameters())
    torch.testing.assert_close(torch.func.grad(loss)(params), dict(zip(params, expected, strict=True)))
    if not buffer.is_sparse:
        torch.testing.assert_close(vmap(loss)(P.stack([params, params])), own.detach().expand(2))


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


class Noisy(nn.Module):
    """Random in a way that no list of layers knows."""

    def __init__(self, draw):
        super().__init__()
        self.layer, self.draw = nn.Linear(4, 3).double(), draw

    def forward(self, x):
        return self.layer(x) * (1 + self.draw(x))


def shuffled(x):
    return x[torch.randperm(len(x))][:, :3]


GENERATOR, COUNTER = torch.Generator(), itertools.count()
RANDOM = {
    "dropout as a function": lambda x: nn.functional.dropout(x)[:, :3],
    "noise": lambda x: 1e-9 * torch.randn(3),
    "order": shuffled,
    "NumPy": lambda x: np.random.rand(),
    "Python": lambda x: random.random(),
    "a generator of its own": lambda x: torch.rand((), generator=GENERATOR),
    "a counter": lambda x: next(COUNTER),
}


class Recurrent(nn.Module):
    def __init__(self, dropout=0.5):
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 5, num_layers=2, dropout=dropout, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.rnn(x[:, None])[0][:, -1])


class Attentive(nn.Module):
    def __init__(self, dropout=0.5):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, dropout, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.stack([x, 2 * x], 1)
        return self.head(self.attention(x, x, x)[0].mean(1))


@pytest.mark.parametrize("draw", RANDOM.values(), ids=RANDOM)
def test_a_loss_that_is_random_in_any_way_is_refused_and_the_random_state_stays(draw):
    (x, y), model = batch(), Noisy(draw)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="loss must not be random, but at the same parameters it (draws|is )"):
        P.loss_of(model, x, y)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("make", [Recurrent, Attentive])
def test_dropout_inside_a_layer_is_refused_by_name(make):
    x, y = batch()
    with pytest.raises(ValueError, match="but layer '(rnn|attention)' is (LSTM|Multi.*) in training mode: at the same"):
        P.loss_of(make().double(), x, y)
    P.loss_of(make(0.0).double(), x, y)
    loss = P.loss_of(make().double().eval(), x, y)
    params = P.params_of(make().double())
    assert loss(params) == loss(params)


def test_a_loss_that_draws_the_same_each_time_is_not_random():
    def seeded(x):
        torch.manual_seed(0)
        return torch.rand(3)

    own = Noisy(lambda x: torch.rand(3, generator=torch.Generator().manual_seed(0)))
    (x, y), model = batch(), Noisy(seeded)
    state = torch.get_rng_state()
    P.loss_of(model, x, y)
    P.loss_of(own, x, y)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mean_over_chunks_is_by_size():
    model, (x, y) = net(), batch()
    params, whole = P.params_of(model), P.loss_of(net(), x, y)(P.params_of(model))

    def mean(losses):
        return sum(share * loss(params) for loss, share in P.shares(losses))

    chunks = [P.loss_of(model, x[:5], y[:5]), P.loss_of(model, x[5:], y[5:])]
    torch.testing.assert_close(mean([(chunks[0], 5), (chunks[1], 2)]), whole, rtol=1e-14, atol=0)
    with pytest.raises(ValueError, match=r"losses alone must be of equal size, got \[5.0, 2.0\]; give pairs"):
        P.shares(chunks)
    even = [P.loss_of(model, x[i : i + 3], y[i : i + 3]) for i in (0, 3)]
    assert [share for _, share in P.shares(even)] == [0.5, 0.5]
    assert P.shares(chunks[0]) == [(chunks[0], 1.0)] and P.shares(chunks[:1]) == [(chunks[0], 1.0)]
    assert [share for _, share in P.shares([lambda p: 1.0, lambda p: 2.0])] == [0.5, 0.5]


@pytest.mark.parametrize("named", [True, False])
def test_with_class_weights_a_chunk_counts_as_the_weights_of_its_labels(named):
    weight = torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)
    criterion = nn.CrossEntropyLoss(weight) if named else partial(nn.functional.cross_entropy, weight=weight)
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.arange(3).repeat_interleave(20)
    model = net()
    params, chunks = P.params_of(model), list(zip(x.split(20), y.split(20), strict=True))
    losses = [P.loss_of(model, *chunk, criterion) for chunk in chunks]
    with pytest.raises(ValueError, match=r"losses alone must be of equal size, got \[200.0, 20.0, 2.0"):
        P.shares(losses)
    pairs = [(loss, weight[labels].sum()) for loss, (_, labels) in zip(losses, chunks, strict=True)]
    mean = sum(share * loss(params) for loss, share in P.shares(pairs))
    torch.testing.assert_close(mean, P.loss_of(model, x, y, criterion)(params), rtol=1e-13, atol=0)


def test_labels_that_are_ignored_do_not_count():
    (x, y), model = batch(60), net()
    y[:25] = -100
    params, chunks = P.params_of(model), list(zip(x.split(30), y.split(30), strict=True))
    losses = [P.loss_of(model, *chunk) for chunk in chunks]
    with pytest.raises(ValueError, match=r"losses alone must be of equal size, got \[5.0, 30.0\]"):
        P.shares(losses)
    mean = sum(share * loss(params) for loss, share in P.shares(list(zip(losses, (5, 30), strict=True))))
    torch.testing.assert_close(mean, P.loss_of(model, x, y)(params), rtol=1e-13, atol=0)
    weighted = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 4.0]).double(), ignore_index=1)
    y = torch.arange(60) % 3
    chunks = [P.loss_of(model, a, b, weighted) for a, b in zip(x.split(15), y.split(15), strict=True)]
    assert [one.size for one in chunks] == [25, 25, 25, 25]


@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, partial(partial, nn.functional.cross_entropy)])
def test_a_list_of_sums_means_their_mean(make):
    (x, y), model = batch(7), net()
    losses = [P.loss_of(model, a, b, make(reduction="sum")) for a, b in ((x[:5], y[:5]), (x[5:], y[5:]))]
    assert [one.size for one in losses] == [None, None] and [share for _, share in P.shares(losses)] == [0.5, 0.5]


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_of_a_net_with_batch_norm_maps_over_models(training):
    (x, y), models = batch(), [net(seed, norm=True).train(training) for seed in range(3)]
    loss = P.loss_of(models[0], x, y)
    buffers = {name: b.clone() for name, b in models[0].named_buffers()}
    many = P.stack([P.params_of(model) for model in models])
    alone = torch.stack([loss(P.params_of(model)) for model in models])
    torch.testing.assert_close(vmap(loss)(many), alone, rtol=1e-12, atol=0)
    grads = vmap(torch.func.grad(loss))(many)
    for i, model in enumerate(models):
        expected = torch.func.grad(loss)(P.params_of(model))
        for name in expected:
            torch.testing.assert_close(grads[name][i], expected[name], rtol=1e-9, atol=1e-12)
    for name, b in models[0].named_buffers():
        assert torch.equal(b, buffers[name])
    broken = {name: p.clone() for name, p in many.items()}
    broken["0.weight"][1] = math.nan
    found = vmap(loss)(broken)
    assert found[1].isnan()
    torch.testing.assert_close(found[0::2], alone[0::2], rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [0, -1, math.nan, "3", None])
def test_sizes_of_losses_are_positive_numbers(size):
    with pytest.raises(ValueError, match="size of a loss must be a finite number > 0, got"):
        P.shares([(net, 1), (net, size)])
    with pytest.raises(ValueError, match="the number of losses must be at least 1, got 0"):
        P.shares([])
    for odd in ((net, 6), [(net,)], [(net, 1, 2)]):
        with pytest.raises(
            ValueError, match=r"losses must be functions of params, alone or in pairs \(loss, size\), got"
        ):
            P.shares(odd)


class Focal(nn.Module):
    """(Lin and others 2017), as most write it: with class weights, and yet the mean over the points."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.reduction = weight, "mean"

    def forward(self, out, y):
        each = nn.functional.cross_entropy(out, y, weight=self.weight, reduction="none")
        return ((1 - (-each).exp()) ** 2 * each).mean()


WEIGHT = torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("criterion", "divisor"),
    [
        (nn.CrossEntropyLoss(WEIGHT), "weights"),
        (partial(nn.functional.nll_loss, weight=WEIGHT), "weights"),
        (nn.MultiMarginLoss(weight=WEIGHT), "points"),
        (Focal(WEIGHT), "points"),
        (lambda out, y: nn.KLDivLoss(reduction="batchmean")(out, nn.functional.one_hot(y, 3).double()), "points"),
    ],
)
def test_a_chunk_counts_as_what_its_criterion_divides_by(criterion, divisor):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y, model = torch.arange(3).repeat_interleave(20), net()
    params, chunks = P.params_of(model), list(zip(x.split((25, 35)), y.split((25, 35)), strict=True))
    losses = [P.loss_of(model, *chunk, criterion) for chunk in chunks]
    sizes = [float(WEIGHT[labels].sum() if divisor == "weights" else len(labels)) for _, labels in chunks]
    assert [float(loss.size) for loss in losses] == pytest.approx(sizes, rel=1e-12)
    mean = sum(share * loss(params) for loss, share in P.shares([(loss, loss.size) for loss in losses]))
    torch.testing.assert_close(mean, P.loss_of(model, x, y, criterion)(params), rtol=1e-13, atol=0)


def test_a_sum_has_no_size_to_be_weighed_by():
    (x, y), model = batch(), net()
    batchmean, whole = nn.KLDivLoss(reduction="batchmean"), nn.functional.one_hot(y, 3).double()
    assert P.loss_of(model, x[:5], whole[:5], batchmean).size == 5
    losses = [
        P.loss_of(model, *part, nn.CrossEntropyLoss(reduction="sum"))
        for part in zip(x.split(4), y.split(4), strict=True)
    ]
    for pairs in ([(loss, loss.size) for loss in losses], [losses[0], (losses[1], 3)]):
        with pytest.raises(
            ValueError, match="size of a loss must be a finite number > 0, got None; its number of points"
        ):
            P.shares(pairs)


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-23, 1.0, 1e20, 1e30])
def test_lengths_and_units_of_vectors_of_any_size(size):
    x = size * torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]])
    exact = x.double().norm(dim=1)
    torch.testing.assert_close(P.length(x).double(), exact, rtol=1e-6, atol=0)
    unit = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64) / 5
    torch.testing.assert_close(P.unit(x).double(), torch.stack([x[0].double() / exact[0], 0 * unit]), rtol=1e-6, atol=0)
    torch.testing.assert_close(P.norm({"a": x[0, :2], "b": x[1]}).double(), exact[0], rtol=1e-6, atol=0)


def test_a_vector_comes_back_in_the_types_of_the_parameters():
    like = {"a": torch.ones(2), "b": torch.ones(1, dtype=torch.float64)}
    back = P.from_vector(P.to_vector(like), like)
    assert [p.dtype for p in back.values()] == [torch.float32, torch.float64]


def test_stack_and_member_are_inverses_and_losses_map():
    members, (x, y) = [P.params_of(net(seed)) for seed in range(3)], batch()
    ensemble = P.stack(members)
    for i, one in enumerate(members):
        assert all(torch.equal(one[name], P.member(ensemble, i)[name]) for name in one)
    loss = P.loss_of(net(), x, y)
    torch.testing.assert_close(vmap(loss)(ensemble), torch.stack([loss(m) for m in members]), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="members must hold at least one model, got none"):
        P.stack([])
    fewer = {name: p for name, p in members[0].items() if name != "0.bias"}
    for pair in ([members[0], fewer], [fewer, members[0]]):
        with pytest.raises(ValueError, match=r"members\[1\] must have the names and shapes {.*}, got {"):
            P.stack(pair)


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


@pytest.mark.parametrize("f", [P.add, P.dot])
def test_names_that_one_side_lacks_are_not_left_out_of_a_sum(f):
    whole = P.params_of(net())
    part = {name: p for name, p in whole.items() if name != "0.bias"}
    for one, other in ((whole, part), (part, whole)):
        with pytest.raises(ValueError, match=r"parameters must be of the same names, got .*0\.bias"):
            f(one, other)


def test_sums_products_and_norms_are_those_of_the_vectors():
    a, b = P.params_of(net(0)), P.params_of(net(1))
    u, v = P.to_vector(a), P.to_vector(b)
    torch.testing.assert_close(P.to_vector(P.add(a, b)), u + v, rtol=1e-15, atol=0)
    torch.testing.assert_close(P.to_vector(P.add(a, b, -0.3)), u - 0.3 * v, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(P.dot(a, b), u @ v, rtol=1e-12, atol=0)
    torch.testing.assert_close(P.norm(a), u.norm(), rtol=1e-12, atol=0)


def test_losses_may_come_in_any_row():
    for row in (np.array([net, net]), iter([net, net]), (net, net)):
        assert [share for _, share in P.shares(row)] == [0.5, 0.5]


WITH_PARAMS = {
    "loss": lambda loss, p: loss(p),
    "top_eigenvalues": lambda loss, p: hessian.top_eigenvalues(loss, p),
    "hvp": hessian.hvp,
    "dense": hessian.dense,
    "trace": hessian.trace,
    "spectral_density": hessian.spectral_density,
    "worst_sharpness": lambda loss, p: sharpness.worst_sharpness(loss, p, 0.1),
    "average_sharpness": lambda loss, p: sharpness.average_sharpness(loss, p, 0.1),
    "box_sharpness": lambda loss, p: sharpness.box_sharpness(loss, p, 0.1),
    "ascent_sharpness": lambda loss, p: sharpness.ascent_sharpness(loss, p, 0.1),
    "m_sharpness": lambda loss, p: sharpness.m_sharpness([loss], p, 0.1),
    "sam_gradient": lambda loss, p: sam.sam_gradient(loss, p, 0.1),
    "m_sam_gradient": lambda loss, p: sam.m_sam_gradient([loss], p, 0.1),
    "line": lambda loss, p: landscape.line(loss, p, p, [0.0, 1.0]),
    "plane": lambda loss, p: landscape.plane(loss, p, p, p, [0.0], [1.0]),
    "random_directions": lambda loss, p: landscape.random_directions(p, seed=0),
    "capacity": lambda loss, p: measures.capacity(p),
    "norm": lambda loss, p: P.norm(p),
    "add": lambda loss, p: P.add(p, p),
    "stack": lambda loss, p: P.stack([p]),
    "member": lambda loss, p: P.member(p, 0),
}
NO_LOSS = {"loss", "random_directions", "capacity", "norm", "add", "stack", "member"}  # that they are given


@pytest.mark.parametrize("name", WITH_PARAMS)
def test_a_model_in_the_place_of_its_parameters_is_named_with_the_remedy(name):
    model = nn.Linear(3, 2)
    loss = P.loss_of(model, torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))
    for odd in (model, list(model.parameters()), model.named_parameters()):
        kind = type(odd).__name__
        with pytest.raises(ValueError, match=rf"^params must be a dict .* got '{kind}'; give params_of\(model\)$"):
            WITH_PARAMS[name](loss, odd)


@pytest.mark.parametrize("name", sorted(WITH_PARAMS.keys() - NO_LOSS))
def test_a_model_or_a_number_in_the_place_of_a_loss_is_named_with_the_remedy(name):
    """A model can be called, and PyTorch's words would be about the inputs of its first layer."""
    model = nn.Linear(3, 2)
    loss = P.loss_of(model, torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))
    listed = "^losses must be functions of params, alone or in pairs"
    for odd in (model, loss(P.params_of(model))):
        alone = rf"^loss must be a function of params, got '{type(odd).__name__}'; give loss_of\(model, x, y\)$"
        with pytest.raises(ValueError, match=listed if name.startswith("m_") and odd is not model else alone):
            WITH_PARAMS[name](odd, P.params_of(model))
