"""Curvature through Hessian-vector products.

The Hessian H of a loss has n_params^2 entries; H v costs two gradients (Pearlmutter 1994) and tells the rest.
Everything here is `f(loss, params, ...)`: it changes nothing, gives the same twice, and maps over an ensemble:

    vmap(lambda p: top_eigenvalues(loss, p, k).values, chunk_size=64)(ensemble)     # (n_models, k)

H is that of the loss as given: its data, its layers' mode, weight decay only where the loss has it in. Where the data
do not fit, give a list of losses, one for each chunk of equal size: their mean is meant, with one graph at a time in
memory, built anew for every product. Differences of gradients are no way round: they step over the kinks of a ReLU.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam_lite.lanczos import lanczos
from sam_lite.noise import at_least, noise
from sam_lite.params import Loss, Params, count, from_vector, to_vector


class Eigenpairs(NamedTuple):
    values: Tensor  # (k,), descending
    vectors: Params  # name -> (k, *shape), of length 1
    residuals: Tensor  # (k,): |H v - value v|; an eigenvalue of H lies this close to the value


class Estimate(NamedTuple):
    mean: Tensor  # scalar
    error: Tensor  # scalar: standard error of the mean


class Density(NamedTuple):
    nodes: Tensor  # (n_probes, steps)
    weights: Tensor  # (n_probes, steps), >= 0, of sum 1
    grid: Tensor  # (points,)
    values: Tensor  # (points,): density over the grid, of integral 1


@torch.no_grad()
def hvp(loss: Loss, params: Params) -> Callable[[Params], Params]:
    """The function v -> H v, both like `params`: the pullback of the gradient, H v = d(grad . v) / dw.

    One graph serves every v. Attention runs on its mathematical kernel, as the fused ones have no second derivative.
    A parameter that takes no part has a block of zeros.
    """
    with sdpa_kernel(SDPBackend.MATH):
        _, pullback = vjp(grad(loss), params)
    return torch.no_grad()(lambda v: pullback(v)[0])


@torch.no_grad()
def dense(loss: Loss | Sequence[Loss], params: Params) -> Tensor:
    """The whole Hessian, (n_params, n_params), column by column: for small networks."""
    identity = torch.ones_like(to_vector(params)).diag()
    return vmap(_on_vectors(loss, params), out_dims=1, chunk_size=256)(identity)


@torch.no_grad()
def top_eigenvalues(
    loss: Loss | Sequence[Loss],
    params: Params,
    k: int = 1,
    *,
    steps: int = 30,
    tol: float = 0.0,
    start: Tensor | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The k largest eigenvalues of the Hessian: the largest by value, not by magnitude.

    Lanczos (1950) with full reorthogonalization, from `start` (n_params,) or Gaussian noise of `seed`: `steps`
    products, or n_params, which are exact, and k for the residuals. Where these are large give more steps.
    tol > 0 stops once residual <= tol |value| for all k, perhaps before the copies of a repeated eigenvalue are found;
    not under vmap. NaN for a diverged model. Raises ValueError for k < 1, k > n_params, k > steps and a wrong start.
    """
    if not 1 <= k <= count(params):
        raise ValueError(f"k must be between 1 and the number of parameters, {count(params)}, got {k}")
    at_least("steps", steps, k)
    product, start = _on_vectors(loss, params), noise("start", 1 if start is None else start[None], params, seed)[0]
    values, mixes, basis = lanczos(product, start, min(steps, len(start)), k, tol)
    values, vectors = values.flip(0)[:k], mixes.flip(1)[:, :k].mT @ basis  # (k,), (k, n_params)
    missed = torch.stack([product(v) - value * v for value, v in zip(values, vectors, strict=True)])
    return Eigenpairs(values, vmap(lambda v: from_vector(v, params))(vectors), torch.linalg.vector_norm(missed, dim=1))


@torch.no_grad()
def trace(loss: Loss | Sequence[Loss], params: Params, *, probes: int | Tensor = 30, seed: int = 0) -> Estimate:
    """The trace of the Hessian: mean of v . H v over random signs v, and its standard error (Hutchinson 1990).

    probes: how many, or the noise (n_probes, n_params) that gives the signs. Exact for a diagonal Hessian.
    Raises ValueError for fewer than two probes, which have no standard error.
    """
    product, signs = _on_vectors(loss, params), noise("probes", probes, params, seed).sign()
    at_least("probes", len(signs), 2)
    samples = torch.stack([v @ product(v) for v in signs])
    return Estimate(samples.mean(), samples.std() / len(signs) ** 0.5)


@torch.no_grad()
def spectral_density(
    loss: Loss | Sequence[Loss],
    params: Params,
    *,
    steps: int = 30,
    probes: int | Tensor = 8,
    seed: int = 0,
    width: float = 0.01,
    points: int = 500,
) -> Density:
    """How the eigenvalues are spread: stochastic Lanczos quadrature (Golub & Welsch 1969; Ghorbani et al. 2019).

    Each probe (as in `trace`) starts a Lanczos run, whose eigenvalues are nodes and whose eigenvectors' first entries,
    squared, their weights. The density is smoothed by Gaussians of width * max |node|, so the scale of the loss does
    not matter. Sum of weights * nodes: the trace / n_params. Raises ValueError for counts < 1 and width <= 0.
    """
    at_least("steps", steps, 1)
    at_least("width", width, 1e-6)
    product, signs = _on_vectors(loss, params), noise("probes", probes, params, seed).sign()
    pairs = [lanczos(product, v, min(steps, len(v)))[:2] for v in signs]
    nodes = torch.stack([values for values, _ in pairs])
    weights = torch.stack([mixes[0] ** 2 for _, mixes in pairs]) / len(pairs)
    sigma = width * nodes.abs().amax().clamp(min=torch.finfo(nodes.dtype).tiny ** 0.5)
    low, high = nodes.amin() - 5 * sigma, nodes.amax() + 5 * sigma
    grid = low + (high - low) * torch.linspace(0, 1, points, dtype=nodes.dtype, device=nodes.device)
    bumps = torch.exp(-0.5 * ((grid[:, None] - nodes.flatten()) / sigma) ** 2) / (sigma * (2 * torch.pi) ** 0.5)
    return Density(nodes, weights, grid, bumps @ weights.flatten())


def _on_vectors(loss: Loss | Sequence[Loss], params: Params) -> Callable[[Tensor], Tensor]:
    """H v for v (n_params,)."""
    if callable(loss):
        product = hvp(loss, params)
        return lambda v: to_vector(product(from_vector(v, params)))
    at_least("the number of losses", len(loss), 1)
    return lambda v: sum(_on_vectors(part, params)(v) for part in loss) / len(loss)
