"""Checks of the exercises: is this answer right, and if not, which known mistake does it look like?

`set_05.climb(climb)` in a notebook tries a student's function on inputs that are drawn anew at every call, and prints
`right` or says what is wrong. A check is written as a function of a `Draw` and the answer, under `@part(title, points)`.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import os
import secrets
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

Value = Any  # a number, an array, a tensor, a sequence of numbers, or a dict of these
SEED, PRIVATE = "SAM_LITE_CHECK_SEED", "SAM_LITE_PRIVATE_CHECKS"  # in the environment of whoever grades
HERE = str(Path(__file__).parent)


class Wrong(AssertionError):
    """What a check says of a wrong answer: one line, and no code of the check below it."""

    hidden = ""  # the reason, where the case is private

    def _render_traceback_(self) -> list[str]:
        return [f"Not right yet. {self}"]


class Draw:
    """Random inputs of one round of a check: the same for the same seed."""

    def __init__(self, *seed: int):
        self.rng, self.round = np.random.default_rng(seed), seed[-1]
        self.dtype = (torch.float64, torch.float32)[seed[-1] % 2]
        self.tolerance = (1e-5, 2e-4)[seed[-1] % 2]

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.from_numpy(np.asarray(self.rng.normal(size=shape))).to(dtype or self.dtype)

    def away(self, *shape: int, low: float = 0.3, high: float = 2.0, dtype: torch.dtype | None = None) -> Tensor:
        """Of either sign, and at least `low` away from zero."""
        values = self.rng.uniform(low, high, shape) * self.rng.choice([-1.0, 1.0], shape)
        return torch.from_numpy(np.asarray(values)).to(dtype or self.dtype)

    def number(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """Low and high included."""
        return int(self.rng.integers(low, high + 1))


def part(title: str, points: int, rounds: int = 3) -> Callable:
    """Make a check of `cases(draw, answer, ...)`: it is called `rounds` times, with floats of both sizes.

    points: what the part gives, for `total`. An answer that changes one of its arguments is wrong, whatever it returns.
    The seed is new at every call, or the number in $SAM_LITE_CHECK_SEED. A function of the same name in the file of the
    same name in the folder $SAM_LITE_PRIVATE_CHECKS adds cases of the instructor, of which only the verdict is shown.
    """

    def decorate(cases: Callable) -> Callable:
        @functools.wraps(cases)
        def check(*answers: Any) -> None:
            check.state = "not right yet"
            given = os.environ.pop(SEED, None)  # no answer is to find it
            seed = int(given or secrets.randbits(32))
            name = zlib.crc32(cases.__name__.encode())
            try:
                with quiet():
                    watched = tuple(map(Watched, answers))
                    for number in range(rounds):
                        cases(Draw(seed, name, number), *watched)
                    _hidden(cases, Draw(seed, name, 0), watched)
            except Exception as error:
                raise _shown(error) from None
            finally:
                if given is not None:
                    os.environ[SEED] = given
            check.state = "right"
            print(f"{title}: right.")

        check.title, check.points, check.rounds, check.state = title, points, rounds, "not checked yet"
        return check

    return decorate


def total(checks: ModuleType, written: int) -> None:
    """Print what each check of a set said when it ran last, and the points that this makes.

    checks: the module of the set, such as `set_05`. written: the points for written answers. Nothing that ran before
    the kernel started is known.
    """
    parts = [one for one in vars(checks).values() if hasattr(one, "points")]
    width = max(len(one.title) for one in parts)
    for one in parts:
        got = one.points if one.state == "right" else 0
        print(f"{one.title:{width}}   {got} of {one.points}   {one.state}")
    right = sum(one.points for one in parts if one.state == "right")
    print(f"Together: {right} of {sum(one.points for one in parts)} points so far.", end=" ")
    print(f"The written answers give up to {written} more.")


def _hidden(cases: Callable, draw: Draw, answers: tuple) -> None:
    """The private cases of a check, where there are some."""
    module = cases.__module__.rpartition(".")[2]
    path = Path(given := os.environ.get(PRIVATE) or HERE) / f"{module}.py"
    if not path.parent.is_dir():  # as a path that is not whole: a check runs in another folder than its instructor
        raise Wrong(f"${PRIVATE} must be the whole path of a folder that is there, got {given!r}.")
    if str(path.parent) == HERE or not path.is_file():
        return
    spec = importlib.util.spec_from_file_location(f"private_{module}", path)
    private = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(private)
    more = getattr(private, cases.__name__, None)
    if more is None:
        return
    try:
        more(draw, *answers)
    except Exception as error:
        wrong = Wrong("it is right in the cases of the notebook, and wrong in one that is not shown.")
        wrong.hidden = f"{type(error).__name__}: {error}"
        raise wrong from None


@contextlib.contextmanager
def quiet():
    """No warning of the student's code is an error or seen; what it set in torch and NumPy does not count here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.enable_grad():
            warnings.simplefilter("ignore")
            with np.errstate(all="ignore"):
                yield
    finally:
        logging.disable(before)


