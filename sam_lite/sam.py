"""Climb to the worst nearby weights, then descend with the gradient found there.

    min over w of  max over ||e|| <= rho of  L(w + e)          Foret, Kleiner, Mobahi, Neyshabur (ICLR 2021), eq. 1

Algorithm 1, for each batch: g = grad L(w); e = ascent(g, w, rho); descend from w with grad L(w + e).
"""

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor
from torch.func import grad, grad_and_value
from torch.optim import Optimizer

from sam_lite import pure, require
from sam_lite.ascents import Ascent, Radius, adaptive_ascent, ascent, checked, p_ascent  # noqa: F401 (users look here)
from sam_lite.params import Loss, Params, add, shares
from sam_lite.pure import frozen_statistics

_copies = getattr(torch, "_foreach_clone", lambda tensors: torch._foreach_mul(tensors, 1))  # of torch 2.13, or before


def sam_gradient(loss: Loss, params: Params, rho: Radius, *, ascent: Ascent = ascent) -> tuple[Params, Tensor]:
    """grad L(w + e), and the value L(w) at the unperturbed weights.

    As in the paper, e is treated as a constant: its derivative, a term with the Hessian, is dropped.

    Args:
        loss: the loss as a function of the weights, such as `loss_of(model, x, y)`. It may be random, with dropout in
            it: both gradients see the same random numbers, as in the authors' code, if they are of torch's global
            generators.
        params: weights w, name -> (*shape).
        rho: radius of the climb, in the norm of `ascent`; 0 gives the plain gradient.
        ascent: the climb, such as `p_ascent(1)`.

    Returns SAM's gradient, like `params`, and the loss at w, a scalar. ValueError: rho < 0, sparse, half precision, complex.
    An ensemble with a radius each: `vmap(lambda p, rho: sam_gradient(loss, p, rho))(params, rhos)`.

    >>> import torch
    >>> loss = lambda p: (p["w"] ** 2).sum() / 2
    >>> gradient, value = sam_gradient(loss, {"w": torch.tensor([3.0, 4.0])}, rho=0.5)
    >>> gradient["w"], value
    (tensor([3.3000, 4.4000]), tensor(12.5000))
    """
    rho = require.number("rho", rho, least=0)
    require.precision(params)
    require.loss_function(loss)
    states = pure.random_states(params.values())
    grads, value = grad_and_value(pure.differentiable(loss))(params)
    require.dense(grads.values())
    climbed = add(params, checked(ascent(grads, params, rho), params))
    with pure.from_states(states):
        return grad(loss)(climbed), value


def m_sam_gradient(
    losses: Sequence[Loss], params: Params, rho: Radius, *, sizes: Sequence[float] = (), ascent: Ascent = ascent
):
    """m-SAM (Foret et al. 2021, sec. 4.1): every chunk of m samples climbs by itself, and their gradients are averaged.

    Args:
        losses: one for each chunk, or pairs (loss, size), as `params.shares` takes them.
        params, rho, ascent: as in `sam_gradient`.
        sizes: the m of each chunk, where they differ.

    Returns the mean of the chunks' `sam_gradient` and of their losses at w. Chunks of equal size are faster mapped:
    `vmap(lambda x, y: sam_gradient(lambda p: f(p, x, y), params, rho))(xs, ys)`.
    """
    grads, value = {name: torch.zeros_like(p) for name, p in require.parameters(params).items()}, 0.0
    for loss, share in shares(list(zip(losses, sizes, strict=True)) if len(sizes) else losses):
        g, v = sam_gradient(loss, params, rho, ascent=ascent)
        grads, value = add(grads, g, share), value + v * share
    return grads, value


