"""What students handed in: files of any name and form, read, told apart and repaired, before anything of it is run."""

import ast
import collections
import contextlib
import io
import json
import os
import re
import time
import unicodedata
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from assignments import asks_name, role, shown

LARGEST = 20 * 2**20  # bytes of one file
BESIDE = 2**20  # bytes of a file that an answer may read, and of all of them of one student ten times as many
MEMBERS = 1000  # files in a zip that a student made
NOBODY = {"exercises", "exercise", "submissions", "submitted", "notebooks", "assignments", "work", "src"}
ASIDE = {"solutions": "the published solution", "solution": "the published solution", "lectures": "a lecture"}
COPY_OF = re.compile(r"^((copy of|kopie von|copia de|copie de)\s*)+", re.IGNORECASE)
COPY = re.compile(
    r"\d*(copy|kopie|copia|copie|final|new|neu|last|late|v|ver|version|draft|fixed|done|solved|solutions?|answers?)?\d*",
    re.IGNORECASE,
)  # a word behind the name of a set that names nobody
MOODLE = re.compile(r"([^/]{1,200}?_\d+)_assignsubmission_")
BOARD = re.compile(r"(.+)_attempt_([\d-]{10,19})")
CANVAS = re.compile(r"([^_]+)_(?:LATE_)?(\d+)_(\d{3,})(?:_|$)")


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
    beside: dict[str, bytes] = field(default_factory=dict, repr=False)  # what else the student handed in, by its name
    when: float = 0.0  # seconds since 1970
    hidden: list[str] = field(default_factory=list)  # reasons that no student is shown
    body: str = field(default="", repr=False)  # the cells as HTML, for `feedback.page`
    written: dict = field(default_factory=dict, repr=False)  # grade_id -> the answer as HTML
    pictures: list[str] = field(default_factory=list, repr=False)
    runs: list[int] = field(default_factory=list, repr=False)  # of tokens of its code, for `similar.pairs`
    odd: list[str] = field(default_factory=list)  # about the name that it typed, for graders

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


def files_in(place: Path) -> Iterator[tuple[str, float, int, bytes, str]]:
    """(name, time, size, content, why it cannot be read) of every file in a folder or a zip, and in zips within.

    The content is empty if it is too large.
    """
    if not place.is_dir():
        with zipfile.ZipFile(place) as archive:
            yield from _members(archive, "", 1)
        return
    for path in sorted(p for p in place.rglob("*") if p.is_file() and not p.is_symlink()):
        name = os.fsencode(path.relative_to(place).as_posix())
        text, stat = _text(name), path.stat()
        try:
            if path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from _members(archive, text + "/", 1)
                continue
            content, fault = path.read_bytes() if stat.st_size <= LARGEST else b"", ""
        except Exception as error:
            content, fault = b"", f"{type(error).__name__}: {error}"
        yield text, stat.st_mtime, stat.st_size, content, fault


def _text(name: bytes) -> str:
    """The name of a file, also of one that is not in UTF-8."""
    try:
        return name.decode("utf-8")
    except UnicodeError:
        return name.decode("cp1252", "replace")


def _members(archive: zipfile.ZipFile, before: str, deeper: int) -> Iterator[tuple[str, float, int, bytes, str]]:
    """What is in a zip, and `deeper` levels of zips in it. One member that cannot be read hinders no other."""
    members = sorted((i for i in archive.infolist() if not i.is_dir()), key=lambda i: i.filename)
    for info in members:
        name, content, fault, when = before + info.filename, b"", "", 0.0
        try:
            when = time.mktime((*info.date_time, 0, 0, -1))
            with archive.open(info) as opened:
                content = opened.read(LARGEST + 1)
            if deeper and name.lower().endswith(".zip") and zipfile.is_zipfile(io.BytesIO(content)):
                inner = zipfile.ZipFile(io.BytesIO(content))
                if len(inner.infolist()) <= MEMBERS and sum(i.file_size for i in inner.infolist()) <= 10 * LARGEST:
                    yield from _members(inner, name + "/", deeper - 1)
                    continue
                fault = f"a zip with more than {MEMBERS} files or {10 * LARGEST // 2**20} MB"
        except Exception as error:  # whatever a damaged zip makes zipfile raise
            fault = f"{type(error).__name__}: {error}"
        size = max(info.file_size, len(content))
        yield name, when, size, content if size <= LARGEST else b"", fault