def _shown(error: Exception) -> Exception:
    """The error as the student sees it: without the lines of the check."""
    if isinstance(error, AssertionError):
        return error if isinstance(error, Wrong) else Wrong(str(error))
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename.startswith(HERE):
        trace = trace.tb_next
    if trace is None and not isinstance(error, NotImplementedError):  # in a line of the check
        return Wrong(f"what your function returned cannot be used ({type(error).__name__}: {error}).")
    return error.with_traceback(trace)


class Watched:
    """Stands for an answer in a check: calls it, and says so if an argument is another afterwards.

    Tensors, arrays, tables, numbers, and lists and dicts of these are compared. A model, an optimizer or a generator is
    not: an answer is given them to be moved on.
    """

    def __init__(self, answer: Any):
        self.answer = answer

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given = [*arguments, *named.values()]
        before = [_copy(argument) for argument in given]
        got = self.answer(*arguments, **named)
        for place, (was, now) in enumerate(zip(before, given, strict=True), 1):
            if not _same(was, now):
                raise Wrong(
                    f"argument {place}, a {type(now).__name__}, must stay as it was, and your function changed it: "
                    f"work on a copy."
                )
        return got

    def probe(self, function: Callable, *arguments: Any) -> Value:
        if hasattr(self.answer, "probe"):
            return self.answer.probe(lambda answer, *a: function(Watched(answer), *a), *arguments)
        return function(self, *arguments)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(v) for v in value]
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, (np.ndarray, pd.DataFrame)) else value


def _same(was: Any, now: Any) -> bool:
    """Whether an argument is as it was; what was moved and brought back may have lost its last digits."""
    if isinstance(was, Mapping):
        return was.keys() == now.keys() and all(_same(v, now[name]) for name, v in was.items())
    if isinstance(was, (list, tuple)):
        return len(was) == len(now) and all(map(_same, was, now))
    if isinstance(was, pd.DataFrame):
        return was.equals(now)
    if not isinstance(was, (Tensor, np.ndarray, int, float)):
        return was is now or bool(was == now)
    if isinstance(was, np.ndarray) and was.dtype.kind not in "biuf":
        return np.array_equal(was, now)
    try:
        one, other = _array(was), _array(now)
    except (TypeError, ValueError):
        return False
    size = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=1e-5 * size, equal_nan=True)


def probe(function: Callable, answer: Any, *arguments: Any) -> Value:
    """function(answer, *arguments): what a check does with an answer other than calling it, as plain values.

    A grader that keeps answers in another process sends the function there.
    """
    return answer.probe(function, *arguments) if hasattr(answer, "probe") else function(answer, *arguments)


