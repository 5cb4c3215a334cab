"""The grader: right answers keep their marks whatever else is in a notebook, and nothing in one buys marks."""

import argparse
import array
import collections
import contextlib
import copy
import decimal
import fractions
import io
import json
import os
import site
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CODE
from nbformat.v4 import new_code_cell, new_markdown_cell

from due import ALL

assignments = pytest.importorskip("assignments", reason="nbgrader is missing: pip install -e '.[instructor]'")
import confine  # noqa: E402
import exercises  # noqa: E402
import feedback  # noqa: E402
import gradebook  # noqa: E402
import grading  # noqa: E402
import judging  # noqa: E402
import plain  # noqa: E402
import submissions  # noqa: E402
from notebooks import ROOT  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
SET = "solutions/05_sam"


def slow(test):
    return pytest.mark.slow(pytest.mark.when_changed(*CODE, SET)(test))


KEPT = (
    "title imports climb-text climb climb-check balls-text climb-inf climb-inf-check why-text accumulated-why".split()
)
CLIMB = """def climb(grads, rho):
    length = torch.sqrt(sum((g**2).sum() for g in grads.values()))
    return {name: rho * g / length if length else torch.zeros_like(g) for name, g in grads.items()}"""
INF = "def climb_inf(grads, rho):\n    return {name: rho * torch.sign(g) for name, g in grads.items()}"
STUB = 'raise NotImplementedError("write your code here, then delete this line")'
STUBBED = f"""def climb(grads, rho):
    \"\"\"The step of length rho uphill. grads: name -> tensor. Returns name -> tensor of the same shapes.\"\"\"
    {STUB}"""
FULL = {"climb": 3, "climb_inf": 1}


def cell(notebook, name):
    return next(c for c in notebook.cells if c.id == name)


def solved(climb=CLIMB, inf=INF, *, first="", own="", last="", then=None):
    """The sheet with these answers, and cells of the student's own at the start, before the first part, at the end."""

    def make(sheet):
        notebook = copy.deepcopy(sheet)
        cell(notebook, "climb").source, cell(notebook, "climb-inf").source = climb, inf
        cell(notebook, "accumulated-why").source = "It bounces."
        at = [c.id for c in notebook.cells].index("climb-text") + 1
        notebook.cells[at:at] = [new_code_cell(own)] if own else []
        notebook.cells[0:0] = [new_code_cell(first)] if first else []
        notebook.cells += [new_code_cell(last)] if last else []
        if then:
            then(notebook)
        return notebook

    return make


def reversed_(notebook):
    notebook.cells.reverse()


def bare(notebook):
    for one in notebook.cells:
        one.metadata = {}
        one.pop("id", None)
    notebook.nbformat_minor = 4


def without_imports(notebook):
    notebook.cells.remove(cell(notebook, "imports"))


def in_a_cell_of_its_own(notebook):
    notebook.cells.append(new_code_cell(cell(notebook, "climb").source))
    cell(notebook, "climb").source = STUBBED


def more_imports(notebook):
    cell(notebook, "imports").source = (
        "import math as maths\nset_05 = None\n" + cell(notebook, "imports").source.splitlines()[0]
    )


def written_below(notebook):
    cell(notebook, "accumulated-why").source = "*Write your answer here.*"
    notebook.cells.append(new_markdown_cell("It <script>alert(1)</script> [bounces](javascript:alert(2))."))


def written_nothing(notebook):
    cell(notebook, "accumulated-why").source = "*Write your answer here.*"


NOISY = """import logging, sys, warnings
print("hello")
warnings.warn("this is deprecated")
""" + CLIMB.replace(
    "    length",
    '    warnings.warn("loud"); logging.warning("loud"); print(1); print(2, file=sys.stderr)\n    length',
    1,
)
LINES = b'{"begin": 99}\n[1]\n{"end": 1, "log": [{"returned": null}]}\n{"replaced": []}\n{"state": "graded"}\n'
FORGE = f"""import os
for number in range(3, 64):
    try:
        os.write(number, {LINES!r})
    except OSError:
        pass
def climb(grads, rho):
    return 0"""
