"""The study's groups on one and on two workers of Dask: python benchmarks/cluster.py

Twelve small groups of four networks; the ratio of the times, median and range of three rounds. Two is the most there can be.
"""

import statistics
import tempfile
import time
from functools import partial

import dask
from distributed import Client

from sam_lite import study, sweep
from sam_lite.data import load

AXES = {"width": (20, 24, 28), "depth": (2, 3), "batch_size": (25, 50), "optimizer": ("adam",), "dropout": (0.0,)}


def seconds(client: Client) -> float:
    """Time for all groups, into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        data = load("mnist1d", n_train=200, n_test=200)
        work = partial(study.group, data=data, seeds=range(4), lr_levels=(2,), weight_decays=(0.0,))
        sweep.run(work, sweep.grid(**AXES), folder, client=client)
        return time.perf_counter() - start


def main() -> None:
    dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**27})
    options = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with Client(n_workers=1, **options) as one, Client(n_workers=2, **options) as two:
        seconds(two), seconds(one)  # imports
        ratios = [seconds(one) / seconds(two) for _ in range(3)]
    print(
        f"two workers against one: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast"
    )


if __name__ == "__main__":
    main()
