"""Jobs on a Dask cluster, whose workers may die, hang or never come."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sam_lite import require

PATIENCE = 10  # seconds after which Dask is asked whether it still works at the jobs
ABSENT = 300  # seconds for which all workers may be away, once there were some


def local(workers: int) -> Any:
    """A dask.distributed.Client with so many processes of one thread on this machine; None for 0: without Dask."""
    if not require.whole("workers", workers, least=0):
        return None
    import dask
    from distributed import Client

    # Dask has its workers give memory back at once, and fetch it anew at every step: a third of the time
    dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**27})
    return Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)


def tables_of(work: Callable, jobs: dict[str, dict], client: Any, limit: float | None) -> Iterator[tuple[str, object]]:
    """Yields (name, what `work(**job)` returned or raised) as the jobs end.

    If none ends for `limit` seconds, those that are left get a TimeoutError. Jobs that Dask lost with a worker, and would
    wait for forever, are submitted again.

    Raises RuntimeError where the cluster is lost.
    """
    from distributed import CancelledError, as_completed
    from distributed.comm import CommClosedError

    submit = lambda name: client.submit(partial(work, **jobs[name]), pure=False)  # noqa: E731
    futures = {submit(name): name for name in jobs}
    ended, done, seen = as_completed(list(futures)), 0, bool(client.nthreads())
    try:
        while futures:
            event = _next_event(ended, client, limit, seen or done > 0)
            if event == "late":
                error = TimeoutError(f"no job ended within {limit:g} seconds: limit")
                yield from ((name, error) for name in futures.values())
                return
            if event == "gone":
                raise CancelledError
            if event == "lost":
                client.cancel(list(futures))
                futures = {submit(name): name for name in futures.values()}
                ended = as_completed(list(futures))
                continue
            future = next(ended)
            name = futures.pop(future)
            try:
                made = future.exception(PATIENCE) or future.result(PATIENCE)
            except TimeoutError:  # the table was lost on its way
                futures[again := submit(name)] = name
                ended.add(again)
                continue
            del future  # and with it the cluster forgets its table
            yield name, made
            done += 1
    except (CancelledError, CommClosedError, StopIteration) as error:
        raise RuntimeError(f"the cluster was lost after {done} of {len(jobs)} jobs; the same call goes on") from error
    finally:
        if client.status == "running":
            client.cancel(list(futures))


def _next_event(ended, client, limit: float | None, seen: bool) -> str:
    """What happens next. ready: a job has ended. late: none has for `limit` seconds although there were workers. gone:
    there were workers, and there are none any more. lost: all workers are idle although jobs are left."""
    start = asked = there = time.monotonic()
    while not ended.has_ready() and client.status == "running":
        now = time.monotonic()
        if limit is not None and seen and now - start > limit:
            return "late"
        if now - asked > PATIENCE:
            asked, workers = now, client.nthreads()
            if workers and not seen:
                start, seen = now, True
            if workers and not any(client.processing().values()):
                return "lost"
            there = now if workers or not seen else there
            if now - there > ABSENT:
                return "gone"
        time.sleep(0.02)
    return "ready"
