"""Losses of a few weights, with what theory says about them.

The losses are pure functions of `Params` in float64, small enough to see through; beside them stand the closed forms,
functions of plain numbers. SAM is w <- w - lr grad L(w + rho g / |g|) with g = grad L(w); un-normalised without |g|.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sam_lite import require
from sam_lite.params import Loss, Params


def quadratic(hessian: Tensor) -> Loss:
    """w H w / 2 of {"w": (d,)} for a symmetric H (d, d); diag(1, -c) is the saddle of `saddle_multiplier`."""
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or not torch.allclose(hessian, hessian.T):
        raise ValueError(f"hessian must be a symmetric matrix, got shape {tuple(hessian.shape)}; use (h + h.T) / 2")
    return lambda params: params["w"] @ hessian @ params["w"] / 2


def ravine(height: Callable[[Tensor], Tensor]) -> Loss:
    """h(z) w^2 / 2 of {"z": (), "w": ()}: the floor w = 0 is flat, and h(z) is the curvature across it."""
    return lambda params: height(params["z"]) * params["w"] ** 2 / 2


def wen_curvatures(x: Tensor) -> tuple[Tensor, Tensor]:
    """F1 = x1^2 + 6 x2^2 + 8 and F2 = 4 (1 - x1)^2 + (1 - x2)^2 + 1 at x (4,); F1 > F2 on the unit square.

    From memory, not checked against Wen, Ma, Li (ICLR 2023), app. A. Least at (0, 0), (1, 1); F1 + F2 at (0.8, 1/7).
    """
    return x[0] ** 2 + 6 * x[1] ** 2 + 8, 4 * (1 - x[0]) ** 2 + (1 - x[1]) ** 2 + 1


def wen_terms(params: Params) -> Tensor:
    """F1 x3^2 and F2 x4^2 of {"x": (4,)}, (2,): 1-SAM draws one of them for each step."""
    x = params["x"]
    return torch.stack(wen_curvatures(x)) * x[2:] ** 2


def wen(params: Params) -> Tensor:
    """F1 x3^2 + F2 x4^2 of {"x": (4,)}: zero on x3 = x4 = 0, where the Hessian's eigenvalues are 2 F1, 2 F2, 0, 0."""
    return wen_terms(params).sum()


def diagonal_net(x: Tensor, y: Tensor) -> Loss:
    """mean (<x_i, u v> - y_i)^2 / 4 of {"u": (d,), "v": (d,)}, the diagonal linear network; x (n, d), y (n,).

    n-SAM climbs on all rows, 1-SAM on each and averages, both un-normalised (Andriushchenko, Flammarion, ICML 2022).
    n-SAM multiplies u + v by 1 - lr g' (1 + rho g) and u - v by 1 + lr g' (1 - rho g), with g, g' the gradients by u v
    before and after climbing. Raises ValueError for shapes that do not fit.
    """
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"x must be (n, d) and y (n,), got {tuple(x.shape)} and {tuple(y.shape)}")
    return lambda params: ((x @ (params["u"] * params["v"]) - y) ** 2).mean() / 4


def two_cycle_amplitude(lr: float, rho: float, lam: float) -> float:
    """SAM on a quadratic ends jumping between +A and -A along the top eigenvector, A = lr rho lam / (2 - lr lam).

    Bartlett, Long, Bousquet (JMLR 2023); Wen et al. 2023, theorem 4.8. For almost every start, a simple top eigenvalue
    lam, and 0 < lr lam < 2 (proved below 1), else ValueError. From exactly e_i it stays on the cycle of lam_i.
    """
    _check(lr, rho, lam)
    return lr * rho * lam / (2 - lr * lam)


def transverse_multiplier(lr: float, lam: float, ratio: float) -> float:
    """Factor per step of a small deviation along an eigenvector of ratio * lam, on the two-cycle along that of lam.

    1 - a r - (2 - a) r^2, a = lr lam: within (-1, 1) for 0 < r < 1, so that only the top eigenvector's cycle is stable.
    """
    _check(lr, 0, lam, ratio=ratio)
    return 1 - lr * lam * ratio - (2 - lr * lam) * ratio**2


