"""A sweep that is killed, stopped, damaged or cut off must end in the table of one that was not."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sam_lite import cluster, sweep, tables
from sam_lite.data import mnist1d
from sam_lite.models import build, mlp
from sam_lite.train import train

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


@pytest.mark.parametrize("values", [[], [1, 1], "ab", 3, None, [1, True], [float("nan"), float("nan")], np.ones(2)])
def test_a_grid_of_no_or_equal_values_is_refused(values):
    with pytest.raises(ValueError, match="lr must be a list of one or more different values, got"):
        sweep.grid(lr=values)


def test_a_grid_of_other_librarys_numbers_is_one_of_pythons():
    found = sweep.grid(a=np.arange(2), b=(x for x in [np.float32(0.5)]), c=pd.Series(["x"]), d=[None, (np.int64(3), 4)])
    assert found == sweep.grid(a=[0, 1], b=[0.5], c=["x"], d=[None, (3, 4)])
    assert {type(value) for job in found for value in job.values()} == {int, float, str, tuple, type(None)}


@pytest.mark.parametrize(
    "value", [[50, 50], {"a": 1}, np.ones(2), len, b"x", pd.Timestamp("2020-01-01"), ([1],)], ids=str
)
def test_a_setting_that_no_file_can_keep_is_refused(tmp_path, value):
    with pytest.raises(
        ValueError, match="widths must be a setting of None, a bool, a number, a word, or a tuple of these"
    ):
        sweep.grid(widths=[value, 1])
    with pytest.raises(ValueError, match="widths must be a setting of .*; let `work` make of it what it needs"):
        sweep.run(work, [{"widths": value}], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_table_is_that_of_all_jobs_in_order(tmp_path):
    pd.testing.assert_frame_equal(sweep.run(work, JOBS, tmp_path / "new" / "folder"), expected())


def test_a_second_call_does_nothing_again(tmp_path):
    sweep.run(work, JOBS, tmp_path)
    again = Counted()
    pd.testing.assert_frame_equal(sweep.run(again, JOBS, tmp_path), expected())
    assert again.calls == []


def test_after_a_stop_only_the_rest_is_done(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="^$"):
        sweep.run(Counted(fail_at=4, error=KeyboardInterrupt()), JOBS, tmp_path)
    assert not list(tmp_path.glob("*.part"))
    rest = Counted()
    pd.testing.assert_frame_equal(sweep.run(rest, JOBS, tmp_path), expected())
    assert rest.calls == JOBS[3:]


def test_a_training_that_an_interrupt_ended_is_no_result(tmp_path):
    """`train` returns what it has, which was kept as the job's table."""
    data, before, looks = mnist1d(40, 20), signal.getsignal(signal.SIGINT), []

    def work(seed, stop=-1):
        def record(step, model):
            looks.append((seed, step))
            if (seed, step) == (stop, 2):
                signal.raise_signal(signal.SIGINT)
            return {}

        model = build(lambda: mlp(40, [5], 10), seed)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        found = train(model, data, optimizer, batch_size=10, steps=4, record_every=1, record=record)
        return found.records[-1:].assign(status=found.status)

    jobs = sweep.grid(seed=range(3))
    with pytest.raises(KeyboardInterrupt):
        sweep.run(partial(work, stop=1), jobs, tmp_path)
    assert looks[-1] == (1, 2)  # at once
    assert len(list(tmp_path.glob("*.parquet"))) == 1 and signal.getsignal(signal.SIGINT) is before
    table = sweep.run(work, jobs, tmp_path)
    assert table["step"].tolist() == [4, 4, 4] and set(table["status"]) == {"steps"}
    with ThreadPoolExecutor(1) as pool:  # where nobody can be told
        pd.testing.assert_frame_equal(pool.submit(sweep.run, work, jobs, tmp_path / "thread").result(), table)


