"""Values between two processes that do not trust each other: JSON that only plain data come out of.

A tensor, an array, a table, a dict goes through; a function or any other object arrives as an empty `Opaque`. Reading
runs nobody's code, as unpickling would.
"""

import base64
import collections
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

DEEPEST = 12
MUTABLE = (torch.Tensor, np.ndarray, pd.DataFrame, torch.nn.Module, dict, list, tuple)


class Opaque:
    """Stands for an object that is no plain value."""


def encode(value: Any, depth: int = 0) -> Any:
    """`value` as JSON."""
    if depth > DEEPEST:
        return {"opaque": "too deep"}
    inside = lambda v: encode(v, depth + 1)  # noqa: E731
    if value is None or isinstance(value, (bool, str)) or (type(value) is int and abs(value) < 2**53):
        return value
    if isinstance(value, (int, float)):
        return {"number": repr(float(value))} if isinstance(value, float) else {"integer": str(value)[:400]}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
        return (
            {"tensor": _array(value.resolve_conj().resolve_neg().numpy())}
            if not value.is_sparse
            else {"opaque": "sparse"}
        )
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return {"array": _array(array)} if array.dtype.kind in "biufc" else {"list": inside(array.tolist())}
    if isinstance(value, pd.DataFrame):
        columns = [[inside(name), inside(column)] for name, column in value.items()]
        return {"frame": columns, "index": inside(value.index.tolist())}
    if isinstance(value, pd.Series):
        plain = value.to_numpy() if value.dtype.kind in "biufc" else value.tolist()
        return {"series": inside(plain), "index": inside(value.index.tolist())}
    if isinstance(value, Mapping):
        return {"dict": [[inside(key), inside(v)] for key, v in value.items()]}
    if isinstance(value, pd.Index):
        return inside(value.to_numpy())
    if isinstance(value, (list, tuple, range, set, frozenset, collections.deque)):
        return {"tuple" if isinstance(value, tuple) else "list": [inside(v) for v in value]}
    if isinstance(value, torch.nn.Module):
        return {"module": inside(dict(value.state_dict()))}
    if isinstance(value, Sequence) or hasattr(type(value), "__float__") or hasattr(type(value), "__array__"):
        with contextlib.suppress(Exception):  # fractions, decimals, other arrays: what NumPy and so a check takes
            return inside(np.asarray(value, float))
    return {"opaque": type(value).__name__[:80]}


def _array(array: np.ndarray) -> list:
    return [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]


def decode(value: Any) -> Any:
    """The value that `encode` was given. Raises ValueError for anything that it never writes."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict) or not value:
        raise ValueError(f"no encoded value: {str(value)[:80]}")
    (kind, inner), *_ = value.items()
    if kind == "number":
        return float(inner)
    if kind == "integer":
        return int(inner)
    if kind in ("tensor", "array"):
        dtype, shape, data = inner
        if np.dtype(dtype).kind not in "biufc":
            raise ValueError(f"no numbers: {dtype}")
        array = np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
        return torch.from_numpy(array) if kind == "tensor" else array
    if kind in ("list", "tuple"):
        found = decode(inner)
        return tuple(found) if kind == "tuple" else found
    if kind == "dict":
        return {_key(decode(key)): decode(v) for key, v in inner}
    if kind == "frame":
        return pd.DataFrame(
            {_key(decode(name)): decode(v).to_numpy() for name, v in inner}, index=decode(value["index"])
        )
    if kind == "series":
        return pd.Series(decode(inner), index=decode(value["index"]))
    if kind == "module":
        return decode(inner)
    if kind == "opaque":
        return type(str(inner), (Opaque,), {})()
    raise ValueError(f"no encoded value: {kind}")


def _key(key: Any) -> Any:
    return key.item() if isinstance(key, (np.ndarray, torch.Tensor)) else key


def restore(mine: Any, theirs: Any) -> None:
    """Change `mine` in place to what another process made of its copy of it."""
    if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
        mine.data = theirs.to(mine.dtype)
    elif isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        mine.resize(theirs.shape, refcheck=False)
        mine[...] = theirs
    elif isinstance(mine, torch.nn.Module) and isinstance(theirs, dict):
        own = dict(mine.state_dict())
        if own.keys() == theirs.keys() and all(own[name].shape == t.shape for name, t in theirs.items()):
            mine.load_state_dict(theirs)
    elif isinstance(mine, pd.DataFrame) and isinstance(theirs, pd.DataFrame):
        if len(mine) != len(theirs):
            raise AssertionError("the table that was given has another number of rows now: work on a copy.")
        for name in list(mine):
            del mine[name]
        mine.index = theirs.index
        for name, column in theirs.items():
            mine[name] = column
    elif isinstance(mine, dict) and isinstance(theirs, dict):
        for name in [name for name in mine if name not in theirs]:
            del mine[name]
        for name, value in theirs.items():
            if isinstance(mine.get(name), MUTABLE):
                restore(mine[name], value)
            else:
                mine[name] = value
    elif isinstance(mine, list) and isinstance(theirs, list):
        same = len(mine) == len(theirs)
        for i, value in enumerate(theirs if same else ()):
            if isinstance(mine[i], MUTABLE):
                restore(mine[i], value)
            elif not isinstance(value, Opaque):
                mine[i] = value
        if not same:
            mine[:] = theirs
    elif isinstance(mine, tuple) and isinstance(theirs, tuple):
        for one, other in zip(mine, theirs, strict=False):
            restore(one, other)
