"""The two ways in which SAM's climb changes the gradient: through the network's Jacobian, and through the logits.

The gradient of a loss l(z(w)) of outputs z is J(w)^T l'(z(w)), J the Jacobian of z. SAM takes both factors at w + e. Singh and
others (ICML 2025) move one of them alone. `outputs` is a function params -> z of any shape, `criterion` one z -> number,
and all here maps over many models with `torch.func.vmap`. `outputs` may be random, with dropout in it: it sees the same
random numbers at each call, as in `sam.sam_gradient`.
"""

from collections.abc import Callable

from torch import Tensor
from torch.func import grad, vjp

from sam_lite import pure, require
from sam_lite.ascents import Radius, ascent
from sam_lite.params import Params, add, divisor, dot, norm

PATHS = ("both", "jacobian", "logits")
Outputs = Callable[[Params], Tensor]
Criterion = Callable[[Tensor], Tensor]


def path_gradient(outputs: Outputs, criterion: Criterion, params: Params, rho: Radius, path: str = "both") -> Params:
    """The direction of descent after a climb e of length rho, as far as it comes along one path. Like `params`.

    "both": J(w + e)^T l'(z(w + e)), SAM. "jacobian": J(w + e)^T l'(z(w)), functional SAM (Singh and others 2025).
    "logits": J(w)^T l'(z(w + e)), its counterpart. Each costs two gradients: forward and backward twice. ValueError for
    another path, a rho < 0, half precision, and outputs or a criterion without a derivative.
    """
    if path not in PATHS:
        raise ValueError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
    rho = require.number("rho", rho, least=0)
    require.precision(params)
    slope_at = grad(pure.differentiable(criterion))
    states = pure.random_states(params.values())
    out, pull = vjp(pure.differentiable(outputs), params)  # pull(s) is J(w)^T s
    slope = slope_at(out)
    (g,) = pull(slope)
    up = add(params, ascent(g, params, rho))
    with pure.from_states(states):
        if path == "logits":
            return pull(slope_at(outputs(up)))[0]
        out_up, pull_up = vjp(outputs, up)
        return pull_up(slope if path == "jacobian" else slope_at(out_up))[0]


def curvature_paths(outputs: Outputs, criterion: Criterion, params: Params, direction: Params) -> tuple[Params, Params]:
    """The Hessian times `direction` d in two parts, (through the logits, through the Jacobian), each like `params`.

    H d = J^T l''(z) J d + (dJ)^T l'(z), where dJ is the change of J along d: the Gauss-Newton part and the rest. With
    d = g / ||g|| these are what SAM adds to the gradient along each path, to first order in rho and divided by it.
    """
    require.precision(params)
    require.same_names(params, direction)
    params, direction = dict(params), {name: direction[name] for name in params}
    states = pure.random_states(params.values())
    with pure.twice():
        out, pull = vjp(pure.differentiable(outputs), params)
    _, push = vjp(lambda s: pull(s)[0], out)  # the transpose of the transpose: push(d) is J d
    (moved,) = push(direction)
    bent = grad(lambda z: (grad(criterion)(z) * moved).sum())(out)  # l''(z) J d
    slope = grad(pure.differentiable(criterion))(out)
    with pure.from_states(states), pure.twice():
        rest = grad(lambda p: dot(grad(lambda q: (outputs(q) * slope).sum())(p), direction))(params)
    return pull(bent)[0], rest


def logit_share(outputs: Outputs, criterion: Criterion, params: Params) -> Tensor:
    """How much of what SAM adds to the gradient, H g / ||g||, comes through the logits: a number.

    It is the inner product of the part through the logits with the whole, over the square of the whole's length. The shares
    of both parts add up to 1; one is negative where the parts point apart. NaN where the gradient or the whole is zero.
    """
    params, states = dict(params), pure.random_states(params.values())
    g = grad(pure.differentiable(lambda p: criterion(outputs(p))))(params)
    with pure.from_states(states):
        through_logits, rest = curvature_paths(outputs, criterion, params, ascent(g, params, 1.0))
    whole = add(through_logits, rest)
    size = divisor(norm(whole))  # whose squares stay in range
    through_logits, whole = ({name: x / size for name, x in part.items()} for part in (through_logits, whole))
    return dot(through_logits, whole) / dot(whole, whole)
