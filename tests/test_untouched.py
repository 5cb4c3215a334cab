"""A model is changed by nothing but training and `load_params`: every public function, on awkward models."""

import copy
import warnings
from collections import OrderedDict, defaultdict, deque
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

from sam_lite import hessian, landscape, measures, sharpness, stacked
from sam_lite.batchnorm import loss_between
from sam_lite.data import Data
from sam_lite.ensemble import train_ensemble
from sam_lite.params import add, load_params, loss_of, params_of, stack
from sam_lite.pure import untouched
from sam_lite.sam import SAM, m_sam_gradient, sam_gradient
from sam_lite.train import train

X, Y = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x[:, None])[0][:, -1])


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(5, 1, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.stack([x, x.roll(1, 1)], 1)
        return self.head(self.attention(x, x, x)[0].mean(1))


class Words(nn.Module):
    """An embedding tied to the output layer, of the words that the largest entries name."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x):
        return self.out(self.words(x.topk(2).indices).mean(1))[:, :3]


class TwoNames(nn.Module):
    """One module under two names, and in a plain list that PyTorch does not see."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second, self.layers, self.out = self.first, [self.first], nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.layers[0](self.second(self.first(x).relu()).relu()))


class Hidden(nn.Module):
    """Batch norm in training mode, in a list inside a list: no part of the model for PyTorch."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(5, 4), nn.Linear(4, 3)
        self.norms = [[nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())]]

    def forward(self, x):
        return self.out(self.norms[0][0](self.layer(x)))


class Stateful(nn.Module):
    """Counts, caches, averages and remembers in attributes that are no buffers."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls, self.seen, self.cache = nn.Linear(5, 3), 0, [], {}
        self.mean = torch.zeros(3)

    def forward(self, x):
        out = self.layer(x)
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * out.detach().mean(0)
        self.seen.append(out)
        self.cache["last"] = self.latest = out
        return out


def frozen():
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    return model


def hooked():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    handle = model[0].register_forward_hook(lambda *_: handle.remove())  # runs once
    return model


def once_more():
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(5, 3))


def with_norm(norm, training=True):
    return nn.Sequential(nn.Linear(5, 4), norm(4), nn.ReLU(), nn.Linear(4, 3)).train(training)


def wrapped(wrap):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old weight norm
        return nn.Sequential(wrap(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 3))


def two_modes():
    model = with_norm(nn.BatchNorm1d)
    model[1].eval()
    return model


