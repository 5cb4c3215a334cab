"""Blank exercises from solutions, and grades from submissions.

python tools/exercises.py build             write exercises/ from solutions/
python tools/exercises.py check             fail if exercises/ is not what build writes, or shows a solution
python tools/exercises.py grade FOLDER      grade what students handed in (a folder or a zip); see INSTRUCTORS.md
"""

import argparse
import math
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import assignments
import grading
from notebooks import ROOT


def moment(text: str) -> datetime:
    """A date with a time: without one it would be midnight, at the day's beginning, and all of that day be late."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it must be a moment such as 2026-11-27T23:59, got {text}") from None
    if not re.search(r"\d[^\d-]\d", text):
        raise argparse.ArgumentTypeError(f"it must have a time of day, such as {found:%Y-%m-%d}T23:59, got {text}")
    return found


def positive(kind: type) -> Callable:
    """A number of this kind above 0, and finite."""

    def read(text: str) -> float:
        if not 0 < (number := kind(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"it must be above 0, and finite, got {text}")
        return number

    read.__name__ = kind.__name__  # in argparse's own words
    return read


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="write exercises/ from solutions/")
    commands.add_parser("check", help="fail if exercises/ is not what build writes, or shows a solution")
    grade = commands.add_parser("grade", help="grade a folder or a zip of submissions")
    grade.add_argument(
        "submissions", type=Path, help="folder or zip: name_id_..._05_sam.ipynb, or name/05_sam/05_sam.ipynb"
    )
    grade.add_argument("--out", type=Path, default=Path("grades"), help="results go there (default: grades)")
    grade.add_argument("--jobs", type=positive(int), default=2, help="submissions at a time (default: 2)")
    grade.add_argument("--seconds", type=positive(float), default=300, help="limit for one notebook (default: 300)")
    grade.add_argument("--cell-seconds", type=positive(int), default=60, help="limit for one cell (default: 60)")
    grade.add_argument(
        "--memory-gb", type=positive(float), default=8, help="address space of one notebook (default: 8)"
    )
    grade.add_argument("--seed", type=int, help="seed of the checks' inputs (default: drawn once, kept in seed.txt)")
    grade.add_argument("--private", type=Path, help="folder with checks of your own, such as set_05.py")
    grade.add_argument("--regrade", action="store_true", help="grade all again, also what has not changed")
    grade.add_argument("--due", type=moment, help="when it was due, as 2026-11-27T23:59: gives days late")
    grade.add_argument(
        "--points", type=Path, nargs="+", default=[], help="tables saved by the pages of written answers"
    )
    grade.add_argument("--anonymous", action="store_true", help="no names on the pages of written answers")
    options = parser.parse_args(arguments)
    if options.command == "grade":
        if not (options.submissions.is_dir() or zipfile.is_zipfile(options.submissions)):
            parser.error(f"submissions must be a folder or a zip file, got {options.submissions}")
        if options.out.exists() and not options.out.is_dir():
            parser.error(f"--out must be a folder, or nothing yet, got {options.out}")
        if options.out.resolve().is_relative_to(options.submissions.resolve()):
            parser.error(
                f"--out must lie outside of the submissions, or what is written there would count as handed in, got "
                f"{options.out.resolve()}"
            )
        if options.private and not options.private.is_dir():
            parser.error(f"--private must be a folder with files like set_05.py, got {options.private}")
        if gone := [str(path) for path in options.points if not path.is_file()]:
            parser.error(f"--points must name tables that are there, got {', '.join(gone)}")
        try:
            found = grading.grade(options.submissions, options.out, options)
        except KeyboardInterrupt:
            print(f"\nStopped. What is graded is kept in {options.out}/results: the same command goes on from there.")
            return 130
        left = [one for one in found if not one.scores]
        print("\n".join(f"{one.file}: {one.state}" for one in left))
        print(f"{len(found) - len(left)} graded, {len(left)} not. See {options.out}/grades.csv and report.html.")
        if waiting := sum(one.by_hand > 0 for one in found):
            print(f"{waiting} have written answers without points: open the pages in {options.out}/written/.")
        return 0
    if options.command == "build":
        for path in assignments.build():
            print(path.relative_to(ROOT))
        return 0
    wrong = assignments.check()
    print(
        "\n".join(wrong)
        if wrong
        else f"{len(assignments.source_of())} sets: the blank notebooks are as build writes them."
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