def collect(
    place: Path,
    exercises: Sequence[str],
    parts: Mapping[str, set[str]] | None = None,
    published: Mapping[str, set[str]] | None = None,
) -> list[Submission]:
    """Every file as a Submission; of several files of one student and exercise only one is to be graded.

    parts: exercise -> the grade ids of its cells, to know a notebook by that has an unknown name.
    published: exercise -> the code of its solution, to know a copy of that by.
    """
    found, candidates, loose = [], collections.defaultdict(list), []
    hidden = re.compile(r"(^|/)(\.|__MACOSX|Thumbs\.db$|desktop\.ini$)")
    files = [file for file in files_in(place) if not hidden.search(file[0])]
    common = _common_folders([_parts(name) for name, *_ in files], exercises)
    below = {name: _parts(name)[common:] for name, *_ in files}
    class_ = _class([path for name, path in below.items() if name.lower().endswith(".ipynb")], exercises)
    for name, when, size, content, fault in files:
        one = Submission(name, content=content, when=when)
        found.append(one)
        one.exercise, one.student, number, one.platform = _who(below[name], exercises, **class_)
        notebook = name.lower().endswith(".ipynb")
        if notebook and not one.exercise and parts:
            one.exercise = _by_cells(content, parts)
            if one.exercise:
                one.remarks.append(f"its name does not say which exercise it is; its cells are those of {one.exercise}")
        if "_LATE_" in Path(name).name:
            one.remarks.append("handed in late, says its name")
        if fault:
            one.state = f"it cannot be read: {fault}"
        elif not notebook:
            one.state = "not a notebook: its name does not end in .ipynb"
            loose += [one] if len(content) <= BESIDE else []
        elif not one.exercise:
            one.state = f"unknown exercise: its name must end in one of {', '.join(exercises)}"
        elif size > LARGEST:
            one.state = f"too large: {size / 2**20:.0f} MB, at most {LARGEST / 2**20:.0f} MB are read"
        elif not content.strip():
            one.state = "the file is empty"
        else:
            candidates[one.student, one.exercise].append((when, number, one))
    for exercise in exercises:  # files without any name are of several people
        nameless = candidates.pop(("unnamed", exercise), [])
        for when, number, one in nameless:
            if len(nameless) > 1:
                one.student = _student(f"unnamed {'/'.join(below[one.file]).removesuffix('.ipynb')}")
            candidates[one.student, exercise].append((when, number, one))
    _refuse_one_for_all(candidates)
    for (_, exercise), several in candidates.items():
        _choose(several, (parts or {}).get(exercise, set()), (published or {}).get(exercise, set()))
    for one in found:
        if one.state == "graded":
            one.beside = _beside(one, below, loose, found)
    return found


def _refuse_one_for_all(candidates: Mapping[tuple[str, str], Sequence]) -> None:
    """Raises SystemExit where most notebooks of a set seem to be of one student: then the names were misread."""
    for (student, exercise), several in candidates.items():
        of = sum(len(others) for (_, set_), others in candidates.items() if set_ == exercise)
        if len(several) >= 5 and 2 * len(several) > of:
            raise SystemExit(
                f"{exercise}: {len(several)} of {of} notebooks would count as those of one student, {student!r}, and one "
                f"of them be graded: {several[0][2].file}, {several[1][2].file} … The names of files or folders must say "
                "whose they are: put what each student handed in into a folder with the student's name. "
                "Nothing was graded."
            )