MODELS = {
    "a layer used twice": once_more,
    "a module with two names": TwoNames,
    "tied weights, embedding": Words,
    "frozen layer": frozen,
    "LSTM": Recurrent,
    "attention": Attentive,
    "state in attributes": Stateful,
    "a hook that removes itself": hooked,
    "batch norm, training": partial(with_norm, nn.BatchNorm1d),
    "batch norm, evaluation": partial(with_norm, nn.BatchNorm1d, False),
    "batch norm frozen in training": two_modes,
    "batch norm in a list of lists": Hidden,
    "instance norm": partial(with_norm, lambda n: nn.GroupNorm(2, n)),
    "spectral norm": partial(wrapped, parametrizations.spectral_norm),
    "weight norm": partial(wrapped, parametrizations.weight_norm),
    "old spectral norm": partial(wrapped, nn.utils.spectral_norm),
    "old weight norm": partial(wrapped, nn.utils.weight_norm),
    "compiled": lambda: torch.compile(with_norm(nn.BatchNorm1d), backend="eager"),
    "dropout, evaluation": lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 3)).eval(),
}
FUNCTIONS = {
    "loss_of": lambda loss, p, model: loss(p),
    "hvp": lambda loss, p, model: hessian.hvp(loss, p)(p),
    "dense": lambda loss, p, model: hessian.dense(loss, p),
    "top_eigenvalues": lambda loss, p, model: hessian.top_eigenvalues([loss, loss], p, steps=3),
    "trace": lambda loss, p, model: hessian.trace(loss, p, probes=2),
    "spectral_density": lambda loss, p, model: hessian.spectral_density(loss, p, steps=2, probes=2),
    "box_sharpness": lambda loss, p, model: sharpness.box_sharpness(loss, p, 1e-3, steps=2),
    "box_sharpness_lbfgs": lambda loss, p, model: sharpness.box_sharpness_lbfgs(loss, p, 1e-3, steps=2),
    "worst_sharpness": lambda loss, p, model: sharpness.worst_sharpness(loss, p, 0.1, steps=2, starts=1),
    "ascent_sharpness": lambda loss, p, model: sharpness.ascent_sharpness(loss, p, 0.1),
    "average_sharpness": lambda loss, p, model: sharpness.average_sharpness(loss, p, 0.1, samples=2),
    "m_sharpness": lambda loss, p, model: sharpness.m_sharpness(
        [loss, loss], p, 0.1, measure=sharpness.ascent_sharpness
    ),
    "sam_gradient": lambda loss, p, model: sam_gradient(loss, p, 0.1),
    "m_sam_gradient": lambda loss, p, model: m_sam_gradient([loss, loss], p, 0.1),
    "line": lambda loss, p, model: landscape.line(loss, p, add(p, p), [0, 0.5]),
    "plane": lambda loss, p, model: landscape.plane(loss, p, p, p, [0, 0.1], [0]),
    "random_directions": lambda loss, p, model: landscape.random_directions(p, 0),
    "loss_between, interpolated": lambda loss, p, model: loss_between(model, model, X, Y, "interpolate")(p),
    "loss_between, recomputed": lambda loss, p, model: loss_between(model, model, X, Y, X)(p),
    "an error in the model": lambda loss, p, model: pytest.raises(
        (RuntimeError, AssertionError, IndexError), loss_of, model, X[:, :0], Y
    ),
    "an error in the loss": lambda loss, p, model: pytest.raises(
        ZeroDivisionError, loss_of, model, X, Y, lambda out, y: 1 / 0
    ),
}


def state(model):
    """Everything that a forward pass could change, by value and by identity."""
    found = {"rng": torch.get_rng_state()}
    hidden = [("in the list", module) for module in model.norms[0][0].modules()] if isinstance(model, Hidden) else []
    for name, module in [*model.named_modules(remove_duplicate=False), *hidden]:
        name = f"{name} {type(module).__name__}"
        attributes = vars(module)
        tensors = {k: v for k, v in attributes.items() if isinstance(v, torch.Tensor)}
        tensors |= module._parameters | module._buffers
        for key, t in tensors.items():
            if t is not None:
                found[f"{name}.{key}"] = t.detach().clone()
                found[f"{name}.{key} is"] = (
                    id(t),
                    t.requires_grad,
                    t.grad_fn,
                    t.grad.clone() if t.is_leaf and t.grad is not None else None,
                )
        for key, value in attributes.items():
            if isinstance(value, list | dict | set):
                found[f"{name}.{key} holds"] = (id(value), [id(v) for v in value], len(value))
            else:
                found[f"{name}.{key} is the same"] = id(value)
        found[f"{name} trains"] = module.training
    return found


def assert_as_before(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[key]), key
        elif key.endswith(" is"):
            *same, gradient = value
            assert same == list(after[key][:3]), key
            assert gradient is None and after[key][3] is None or torch.equal(gradient, after[key][3]), key
        else:
            assert value == after[key], key


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = request.param()
    F.cross_entropy(model(X), Y).backward()  # as in training: gradients, statistics and caches are there
    return model


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch.vmap over the new weight norm
def test_no_function_changes_a_model(model):
    loss, params = loss_of(model, X, Y), params_of(model)
    before = state(model)
    for function in FUNCTIONS.values():
        function(loss, params, model)
        assert_as_before(before, state(model))
    loss_of(model, X, Y)
    assert_as_before(before, state(model))


