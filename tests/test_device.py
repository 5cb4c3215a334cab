"""What a GPU would notice, on a CPU: tensors of device "meta" have no values, so asking one for its value is an error,
as is mixing it with a tensor that some code put on the CPU by itself."""

import ast
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.func import vmap

from sam_lite import ascents, climb, hessian, landscape, sharpness, stacked
from sam_lite.data import load
from sam_lite.ensemble import train_ensemble
from sam_lite.models import build, mlp
from sam_lite.params import loss_of, params_of
from sam_lite.sam import SAM, m_sam_gradient, sam_gradient

PACKAGE = Path(__file__).parent.parent / "sam_lite"
# file -> where it may name a device: it asks for one, saves to disk, or gives way to SciPy and LAPACK on the CPU
NAMED = {
    "require": {"cpu"},
    "pure": {"cpu"},
    "params": {"cpu"},
    "ascents": {"cpu"},
    "data": {"cuda", "cpu", "mps"},
    "landscape": {"cpu"},
    "rivals": {"cpu"},  # where the numbers are drawn, as in sam
    "sam": {"cpu"},
    "train": {"cuda", "cpu"},  # autocast; and where numbers are drawn
    "ensemble": {"cpu"},
    "study": {"cpu"},
    "models": {"cpu"},
    "checkpoint": {"cpu"},
}


@pytest.fixture
def problem():
    """(model, loss, params, x, y) without values."""
    model = mlp(6, [5, 4], 3).to("meta")
    x, y = torch.empty(8, 6, device="meta"), torch.empty(8, dtype=torch.long, device="meta")
    return model, loss_of(model, x, y), params_of(model), x, y


PURE = {
    "ascent": lambda loss, p: ascents.ascent(p, p, 0.1),
    "adaptive_ascent": lambda loss, p: ascents.adaptive_ascent(p, p, 0.1),
    "p_ascent 1": lambda loss, p: ascents.p_ascent(1.0)(p, p, 0.1),
    "p_ascent inf": lambda loss, p: ascents.p_ascent(float("inf"))(p, p, 0.1),
    "sam_gradient": lambda loss, p: sam_gradient(loss, p, 0.1)[0],
    "m_sam_gradient": lambda loss, p: m_sam_gradient([loss, loss], p, 0.1)[0],
    "hvp": lambda loss, p: hessian.hvp(loss, p)(p),
    "dense": lambda loss, p: hessian.dense(loss, p),
    "ascent_sharpness": lambda loss, p: sharpness.ascent_sharpness(loss, p, 0.1).value,
    "line": lambda loss, p: landscape.line(loss, p, p, [0.0, 0.5]),
    "a step of the search": lambda loss, p: climb.slope(
        climb.landscape(loss, p, sharpness._ball(p, 0.1, False)), torch.empty(74, device="meta")
    ),
}


@pytest.mark.parametrize("name", PURE)
def test_no_value_is_asked_for_and_nothing_lies_on_another_device(name, problem):
    _, loss, params, _, _ = problem
    found = PURE[name](loss, params)
    for tensor in torch.utils._pytree.tree_leaves(found):
        assert tensor.device.type == "meta"


def test_a_step_of_the_optimizer_waits_for_no_value(problem):
    model, _, _, x, y = problem
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    assert optimizer.step(closure).device.type == "meta"


def test_the_gradient_and_the_evaluation_of_an_ensemble_stay_where_they_are(problem):
    model, _, params, x, y = problem
    many = {name: torch.empty(7, *p.shape, device="meta") for name, p in params.items()}
    batches = x.expand(7, 8, 6), y.expand(7, 8)
    grads = stacked.gradient(model)(many, *batches)
    found = stacked.evaluate(stacked.forward(model), many, x, y)
    together = vmap(lambda p: sam_gradient(loss_of(model, x, y), p, 0.1)[0])(many)
    for tensor in [*grads.values(), *together.values(), *found]:
        assert tensor.device.type == "meta"


def test_masks_of_dropout_wait_for_no_value():
    rates, generators = torch.tensor([0.0, 0.1]), [torch.Generator().manual_seed(s) for s in range(2)]
    for mask, width in zip(stacked.dropout(rates, generators, 8, [5, 4], torch.device("meta")), (5, 4), strict=True):
        assert mask.device.type == "meta" and mask.shape == (2, 8, width)


@pytest.fixture
def a_default():
    """The device on which tensors are made that are not told where, as somebody may have set it for all of torch."""
    yield lambda: torch.set_default_device("meta")
    torch.set_default_device(None)


def test_a_default_device_is_not_that_of_what_is_given(a_default):
    data, make = load("mnist1d", n_train=100, n_test=50), partial(mlp, 40, [10], 10)

    def found():
        run = train_ensemble(make, data, seeds=[0, 1], batch_size=20, lr=0.1, steps=30, dropout=[0, 0.2], stop_loss=2.3)
        params = params_of(build(make, 0))
        loss = loss_of(build(make, 0), *data[:2])
        directions = landscape.random_directions(params, 0)[:2]
        sharp = sharpness.box_sharpness(loss, params, 1e-3), sharpness.worst_sharpness(loss, params, 0.1)
        plane = landscape.plane(loss, params, *directions, [0, 0.5], [0, 1])
        return [run.table, *[one[0] for one in sharp], plane, *directions[0].values()]

    table, *expected = found()
    a_default()
    with_one, *others = found()
    assert with_one.equals(table) and all(one.device.type == "cpu" for one in others)
    torch.set_default_device(None)
    assert all(map(torch.equal, others, expected))


def test_devices_are_named_only_where_one_is_asked_for():
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found = texts & {"cuda", "cpu", "mps"}
        assert found <= NAMED.get(path.stem, set()), f"{path.name} names {found}"
        calls = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
        assert "cuda" not in calls and "synchronize" not in calls, path.name
