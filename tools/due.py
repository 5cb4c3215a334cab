"""What is tested only where it changed: python tools/due.py FOLDER FILE...

prints the first of these names if one of them changed lately, and says on stderr that it is left out if none did. In the
tests the marker `when_changed` asks the same.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DAY = 24 * 60 * 60  # seconds
ALL = "SAM_LITE_ALL_TESTS"


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


def main(names: list[str]) -> int:
    if due(*names):
        print(names[0])
    else:
        print(f"{names[0]}: nothing changed of what it tests; {ALL}=1 runs it all the same", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
