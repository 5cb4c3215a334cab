"""Tests that run only when what they test has changed: what counts as changed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest

import due as rule
from due import DAY, due

changed = rule.changed.__wrapped__  # without its memory
TESTS = Path(__file__).parent
NOW = 1_800_000_000  # seconds since 1970: when the last commit of `course` was made

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")


def git(folder, *command, when=NOW):
    who = {f"GIT_{role}_{what}": "n" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = who | {f"GIT_{role}_DATE": f"{when} +0000" for role in ("AUTHOR", "COMMITTER")}
    env |= {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *command], cwd=folder, env=env, check=True, capture_output=True)


def commit(folder, name, when):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"{when}\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", name, when=when)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    git(folder, "init", "-b", "main", "--template=")
    for name, hours in (("oldest.py", 90), ("old.py", 25), ("package/recent.py", 20), ("last.py", 0)):
        commit(folder, name, NOW - hours * 3600)
    return folder


@pytest.fixture
def course(made, tmp_path):
    """A repository with two commits on the last day of main, and two that are older."""
    return shutil.copytree(made, tmp_path.resolve() / "course")


def test_on_main_all_of_the_last_day_counts(course):
    assert changed(course) == {"package/recent.py", "last.py"}


def test_what_is_not_committed_counts_and_what_git_ignores_does_not(course):
    (course / "oldest.py").write_text("edited\n")
    (course / "new.py").write_text("new\n")
    (course / ".gitignore").write_text("built.py\n")
    (course / "built.py").write_text("built\n")
    assert changed(course) >= {"oldest.py", "new.py"} and "built.py" not in changed(course)


def test_a_week_without_commits_makes_nothing_older(course):
    """The day is counted from the last commit, not from now."""
    commit(course, "later.py", NOW + 7 * DAY)
    assert changed(course) == {"later.py"}


def test_on_a_branch_all_that_it_changed_counts_however_old(course):
    git(course, "checkout", "-b", "mine", "HEAD~2")
    commit(course, "mine.py", NOW - 24 * 3600)
    commit(course, "mine_too.py", NOW + 9 * DAY)
    assert changed(course) == {"mine.py", "mine_too.py"}


def test_a_merge_counts_with_all_that_it_brings_however_old(course):
    git(course, "checkout", "-b", "theirs", "HEAD~2")
    commit(course, "theirs.py", NOW - 24 * 3600)
    git(course, "checkout", "main")
    git(course, "merge", "--no-ff", "theirs", when=NOW + 9 * DAY)
    assert changed(course) == {"theirs.py"}


def test_in_a_clone_without_a_branch_the_history_decides(course, tmp_path):
    git(course, "checkout", "--detach")
    git(course, "branch", "-D", "main")
    assert changed(course) == {"package/recent.py", "last.py"}


def test_where_history_is_missing_nothing_is_known(course, tmp_path):
    git(tmp_path, "clone", "--depth", "2", f"file://{course}", "shallow")
    assert changed(tmp_path / "shallow") is None
    git(tmp_path, "clone", f"file://{course}", "whole")
    assert changed(tmp_path / "whole") == changed(course)
    (course / "copy").mkdir()
    assert changed(course / "copy") is None, "a copy without a repository of its own, inside one"
    shutil.rmtree(course / ".git")
    assert changed(course) is None


@pytest.mark.parametrize(
    ("files", "everything", "runs"),
    [
        ({"README.md"}, "", True),
        ({"tools/deep/x.py"}, "", True),
        ({"LICENSE", "tools.py", "other/README.md"}, "", False),
        ({"LICENSE"}, "1", True),
        (set(), "", False),
        (None, "", True),
    ],
)
def test_files_and_folders_are_known_by_their_names(files, everything, runs, monkeypatch):
    monkeypatch.setattr(rule, "changed", lambda root: files)
    monkeypatch.setenv(rule.ALL, everything)
    assert due("README.md", "tools") == runs


@pytest.mark.parametrize(("files", "printed"), [({"sam_lite/sam.py"}, "lectures/controls\n"), ({"README.md"}, "")])
def test_the_command_prints_what_is_due(files, printed, monkeypatch, capsys):
    monkeypatch.setattr(rule, "changed", lambda root: files)
    monkeypatch.delenv(rule.ALL, raising=False)
    assert rule.main(["lectures/controls", "sam_lite"]) == 0
    said = capsys.readouterr()
    assert said.out == printed and ("SAM_LITE_ALL_TESTS=1 runs it" in said.err) == (not printed)


# ---- the marker


def marked(*names):
    """An item of pytest, as far as conftest.py looks at it, with such a marker."""
    marks = {"when_changed": [pytest.mark.when_changed(*names).mark], "xdist_group": []}
    return SimpleNamespace(
        nodeid="test_x", path=Path("test_x.py"), iter_markers=marks.get, get_closest_marker=marks.get, add_marker=id
    )


def test_a_marker_that_names_no_file_is_an_error():
    conftest.pytest_collection_modifyitems([marked("README.md", "tests")])
    with pytest.raises(pytest.UsageError, match="test_x: when_changed names what is not there: no_such_file.py"):
        conftest.pytest_collection_modifyitems([marked("README.md", "no_such_file.py")])


@pytest.mark.parametrize(("file", "always"), [("test_sam.py", False), ("test_pages.py", True)])
def test_slow_tests_of_the_code_alone_wait_for_a_change_of_the_code(file, always):
    slow, added = {"slow": True, "xdist_group": True}, []
    conftest.pytest_collection_modifyitems(
        [
            SimpleNamespace(
                path=Path(file), get_closest_marker=slow.get, add_marker=added.append, iter_markers=lambda _: ()
            )
        ]
    )
    assert [mark.args for mark in added] == ([] if always else [conftest.CODE])


def test_files_whose_slow_tests_read_lectures_exercises_or_pages_are_known():
    files = {path.stem.removeprefix("test_"): path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py")}
    read = {
        name
        for name, text in files.items()
        if "mark.slow" in text and re.search(r'ROOT / "(lectures|exercises|solutions|docs)"', text)
    }
    assert read <= conftest.READERS <= files.keys() and "exercises" in read


PROBE = """
import pytest

@pytest.mark.when_changed("README.md")
def test_one():
    pass

def test_two():
    pass
"""


@pytest.mark.slow
def test_pytest_heeds_the_marker_and_says_how_to_run_what_it_skips(tmp_path):
    (tmp_path / "test_probe.py").write_text(PROBE)
    (tmp_path / "plugin.py").write_text("import due\ndue.changed = lambda root: frozenset()\n")
    env = os.environ | {rule.ALL: "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (tmp_path, TESTS, TESTS.parent / "tools")))
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "conftest", "-p", "plugin", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert "1 passed, 1 skipped" in done.stdout and "SAM_LITE_ALL_TESTS=1 runs it" in done.stdout, done.stdout


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there are no workers")
def test_groups_reach_the_workers(request):
    """Else tests of one file run on several workers, each with the file's fixtures, and in no order."""
    assert request.node.nodeid.endswith("@test_conftest")
