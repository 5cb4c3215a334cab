"""What students handed in: files of any name and form, read, told apart and repaired, before anything of it is run."""

import collections
import contextlib
import json
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from assignments import role

LARGEST = 20 * 2**20  # bytes of one file
SUFFIXES = r"(?:[ _-]*\(?\d*\)?|[ _-]*(?:copy|kopie|final|submission|solved))*"  # what browsers and people append


@dataclass
class Submission:
    """One file that was handed in, and what became of it."""

    file: str  # as the instructor knows it
    student: str = ""
    exercise: str = ""
    state: str = "graded"  # or why not
    remarks: list[str] = field(default_factory=list)
    scores: dict = field(default_factory=dict)  # grade_id -> {points, of, failed}; by hand: points is None
    content: bytes = field(default=b"", repr=False)

    @property
    def points(self) -> float:
        return sum(score["points"] or 0 for score in self.scores.values())

    @property
    def of(self) -> float:
        return sum(score["of"] for score in self.scores.values() if score["points"] is not None)

    @property
    def by_hand(self) -> float:
        return sum(score["of"] for score in self.scores.values() if score["points"] is None)


# ---------------------------------------------------------------- reading what is there


def files_in(place: Path) -> Iterator[tuple[str, float, int, bytes]]:
    """(name, time, size, content) of every file in a folder or a zip; the content is empty if it is too large."""
    if place.is_dir():
        for path in sorted(p for p in place.rglob("*") if p.is_file() and not p.is_symlink()):
            stat = path.stat()
            content = path.read_bytes() if stat.st_size <= LARGEST else b""
            yield path.relative_to(place).as_posix(), stat.st_mtime, stat.st_size, content
        return
    with zipfile.ZipFile(place) as archive:
        for info in sorted((i for i in archive.infolist() if not i.is_dir()), key=lambda i: i.filename):
            with archive.open(info) as opened:
                content = opened.read(LARGEST + 1)
            size = max(info.file_size, len(content))
            yield info.filename, time.mktime((*info.date_time, 0, 0, -1)), size, content if size <= LARGEST else b""


def collect(place: Path, exercises: Sequence[str]) -> list[Submission]:
    """Every file as a Submission; of several files of one student and exercise only the newest is to be graded."""
    found, newest = [], {}
    for name, when, size, content in files_in(place):
        if re.search(r"(^|/)(\.|__MACOSX)", name) or Path(name).name in ("Thumbs.db", "desktop.ini"):
            continue
        one = Submission(name, content=content)
        found.append(one)
        parts = [part for part in re.split(r"[/\\]", name) if part and not part.endswith(":")]
        one.exercise, one.student = _who(parts, exercises)
        if not parts[-1].lower().endswith(".ipynb"):
            one.state = "not a notebook: its name does not end in .ipynb"
        elif not one.exercise:
            one.state = f"unknown exercise: its name must end in one of {', '.join(exercises)}"
        elif size > LARGEST:
            one.state = f"too large: {size / 2**20:.0f} MB, at most {LARGEST / 2**20:.0f} MB are read"
        elif not content.strip():
            one.state = "the file is empty"
        else:
            key = (one.student, one.exercise)
            if key in newest:
                older, one_is_newer = newest[key][1], when >= newest[key][0]
                loser, winner = (older, one) if one_is_newer else (one, older)
                loser.state = f"not graded: {winner.file} of the same student is newer"
                if not one_is_newer:
                    continue
            newest[key] = (when, one)
    return found


def _who(parts: Sequence[str], exercises: Sequence[str]) -> tuple[str, str]:
    """(exercise, student) from the pieces of a path: student/exercise/file, or name_id_..._exercise.ipynb."""
    stem = re.sub(r"\.ipynb$", "", parts[-1], flags=re.IGNORECASE)
    for exercise in exercises:
        match = re.search(rf"^(.*?)[ _-]*{re.escape(exercise)}{SUFFIXES}$", stem, flags=re.IGNORECASE)
        if match:
            folders = [part for part in parts[:-1] if part.lower() != exercise.lower()]
            student = match[1] or (folders[-1] if folders else "")
            student = re.sub(r"_assignsubmission_file_?$", "", student)
            return exercise, re.sub(r"[^\w.@+ -]", "_", student).strip(" ._") or "unnamed"
    return "", ""