def test_the_loss_is_the_models_own(model):
    """And the gradient that of backward, which sees each use of a tied weight."""
    loss, params, buffers = loss_of(model, X, Y), params_of(model), [dict(model.named_buffers()) for _ in range(2)]
    buffers = [{name: b.clone() for name, b in each.items()} for each in buffers]
    with untouched(model):
        expected = F.cross_entropy(functional_call(model, buffers[0], (X,)), Y).detach()
    torch.testing.assert_close(loss(params), expected, rtol=1e-6, atol=0)
    found = torch.func.grad(loss)(params)
    with untouched(model):
        own = F.cross_entropy(functional_call(model, buffers[1], (X,)), Y)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for (name, _), g in zip(trained.items(), torch.autograd.grad(own, trained.values()), strict=True):
        torch.testing.assert_close(found[name], g, rtol=1e-4, atol=1e-6)


def test_measures_change_no_model(model):
    params = params_of(model)
    if not isinstance(model, Recurrent | Attentive | Words | Stateful | TwoNames | Hidden) and not list(
        model.buffers()
    ):
        before = state(model)
        loss = loss_of(model, X, Y)

        def outputs(p, x):
            with untouched(model):
                return functional_call(model, p, (x,))

        measures.measure(outputs, params, params, X, Y, samples=1)
        measures.curvature(outputs, params, X, Y, samples=1)
        assert loss(params).isfinite()
        assert_as_before(before, state(model))


def test_training_goes_on_as_if_nothing_had_been_measured(model):
    if (
        isinstance(model, Stateful)
        or hasattr(model, "_orig_mod")
        or any(n.endswith("_g") or "_orig" in n for n, _ in model.named_parameters())
    ):
        return  # cannot be copied after a forward pass
    twin = copy.deepcopy(model)
    hessian.top_eigenvalues(loss_of(model, X, Y), params_of(model), steps=2)
    for each in (model, twin):
        each.zero_grad()
        F.cross_entropy(each(X), Y).backward()
    for (name, p), (_, q) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.equal(p, q) and (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name


def test_load_params_changes_values_alone():
    model = once_more()
    before, doubled = state(model), {name: 2 * p for name, p in params_of(model).items()}
    load_params(model, doubled)
    after = state(model)
    assert before.keys() == after.keys()
    assert all(before[key] == after[key] for key in before if key.endswith((" is the same", " trains", " holds")))
    assert torch.equal(model[0].weight, doubled["0.weight"]) and model[0] is model[2]


def test_modes_and_statistics_are_those_when_the_loss_was_made():
    model = with_norm(nn.BatchNorm1d)
    loss, params = loss_of(model, X, Y), params_of(model)
    value = loss(params)
    model.eval()(3 * X)
    assert loss(params) == value and not model.training
    model.train()(3 * X + 1)
    other = loss_of(model.eval(), X, Y)
    model.train()
    assert loss(params) == value != other(params)
    drops = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 3)).eval()
    loss = loss_of(drops, X, Y)
    drops.train()
    assert loss(params_of(drops)) == loss(params_of(drops))


def test_inputs_that_a_model_changes_stay_what_they_are():
    """The other route: the model on a copy of the inputs, with another first layer that changes nothing."""
    x, params = X.clone(), params_of(nn.Sequential(nn.ReLU(), nn.Linear(5, 3)))
    loss = loss_of(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)), x, Y)
    assert torch.equal(x, X)
    other = loss_of(nn.Sequential(nn.ReLU(), nn.Linear(5, 3)), X.clone(), Y)
    assert loss(params) == other(params) and torch.equal(x, X)
    once = nn.Sequential(nn.Linear(5, 3))
    once.register_forward_pre_hook(lambda layer, args: (args[0].sub_(1),))
    params = {name.removeprefix("0."): p for name, p in params_of(once).items()}
    expected = loss_of(nn.Linear(5, 3), X - 1, Y)(params)
    torch.testing.assert_close(loss_of(once, x, Y)(params_of(once)), expected)  # and the loss is not called random
    assert torch.equal(x, X)


