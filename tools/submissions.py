"""What students handed in: files of any name and form, read, told apart and repaired, before anything of it is run."""

import collections
import contextlib
import json
import re
import time
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from assignments import role

LARGEST = 20 * 2**20  # bytes of one file
NOBODY = {"exercises", "exercise", "submissions", "submitted", "solutions", "notebooks", "assignments", "work", "src"}


@dataclass
class Submission:
    """One file that was handed in, and what became of it."""

    file: str  # as the instructor knows it
    student: str = ""
    exercise: str = ""
    state: str = "graded"  # or why not
    remarks: list[str] = field(default_factory=list)
    scores: dict = field(default_factory=dict)  # grade_id -> {points, of, failed}; by hand: points is None
    platform: str = ""  # "moodle" or "canvas", where the name says so
    content: bytes = field(default=b"", repr=False)
    when: float = 0.0  # seconds since 1970
    hidden: list[str] = field(default_factory=list)  # reasons that no student is shown
    body: str = field(default="", repr=False)  # the cells as HTML, for `feedback.page`
    written: dict = field(default_factory=dict, repr=False)  # grade_id -> the answer as HTML
    pictures: list[str] = field(default_factory=list, repr=False)
    runs: list[int] = field(default_factory=list, repr=False)  # of tokens of its code, for `similar.pairs`

    def take(self, result: dict) -> None:
        """What grading said."""
        self.state, self.remarks, self.scores = result["state"], [*self.remarks, *result["remarks"]], result["scores"]
        self.hidden, self.body = list(result.get("hidden", [])), result.get("body", "")
        self.written, self.pictures = result.get("written", {}), result.get("pictures", [])
        self.runs = result.get("runs", [])

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


def collect(place: Path, exercises: Sequence[str], parts: Mapping[str, set[str]] | None = None) -> list[Submission]:
    """Every file as a Submission; of several files of one student and exercise only the newest is to be graded.

    parts: exercise -> the grade ids of its cells, to know a notebook by that has an unknown name.
    """
    found, newest = [], {}
    files = list(files_in(place))
    common = _common_folders([_parts(name) for name, *_ in files])
    for name, when, size, content in files:
        if re.search(r"(^|/)(\.|__MACOSX)", name) or Path(name).name in ("Thumbs.db", "desktop.ini"):
            continue
        one = Submission(name, content=content, when=when)
        found.append(one)
        one.exercise, one.student, number, one.platform = _who(_parts(name)[common:], exercises)
        if name.lower().endswith(".ipynb") and not one.exercise and parts:
            one.exercise = _by_cells(content, parts)
            if one.exercise:
                one.remarks.append(f"its name does not say which exercise it is; its cells are those of {one.exercise}")
        if "_LATE_" in Path(name).name:
            one.remarks.append("handed in late, says its name")
        if not name.lower().endswith(".ipynb"):
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
                older, one_is_newer = newest[key][1], (when, number) >= newest[key][0]
                loser, winner = (older, one) if one_is_newer else (one, older)
                loser.state = f"not graded: {winner.file} of the same student is newer"
                if not one_is_newer:
                    continue
            newest[key] = ((when, number), one)
    return found


def _parts(name: str) -> list[str]:
    """The folders and the file name; of a path of another computer, with its drive, only the file name."""
    parts = [part for part in re.split(r"[/\\]", unicodedata.normalize("NFC", name)) if part not in ("", ".", "..")]
    return parts[-1:] if any(part.endswith(":") for part in parts) else parts


def _common_folders(paths: Sequence[Sequence[str]]) -> int:
    """How many folders at the front are those of the export: all files are in them, and several people below them."""
    for depth in range(max(map(len, paths), default=0)):
        folders = {path[depth] if len(path) > depth + 1 else "" for path in paths}
        if len(folders) > 1:
            return depth
    return 0


