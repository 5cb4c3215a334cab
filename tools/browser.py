"""Jupyter and a browser before it: for tests, for the benchmark of the widgets, and for looking at pages.

Chromium comes from the system (`apt-get install chromium`), Playwright from the extra `dev`.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

QUIET = "--allow-root --no-browser --ip=127.0.0.1 --port=0 --ServerApp.port_retries=50 --IdentityProvider.token=t"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# as root there is no sandbox; the rest keeps Chromium from asking the network for things of its own
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"


@contextmanager
def server(command: list[str | Path], folder: Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start a Jupyter server by `command` in a folder, and stop it with all that it started. Yields its address."""
    log = folder / "server.log"
    with log.open("w") as out:
        # a session of its own, so that make and all it started can be stopped together
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        address = None
        for _ in range(600):
            address = re.search(r"http://(localhost|127\.0\.0\.1):(\d+)/", log.read_text())
            if (address and _listens(address[1], int(address[2]))) or process.poll() is not None:
                break
            time.sleep(0.1)
        if not address:
            raise RuntimeError(f"the server must start within a minute, got <{log.read_text()}>")
        yield address[0]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def _listens(host: str, port: int) -> bool:
    """A server says its address a moment before it takes calls."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def jupyter(folder: Path, application: str = "jupyterlab") -> Iterator[str]:
    """A server of `jupyterlab` or `notebook` for a folder, with its token `t`; settings and kernels stay in the folder."""
    own = folder / ".jupyter"
    asks = own / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    asks.parent.mkdir(parents=True, exist_ok=True)
    asks.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR")
    env = os.environ | dict.fromkeys(names, str(own))
    with server([sys.executable, "-m", application, *QUIET.split()], folder, env) as address:
        yield address


@contextmanager
def chromium() -> Iterator:
    """A headless Chromium: Playwright's `Browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


def write(path: Path, *sources: str) -> None:
    """A notebook with these code cells, for the kernel of this Python."""
    cells = [new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def notebook(browser, address: str, name: str, application: str = "jupyterlab", size: tuple[int, int] = (1280, 1000)):
    """A Playwright `Page` with this notebook alone, its kernel ready."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(30_000)
    page.goto(
        address + {"jupyterlab": f"lab/tree/{name}?token=t&reset", "notebook": f"notebooks/{name}?token=t"}[application]
    )
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    idle(page)
    return page


def run_cell(page, number: int = 0) -> None:
    """Run a cell of the notebook that is open, by Shift+Enter, and wait until the kernel has nothing to do."""
    page.locator(".jp-Notebook .jp-Cell").nth(number).click(position={"x": 200, "y": 15})
    page.keyboard.press("Shift+Enter")
    idle(page)


def idle(page) -> None:
    page.wait_for_timeout(300)  # until the kernel has said that it is busy
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", state="attached", timeout=60_000)