def from_one(out, y):
    """A criterion for labels from 1 on, in place."""
    return F.cross_entropy(out, y.sub_(1))


def test_labels_that_a_criterion_changes_stay_what_they_are():
    """The other route: a criterion that leaves them."""
    data, settings = Data(X, Y + 1, X.flip(0), Y.flip(0) + 1), {"batch_size": 4, "steps": 60, "check_every": 2}

    def other(out, y):
        return F.cross_entropy(out, y - 1)

    rows, losses, tables = [], [], []
    for criterion in (from_one, other):
        model = nn.Linear(5, 4).requires_grad_()
        load_params(model, {"weight": torch.eye(4, 5), "bias": torch.zeros(4)})
        losses.append(loss_of(model, X, data.y_train, criterion)(params_of(model)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rows.append(train(model, data, optimizer, criterion=criterion, record_every=7, **settings).records)
        make = lambda: nn.Sequential(nn.Linear(5, 4))  # noqa: E731
        many = train_ensemble(make, data, seeds=[0, 1], lr=0.1, weight_decay=0.1, criterion=criterion, **settings)
        tables.append(many.table)
        assert torch.equal(data.y_train, Y + 1) and torch.equal(data.y_test, Y.flip(0) + 1)
    assert losses[0] == losses[1] and rows[0].equals(rows[1]) and tables[0].equals(tables[1])


def test_two_parameters_in_one_memory_are_refused_and_one_of_two_names_is_not():
    """SAM would climb by e of each, together up to rho times the root of 2; an ensemble would part them."""
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.ReLU(), nn.Linear(5, 5, bias=False))
    model[2].weight.data = model[0].weight.data
    match = r"parameters must be apart in memory, got 'two of shape \(5, 5\) in one'; tie them as one parameter"
    makers = [lambda: loss_of(model, X, Y), lambda: loss_between(model, model, X, Y, "keep")]
    for make in (*makers, lambda: SAM(torch.optim.SGD(model.parameters(), 0.1), 0.5)):
        with pytest.raises(ValueError, match=match):
            make()
    model[2].weight = model[0].weight
    optimizer, seen = SAM(torch.optim.SGD(model.parameters(), 0.0), 0.5), []

    def closure():
        optimizer.zero_grad()
        seen.append(model[0].weight.detach().clone())
        F.cross_entropy(model(X), Y).backward()
        return torch.tensor(0.0)

    optimizer.step(closure)
    assert (seen[1] - seen[0]).norm().item() == pytest.approx(0.5, rel=1e-5)
    assert loss_of(model, X, Y)(params_of(model)) == F.cross_entropy(model(X), Y)
    SAM(torch.optim.SGD([nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(0)), *nn.LSTM(2, 2).parameters()]), 0.1)
    SAM(torch.optim.SGD(nn.Sequential(nn.LazyLinear(3), nn.Linear(2, 2, device="meta")).parameters()), 0.1)


def test_some_of_the_parameters_are_enough_and_none_of_them_are_not():
    model = once_more()
    params, loss = params_of(model), loss_of(model, X, Y)
    head = {name: p for name, p in params.items() if name[0] == "4"}
    whole = torch.linalg.matrix_norm(hessian.dense(loss, params)[-18:, -18:])
    torch.testing.assert_close(torch.linalg.matrix_norm(hessian.dense(loss, head)), whole)
    with pytest.raises(ValueError, match=r"params must be of the model, \['0.bias', .*\], got \['weight'\]"):
        loss({"weight": torch.ones(2)})


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_models_that_take_no_other_parameters_are_refused():
    script = torch.jit.script(with_norm(nn.BatchNorm1d))
    for model, name in (
        (script, "Script"),
        (nn.Sequential(script), "Script.*0"),
        (nn.DataParallel(once_more()), "Data"),
    ):
        with pytest.raises(ValueError, match=f"model must be plain modules, got .*{name}.*; use what it was made of"):
            loss_of(model, X, Y)
        with pytest.raises(ValueError, match=f"model must be plain modules, got .*{name}.*; use what it was made of"):
            loss_between(model, model, X, Y, "keep")


