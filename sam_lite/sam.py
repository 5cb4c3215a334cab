"""Climb to the worst nearby weights, then descend with the gradient found there.

    min over w of  max over ||e|| <= rho of  L(w + e)         Foret, Kleiner, Mobahi, Neyshabur (ICLR 2021), eq. 1

Algorithm 1, for each batch: g = grad L(w); e = ascent(g, w, rho); descend from w with grad L(w + e).

Where a step is more than `optimizer.step(closure)`, with `closure`: zero_grad, forward, backward, return the loss:
- GradScaler: `closure()`, then `with optimizer.perturbed(): closure()`, both with `scaler.scale(loss).backward()`, then
  `scaler.step(optimizer.base_optimizer)`: e does not depend on the scale, and an overflow in either pass skips the step.
- Accumulation over micro-batches, each weighted by its share, inside the closure: SAM on the big batch. `closure()` and
  `with optimizer.perturbed(): closure()` for each, summing the second gradients: m-SAM, which is something else.
- DistributedDataParallel: SAM on all ranks' batches together; with `model.no_sync()` around the first pass, given as
  `ascent_closure`, each rank climbs on its own: m-SAM, m the batch per rank.
- Clipping: the second gradient; the first only gives a direction.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value

from sam_lite.params import Loss, Params, add, norm

Radius = float | Tensor  # a tensor of no dimensions, such as one of many radii under vmap
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

    Rescaling the layers of a ReLU net by (a, 1/a) rescales e alike, exactly if eta = 0; eta > 0 lets zero weights move.
    T = 1 where not `scaled(name)`; default: all scaled. The authors' code scales the names with "weight" in them; SAM
    knows names if its base had `model.named_parameters()`. As rho is relative to |w| it is some 10 times that of
    `ascent`, and differs between conventions: 0.5 for the authors, 2.0 in a popular code without eta.
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

    As in the paper e counts as a constant: its derivative, a Hessian term, is dropped. For an ensemble with a radius
    each: `vmap(lambda p, rho: sam_gradient(loss, p, rho))(params, rhos)`.
    """
    if not isinstance(rho, Tensor):
        _check("rho", rho, 0)
    grads, value = grad_and_value(loss)(params)
    return grad(loss)(add(params, ascent(grads, params, rho))), value


