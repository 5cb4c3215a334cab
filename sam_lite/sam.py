"""Climb to the worst nearby weights, then descend with the gradient found there.

    min over w of  max over ||e|| <= rho of  L(w + e)          Foret, Kleiner, Mobahi, Neyshabur (ICLR 2021), eq. 1

Algorithm 1, for each batch: g = grad L(w); e = ascent(g, w, rho); descend from w with grad L(w + e).

`optimizer.step(closure)` is `closure()`, then `with optimizer.perturbed(): closure()`, then the base optimizer's step;
closure() does zero_grad, forward, backward and returns the loss. Written out, these lines serve other needs too:
- GradScaler: scale the loss in both passes, then `scaler.step(optimizer.base_optimizer)`. e does not depend on the
  scale; an overflow in either pass skips the step. Clipping: after the second pass; the first gives only a direction.
- Micro-batches, each weighted by its share: summed in the closure they are one big batch. Both passes for each in turn,
  summing the second gradients, are m-SAM, which is something else.
- DistributedDataParallel: one big batch; but with `model.no_sync()` around a first pass given as `ascent_closure`, every
  rank climbs on its own batch: m-SAM.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value
from torch.optim import Optimizer

from sam_lite.params import Loss, Params, add, norm

Radius = float | Tensor  # a tensor without dimensions, such as one of many radii under vmap
Ascent = Callable[[Params, Params, Radius], Params]  # (grads, params, rho) -> e, pure


def ascent(grads: Params, params: Params, rho: Radius) -> Params:
    """The step of length rho up the gradient: e = rho g / ||g||_2 (Foret et al. 2021, eq. 2 with p = 2).

    One norm for all tensors of a model. A zero gradient gives e = 0; one that is not finite gives NaN.
    """
    length = norm(grads)
    scale = rho / length.masked_fill(length == 0, math.inf)
    return {name: scale * g for name, g in grads.items()}


def adaptive_ascent(
    grads: Params, params: Params, rho: Radius, *, eta: float = 0.01, scaled: Callable[[str], bool] = lambda name: True
) -> Params:
    """The worst step with ||e / T||_2 <= rho, T = |w| + eta: e = rho T^2 g / ||T g||_2 (ASAM, Kwon et al. 2021).

    If layers of a ReLU net are rescaled by (a, 1/a), so is e: exactly if eta = 0; eta > 0 lets zero weights move.
    T = 1 for names that are not `scaled`. Default: all are; for the authors, those that contain "weight" (SAM knows
    names if its base was given `model.named_parameters()`). rho is relative to |w|, so about 10 times that of `ascent`,
    and depends on the convention: 0.5 in the authors' code, 2.0 in a popular one without eta.
    """
    size = {name: w.abs() + eta if scaled(name) else torch.ones_like(w) for name, w in params.items()}
    e = ascent({name: size[name] * g for name, g in grads.items()}, params, rho)
    return {name: size[name] * e[name] for name in e}


def p_ascent(p: float) -> Ascent:
    """The worst step with ||e||_p <= rho: e = rho sign(g) |g|^(q-1) / (||g||_q^q)^(1/p), 1/p + 1/q = 1 (Foret, eq. 2).

    p = inf moves each weight by rho; p = 1 only that with the largest gradient (equally large ones share rho).
    """
    if not p >= 1:
        raise ValueError(f"p must be >= 1, got {p}")
    q = math.inf if p == 1 else 1 / (1 - 1 / p)

    def ascent(grads: Params, params: Params, rho: Radius) -> Params:
        largest = torch.stack([g.abs().max() for g in grads.values()]).max()
        unit = {name: g / largest.masked_fill(largest == 0, 1.0) for name, g in grads.items()}  # keeps powers in range
        total = sum((u.abs() ** q).sum() for u in unit.values()).clamp(min=1.0)  # less than 1 only if g = 0
        return {name: rho * u.sgn() * u.abs() ** (q - 1) / total ** (1 / p) for name, u in unit.items()}

    return ascent


def sam_gradient(loss: Loss, params: Params, rho: Radius, *, ascent: Ascent = ascent) -> tuple[Params, Tensor]:
    """grad L(w + e), and the value L(w) at the unperturbed weights.

    As in the paper e counts as a constant: its derivative, a Hessian term, is dropped.
    An ensemble with a radius each: `vmap(lambda p, rho: sam_gradient(loss, p, rho))(params, rhos)`.
    """
    if not isinstance(rho, Tensor):
        _check("rho", rho, 0)
    grads, value = grad_and_value(loss)(params)
    return grad(loss)(add(params, ascent(grads, params, rho))), value


def m_sam_gradient(
    losses: Sequence[Loss], params: Params, rho: Radius, *, sizes: Sequence[float] = (), ascent: Ascent = ascent
) -> tuple[Params, Tensor]:
    """m-SAM (Foret et al. 2021, sec. 4.1): the mean over chunks of m samples of their SAM gradients, and of their L(w).

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

    hook = nn.modules.module.register_module_forward_pre_hook(remember) if modules is None else None
    try:
        for module in modules or ():
            remember(module)
        yield before
    finally:
        if hook:
            hook.remove()
        for module, buffers in before.items():
            module._buffers.update({name: b.copy_(value) for name, (b, value) in buffers.items()})


