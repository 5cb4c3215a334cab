"""A sweep that is killed, stopped, damaged or cut off must end in the table of one that was not."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest

from sam_lite import sweep

JOBS = sweep.grid(width=[1, 2, 3], rate=[0.1, 0.25])


def work(width, rate):
    return pd.DataFrame({"seed": range(3), "loss": np.random.default_rng(width).random(3) * rate})


def expected():
    return pd.concat([work(**job).assign(**job) for job in JOBS], ignore_index=True)


class Counted:
    def __init__(self, fail_at=None, error=None):
        self.calls, self.fail_at, self.error = [], fail_at, error

    def __call__(self, **job):
        self.calls.append(job)
        if len(self.calls) == self.fail_at:
            raise self.error
        return work(**job)


def test_a_grid_is_every_combination():
    assert sweep.grid(a=[1, 2], b=["x"]) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    assert sweep.grid() == [{}]


@pytest.mark.parametrize("values", [[], [1, 1], "ab"])
def test_a_grid_of_no_or_equal_values_is_refused(values):
    with pytest.raises(ValueError, match="lr must be a list of one or more different values, got"):
        sweep.grid(lr=values)


def test_the_table_is_that_of_all_jobs_in_order(tmp_path):
    pd.testing.assert_frame_equal(sweep.run(work, JOBS, tmp_path / "new" / "folder"), expected())


def test_a_second_call_does_nothing_again(tmp_path):
    sweep.run(work, JOBS, tmp_path)
    again = Counted()
    pd.testing.assert_frame_equal(sweep.run(again, JOBS, tmp_path), expected())
    assert again.calls == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("NaN in the data")], ids=["Stop", "error"])
def test_after_a_stop_or_an_error_only_the_rest_is_done(tmp_path, error):
    with pytest.raises(type(error), match=str(error) or "^$"):
        sweep.run(Counted(fail_at=4, error=error), JOBS, tmp_path)
    assert not list(tmp_path.glob("*.part"))
    rest = Counted()
    pd.testing.assert_frame_equal(sweep.run(rest, JOBS, tmp_path), expected())
    assert rest.calls == JOBS[3:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:30] + bytes([data[30] ^ 255]) + data[31:],  # within a page
        lambda data: b"not a table",
    ],
    ids=["empty", "cut", "flipped", "other"],
)
def test_a_damaged_file_is_named_and_made_anew(tmp_path, capsys, damage):
    sweep.run(work, JOBS, tmp_path)
    path = sorted(tmp_path.glob("*.parquet"))[2]
    path.write_bytes(damage(path.read_bytes()))
    again = Counted()
    pd.testing.assert_frame_equal(sweep.run(again, JOBS, tmp_path), expected())
    assert len(again.calls) == 1
    assert f"{path} is damaged and will be made anew" in capsys.readouterr().out


def test_a_flipped_bit_that_reads_as_another_number_is_found(tmp_path, capsys):
    sweep.run(work, JOBS[:1], tmp_path)
    (path,) = tmp_path.glob("*.parquet")
    good, table = path.read_bytes(), pd.read_parquet(path)
    silent, pages_end = 0, len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    for at in range(4, pages_end):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        try:
            silent += not pd.read_parquet(path).equals(table)
        except Exception:  # what pyarrow makes of a damaged file is its own affair; this is about what it does not see
            continue
        pd.testing.assert_frame_equal(sweep.run(work, JOBS[:1], tmp_path), table)
    assert silent > 3, "some damage is seen by no one but the checksum"


def test_a_folder_of_another_grid_or_version_is_refused_and_stays(tmp_path):
    sweep.run(work, JOBS, tmp_path, version="1")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match="folder must be new, or of the same grid and version, but .* has other version: '1'"
    ):
        sweep.run(work, JOBS, tmp_path, version="2")
    with pytest.raises(
        ValueError, match="has other jobs: '6 jobs' there, '2 jobs' now; name another folder, or delete"
    ):
        sweep.run(work, JOBS[:2], tmp_path, version="1")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("jobs", [[], [JOBS[0], JOBS[0]]])
def test_no_jobs_and_equal_jobs_are_refused(tmp_path, jobs):
    with pytest.raises(ValueError, match="jobs must be one or more different settings, got"):
        sweep.run(work, jobs, tmp_path)


def test_progress_counts_from_what_is_there(tmp_path):
    class Bar:
        def __init__(self, total, initial):
            self.total, self.n, self.closed = total, initial, False
            bars.append(self)

        def update(self, n):
            self.n += n

        def close(self):
            self.closed = True

    bars = []
    with pytest.raises(KeyboardInterrupt, match="^$"):
        sweep.run(Counted(fail_at=3, error=KeyboardInterrupt()), JOBS, tmp_path, progress=Bar)
    sweep.run(work, JOBS, tmp_path, progress=Bar)
    assert [(bar.total, bar.n, bar.closed) for bar in bars] == [(6, 2, True), (6, 6, True)]


SLOW = """
    import sys, time, pandas as pd
    from sam_lite import sweep

    def work(i):
        time.sleep(0.05)
        return pd.DataFrame({"x": [float(i)] * 20_000})

    sweep.run(work, sweep.grid(i=list(range(20))), sys.argv[1])