def test_a_job_that_fails_names_itself_and_the_others_are_done(tmp_path, capsys):
    match = (
        r"1 of 6 jobs failed: rate=0.25, width=2: ValueError\('NaN in the data'\). The others are kept in .*same call"
    )
    with pytest.raises(RuntimeError, match=match) as caught:
        sweep.run(Counted(fail_at=4, error=ValueError("NaN in the data")), JOBS, tmp_path)
    assert "job rate=0.25, width=2 failed, the others go on: ValueError('NaN in the data')" in capsys.readouterr().out
    assert isinstance(caught.value.__cause__, ValueError)
    rest = Counted()
    pd.testing.assert_frame_equal(sweep.run(rest, JOBS, tmp_path), expected())
    assert rest.calls == [JOBS[3]]


@pytest.mark.parametrize(
    ("found", "match"),
    [
        (
            None,
            "work must be a function that returns a table, a pandas DataFrame with a row or more, got None; has it a",
        ),
        ({"loss": [1.0]}, "work must be a function that returns a table, .* got {'loss': .1.0.}"),
        (pd.Series([1.0]), "work must be a function that returns a table"),
        (
            pd.DataFrame({"loss": []}),
            "work must be a function that returns a table, a pandas DataFrame with a row or more",
        ),
        (
            pd.DataFrame({"loss": [1.0], "width": [7]}),
            "work returned a column 'width' that differs from the job's width=1",
        ),
        (pd.DataFrame({"loss": [len]}), "the table that work returned cannot be kept"),
        (pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), "the columns of work's table must be of names that read"),
        (pd.DataFrame({1: [1.0], "1": [2.0]}), "the columns of work's table must be of names that read differently"),
        (pd.DataFrame({"w": [torch.zeros(2)]}), "the table that work returned cannot be kept: .*Tensor"),
        (pd.DataFrame({"w": [np.zeros((2, 2))]}), "the table that work returned cannot be kept: .*1-dimensional"),
        *(
            (
                pd.DataFrame({"loss": [1.0], "width": [many]}),
                "work returned a column 'width' that differs from the job's",
            )
            for many in (torch.zeros(2), np.zeros(2), pd.NA)
        ),
        (pd.DataFrame({"n": [2**70]}), "the table that work returned cannot be kept"),
    ],
)
def test_what_work_may_not_return_names_the_job(tmp_path, found, match):
    returned = lambda width, rate: found if width == 1 else work(width, rate)  # noqa: E731
    with pytest.raises(RuntimeError, match=f"2 of 6 jobs failed: rate=0.1, width=1: ValueError.*{match}"):
        sweep.run(returned, JOBS, tmp_path)
    assert not list(tmp_path.glob("*.part"))
    rest = Counted()
    pd.testing.assert_frame_equal(sweep.run(rest, JOBS, tmp_path), expected())
    assert len(rest.calls) == 2


def test_a_column_that_repeats_a_setting_is_no_clash(tmp_path):
    both = lambda width, rate: work(width, rate).assign(width=width, rate=np.float64(rate))  # noqa: E731
    for _ in "12":
        pd.testing.assert_frame_equal(sweep.run(both, JOBS, tmp_path), expected())


def test_a_named_index_is_a_column_and_what_no_file_holds_is_left_out(tmp_path):
    def of(rate):
        table = pd.DataFrame({"loss": [1.0, 2.0]}, index=pd.Index([7, 8], name="seed"))
        table.attrs = {"model": object()}
        return table

    for _ in "12":
        table = sweep.run(of, sweep.grid(rate=[1.0, 2.0]), tmp_path)
        assert table["seed"].tolist() == [7, 8] * 2 and list(table) == ["seed", "loss", "rate"] and not table.attrs


def test_a_diverged_run_says_so_in_the_table(tmp_path):
    def of(lr):
        model = build(lambda: mlp(40, [4], 10), 0)
        run = train(model, mnist1d(40, 20), torch.optim.SGD(model.parameters(), lr=lr), batch_size=20, steps=50)
        return run.records.assign(status=run.status)

    table = sweep.run(of, sweep.grid(lr=[0.1, 1e9]), tmp_path)
    assert table.groupby("lr")["status"].last().tolist() == ["steps", "diverged"]


VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**80,
    0.0,
    1.0,
    1e-300,
    float("inf"),
    float("nan"),
    "",
    "None",
    "nan",
    "True",
    "1",
]
VALUES += [
    "cifar/10",
    "cifar_10",
    "a",
    "A",
    "a-b=1",
    "ü",
    "\\",
    "..",
    "x" * 300,
    "x" * 301,
    (50, 60),
    (50,),
    (),
    ("50", None),
]
VALUES += ["(50, 60)", "con", "a\nb", "a:b", " a", "a "]