class SAM(Optimizer):
    """SAM around any optimizer: `SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)`.

    Groups and state are the base optimizer's own, so schedulers and checkpoints work. Weight decay is the base's, at w,
    and in neither loss (PyTorch's choice; the authors' code has it in both). Nothing waits for the device: NaN and inf
    are not looked for, and reach the base as without SAM. Cheaper: perturb in every `every`-th step only, after the
    first `start`, with `probability`; other steps are exactly the base's, as all are with rho = 0 or every = math.inf.
    `steps`, `sam_steps` (those perturbed) and `gradients` (passes) count what `step` did.
    """

    def __init__(
        self,
        base_optimizer: Optimizer,
        rho: float,
        *,
        ascent: Ascent = ascent,
        every=1,
        start=0,
        probability=1.0,
        seed=0,
    ):
        if not isinstance(base_optimizer, Optimizer):
            raise TypeError(f"base_optimizer must be an optimizer, as in SAM(SGD(...), rho), got {base_optimizer!r}")
        bounds = ("rho", rho, 0), ("every", every, 1), ("start", start, 0), ("probability", probability, 0, 1)
        for name, value, *limits in bounds:
            _check(name, value, *limits)
        self.base_optimizer, self.rho, self.ascent = base_optimizer, rho, ascent
        self.every, self.start, self.probability = every, start, probability
        self.generator = torch.Generator().manual_seed(seed)
        self.steps, self.sam_steps, self._saved, self._modules = 0, 0, ([], []), {}
        self.__setstate__({"defaults": base_optimizer.defaults})  # all that an Optimizer has but groups and state
        _check_tensors(self._params())

    param_groups = property(lambda self: self.base_optimizer.param_groups)
    state = property(lambda self: self.base_optimizer.state)
    gradients = property(lambda self: self.steps + self.sam_steps)

    def step(self, closure: Callable[[], Tensor] | None = None, *, ascent_closure: Callable[[], Tensor] | None = None):
        """One step; returns the loss of the first pass, that is at w. ascent_closure: a first pass on other data."""
        if not callable(closure):
            raise TypeError(
                "SAM needs the loss twice: call optimizer.step(closure), where closure() does optimizer.zero_grad(), "
                f"loss.backward() and returns loss; got {closure!r}"
            )
        climbs = self.rho > 0 and self.steps >= self.start and (self.steps - self.start + 1) % self.every == 0
        if climbs and self.probability < 1:
            climbs = torch.rand((), generator=self.generator).item() < self.probability
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
        params = self._params()
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
        own = {"steps": self.steps, "sam_steps": self.sam_steps, "generator": self.generator.get_state()}
        return self.base_optimizer.state_dict() | {"sam": own}

    def load_state_dict(self, state_dict: dict) -> None:
        """Takes one of the base optimizer alone too, to go on with SAM from there."""
        self.base_optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "sam"})
        if own := state_dict.get("sam"):
            self.steps, self.sam_steps = own["steps"], own["sam_steps"]
            self.generator.set_state(own["generator"])

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


def _check(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not (isinstance(value, Real) and low <= value <= high):
        raise ValueError(f"{name} must be >= {low}{'' if high == math.inf else f' and <= {high}'}, got {value!r}")


def _check_tensors(weights: list[Tensor]) -> None:
    for p in weights:
        if p.requires_grad and p.dtype.itemsize < 4:
            raise TypeError(f"SAM in {p.dtype} loses steps of rho to rounding; use float32 weights with torch.autocast")
        if p.grad is not None and p.grad.layout != torch.strided:
            raise TypeError("SAM needs dense gradients, got a sparse one; use nn.Embedding(..., sparse=False)")