def m_sam_gradient(
    losses: Sequence[Loss], params: Params, rho: Radius, *, sizes: Sequence[float] = (), ascent: Ascent = ascent
) -> tuple[Params, Tensor]:
    """m-SAM (Foret et al. 2021, sec. 4.1): the mean over chunks of m samples of their SAM gradients, and of their L(w).

    losses: one for each chunk; sizes: the chunks' m where not equal. Equal ones are faster mapped, then averaged:
    `vmap(lambda x, y: sam_gradient(lambda p: f(p, x, y), params, rho))(xs, ys)`.
    """
    sizes = sizes or [1] * len(losses)
    grads, value = {name: torch.zeros_like(p) for name, p in params.items()}, 0.0
    for loss, size in zip(losses, sizes, strict=True):
        g, v = sam_gradient(loss, params, rho, ascent=ascent)
        grads, value = add(grads, g, size / sum(sizes)), value + v * (size / sum(sizes))
    return grads, value


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Put the buffers (batch-norm statistics) of every module called inside back at the end, whatever happens.

    The modules stay in training mode: the function is the same, only its side effect is undone.
    """
    before, hook = {}, None

    def remember(module: nn.Module, _) -> None:
        nonlocal hook
        for m in module.modules():
            before.update({(m, k): (b, b.clone()) for k, b in m._buffers.items() if b is not None and (m, k) not in before})
        hook.remove()  # the layers inside need not be asked: a hook on all modules slows each of them
        hook = module.register_forward_hook(watch)

    def watch(*_) -> None:
        nonlocal hook
        if hook:
            hook.remove()
        hook = nn.modules.module.register_module_forward_pre_hook(remember)

    watch()
    try:
        yield
    finally:
        hook.remove()
        with torch.no_grad():
            for (m, name), (b, value) in before.items():
                m._buffers[name] = b.copy_(value)


class SAM(torch.optim.Optimizer):
    """SAM around any optimizer: `SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)`.

    Groups and state are the base optimizer's own, so schedulers and checkpoints work. Weight decay is the base's, at w,
    and in neither loss (PyTorch's choice; the authors' code has it in both). Nothing waits for the device, so NaN and
    inf are not looked for: they reach the base as without SAM. Cheaper: perturb in every `every`-th step only, after
    the first `start`, with `probability`; other steps are exactly the base's, as all are if rho = 0 or every = math.inf.
    `steps`, `sam_steps` (those perturbed) and `gradients` (passes) count what `step` did.
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        rho: float,
        *,
        ascent: Ascent = ascent,
        every: float = 1,
        start: float = 0,
        probability: float = 1.0,
        seed: int = 0,
    ):
        if not isinstance(base_optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"base_optimizer must be one, as in SAM(torch.optim.SGD(...), 0.05), got {base_optimizer!r}"
            )
        for name, value, *bounds in ("every", every, 1), ("start", start, 0), ("probability", probability, 0, 1):
            _check(name, value, *bounds)
        _check("rho", rho, 0)
        self.base_optimizer, self.rho, self.ascent = base_optimizer, rho, ascent
        self.every, self.start, self.probability = every, start, probability
        self.generator = torch.Generator().manual_seed(seed)
        self.steps, self.sam_steps, self._saved = 0, 0, ([], [])
        self.__setstate__({"defaults": base_optimizer.defaults})  # all that an Optimizer has but groups and state
        _check_tensors(p for group in self.param_groups for p in group["params"])

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
        climbs = climbs and torch.rand((), generator=self.generator).item() < self.probability
        with torch.enable_grad():
            loss = ((climbs and ascent_closure) or closure)()
            if not (isinstance(loss, Real) or (isinstance(loss, Tensor) and loss.numel() == 1)):
                raise TypeError(f"closure() must return the loss, one number, got {getattr(loss, 'shape', loss)}")
            if climbs:
                with self.perturbed():
                    self.zero_grad()
                    closure()
        self.base_optimizer.step()
        self.steps, self.sam_steps = self.steps + 1, self.sam_steps + climbs
        return loss

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """At w + e inside, at w after, whatever happens; batch-norm statistics do not move."""
        try:
            self.ascend()
            with frozen_statistics():
                yield
        finally:
            self.restore()

    @torch.no_grad()
    def ascend(self) -> None:
        """w + e from the gradients in `.grad`, remembering w; a weight without one stays where it is."""
        if self._saved[0]:
            raise RuntimeError("ascend() was called at perturbed weights; call restore() first")
        params = [p for group in self.param_groups for p in group["params"]]
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        if len(set(names)) < len(params):  # none given, or some of them twice
            names = map(str, range(len(params)))
        weights = {name: p for name, p in zip(names, params, strict=True) if p.grad is not None}
        _check_tensors(weights.values())
        if weights:
            e = self.ascent({name: p.grad for name, p in weights.items()}, weights, self.rho)
            self._saved = list(weights.values()), [p.clone() for p in weights.values()]
            torch._foreach_add_(self._saved[0], [e[name] for name in weights])

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
        """Also takes a state of the base optimizer alone, to go on with SAM from there."""
        self.base_optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "sam"})
        own = state_dict.get("sam") or SAM(self.base_optimizer, 0.0).state_dict()["sam"]
        self.steps, self.sam_steps = own["steps"], own["sam_steps"]
        self.generator.set_state(own["generator"])


def _check(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not (isinstance(value, Real) and low <= value <= high):
        raise ValueError(f"{name} must be >= {low}{'' if high == math.inf else f' and <= {high}'}, got {value!r}")


def _check_tensors(weights: Iterable[Tensor]) -> None:
    for p in weights:
        if p.requires_grad and p.dtype.itemsize < 4:
            raise TypeError(f"SAM in {p.dtype} loses steps of rho to rounding; use float32 weights with torch.autocast")
        if p.grad is not None and p.grad.layout != torch.strided:
            raise TypeError("SAM needs dense gradients, got a sparse one; use nn.Embedding(..., sparse=False)")
