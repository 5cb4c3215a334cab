"""A grid of runs on disk: resumable, on one machine or on a Dask cluster.

`run` calls `work(**job)` for every job and keeps the table that it returns in a file of its own. Called again it does only
what is missing: an interruption loses at most the jobs that were running.
"""

import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd

from sam_lite import callbacks, cluster, require, tables

EXACT = 2**53  # up to which floats stand for every integer


def grid(**axes: Iterable[tables.Setting]) -> list[tables.Job]:
    """Every combination of the values of the axes, as keyword arguments: the last axis changes fastest."""
    plain = {}
    for name, values in axes.items():
        if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable) or not (found := list(values)):
            raise require.error(name, "a list of one or more different values", values)
        plain[name] = [tables.setting(name, value) for value in found]
        if len(set(plain[name])) < len(found) or len(set(map(repr, plain[name]))) < len(found):
            raise require.error(name, "a list of one or more different values", values)
    return [dict(zip(plain, values, strict=True)) for values in itertools.product(*plain.values())]


def run(
    work: Callable[..., pd.DataFrame],
    jobs: Sequence[tables.Job],
    folder: str | Path,
    *,
    version: str = "",
    client: Any = None,
    limit: float | None = None,
    progress: Callable | None = None,
) -> pd.DataFrame:
    """The tables of all jobs, one below the other in the order of `jobs`, each with its job's settings as columns.

    Args:
        work: a function that returns the same table for the same job. A column may have the name of a setting only if it
            holds that setting, and one or more must have another; a named index becomes columns. A cell holds one value:
            a list in it comes back as an array, a dict with the names of all dicts of its column.
        jobs: keyword arguments of `work`, such as `grid(...)`.
        folder: for a file per job and a note of the grid and `version` that they belong to; it is made if need be. One
            process at a time works there.
        version: change it when `work` changes, so that old results are refused.
        client: a dask.distributed.Client, whose workers do the jobs; files are written here alone. A cluster without
            workers for five minutes is given up.
        limit: seconds that a job may take; on a cluster, within which some job must end (a worker that hangs stays busy
            until `client.restart()`).
        progress: such as tqdm; counts jobs.

    Raises RuntimeError with the names of the jobs that failed, once all others are done, and where the cluster is lost
    or another process works in the folder; ValueError for a folder of other jobs or another version. The files there
    are then as good as before, and the same call goes on from them. An interrupt ends the call, and the job that it meets
    is done again, also where it would end early and return a table, as a training does.
    """
    jobs = [tables.plain(job) for job in jobs]
    folder, names, limit = (
        Path(folder).expanduser().absolute(),
        [tables.name_of(job) for job in jobs],
        _checked(limit, client),
    )
    if not names or len(set(names)) != len(names):
        raise ValueError(f"jobs must be different settings, one or more, got {len(names)}, {len(set(names))} different")
    with tables.alone(folder):
        tables.claim(folder, str(version), names)
        found = {name: tables.read(folder / name) for name in names}
        missing = {name: job for name, job in zip(names, jobs, strict=True) if found[name] is None}
        failed = {}
        with callbacks.bar(progress, total=len(jobs), initial=len(jobs) - len(missing)) as tell:
            results = cluster.tables_of(work, missing, client, limit) if client else _here(work, missing, limit)
            for name, made in results:
                try:
                    if not isinstance(made, BaseException):
                        tables.write(_table(made, missing[name]), folder / name)
                except ValueError as error:
                    made = error
                if isinstance(made, BaseException):
                    failed[name] = made
                    print(f"job {tables.told(missing[name])} failed, the others go on: {made!r}")
                else:
                    found[name] = tables.read(folder / name)
                    tell(1)
    if failed:
        some = "; ".join(f"{tables.told(missing[name])}: {error!r}" for name, error in list(failed.items())[:3])
        some = f"{len(failed)} of {len(jobs)} jobs failed: {some}{'; ...' if len(failed) > 3 else ''}"
        kept = f"The others are kept in {folder}, and the same call goes on with those that failed"
        raise RuntimeError(f"{some}. {kept}") from next(iter(failed.values()))
    return _joined([found[name] for name in names], jobs)


def _here(work: Callable, jobs: dict[str, tables.Job], limit: float | None) -> Iterator:
    for name, job in jobs.items():
        try:
            with _timed(limit), _interrupts() as seen:
                found = work(**job)
            if seen:  # which `train` and `train_ensemble` take for the end of a training: this one is not whole
                raise KeyboardInterrupt
        except (Exception, SystemExit) as error:
            found = error
        yield name, found


