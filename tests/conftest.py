"""What tests need from outside, which of them share a worker, and which run only when what they test has changed."""

import os

import pytest

import browser
from due import ALL, ROOT, due

CODE = ("sam_lite", "tools", "tests", "Makefile", "pyproject.toml", "constraints.txt", "environment.yml")
READERS = set("class exercises gpu grading hub install live notebooks pages slides variants written".split())


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
    """Tests of one file share a worker, and so the file's fixtures, unless a test names a group of its own.

    Slow tests run only when the code has changed, but for those of READERS, which read lectures, exercises or pages.
    """
    for item in items:
        if item.get_closest_marker("slow") and item.path.stem.removeprefix("test_") not in READERS:
            item.add_marker(pytest.mark.when_changed(*CODE))
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
