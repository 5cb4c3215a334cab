"""Tables in a folder: a file for each job, written whole or not at all, by one process at a time."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from sam_lite import require

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

Setting = str | int | float | bool | None | tuple
Job = dict[str, Setting]
MANIFEST, FORMAT = "sweep.json", 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def plain(job: Job) -> Job:
    if not isinstance(job, dict):
        raise require.error("jobs", "dicts of settings in a row, such as grid(...)", job)
    return {name: setting(name, value) for name, value in job.items()}


def setting(name: str, value: Any) -> Setting:
    """`value` with Python's numbers in place of NumPy's, so that its text is the same in every process."""
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    if type(plain) is tuple:
        return tuple(setting(name, part) for part in plain)
    if not (plain is None or type(plain) in (bool, int, float, str)):
        rule = "a setting of None, a bool, a number, a word, or a tuple of these"
        raise require.error(name, rule, value, "let `work` make of it what it needs")
    return plain


def told(job: Job) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(job.items()))


def name_of(job: Job) -> str:
    """A file name: the settings as far as they can be read, and a checksum that only these settings have."""
    readable = re.sub(r"[^A-Za-z0-9.=,+-]+", "_", "-".join(f"{k}={v}" for k, v in sorted(job.items())))
    return f"{readable[:100]}-{hashlib.sha256(told(job).encode()).hexdigest()[:16]}.parquet"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process works in the folder, as far as the system can tell. A killed process leaves no lock."""
    if folder.exists() and not folder.is_dir():
        raise require.error("folder", "a folder, or nothing yet", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY) if fcntl else -1
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise RuntimeError(
            f"another process works in the folder {folder}; when it has ended, the same call gives the table, or goes on"
        ) from error
    except OSError:  # some network drives have no such locks
        pass
    try:
        yield
    finally:
        if fcntl:
            os.close(handle)


def claim(folder: Path, version: str, names: list[str]) -> None:
    """Write into the folder which jobs' results it holds; ValueError if it holds those of others."""
    own: dict[str, Any] = {"format": FORMAT, "version": version, "jobs": names}
    for name in (MANIFEST, *names):  # of a process that was killed while it wrote
        (folder / f"{name}.part").unlink(missing_ok=True)
    path = folder / MANIFEST
    if not path.exists():
        return _replace(path, lambda part: part.write_text(json.dumps(own, indent=1), encoding="utf-8"))
    another = "name another folder, or move this one away"
    try:
        there: dict[str, Any] = {"format": 1} | json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another program; {another}: {error}") from error
    for what in ("format", "version", "jobs"):
        theirs: Any = there.get(what)
        ours = own[what]
        if what == "jobs" and isinstance(theirs, list) and sorted(map(str, theirs)) == sorted(names):
            continue  # perhaps in another order, as a set of words has in each process
        if theirs != ours:
            if what == "jobs":
                only = [[name for name in a if name not in set(b)] or a for a, b in ((theirs, ours), (ours, theirs))]
                theirs, ours = (f"{len(x)} jobs, such as {few[0]}" for x, few in zip((theirs, ours), only, strict=True))
            raise ValueError(
                f"folder must be new, or of the same grid and version, but {folder} has other {what}: "
                f"{theirs!r} there, {ours!r} now; {another}"
            )


def read(path: Path) -> pd.DataFrame | None:
    """The table, or None where it is missing or damaged."""
    if not path.exists():
        return None
    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except (ArrowException, OSError) as error:
        print(f"{path} is damaged and will be made anew ({error})")
        return None


def write(table: pd.DataFrame, path: Path) -> None:
    """Raises ValueError for a table that has no place in a file, OSError where the file cannot be written."""
    try:
        _replace(path, lambda part: table.to_parquet(part, compression="zstd", write_page_checksum=True))
    except (ArrowException, ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise ValueError(f"the table that work returned cannot be kept: {error}") from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        remedy = "free some space, and" if error.errno in FULL else "then"
        said = error.strerror or error  # of Arrow's errors, which have no number
        raise OSError(error.errno, f"{said}; {remedy} the same call goes on", str(path)) from error
    finally:
        part.unlink(missing_ok=True)