def _choose(several: list[tuple[float, int, Submission]], ids: set[str], published: set[str]) -> None:
    """Leave one of the files of one student and exercise to be graded, and say of the others why they are not.

    No published solution and no lecture counts, then what has cells of the exercise, then the newest that can be read.
    """
    ranked, unread = [], []
    for when, number, one in sorted(several, key=lambda entry: entry[:2]):
        folders = [part.lower() for part in _parts(one.file)[:-1]]
        what, known = next((ASIDE[folder] for folder in folders if folder in ASIDE), ""), 0
        if len(several) > 1 or what:
            try:
                notebook, _ = read(one.content)
            except ValueError as error:
                unread.append((one, str(error)))
                continue
            same = bool(published) and published <= {cell.source.strip() for cell in notebook.cells}
            if same and what == ASIDE["solutions"]:
                one.state = "not graded: the published solution, unchanged"
                continue
            what, known = "the published solution" if same else what, len(ids & _ids(notebook))
        ranked.append(((not what, known >= 2, when, number), what, one))
    ranked.sort(key=lambda entry: entry[0])  # of equal ones the last
    if not ranked:  # the newest says what is wrong with it
        for one, _ in unread[:-1]:
            one.state = f"not graded: {unread[-1][0].file} of the same student is newer"
        return
    rank, _, best = ranked[-1]
    for key, what, one in ranked[:-1]:
        why = "is newer" if key[:2] == rank[:2] else f"counts, and this is {what or 'no copy of the exercise'}"
        one.state = f"not graded: {best.file} of the same student {why}"
    for one, reason in unread:
        one.state = f"{reason}; {best.file} of the same student was graded"


def _beside(one: Submission, below: Mapping, loose: Sequence[Submission], found: Sequence[Submission]) -> dict:
    """name -> content of what lies beside a notebook and below, where all notebooks there are of the same student."""
    folder, room, made = below[one.file][:-1], 10 * BESIDE, {}
    there = {other.student for other in found if other.exercise and below[other.file][: len(folder)] == folder}
    for other in loose:
        name = below[other.file]
        if other.platform == "canvas" and one.platform == "canvas" and other.student == one.student:
            name = [CANVAS.sub("", name[-1], count=1)]
        elif name[: len(folder)] == folder and there == {one.student}:
            name = name[len(folder) :]
        else:
            continue
        if len(other.content) <= room:
            made["/".join(name)] = other.content
            room -= len(other.content)
            other.state += f"; {one.file} can read it where it runs"
    return made


def _parts(name: str) -> list[str]:
    """The folders and the file name; of a path of another computer, with its drive, only the file name."""
    parts = [part for part in re.split(r"[/\\]", unicodedata.normalize("NFC", name)) if part not in ("", ".", "..")]
    return parts[-1:] if any(part.endswith(":") for part in parts) else parts


def _common_folders(paths: Sequence[Sequence[str]], exercises: Sequence[str]) -> int:
    """How many folders at the front are those of the export: all files are in them, and several people below them."""
    for depth in range(max(map(len, paths), default=0)):
        folders = {path[depth] if len(path) > depth + 1 else "" for path in paths}
        if len(folders) == 1 and any(map(_platform, folders)):
            return depth
        if len(folders) > 1:
            books = [path[depth:] for path in paths if path[-1].lower().endswith(".ipynb")]
            if not any(_chain(path, exercises)[1] or any(map(_platform, path)) for path in books):
                people = [i for i in range(depth) if not _nobody(paths[0][i], exercises)]
                return people[-1] if people else depth  # the last of them is the student: nobody else is named
            return depth
    return 0


def _platform(text: str) -> bool:
    return bool(MOODLE.match(text) or BOARD.search(text))


def _folder(name: str) -> str:
    """The name of a folder; a zip is read as one."""
    return name[: -len(".zip")] if name.lower().endswith(".zip") else name


def _nobody(folder: str, exercises: Sequence[str]) -> bool:
    return _folder(folder).lower() in {*NOBODY, *ASIDE, *(name.lower() for name in exercises)}


def _set(parts: Sequence[str], exercises: Sequence[str]) -> tuple[str, str, str | None]:
    """(exercise, what stands before its name, what stands behind), from the file's name, else from the folders'."""
    *folders, stem = parts
    while stem.lower().endswith(".ipynb"):
        stem = stem[: -len(".ipynb")]
    low, lows = stem.lower(), [_folder(folder).lower() for folder in folders]
    at = max(((low.rfind(name.lower()), len(name), name) for name in exercises if name.lower() in low), default=None)
    if at is None:
        return next((name for name in exercises if name.lower() in lows), ""), COPY_OF.sub("", stem), None
    return at[2], COPY_OF.sub("", stem[: at[0]]), stem[at[0] + at[1] :]


