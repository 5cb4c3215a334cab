"""A large symmetric matrix in a few dimensions, from its products with vectors."""

from collections.abc import Callable

import torch
from torch import Tensor

from sam_lite import require
from sam_lite.noise import noise, nonzero
from sam_lite.params import length, unit


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, k: int = 1, tol: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues ascending (steps,), eigenvectors in columns (steps, steps), and the basis they are in (steps, n).

    product: v -> A v for v (n,). The basis grows from `start`: each new vector is the part of A times the last one that
    is orthogonal to all before. In this basis A is tridiagonal (Lanczos 1950). Every vector is re-orthogonalized at every
    step, because rounding destroys orthogonality. When the basis spans an invariant space, A v adds nothing; then noise
    takes its place, and the matrix falls into blocks. So repeated eigenvalues are found and nothing is divided by zero.
    There are no branches, so it maps; a matrix that is not finite gives NaN and leaves those beside it alone. tol > 0
    stops early, see `top_eigenvalues`; not under vmap. ValueError for more steps than n, which is the room there is, and
    for a start of zeros, which has no direction; where it cannot be read, that gives NaN.
    """
    steps = require.whole("steps", steps, most=len(start), remedy="as many as the matrix has rows are exact")
    start = nonzero("start", start[None], (start == 0).all()[None, None])[0]
    spare, v = noise("", 1, {"": start}, seed=1)[0], unit(start)
    w = product(v)
    basis, matrix, scale = w.new_zeros(steps, len(v)), w.new_zeros(steps, steps), w.new_zeros(())
    for j in range(steps):
        basis[j].copy_(v)
        known = basis[: j + 1]
        overlaps = known @ w
        matrix[j, j].copy_(overlaps[j])
        rest = w - overlaps @ known
        scale = torch.maximum(scale, length(w))
        stuck = length(rest) <= 10 * torch.finfo(w.dtype).eps * scale  # only rounding is left
        rest = torch.where(stuck, spare.roll(j), rest)
        for _ in range(2):
            rest = rest - (known @ rest) @ known
        size = length(rest)
        beta = torch.where(stuck, 0, size)
        if tol > 0 and j + 1 >= k:
            values, mixes = _eigh(matrix[: j + 1, : j + 1].cpu())  # |A x - value x| = beta |last entry of x|
            if (beta.cpu() * mixes[-1, -k:].abs() <= tol * values[-k:].abs()).all():
                return values.to(w), mixes.to(w), known
        if j + 1 < steps:
            matrix[j + 1, j].copy_(beta)  # the lower half; `_eigh` adds the other
            v = rest / size
            w = product(v)
    return *_eigh(matrix), basis


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    finite, matrix = matrix.isfinite().all(), matrix + matrix.tril(-1).mT  # whole, since a derivative takes both halves
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0))
    return torch.where(finite, values, torch.nan), torch.where(finite, vectors, torch.nan)
