"""Checks of what a user's own functions return during a training: the progress bar, and the values to record."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

from sam_lite import require


@contextmanager
def bar(progress: Callable | None, **settings) -> Iterator[Callable[[int], object]]:
    """progress(**settings), such as tqdm, which is closed at the end; yields its `update`. With None nobody is told."""
    made: Any = progress(**settings) if callable(progress) else progress
    if progress is None:
        yield lambda n: None
        return
    if not (callable(getattr(made, "update", None)) and callable(getattr(made, "close", None))):
        raise require.error("progress", "a function that makes a bar with update(n) and close(), such as tqdm", made)
    try:
        yield made.update
    finally:
        made.close()


@contextmanager
def kept(so_far: Callable[[], object]) -> Iterator[None]:
    """An error inside, such as one in the user's `record`, gets the attribute `so_far`: what was done until then.

    so_far() returns it, or None if nothing was done.
    """
    try:
        yield
    except Exception as error:
        error.so_far = there = so_far()  # type: ignore[attr-defined]
        if there is not None:
            error.add_note("The training until then is not lost: it is the attribute `so_far` of this error.")
        raise


def columns(found: object, reserved: Iterable[str], n_models: int | None = None) -> dict:
    """What `record` returned: name -> number or word; for an ensemble name -> list of n_models, a single one repeated.

    Raises ValueError for anything but a dict, for `reserved` names, and for values of another size.
    """
    if not isinstance(found, Mapping):
        raise require.error("record", "a function that returns a dict", found, "where nothing is recorded, return {}")
    for name in found:
        if not isinstance(name, str) or name in reserved:
            rule = f"a word other than {', '.join(reserved)}, which are recorded anyway"
            raise require.error("the name of what record returns", rule, name)
    if n_models is None:
        return {name: _one(name, value) for name, value in found.items()}
    return {name: _each(name, value, n_models) for name, value in found.items()}


def _one(name: str, value: Any) -> Any:
    plain = value.item() if hasattr(value, "item") and getattr(value, "size", None) in (1, ()) else value
    plain = value.item() if hasattr(value, "numel") and value.numel() == 1 else plain
    if not (plain is None or isinstance(plain, (str, Real))):
        raise require.error(f"what record returns as {name!r}", "one number or word", value, "give each its own name")
    return plain if plain is None or isinstance(plain, (str, int, float)) else float(plain)


def _each(name: str, value: Any, n_models: int) -> list:
    plain = value.tolist() if hasattr(value, "tolist") else value
    values = list(plain) if isinstance(plain, (list, tuple)) else [plain] * n_models
    if len(values) != n_models:
        rule = f"one value for each of the {n_models} models in `members`"
        raise require.error(f"what record returns as {name!r}", rule, value, f"these are {len(values)}")
    return [_one(name, one) for one in values]
