"""Blank exercises made from solutions, and what must hold of a set before it can be handed out.

The hand-written source of an exercise is `solutions/NAME/NAME.ipynb`, with nbgrader's metadata. Convention: the cell
`part` holds a solution and the cell `part_check`, right after it, gives its marks; `part_why` is a written answer.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)
from traitlets.config import PyFileConfigLoader

from notebooks import ROOT, dumps, write

BETWEEN = re.compile(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", re.DOTALL)
HIDDEN = re.compile(r"^[^\n]*BEGIN HIDDEN TESTS.*?END HIDDEN TESTS[^\n]*\n?", re.DOTALL | re.MULTILINE)


def source_of(root: Path = ROOT) -> list[Path]:
    """The solution notebooks, in order: NAME/NAME.ipynb, and no copy or draft beside it."""
    return sorted(path for path in root.glob("solutions/*/*.ipynb") if path.stem == path.parent.name)


def read(path: Path) -> NotebookNode:
    """A notebook. Raises SystemExit with its name if it cannot be read, as after a merge with conflicts."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # whatever a damaged file makes nbformat raise
        raise SystemExit(
            f"{path} is no notebook that can be read: {type(error).__name__}: {str(error)[:200]}; repair it first"
        ) from None


def settings():
    """nbgrader_config.py, as nbgrader reads it."""
    return PyFileConfigLoader("nbgrader_config.py", str(ROOT)).load_config()


def blank(solution: NotebookNode, hidden: bool = False) -> NotebookNode:
    """The notebook that students get: no solutions, no outputs, no hidden tests, check cells locked.

    hidden: with the hidden tests, as it is graded.
    """
    notebook, resources = nbformat.from_dict(solution), {}
    tests = () if hidden else (ClearHiddenTests,)
    for step in (CheckCellMetadata, LockCells, ClearSolutions, ClearOutput, *tests, ComputeChecksums):
        notebook, resources = step(config=settings()).preprocess(notebook, resources)
    return notebook


def build(root: Path = ROOT) -> list[Path]:
    """Write exercises/ anew; a blank notebook that has no solution any more goes. What is not its own work stays."""
    written = []
    for path in source_of(root):
        solution = read(path)
        target = root / "exercises" / path.relative_to(root / "solutions")
        if hinders := next(_hindrances(solution), "") or _worked_in(target):
            raise SystemExit(f"{path.stem}: {hinders}; nothing more is built")
        write(target, dumps(blank(solution)))
        written.append(target)
    for old in set(root.glob("exercises/*/*.ipynb")) - set(written):
        if old.stem == old.parent.name and not _worked_in(old):
            old.unlink()
            if not any(old.parent.iterdir()):
                old.parent.rmdir()
    return written


def _worked_in(path: Path) -> str:
    """Why a notebook in exercises/ must not be written over, or nothing."""
    ran = path.is_file() and any(cell.get("outputs") or cell.get("execution_count") for cell in read(path).cells)
    return f"{path} has been run, so it may hold somebody's answers: move it elsewhere, or delete it" if ran else ""


# ---------------------------------------------------------------- what must hold of a set


def role(cell: NotebookNode) -> str:
    """given, code (a solution), check (marks for it) or written (marked by hand)."""
    marks = cell.metadata.get("nbgrader", {})
    if not (marks.get("grade") or marks.get("solution")):
        return "given"
    return "check" if not marks["solution"] else "written" if marks["grade"] else "code"


def shown(cell: NotebookNode) -> str:
    """The text of a cell as students see it: a check without its hidden tests."""
    return HIDDEN.sub("", cell.source) if role(cell) == "check" else cell.source


def is_picture(cell: NotebookNode) -> bool:
    """A given cell that shows what the student's function does. It gives no marks, and may fail."""
    return role(cell) == "given" and "picture" in cell.metadata.get("tags", [])


def asks_name(cell: NotebookNode) -> str:
    """The set for which a cell draws numbers from the name that a student types into it, or nothing."""
    call = re.search(r'^own_numbers\("(\w+)"', cell.source, re.MULTILINE)
    return call[1] if call and cell.cell_type == "code" else ""