class Keeping(nn.Module):
    """Keeps what it sees in containers of every kind, most of them empty at first, and counts in a plain tensor."""

    def __init__(self):
        super().__init__()
        self.layer, self.count, self.deep = nn.Linear(5, 3), torch.zeros(()), {"a": [], "b": ({}, [])}
        self.seen, self.named, self.last = defaultdict(list), OrderedDict(), deque(maxlen=2)
        self.known = defaultdict(list, layer=[])

    def forward(self, x):
        out = self.layer(x)
        self.count += 1
        self.named["out"] = self.known["other"] = out
        for kept in (self.deep["a"], self.seen["layer"], self.known["layer"], self.last):
            kept.append(out)
        return out


def test_what_a_model_keeps_in_any_container_is_put_back():
    model = Keeping()
    loss, params = loss_of(model, X, Y), params_of(model)
    hessian.trace(loss, params, probes=2)
    assert model.count == 0 and model.deep == {"a": [], "b": ({}, [])} and model.known == {"layer": []}
    assert not model.seen and not model.named and not model.last and model.last.maxlen == 2
    copy.deepcopy(model)  # which a tensor with a graph would not let
    torch.testing.assert_close(loss(params), F.cross_entropy(model(X), Y).detach())
    assert model.count == 1 and len(model.seen["layer"]) == 1


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_values_that_parametrize_caches_are_not_used():
    model = parametrizations.weight_norm(nn.Linear(5, 3))
    loss, params = loss_of(model, X, Y), params_of(model)
    expected = hessian.dense(loss, params)
    with parametrize.cached():
        before = model.weight
        assert torch.equal(hessian.dense(loss, params), expected)
        assert model.weight is before
    twin = stacked.forward(model)
    with parametrize.cached():
        assert model(X) is not None
        many = twin(stack([params, add(params, params)]), X.expand(2, *X.shape))
    torch.testing.assert_close(many[1], load_params(model, add(params, params))(X), rtol=1e-5, atol=1e-6)


def test_stacked_models_leave_a_layer_that_is_used_twice_as_it_was():
    model = once_more()
    before = state(model)
    stacked.forward(model)(stack([params_of(model)]), X[None])
    assert_as_before(before, state(model))


def test_recurrent_layers_compute_without_cudnn_and_others_with_it():
    class Looking(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.head = inner, nn.Linear(5, 3)

        def forward(self, x):
            seen.append(torch.backends.cudnn.enabled)
            return self.head(self.inner(x)[0] if isinstance(self.inner, nn.LSTM) else self.inner(x))

    for inner, expected in ((nn.LSTM(5, 5), False), (nn.Linear(5, 5), True)):
        model, seen = Looking(inner), []
        loss_of(model, X, Y)(params_of(model))
        assert set(seen) == {expected} and torch.backends.cudnn.enabled


@pytest.mark.parametrize("how", ["embedding", "bag", "function"])
def test_models_that_change_their_weights_are_refused(how):
    class Renormed(nn.Module):
        def __init__(self):
            super().__init__()
            kind = nn.EmbeddingBag if how == "bag" else nn.Embedding
            self.words, self.out = kind(5, 3, max_norm=None if how == "function" else 0.5), nn.Linear(3, 3)

        def forward(self, x):
            words = x.topk(2).indices
            h = F.embedding(words, self.words.weight, max_norm=0.5) if how == "function" else self.words(words)
            return self.out(h if how == "bag" else h.mean(1))

    model = Renormed()
    before, message = model.words.weight.detach().clone(), "model must be without max_norm, which .* 'words'"
    if how == "function":
        message = r"model must be one that leaves its weights as they are, got .*\['words.weight'\]"
    with pytest.raises(ValueError, match=message):
        loss_of(model, X, Y)
    assert torch.equal(model.words.weight, before)