class SAM(Optimizer):
    """SAM around any optimizer: `SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)`.

    Args:
        base_optimizer: one that steps from one gradient, such as SGD and Adam.
        rho: radius of the climb, in the norm of `ascent`, usually 0.01 to 0.5; 0: the base alone.
        ascent: the climb, such as `p_ascent(1)` or `adaptive_ascent`.
        every: 3 climbs in every third step only, which is cheaper; the other steps are exactly the base's.
        start: how many steps the base makes before SAM climbs, or begins to count to `every`; math.inf: it never climbs.
        probability: that a step climbs.
        seed: of the draws for `probability`.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = SAM(torch.optim.SGD([w], lr=1.0), rho=0.5)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (w**2).sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item(), w.data, optimizer.gradients
    (12.5, tensor([-0.3000, -0.4000]), 2)

    `steps`, `sam_steps` (those that climbed) and `gradients` (passes) count what `step` did. All settings may be changed
    during training, and hold for all parameter groups. Groups and state are the base's own, so schedulers and checkpoints
    work. Weight decay stays with the base: it acts at w and is part of neither loss (the authors' code has it in both).
    If the base maximizes, the worst point is the lowest. SAM never waits for a GPU: NaN and inf reach the base as they
    would without SAM.

    `optimizer.step(closure)` is `closure()`, then `with optimizer.perturbed(): closure()`, then the base optimizer's
    step. closure() calls zero_grad, forward and backward, and returns the loss. Both passes draw the same random numbers,
    so dropout leaves out the same units in both, as in the authors' code (google-research/sam passes one key to both;
    other PyTorch code draws anew); where one pass alone has dropout, every step leaves out others. Numbers of NumPy, of
    `random` and of a torch.Generator of one's own differ: draw them before the step. Batch statistics are those of the
    first pass, whose data they follow, as are all buffers of modules that are called or are parts of one; a counter in a
    plain attribute, or in a module of which only a method or a part is called, moves in both passes.
    The passes can be written out for other needs:
    - Dropout: `states = random_states(model.parameters())` (from `sam_lite.pure`) first, then `perturbed(states)`.
    - GradScaler: scale the loss in both passes, then `scaler.step(optimizer.base_optimizer)`. To clip, first
      `scaler.unscale_(optimizer.base_optimizer)`: never the SAM object. e does not depend on the scale; an overflow in
      either pass skips the step. Clip after the second pass: the first only gives a direction.
    - Micro-batches, each weighted by its share: summed in the closure, one big batch. Both passes for each, summing the
      second gradients, are m-SAM. DistributedDataParallel: one big batch; m-SAM, each rank climbing on its own batch,
      with `model.no_sync()` around a first pass given as `ascent_closure`.
    ValueError: settings out of bounds. TypeError: no optimizer, or one that needs the loss (LBFGS); half precision.
    """

    def __init__(
        self,
        base_optimizer: Optimizer,
        rho: float,
        *,
        ascent: Ascent = ascent,
        every: float = 1,
        start: float = 0,
        probability: float = 1,
        seed: int = 0,
    ):
        if not isinstance(base_optimizer, Optimizer):
            raise TypeError(f"base_optimizer must be an optimizer, as in SAM(SGD(...), rho), got {base_optimizer!r}")
        closure = inspect.signature(type(base_optimizer).step).parameters.get("closure")
        if isinstance(base_optimizer, SAM) or closure and closure.default is inspect.Parameter.empty:
            raise TypeError(f"base_optimizer must step from one gradient, as SGD and Adam do, got {base_optimizer!r}")
        self.base_optimizer, self.rho, self.ascent = base_optimizer, rho, ascent
        self.every, self.start, self.probability = every, start, probability
        self._draws = torch.Generator().manual_seed(require.whole("seed", seed, least=0, most=2**63 - 1))
        self.steps, self.sam_steps, self._saved = 0, 0, ([], [])
        self.__setstate__({"defaults": base_optimizer.defaults})  # all that an Optimizer has but groups and state
        self._check_groups(self.param_groups)
        _check_tensors(pure.apart([p for group in self.param_groups for p in group["params"]]))

    state = property(lambda self: self.base_optimizer.state)
    _base_hooks = property(lambda self: getattr(self.base_optimizer, "_optimizer_step_pre_hooks", {}))
    gradients = property(lambda self: self.steps + self.sam_steps)

    @property
    def param_groups(self) -> list[dict]:
        if sys._getframe(1).f_code.co_name == "_unscale_grads_":  # the base, stepped after it, would be unscaled twice
            raise TypeError("GradScaler must be given the base optimizer: scaler.unscale_(optimizer.base_optimizer)")
        return self.base_optimizer.param_groups

    def add_param_group(self, param_group: dict) -> None:
        """As in any optimizer, with the defaults of the base."""
        self._check_groups([param_group])
        self.base_optimizer.add_param_group(param_group)

    def _check_groups(self, groups: Sequence[dict]) -> None:
        for group in groups:
            for name in ("rho", "adaptive"):
                if name in group and name not in self.base_optimizer.defaults:
                    remedy = "set it for all, as in SAM(base, rho, ascent=adaptive_ascent), or scale e by name in an `ascent`"
                    raise require.error(f"{name!r} of a parameter group", "left out", group[name], remedy)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "rho":
            value = require.number("rho", value.detach() if isinstance(value, Tensor) else value, least=0)
        elif name == "probability":
            value = require.number("probability", value, least=0, most=1)
        elif name in ("every", "start") and not (isinstance(value, float) and value == math.inf):
            value = require.whole(name, value, least=int(name == "every"), remedy="math.inf is never")
        elif name == "ascent" and not callable(value):
            raise TypeError(f"ascent must be a function such as sam_lite.ascents.ascent, got {value!r}")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict:
        """For copies and pickles: everything but hooks, as in any optimizer. Copy model and optimizer in one call."""
        own = "base_optimizer rho ascent every start probability steps sam_steps defaults _draws _saved".split()
        return {name: getattr(self, name) for name in own}

    @torch._disable_dynamo
    @Optimizer.profile_hook_step
    def step(self, closure: Callable[[], Tensor] | None = None, *, ascent_closure: Callable[[], Tensor] | None = None):
        """One step; returns the loss of the first pass, that is at w. ascent_closure: a first pass on other data."""
        if not callable(closure):
            raise TypeError(f"call optimizer.step(closure), as for LBFGS: SAM needs the loss twice; got {closure!r}")
        self._check_groups(self.base_optimizer.param_groups)
        climbs = isinstance(self.rho, Tensor) or self.rho > 0
        climbs = climbs and self.steps >= self.start and (self.steps - self.start + 1) % self.every == 0
        if climbs and self.probability != 1:
            climbs = torch.rand((), generator=self._draws, device="cpu").item() < self.probability
        groups = self.base_optimizer.param_groups
        states = pure.random_states(p for group in groups for p in group["params"]) if climbs else {}
        with torch.enable_grad():
            loss = ((climbs and ascent_closure) or closure)()
            if not (loss.numel() == 1 if isinstance(loss, Tensor) else isinstance(loss, Real)):
                raise TypeError(f"closure() must return the loss, one number, got {getattr(loss, 'shape', loss)}")
            if climbs:
                with self.perturbed(states):
                    for p in self._saved[0]:
                        p.grad = None  # a closure that forgets zero_grad would add the second gradient to the first
                    closure()
        self.base_optimizer.step()
        self.steps, self.sam_steps = self.steps + 1, self.sam_steps + climbs
        return loss

    step.hooked = True  # or Optimizer would put the part with the hooks around it, where it were compiled

    @contextmanager
    def perturbed(self, states: pure.RandomStates = {}) -> Iterator[None]:  # noqa: B006 (it is only read)
        """At w + e inside, at w after, whatever happens; batch-norm statistics do not move. states: to draw from."""
        try:
            self.ascend()
            with frozen_statistics(), pure.from_states(states):
                yield
        finally:
            self.restore()

    @torch._disable_dynamo
    @torch.no_grad()
    def ascend(self) -> None:
        """To w + e, with e from the gradients in `.grad`; a weight without one stays where it is."""
        if self._saved[0]:
            raise RuntimeError("ascend(), or a step of the base, was called at perturbed weights; call restore() first")
        groups = self.base_optimizer.param_groups
        self._check_groups(groups)
        params = [p for group in groups for p in group["params"]]
        up = {p for group in groups if group.get("maximize") for p in group["params"]}
        names = [name for group in groups for name in group.get("param_names", ())]
        if len(set(names)) < len(params):  # none given, or some twice
            names = list(map(str, range(len(params))))
        weights = {name: p for name, p in zip(names, params, strict=True) if p.grad is not None}
        if weights:
            moved = list(weights.values())
            _check_tensors(moved)
            grads = {name: -p.grad if up and p in up else p.grad for name, p in weights.items()}
            e = checked(self.ascent(grads, weights, self.rho), weights)
            self._saved = moved, _copies(moved)
            torch._foreach_add_(moved, [e[name] for name in weights])
            self._base_hooks["perturbed"] = lambda *_: self.ascend()  # which refuses: restore() would undo a step
            pure.weights_moved()

    @torch._disable_dynamo
    @torch.no_grad()
    def restore(self) -> None:
        """Back to w by copy: (w + e) - e is not w in floating point."""
        if self._saved[0]:
            torch._foreach_copy_(*self._saved)
            self._base_hooks.pop("perturbed", None)
            pure.weights_moved()
        self._saved = [], []

    def state_dict(self) -> dict:
        """The base optimizer's, with SAM's own counts and random state under "sam". Its settings are given anew."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        found = self.base_optimizer.state_dict() | {"sam": (self.steps, self.sam_steps, self._draws.get_state())}
        for after in self._optimizer_state_dict_post_hooks.values():
            found = after(self, found) or found
        return found

    def load_state_dict(self, state_dict: dict) -> None:
        """Also takes the state of a base optimizer without SAM, to go on with SAM from there."""
        state_dict = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        steps, sam_steps, state = state_dict.get("sam") or (self.steps, self.sam_steps, self._draws.get_state())
        draws = torch.Generator().set_state(state.cpu())  # torch.load may have sent it to a GPU
        self.base_optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "sam"})
        self.steps, self.sam_steps, self._draws = steps, sam_steps, draws
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)


def _check_tensors(weights: Sequence[Tensor]) -> None:
    for dtype in {p.dtype for p in weights if p.requires_grad}:
        if dtype.itemsize < 4:
            raise TypeError(f"SAM in {dtype} loses steps of rho to rounding; use float32 weights with torch.autocast")
    require.dense(p.grad for p in weights if p.grad is not None)