def _who(parts: Sequence[str], exercises: Sequence[str]) -> tuple[str, str, int, str]:
    """(exercise, student, number of the copy, platform), from what that wrote: a folder, or the fields before the name.

    Moodle: Name_id_assignsubmission_file_/any.ipynb. Canvas: name_LATE_user_submission_any.ipynb. Blackboard:
    Set_user_attempt_time_any.ipynb. Others: a folder for each person, or name_05_sam.ipynb.
    """
    *folders, file = parts
    stem = file
    while stem.lower().endswith(".ipynb"):
        stem = stem[: -len(".ipynb")]
    low = stem.lower()
    at = max(((low.rfind(name.lower()), len(name), name) for name in exercises if name.lower() in low), default=None)
    exercise = at[2] if at else next((e for e in exercises if e.lower() in [folder.lower() for folder in folders]), "")
    before, after = (stem[: at[0]], stem[at[0] + at[1] :]) if at else (stem, "")
    numbers = re.findall(r"\d{1,9}", after)
    copy = int(numbers[-1]) if numbers else 0
    people = [one for one in folders if one.lower() not in {*NOBODY, *(name.lower() for name in exercises)}]
    lead, platform = people[0] if people else before, ""
    lead = re.sub(r"^((copy of|kopie von|copia de|copie de)\s*)+", "", lead, flags=re.IGNORECASE)
    if moodle := re.match(r"([^/]{1,200}?_\d+)_assignsubmission_", lead):
        lead, platform = moodle[1], "moodle"
    elif board := re.search(r"_([^_]+)_attempt_([\d-]{10,19})", lead):
        lead, copy = board[1], int(re.sub(r"\D", "", board[2]))
    elif canvas := re.match(r"([^_]+)_(?:LATE_)?(\d+)_(\d+)(?:_|$)", lead):
        lead, copy, platform = f"{canvas[1]}_{canvas[2]}", int(canvas[3]) * 1000 + min(copy, 999), "canvas"
    student = re.sub(r"[^\w.@+ -]", "_", lead)[:100].strip(" ._-")
    return exercise, student or "unnamed", copy, platform


def _by_cells(content: bytes, parts: Mapping[str, set[str]]) -> str:
    """The exercise to which most of the marked cells of a notebook belong, or nothing."""
    try:
        notebook, _ = read(content)
    except ValueError:
        return ""
    ids = {(cell.get("metadata", {}).get("nbgrader") or {}).get("grade_id") for cell in notebook.get("cells", [])}
    best = max(parts, key=lambda name: len(parts[name] & ids))
    return best if len(parts[best] & ids) >= 2 else ""


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
    """The sheet as it was handed out, with the student's answers in it and cells of their own between; and remarks.

    Given cells and checks are those of the sheet. An answer is known by its grade id, else by its id, else (metadata
    may have been stripped) by what it defines; a written answer by the text before it. Pieces of one answer, from a
    split or a pasted cell, are put together in order.
    """
    known = {cell.id: number for number, cell in enumerate(expected.cells)}
    pieces, own, remarks, at = collections.defaultdict(list), collections.defaultdict(list), collections.Counter(), -1
    order, seen, by_name, passed = [], collections.Counter(), [], set()
    for cell in handed.get("cells", []):
        source, code = "".join(cell.get("source", "")), cell.get("cell_type") == "code"
        number = _place(cell, source, code, expected, known, at, seen)
        if number is None:
            if code and (alike := _answer_with(source, expected)) is not None:
                by_name.append((alike, alike + 1 in passed, at, source))
                at = max(at, alike)
            elif source.strip():
                own[_home(at, code, expected)].append((code, source))
            continue
        at, like = number, expected.cells[number]
        order.append(number)
        passed.add(number)
        if role(like) == "check" and source.strip() != like.source.strip():
            remarks[f"the check {_name(like)} was changed; it was graded as handed out"] += 1
        if role(like) in ("code", "written"):
            pieces[number].append(source)
        elif role(like) == "given" and code and source.strip() not in ("", like.source.strip()):
            own[number - 1].append((True, source))  # what was added to it may be needed; what was changed is set right
    for number, late, where, source in by_name:
        stub = expected.cells[number].source.strip()
        answered = any(piece.strip() != stub for piece in pieces[number])
        if answered or (late and any(n == number and not after for n, after, *_ in by_name)):
            own[where].append((True, source))  # a trial of the student's, beside the answer
        else:
            if pieces[number]:
                remarks[f"{_name(expected.cells[number])} was left empty, and is answered in a cell of its own"] += 1
            pieces[number] = [source]
    pieces = collections.defaultdict(list, {number: found for number, found in pieces.items() if found})
    if not pieces:
        raise ValueError("no cell of this exercise is in it")
    if order != sorted(order):
        remarks["its cells were in another order; they were graded in the order of the sheet"] += 1
    cells = []
    for number in range(-1, len(expected.cells)):
        cells += _cells(number, expected, pieces, own, remarks)
    for number, cell in enumerate(expected.cells):
        if role(cell) == "check" and number not in order:
            remarks[f"{_name(cell)} was missing; it was added as handed out"] += 1
    for number, cell in enumerate(cells):
        cell["id"] = cell["id"] if cell["id"] in known else f"own-{number}"
    return nbformat.v4.new_notebook(cells=cells, metadata=expected.metadata), list(remarks)


