"""What tests need from outside, which of them share a worker, and which run only when what they test has changed."""

import functools
import os
import subprocess
from pathlib import Path

import pytest

import browser

ROOT = Path(__file__).resolve().parent.parent
DAY = 24 * 60 * 60  # seconds
ALL = "SAM_LITE_ALL_TESTS"


def missing(message: str) -> None:
    pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.fixture(scope="module")  # not longer: while Playwright is up its loop runs in this thread, so no other may
def chrome():
    if browser.CHROMIUM is None:
        missing("needs Chromium: apt-get install chromium")
    with browser.chromium() as chrome:
        yield chrome


@pytest.fixture(scope="session")
def fashion():
    from sam_lite import images  # here, since test_wrong.py loads this file before it plants faults in the package

    if not images.DEBIAN["fashion_mnist"].is_dir():
        missing("needs Fashion-MNIST: apt-get install dataset-fashion-mnist")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Tests of one file share a worker, and so the file's fixtures, unless a test names a group of its own."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        for mark in item.iter_markers("when_changed"):
            if gone := [name for name in mark.args if not (ROOT / name).exists()]:
                raise pytest.UsageError(f"{item.nodeid}: when_changed names what is not there: {', '.join(gone)}")


def pytest_runtest_setup(item):
    if item.get_closest_marker("nightly") and not os.environ.get(ALL):
        pytest.skip(f"one of many alike; {ALL}=1 runs all")
    for mark in item.iter_markers("when_changed"):
        if not due(*mark.args):
            pytest.skip(f"nothing changed of what it tests; {ALL}=1 runs it all the same")


def due(*names: str) -> bool:
    """Whether one of these files and folders changed lately, or all tests are asked for. Not known counts as changed."""
    files = changed(ROOT)
    alike = (file == name or file.startswith(f"{name}/") for file in files or () for name in names)
    return bool(os.environ.get(ALL)) or files is None or any(alike)


@functools.cache
def changed(root: Path) -> frozenset[str] | None:
    """The files in which the folder differs from a former state of main; None if git or the history is missing.

    That state is the newest commit on the line of first parents that main has, and that was made at least a day before
    the last commit. So all that a branch changes counts, committed or not, and on main all of the last day: what one
    push brought is seen although its commits are several, and a run of an old commit says the same today as then.
    Commits that wait for more than a day to be pushed without a merge are left to the run of every night, which tests
    all. A shallow clone, and a history shorter than a day, hold no such state.
    """

    def git(*command):
        done = subprocess.run(["git", *command], cwd=root, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    try:
        if git("rev-parse", "--show-toplevel")[0] != str(root):
            return None  # a copy inside another repository
        commits = [line.split() for line in git("log", "--first-parent", "--format=%H %ct")]
        branches = [name for name in git("branch", "-a", "--format=%(refname)") if name.endswith("/main")]
        main = set(git("rev-list", *(branches or ["HEAD"])))
        former = (commit for commit, made in commits if commit in main and int(made) <= int(commits[0][1]) - DAY)
        if (base := next(former, None)) is None:
            return None
        return frozenset(git("diff", "--name-only", "--no-renames", base) + git("ls-files", "-o", "--exclude-standard"))
    except (OSError, subprocess.CalledProcessError):
        return None