def read(content: bytes) -> tuple[NotebookNode, list[str]]:
    """The notebook and remarks on its form. Raises ValueError with the reason if it is none."""
    remarks = []
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        with contextlib.suppress(UnicodeError):
            if encoding == "utf-16" and content[:2] not in (b"\xff\xfe", b"\xfe\xff"):
                continue
            text = content.decode(encoding)
            break
    else:
        raise ValueError("its encoding is not UTF-8, UTF-16 or cp1252")
    if encoding != "utf-8-sig":
        remarks.append(f"its encoding is {encoding}, not UTF-8")
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a notebook: no JSON ({error})") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise ValueError("not a notebook: no nbformat in it")
    try:
        return nbformat.convert(nbformat.from_dict(notebook), 4), remarks
    except Exception as error:  # whatever a damaged notebook makes nbformat raise
        raise ValueError(f"a damaged notebook: {type(error).__name__}: {error}") from None


def repair(handed: NotebookNode, expected: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """The student's cells under the names that the grader knows, the checks as they were handed out, and remarks.

    A cell is known by its grade id, else by its id, else (all metadata may have been stripped) by what it defines, and
    a written answer by the text before it.
    Pieces of one answer, from a split or a pasted cell, are put together in order. What is missing is added.
    """
    known = {cell.metadata.nbgrader.grade_id: cell for cell in expected.cells if role(cell) != "given"}
    by_id = {cell.id: name for name, cell in known.items()}
    by_text = {_first_line(cell): name for name, cell in known.items()}
    questions = {b.source: a.metadata.nbgrader.grade_id for b, a in pairwise(expected.cells) if role(a) == "written"}
    cells, place, remarks, before = [], {}, collections.Counter(), ""
    for cell in handed.get("cells", []):
        source = "".join(cell.get("source", ""))
        marks = cell.get("metadata", {}).get("nbgrader", {}) or {}
        name = marks.get("grade_id") if marks.get("grade_id") in known else by_id.get(cell.get("id"))
        if name is None and cell.get("cell_type") == "code":
            name = by_text.get(_first_line(cell)) if _first_line(cell) else None
        elif name is None and questions.get(before) not in place:
            name = questions.get(before)
        before = source
        if name is None:
            made = nbformat.v4.new_code_cell if cell.get("cell_type") == "code" else nbformat.v4.new_markdown_cell
            cells.append(made(source))
        elif role(known[name]) == "check":
            if source.strip() != known[name].source.strip():
                remarks[f"the check {name} was changed; it was graded as handed out"] += 1
            if name not in place:
                place[name] = _append(cells, known[name], known[name].source)
        elif name in place:
            remarks[f"{name} is there more than once; the pieces were put together"] += 1
            place[name].source += "\n\n" + source
        else:
            place[name] = _append(cells, known[name], source)
    if not place:
        raise ValueError("no cell of this exercise is in it")
    for before, name in zip([None, *known], known, strict=False):
        if name not in place:
            remarks[f"{name} was missing; it was added as handed out"] += 1
            at = next((i + 1 for i, cell in enumerate(cells) if cell is place.get(before)), 0)
            place[name] = _append(cells, known[name], known[name].source, at)
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return nbformat.v4.new_notebook(cells=cells, metadata=expected.metadata), list(remarks)


def _append(cells: list, like: NotebookNode, source: str, at: int | None = None) -> NotebookNode:
    cell = nbformat.from_dict(json.loads(json.dumps(like)))
    cell.source = source
    cells.insert(len(cells) if at is None else at, cell)
    return cell


def _first_line(cell: dict) -> str:
    """What a code cell defines, as `def climb(`, or its first line if that is long enough to know it by."""
    source = "".join(cell.get("source", ""))
    if cell.get("cell_type") != "code":
        return ""
    defined = re.search(r"^(?:def|class) \w+", source, flags=re.MULTILINE)
    line = source.strip().partition("\n")[0]
    return defined[0] if defined and not line.startswith(("import", "from")) and defined.start() == 0 else line
