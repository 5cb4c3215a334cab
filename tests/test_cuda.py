"""On a CUDA device the method gives what it gives on a processor, and a step of SAM never waits for the device."""

import math
import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import test_untouched as awkward
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import SGD, Adam

from sam_lite import hessian, measures
from sam_lite.data import digits
from sam_lite.ensemble import train_ensemble
from sam_lite.models import build, mlp
from sam_lite.params import load_params, loss_of, params_of
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


@contextmanager
def waits_are_errors():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_is_noticed():
    with waits_are_errors(), pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        torch.ones((), device="cuda").item()


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
    with waits_are_errors():
        for _ in range(3):
            optimizer.step(closure)


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


def noisy():
    """Batch norm and dropout: a step writes statistics and draws random numbers."""
    layers = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10)
    return nn.Sequential(*layers).cuda()


def closure_of(model, optimizer, x, y, seen=None):
    def closure():
        optimizer.zero_grad()
        out = model(x)
        loss = F.cross_entropy(out, y)
        loss.backward()
        if seen is not None:
            seen.append(out.detach())
        return loss

    return closure


def batch():
    return torch.randn(16, 64, device="cuda"), torch.randint(10, (16,), device="cuda")


def test_batch_norm_and_dropout_make_no_step_wait_either():
    model, (x, y) = noisy(), batch()
    optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.05)
    closure = closure_of(model, optimizer, x, y)
    optimizer.step(closure)
    with waits_are_errors():
        optimizer.step(closure)


def test_both_passes_leave_out_the_same_units_and_the_next_step_others():
    model, seen = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 64)).cuda(), []
    load_params(model, {"1.weight": torch.eye(64, device="cuda"), "1.bias": torch.zeros(64, device="cuda")})
    optimizer = SAM(SGD(model.parameters(), lr=0.0), rho=1e-6)
    closure = closure_of(model, optimizer, *batch(), seen)
    optimizer.step(closure)
    optimizer.step(closure)
    first, second, third, _ = [out.abs() > 1e-3 for out in seen]
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_batch_statistics_follow_the_first_pass_alone():
    twins = [noisy(), noisy()]
    load_params(twins[1], params_of(twins[0]))
    x, y = batch()
    optimizer = SAM(SGD(twins[0].parameters(), lr=0.1), rho=5.0)
    optimizer.step(closure_of(twins[0], optimizer, x, y))
    twins[1](x)
    for (name, b), (_, c) in zip(twins[0].named_buffers(), twins[1].named_buffers(), strict=True):
        assert torch.equal(b, c), name


def test_a_step_inside_autocast_climbs_as_one_whose_closure_has_it():
    made = []
    for outside in (True, False):
        model = build(partial(mlp, 64, [32, 32], 10), 0).cuda()
        optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=2.0)
        torch.manual_seed(1)
        closure = closure_of(model, optimizer, *batch())
        if outside:
            with torch.autocast("cuda", torch.bfloat16):
                optimizer.step(closure)
        else:
            torch.autocast("cuda", torch.bfloat16)(closure)()
            with optimizer.perturbed():
                torch.autocast("cuda", torch.bfloat16)(closure)()
            optimizer.base_optimizer.step()
        made.append(params_of(model))
    torch.testing.assert_close(*made, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of what PyTorch compiles with
def test_a_compiled_model_steps_as_it_does_uncompiled():
    made = []
    for compiled in (True, False):
        model = build(partial(mlp, 64, [32, 32], 10), 0).cuda()
        optimizer = SAM(SGD(model.parameters(), lr=0.1), rho=0.5)
        torch.manual_seed(1)
        closure = closure_of(torch.compile(model) if compiled else model, optimizer, *batch())
        for _ in range(3):
            optimizer.step(closure)
        made.append(params_of(model))
    torch.testing.assert_close(*made, rtol=1e-3, atol=1e-5)


def test_half_precision_with_a_scaler_as_the_docstring_says():
    made = []
    for half in (True, False):
        model = build(partial(mlp, 64, [32, 32], 10), 0).cuda()
        optimizer, scaler = SAM(SGD(model.parameters(), lr=0.1), rho=0.5), torch.amp.GradScaler("cuda", enabled=half)
        torch.manual_seed(1)
        x, y = batch()

        def both(model=model, optimizer=optimizer, scaler=scaler, half=half, x=x, y=y):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16, enabled=half):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()

        for _ in range(3):
            both()
            with optimizer.perturbed():
                both()
            scaler.unscale_(optimizer.base_optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer.base_optimizer)
            scaler.update()
        made.append(params_of(model))
    start = params_of(build(partial(mlp, 64, [32, 32], 10), 0).cuda())
    moved = max((made[1][name] - start[name]).abs().max() for name in start)
    for name, p in made[0].items():
        assert (p - made[1][name]).abs().max() < 0.02 * moved, name


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    data, made = digits(n_train=200, n_test=100, seed=0).to("cuda"), []
    for parts in ([40], [15, 40]):
        for steps in parts:
            with torch.random.fork_rng(devices=["cuda"]):
                torch.manual_seed(0)
                model = noisy()
            optimizer = SAM(SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.1)
            file = tmp_path / f"{len(parts)}.pt"
            train(model, data, optimizer, batch_size=20, steps=steps, check_every=5, checkpoint=file)
        made.append(model.state_dict())
    for name, p in made[0].items():
        torch.testing.assert_close(p, made[1][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("make", awkward.MODELS.values(), ids=awkward.MODELS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch.vmap over the new weight norm
def test_awkward_models_are_measured_as_on_a_processor_and_left_as_they_were(make, monkeypatch):
    found, x, y = {}, awkward.X, awkward.Y
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(awkward, "X", x.to(device))
        monkeypatch.setattr(awkward, "Y", y.to(device))
        with torch.random.fork_rng(devices=["cuda"]):
            torch.manual_seed(0)
            model = make().to(device)
        for name, value in vars(model).items():
            if isinstance(value, torch.Tensor):  # a plain attribute, which .to() leaves behind
                setattr(model, name, value.to(device))
        F.cross_entropy(model(awkward.X), awkward.Y).backward()
        loss, params = loss_of(model, awkward.X, awkward.Y), params_of(model)
        before, found[device] = awkward.state(model), {}
        for name, function in awkward.FUNCTIONS.items():
            found[device][name] = function(loss, params, model)
            awkward.assert_as_before(before, awkward.state(model))
    for name in ("loss_of", "hvp", "dense", "ascent_sharpness", "sam_gradient", "line"):
        here, there = found["cuda"][name], found["cpu"][name]
        torch.testing.assert_close(
            here, there, rtol=1e-2, atol=1e-4, check_device=False, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_measures_are_as_on_a_processor():
    data, tables = digits(n_train=100, n_test=100, seed=0), []
    for device in ("cpu", "cuda"):
        here, models = data.to(device), [build(partial(mlp, 64, [16], 10), seed).double().to(device) for seed in (0, 1)]
        outputs, (start, end) = partial(functional_call, models[0]), map(params_of, models)
        x, y = here.x_train.double(), here.y_train
        found = measures.measure(outputs, end, start, x, y, samples=2) | measures.curvature(
            outputs, end, x, y, samples=2
        )
        tables.append({name: float(value) for name, value in found.items()})
    assert tables[1] == pytest.approx(tables[0], rel=1e-5, nan_ok=True)
