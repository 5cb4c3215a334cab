"""A grid of runs on disk: resumable, on one machine or on a Dask cluster.

`run` calls `work(**job)` for every job, which returns a table, and keeps each in a file of its own. Called again it does
only what is missing: whatever ended the last call, at most the jobs then under way are lost.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from pyarrow import ArrowException

Job = dict[str, str | int | float | bool | None]
MANIFEST = "sweep.json"


def grid(**axes: Sequence) -> list[Job]:
    """Every combination of the values of the axes, as keyword arguments: the last axis changes fastest."""
    for name, values in axes.items():
        if isinstance(values, str) or len(set(values)) != len(values) or not len(values):
            raise ValueError(f"{name} must be a list of one or more different values, got {values!r}")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run(
    work: Callable[..., pd.DataFrame],
    jobs: Sequence[Job],
    folder: str | Path,
    *,
    version: str = "",
    client=None,
    progress: Callable | None = None,
) -> pd.DataFrame:
    """The tables of all jobs, one below the other in the order of `jobs`, each with its job's settings as columns.

    work: a function that gives the same table for the same job. folder: made if need be; holds a file per job, and what
    grid and `version` they are of. client: a dask.distributed.Client, whose workers then do the jobs; files are written
    here alone. progress: such as tqdm, counts jobs, and says how long the rest will take.
    Raises ValueError for a folder of other jobs or another version, RuntimeError where the cluster is lost, and what
    `work` raises; the files there are then as good as before, and the same call goes on from them.
    """
    folder, names = Path(folder), [_name(job) for job in jobs]
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"jobs must be one or more different settings, got {len(names)} with {len(set(names))} different"
        )
    _claim(folder, {"version": version, "jobs": names})
    tables = {name: _read(folder / name) for name in names}
    missing = {name: job for name, job in zip(names, jobs, strict=True) if tables[name] is None}
    bar = progress(total=len(jobs), initial=len(jobs) - len(missing)) if progress else None
    try:
        for name, table in (_on_cluster if client else _here)(work, missing, client):
            tables[name] = table.assign(**missing[name])
            _write(tables[name], folder / name)
            if bar is not None:
                bar.update(1)
    finally:
        if bar is not None:
            bar.close()
    return pd.concat([tables[name] for name in names], ignore_index=True)


def _here(work: Callable, jobs: dict[str, Job], client: None) -> Iterator[tuple[str, pd.DataFrame]]:
    for name, job in jobs.items():
        yield name, work(**job)


def _on_cluster(work: Callable, jobs: dict[str, Job], client) -> Iterator[tuple[str, pd.DataFrame]]:
    from distributed import CancelledError, as_completed
    from distributed.comm import CommClosedError

    futures = {client.submit(work, pure=False, **job): name for name, job in jobs.items()}
    done = 0
    try:
        for future in as_completed(list(futures)):
            yield futures.pop(future), future.result()  # forgets the future, and with it the cluster its table
            done += 1
    except (CancelledError, CommClosedError) as error:
        raise RuntimeError(f"the cluster was lost after {done} of {len(jobs)} jobs; the same call goes on") from error
    finally:
        if client.status == "running":
            client.cancel(list(futures))


def _name(job: Job) -> str:
    return "-".join(f"{name}={value}" for name, value in job.items()).replace("/", "_") + ".parquet"


def _claim(folder: Path, own: dict) -> None:
    """Say in the folder whose results it holds, or refuse it."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.part"):  # of a process that was killed while it wrote
        leftover.unlink()
    path = folder / MANIFEST
    if not path.exists():
        return _replace(path, lambda part: part.write_text(json.dumps(own, indent=1), encoding="utf-8"))
    there = json.loads(path.read_text(encoding="utf-8"))
    for what in ("version", "jobs"):
        if there[what] != own[what]:
            theirs, ours = (x[what] if what == "version" else f"{len(x[what])} jobs" for x in (there, own))
            raise ValueError(
                f"folder must be new, or of the same grid and version, but {folder} has other {what}: "
                f"{theirs!r} there, {ours!r} now; name another folder, or delete this one"
            )


def _read(path: Path) -> pd.DataFrame | None:
    """The table, or None where it is missing or damaged."""
    if not path.exists():
        return None
    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except (ArrowException, OSError) as error:
        print(f"{path} is damaged and will be made anew ({error})")
        return None


def _write(table: pd.DataFrame, path: Path) -> None:
    _replace(path, lambda part: table.to_parquet(part, compression="zstd", write_page_checksum=True))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"{error.strerror}; free some space, and the same call goes on", str(path)
        ) from error