"""


def start(code, folder):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(folder)], start_new_session=True)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_at_most_the_running_job(tmp_path):
    killed, rounds = [], 0
    while rounds < 6:
        there = len(list(tmp_path.glob("*.parquet")))
        process = start(SLOW, tmp_path)
        wait_for(lambda n=there: len(list(tmp_path.glob("*.parquet"))) >= min(n + 2, 20))
        time.sleep(0.012 * rounds)  # another moment of the job each time
        process.send_signal(signal.SIGKILL)
        process.wait()
        rounds += 1
        killed.append(len(list(tmp_path.glob("*.parquet"))))
    assert killed == sorted(killed) and killed[0] < 20
    process = start(SLOW, tmp_path)
    assert process.wait(60) == 0
    assert not list(tmp_path.glob("*.part"))
    done = Counted()
    table = sweep.run(done, sweep.grid(i=list(range(20))), tmp_path)
    assert done.calls == []
    np.testing.assert_array_equal(table["x"], np.repeat(np.arange(20.0), 20_000))


FULL = """
    import resource, sys, pandas as pd, numpy as np
    from sam_lite import sweep

    def work(i):
        return pd.DataFrame({"x": np.random.default_rng(i).random(20_000)})

    if sys.argv[2] == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    else:
        sweep.run(work, sweep.grid(i=[0]), sys.argv[1] + "/other")
    sweep.run(work, sweep.grid(i=[0, 1]), sys.argv[1] + "/sweep")
"""


def test_a_file_that_cannot_be_written_whole_is_not_written_and_said(tmp_path):
    def run(how):
        command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), how]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    full = run("full")
    assert full.returncode != 0 and "free some space, and the same call goes on" in full.stderr, full.stderr
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["sweep.json"]
    room = run("room")
    assert room.returncode == 0, room.stderr
    assert len(list((tmp_path / "sweep").glob("*.parquet"))) == 2


CLUSTER = """
    import os, signal, sys, time, pandas as pd
    from distributed import Client, LocalCluster
    from sam_lite import sweep

    def work(width, rate, pids=sys.argv[1] + ".pids"):
        with open(pids, "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(0.3)
        import numpy as np
        return pd.DataFrame({"seed": range(3), "loss": np.random.default_rng(width).random(3) * rate})

    class Bar:
        def __init__(self, total, initial):
            self.n = initial
        def update(self, n):
            self.n += n
            if how == "kill a worker" and self.n == 2:
                os.kill(int(open(sys.argv[1] + ".pids").read().split()[-1]), signal.SIGKILL)
            if how == "lose the cluster" and self.n == 2:
                cluster.close()
        def close(self):
            pass

    if __name__ == "__main__":
        how = sys.argv[2]
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
            jobs = sweep.grid(width=[1, 2, 3], rate=[0.1, 0.25])
            table = sweep.run(work, jobs, sys.argv[1], client=client, progress=Bar)
            table.to_pickle(sys.argv[1] + ".pickle")
"""


def on_a_cluster(tmp_path, how):
    """Run the jobs on a cluster of two workers to which `how` happens, in a process of its own."""
    pytest.importorskip("distributed", reason="pip install -e .[cluster]")
    script = tmp_path / "cluster.py"
    script.write_text(textwrap.dedent(CLUSTER))
    command = [sys.executable, script, tmp_path / "out", how]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


@pytest.mark.slow
def test_on_a_cluster_that_loses_a_worker_the_table_is_the_same(tmp_path):
    done = on_a_cluster(tmp_path, "kill a worker")
    assert done.returncode == 0, done.stderr
    pids = (tmp_path / "out.pids").read_text().split()
    assert len(pids) > 6, "a job of the killed worker was begun again"
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / "out.pickle"), expected())


@pytest.mark.slow
def test_a_cluster_that_goes_away_is_said_and_what_is_done_stays(tmp_path):
    done = on_a_cluster(tmp_path, "lose the cluster")
    assert done.returncode != 0 and "the cluster was lost after 2 of 6 jobs; the same call goes on" in done.stderr, (
        done.stderr
    )
    rest = Counted()
    pd.testing.assert_frame_equal(sweep.run(rest, JOBS, tmp_path / "out"), expected())
    assert len(rest.calls) == 4


def test_results_survive_the_process_that_made_them(tmp_path):
    """fsync before the name: a file that has its name is whole."""
    synced = []
    with pytest.MonkeyPatch.context() as patch:
        true = os.replace
        patch.setattr(os, "fsync", lambda fd: synced.append("fsync"))
        patch.setattr(os, "replace", lambda a, b: (synced.append("replace"), true(a, b)))
        sweep.run(work, JOBS[:1], tmp_path)
    assert synced == ["fsync", "replace"] * 2
