"""Noise is an argument: the caller gives the rows, or how many to draw from a seed."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sam_lite import require
from sam_lite.params import Params, count


def noise(
    name: str,
    rows: int | Tensor,
    params: Params,
    seed: int,
    *,
    size: int | None = None,
    law: Callable = np.random.Generator.standard_normal,
) -> Tensor:
    """`rows` as they are, or that many drawn from `seed`: (n, size), on the device and of the type of the parameters.

    size: n_params if not given. NumPy draws, so the numbers are the same on every device, and under vmap, where torch
    refuses to draw. name: the caller's argument, which the ValueError for a wrong number or size of rows is about.
    """
    like, size = next(iter(require.parameters(params).values())), count(params) if size is None else size
    if not isinstance(rows, Tensor) or rows.ndim == 0:
        remedy = "give rows as a tensor, by torch.as_tensor" if hasattr(rows, "__len__") else ""
        rows, seed = require.whole(name, rows, remedy=remedy), require.whole("seed", seed, least=0)
        rows = torch.from_numpy(law(np.random.default_rng(seed), size=(rows, size)))
    if rows.shape[1:] != (size,) or not len(rows):
        raise ValueError(
            f"{name} must have shape (n, {size}) with n > 0, one entry for each weight, got {tuple(rows.shape)}"
        )
    return rows.to(like.device, like.dtype)


def nonzero(name: str, rows: Tensor, zero: Tensor) -> Tensor:
    """The rows, which must have no `zero` places: ValueError, or NaN there where nothing is read (GPU, vmap)."""
    try:
        found = zero.is_cpu and bool(zero.any())
    except RuntimeError:  # one of many under vmap
        found = False
    if found:
        raise require.error(name, "without zeros, which have no direction", rows[zero.any(1)][0])
    return rows.masked_fill(zero, torch.nan)
