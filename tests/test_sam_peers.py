"""SAM beside pytorch_optimizer's: the same weights and batches, 50 steps."""

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
@pytest.mark.parametrize("adaptive", [False, True], ids=["SAM", "ASAM"])
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