def faults(path: Path, root: Path = ROOT) -> Iterator[str]:
    """What is wrong with one set; nothing if it can be handed out."""
    solution = read(path)
    if hinders := list(_hindrances(solution)):
        yield from hinders
        return
    target, expected = root / "exercises" / path.relative_to(root / "solutions"), blank(solution)
    if not target.is_file():
        yield "the blank notebook is missing: run tools/exercises.py build"
    elif target.read_text(encoding="utf-8") != dumps(expected):
        yield "the blank notebook is not what build writes: run tools/exercises.py build"
    yield from _order(solution)
    yield from _leaks(solution, expected)
    if {"check", "written"} - {role(cell) for cell in solution.cells}:
        yield "there must be checks and a written answer"


def _hindrances(solution: NotebookNode) -> Iterator[str]:
    """What nbgrader would refuse to build, without saying where it is."""
    for cell in solution.cells:
        if "### BEGIN SOLUTION" in cell.source and role(cell) != "code":
            yield f"the cell {cell.id} holds a solution, and nbgrader's metadata do not say so"
    names = [cell.metadata.nbgrader.grade_id for cell in solution.cells if role(cell) != "given"]
    for name in sorted(set(names)):
        if names.count(name) > 1:
            yield f"the grade id {name} is there twice"


def _order(solution: NotebookNode) -> Iterator[str]:
    """Every solution is followed by its check, every check stands after its solution."""
    marked = [cell for cell in solution.cells if role(cell) != "given"]
    for cell, after in zip(marked, [*marked[1:], None], strict=True):
        name = cell.metadata.nbgrader.grade_id
        if role(cell) == "code" and (after is None or after.metadata.nbgrader.grade_id != f"{name}_check"):
            yield f"{name} must be followed by {name}_check"
        if role(cell) == "check" and not any(c.metadata.nbgrader.grade_id == name[: -len("_check")] for c in marked):
            yield f"{name} checks nothing"
        if role(cell) in ("check", "written") and not cell.metadata.nbgrader.points > 0:
            yield f"{name} gives no points"


def _leaks(solution: NotebookNode, expected: NotebookNode) -> Iterator[str]:
    """Solutions, outputs or answers that the blank notebook shows; stubs that would not run."""
    shown = "\n".join(cell.source for cell in expected.cells)
    for before, after in zip(solution.cells, expected.cells, strict=True):
        if before.cell_type == "code" and (after.outputs or after.execution_count):
            yield f"the outputs of {after.id} are left"
        if role(before) != "code":
            continue
        hidden = BETWEEN.findall(before.source)
        if not hidden:
            yield f"{after.id} has no ### BEGIN SOLUTION"
        for line in (line.strip() for text in hidden for line in text.splitlines()):
            if len(line) > 25 and not line.startswith(("import", "from")) and line in shown:
                yield f"{after.id}: the blank notebook shows {line!r}"
        try:
            stubs = [node for node in ast.walk(ast.parse(after.source)) if isinstance(node, ast.Raise)]
        except SyntaxError as error:
            yield f"{after.id}: the stub does not parse: {error}"
        else:
            if not any("NotImplementedError" in ast.unparse(node) for node in stubs):
                yield f"{after.id}: the stub does not raise NotImplementedError"


def check(root: Path = ROOT) -> list[str]:
    """Every fault of every set, with its name."""
    paths = source_of(root)
    found = [f"{path.stem}: {fault}" for path in paths for fault in faults(path, root)]
    known = {root / "exercises" / path.relative_to(root / "solutions") for path in paths}
    more = set(root.glob("exercises/*/*.ipynb")) - known
    found += [f"{old.stem}: it has no solution; delete it, or move it elsewhere" for old in sorted(more)]
    drafts = sorted(set(root.glob("solutions/*/*.ipynb")) - set(paths))
    return found + [
        f"{old.stem}: a set is solutions/NAME/NAME.ipynb; rename it, or move it elsewhere" for old in drafts
    ]