def _chain(parts: Sequence[str], exercises: Sequence[str]) -> tuple[str, list[str]]:
    """(exercise, all that may name a person: folders from the outside, what stands before the set's name, and behind)."""
    exercise, before, after = _set(parts, exercises)
    people = [COPY_OF.sub("", _folder(folder)) for folder in parts[:-1] if not _nobody(folder, exercises)]
    if after is None:
        return exercise, people or [before]
    behind = " ".join(word for word in re.split(r"(?:[^\w'’]|_)+", after) if not COPY.fullmatch(word))
    return exercise, [name for name in (*people, before.strip(" ._-"), behind) if name]


def _class(paths: Sequence[Sequence[str]], exercises: Sequence[str]) -> dict:
    """What only all notebooks of a class together say of their names, for `_who`."""
    boards = collections.defaultdict(list)
    for path in paths:
        exercise, before, _ = _set(path, exercises)
        boards[exercise] += [board[1] for board in map(BOARD.search, (before, *path[:-1])) if board]
    begins = {exercise: os.path.commonprefix(heads) for exercise, heads in boards.items() if len(set(heads)) > 1}
    others = [path for path in paths if not any(map(_platform, path))]
    canvas = [
        (_set(path, exercises)[0], *fields.groups()[:2]) for path in others if (fields := _canvas(path, exercises))
    ]
    is_canvas = 2 * len(canvas) > len(others) and 2 * len(set(canvas)) >= len(canvas)  # and no group_101_202
    titles = {exercise: begin[: begin.rfind("_") + 1] for exercise, begin in begins.items()}
    found: dict = {"titles": titles, "canvas": is_canvas, "level": 0}
    chains = {(name, *people) for name, people in (_chain(path, exercises) for path in others) if people}
    while True:  # a folder with several people is a group: its people are one level deeper
        level, groups = found["level"], collections.defaultdict(set)
        for chain in chains:
            groups[chain[: level + 2]].add(chain[level + 2] if len(chain) > level + 2 else "")
        several = sum(len(names) > 1 and "" not in names for names in groups.values())
        if not several or 2 * several < len(groups):
            break
        found["level"] += 1
    whose = collections.defaultdict(set)
    for exercise, *people in chains:
        whose[exercise, _of_level(people, level)].add(tuple(people))
    found["alike"] = {name for name, several in whose.items() if not _one_person(several)}
    return found


def _canvas(path: Sequence[str], exercises: Sequence[str]) -> re.Match | None:
    """Canvas's fields in front of the name of a file, or of the zip in which it came."""
    zips = [folder for folder in path[:-1] if folder.lower().endswith(".zip")]
    return next(filter(None, map(CANVAS.match, (_set(path, exercises)[1], *reversed(zips)))), None)


def _of_level(people: Sequence[str], level: int) -> str:
    return people[min(level, len(people) - 1)]


def _one_person(chains: set[tuple[str, ...]]) -> bool:
    """Whether all that has a name is one person's: one chain of folders, or one file lies in the person's own folder."""
    own = min(chains, key=len)
    return all(chain[: len(own)] == own for chain in chains)


def _who(
    parts: Sequence[str],
    exercises: Sequence[str],
    level: int = 0,
    canvas: bool = True,
    titles: Mapping[str, str] | None = None,
    alike: Collection[tuple[str, str]] = (),
) -> tuple[str, str, int, str]:
    """(exercise, student, number of the copy, platform), from what that wrote: a folder, or the fields before the name.

    Moodle: Name_id_assignsubmission_file_/any.ipynb. Canvas: name_LATE_user_submission_any.ipynb. Blackboard:
    Set_user_attempt_time_any.ipynb. Others: a folder for each person, name_05_sam.ipynb, or 05_sam_name.ipynb.
    level, canvas, titles, alike: what `_class` says of the folder, the platform, how Blackboard's names of an exercise
    begin, and the names that several people have.
    """
    exercise, before, after = _set(parts, exercises)
    numbers = re.findall(r"\d{1,9}", after or "")
    copy = int(numbers[-1]) if numbers else 0
    for lead in (before, *reversed(parts[:-1])):
        if moodle := MOODLE.match(lead):
            return exercise, _student(moodle[1]), copy, "moodle"
        if board := BOARD.search(lead):
            starts = titles or {}
            known = [starts[exercise]] if exercise in starts else sorted(starts.values(), key=len)
            title = next(filter(board[1].startswith, known), board[1][: board[1].rfind("_") + 1])
            return exercise, _student(board[1].removeprefix(title)), int(re.sub(r"\D", "", board[2])), ""
    if canvas and (fields := _canvas(parts, exercises)):
        number = int(fields[3]) * 1000 + min(copy, 999)
        return exercise, _student(f"{fields[1]}_{fields[2]}"), number, "canvas"
    _, people = _chain(parts, exercises)
    name = _of_level(people, level) if people else ""
    return exercise, _student(" ".join(people) if (exercise, name) in alike else name), copy, ""