def test_settings_come_back_as_they_went_in_and_share_no_file(tmp_path):
    of = lambda value: pd.DataFrame({"text": [repr(value)] * 2})  # noqa: E731
    for _ in "12":
        table = sweep.run(of, [{"value": value} for value in VALUES], tmp_path)
        assert list(map(repr, table["value"])) == [repr(value) for value in VALUES for _ in "12"]
        assert table["text"].tolist() == [repr(value) for value in VALUES for _ in "12"]
    names = [path.name for path in tmp_path.glob("*.parquet")]
    assert len({name.lower() for name in names}) == len(VALUES)
    assert all(name.isascii() and len(name) < 200 for name in names)


def test_settings_of_one_kind_make_a_column_of_that_kind(tmp_path):
    jobs = sweep.grid(flag=[True, False], n=[1, 2], x=[0.5, 1], word=["a", "b"], pair=[(1, 2), (3, 4)], maybe=[None, 1])
    table = sweep.run(lambda **job: pd.DataFrame({"seed": [0, 1]}), jobs, tmp_path)
    assert [str(table[name].dtype) for name in ("flag", "n", "x", "pair", "maybe")] == [
        "bool",
        "int64",
        "float64",
        *["object"] * 2,
    ]
    assert table["pair"][0] == (1, 2) and table["maybe"][0] is None
    assert len(table) == 2 * len(jobs) and (table.groupby(["flag", "n", "x", "word", "pair"]).size() == 4).all()


def test_a_status_that_clashes_with_an_axis_and_sys_exit_name_the_job(tmp_path):
    def of(status):
        if status == "b":
            sys.exit(3)
        return pd.DataFrame({"x": [1], "status": ["diverged"]})

    match = "2 of 3 jobs failed: status='a': ValueError.*column 'status' that differs .*; status='b': SystemExit.3"
    with pytest.raises(RuntimeError, match=match):
        sweep.run(of, sweep.grid(status=["a", "b", "diverged"]), tmp_path)


def test_other_kinds_of_column_are_the_same_when_they_are_read_again(tmp_path):
    def of(i):
        dates, sizes = pd.to_datetime(["2020-01-01"]), pd.array([None], dtype="Int64")
        return pd.DataFrame({"when": dates, "cat": pd.Categorical(["a"]), "n": sizes, "pair": [(1, 2)]})

    jobs = sweep.grid(i=[0, 1])
    first, again = (sweep.run(of, (job for job in jobs), tmp_path) for _ in "12")
    pd.testing.assert_frame_equal(first, again)
    assert again["when"].dt.year.tolist() == [2020] * 2


def test_what_is_no_job_or_no_folder_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"jobs must be dicts of settings in a row, such as grid\(...\), got 3"):
        sweep.run(work, [3], tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="folder must be a folder, or nothing yet, got '.*file'"):
        sweep.run(work, JOBS, tmp_path / "file")
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep.run(work, JOBS[:1], "~/results")
    assert len(list((tmp_path / "results").glob("*.parquet"))) == 1


def test_jobs_with_pairs_that_read_alike_are_two(tmp_path):
    jobs = [{"a": "1-b=2", "b": 3}, {"a": "1", "b": "2-b=3"}, {"b": "2", "a": 1}]
    table = sweep.run(lambda a, b: pd.DataFrame({"x": [f"{a} {b}"]}), jobs, tmp_path)
    assert table["x"].tolist() == ["1-b=2 3", "1 2-b=3", "1 2"]
    again = [dict(reversed(job.items())) for job in jobs]
    assert sweep.run(Counted(), again, tmp_path)["x"].tolist() == table["x"].tolist()


def test_a_job_may_have_any_name_of_an_argument(tmp_path):
    jobs = sweep.grid(job=[1], name=["a"], folder=[2], self=[3], limit=[4], key=[5], workers=[6])
    table = sweep.run(lambda **job: pd.DataFrame({"x": [sum(v for v in job.values() if v != "a")]}), jobs, tmp_path)
    assert table["x"].tolist() == [21] and table["workers"].tolist() == [6]


