"""Noise is an argument: the rows you give, or so many of a seed."""

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
    """`rows` as they are, or that many drawn: (n, size), where and of the type that the parameters are.

    size: n_params if not given. The same on every device, and under vmap, where torch refuses to draw: by NumPy.
    Raises ValueError, in the name of the caller's argument, for what is no number of rows, and for rows of another size.
    """
    like, size = next(iter(params.values())), count(params) if size is None else size
    if not isinstance(rows, Tensor) or rows.ndim == 0:
        rows, seed = require.whole(name, rows), require.whole("seed", seed, least=0)
        rows = torch.from_numpy(law(np.random.default_rng(seed), size=(rows, size)))
    if rows.shape[1:] != (size,):
        raise ValueError(f"{name} must have shape (n, {size}), one entry for each weight, got {tuple(rows.shape)}")
    return rows.to(like.device, like.dtype)
