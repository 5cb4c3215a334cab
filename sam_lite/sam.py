"""Climb to the worst nearby weights, then descend with the gradient found there.

    min over w of  max over ||e|| <= rho of  L(w + e)          Foret, Kleiner, Mobahi, Neyshabur (ICLR 2021), eq. 1

Algorithm 1, for each batch: g = grad L(w); e = ascent(g, w, rho); descend from w with grad L(w + e).

`optimizer.step(closure)` is `closure()`, then `with optimizer.perturbed(): closure()`, then the base optimizer's step,
where closure() does zero_grad, forward, backward and returns the loss. Written out, these serve other needs too:
- GradScaler: scale the loss in both passes, then `scaler.step(optimizer.base_optimizer)`. e does not depend on the
  scale; an overflow in either pass skips the step. Clip after the second pass: the first only gives a direction.
- Micro-batches, each weighted by its share: summed in the closure, one big batch. Both passes for each, summing the
  second gradients, are m-SAM. DistributedDataParallel: one big batch; m-SAM, each rank climbing on its own batch, with
  `model.no_sync()` around a first pass given as `ascent_closure`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from numbers import Real

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value
from torch.optim import Optimizer

from sam_lite.ascents import Ascent, Radius, adaptive_ascent, ascent, in_bounds, p_ascent  # noqa: F401 (users look here)
from sam_lite.params import Loss, Params, add


def sam_gradient(loss: Loss, params: Params, rho: Radius, *, ascent: Ascent = ascent) -> tuple[Params, Tensor]:
    """grad L(w + e), and the value L(w) at the unperturbed weights.

    As in the paper e counts as a constant: its derivative, a Hessian term, is dropped.
    An ensemble with a radius each: `vmap(lambda p, rho: sam_gradient(loss, p, rho))(params, rhos)`.
    """
    if not isinstance(rho, Tensor):
        in_bounds("rho", rho, 0)
    grads, value = grad_and_value(loss)(params)
    return grad(loss)(add(params, ascent(grads, params, rho))), value


def m_sam_gradient(losses: Sequence[Loss], params: Params, rho: Radius, *, sizes: Sequence[float] = (), ascent=ascent):
    """m-SAM (Foret et al. 2021, sec. 4.1): the mean over chunks of m samples of their `sam_gradient`, and of their L(w).

    losses: one for each chunk; sizes: their m, if they differ. Equal chunks are faster mapped, then averaged:
    `vmap(lambda x, y: sam_gradient(lambda p: f(p, x, y), params, rho))(xs, ys)`.
    """
    sizes = sizes or [1] * len(losses)
    grads, value = {name: torch.zeros_like(p) for name, p in params.items()}, 0.0
    for loss, size in zip(losses, sizes, strict=True):
        g, v = sam_gradient(loss, params, rho, ascent=ascent)
        grads, value = add(grads, g, size / sum(sizes)), value + v * (size / sum(sizes))
    return grads, value


@contextmanager
def frozen_statistics(modules: Iterable[nn.Module] | None = None) -> Iterator[dict]:
    """Put the buffers (batch-norm statistics) of `modules` back at the end; by default of every module called inside.

    They stay in training mode: the same function without its side effect. Yields a dict with the owners as keys.
    """
    before = {}

    def remember(module: nn.Module, _: object = None) -> None:
        for m in module.modules():
            if m._buffers and m not in before:
                before[m] = {name: (b, b.clone()) for name, b in m._buffers.items() if b is not None}

    try:
        with nn.modules.module.register_module_forward_pre_hook(remember) if modules is None else nullcontext():
            for module in modules or ():
                remember(module)
            yield before
    finally:
        for module, buffers in before.items():
            module._buffers.update({name: b.copy_(value) for name, (b, value) in buffers.items()})


class SAM(Optimizer):
    """SAM around any optimizer: `SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)`.

    Groups and state are the base's own, so schedulers and checkpoints work. Weight decay is the base's, at w, and in
    neither loss (PyTorch's choice; the authors' code has it in both). Nothing waits for the device: NaN and inf reach
    the base as without SAM. Cheaper: perturb in every `every`-th step, after `start` steps, with `probability`; other
    steps are exactly the base's. `steps`, `sam_steps` (those perturbed), `gradients` (passes) count what `step` did.
    """

    def __init__(
        self, base_optimizer: Optimizer, rho: float, *, ascent=ascent, every=1, start=0, probability=1, seed=0
    ):
        if not isinstance(base_optimizer, Optimizer):
            raise TypeError(f"base_optimizer must be an optimizer, as in SAM(SGD(...), rho), got {base_optimizer!r}")
        in_bounds("rho", rho, 0)
        in_bounds("every", every, 1)
        in_bounds("start", start, 0)
        in_bounds("probability", probability, 0, 1)
        self.base_optimizer, self.rho, self.ascent = base_optimizer, rho, ascent
        self.every, self.start, self.probability = every, start, probability
        self._draws = torch.Generator().manual_seed(seed)
        self.steps, self.sam_steps, self._saved, self._modules = 0, 0, ([], []), {}
        self.__setstate__({"defaults": base_optimizer.defaults})  # all that an Optimizer has but groups and state
        _check_tensors(p for group in self.param_groups for p in group["params"])

    param_groups = property(lambda self: self.base_optimizer.param_groups)
    state = property(lambda self: self.base_optimizer.state)
    gradients = property(lambda self: self.steps + self.sam_steps)

    def step(self, closure: Callable[[], Tensor] | None = None, *, ascent_closure: Callable[[], Tensor] | None = None):
        """One step; returns the loss of the first pass, that is at w. ascent_closure: a first pass on other data."""
        if not callable(closure):
            raise TypeError(f"call optimizer.step(closure), as for LBFGS: SAM needs the loss twice; got {closure!r}")
        climbs = self.rho > 0 and self.steps >= self.start and (self.steps - self.start + 1) % self.every == 0
        climbs = climbs and (self.probability == 1 or torch.rand((), generator=self._draws).item() < self.probability)
        with torch.enable_grad():
            loss = ((climbs and ascent_closure) or closure)()
            if not (loss.numel() == 1 if isinstance(loss, Tensor) else isinstance(loss, Real)):
                raise TypeError(f"closure() must return the loss, one number, got {getattr(loss, 'shape', loss)}")
            if climbs:
                with self.perturbed():
                    for p in self._saved[0]:
                        p.grad = None  # a closure that forgets zero_grad would add the second gradient to the first
                    closure()
        self.base_optimizer.step()
        self.steps, self.sam_steps = self.steps + 1, self.sam_steps + climbs
        return loss

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """At w + e inside, at w after, whatever happens; batch-norm statistics do not move."""
        try:
            self.ascend()
            key = tuple(map(id, self._saved[0]))  # for each set of weights in use, modules are searched only once
            with frozen_statistics(self._modules.get(key)) as owners:
                yield
            self._modules[key] = list(owners)
        finally:
            self.restore()

    @torch.no_grad()
    def ascend(self) -> None:
        """To w + e, with e from the gradients in `.grad`; a weight without one stays where it is."""
        if self._saved[0]:
            raise RuntimeError("ascend() was called at perturbed weights; call restore() first")
        params = [p for group in self.param_groups for p in group["params"]]
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        if len(set(names)) < len(params):  # none given, or some twice
            names = map(str, range(len(params)))
        weights = {name: p for name, p in zip(names, params, strict=True) if p.grad is not None}
        if weights:
            moved = list(weights.values())
            _check_tensors(moved)
            e = self.ascent({name: p.grad for name, p in weights.items()}, weights, self.rho)
            self._saved = moved, torch._foreach_clone(moved)
            torch._foreach_add_(moved, [e[name] for name in weights])

    @torch.no_grad()
    def restore(self) -> None:
        """Back to w by copy: (w + e) - e is not w in floating point."""
        if self._saved[0]:
            torch._foreach_copy_(*self._saved)
        self._saved = [], []

    def state_dict(self) -> dict:
        """The base optimizer's, and under "sam" how far the schedule is."""
        return self.base_optimizer.state_dict() | {"sam": (self.steps, self.sam_steps, self._draws.get_state())}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes one of the base optimizer alone too, to go on with SAM from there."""
        self.base_optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "sam"})
        if "sam" in state_dict:
            self.steps, self.sam_steps, draws = state_dict["sam"]
            self._draws.set_state(draws)


def _check_tensors(weights: Iterable[Tensor]) -> None:
    for p in weights:
        if p.requires_grad and p.dtype.itemsize < 4:
            raise TypeError(f"SAM in {p.dtype} loses steps of rho to rounding; use float32 weights with torch.autocast")
        if p.grad is not None and p.grad.layout != torch.strided:
            raise TypeError("SAM needs dense gradients, got a sparse one; use nn.Embedding(..., sparse=False)")
