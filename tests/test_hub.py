"""A JupyterHub with nbgrader, set up as INSTRUCTORS.md says: three Linux accounts, one round trip, one lecture.

Commands and settings are read from the text, and all of them are used. Only the places are others: one folder, which
is removed in the end with the accounts.
"""

import csv
import os
import re
import runpy
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import pytest
from test_install import environment, sh

psutil = pytest.importorskip("psutil", reason="psutil is missing: pip install -e '.[instructor]'")
assignments = pytest.importorskip("assignments", reason="nbgrader is missing: pip install -e '.[instructor]'")
import browser  # noqa: E402
from notebooks import ROOT  # noqa: E402

SET, PEOPLE = "05_sam", ("teacher", "ann", "bob")
HIDDEN = "\n### BEGIN HIDDEN TESTS\nassert callable(climb), 'not shown'\n### END HIDDEN TESTS"
LEFT_OUT = shutil.ignore_patterns(
    ".*", "_s*", "__pycache__", "tests", "docs", "benchmarks", "results", "dist", "grades"
)
pytestmark = [pytest.mark.slow, pytest.mark.nightly]  # six minutes


class Hub:
    """What the text says, with folders of `place` instead of those of the system, and the accounts."""

    def __init__(self, place: Path):
        guide = (ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
        text = re.search(r"^## On a JupyterHub with nbgrader\n(.*?)^## ", guide, re.MULTILINE | re.DOTALL)[1]
        for there in ("/opt/sam", "/srv/nbgrader", "/etc/skel", "/home"):
            assert there in text
            text = text.replace(there, f"{place}{there}")
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        (self.root, typed), (self.settings,) = (
            [code for kind, code in blocks if kind == k] for k in ("bash", "python")
        )
        self.typed, self.inline, self.place = typed.splitlines(), re.findall("`([^`\n]+)`", text), place
        self.path = re.search(r'"PATH": "([^"]+)"', self.settings)[1]
        self.names = {who: f"{who}{secrets.token_hex(6)}" for who in PEOPLE}
        self.password, self.course = secrets.token_hex(16), self.home("teacher") / "sam-course"

    def home(self, who: str) -> Path:
        return self.place / "home" / self.names[who]

    def said(self, start: str, who: str = "teacher") -> str:
        """What the text says within a line, beginning so."""
        return next(code for code in self.inline if code.startswith(start)).replace("NAME", self.names[who])

    def run(self, who: str, command: str, folder: Path | str = "~") -> subprocess.CompletedProcess:
        """What somebody types in a terminal of the hub."""
        typed = f"export PATH={self.path} OMP_NUM_THREADS=1; cd {folder} && {command}"
        return sh(self.place, "runuser", "-l", self.names[who], "-c", typed, timeout=300)


def done(process: subprocess.CompletedProcess) -> None:
    assert process.returncode == 0, process.stdout + process.stderr


def python_for_all() -> str:
    """The folder of a Python that every account can run: the one of these tests may lie in a home."""
    code = "import ensurepip, sys; assert sys.version_info >= (3, 11)"
    for folder in (f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin"):
        if sh(Path("/"), "runuser", "-u", "nobody", "--", f"{folder}/python3", "-c", code).returncode == 0:
            return folder
    pytest.skip("needs a Python 3.11 or newer, with ensurepip, outside a home")


def kill(processes: Iterable) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


@pytest.fixture(scope="module")
def hub():
    """All that root does, and the course in the instructor's folder."""
    if not sys.platform.startswith("linux") or os.geteuid():
        pytest.skip("needs root on Linux, to make accounts")
    if lacking := [name for name in ("useradd", "userdel", "runuser", "node", "npm") if not shutil.which(name)]:
        pytest.skip(f"needs {', '.join(lacking)}")
    python, place = python_for_all(), Path(tempfile.mkdtemp(prefix="hub"))
    hub = Hub(place)
    try:
        place.chmod(0o755)
        npm, pip = (
            "npm view --fetch-retries=0 configurable-http-proxy",
            "-m pip download --retries 0 --no-deps jupyterhub",
        )
        for ask in (npm.split(), [sys.executable, *pip.split()]):
            if (asked := sh(place, *ask, timeout=200)).returncode:
                pytest.skip(f"no registry answers {ask[:3]}: {asked.stderr.splitlines()[-1:]}")
        shutil.copytree(ROOT, place / "course", ignore=LEFT_OUT)
        (place / "etc" / "skel").mkdir(parents=True)
        (place / "home").mkdir()
        # compiled here, since no account may write there ("1" says so)
        more = {"npm_config_prefix": f"{place}/npm", "PATH": f"{python}:{os.environ['PATH']}", "PIP_NO_COMPILE": "1"}
        done(sh(place / "course", "bash", "-ec", hub.root, **more))
        for who in PEOPLE:
            where = ["-b", place / "home", "-k", place / "etc" / "skel", "-s", "/bin/bash"]
            done(sh(place, *hub.said("useradd", who).split(), *where))
        shutil.copytree(ROOT, hub.course, ignore=LEFT_OUT)
        done(sh(place, "chown", "-R", hub.names["teacher"], hub.course))
        done(sh(place, *hub.said("chmod").split(), hub.course))
        yield hub
    finally:
        lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        ours = {name: int(number) for name, _, number, *_ in lines if name in hub.names.values()}
        kill(one for one in psutil.process_iter(["uids"]) if one.info["uids"].real in ours.values())
        for name in ours:
            sh(Path("/"), "userdel", name, timeout=60)
        shutil.rmtree(place, ignore_errors=True)


def test_marks_go_round_and_nobody_reads_what_is_of_others(hub):
    path = hub.course / "solutions" / SET / f"{SET}.ipynb"
    solution = nbformat.read(path, as_version=4)
    cells = {cell.metadata.nbgrader.grade_id: cell for cell in solution.cells if assignments.role(cell) != "given"}
    answers = {name: cell.source for name, cell in cells.items() if assignments.role(cell) != "check"}
    worth = {name: cell.metadata.nbgrader.points for name, cell in cells.items() if assignments.role(cell) == "check"}
    cells["climb_check"].source += HIDDEN
    nbformat.write(solution, path)
    generate, release, *later = hub.typed
    for command in (generate, release):
        done(hub.run("teacher", command, hub.course))

    _, part, old, new = runpy.run_path(str(ROOT / "tests" / "answers" / f"{SET}.py"))["WRONG"][0]
    assert old in answers[part]
    due = {"ann": sum(worth.values()), "bob": sum(worth.values()) - worth[f"{part}_check"]}
    for who in due:
        done(hub.run(who, hub.said("nbgrader fetch_assignment")))
        sheet = hub.home(who) / SET / f"{SET}.ipynb"
        assert not re.search("SOLUTION|HIDDEN|not shown", sheet.read_text(encoding="utf-8"))
        notebook = nbformat.read(sheet, as_version=4)
        for cell in notebook.cells:
            name = cell.metadata.get("nbgrader", {}).get("grade_id")
            cell.source = answers.get(name, cell.source)
            if (who, name) == ("bob", part):
                cell.source = cell.source.replace(old, new)
        nbformat.write(notebook, sheet)
        done(hub.run(who, hub.said("nbgrader submit")))

    for command in (*later, "nbgrader export --to marks.csv", hub.said("python tools/exercises.py grade")):
        done(hub.run("teacher", command, hub.course))
    by_nbgrader, by_us = hub.course / "marks.csv", hub.course / "grades" / "grades.csv"
    with by_nbgrader.open() as one, by_us.open(encoding="utf-8-sig") as other:
        marks = {row["student_id"]: float(row["score"]) for row in csv.DictReader(one) if row["assignment"] == SET}
        rows = {row["student"]: row for row in csv.DictReader(other) if row["state"] == "graded"}
    assert marks == {hub.names[who]: points for who, points in due.items()}
    assert marks == {name: float(row["points"]) for name, row in rows.items()}
    assert not any("was changed" in row["remarks"] for row in rows.values())
    for who, points in due.items():
        done(hub.run(who, hub.said("nbgrader fetch_feedback")))
        (page,) = (hub.home(who) / SET / "feedback").rglob("*.html")
        assert f"Score: {points:.1f} / 26.0" in page.read_text(encoding="utf-8")
        page = hub.course / "grades" / "feedback" / SET / f"{hub.names[who]}.html"
        assert not re.search("HIDDEN|not shown", page.read_text(encoding="utf-8"))

    shared = hub.place / "srv" / "nbgrader" / "exchange" / "sam"
    (handed,) = (shared / "inbound").glob(f"{hub.names['ann']}*")
    assert handed.is_dir() and (hub.course / "gradebook.db").is_file()
    for path in (shared / "inbound", shared / "feedback", hub.home("ann") / SET, hub.course / "gradebook.db"):
        assert "Permission denied" in hub.run("bob", f"ls {path}").stderr


@contextmanager
def running(hub: Hub) -> Iterator[str]:
    """The hub's address, with one password for all; told to end, it stops its proxy and the servers of all."""
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        ports = [one.getsockname()[1] for one in (a, b)]
    address, folder = f"http://127.0.0.1:{ports[0]}", hub.place / "hub"
    folder.mkdir(mode=0o700)
    (folder / "jupyterhub_config.py").write_text(f"""{hub.settings}
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{hub.password}"
c.Authenticator.allowed_users = {set(hub.names.values())}
c.JupyterHub.bind_url = "{address}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[1]}"
""")
    (command,) = re.findall(r"^# .*, for (\S+ -f \S+)$", hub.settings, re.MULTILINE)
    env = environment(PATH=f"{hub.place}/npm/bin:{os.environ['PATH']}")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command.split(), cwd=folder, env=env, stdout=log, stderr=log)
    try:
        for _ in range(120):
            with suppress(OSError), urllib.request.urlopen(f"{address}/hub/health", timeout=5):
                break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        with suppress(psutil.Error):
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            process.terminate()
            psutil.wait_procs(family, timeout=60)
            kill(family)
        process.wait(timeout=30)


@contextmanager
def logged_in(hub: Hub, chrome, address: str, who: str) -> Iterator:
    """A page that shows JupyterLab of an account."""
    with chrome.new_context(viewport={"width": 1280, "height": 1000}) as context:
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.goto(f"{address}/hub/login")
        page.fill("#username_input", hub.names[who])
        page.fill("#password_input", hub.password)
        page.click("#login_submit")
        page.wait_for_url(f"{address}/user/{hub.names[who]}/lab*")
        page.wait_for_selector(".jp-DirListing-item")
        yield page


def test_a_student_runs_a_cell_of_a_lecture_through_the_hub_and_only_the_instructor_grades(hub, chrome):
    setting = hub.said("c.CourseDirectory.root")
    (hub.home("teacher") / ".jupyter").mkdir(exist_ok=True)
    (hub.home("teacher") / ".jupyter" / "nbgrader_config.py").write_text(f"c = get_config()\n{setting}\n")
    with running(hub) as address:
        users = {who: f"{address}/user/{hub.names[who]}" for who in PEOPLE}
        # the form grader's marking by hand, cell by cell, is not tried: only that it finds the course
        with logged_in(hub, chrome, address, "teacher") as page:
            sets = page.request.get(f"{users['teacher']}/formgrader/api/assignments").json()
            assert SET in {one["name"] for one in sets}
        with logged_in(hub, chrome, address, "ann") as page:
            page.goto(f"{users['ann']}/lab/tree/lectures/00_start_here.ipynb?reset")
            cell = page.locator(".jp-Notebook .jp-Cell").nth(2)
            cell.get_by_text("Run this cell to move the controls.").wait_for()
            browser.idle(page)
            browser.run_cell(page, 2)
            cell.locator(".widget-slider, .widget-toggle-buttons, .widget-dropdown").first.wait_for()
            found = [one.info for one in psutil.process_iter(["username", "cmdline"])]
            theirs = [one["cmdline"] for one in found if one["username"] == hub.names["ann"]]
            assert sum("ipykernel_launcher" in command for command in theirs) == 1
            listed = page.request.get(f"{users['ann']}/assignments?course_id=sam").json()
            assert listed["success"] and {one["assignment_id"] for one in listed["value"]} <= {SET}
            assert page.request.get(f"{users['ann']}/formgrader/api/assignments").json() == []
            assert page.request.get(f"{users['teacher']}/api/contents").status == 403