HOLDER = """
    import sys, time, pandas as pd
    from sam_lite import sweep

    def work(i):
        print("at work", flush=True)
        time.sleep(60)
        return pd.DataFrame({"x": [i]})

    sweep.run(work, sweep.grid(i=[0, 1]), sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(tables.fcntl is None, reason="this system has no such locks")
def test_a_second_process_is_told_of_the_first_and_a_killed_one_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        before = sorted(tmp_path.iterdir())
        of = lambda i: pd.DataFrame({"x": [i]})  # noqa: E731
        with pytest.raises(
            RuntimeError, match="another process works in the folder .*; when it has ended, the same call"
        ):
            sweep.run(of, sweep.grid(i=[0, 1]), tmp_path)
        assert sorted(tmp_path.iterdir()) == before
        process.kill()
        process.wait()
    assert sweep.run(of, sweep.grid(i=[0, 1]), tmp_path)["x"].tolist() == [0, 1]


def test_where_folders_cannot_be_locked_it_works_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "fcntl", None)
    pd.testing.assert_frame_equal(sweep.run(work, JOBS, tmp_path / "a"), expected())
    refuse = SimpleNamespace(LOCK_EX=0, LOCK_NB=0, flock=lambda *args: os.stat(tmp_path / "no such file"))
    monkeypatch.setattr(tables, "fcntl", refuse)
    pd.testing.assert_frame_equal(sweep.run(work, JOBS, tmp_path / "b"), expected())


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "film.part").write_text("mine")
    (tmp_path / "sweep.json.part").write_text("of a process that was killed")
    sweep.run(work, JOBS, tmp_path)
    assert [path.name for path in tmp_path.glob("*.part")] == ["film.part"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"a"'])
def test_a_damaged_list_of_jobs_is_named(tmp_path, text):
    sweep.run(work, JOBS, tmp_path)
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ValueError, match="sweep.json is damaged or of another program; name another folder, or move"):
        sweep.run(work, JOBS, tmp_path)


def test_a_folder_of_an_earlier_format_or_of_other_jobs_is_named(tmp_path):
    sweep.run(work, JOBS, tmp_path)
    with pytest.raises(
        ValueError, match=r"has other jobs: '6 jobs, such as rate=0.25-width=1-.*' there, '6 jobs, such as .*0.5"
    ):
        sweep.run(work, sweep.grid(width=[1, 2, 3], rate=[0.1, 0.5]), tmp_path)
    (tmp_path / "sweep.json").write_text('{"version": "", "jobs": ["width=1.parquet"]}')
    with pytest.raises(ValueError, match="has other format: 1 there, 2 now; name another folder"):
        sweep.run(work, JOBS, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
def test_a_job_that_takes_too_long_is_ended_and_named(tmp_path):
    def of(i):
        end = time.monotonic() + (30 if i == 1 else 0)
        while time.monotonic() < end:
            try:
                time.sleep(0.01)
            except Exception:  # a job that goes on whatever comes
                pass
        return pd.DataFrame({"x": [i]})

    handler = signal.getsignal(signal.SIGALRM)
    start = time.monotonic()
    match = r"1 of 3 jobs failed: i=1: TimeoutError\('it took longer than 0.2 seconds: limit'\)"
    with pytest.raises(RuntimeError, match=match):
        sweep.run(of, sweep.grid(i=[0, 1, 2]), tmp_path, limit=np.float64(0.2))
    assert time.monotonic() - start < 20 and signal.getsignal(signal.SIGALRM) == handler
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    time.sleep(0.25)  # no alarm is left


def test_a_limit_that_cannot_be_kept_is_refused(tmp_path):
    for limit in (0, -1, float("nan"), "60", True):
        with pytest.raises(ValueError, match="limit must be a finite number > 0, got"):
            sweep.run(work, JOBS, tmp_path, limit=limit)
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(ValueError, match="limit=5 needs the main thread of a process on Unix"),
    ):
        pool.submit(sweep.run, work, JOBS, tmp_path, limit=5).result()
    assert not list(tmp_path.iterdir())


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


@pytest.mark.slow
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
        pd.testing.assert_frame_equal(sweep.run(work, JOBS[:1], tmp_path)[list(table)], table)
    assert silent > 3, "some damage is seen by no one but the checksum"


def test_a_folder_of_another_grid_or_version_is_refused_and_stays(tmp_path):
    sweep.run(work, JOBS, tmp_path, version="1")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match="folder must be new, or of the same grid and version, but .* has other version: '1'"
    ):
        sweep.run(work, JOBS, tmp_path, version="2")
    with pytest.raises(
        ValueError,
        match="has other jobs: '6 jobs, such as .*' there, '2 jobs, such as .*' now; name another folder, or move",
    ):
        sweep.run(work, JOBS[:2], tmp_path, version="1")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_jobs_in_another_order_are_the_same_grid(tmp_path):
    """As of `grid(kind={"a", "b"})`, since a set of words has another order in each process."""
    sweep.run(work, JOBS, tmp_path)
    again, other = Counted(), JOBS[::-1]
    table = sweep.run(again, other, tmp_path)
    rows = pd.concat([work(**job).assign(**job) for job in other], ignore_index=True)
    pd.testing.assert_frame_equal(table, rows)
    assert again.calls == [] and sweep.run(work, JOBS, tmp_path).equals(expected())


def test_a_job_may_go_to_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def wanders(width, rate):
        os.chdir("/")
        return work(width, rate)

    pd.testing.assert_frame_equal(sweep.run(wanders, JOBS, "out"), expected())
    assert len(list((tmp_path / "out").glob("*.parquet"))) == len(JOBS)


def test_a_folder_that_goes_away_is_named(tmp_path):
    def removes(width, rate):
        shutil.rmtree(tmp_path / "out")
        return work(width, rate)

    with pytest.raises(OSError, match=r"non-existent directory.*; then the same call goes on.*out/rate=0.1-width=1"):
        sweep.run(removes, JOBS, tmp_path / "out")


@pytest.mark.parametrize("jobs", [[], [JOBS[0], JOBS[0]]])
def test_no_jobs_and_equal_jobs_are_refused(tmp_path, jobs):
    with pytest.raises(ValueError, match="jobs must be different settings, one or more, got"):
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


@pytest.mark.slow
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
        if how != "kill a worker" and width == 2 and rate == 0.25:
            time.sleep(600 if how == "hang" else 0)
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
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
        if how == "lose a table":
            import distributed
            true = distributed.Future.result
            def lost(self, timeout=None):
                distributed.Future.result = true
                raise TimeoutError
            distributed.Future.result = lost
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
            jobs = sweep.grid(width=[1, 2, 3], rate=[0.1, 0.25])
            limit = {"hang": 10, "die": 30}.get(how)
            table = sweep.run(work, jobs, sys.argv[1], client=client, limit=limit, progress=Bar)
            table.to_pickle(sys.argv[1] + ".pickle")
"""


