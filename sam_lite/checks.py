"""Checks of the exercises: is this answer right, and if not, which known mistake does it look like?"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

Value = Any  # a number, an array, a tensor, a sequence of numbers, or a dict of these


def expect(
    what: str, got: Value, right: Value, *, looks_like: Mapping[str, Value] | None = None, tolerance: float = 1e-5
) -> None:
    """Pass in silence if `got` is `right`, and raise AssertionError with the reason if it is not.

    Two numbers agree if they differ by at most `tolerance` times the largest entry of `right` (or by `tolerance`,
    where `right` is zero everywhere): float32 or float64, list, array or tensor make no difference.
    what: the checked quantity in words; it opens the message. looks_like: mistake in words -> the value it leads to.
    """
    problem = _problem(got, right, tolerance)
    if problem:
        for mistake, value in (looks_like or {}).items():
            if not _problem(got, value, tolerance):
                problem = f"it looks as if {mistake}"
                break
        raise AssertionError(f"{what}: {problem}.")


def expect_error(what: str, call: Callable[[], object], error: type[Exception], *, about: str = "") -> None:
    """Pass in silence if `call()` raises `error` with `about` in its message."""
    try:
        call()
    except NotImplementedError:
        raise
    except Exception as caught:
        if not isinstance(caught, error):
            raise AssertionError(
                f"{what}: {error.__name__} was expected, {type(caught).__name__} came: {caught}."
            ) from None
        if about not in str(caught):
            raise AssertionError(f"{what}: the message must say {about!r}, and says {str(caught)!r}.") from None
    else:
        raise AssertionError(f"{what}: {error.__name__} was expected and nothing was raised.")


def _problem(got: Value, right: Value, tolerance: float) -> str:
    """What is wrong with `got`, or nothing."""
    if got is None:
        return "nothing came back; is there a return?"
    if isinstance(right, Mapping):
        if not isinstance(got, Mapping):
            return f"a dict was expected, with the keys {sorted(right)}; {type(got).__name__} came"
        if got.keys() != right.keys():
            return f"the keys must be {sorted(right)}, and are {sorted(got)}"
        found = {key: _problem(got[key], right[key], tolerance) for key in right}
        return next((f"[{key!r}] {text}" for key, text in found.items() if text), "")
    try:
        ours, theirs = _array(got), _array(right)
    except (TypeError, ValueError):
        return f"numbers were expected; {type(got).__name__} came"
    if ours.shape != theirs.shape:
        return f"the shape must be {theirs.shape}, and is {ours.shape}"
    if not np.isfinite(ours).all() and np.isfinite(theirs).all():
        return "there is a NaN or an infinity in it"
    size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
    if np.allclose(ours, theirs, rtol=0, atol=tolerance * (size or 1.0)):
        return ""
    with np.errstate(invalid="ignore"):
        error = np.abs(ours - theirs).max() / (size or 1.0)
    return f"it is wrong, by {error:.1g} of its size" + (f" ({float(ours):.4g})" if ours.ndim == 0 else "")


def _array(value: Value) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    elif isinstance(value, (list, tuple)):
        value = [_array(v) for v in value]
    return np.asarray(value, dtype=np.float64)
