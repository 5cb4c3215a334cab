"""On a CUDA device the method gives what it gives on a processor, and a step of SAM never waits for the device."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from sam_lite import hessian
from sam_lite.data import digits
from sam_lite.ensemble import train_ensemble
from sam_lite.models import build, mlp
from sam_lite.params import loss_of, params_of
from sam_lite.sam import SAM, adaptive_ascent, ascent, p_ascent
from sam_lite.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ASCENTS = {"2": ascent, "adaptive": adaptive_ascent, "p = 1": p_ascent(1), "p = inf": p_ascent(math.inf)}
BASES = {"SGD": partial(SGD, lr=0.1, momentum=0.9), "Adam": partial(Adam, lr=0.01)}


def stepped(device, climb, base, steps=10):
    """A network after some steps of SAM, and the lengths of its climbs."""
    model = build(partial(mlp, 6, [9], 3), 0).double().to(device)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, 20, 6, generator=generator, dtype=torch.float64).to(device)
    y = torch.randint(3, (steps, 20), generator=generator).to(device)
    optimizer, lengths = SAM(base(model.parameters()), rho=0.1, ascent=climb), []
    for step in range(steps):

        def closure(step=step):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[step]), y[step])
            loss.backward()
            return loss

        closure()
        with optimizer.perturbed():
            perturbed = [p.detach().clone() for p in model.parameters()]
        squares = [(w - p).square().sum() for w, p in zip(perturbed, model.parameters(), strict=True)]
        lengths.append(torch.stack(squares).sum().sqrt())
        optimizer.step(closure)
    return params_of(model), torch.stack(lengths)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize("climb", ASCENTS.values(), ids=ASCENTS)
def test_sam_steps_as_on_a_processor(climb, base):
    (here, lengths), (there, others) = stepped("cuda", climb, base), stepped("cpu", climb, base)
    torch.testing.assert_close({k: v.cpu() for k, v in here.items()}, there, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(lengths.cpu(), others, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_climb_has_its_length_for_small_and_large_gradients(scale):
    model = nn.Linear(300, 1, bias=False, device="cuda")
    nn.init.zeros_(model.weight)
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.05)
    model.weight.grad = scale * torch.randn(1, 300, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    with optimizer.perturbed():
        assert model.weight.double().norm().item() == pytest.approx(0.05, rel=1e-5)
    assert model.weight.norm().item() == 0


@pytest.mark.parametrize("climb", ASCENTS.values(), ids=ASCENTS)
def test_a_step_of_sam_does_not_wait_for_the_device(climb):
    model = mlp(64, [32, 32], 10).cuda()
    x, y = torch.randn(16, 64, device="cuda"), torch.randint(10, (16,), device="cuda")
    optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05, ascent=climb)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)  # the first may load kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_an_ensemble_trains_as_on_a_processor(rho):
    data = digits(n_train=200, n_test=100, seed=0)
    how = dict(seeds=range(5), batch_size=20, lr=0.1, momentum=0.9, rho=rho, steps=40)
    here, there = (train_ensemble(partial(mlp, 64, [32], 10), data.to(d), **how) for d in ("cuda", "cpu"))
    for name, p in there.params.items():
        torch.testing.assert_close(here.params[name].cpu(), p, rtol=0.01, atol=1e-3)


def test_curvature_is_as_on_a_processor():
    data = digits(n_train=200, n_test=100, seed=0)
    found = {}
    for device in ("cpu", "cuda"):
        model = build(partial(mlp, 64, [16], 10), 0).double().to(device)
        loss = loss_of(model, data.x_train.double().to(device), data.y_train.to(device))
        top = hessian.top_eigenvalues(loss, params_of(model), k=3, steps=60, tol=1e-6)
        trace = hessian.trace(loss, params_of(model), probes=5)
        found[device] = [*top.values.tolist(), trace.mean.item()]
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-6)


def test_training_in_bfloat16_keeps_weights_in_float32():
    data = digits(n_train=400, n_test=100, seed=0).to("cuda")
    model = build(partial(mlp, 64, [64], 10), 0).cuda()
    run = train(model, data, SGD(model.parameters(), lr=0.1), batch_size=20, steps=300, autocast=True)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert run.records["train_loss"].iloc[-1] < 1 < F.cross_entropy(torch.zeros(1, 10), torch.tensor([0]))