def on_a_cluster(tmp_path, how):
    """Run the jobs on a cluster of two workers to which `how` happens, in a process of its own."""
    pytest.importorskip("distributed", reason="pip install -e .[cluster]")
    script = tmp_path / "cluster.py"
    script.write_text(textwrap.dedent(CLUSTER))
    command = [sys.executable, script, tmp_path / "out", how]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def test_a_cluster_of_no_workers_is_none_and_one_of_less_is_refused():
    assert cluster.local(0) is None
    for workers in (-1, 1.5):
        with pytest.raises(ValueError, match=f"workers must be an integer >= 0, got {workers}"):
            cluster.local(workers)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill a worker", "lose a table"])
def test_on_a_cluster_that_loses_a_worker_the_table_is_the_same(tmp_path, how):
    done = on_a_cluster(tmp_path, how)
    assert done.returncode == 0, done.stderr
    pids = (tmp_path / "out.pids").read_text().split()
    assert len(pids) > 6, "a job of the killed worker was begun again"
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / "out.pickle"), expected())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "match"),
    [("hang", "TimeoutError.'no job ended within 10 seconds: limit'"), ("die", "rate=0.25, width=2: (Killed|Timeout)")],
)
def test_a_job_that_hangs_or_kills_its_worker_ends_and_the_others_are_kept(tmp_path, how, match):
    done = on_a_cluster(tmp_path, how)
    assert done.returncode != 0 and re.search(rf"\d of 6 jobs failed: .*{match}", done.stderr), done.stderr
    rest = Counted()
    pd.testing.assert_frame_equal(sweep.run(rest, JOBS, tmp_path / "out"), expected())
    assert 1 <= len(rest.calls) <= 3, "those of the other worker at least are kept"


