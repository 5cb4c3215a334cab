"""Curvature through Hessian-vector products.

The Hessian H of a loss has n_params^2 entries; H v costs two gradients (Pearlmutter 1994) and tells the rest.
Everything here is `f(loss, params, ...)`: it changes nothing, gives the same twice, and maps over an ensemble:

    vmap(lambda p: top_eigenvalues(loss, p, k).values, chunk_size=64)(ensemble)     # (n_models, k)

Where the data do not fit in memory, give a list of losses, one for each chunk of equal size: their mean is meant, and
only one graph at a time is kept. H is that of the loss as given: weight decay only where the loss has it in, layers in
the mode the model had in `loss_of`. Curvature by finite differences is wrong for ReLU networks: they step over kinks.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam_lite.params import Loss, Params, count, from_vector, to_vector

Losses = Loss | Sequence[Loss]


class Eigenpairs(NamedTuple):
    """The k largest eigenvalues, descending, with unit eigenvectors and what each pair misses to be one."""

    values: Tensor  # (k,)
    vectors: Params  # name -> (k, *shape)
    residuals: Tensor  # (k,): |H v - value v|; an eigenvalue of H lies this close to the value


@torch.no_grad()
def hvp(loss: Losses, params: Params) -> Callable[[Params], Params]:
    """The function v -> H v, both like `params`, with H the Hessian of the loss there.

    The pullback of the gradient, H v = d(grad . v)/dw: one graph serves every v. Attention runs on its mathematical
    kernel, for the fused ones have no second derivative. A parameter that takes no part has a block of zeros.
    """
    if not callable(loss):
        losses = _at_least("losses", list(loss), 1)
        return lambda v: _mean([hvp(part, params)(v) for part in losses])
    with sdpa_kernel(SDPBackend.MATH):
        _, pullback = vjp(grad(loss), params)
    return torch.no_grad()(lambda v: pullback(v)[0])


@torch.no_grad()
def top_eigenvalues(
    loss: Losses,
    params: Params,
    k: int = 1,
    *,
    steps: int = 30,
    tol: float = 0.0,
    start: Tensor | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The k largest eigenvalues of the Hessian: largest by value, not by magnitude.

    Lanczos (1950) with full reorthogonalisation, from `start` (n_params,) or Gaussian noise of `seed`; at most `steps`
    products, or n_params, which are exact, and k more for the residuals: look at these, and give more steps where they
    are large. tol > 0 stops once residual <= tol * |value| for all k, for one model (not under vmap). NaN for a
    diverged model. Raises ValueError for k > n_params, k > steps and a start of another shape.
    """
    n = count(params)
    if not 1 <= k <= min(n, steps):
        raise ValueError(f"k must be >= 1 and at most n_params = {n} and steps = {steps}, got {k}; give more steps")
    product = _on_vectors(loss, params)
    start = _noise(params, seed) if start is None else _shaped("start", start, (n,), params)
    tridiagonal, basis = _lanczos(product, start, min(steps, n), k, tol)
    values, mixes = _eigh(tridiagonal)
    values, vectors = values.flip(-1)[:k], (mixes.flip(-1)[:, :k]).mT @ basis  # (k,), (k, n_params)
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    missed = torch.stack([product(v) - value * v for value, v in zip(values, vectors, strict=True)])
    by_name = vmap(lambda v: from_vector(v, params))(vectors)
    return Eigenpairs(values, by_name, torch.linalg.vector_norm(missed, dim=1))


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor, steps: int, k: int = 1, tol: float = 0.0):
    """H on an orthonormal basis (steps, n) grown from `start`: the tridiagonal matrix (steps, steps) and the basis.

    Where the space built so far is invariant (H v brings nothing new) the basis goes on with noise, and the matrix
    falls into blocks: so repeated eigenvalues are found, and nothing is divided by zero. No branches: it maps.
    """
    v = start / torch.linalg.vector_norm(start)
    fresh = _noise({"": start}, seed=1)
    basis, matrix = [], []
    for j in range(steps):
        w = product(v)
        if j == 0:
            basis, matrix, scale = w.new_zeros(steps, len(w)), w.new_zeros(steps, steps), w.new_zeros(())
        basis[j].copy_(v)
        known = basis[: j + 1]
        scale = torch.maximum(scale, torch.linalg.vector_norm(w))
        overlaps = known @ w
        matrix[j, j].copy_(overlaps[j])
        if j + 1 == steps:
            break
        w = w - overlaps @ known
        beta = torch.linalg.vector_norm(w)
        stuck = beta <= torch.finfo(w.dtype).eps * scale
        w = torch.where(stuck, fresh.roll(j), w)
        w = w - (known @ w) @ known  # once more: rounding
        length = torch.linalg.vector_norm(w)
        beta = torch.where(stuck, 0, length)
        if tol > 0 and j + 1 >= k:
            values, mixes = _eigh(matrix[: j + 1, : j + 1].cpu())
            if (beta.cpu() * mixes[-1, -k:].abs() <= tol * values[-k:].abs()).all():
                return matrix[: j + 1, : j + 1], known
        matrix[j, j + 1].copy_(beta)
        matrix[j + 1, j].copy_(beta)
        v = w / length
    return matrix, basis


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ascending, eigenvectors in columns; NaN for a matrix that is not finite: it must not stop others."""
    finite = matrix.isfinite().all()
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0))
    return torch.where(finite, values, torch.nan), vectors


def _on_vectors(loss: Losses, params: Params) -> Callable[[Tensor], Tensor]:
    """H v for v (n_params,)."""
    product = hvp(loss, params)
    return lambda v: to_vector(product(from_vector(v, params)))


def _noise(params: Params, seed: int) -> Tensor:
    """Gaussian noise (n_params,), the same on every device. NumPy's, for under vmap torch refuses to draw."""
    like = next(iter(params.values()))
    noise = np.random.default_rng(seed).standard_normal(count(params))
    return torch.from_numpy(noise).to(like.device, like.dtype)


def _shaped(name: str, value: Tensor, shape: tuple[int, ...], params: Params) -> Tensor:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    return value.to(next(iter(params.values())))


def _at_least(name: str, value, least: int):
    size = len(value) if isinstance(value, list) else value
    if not size >= least:
        raise ValueError(f"{name} must be at least {least}, got {size}")
    return value


def _mean(parts: list[Params]) -> Params:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
