"""Exercises: what may be handed out, and graders that are themselves graded with right and wrong answers."""

import argparse
import collections
import contextlib
import copy
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import CODE
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

assignments = pytest.importorskip("assignments", reason="nbgrader is missing: pip install -e '.[instructor]'")
import nbgraded  # noqa: E402

import confine  # noqa: E402
import exercises  # noqa: E402
import feedback  # noqa: E402
import gradebook  # noqa: E402
import grading  # noqa: E402
import submissions  # noqa: E402
from due import ALL  # noqa: E402

ROOT = Path(__file__).parent.parent
SETS = assignments.source_of()
NAMES = [path.stem for path in SETS]
# the machine's tools warn about each other where our own code is not concerned
pytestmark = pytest.mark.filterwarnings("default")


def test_every_lecture_has_a_set_and_every_set_its_catalogue():
    lectures = [path.stem for path in sorted((ROOT / "lectures").glob("0[1-8]_*.ipynb"))]
    assert NAMES == [*lectures, "09_project"] and len(lectures) == 8
    assert {path.stem for path in (ROOT / "tests" / "answers").glob("*.py")} == set(NAMES)


def test_the_guide_for_instructors_says_of_each_set_what_the_set_says():
    guide = (ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
    rows = {
        name: numbers
        for name, *numbers in re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|", guide, re.MULTILINE)
    }
    assert list(rows) == NAMES
    for path in SETS:
        notebook = nbformat.read(path, as_version=4)
        marked = [cell for cell in notebook.cells if assignments.role(cell) in ("check", "written")]
        points = sum(cell.metadata.nbgrader.points for cell in marked)
        by_hand = sum(cell.metadata.nbgrader.points for cell in marked if assignments.role(cell) == "written")
        minutes, *said = map(int, rows[path.stem])
        name, title = path.stem, notebook.cells[0].source
        assert said == [points, by_hand], f"{name}: INSTRUCTORS.md says {said}, the cells {[points, by_hand]} points"
        assert f"{points} points, {by_hand} of them for written" in title, f"{name}: the line below the title"
        parts = [row.split("|")[1:-1] for row in title.splitlines() if re.match(r"\| \d", row)]
        assert sum(int(row[-1]) for row in parts) == points, f"{name}: points in the table of the title"
        assert sum(int(row[-2]) for row in parts) == minutes, f"{name}: minutes in that table, and in INSTRUCTORS.md"
        assert f"About {minutes} minutes" in title or f"About {minutes // 60} hours" in title, f"{name}: title"
        for number, *_, part_minutes, part_points in parts:
            heading = rf"(?m)^## Part {number.strip()} .*{part_minutes.strip()} min, {part_points.strip()} points?\)"
            assert any(re.search(heading, cell.source) for cell in notebook.cells), f"{name}: no heading like {heading}"


@pytest.mark.parametrize("path", SETS, ids=NAMES)
def test_the_running_total_of_a_set_adds_up_the_points_that_its_cells_give(path):
    checks = importlib.import_module(f"sam_lite.checks.set_{path.stem[:2]}")
    cells = nbformat.read(path, as_version=4).cells
    points = {cell.source: cell.metadata.nbgrader.points for cell in cells if assignments.role(cell) == "check"}
    names = {call: re.match(r"set_\d+\.(\w+)\(", call)[1] for call in points}
    assert {names[call]: number for call, number in points.items()} == {
        name: one.points for name, one in vars(checks).items() if hasattr(one, "points")
    }
    by_hand = sum(cell.metadata.nbgrader.points for cell in cells if assignments.role(cell) == "written")
    assert cells[-1].id == "total" and f"total(set_{path.stem[:2]}, written={by_hand})" in cells[-1].source


@pytest.mark.slow
@pytest.mark.when_changed(*CODE, "solutions/05_sam", "exercises/05_sam", "nbgrader_config.py", "INSTRUCTORS.md")
def test_the_commands_for_nbgrader_that_need_no_hub(tmp_path):
    guide = (ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
    shown = re.findall(r"^nbgrader (\w+) 05_sam(.*)$", guide, re.MULTILINE)
    assert [name for name, _ in shown][:1] == ["generate_assignment"]
    shutil.copytree(ROOT / "solutions" / "05_sam", tmp_path / "solutions" / "05_sam")
    shutil.copy(ROOT / "nbgrader_config.py", tmp_path)
    handed = tmp_path / "submitted" / "mia" / "05_sam"
    handed.mkdir(parents=True)
    shutil.copy(ROOT / "solutions" / "05_sam" / "05_sam.ipynb", handed)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name, options in shown:
        if name in ("generate_assignment", "autograde", "generate_feedback"):
            command = [sys.executable, "-m", "nbgrader", name, "05_sam", *options.split()]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
    ours, theirs = (
        nbformat.read(folder / "exercises" / "05_sam" / "05_sam.ipynb", as_version=4) for folder in (ROOT, tmp_path)
    )
    assert [cell.source for cell in ours.cells] == [cell.source for cell in theirs.cells]
    assert "Part 4" in (tmp_path / "feedback" / "mia" / "05_sam" / "05_sam.html").read_text(encoding="utf-8")


def test_the_blank_notebooks_can_be_handed_out():
    assert assignments.check() == []
    assert exercises.main(["check"]) == 0


# ---------------------------------------------------------------- faults that check finds


def metadata(name, **kind):
    cell = dict(grade_id=name, schema_version=3, task=False, locked=False, solution=False, grade=False) | kind
    return {"nbgrader": cell}


def good_set():
    body = "def twice(x):\n    ### BEGIN SOLUTION\n    return x + x + 0 * len('a long line')\n    ### END SOLUTION"
    written = metadata("twice_why", solution=True, grade=True, points=2)
    cells = [
        new_code_cell("import math", id="given"),
        new_code_cell(body, id="twice", metadata=metadata("twice", solution=True)),
        new_code_cell(
            "assert twice(2) == 4", id="check", metadata=metadata("twice_check", grade=True, locked=True, points=3)
        ),
        new_markdown_cell("Because.", id="why", metadata=written),
    ]
    return new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    )


@pytest.fixture
def course(tmp_path):
    """(folder with one good set, a function that writes a changed solution and tells the faults)."""
    (tmp_path / "solutions" / "01_two").mkdir(parents=True)

    def faults(notebook, build=True):
        nbformat.write(notebook, tmp_path / "solutions" / "01_two" / "01_two.ipynb")
        if build:
            assignments.build(tmp_path)
        return assignments.check(tmp_path)

    return tmp_path, faults


def test_a_good_set_has_no_fault_and_shows_no_solution(course):
    folder, faults = course
    assert faults(good_set()) == []
    shown = nbformat.read(folder / "exercises" / "01_two" / "01_two.ipynb", as_version=4)
    assert "raise NotImplementedError" in shown.cells[1].source and "len(" not in shown.cells[1].source
    assert shown.cells[3].source == "*Write your answer here.*"
    assert shown.cells[2].metadata.editable is False and shown.cells[1].metadata.get("editable", True)


def test_hidden_tests_stay_with_the_instructor(course):
    folder, faults = course
    notebook = good_set()
    notebook.cells[2].source += "\n### BEGIN HIDDEN TESTS\nassert twice(21) == 42\n### END HIDDEN TESTS"
    assert faults(notebook) == []
    shown = nbformat.read(folder / "exercises" / "01_two" / "01_two.ipynb", as_version=4)
    assert shown.cells[2].source.strip() == "assert twice(2) == 4"
    (graded,) = grading.sheets(["01_two"], folder, folder).values()
    assert "assert twice(21) == 42" in nbformat.read(graded, as_version=4).cells[2].source
    assert "len(" not in nbformat.read(graded, as_version=4).cells[1].source
    repaired, remarks = submissions.repair(shown, nbformat.read(graded, as_version=4))
    assert "assert twice(21) == 42" in repaired.cells[2].source and not remarks  # nobody changed that check
    page = re.sub("<[^>]*>", "", feedback.body(repaired))
    assert "assert twice(2) == 4" in page and "21" not in page and "HIDDEN" not in page


def test_building_twice_gives_the_same_bytes(course):
    folder, faults = course
    faults(good_set())
    target = folder / "exercises" / "01_two" / "01_two.ipynb"
    before = target.read_bytes()
    assignments.build(folder)
    assert target.read_bytes() == before


def change(cell, **values):
    def apply(notebook):
        notebook.cells[cell].update(values)

    return apply


def remark(cell, **values):
    def apply(notebook):
        notebook.cells[cell].metadata.nbgrader.update(values)

    return apply


FAULTS = {
    "a check that follows nothing": (lambda nb: nb.cells.insert(1, nb.cells.pop(2)), "must be followed by"),
    "no check": (lambda nb: nb.cells.pop(2), "twice must be followed by twice_check"),
    "a check for nothing": (remark(2, grade_id="other_check"), "other_check checks nothing"),
    "one id twice": (remark(3, grade_id="twice"), "the grade id twice is there twice"),
    "no metadata": (
        lambda nb: nb.cells[1].metadata.pop("nbgrader"),
        "holds a solution, and nbgrader's metadata do not",
    ),
    "no points": (remark(2, points=0), "twice_check gives no points"),
    "a leaked line": (
        change(0, source="# return x + x + 0 * len('a long line')"),
        "given|twice: the blank notebook shows",
    ),
    "no markers": (change(1, source="def twice(x):\n    return 2 * x"), "has no ### BEGIN SOLUTION"),
    "a stub that does not parse": (
        change(1, source="x = # todo\n### BEGIN SOLUTION\n2\n### END SOLUTION"),
        "the stub does not parse",
    ),
    "no written answer": (lambda nb: nb.cells.pop(3), "there must be checks and a written answer"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_set_is_found(course, name):
    _, faults = course
    apply, message = FAULTS[name]
    notebook = good_set()
    apply(notebook)
    refused = name in ("one id twice", "no metadata")  # by nbgrader, without saying where
    found = faults(notebook, build=not refused)
    if refused:
        with pytest.raises(SystemExit, match=f"01_two: .*{message}.*; nothing more is built"):
            faults(notebook)
    assert any(part in fault for fault in found for part in message.split("|")), found
    assert all(fault.startswith("01_two: ") for fault in found)


def test_a_byte_of_difference_a_missing_and_an_orphaned_notebook_are_found(course):
    folder, faults = course
    faults(good_set())
    target = folder / "exercises" / "01_two" / "01_two.ipynb"
    target.write_text(target.read_text(encoding="utf-8").replace("import math", "import  math"), encoding="utf-8")
    assert faults(good_set(), build=False) == [
        "01_two: the blank notebook is not what build writes: run tools/exercises.py build"
    ]
    target.unlink()
    assert faults(good_set(), build=False) == ["01_two: the blank notebook is missing: run tools/exercises.py build"]
    other = folder / "exercises" / "02_gone"
    other.mkdir()
    shutil.copy(folder / "solutions" / "01_two" / "01_two.ipynb", other / "02_gone.ipynb")
    assert "02_gone: it has no solution; delete it, or move it elsewhere" in faults(good_set(), build=False)
    assignments.build(folder)
    assert assignments.check(folder) == [] and not other.exists()


def test_building_takes_nobody_s_answers_and_notes(course):
    folder, faults = course
    faults(good_set())
    sheet, gone = (folder / "exercises" / name / f"{name}.ipynb" for name in ("01_two", "02_gone"))
    gone.parent.mkdir()
    answered = good_set()
    answered.cells[1].execution_count = 1
    for mine in (gone, notes := sheet.with_name("notes.ipynb")):
        nbformat.write(answered, mine)
    assignments.build(folder)
    assert gone.is_file() and notes.is_file()
    nbformat.write(answered, sheet)
    before = sheet.read_bytes()
    with pytest.raises(
        SystemExit, match="01_two.ipynb has been run, so it may hold somebody's answers: move it elsewhere"
    ):
        assignments.build(folder)
    assert sheet.read_bytes() == before


def test_a_copy_and_a_damaged_notebook_among_the_solutions_are_named(course):
    """JupyterLab makes copies beside a set; a merge leaves its marks in one."""
    folder, faults = course
    faults(good_set())
    copy = folder / "solutions" / "01_two" / "01_two-Copy1.ipynb"
    nbformat.write(good_set(), copy)
    assert [path.name for path in assignments.build(folder)] == ["01_two.ipynb"]
    assert assignments.check(folder) == [
        "01_two-Copy1: a set is solutions/NAME/NAME.ipynb; rename it, or move it elsewhere"
    ]
    copy.with_name("01_two.ipynb").write_text("<<<<<<< HEAD\n{}", encoding="utf-8")
    for command in (assignments.check, assignments.build):
        with pytest.raises(SystemExit, match="01_two.ipynb is no notebook that can be read: .*; repair it first"):
            command(folder)


# ---------------------------------------------------------------- the graders, graded

BY_SET = [
    pytest.param(
        path,
        id=path.stem,
        marks=[
            pytest.mark.xdist_group(path.stem),
            pytest.mark.when_changed(f"solutions/{path.stem}", f"tests/answers/{path.stem}.py", "sam_lite", "tools"),
        ],
    )
    for path in SETS
]
ALWAYS = ("05_sam",)  # marked by nbgrader itself at every run; the other sets every night
QUIET = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "MPLBACKEND": "agg", "SAM_LITE_CHECK_SEED": "20"}


def table_of(path):
    return runpy.run_path(str(ROOT / "tests" / "answers" / f"{path.stem}.py"))


def marked_cells(path):
    """grade id -> cell, of a solution or of a blank notebook."""
    cells = nbformat.read(path, as_version=4).cells
    return {cell.metadata.nbgrader.grade_id: cell for cell in cells if assignments.role(cell) != "given"}


def blank_of(path):
    return ROOT / "exercises" / path.stem / path.name


def catalogue(path):
    """name of a submission -> ({grade id: answer}, checks that must lose marks); the first two: reference and blank.

    Answers to different parts go into one notebook, right ones and wrong ones, and one part at least stays as it was:
    then "no other part loses" is tried too, and the catalogue takes a fraction of the time.
    """
    table = table_of(path)
    reference = {name: cell.source for name, cell in marked_cells(path).items()}
    per_part = collections.Counter(row[1] for row in table["WRONG"])
    answers = [(name, cells, set()) for name, cells in table["RIGHT"]]
    for name, part, old, new in sorted(table["WRONG"], key=lambda row: -per_part[row[1]]):
        answers.append((name, {part: reference[part].replace(old, new)}, {f"{part}_check"}))
    packs = []
    for name, cells, losing in answers:
        assert set(cells) <= set(reference), name
        free = (p for p in packs if not p[1].keys() & cells.keys() and len(p[2] | losing) < max(2, len(per_part)))
        before, others, lost = next(free, ("", {}, set()))
        packs = [p for p in packs if p[1] is not others]
        packs.append((f"{before}; {name}", others | cells, lost | losing))
    blank = {name: cell.source for name, cell in marked_cells(blank_of(path)).items()}
    packs = [("reference", {}, set()), ("blank", blank, {f"{part}_check" for part in per_part}), *packs]
    return {name: (cells, losing) for name, cells, losing in packs}


@pytest.fixture(scope="module", params=BY_SET)
def exercise(request):
    return request.param


@pytest.fixture(scope="module")
def marks(exercise, tmp_path_factory):
    """name of a submission -> {check: [points, error]}, by marking.py."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    made = catalogue(exercise)
    asked = "".join(json.dumps(cells) + "\n" for cells, _ in made.values())
    command = [sys.executable, str(ROOT / "tests" / "marking.py"), str(exercise)]
    env = os.environ | QUIET | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tools")))}
    folder = tmp_path_factory.mktemp("marks")
    done = subprocess.run(command, cwd=folder, env=env, input=asked, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return dict(zip(made, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def autograded(exercise, tmp_path_factory):
    """name of a submission -> (the marks, the notebook that nbgrader ran): by nbgrader itself.

    The reference, the blank notebook, and the pack with the most wrong answers.
    """
    if exercise.stem not in ALWAYS and not os.environ.get(ALL):
        pytest.skip(f"one of many alike; {ALL}=1 runs all")
    made, found = catalogue(exercise), {}
    pack = max(list(made)[2:], key=lambda name: len(made[name][1]))
    released = nbgraded.prepare(exercise.stem, tmp_path_factory.mktemp("released"))
    for name in ("reference", "blank", pack):
        course = shutil.copytree(released, tmp_path_factory.mktemp("course") / "course")
        notebook = nbformat.read(blank_of(exercise) if name == "blank" else exercise, as_version=4)
        for cell in notebook.cells:
            cell.source = made[name][0].get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
        nbformat.write(notebook, course / "handed.ipynb")
        request = {"course": str(course), "exercise": exercise.stem, "handed": str(course / "handed.ipynb")}
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in (QUIET | {"PATH": nbgraded.path()}).items():
                patch.setenv(variable, value)
            result = nbgraded.autograde(request)
        ran = course / "autograded" / "student" / exercise.stem / exercise.name
        found[name] = result, nbformat.read(ran, as_version=4)
    return found


@pytest.mark.parametrize("path", SETS, ids=NAMES)
def test_a_catalogue_is_large_enough(path):
    table, sources = table_of(path), {name: cell.source for name, cell in marked_cells(path).items()}
    assert len(table["WRONG"]) >= 8 and len(table["RIGHT"]) >= 3
    checks = {name for name, cell in marked_cells(path).items() if assignments.role(cell) == "check"}
    answered = {f"{row[1]}_check" for row in table["WRONG"]}
    assert answered == checks, f"without a wrong answer, or without a cell: {answered ^ checks}"
    for name, part, old, _ in table["WRONG"]:
        assert sources[part].count(old) == 1, f"{name}: {old!r} must stand once in {part}"
    names = [row[:2] for row in table["WRONG"]]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_right_answers_keep_their_marks_and_wrong_ones_lose_theirs(exercise, marks):
    full = {n: c.metadata.nbgrader.points for n, c in marked_cells(exercise).items() if assignments.role(c) == "check"}
    for name, (cells, losing) in catalogue(exercise).items():
        errors = {check: error for check, (_, error) in marks[name].items()}
        assert {f"{part}_check" for part in cells} & full.keys() <= errors.keys() and losing <= errors.keys(), name
        due = {check: 0 if check in losing else full[check] for check in errors}
        assert {check: points for check, (points, _) in marks[name].items()} == due, (name, errors)
        assert not any("NameError" in error for error in errors.values()), (name, errors)


@pytest.mark.slow
def test_nbgrader_gives_the_same_marks_and_leaves_written_answers_to_us(exercise, marks, autograded):
    for name, (result, _) in autograded.items():
        scores = result["scores"]
        checks = {check: [scores[check]["points"], scores[check]["failed"]] for check in marks[name]}
        assert checks == marks[name], name
        by_hand = {score["points"] for check, score in scores.items() if not check.endswith("_check")}
        assert by_hand == {0 if name == "blank" else None}, name


@pytest.mark.slow
def test_in_a_blank_set_given_cells_run_and_the_first_failure_is_the_first_check(autograded):
    _, notebook = autograded["blank"]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            errors = [out.ename for out in cell.outputs if out.output_type == "error"]
            fails = assignments.role(cell) == "check" or assignments.is_picture(cell)
            assert errors == (["NotImplementedError"] if fails else []), cell.source
            said = [out.text for out in cell.outputs if out.get("name") == "stderr"]
            assert said == [], cell.source


# ---------------------------------------------------------------- what people hand in


def edited(path, change):
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    return nbformat.writes(notebook).encode()


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == name)


def answer(name, source):
    def apply(notebook):
        cell_of(notebook, name).source = source

    return apply


def without(name):
    def apply(notebook):
        notebook.cells.remove(cell_of(notebook, name))

    return apply


def stripped(notebook):
    for cell in notebook.cells:
        cell.metadata = {}
        cell.pop("id", None)
    notebook.nbformat_minor = 4


def as_colab(notebook):
    notebook.metadata = {"colab": {"provenance": []}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for number, cell in enumerate(notebook.cells):
        cell.pop("id", None)
        cell.metadata["id"] = f"a{number}"
    notebook.nbformat, notebook.nbformat_minor = 4, 0


def split(notebook):
    cell = cell_of(notebook, "twice")
    at = notebook.cells.index(cell)
    head, tail = cell.source.split("\n", 1)
    second = copy.deepcopy(cell)
    cell.source, second.source, second["id"] = "unused = 0", head + "\n" + tail, "other"
    notebook.cells.insert(at + 1, second)


def pasted(notebook):
    cell = cell_of(notebook, "twice")
    second = copy.deepcopy(cell)
    second["id"] = "other"
    notebook.cells.insert(notebook.cells.index(cell), second)


@pytest.fixture(scope="module")
def small_course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    target = folder / "solutions" / "01_two"
    target.mkdir(parents=True)
    nbformat.write(good_set(), target / "01_two.ipynb")
    assignments.build(folder)
    return folder


FULL, NONE = 3.0, 0.0
HOSTILE = {  # student -> (change to the solution, points or None, what the state or a remark says)
    "wrong": (answer("twice", "def twice(x):\n    return 3 * x"), NONE, "graded"),
    "edited check": (
        lambda nb: (answer("twice", "def twice(x):\n    return 5")(nb), answer("twice_check", "assert True")(nb)),
        NONE,
        "the check twice_check was changed",
    ),
    "deleted check": (without("twice_check"), FULL, "twice_check was missing"),
    "deleted answer": (without("twice"), NONE, "twice was missing"),
    "stripped": (stripped, FULL, "graded"),
    "colab": (as_colab, FULL, "graded"),
    "split": (split, FULL, "twice is there more than once"),
    "pasted": (pasted, FULL, "twice is there more than once"),
    "endless": (answer("twice", "while True:\n    pass"), NONE, "graded"),
    "exits": (answer("twice", "import os\nos._exit(0)"), NONE, "it ended the process"),
    "prints": (answer("twice", "while True:\n    print('x' * 1000)"), NONE, "it ran for more than 4 s"),
    "floods": (answer("twice", "print('x' * 10**8)\ndef twice(x):\n    return 2 * x"), FULL, "graded"),
    "hungry": (answer("twice", "twice = lambda x, a=bytearray(2**40): 4"), NONE, "graded"),
    "calls home": (
        answer("twice", "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)\ndef twice(x): return 4"),
        NONE,
        "graded",
    ),
    "another notebook": (lambda nb: nb.update(cells=[new_code_cell("1 + 1")]), None, "no cell of this exercise"),
}
EVERY_TIME = (
    "edited check",
    "deleted answer",
    "endless",
    "exits",
    "floods",
    "calls home",
    "another notebook",
)  # others: at night


GROUP = pytest.mark.xdist_group("submissions")
STUBBORN = """while True:
    try:
        while True:
            pass
    except BaseException:
        pass"""


@GROUP
@pytest.mark.slow
@pytest.mark.when_changed(*CODE)
def test_code_that_cannot_be_interrupted_is_killed_when_its_time_is_over(small_course, tmp_path):
    place = tmp_path / "in" / "stubborn" / "01_two"
    place.mkdir(parents=True)
    source = small_course / "solutions" / "01_two" / "01_two.ipynb"
    (place / "01_two.ipynb").write_bytes(edited(source, answer("twice", STUBBORN)))
    options = argparse.Namespace(jobs=2, seconds=60, cell_seconds=4, memory_gb=8)
    (one,) = grading.grade(tmp_path / "in", tmp_path / "out", options, small_course)
    assert one.points == 0 and "it ran for more than 4 s" in one.scores["twice_check"]["failed"]
    assert "stubborn" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@GROUP
@pytest.mark.slow
@pytest.mark.when_changed(*CODE)
def test_one_bad_submission_never_stops_the_others(small_course, tmp_path):
    source = small_course / "solutions" / "01_two" / "01_two.ipynb"
    place = tmp_path / "in"
    hostile = HOSTILE if os.environ.get(ALL) else {name: HOSTILE[name] for name in EVERY_TIME}
    for student, (apply, _, _) in hostile.items():
        (place / student / "01_two").mkdir(parents=True)
        (place / student / "01_two" / "01_two.ipynb").write_bytes(edited(source, apply))
    text = source.read_bytes()
    files = {
        "text_1_01_two.ipynb": b"dear professor",
        "empty_2_01_two.ipynb": b" \n",
        "cut_3_01_two.ipynb": text[:100],
        "list_4_01_two.ipynb": b"[1, 2]",
        "image_5_01_two.png": b"\x89PNG",
        "lost_6_09_other.ipynb": text,
        "odd_6_09_other.ipynb": nbformat.writes(new_notebook(cells=[new_code_cell("1 + 1")])).encode(),
        "=cmd_7_01_two.ipynb": text.decode().encode("utf-16"),
        "C:\\Users\\mia\\mia_8_01_two.ipynb": text.replace(b"Because.", "Weil es so ist, ähm.".encode("cp1252")),
        "again_9_01_two (1).ipynb": edited(source, answer("twice", "def twice(x):\n    return 2 * x")),
        "large_10_01_two.ipynb": b" " * (submissions.LARGEST + 1),
    }
    for name, content in files.items():
        (place / name).write_bytes(content)
    (place / "again_9_01_two.ipynb").write_bytes(edited(source, answer("twice", "def twice(x):\n    return 0")))
    os.utime(place / "again_9_01_two.ipynb", (1, 1))
    options = argparse.Namespace(jobs=2, seconds=90, cell_seconds=4, memory_gb=8)
    found = {one.file: one for one in grading.grade(place, tmp_path / "out", options, small_course)}
    assert len(found) == len(hostile) + len(files) + 1

    for student, (_, points, said) in hostile.items():
        one = found[f"{student}/01_two/01_two.ipynb"]
        assert said in "; ".join([one.state, *one.remarks, *gradebook._reasons(one)]), one
        if points is None:
            assert not one.scores and one.state != "graded", one
        elif student != "calls home" or confine.isolation():
            assert one.points == points and all(s["failed"] for s in one.scores.values() if s["points"] == 0), one
    reasons = {
        "text_1_01_two.ipynb": "not a notebook: no JSON",
        "empty_2_01_two.ipynb": "the file is empty",
        "cut_3_01_two.ipynb": "not a notebook: no JSON",
        "list_4_01_two.ipynb": "not a notebook: no nbformat in it",
        "image_5_01_two.png": "not a notebook: its name does not end in .ipynb",
        "odd_6_09_other.ipynb": "unknown exercise: its name must end in one of 01_two",
        "large_10_01_two.ipynb": "too large: 20 MB",
        "again_9_01_two.ipynb": "not graded: again_9_01_two (1).ipynb of the same student is newer",
    }
    for name, reason in reasons.items():
        assert reason in found[name].state and not found[name].scores, found[name]
    lost = found["lost_6_09_other.ipynb"]
    assert lost.points == FULL and lost.remarks[0].endswith("its cells are those of 01_two")
    assert found["=cmd_7_01_two.ipynb"].remarks == ["its encoding is utf-16, not UTF-8"]
    assert found["C:\\Users\\mia\\mia_8_01_two.ipynb"].remarks == ["its encoding is cp1252, not UTF-8"]
    for name in ("=cmd_7", "C:\\Users\\mia\\mia_8", "again_9"):
        one = next(one for file, one in found.items() if file.startswith(name) and one.state == "graded")
        assert one.points == FULL, one
    assert found["C:\\Users\\mia\\mia_8_01_two.ipynb"].student == "mia_8"

    table = (tmp_path / "out" / "grades.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(table) == len(found) + 1 and not any(line.startswith("=") for line in table)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(one.student in report for one in found.values()) and "twice_check" in report
    pages = {path.stem for path in (tmp_path / "out" / "feedback" / "01_two").glob("*.html")}
    assert pages == {one.student for one in found.values() if one.scores}

    # a second run grades only what was not finished: here what changes is one file
    (place / "text_1_01_two.ipynb").write_bytes(text)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place / "prints")
    seen = []
    original = grading._judge
    grading._judge = lambda request, *rest: seen.append(request["handed"]) or original(request, *rest)
    try:
        again = {one.file: one for one in grading.grade(place, tmp_path / "out", options, small_course)}
    finally:
        grading._judge = original
    assert again["text_1_01_two.ipynb"].points == FULL
    unfinished = [one for one in again.values() if one.student in ("another notebook", "list_4", "cut_3")]
    assert len(seen) == 1 + len(unfinished)


@GROUP
@pytest.mark.slow
@pytest.mark.when_changed(*CODE)
def test_a_zip_is_graded_like_a_folder(small_course, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("ann_1", "bob_2"):
        shutil.copy(small_course / "solutions" / "01_two" / "01_two.ipynb", tmp_path / "in" / f"{name}_x_01_two.ipynb")
    shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "in")
    options = argparse.Namespace(jobs=2, seconds=200, cell_seconds=60, memory_gb=8)
    found = grading.grade(tmp_path / "in.zip", tmp_path / "out", options, small_course)
    assert [(one.student, one.points) for one in found] == [("ann_1_x", FULL), ("bob_2_x", FULL)]


@GROUP
@pytest.mark.slow
def test_the_command_of_the_readme_grades_a_folder(tmp_path):
    place = tmp_path / "submissions"
    place.mkdir()
    shutil.copy(ROOT / "exercises" / "05_sam" / "05_sam.ipynb", place / "ann_1_05_sam.ipynb")
    command = [sys.executable, str(ROOT / "tools" / "exercises.py"), "grade", "submissions"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "1 graded, 0 not. See grades/grades.csv and report.html." in done.stdout, done
    assert "ann_1,05_sam,0,26," in (tmp_path / "grades" / "grades.csv").read_text(encoding="utf-8-sig")


def test_a_place_without_submissions_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        exercises.main(["grade", str(tmp_path / "nothing")])
    assert "submissions must be a folder or a zip file, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "it must be above 0, and finite, got 0"),
        (["--seconds", "-5"], "it must be above 0, and finite, got -5"),
        (["--seconds", "nan"], "it must be above 0, and finite, got nan"),
        (["--seconds", "x"], "argument --seconds: invalid float value: 'x'"),
        (["--cell-seconds", "0"], "it must be above 0, and finite, got 0"),
        (["--memory-gb", "inf"], "it must be above 0, and finite, got inf"),
        (["--due", "2026-11-27"], "it must have a time of day, such as 2026-11-27T23:59, got 2026-11-27"),
        (["--due", "tomorrow"], "it must be a moment such as 2026-11-27T23:59, got tomorrow"),
        (["--out", __file__], "--out must be a folder, or nothing yet"),
        (["--out", "grades"], "--out must lie outside of the submissions"),
        (["--out", "../submissions"], "--out must lie outside of the submissions"),
    ],
)
def test_settings_that_would_spoil_the_marks_are_named(tmp_path, monkeypatch, capsys, arguments, said):
    """No time gave no points, a day without a time was over at its beginning, and results would have been handed in."""
    monkeypatch.setattr(exercises.grading, "grade", lambda *_: pytest.fail("it grades"))
    (tmp_path / "submissions").mkdir()
    monkeypatch.chdir(tmp_path / "submissions")
    with pytest.raises(SystemExit, match="2"):
        exercises.main(["grade", ".", *arguments])
    assert said in capsys.readouterr().err


def test_a_moment_may_be_written_in_other_ways():
    for text in ("2026-11-27T23:59", "2026-11-27 23:59:00", "20261127T2359"):
        assert exercises.moment(text).isoformat() == "2026-11-27T23:59:00"


NAMED = [
    ("Doe Jane_123_assignsubmission_file_/05_sam.ipynb", "05_sam", "Doe Jane_123", 0),
    ("Doe Jane_123_assignsubmission_file_/Copy of 05_sam.ipynb", "05_sam", "Doe Jane_123", 0),
    ("Doe Jane_123_assignsubmission_file_/Max Mustermann_05_sam.ipynb", "05_sam", "Doe Jane_123", 0),
    ("Doe Jane_123_assignsubmission_file_05_sam.ipynb", "05_sam", "Doe Jane_123", 0),
    ("Doe Jane_123_assignsubmission_file_/exercises/05_sam/05_sam.ipynb", "05_sam", "Doe Jane_123", 0),
    ("doejane_12345_67890_05_sam.ipynb", "05_sam", "doejane_12345", 67890000),
    ("doejane_LATE_12345_68999_05_sam-1.ipynb", "05_sam", "doejane_12345", 68999001),
    ("Set 5_jdoe_attempt_2026-11-27-10-30-00_05_sam.ipynb", "05_sam", "jdoe", 20261127103000),
    ("Set 5_jdoe_attempt_2026-11-28-09-00-00_05_sam (1).ipynb", "05_sam", "jdoe", 20261128090000),
    ("Jane Doe - 05_sam.ipynb", "05_sam", "Jane Doe", 0),
    ("Jane Doe/Kopie von 05_sam.ipynb", "05_sam", "Jane Doe", 0),
    ("course-jdoe/exercises/05_sam/05_sam.ipynb", "05_sam", "course-jdoe", 0),
    ("submitted/mia/05_sam/05_sam.ipynb", "05_sam", "mia", 0),
    ("exercises/05_sam/05_sam.ipynb", "05_sam", "unnamed", 0),
    ("mia_05_SAM (2).ipynb", "05_sam", "mia", 2),
    ("mia/05_sam.ipynb.ipynb", "05_sam", "mia", 0),
    ("mia/05_sam_v2.ipynb", "05_sam", "mia", 2),
    ("mia/05_sam/answer.ipynb", "05_sam", "mia", 0),
    ("05_sam.ipynb", "05_sam", "unnamed", 0),
    ("mia_05_sam_final.ipynb", "05_sam", "mia", 0),
    ("mia_other.ipynb", "", "mia_other", 0),
    ("week5/Jane Doe_4001_assignsubmission_file_/05_sam.ipynb", "05_sam", "Jane Doe_4001", 0),
    ("submissions (1)/doejane_11_111_05_sam.ipynb", "05_sam", "doejane_11", 111000),
    ("doejane_11_111_work.zip/05_sam.ipynb", "05_sam", "doejane_11", 111000),
    ("gradebook_5/Set 5_jdoe_attempt_2026-11-27-10-30-00_05_sam.ipynb", "05_sam", "jdoe", 20261127103000),
    ("Pat O'Neill/05_sam.ipynb", "05_sam", "Pat O'Neill", 0),
    ("05_sam_Pat O'Neill.ipynb", "05_sam", "Pat O'Neill", 0),
    ("'=1+1'_05_sam.ipynb", "05_sam", "1+1", 0),
    ("05_sam_jane.ipynb", "05_sam", "jane", 0),
    ("05_sam - Jane Doe (2).ipynb", "05_sam", "Jane Doe", 2),
    ("05_sam_final_v2-Copy1.ipynb", "05_sam", "unnamed", 1),
    ("group_1_2_05_sam.ipynb", "05_sam", "group_1_2", 0),
    ("Kim_2026_11_27_05_sam.ipynb", "05_sam", "Kim_2026_11_27", 0),
    ("05-sam-jane/lectures/05_sam.ipynb", "05_sam", "05-sam-jane", 0),
]


@pytest.mark.parametrize(("name", "exercise", "student", "copy"), NAMED)
def test_names_as_platforms_write_them(name, exercise, student, copy):
    parts = submissions._parts(name)
    platform = "moodle" if "assignsubmission" in name else "canvas" if "doejane_" in name else ""
    assert submissions._who(parts, ["05_sam", "06_sam_results"]) == (exercise, student, copy, platform)


def test_a_long_name_takes_no_time():
    """A pattern that tries all ways to cut up the digits would not come back."""
    name = "mia_05_sam" + "1" * 200
    assert submissions._who([name + ".ipynb"], ["05_sam"])[:2] == ("05_sam", "mia")
    assert submissions._who(["_1" * 100 + "_05_sam.ipynb"], ["05_sam"])[0] == "05_sam"


CLASSES = [  # files in the order of their age -> the students that are graded
    (["week5/Jane_4001_assignsubmission_file_/05_sam.ipynb", "week5/Bob_4002_assignsubmission_file_/05_sam.ipynb",
      "week6/Jane_4001_assignsubmission_file_/06_sam_results.ipynb"], ["Bob_4002", "Jane_4001", "Jane_4001"]),
    (["a (1)/doejane_11_111_05_sam.ipynb", "a (2)/leebob_12_112_05_sam.ipynb"], ["doejane_11", "leebob_12"]),
    (["g_5/Set_5_a_kim_attempt_2026-11-27-10-30-00_05_sam.ipynb", "g_5/Set_5_b_kim_attempt_2026-11-27-10-30-00_1.ipynb",
      "g_6/Set_5_c_attempt_2026-11-27-10-30-00_05_sam.ipynb"], ["a_kim", "b_kim", "c"]),
    ([f"{s}_{who}_attempt_2026-11-27-10-30-00_{name}.ipynb" for s, name in (("Ex 5", "05_sam"), ("Ex 6", "06_sam_results"))
      for who in ("a_kim", "b_kim")], ["a_kim", "a_kim", "b_kim", "b_kim"]),
    (["Ex 5_kim_attempt_2026-11-27-10-30-00_05_sam.ipynb", "Ex 5_kim_attempt_2026-11-28-10-30-00_05_sam.ipynb"], ["kim"]),
    (["Group A/jane/05_sam.ipynb", "Group A/bob/05_sam.ipynb", "Group B/ann/05_sam.ipynb"], ["ann", "bob", "jane"]),
    (["Group A/jane/05_sam.ipynb", "Group A/bob/05_sam.ipynb", "B/ann/05_sam.ipynb", "C/cy/05_sam.ipynb"],
     ["B", "C", "Group A bob", "Group A jane"]),
    (["A/kim/05_sam.ipynb", "A/lee/05_sam.ipynb", "B/kim/05_sam.ipynb", "B/ann/05_sam.ipynb"],
     ["A kim", "B kim", "ann", "lee"]),
    (["Mon/mia_05_sam.ipynb", "Mon/bob_05_sam.ipynb", "Tue/05_sam_ann.ipynb"], ["ann", "bob", "mia"]),
    (["w5/jane/05_sam.ipynb", "w5/bob/05_sam.ipynb", "w6/jane/06_sam_results.ipynb", "w6/bob/06_sam_results.ipynb"],
     ["bob", "bob", "jane", "jane"]),
    (["jane/05_sam.ipynb", "jane/old/05_sam.ipynb", "bob/05_sam.ipynb"], ["bob", "jane"]),
    (["05_sam_jane.ipynb", "05_sam_bob.ipynb", "05_sam - Ann Lee.ipynb"], ["Ann Lee", "bob", "jane"]),
    (["hw_05_sam_jane.ipynb", "hw_05_sam_bob.ipynb"], ["bob", "jane"]),
    (["05_sam.ipynb", "05_sam (1).ipynb", "ann_05_sam.ipynb"], ["ann", "unnamed 05_sam", "unnamed 05_sam _1"]),
    (["group_1_2_05_sam.ipynb", "group_1_3_05_sam.ipynb"], ["group_1_2", "group_1_3"]),
    (["group_1_201_05_sam.ipynb", "group_1_202_05_sam.ipynb", "group_1_203_05_sam.ipynb"],
     ["group_1_201", "group_1_202", "group_1_203"]),
    (["jane/05_sam/05_sam.ipynb", "jane/06_sam_results/06_sam_results.ipynb"], ["jane", "jane"]),
    (["export_2026_1127/jane/05_sam.ipynb", "export_2026_1127/bob/05_sam.ipynb"], ["bob", "jane"]),
    (["Jane_1_assignsubmission_file_/my_05_sam.ipynb", "Jane_1_assignsubmission_file_/my_06_sam_results.ipynb"],
     ["Jane_1", "Jane_1"]),
    (["all/05_sam.zip/jane_05_sam.ipynb", "all/05_sam.zip/bob_05_sam.ipynb"], ["bob", "jane"]),
    (["jane/05_sam.ipynb", "bob.ZIP/05_sam.ipynb", "jane.zip/06_sam_results.ipynb"], ["bob", "jane", "jane"]),
]  # fmt: skip


@pytest.mark.parametrize(("names", "students"), CLASSES, ids=lambda value: value[0])
def test_everybody_of_a_class_is_graded_once(names, students, tmp_path):
    for number, name in enumerate(names):
        notebook_of(tmp_path / name)
        os.utime(tmp_path / name, (number, number))
    found = submissions.collect(tmp_path, ["05_sam", "06_sam_results"])
    assert len(found) == len(names)
    graded = [one for one in found if one.state == "graded"]
    unknown = [one for one in found if one.state.startswith("unknown exercise")]
    assert sorted(one.student for one in [*graded, *unknown]) == students, found


def test_names_that_make_one_student_of_a_class_are_refused(tmp_path):
    for number in range(6):
        notebook_of(tmp_path / "hw" / f"my_05_sam ({number}).ipynb")
    with pytest.raises(SystemExit, match="05_sam: 6 of 6 notebooks would count as those of one student, 'hw'"):
        submissions.collect(tmp_path, ["05_sam"])


def test_in_a_copy_of_the_course_what_the_student_wrote_counts(tmp_path, small_course):
    solution = small_course / "solutions" / "01_two" / "01_two.ipynb"
    mine = edited(small_course / "exercises" / "01_two" / "01_two.ipynb", answer("twice", "def twice(x): return 2 * x"))
    lecture = nbformat.writes(new_notebook(cells=[new_code_cell("1")])).encode()
    files = {
        "jane/exercises/01_two/01_two.ipynb": mine,
        "jane/lectures/01_two.ipynb": lecture,
        "jane/solutions/01_two/01_two.ipynb": solution.read_bytes(),
        "bob/exercises/01_two/01_two.ipynb": mine,
        "bob/exercises/01_two/x_01_two.ipynb": solution.read_bytes(),
        "ann/solutions/01_two/01_two.ipynb": solution.read_bytes(),
        "cy/exercises/01_two/01_two.ipynb": mine,
        "cy/exercises/01_two/01_two (1).ipynb": mine[:100],
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (len(name), len(name)))
    known = [{"01_two": value} for value in grading._known("01_two", small_course)]
    found = {one.file: one.state for one in submissions.collect(tmp_path, ["01_two"], *known)}
    assert {name for name, state in found.items() if state == "graded"} == {
        f"{name}/exercises/01_two/01_two.ipynb" for name in ("jane", "bob", "cy")
    }
    assert found["jane/lectures/01_two.ipynb"].endswith("of the same student counts, and this is a lecture")
    assert found["bob/exercises/01_two/x_01_two.ipynb"].endswith("counts, and this is the published solution")
    assert found["ann/solutions/01_two/01_two.ipynb"] == "not graded: the published solution, unchanged"
    assert "no JSON" in found["cy/exercises/01_two/01_two (1).ipynb"]


ODD = {  # a change of a notebook's JSON that no program makes, and people's scripts do
    "a string among the cells": lambda nb: nb["cells"].insert(0, "x"),
    "metadata null": lambda nb: nb["cells"][0].update(metadata=None),
    "source null": lambda nb: nb["cells"].append({"cell_type": "code", "metadata": {}, "source": None}),
    "marks a string": lambda nb: nb["cells"][0]["metadata"].update(nbgrader="x"),
    "grade id a list": lambda nb: nb["cells"][0]["metadata"].update(nbgrader={"grade_id": ["a"]}),
    "id a list": lambda nb: nb["cells"][0].update(id=["a"]),
    "attachments a string": lambda nb: nb["cells"][-1].update(attachments="x", outputs=None),
    "a picture of another type": lambda nb: nb["cells"][0].update(outputs=[{"data": {"image/png": 3}}, 4]),
    "a version with a point": lambda nb: nb.update(nbformat=4.0),
    "metadata of the notebook null": lambda nb: nb.update(metadata=None),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_notebook_is_read_and_repaired_as_far_as_it_goes(name, small_course):
    import feedback

    book = json.loads((small_course / "solutions" / "01_two" / "01_two.ipynb").read_text(encoding="utf-8"))
    ODD[name](book)
    content = json.dumps(book).encode()
    sheet = assignments.blank(nbformat.read(small_course / "solutions" / "01_two" / "01_two.ipynb", as_version=4))
    assert submissions._by_cells(content, {"01_two": {"twice", "twice_check"}}) == "01_two"
    handed, _ = submissions.read(content)
    notebook, _ = submissions.repair(handed, sheet)
    assert "len('a long line')" in cell_of(notebook, "twice").source and feedback.pictures(handed, sheet) == []


def test_no_cells_at_all_are_a_notebook_without_an_exercise(tmp_path):
    notebook_of(tmp_path / "mia" / "homework.ipynb")
    (tmp_path / "mia" / "homework.ipynb").write_text('{"nbformat": 4, "nbformat_minor": 5, "cells": null}')
    (one,) = submissions.collect(tmp_path, ["01_two"], {"01_two": {"twice", "twice_check"}})
    assert one.state.startswith("unknown exercise")


def test_a_member_that_cannot_be_read_and_a_name_in_other_letters_hinder_nobody(tmp_path):
    import zipfile

    path, inner = tmp_path / "in.zip", tmp_path / "inner.zip"
    good = nbformat.writes(new_notebook()).encode()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("01_two/01_two.ipynb", good)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("ann/01_two.ipynb", "bad/01_two.ipynb"):
            archive.writestr(name, good)
        archive.write(inner, "zoe/work.zip")
        archive.writestr("cut/work.zip", inner.read_bytes()[:80])
    content = bytearray(path.read_bytes())
    content[content.index(b"bad/01_two.ipynb") + 30] ^= 1
    path.write_bytes(content)
    found = {one.file: one for one in submissions.collect(path, ["01_two"])}
    assert found["ann/01_two.ipynb"].state == found["zoe/work.zip/01_two/01_two.ipynb"].state == "graded"
    assert found["zoe/work.zip/01_two/01_two.ipynb"].student == "zoe"
    assert found["bad/01_two.ipynb"].state.startswith("it cannot be read: BadZipFile: Bad CRC-32")
    assert found["cut/work.zip"].state.startswith("not a notebook")

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"J\xfcrgen_01_two.ipynb")).write_bytes(good)
    path.rename(tmp_path / "in" / "week.zip")
    found = submissions.collect(tmp_path / "in", ["01_two"])
    assert {one.student for one in found if one.state == "graded"} == {"Jürgen", "ann", "zoe"}
    gradebook.merge(found, tmp_path / "grades.csv")
    assert "Jürgen" in (tmp_path / "grades.csv").read_text(encoding="utf-8-sig")


def test_what_lies_beside_a_notebook_is_its_students(tmp_path):
    files = ["Jane_1/09_two.ipynb", "Jane_1/points.csv", "Jane_1/data/x.csv", "Bob_2/09_two.ipynb", "Bob_2/big.csv"]
    for name in files:
        notebook_of(tmp_path / name)
    (tmp_path / "Bob_2" / "big.csv").write_bytes(b" " * (submissions.BESIDE + 1))
    found = {one.file: one for one in submissions.collect(tmp_path, ["09_two"])}
    assert found["Jane_1/09_two.ipynb"].beside.keys() == {"points.csv", "data/x.csv"}
    assert "can read it" in found["Jane_1/points.csv"].state and found["Bob_2/09_two.ipynb"].beside == {}
    flat = tmp_path / "flat"
    for name in ("doejane_11_111_09_two.ipynb", "doejane_11_112_points.csv", "leebob_12_113_09_two.ipynb"):
        notebook_of(flat / name)
    found = {one.file: list(one.beside) for one in submissions.collect(flat, ["09_two"])}
    assert found["doejane_11_111_09_two.ipynb"] == ["points.csv"] and found["leebob_12_113_09_two.ipynb"] == []


def notebook_of(path, cells=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(cells or new_notebook(), path)


def test_an_export_inside_a_folder_and_decomposed_letters_are_one_class(tmp_path):
    for name in ("Zoe\u0308 Doe_1_assignsubmission_file_", "Max Doe_2_assignsubmission_file_"):
        notebook_of(tmp_path / "export 2026" / name / "05_sam.ipynb")
    found = submissions.collect(tmp_path, ["05_sam"])
    assert sorted(one.student for one in found) == ["Max Doe_2", "Zo\u00eb Doe_1"]


def test_of_several_copies_the_newest_counts_and_of_equally_old_ones_the_higher_number(tmp_path):
    for name, when in [("05_sam.ipynb", 5), ("05_sam (2).ipynb", 5), ("05_sam (1).ipynb", 5)]:
        notebook_of(tmp_path / "mia" / name)
        os.utime(tmp_path / "mia" / name, (when, when))
    found = {Path(one.file).name: one.state for one in submissions.collect(tmp_path, ["05_sam"])}
    assert [name for name, state in found.items() if state == "graded"] == ["05_sam (2).ipynb"]


def test_a_notebook_with_another_name_is_known_by_its_cells(tmp_path):
    notebook_of(tmp_path / "mia" / "homework.ipynb", good_set())
    (one,) = submissions.collect(tmp_path, ["01_two"], {"01_two": {"twice", "twice_check"}})
    assert (one.exercise, one.student, one.state) == ("01_two", "mia", "graded")
    assert one.remarks == ["its name does not say which exercise it is; its cells are those of 01_two"]


# ---------------------------------------------------------------- the table of a class


def graded_one(points=3.0, written=None):
    scores = {
        "twice_check": {"points": points, "of": 3.0, "failed": "" if points else "wrong"},
        "twice_why": {"points": written, "of": 2.0, "failed": "", "written": True},
    }
    return submissions.Submission("mia.ipynb", "mia", "01_two", scores=scores)


def rows_of(path):
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def typed_into(path, **values):
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = lines[0].split(",")
    row = lines[1].split(",")
    for name, value in values.items():
        row[names.index(name.replace("_written", " (written)"))] = value
    path.write_text("\n".join([lines[0], ",".join(row)]) + "\n", encoding="utf-8-sig")


def test_points_typed_into_the_table_are_kept_and_merged(tmp_path):
    path = tmp_path / "grades.csv"
    gradebook.merge([graded_one(points=0.0)], path)
    typed_into(path, twice="2", twice_why_written="1.5")
    for _ in range(2):  # and again, when nothing new was typed
        one = graded_one(points=0.0)
        gradebook.merge([one], path)
        (row,) = rows_of(path)
        assert (row["twice"], row["twice by the checks"], row["twice_why (written)"]) == ("2", "0", "1.5")
        assert (row["points"], row["of"], row["by hand"]) == ("3.5", "5", "0")
        assert one.remarks == ["twice: 2 by hand, 0 by the checks"]
    gradebook.merge([graded_one(points=3.0)], path)  # handed in again: what was typed still counts
    assert rows_of(path)[0]["points"] == "3.5"


def test_points_that_cannot_be_are_named_and_nothing_is_lost(tmp_path):
    path = tmp_path / "grades.csv"
    gradebook.merge([graded_one()], path)
    typed_into(path, twice_why_written="20")
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=r"mia, twice_why \(written\) must be a number from 0 to 2, got '20'"):
        gradebook.merge([graded_one()], path)
    assert path.read_bytes() == before


def test_each_mark_below_the_maximum_has_a_reason_in_the_table_and_the_days_are_counted(tmp_path):
    from datetime import datetime

    path, one = tmp_path / "grades.csv", graded_one(points=0.0)
    one.when = datetime(2026, 11, 29, 12).timestamp()
    gradebook.merge([one], path, datetime(2026, 11, 27, 12))
    (row,) = rows_of(path)
    assert row["remarks"] == "twice: wrong" and row["days late"] == "2"
    for late, said in ((99.7, "99.7"), (123, "123"), (0.05, "0.05"), (-1, "0")):
        one = graded_one(points=0.0)
        one.when = datetime(2026, 11, 27, 12).timestamp() + 86400 * late
        gradebook.merge([one], path, datetime(2026, 11, 27, 12))
        assert rows_of(path)[0]["days late"] == said


def test_a_blank_answer_that_is_handed_in_again_is_open_and_what_was_typed_for_it_counts(tmp_path):
    path, blank = tmp_path / "grades.csv", graded_one(written=0.0)
    blank.scores["twice_why"]["failed"] = "nothing was written"
    gradebook.merge([blank], path)
    assert rows_of(path)[0]["twice_why (written)"] == "0"
    later = graded_one()
    gradebook.merge([later], path)
    assert later.by_hand == 2 and later.remarks == [] and rows_of(path)[0]["twice_why (written)"] == ""
    rows = [
        {name: value for name, value in row.items() if name != "twice_why (written) by the checks"}
        for row in (gradebook.merge([copy.deepcopy(blank)], path), rows_of(path))[1]
    ]  # as an earlier version wrote it
    gradebook.save(path, [list(rows[0]), *(list(row.values()) for row in rows)])
    gradebook.merge([earlier := graded_one()], path)
    assert earlier.by_hand == 2
    gradebook.merge([copy.deepcopy(blank)], path)
    typed_into(path, twice_why_written="1")
    again = graded_one()
    gradebook.merge([again], path)
    assert again.points == 4 and not again.by_hand


def test_rows_that_are_not_graded_this_time_stay_with_what_was_typed_into_them(tmp_path):
    path, other = tmp_path / "grades.csv", graded_one()
    gradebook.merge([graded_one()], path)
    typed_into(path, twice_why_written="1.5")
    other.student, other.file = "ben", "ben.ipynb"
    broken = submissions.Submission("mia.ipynb", "mia", "01_two", state="not a notebook: no JSON")
    for found in ([other], [broken], [other, broken]):
        gradebook.merge(found, path)
        kept = next(row for row in rows_of(path) if row["state"] == gradebook.KEPT and row["student"] == "mia")
        assert (kept["twice_why (written)"], kept["points"]) == ("1.5", "3")
    one = graded_one()
    gradebook.merge([one], path)
    assert one.points == 4.5 and [row["student"] for row in rows_of(path)] == ["mia", "ben"]


def test_columns_of_ones_own_and_names_that_a_spreadsheet_changed_are_kept(tmp_path):
    path, one = tmp_path / "grades.csv", graded_one()
    one.student, one.file = "007", "007_01_two.ipynb"
    late = submissions.Submission("old.ipynb", "007", "01_two", state="not graded: 007_01_two.ipynb is newer")
    gradebook.merge([copy.deepcopy(one), copy.deepcopy(late)], path)
    table = [
        row | {"student": "7", "my notes": note} for row, note in zip(rows_of(path), ("asked", "in time"), strict=True)
    ]
    table[0]["twice_why (written)"] = "2"
    gradebook.save(path, [list(table[0]), *(list(row.values()) for row in table)])
    for _ in range(2):
        gradebook.merge([copy.deepcopy(one), copy.deepcopy(late)], path)
        rows = rows_of(path)
        assert [row["my notes"] for row in rows] == ["asked", "in time"] and len(rows) == 2
        assert (rows[0]["student"], rows[0]["points"]) == ("'007", "5")


def test_a_table_that_cannot_be_read_stops_grading_before_anything_is_done(tmp_path, small_course):
    notebook_of(tmp_path / "in" / "mia" / "01_two.ipynb", good_set())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "grades.csv").write_text("name,points\nmia,1\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="a column must be named student"):
        grading.grade(tmp_path / "in", tmp_path / "out", argparse.Namespace(), small_course)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["grades.csv"]


def test_different_points_in_two_rows_of_one_student_are_named(tmp_path):
    path = tmp_path / "grades.csv"
    gradebook.merge([graded_one()], path)
    typed_into(path, twice_why_written="1")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, lines[1].replace(",1,", ",2,")]), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"mia, twice_why \(written\) must be the same in all rows .* '1' and '2'"):
        gradebook.merge([graded_one()], path)


def test_a_name_that_a_spreadsheet_would_compute_or_round_keeps_its_points(tmp_path):
    for number, name in enumerate(("=cmd", "'=cmd", "''@x", "+1", "007", "'007", "1E5", "1234567890123456789")):
        path, one = tmp_path / f"{number}.csv", graded_one()
        one.student = name
        gradebook.merge([copy.deepcopy(one)], path)
        assert rows_of(path)[0]["student"].startswith("'")
        typed_into(path, twice_why_written="1")
        gradebook.merge([one], path)
        assert one.points == 4


def test_a_name_that_is_a_number_stays_while_another_set_is_graded_and_platforms_get_it_plain(tmp_path):
    path, one, other = tmp_path / "grades.csv", graded_one(), graded_one()
    one.student, one.file, other.exercise, other.file = "007", "007/01_two.ipynb", "02_next", "mia/02_next.ipynb"
    for found in ([one], [other], [other]):
        gradebook.merge(copy.deepcopy(found), path)
        assert [row["student"] for row in rows_of(path) if row["exercise"] == "01_two"] == ["'007"]
    gradebook.save(path, [["ID"], ["10740000000123456"]], people=False)
    assert path.read_bytes() == b"ID\r\n10740000000123456\r\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_no_text_of_a_student_is_a_formula_whatever_separates_the_cells(separator, tmp_path):
    path, one = tmp_path / "grades.csv", graded_one(0.0)
    one.file, one.scores["twice_check"]["failed"] = "x\t=1+1/01_two.ipynb", "ValueError: a;=cmd|' /C calc'!A0;;@SUM(1)"
    gradebook.merge([one], path)
    cells = [cell for line in path.read_text(encoding="utf-8-sig").splitlines() for cell in line.split(separator)]
    assert not [cell for cell in cells if cell.strip(' "').startswith(("=", "+", "-", "@"))]
    (row,) = gradebook._last(path, [])
    assert row["file"] == one.file and row["remarks"] == "twice: " + one.scores["twice_check"]["failed"]