def drift_per_step(lr: float, rho: float, lam: float, slope: float) -> float:
    """SAM's step in z on the two-cycle across a `ravine`: -(lr rho^2 / 2) slope / (1 - lr lam / 2)^2.

    For lam = h(z), slope = h'(z): Bartlett et al.'s drift with our factor for finite lr. Relative error O(rho^2).
    """
    _check(lr, rho, lam, slope=slope)
    return -lr * rho**2 / 2 * slope / (1 - lr * lam / 2) ** 2


def sam_edge(lr: float, rho: float, grad_norm: float) -> float:
    """SAM's edge of stability, the curvature along g beyond which it diverges (Long, Bartlett, JMLR 2024).

    (|g| / 2 rho) (sqrt(1 + 8 rho / (lr |g|)) - 1), the root of lr lam (1 + rho lam / |g|) = 2: 2 / lr as for gradient
    descent at rho = 0, else below. |g| = 1 gives un-normalised SAM's (Agarwala, Dauphin, ICML 2023; from memory).
    """
    _check(lr, rho)
    grad_norm = require.number("grad_norm", grad_norm, above=0)
    return 4 / lr / (1 + math.sqrt(1 + 8 * rho / (lr * grad_norm)))  # the same root, without cancellation


def saddle_multiplier(lr: float, rho: float, c: float) -> float:
    """What a step of un-normalised SAM multiplies y by at the saddle (x^2 - c y^2) / 2: less than 1 if rho c > 1."""
    _check(lr, rho, c=c)
    return 1 + lr * c * (1 - rho * c)


def limiting_sharpness(hessian: Tensor, *, tolerance: float = 1e-8) -> dict[str, Tensor]:
    """Three sharpnesses of a minimum, divided by rho^2, as rho -> 0 (Wen et al. 2023, theorem 4.2).

    "max", worst direction: lam_1 / 2. "ascent", along the gradient: the smallest non-zero eigenvalue / 2, not the
    smallest (inf if all are 0). "average": trace / (2 d). What is below tolerance * lam_1, or known from rounding
    alone, counts as zero. ValueError for a matrix that is not symmetric, but for rounding.
    """
    _check_symmetric(hessian)
    tolerance = require.number("tolerance", tolerance, least=0)
    tolerance = max(tolerance, len(hessian) * torch.finfo(hessian.dtype).eps)  # below that there is only rounding
    values = torch.linalg.eigvalsh(hessian)  # (d,) ascending
    smallest = values.where(values > tolerance * values[-1], math.inf).amin()
    return {"max": values[-1] / 2, "ascent": smallest / 2, "average": values.mean() / 2}


def _check_symmetric(hessian: Tensor) -> None:
    if not hessian.is_floating_point():
        raise require.error("hessian", "of floating-point numbers", hessian.dtype, "use .double()")
    if hessian.ndim != 2 or not hessian.shape[0] == hessian.shape[1] > 0:
        remedy = "take many by torch.vmap" if hessian.ndim > 2 else ""
        raise require.error("hessian", "a square matrix", f"shape {tuple(hessian.shape)}", remedy)
    try:
        lopsided = bool((hessian - hessian.mT).abs().amax() > 1e-3 * hessian.abs().amax())
    except RuntimeError:  # one of many under vmap
        return
    if lopsided:
        raise require.error("hessian", "a symmetric matrix", hessian, "use (h + h.T) / 2")


def _check(lr: float, rho: float, lam: float | None = None, **others: float) -> None:
    for name, value in others.items():
        require.number(name, value)
    require.number("rho", rho, least=0)
    require.number("lr", lr, above=0)
    if lam is not None:
        require.number("lr * lam", lr * lam, above=0, below=2, remedy="there is no cycle, change lr")
