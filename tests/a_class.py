"""A class of sixty that hands in exercise 5, as Moodle and as Canvas export it: `python tests/a_class.py FOLDER`.

Solved to different degrees, with known mistakes, in unusual ways, handed in again, copied by Colab, with warnings,
hostile, and two that copied from each other. `students` says what each of them is due.
"""

import copy
import runpy
import sys
import time
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tools")]
from test_grading import CASES, INF, NOISY, bare  # noqa: E402

from assignments import blank, role  # noqa: E402
from notebooks import ROOT  # noqa: E402

EXERCISE = "05_sam"
HOSTILE = [
    "exits", "kills", "endless", "patches the checks", "looks at the frame", "one constant", "forges lines",
    "reaches out", "returns a claim", "edits the check",
]  # fmt: skip
GIVEN = ["Jane", "Zoë", "María José", "Lei", "Ólafur", "Pat", "Noor", "Ayşe", "Bob", "Ike"]
FAMILY = ["Doe", "O'Neill", "de la Cruz", "李", "Müller-Lüdenscheid", "van der Berg"]


class Student(NamedTuple):
    """Who hands in what, and what they are due."""

    name: str
    kind: str
    notebooks: list[NotebookNode]  # the last one counts
    points: float  # for the checked parts


def students() -> list[Student]:
    """The class, in the order of its list."""
    made = list(_kinds())
    names = [f"{given} {family}" for family in FAMILY for given in GIVEN]
    assert len(made) == len(names) == 60
    return [Student(name, kind, books, points) for name, (kind, books, points) in zip(names, made, strict=True)]


def _kinds() -> Iterator[tuple[str, list[NotebookNode], float]]:
    solution = nbformat.read(ROOT / "solutions" / EXERCISE / f"{EXERCISE}.ipynb", as_version=4)
    sheet, answers = blank(solution), runpy.run_path(str(ROOT / "tests" / "answers" / f"{EXERCISE}.py"))
    right = {c.metadata.nbgrader.grade_id: c.source for c in solution.cells if role(c) in ("code", "written")}
    parts = [name for name, source in right.items() if "### BEGIN SOLUTION" in source]
    worth = {c.metadata.nbgrader.grade_id.removesuffix("_check"): c.metadata.nbgrader.points for c in sheet.cells
             if role(c) == "check"}  # fmt: skip
    (question,) = [name for name in right if name not in parts]

    def book(answers: dict[str, str], text: str = "") -> NotebookNode:
        notebook = copy.deepcopy(sheet)
        for cell in notebook.cells:
            name = cell.metadata.get("nbgrader", {}).get("grade_id")
            cell.source = answers.get(name, text if text and name == question else cell.source)
        return notebook

    def some(names, *, without="") -> dict[str, str]:
        return {name: right[name] for name in names if name != without}

    for number in range(22):  # the first parts of the set, and a text or none
        done = parts[: number % (len(parts) + 1)]
        text = f"I think $\\rho = {number}$, since **{number}** steps of $\\|\\epsilon\\|_2$ are enough." * (number % 3)
        yield "so far", [book(some(done), text)], sum(worth[name] for name in done)
    for mistake, part, old, new in answers["WRONG"][::5][:8]:
        wrong = some(parts) | {part: right[part].replace(old, new)}
        yield f"mistake: {mistake}", [book(wrong, "One sentence.")], sum(worth.values()) - worth[part]
    for name, unusual in answers["RIGHT"][:3]:
        yield f"unusual: {name}", [book(some(parts) | unusual, "One sentence.")], sum(worth.values())
    for number in range(5):
        last = book(some(parts, without="own_ascents"), "Now I know.")
        yield "handed in again", [book(some(parts[:number])), last], sum(worth.values()) - worth["own_ascents"]
    for _ in range(5):
        colab = book(some(parts))
        colab.cells.append(new_markdown_cell("I answer below the last cell, where Colab put me."))
        bare(colab)
        yield "copied by Colab", [colab], sum(worth.values())
    for number in range(5):
        noisy = {"climb": NOISY, "climb_inf": INF} if number else answers["RIGHT"][3][1]
        yield "warnings", [book(some(parts) | noisy, "It warns.")], sum(worth.values())
    for name in HOSTILE:
        make, due, _ = CASES[name]
        yield f"hostile: {name}", [make(sheet)], sum(due.values())
    mine = "def climb(grads, rho):\n    total = 0\n    for one in grads.values():\n        total += float((one * one).sum())\n"
    mine += "    if total == 0:\n        return {key: 0 * one for key, one in grads.items()}\n"
    mine += "    return {key: one * (rho / total**0.5) for key, one in grads.items()}"
    theirs = mine.replace("total", "summe").replace("one", "wert").replace("key", "k") + "  # my own work"
    for climb in (mine, theirs):
        yield "copied", [book({"climb": climb, "climb_inf": INF}, "Same here.")], worth["climb"] + worth["climb_inf"]


def moodle(number: int, student: Student) -> list[str]:
    """The names of a student's files in Moodle's export: a folder for each person, with letters taken apart."""
    folder = unicodedata.normalize("NFD", f"{student.name}_{4000 + number}_assignsubmission_file_")
    start = "Copy of " if "Colab" in student.kind else ""
    return [f"{folder}/{start}{EXERCISE}{f' ({i})' if i else ''}.ipynb" for i in range(len(student.notebooks))]


def canvas(number: int, student: Student) -> list[str]:
    """The same in Canvas: one folder, numbers of user and file in the names, the family name first."""
    given, family = student.name.split(" ", 1)
    name, late = "".join(filter(str.isalnum, (family + given).lower())), "LATE_" if number % 9 == 0 else ""
    files = [f"{name}_{late}{5000 + number}_{70000 + 100 * number + i}" for i in range(len(student.notebooks))]
    return [f"{file}_{EXERCISE}{f'-{i}' if i else ''}.ipynb" for i, file in enumerate(files)]


def write(folder: Path, everybody: list[Student] | None = None) -> dict[str, Path]:
    """`moodle.zip` and `canvas.zip` of a class, of `students()` if no other is given."""
    zips = {}
    for platform in (moodle, canvas):
        path = zips[platform.__name__] = folder / f"{platform.__name__}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, student in enumerate(everybody or students()):
                for i, (name, notebook) in enumerate(zip(platform(number, student), student.notebooks, strict=True)):
                    when = time.localtime(time.mktime((2026, 11, 27, 12, number, 2 * i, 0, 0, -1)))
                    archive.writestr(zipfile.ZipInfo(name, when[:6]), nbformat.writes(notebook))
    return zips


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    print(*write(Path(sys.argv[1])).values(), sep="\n")