@pytest.mark.slow
def test_a_cluster_that_goes_away_is_said_and_what_is_done_stays(tmp_path):
    done = on_a_cluster(tmp_path, "lose the cluster")
    assert done.returncode != 0 and "the cluster was lost after 2 of 6 jobs; the same call goes on" in done.stderr, (
        done.stderr
    )
    rest = Counted()
    pd.testing.assert_frame_equal(sweep.run(rest, JOBS, tmp_path / "out"), expected())
    assert len(rest.calls) == 4


class Queue(list):
    """In place of distributed.as_completed: what is submitted is ready at once."""

    add = list.append

    def has_ready(self):
        return bool(self)

    def __next__(self):
        return self.pop(0)


class Future:
    def __init__(self, call, losses):
        self.call, self.losses = call, losses

    def exception(self, timeout):
        return None

    def result(self, timeout):
        if self.losses and self.losses.pop():
            raise TimeoutError
        return self.call()


def client_of(losses, **processing):
    return SimpleNamespace(
        submit=lambda call, pure: Future(call, losses),
        nthreads=lambda: {name: 1 for name in processing},
        processing=lambda: processing,
        status="running",
        cancel=list,
    )


def test_a_table_that_is_lost_on_its_way_is_made_again(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="pip install -e .[cluster]")
    monkeypatch.setattr(distributed, "as_completed", Queue)
    counted, losses = Counted(), [True] * 3
    found = sweep.run(counted, JOBS, tmp_path, client=client_of(losses, a=()), limit=60)
    pd.testing.assert_frame_equal(found, expected())
    assert len(counted.calls) == 6 and not losses


def test_jobs_that_idle_workers_have_forgotten_are_done_again(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="pip install -e .[cluster]")
    forgotten = [True, True]
    monkeypatch.setattr(
        distributed, "as_completed", lambda futures: Queue([] if forgotten and forgotten.pop() else futures)
    )
    monkeypatch.setattr(cluster, "PATIENCE", 0.05)
    counted = Counted()
    pd.testing.assert_frame_equal(sweep.run(counted, JOBS, tmp_path, client=client_of([], a=(), b=())), expected())
    assert len(counted.calls) == 6 and not forgotten


def test_a_cluster_whose_workers_do_not_come_back_is_given_up(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="pip install -e .[cluster]")
    monkeypatch.setattr(distributed, "as_completed", lambda futures: Queue(futures[:2]))
    monkeypatch.setattr(cluster, "PATIENCE", 0.02)
    monkeypatch.setattr(cluster, "ABSENT", 0.1)
    with pytest.raises(RuntimeError, match="the cluster was lost after 2 of 6 jobs; the same call goes on"):
        sweep.run(work, JOBS, tmp_path, client=client_of([]))
    rest = Counted()
    pd.testing.assert_frame_equal(sweep.run(rest, JOBS, tmp_path), expected())
    assert rest.calls == JOBS[2:]


@pytest.mark.slow
@pytest.mark.parametrize("processing", [{"a": ("a job",), "b": ()}, {}], ids=["busy", "no worker yet"])
def test_the_time_of_a_job_counts_while_workers_are_there(tmp_path, monkeypatch, processing):
    distributed = pytest.importorskip("distributed", reason="pip install -e .[cluster]")
    monkeypatch.setattr(distributed, "as_completed", lambda futures: Queue())
    monkeypatch.setattr(cluster, "PATIENCE", 0.05)
    client, start = client_of([], **processing), time.monotonic()
    client.cancel = lambda futures: cancelled.extend(futures)
    cancelled = []
    if processing:
        with pytest.raises(
            RuntimeError, match="6 of 6 jobs failed: .*TimeoutError.'no job ended within 0.2 seconds: limit"
        ):
            sweep.run(work, JOBS, tmp_path, client=client, limit=0.2)
        assert len(cancelled) == 6
    else:
        threading.Timer(0.6, lambda: processing.update(a=("a job",))).start()
        client.nthreads = lambda: processing
        client.processing = lambda: processing
        with pytest.raises(RuntimeError, match="no job ended within 0.2 seconds: limit"):
            sweep.run(work, JOBS, tmp_path, client=client, limit=0.2)
        assert time.monotonic() - start > 0.75