@contextmanager
def _interrupts() -> Iterator[list]:
    """Yields a list in which every interrupt (Ctrl-C) inside leaves a note, whoever else takes it."""
    before, seen = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() != threading.main_thread() or not callable(before):
        yield seen  # Python tells the main thread alone
        return

    def note(*args: Any) -> None:
        seen.append(args)
        before(*args)

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _timed(limit: float | None) -> Iterator[None]:
    """TimeoutError where the inside takes longer."""
    if limit is None:
        yield
        return

    class TooLong(BaseException):
        """Not to be caught by `except Exception` in the job."""

    def ring(*_: object) -> None:
        raise TooLong

    handler, others = signal.signal(signal.SIGALRM, ring), signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    except TooLong:
        raise TimeoutError(f"it took longer than {limit:g} seconds: limit") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, handler)


def _checked(limit: float | None, client) -> float | None:
    if limit is None:
        return None
    limit = require.number("limit", limit, above=0)
    if client is None and (not hasattr(signal, "setitimer") or threading.current_thread() != threading.main_thread()):
        raise ValueError(f"limit={limit:g} needs the main thread of a process on Unix; leave it out, or use a client")
    return limit


def _table(found: object, job: tables.Job) -> pd.DataFrame:
    """What `work` returned, as it is kept: without the settings."""
    if not isinstance(found, pd.DataFrame) or not len(found):
        rule, remedy = "a function that returns a table, a pandas DataFrame with a row or more", "has it a `return`?"
        raise require.error("work", rule, found, remedy)
    named = any(name is not None for name in found.index.names)
    if not (named or pd.api.types.is_integer_dtype(found.index)):
        remedy = "name it, as in table.rename_axis('name'), or leave it out by table.reset_index(drop=True)"
        raise require.error("the index of work's table", "numbers of rows, or named", list(found.index[:3]), remedy)
    table = found.reset_index() if named else found.copy()
    if len(alike := list(map(str, table.columns))) > len(set(alike)):
        raise require.error(
            "the columns of work's table", "of names that read differently in a file", list(table.columns)
        )
    table.attrs = {}  # of its maker's, which no file could keep
    for name, value in job.items():
        if name in table and not all(_same(x, value) for x in table[name]):
            what = f"work returned a column {name!r} that differs from the job's {name}={value!r}; give it another name"
            raise ValueError(what)
    table = table.drop(columns=[name for name in job if name in table])
    if not len(table.columns):
        raise require.error("work", "a function that returns more than the settings", list(job), "add what it found")
    for name in table.columns[table.dtypes.eq(object)]:  # a file would have floats for large integers beside None
        there = [x for x in table[name] if not (pd.api.types.is_scalar(x) and pd.isna(x))]
        if all(isinstance(x, Integral) and not isinstance(x, bool) for x in there) and _large(there, 2**63):
            table[name] = table[name].astype("Int64")
    return table


def _same(x: Any, value: Any) -> bool:
    """Whether both are one value, or missing; where no answer is to be had, as of an array or of pd.NA, they are not."""
    try:
        return bool(x == value or (x != x and value != value))
    except (ValueError, TypeError, RuntimeError):
        return False


def _large(values: Iterable, below: float = float("inf")) -> bool:
    """Whether some are integers that floats cannot stand for, and less than `below`."""
    return any(isinstance(x, Integral) and EXACT < abs(int(x)) < below for x in values)


def _joined(parts: list[pd.DataFrame], jobs: list[tables.Job]) -> pd.DataFrame:
    columns = dict.fromkeys(column for part in parts for column in part)
    for name in columns:  # as floats, large integers would be rounded
        whole = [part for part in parts if name in part and part[name].dtype.kind in "iu"]
        if len({str(part.dtypes.get(name)) for part in parts}) > 1 and any(
            _large(part[name].dropna()) for part in whole
        ):
            for part in whole:
                part[name] = part[name].astype(object)
    joined = pd.concat(parts, ignore_index=True)
    for name in dict.fromkeys(name for job in jobs for name in job):
        pairs = zip(parts, jobs, strict=True)
        values = [job.get(name, float("nan")) for part, job in pairs for _ in range(len(part))]
        kinds = {type(value) for value in values}
        plain = kinds in ({int}, {float}, {bool}, {str}) or (kinds == {int, float} and not _large(values))
        joined[name] = pd.Series(values, dtype=None if plain else object)
    return joined
