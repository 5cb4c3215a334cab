"""What some tests need from outside: where it is missing they skip, and in CI they fail."""

import os

import pytest

import browser


def missing(message: str) -> None:
    pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.fixture(scope="session")
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
