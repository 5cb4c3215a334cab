"""A browser for the tests that need one."""

import os

import pytest

import browser


@pytest.fixture(scope="session")
def chrome():
    if browser.CHROMIUM is None:
        message = "needs Chromium: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with browser.chromium() as chrome:
        yield chrome