def _student(name: str) -> str:
    return re.sub(r"[^\w.@+ '’-]", "_", name)[:100].strip(" ._'’-") or "unnamed"


def _ids(notebook: NotebookNode) -> set[str]:
    return {cell.metadata.get("nbgrader", {}).get("grade_id", "") for cell in notebook.cells}


def _by_cells(content: bytes, parts: Mapping[str, set[str]]) -> str:
    """The exercise to which most of the marked cells of a notebook belong, or nothing."""
    try:
        ids = _ids(read(content)[0])
    except ValueError:
        return ""
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
    if not isinstance(notebook, dict) or type(notebook.get("nbformat")) not in (int, float):
        raise ValueError("not a notebook: no nbformat in it")
    try:
        made = nbformat.convert(nbformat.from_dict(notebook | {"nbformat": int(notebook["nbformat"])}), 4)
        made.cells = [_cell(cell) for cell in made.get("cells") or [] if isinstance(cell, NotebookNode)]
        return made, remarks
    except Exception as error:  # whatever a damaged notebook makes nbformat raise
        raise ValueError(f"a damaged notebook: {type(error).__name__}: {error}") from None


def _cell(cell: NotebookNode) -> NotebookNode:
    """The cell with every field of its type: what is of another is left out."""
    source, of = cell.get("source"), {"metadata": dict, "attachments": dict, "outputs": list}
    cell["source"] = "".join(map(str, source)) if isinstance(source, list) else str(source or "")
    for name, kind in of.items():
        if name in cell and not isinstance(cell[name], kind):
            cell[name] = NotebookNode() if kind is dict else []
    cell.setdefault("metadata", NotebookNode())
    cell["outputs"] = [output for output in cell.get("outputs", []) if isinstance(output, dict)]
    marks = cell.metadata.get("nbgrader")
    if not isinstance(marks, dict) or not isinstance(marks.get("grade_id", ""), str):
        cell.metadata.pop("nbgrader", None)
    if not isinstance(cell.get("id", ""), str):
        del cell["id"]
    return cell


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
        if role(like) == "check" and source.strip() != shown(like).strip():
            remarks[f"the check {_name(like)} was changed; it was graded as handed out"] += 1
        if role(like) in ("code", "written"):
            pieces[number].append(source)
        elif role(like) == "given" and code and source.strip() not in ("", like.source.strip()) and not asks_name(like):
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
    alike = [n for n, like in enumerate(expected.cells) if shown(like).strip() == source.strip() != ""]
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
    mine = _defined(source) | set(re.findall(r"^(\w+) *(?::[^=\n]+)?=(?!=)", source, flags=re.MULTILINE))
    found = [n for n, like in enumerate(expected.cells) if role(like) == "code" and _defined(like.source) & mine]
    return found[0] if len(found) == 1 else None


def _defined(source: str) -> set[str]:
    """The functions and classes at the left edge of a cell."""
    return set(re.findall(r"^(?:async +)?(?:def|class) +(\w+)", source, flags=re.MULTILINE))


def _parses(source: str) -> bool:
    try:
        ast.parse(re.sub(r"(?m)^\s*[%!].*$", "pass", source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


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
            whole = "\n\n".join(found)
            if role(like) == "code" and (all(map(_parses, found)) or not _parses(whole)):
                *before, whole = found  # cells of their own, as in a kernel: one that fails leaves the others
                made += [nbformat.from_dict(cell | {"source": piece, "id": "piece"}) for piece in before]
            cell.source = whole
        made.append(cell)
    new = {True: nbformat.v4.new_code_cell, False: nbformat.v4.new_markdown_cell}
    return made + [new[code](source) for code, source in mine]