def clones(value: Value) -> Value:
    """A copy of tensors and of dicts of tensors, to compare with after the call."""
    return {name: clones(v) for name, v in value.items()} if isinstance(value, Mapping) else value.clone()


def unpack(got: Value, *names: str) -> list:
    """The values that were asked for, as many as there are names."""
    wanted = f"{len(names)} values were expected: {', '.join(names)}"
    if got is None:
        raise AssertionError("nothing came back; is there a return?")
    if isinstance(got, (str, Mapping)) or not hasattr(got, "__len__") or getattr(got, "ndim", 1) == 0:
        raise AssertionError(f"{wanted}; one came, of the type {type(got).__name__}.")
    if len(got) != len(names):
        raise AssertionError(f"{wanted}; {len(got)} came.")
    return list(got)


def expect(
    what: str, got: Value, right: Value, *, looks_like: Mapping[str, Value] | None = None, tolerance: float = 1e-5
) -> None:
    """Pass in silence if `got` is `right`, and raise AssertionError with the reason if it is not.

    Two numbers agree if they differ by at most `tolerance` times the largest entry of `right` (or by `tolerance`,
    where `right` is zero everywhere): float32 or float64, list, array or tensor make no difference.
    what: the checked quantity in words; it opens the message. looks_like: mistake in words -> the value it leads to,
    or a function without arguments that computes it.
    """
    problem = _problem(got, right, tolerance)
    if problem:
        for mistake, value in (looks_like or {}).items():
            if not _problem(got, value() if callable(value) else value, tolerance):
                problem = f"it looks as if {mistake}"
                break
        raise AssertionError(f"{what}: {problem}" + ("" if problem.endswith("?") else "."))


def expect_error(what: str, call, error: type[Exception], *, about: str = "") -> None:
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
        name = type(got).__name__
        lazy = "; put list(...) around it" if name in ("map", "generator", "filter", "zip") else ""
        return f"numbers were expected; {name} came{lazy}"
    if theirs.ndim == 0 and ours.ndim > 0 and ours.size == 1:
        return f"one number was expected, and an array of the shape {ours.shape} came: take the number out of it"
    if ours.shape != theirs.shape:
        return f"the shape must be {theirs.shape}, and is {ours.shape}"
    if theirs.ndim == 0 and np.isinf(theirs) and ours != theirs:
        return f"{float(theirs)} was expected, and {float(ours):.4g} came"
    if not np.isfinite(ours).all() and np.isfinite(theirs).all():
        return "there is a NaN or an infinity in it"
    size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
    if np.allclose(ours, theirs, rtol=0, atol=tolerance * (size or 1.0)):
        return ""
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(ours - theirs).max() / (size or 1.0)
    if ours.ndim == 0 and size and 3 < abs(float(ours)) / size < np.inf:
        return f"yours is {float(ours):.4g}, and the right one is about {_round(abs(float(ours)) / size)} times smaller"
    places = np.flatnonzero(~np.isclose(ours, theirs, rtol=0, atol=tolerance * (size or 1.0)))
    few = ours.ndim == 1 and len(places) <= min(3, len(ours) - 1)
    where = ", at " + ", ".join(f"[{place}]" for place in places) if few else ""
    return f"it is wrong, by {_round(error)} of its size" + (
        f" (yours is {float(ours):.4g})" if ours.ndim == 0 else where
    )


def _round(ratio: float) -> str:
    """One digit of it, and 50 rather than 5e+01."""
    return f"{float(f'{ratio:.1g}'):g}"


def _array(value: Value) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    elif isinstance(value, (list, tuple)):
        value = [_array(v) for v in value]
    value = np.asarray(value)
    if np.iscomplexobj(value):  # as of an eigenvalue solver that knows of no symmetry: real but for rounding
        if not np.allclose(value.imag, 0, rtol=0, atol=1e-6 * np.abs(value).max(initial=0)):
            raise TypeError("complex numbers")
        value = value.real
    return np.asarray(value, dtype=np.float64)