def test_results_survive_the_process_that_made_them(tmp_path):
    """fsync before the name: a file that has its name is whole."""
    synced = []
    with pytest.MonkeyPatch.context() as patch:
        true = os.replace
        patch.setattr(os, "fsync", lambda fd: synced.append("fsync"))
        patch.setattr(os, "replace", lambda a, b: (synced.append("replace"), true(a, b)))
        sweep.run(work, JOBS[:1], tmp_path)
    assert synced == ["fsync", "replace"] * 2


def test_a_table_of_settings_alone_is_refused(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"work must be a function that returns more than the settings, got .*'rate'"
    ):
        sweep.run(lambda rate: pd.DataFrame({"rate": [rate] * 2}), sweep.grid(rate=[1.0, 2.0]), tmp_path)


@pytest.mark.parametrize("index", [["mean", "std"], [0.1, 0.2], pd.MultiIndex.from_tuples([(0, 1), (0, 2)])], ids=str)
def test_an_index_without_a_name_is_not_lost(tmp_path, index):
    of = lambda rate: pd.DataFrame({"loss": [1.0, 2.0]}, index=index)  # noqa: E731
    with pytest.raises(RuntimeError, match=r"the index of work's table must be numbers of rows, or named, got"):
        sweep.run(of, sweep.grid(rate=[1.0]), tmp_path / "unnamed")
    rows = lambda rate: pd.DataFrame({"loss": [1.0, 2.0, 3.0]}).iloc[[2, 0]]  # noqa: E731
    assert sweep.run(rows, sweep.grid(rate=[1.0]), tmp_path / "rows")["loss"].tolist() == [3.0, 1.0]


LARGE = 2**60 + 1


@pytest.mark.parametrize("beside", [0.5, float("nan"), None])
def test_large_integers_beside_others_come_back_as_they_were(tmp_path, beside):
    work = lambda **job: pd.DataFrame({"loss": [1.0]})  # noqa: E731
    jobs = [{"seed": LARGE, "n": 1}, {"seed": beside, "n": 2}]
    table = sweep.run(work, jobs, tmp_path / "settings")
    assert table["seed"][0] == LARGE and isinstance(table["seed"][0], int)
    table = sweep.run(work, [{"seed": LARGE}, {"other": 1}], tmp_path / "missing")
    assert table["seed"][0] == LARGE and pd.isna(table["seed"][1]) and table["other"].dtype == float
    if beside != 0.5:  # of one kind, or the file is refused
        column = lambda n: pd.DataFrame({"seed": pd.Series([LARGE, beside, -3], dtype=object)})  # noqa: E731
        for _ in "12":
            found = sweep.run(column, [{"n": 1}], tmp_path / "column")["seed"]
            assert found[0] == LARGE and found[2] == -3 and pd.isna(found[1])
    more = lambda n: pd.DataFrame({"seed": np.array([2**63 + 1], np.uint64) if n == 1 else [beside]})  # noqa: E731
    assert int(sweep.run(more, [{"n": 1}, {"n": 2}], tmp_path / "unsigned")["seed"][0]) == 2**63 + 1  # a float is equal
    assert sweep.run(work, [{"n": 10**30}, {"n": 0.5}], tmp_path / "huge")["n"].tolist() == [10**30, 0.5]
    one = lambda n: pd.DataFrame({"seed": [LARGE if n == 1 else beside]})  # noqa: E731
    for _ in "12":
        found = sweep.run(one, [{"n": 1}, {"n": 2}], tmp_path / "jobs")["seed"]
        assert found[0] == LARGE and (pd.isna(found[1]) or found[1] == 0.5)