REACH = (
    """import pathlib, sys
home = pathlib.Path.home()
touched = []
for path in [home.parent / "answer.json", home.parent / "handed.ipynb", pathlib.Path(sys.argv[0])]:
    try:
        path.write_text("{}")
        touched.append(path)
    except OSError:
        pass
for path in [*home.parent.parent.glob("course*/*"), *home.parent.parent.glob("grade*/*")]:
    try:
        path.unlink()
    except OSError:
        pass
"""
    + "def climb(grads, rho):\n    return 0"
)
PATCH = """import numpy as np
import sam_lite.checks, sam_lite.checks.set_05
sam_lite.checks._problem = lambda *a: ""
sam_lite.checks.expect = sam_lite.checks.set_05.expect = lambda *a, **k: None
np.allclose = lambda *a, **k: True
def climb(grads, rho):
    return 0"""
LOOK = """def climb(grads, rho):
    import sys
    return sys._getframe(2).f_locals.get("right")"""
CONSTANT = """def climb(grads, rho):
    return {"weight": torch.tensor([[0.3 / 13, 0.0], [0.0, 0.4 / 13]]), "bias": torch.tensor([1.2 / 13, 0.0])}"""
NONE = {"climb": 0, "climb_inf": 1}
CASES = {  # student -> (notebook, points of the checks, what is said somewhere)
    "right": (solved(), FULL, ""),
    "warnings and prints": (solved(NOISY), FULL, ""),
    "a picture below fails": (solved(last="raise ValueError('my own experiment')"), FULL, ""),
    "helpers with names of the course": (
        solved(own="def norm(x): return 0\ndef add(*a): return 1\ndef expect(*a): raise ValueError\nset_05 = 3"),
        FULL,
        "",
    ),
    "a helper that an answer uses": (
        solved("def climb(g, rho):\n    return scaled(g, rho)", own=CLIMB.replace("def climb", "def scaled")),
        FULL,
        "",
    ),
    "a name of the check in a tuple": (solved(own="rho, grads, right = 1, 2, 3\nprint(rho)"), FULL, ""),
    "imports first": (solved(first="import torch as t\nimport math"), FULL, ""),
    "imports deleted": (solved(then=without_imports), FULL, ""),
    "reversed": (solved(then=reversed_), FULL, "graded in the order of the sheet"),
    "metadata lost": (solved(then=bare), FULL, ""),
    "a comment above": (solved("# mine\n" + CLIMB, "\n# too\n" + INF, then=bare), FULL, ""),
    "a cell of one's own": (solved(then=in_a_cell_of_its_own), FULL, "answered in a cell of its own"),
    "a wrong trial at the end": (solved(last="def climb(grads, rho):\n    return 0\nclimb({}, 1)"), FULL, ""),
    "a wrong trial, metadata lost": (solved(last="def climb(grads, rho):\n    return 0", then=bare), FULL, ""),
    "an import added to the given ones": (
        solved(CLIMB.replace("torch.sqrt", "maths.sqrt"), then=more_imports),
        FULL,
        "",
    ),
    "float64 in, float32 out": (solved(CLIMB.replace("rho * g / length", "(rho * g / length).float()")), FULL, ""),
    "written below": (solved(then=written_below), FULL, "below the cell was taken"),
    "nothing written": (solved(then=written_nothing), FULL, "nothing was written"),
    "exits": (solved("exit()\nimport os; os._exit(0)"), NONE, "it ended the process, as exit() does"),
    "kills": (solved("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), NONE, ""),
    "endless": (solved("def climb(grads, rho):\n    while True: pass"), NONE, "it ran for more than 4 s"),
    "syntax": (solved("def climb(grads, rho)\n    return 1"), NONE, "SyntaxError"),
    "stub": (solved(STUBBED), NONE, "NotImplementedError: write your code here"),
    "patches the checks": (solved(PATCH), NONE, "its code replaced numpy.allclose, sam_lite.checks._problem"),
    "looks at the frame": (solved(LOOK), NONE, "an answer looks at what calls it"),
    "one constant": (solved(CONSTANT), NONE, ""),
    "forges lines": (solved(FORGE), NONE, ""),
    "reaches out": (solved(REACH), NONE, ""),
    "returns a claim": (
        solved("class Same:\n    def __eq__(self, other): return True\n" + CLIMB.split(":")[0] + ": return Same()"),
        NONE,
        "a dict was expected",
    ),
    "edits the check": (
        solved(
            "def climb(grads, rho):\n    return 0",
            then=lambda nb: cell(nb, "climb-check").update(source="print('right')"),
        ),
        NONE,
        "the check climb_check was changed",
    ),
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course with two parts and the question of set 5."""
    folder = tmp_path_factory.mktemp("course")
    notebook = nbformat.read(ROOT / SET / "05_sam.ipynb", as_version=4)
    notebook.cells = [one for one in notebook.cells if one.id in KEPT]
    target = folder / "solutions" / "05_sam"
    target.mkdir(parents=True)
    nbformat.write(notebook, target / "05_sam.ipynb")
    return folder


@pytest.fixture(scope="module")
def sheet(course):
    return assignments.blank(nbformat.read(course / "solutions" / "05_sam" / "05_sam.ipynb", as_version=4))


ALWAYS = {
    "right",
    "warnings and prints",
    "imports deleted",
    "reversed",
    "written below",
    "exits",
    "syntax",
    "forges lines",
}
ALL_OF_THEM = bool(os.environ.get(ALL))  # every night
OPTIONS = {"jobs": 2, "seconds": 120, "cell_seconds": 4, "memory_gb": 8, "seed": 7}


@pytest.fixture(scope="module")
def graded(course, sheet, tmp_path_factory):
    place, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for student, (make, _, _) in CASES.items():
        if student not in ALWAYS and not ALL_OF_THEM:
            continue
        (place / student).mkdir()
        nbformat.write(make(sheet), place / student / "05_sam.ipynb")
    found = grading.grade(place, out, argparse.Namespace(**OPTIONS), course)
    return {one.student: one for one in found}, out


@slow
@pytest.mark.parametrize(
    "student", [pytest.param(one, marks=[] if one in ALWAYS else pytest.mark.nightly) for one in CASES]
)
def test_marks_are_right_and_have_a_reason(graded, student):
    (found, out), (_, due, said) = graded, CASES[student]
    one = found[submissions._who([student, "05_sam.ipynb"], ["05_sam"])[1]]
    assert one.state == "graded", one
    points = {name.removesuffix("_check"): s["points"] for name, s in one.scores.items() if name.endswith("_check")}
    everything = "; ".join([*one.remarks, *gradebook._reasons(one)])
    assert points == due, everything
    assert said in everything, everything
    assert all(s["failed"] for s in one.scores.values() if s["points"] == 0), one.scores
    page = (out / "feedback" / "05_sam" / f"{one.student}.html").read_text(encoding="utf-8")
    most = 9 if student == "nothing written" else 4  # a written answer counts once it has points, here 0
    assert (
        f"{sum(due.values())} of {most} points" in page
        and "<script>alert" not in page
        and "javascript:alert" not in page
    )
    if student == "nothing written":
        assert one.scores["accumulated_why"]["points"] == 0
    else:
        assert one.scores["accumulated_why"]["points"] is None


@slow
def test_private_checks_lower_the_marks_and_are_not_shown(course, sheet, tmp_path, monkeypatch):
    """A function that is right in the notebook's cases, and not in one of the instructor's; named as in the guide."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private").mkdir()
    secret = "def climb(draw, climb):\n    e = climb({'x': 1e30 * draw.normal(3)}, 0.5)['x']\n"
    secret += "    assert e.norm() < 0.6, 'huge gradients'\n"
    (tmp_path / "private" / "set_05.py").write_text(secret, encoding="utf-8")
    place = tmp_path / "in" / "mia"
    place.mkdir(parents=True)
    nbformat.write(
        solved(CLIMB.replace("    return", "    rho = 1.0 if length > 1e20 else rho\n    return"))(sheet),
        place / "05_sam.ipynb",
    )
    options = argparse.Namespace(**OPTIONS | {"private": Path("private")})
    (one,) = grading.grade(tmp_path / "in", tmp_path / "out", options, course)
    assert one.scores["climb_check"]["points"] == 0 and one.scores["climb_inf_check"]["points"] == 1
    assert "wrong in one that is not shown" in one.scores["climb_check"]["failed"]
    assert one.hidden == ["climb_check, hidden: AssertionError: huge gradients"]
    shown = (tmp_path / "out" / "feedback" / "05_sam" / "mia.html").read_text(encoding="utf-8")
    assert "huge gradients" not in shown
    assert "huge gradients" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("05_sam.py", "", "05_sam.py: its name must be one of set_01, .*set_09, with .py. Nothing was graded"),
        (
            "set_05.py",
            "def clim(draw, climb): pass",
            "clim must have the name of a check of this set, climb, .*or begin",
        ),
        ("set_05.py", "def climb(draw, climb)", "set_05.py cannot be run: SyntaxError: .*Nothing was graded"),
        ("notes.txt", "", "--private must be a folder with files like set_05.py, and .* has none"),
    ],
)
def test_a_private_check_that_would_never_run_is_refused(tmp_path, name, text, said):
    private, options = tmp_path / "private", argparse.Namespace(**OPTIONS | {"private": tmp_path / "private"})
    private.mkdir()
    (private / name).write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=said):
        grading.grade(tmp_path, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_private_check_may_import_and_have_helpers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from numpy.testing import assert_allclose\ndef _far(x): pass\ndef climb(draw, climb): _far(1)\n"
    (tmp_path / "set_05.py").write_text(text, encoding="utf-8")
    assert grading.private_checks(Path(".")) == tmp_path.resolve()


def test_an_interrupt_ends_the_grading_and_not_after_the_whole_class(course, sheet, tmp_path, monkeypatch, capsys):
    """One is interrupted; of the others at most the one is graded that has been taken up meanwhile."""
    stopped, begun = threading.Event(), []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopped.set()
            super().shutdown(wait=wait)

    def grade_one(one, *_):
        begun.append(one.student)
        if len(begun) == 1:
            raise KeyboardInterrupt
        assert stopped.wait(60)

    monkeypatch.setattr(grading, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(grading, "grade_one", grade_one)
    for name in ("ada", "emmy", "mia", "sofia"):
        (tmp_path / "in" / name).mkdir(parents=True)
        nbformat.write(sheet, tmp_path / "in" / name / "05_sam.ipynb")
    monkeypatch.setattr(grading.grade, "__defaults__", (course,))
    command = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert exercises.main(command) == 130 and len(begun) <= 2
    assert "Stopped. What is graded is kept in " in capsys.readouterr().out
    assert not (tmp_path / "out" / "grades.csv").exists()


def test_grading_again_depends_on_all_that_marks_depend_on(tmp_path):
    sheet = tmp_path / "sheet.ipynb"
    sheet.write_text("{}", encoding="utf-8")
    base = {"seed": 1, "seconds": 1, "cell_seconds": 1, "memory_gb": 1, "private": None}
    made = {grading.fixed_part("05_sam", sheet, argparse.Namespace(**base | {name: 2})) for name in list(base)[:4]}
    made.add(grading.fixed_part("05_sam", sheet, argparse.Namespace(**base)))
    sheet.write_text("{ }", encoding="utf-8")
    made.add(grading.fixed_part("05_sam", sheet, argparse.Namespace(**base)))
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "set_05.py").write_text("", encoding="utf-8")
    made.add(grading.fixed_part("05_sam", sheet, argparse.Namespace(**base | {"private": tmp_path / "private"})))
    assert len(made) == 7


# ---------------------------------------------------------------- values between the processes

VALUES = [
    None, True, 3, 10**30, 0.1, float("inf"), "text", [1, [2.0]], (1, "a"), {"w": 1, 2: [3]},
    torch.ones(2, 3), torch.tensor(1.5, dtype=torch.float64), torch.tensor([1, 2]), np.arange(4.0), np.float32(2),
    np.array(["a"]), pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), pd.Series([1, 2], index=[5, 7]),
]  # fmt: skip
NUMBERS = {  # what NumPy takes for numbers -> the same as floats
    "Fraction": (fractions.Fraction(1, 4), 0.25),
    "Decimal": (decimal.Decimal("2.5"), 2.5),
    "deque": (collections.deque([1, 2.5]), [1, 2.5]),
    "array": (array.array("d", [1, 2.5]), [1, 2.5]),
    "Index": (pd.Index([3, 5]), [3, 5]),
    "list of fractions": ([fractions.Fraction(1, 4), 1], [0.25, 1]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_a_check_takes_for_numbers_arrives_as_numbers(name):
    value, right = NUMBERS[name]
    got = plain.decode(json.loads(json.dumps(plain.encode(value))))
    assert np.array_equal(np.asarray(got, float), right)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_plain_values_arrive_as_they_are(value):
    got = plain.decode(json.loads(json.dumps(plain.encode(value))))
    if isinstance(value, torch.Tensor):
        assert got.dtype == value.dtype and torch.equal(got, value)
    elif isinstance(value, (pd.DataFrame, pd.Series)):
        assert got.to_dict() == value.to_dict()
    elif isinstance(value, (np.ndarray, np.generic)):
        assert np.array_equal(np.asarray(got), value)
    else:
        assert got == value and type(got) is type(value)


def test_an_object_arrives_without_what_is_in_it_and_nonsense_is_refused():
    class Evil:
        def __reduce__(self):
            return print, ("evil",)

    got = plain.decode(json.loads(json.dumps(plain.encode([Evil(), print]))))
    assert [type(one).__name__ for one in got] == ["Evil", "builtin_function_or_method"]
    assert all(isinstance(one, plain.Opaque) for one in got)
    for nonsense in ({"pickle": "x"}, {"tensor": ["|O", [1], "AAAA"]}, {}):
        with pytest.raises(ValueError, match="no encoded value|no numbers"):
            plain.decode(nonsense)


def test_what_became_of_an_argument_is_repeated_on_ours():
    table, tensor, numbers = pd.DataFrame({"a": [1.0, 2.0]}), torch.zeros(2), [1, 2]
    model = torch.nn.Linear(2, 1)
    theirs = copy.deepcopy([table, tensor, numbers, {"w": torch.zeros(1)}, model])
    theirs[0]["b"] = 1.0
    theirs[1] += 1
    theirs[2].append(3)
    theirs[3]["w"] += 5
    with torch.no_grad():
        theirs[4].weight += 1
    mine = [table, tensor, numbers, {"w": torch.zeros(1)}, model]
    weight = model.weight.detach().clone()
    plain.restore(mine, plain.decode(json.loads(json.dumps(plain.encode(theirs)))))
    assert list(table) == ["a", "b"] and tensor.tolist() == [1, 1] and numbers == [1, 2, 3]
    assert mine[3]["w"].tolist() == [5] and torch.equal(model.weight, weight + 1)


def test_a_page_shows_the_text_of_the_sheet_and_the_points_and_no_code_of_the_student_runs_in_it(sheet):
    notebook, remarks = submissions.repair(solved(then=written_below)(sheet), sheet)
    scores = {"climb_check": {"points": 3.0, "of": 3, "failed": ""}}
    scores["climb_inf_check"] = {"points": 0.0, "of": 1, "failed": "it is wrong, by 1_000 <b>"}
    scores["accumulated_why"] = {"points": None, "of": 5, "failed": ""}
    page = feedback.page("mia", feedback.body(notebook), scores, remarks)
    for said in (
        "3 of 4 points",
        "<strong>0 of 1 points.</strong> it is wrong, by 1_000 &lt;b&gt;",
        "5 points are given by hand",
    ):
        assert said in page
    assert "<summary>Hint: NaN</summary>" in page and "<h2 id=" in page
    assert "<script>alert" not in page and "javascript:alert" not in page and "&lt;script&gt;alert" in page


@pytest.mark.parametrize("source", ["\x00", "(" * 2000, "def f(:"])
def test_a_cell_that_cannot_be_read_stops_no_plan(source, sheet):
    notebook, _ = submissions.repair(solved(own=source)(sheet), sheet)
    assert [one["name"] for one in judging.plan(notebook)][-1] == "climb_inf_check"


def test_only_cells_on_which_an_answer_depends_are_run(sheet):
    notebook = solved(own="def helper(x):\n    return x", last="print(climb({}, 1))")(sheet)
    cell(notebook, "climb").source = "def climb(g, rho):\n    return helper(g)"
    notebook, _ = submissions.repair(notebook, sheet)
    kinds = [(one["kind"], one["name"]) for one in judging.plan(notebook)]
    answers = [("given", ""), ("given", ""), ("code", "climb"), ("call", "climb_check")]
    assert kinds == [*answers, ("code", "climb_inf"), ("call", "climb_inf_check")]


OWN = {  # cells of the student's own, and an answer that needs what they leave behind
    "import *": ("from math import *", "def climb(grads, rho):\n    return sqrt(4.0)"),
    "exec": ("exec('def two(): return 2.0')", "def climb(grads, rho):\n    return two()"),
    "a file": (
        "%%writefile mytools.py\ndef two():\n    return 2.0",
        "from mytools import two\nclimb = lambda g, r: two()",
    ),
    "the type": (
        "torch.set_default_dtype(torch.float64)",
        "climb = lambda g, r: float(torch.zeros(1).element_size()) / 4",
    ),
    "an entry": ("box = {}\n%%", "box['two'] = 2.0", "climb = lambda g, r: box['two']"),
    "an attribute": (
        "class Box:\n    pass\n%%",
        "Box.two = staticmethod(lambda: 2.0)",
        "climb = lambda g, r: Box.two()",
    ),
    "magics": ("%matplotlib inline\n!ls\nclimb = lambda g, r: 2.0",),
    "%run": ("%%writefile t.py\ntwo = 2.0", "%run t.py", "climb = lambda g, r: two"),
}


@pytest.fixture(scope="module")
def confined(sheet, tmp_path_factory):
    """What one process said of all these cells, and of a look for the seed and a file that was handed in."""
    cells, at = [{"kind": "given", "name": "", "source": "import os, pathlib, torch"}], {}
    look = "print(os.environ.get('SAM_LITE_CHECK_SEED'), pathlib.Path('/proc/self/environ').read_text().count('CHECK_SEED'))\n"
    look += (
        "print(sorted(p.name for p in pathlib.Path().iterdir() if p.is_file()), pathlib.Path('points.csv').read_text())"
    )
    spy = "import numpy\nkept, numpy.allclose = numpy.allclose, lambda *a, **k: True"
    for name, sources in {"look": (look, "climb = lambda g, r: os.environ.get('SAM_LITE_CHECK_SEED')"), **OWN}.items():
        notebook = solved(sources[-1].replace("\n%%", ""))(sheet)
        place = [one.id for one in notebook.cells].index("climb-text") + 1
        notebook.cells[place:place] = [new_code_cell(source.replace("\n%%", "")) for source in sources[:-1]]
        planned = judging.plan(submissions.repair(notebook, sheet)[0])
        of = next(i for i, one in enumerate(planned) if one["kind"] == "call")
        if name == "look":
            planned.insert(2, {"kind": "given", "name": "", "source": look})
            of += 1
        cells += planned[: of + 1]
        at[name] = len(cells) - 1
    cells += [{"kind": "given", "name": "", "source": spy}, cells[-1]]
    cells += [{"kind": "given", "name": "", "source": "numpy.allclose = kept"}]
    request = {"seconds": 200, "cell_seconds": 60, "memory_gb": 8, "seed": 7, "private": "", "prefix": []}
    request |= {"modules": ["sam_lite.checks.set_05"], "beside": {"points.csv": "MSwy"}}
    work = tmp_path_factory.mktemp("work")
    told, replaced = judging.run(cells, request, work)
    return {name: told[i] for name, i in at.items()}, [told[i].get("said", "") for i in told], replaced


@slow
@pytest.mark.parametrize("name", OWN)
def test_an_answer_has_what_cells_before_it_left_behind(confined, name):
    told, _, _ = confined
    assert [entry.get("returned") for entry in told[name]["log"]][:1] == [{"number": "2.0"}], told[name]


@slow
def test_the_seed_is_not_found_and_a_function_that_was_put_back_is_named(confined):
    told, said, replaced = confined
    assert [text for text in said if "points.csv" in text] == ["None 0\n['points.csv'] 1,2\n"]
    assert told["look"]["log"][0]["returned"] is None
    assert replaced == ["numpy.allclose"]


PLANT = """import os, pathlib, sys, site
text = "import os; os.path.exists({mark!r}) or os.close(os.open({mark!r}, os.O_CREAT))"
for folder in (pathlib.Path.home(), pathlib.Path(site.getusersitepackages()), pathlib.Path({user!r})):
    for name in ("json", "base64", "sitecustomize", "usercustomize"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / (name + ".py")).write_text(text)
        except OSError:
            pass
os._exit(0)"""


@slow
@pytest.mark.skipif(not confine.can_confine_files(), reason="this system has no Landlock")
def test_what_an_answer_leaves_in_its_folder_is_not_run_before_the_next_one_is_confined(tmp_path, monkeypatch):
    mark, work = str(tmp_path / "escaped"), tmp_path / "work"
    work.mkdir()
    home = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    cells = [{"kind": "code", "name": "a", "source": PLANT.format(mark=mark, user=f".local/{home}")}]
    cells += [{"kind": "check", "name": "a_check", "source": "1 + 1"}]
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", str(ROOT)) + os.pathsep)  # as it is easily set
    monkeypatch.setattr(site, "ENABLE_USER_SITE", True)
    request = {"seconds": 100, "cell_seconds": 60, "memory_gb": 8, "seed": 7, "private": "", "prefix": []}
    told, _ = judging.run(cells, request | {"modules": [], "beside": {"json.py": ""}}, work)
    assert "it ended the process" in told[0]["failed"] and told[1].get("error") == "", told
    assert not os.path.exists(mark)


def test_a_process_that_does_not_start_is_no_answer(sheet, tmp_path, monkeypatch):
    for name in ("SAM_LITE_CHECK_SEED", "SAM_LITE_PRIVATE_CHECKS"):
        monkeypatch.setenv(name, "")  # what `judge` sets goes again
    paths = {name: str(tmp_path / f"{name}.ipynb") for name in ("handed", "expected")}
    nbformat.write(solved()(sheet), paths["handed"]), nbformat.write(sheet, paths["expected"])
    request = {"seconds": 100, "cell_seconds": 60, "memory_gb": 8, "seed": 7, "private": "", "prefix": ["false"]}
    result = judging.judge(request | paths | {"work": str(tmp_path), "beside": {}})
    assert result["state"] == "not graded: the process of the answers did not start: 1" and result["scores"] == {}


def test_a_check_that_stopped_there_says_why(monkeypatch):
    monkeypatch.setenv("SAM_LITE_CHECK_SEED", "7")
    call = {"kind": "call", "module": "set_05", "check": "climb", "names": ["climb"]}
    assert judging.verdict(call, {"log": [], "stopped": "ε: it is wrong"}) == ("ε: it is wrong", "")
    assert judging.verdict(call, {"log": []}) == ("the answer's process stopped before the check was over", "")


LOOKING = ["set_05.expect = spy", "setattr(set_05, 'expect', spy)", "os.environ['SAM_LITE_CHECK_SEED']",
           "from sam_lite import checks", "from sam_lite.checks import Draw"]  # fmt: skip


def test_code_that_reaches_into_the_checks_is_named_and_given_imports_are_not(sheet, monkeypatch, tmp_path):
    monkeypatch.setattr(judging, "run", lambda cells, *_: ({i: {"failed": "not run"} for i in range(len(cells))}, []))
    for name in ("SAM_LITE_CHECK_SEED", "SAM_LITE_PRIVATE_CHECKS"):
        monkeypatch.setenv(name, "")
    nbformat.write(sheet, tmp_path / "expected.ipynb")
    request = {"seconds": 1, "seed": 7, "private": "", "work": str(tmp_path), "handed": str(tmp_path / "handed.ipynb")}
    for own in (*LOOKING, "from sam_lite.checks import set_05", "assert set_05.climb == 3"):
        nbformat.write(solved(own=own)(sheet), request["handed"])
        remarks = judging.judge(request | {"expected": str(tmp_path / "expected.ipynb")})["remarks"]
        assert any("looks at what calls it" in remark for remark in remarks) == (own in LOOKING), own


def test_the_project_has_the_time_that_its_sheet_names():
    project = nbformat.read(ROOT / "exercises" / "09_project" / "09_project.ipynb", as_version=4)
    assert (
        judging.longer(project) == 600 and "may take 10 minutes on one core" in cell(project, "experiment-text").source
    )
    made = {one["name"]: one.get("seconds") for one in judging.plan(project) if one["kind"] == "call"}
    assert made == {"experiment_check": 600, "verdict_check": None}
    others = [path for path in (ROOT / "exercises").glob("*/*.ipynb") if path.stem != "09_project"]
    assert {judging.longer(nbformat.read(path, as_version=4)) for path in others} == {0}


def test_pieces_of_an_answer_stay_cells_of_their_own(sheet):
    for first in ("def climb(grads, rho):\n    return {name for", "print(climb({}, 0.1))", "%%time\n" + CLIMB):
        notebook = solved(first)(sheet)
        second = copy.deepcopy(cell(notebook, "climb"))
        second.source = "%%time\n" + CLIMB
        notebook.cells.insert([one.id for one in notebook.cells].index("climb") + 1, second)
        repaired, remarks = submissions.repair(notebook, sheet)
        sources = [one["source"] for one in judging.plan(repaired) if one["name"] == "climb"]
        assert sources == [first, second.source] and "climb is there more than once" in remarks[0]
    head, tail = CLIMB.split("\n", 1)  # a cell that was split in the middle is one again
    cell(notebook, "climb").source, second.source = head, tail
    repaired, _ = submissions.repair(notebook, sheet)
    assert [one["name"] for one in judging.plan(repaired)].count("climb") == 1


def test_an_answer_that_is_assigned_is_found_without_its_marks(sheet):
    lengths = "climb = lambda grads, rho: grads"
    notebook = solved(lengths, then=bare)(sheet)
    repaired, _ = submissions.repair(notebook, sheet)
    assert cell(repaired, "climb").source == lengths


def test_a_table_of_the_project_may_have_an_index_with_the_name_of_a_column(monkeypatch):
    from sam_lite.checks import set_09

    def experiment(seeds):
        rows = [{"condition": name, "seed": seed, "gradients": 10, "value": seed + 0.1 * i}
                for i, name in enumerate("AB") for seed in seeds]  # fmt: skip
        return pd.DataFrame(rows).set_index(["condition", "seed"], drop=False)

    with contextlib.redirect_stdout(io.StringIO()) as said:
        set_09.experiment(experiment)
    assert said.getvalue() == "Part 2, the comparison: right.\n"


@pytest.mark.skipif(not confine.can_confine_files(), reason="this system has no Landlock")
def test_a_confined_process_reads_and_writes_its_own_folder_only(tmp_path):
    import subprocess

    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir(), other.mkdir()
    (other / "secret").write_text("42", encoding="utf-8")
    tried = f"""
import sys; sys.path[:0] = {[str(ROOT), str(ROOT / "tools")]!r}
import confine, pathlib
assert confine.confine_files(confine.needed_folders(), [pathlib.Path({str(own)!r})])
pathlib.Path({str(own / "mine")!r}).write_text("1")
other = pathlib.Path({str(other)!r})
for what in (lambda: (other / "secret").read_text(), lambda: (other / "new").write_text("")):
    try:
        what()
    except PermissionError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["refused", "refused"], done.stderr
    assert (own / "mine").read_text() == "1"