def _name(cell: NotebookNode) -> str:
    return cell.metadata.nbgrader.grade_id


def _place(cell, source, code, expected, known, at, seen) -> int | None:
    """The number of the cell of the sheet that a cell of the student's is, or None."""
    marks = cell.get("metadata", {}).get("nbgrader", {}) or {}
    for number, like in enumerate(expected.cells):
        if role(like) != "given" and marks.get("grade_id") == _name(like):
            return number
    number = known.get(cell.get("id"))
    if number is not None and (expected.cells[number].cell_type == "code") == code:
        return number
    alike = [n for n, like in enumerate(expected.cells) if like.source.strip() == source.strip() and source.strip()]
    if alike:
        seen[source] += 1
        return alike[min(seen[source], len(alike)) - 1]
    if code:
        return None
    after = expected.cells[at + 1] if at + 1 < len(expected.cells) else None
    return at + 1 if at >= 0 and after is not None and role(after) == "written" else None


def _home(at: int, code: bool, expected: NotebookNode) -> int:
    """The number of the cell to which a cell of the student's own belongs: text below the running total is an answer."""
    total = 0 < at == len(expected.cells) - 1 and role(expected.cells[at]) == "given"
    return at - 1 if total and not code and role(expected.cells[at - 1]) == "written" else at


def _answer_with(source: str, expected: NotebookNode) -> int | None:
    """The number of the one answer that defines what a cell defines, or None."""
    mine = _defined(source)
    found = [n for n, like in enumerate(expected.cells) if role(like) == "code" and _defined(like.source) & mine]
    return found[0] if len(found) == 1 else None


def _defined(source: str) -> set[str]:
    """The functions and classes at the left edge of a cell."""
    return set(re.findall(r"^(?:def|class) +(\w+)", source, flags=re.MULTILINE))


def _cells(number, expected, pieces, own, remarks) -> list[NotebookNode]:
    """The cell of the sheet with this number, answered, and the student's own cells that stood after it."""
    made, mine = [], own.get(number, [])
    if number >= 0:
        like = expected.cells[number]
        cell = nbformat.from_dict(json.loads(json.dumps(like)))
        if role(like) in ("code", "written"):
            if number not in pieces:
                remarks[f"{_name(like)} was missing; it was added as handed out"] += 1
            if len(pieces[number]) > 1:
                remarks[f"{_name(like)} is there more than once; the pieces were put together"] += 1
            found = [piece for piece in pieces[number] if piece.strip() != like.source.strip()] or [like.source]
            if role(like) == "written":
                below = [source for code, source in mine if not code]
                if below:
                    remarks[f"{_name(like)}: the text below the cell was taken as part of the answer"] += 1
                    found = [piece for piece in found if piece.strip() != like.source.strip()] + below
                    mine = [(code, source) for code, source in mine if code]
            cell.source = "\n\n".join(found)
        made.append(cell)
    new = {True: nbformat.v4.new_code_cell, False: nbformat.v4.new_markdown_cell}
    return made + [new[code](source) for code, source in mine]
