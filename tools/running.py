"""Run notebooks from fresh kernels, several side by side, each kernel on one thread.

PyTorch's threads inside one kernel bring little for networks as small as those of the course; a kernel for each core
brings nearly as many times the speed as there are cores.
"""

import asyncio
import atexit
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from notebooks import NotebookError, normalise, problems

TIMEOUT = 600  # seconds for one cell, as for nbval; many times what the slowest takes
NO_START = "Kernel died before replying"  # another program took a port that the kernel was to have: try once more
COLOUR = r"\x1b\[[0-9;]*m"
MEMORY = 1.5e9  # bytes that a kernel may need, with room to spare
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class Job(NamedTuple):
    """A notebook, and what its kernel finds in its environment besides what all find there."""

    path: Path
    environment: Mapping[str, str] = {}
    label: str = ""


class Done(NamedTuple):
    job: Job
    notebook: NotebookNode | None  # None if it failed
    error: str
    seconds: float


def side_by_side() -> int:
    """How many kernels this machine bears: one for each core, as far as the memory goes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return cores
    return max(1, min(cores, int(memory / MEMORY)))


def execute(job: Job, clients: list[NotebookClient] | None = None, each_cell: Callable | None = None) -> NotebookNode:
    """Run a notebook from a fresh kernel, in its own folder, and return it normalised.

    Raises NotebookError for an error in a cell and for outputs that must not be stored (see `problems`). clients: a
    list to which the running client is added, so that somebody else can end it. each_cell: called after every cell.
    """
    notebook = nbformat.read(job.path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    env = {k: v for k, v in os.environ.items() if k != "SAM_LITE_SEED_SET"} | {"TQDM_DISABLE": "1"} | ONE_THREAD
    env |= job.environment
    try:
        with tempfile.TemporaryDirectory(prefix="home") as spare:
            try:
                tempfile.TemporaryDirectory(dir=Path.home()).cleanup()
            except OSError:  # Matplotlib and IPython would say on stderr that they cannot write there
                env |= {"MPLCONFIGDIR": spare, "IPYTHONDIR": spare}
            _execute(notebook, job.path.parent, env, clients if clients is not None else [], each_cell)
    except CellTimeoutError as error:
        raise NotebookError(f"{job.path.name}: a cell ran for more than {TIMEOUT} s\n{error}") from None
    except (CellExecutionError, DeadKernelError) as error:
        raise NotebookError(f"{job.path.name}: {re.sub(COLOUR, '', str(error))}") from None
    found = problems(normalise(notebook))
    if found:
        raise NotebookError("\n".join(f"{job.path.name}: {problem}" for problem in found))
    return notebook


def _execute(notebook, folder: Path, env: dict[str, str], clients: list, each_cell=None, attempts: int = 3) -> None:
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
        on_cell_complete=each_cell,
    )
    clients.append(client)
    try:
        with ThreadPoolExecutor(1) as thread:  # of its own, where no other loop is running
            thread.submit(asyncio.run, client.async_execute(env=env)).result()
    except RuntimeError as error:
        atexit.unregister(client._cleanup_kernel)  # done already
        if attempts == 1 or NO_START not in str(error):
            raise
        _execute(notebook, folder, env, clients, each_cell, attempts - 1)
    finally:
        clients.remove(client)


def run(jobs: Sequence[Job], beside: int | None = None, say: Callable[[str], None] | None = None) -> Iterator[Done]:
    """Run all jobs, `beside` at a time, and yield each when it is done; `say` gets a line of progress every second.

    An interrupt ends every kernel before it goes on to the caller.
    """
    clients: list[NotebookClient] = []
    lock, cells, total, begin = threading.Lock(), [0], sum(map(_cells, jobs)), time.monotonic()

    def each_cell(**_: object) -> None:
        with lock:
            cells[0] += 1

    def one(job: Job) -> Done:
        start = time.monotonic()
        try:
            return Done(job, execute(job, clients, each_cell), "", time.monotonic() - start)
        except NotebookError as error:
            return Done(job, None, str(error), time.monotonic() - start)

    with ThreadPoolExecutor(beside or min(side_by_side(), len(jobs))) as pool:
        waiting = {pool.submit(one, job) for job in jobs}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
                if say and waiting:
                    say(_progress(cells[0], total, time.monotonic() - begin))
        except BaseException:
            for future in waiting:
                future.cancel()
            while not all(future.done() for future in waiting):  # a kernel may be about to start: until none is left
                for client in list(clients):
                    _kill(client)
                time.sleep(0.1)
            raise


def _cells(job: Job) -> int:
    return sum(cell.cell_type == "code" for cell in nbformat.read(job.path, as_version=4).cells)


def _progress(done: int, total: int, seconds: float) -> str:
    """How far it is, and how long the rest will take if the cells to come take as long as those before."""
    if seconds < 10 or not done:
        return f"{done} of {total} cells"
    left = seconds * (total - done) / done
    return f"{done} of {total} cells; about {f'{left / 60:.0f} minutes' if left > 90 else f'{left:.0f} s'} left"


def _kill(client: NotebookClient) -> None:
    """End a kernel and what it started, at once."""
    pid = getattr(getattr(client.km, "provisioner", None), "pid", None)
    if pid:
        try:
            os.killpg(pid, signal.SIGKILL) if hasattr(os, "killpg") else os.kill(pid, signal.SIGTERM)
        except OSError:  # it has ended
            pass


def line_writer() -> Callable[[str], None] | None:
    """Writes a line over the last one, where somebody looks on; None elsewhere."""
    if not sys.stdout.isatty():
        return None
    return lambda text: print(f"\r\x1b[K{text}", end="", flush=True)
