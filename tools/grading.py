"""Grade what students handed in, with nbgrader's autograder: one process, one database and one time limit for each.

Used through `tools/exercises.py grade`. Grading runs code that students wrote. It runs without network and with limits
on memory, file size and time where the system allows that, and says on screen where not. It is no sandbox: the code
can read and write what the account that grades can.
"""

import argparse
import collections
import contextlib
import csv
import hashlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import nbformat
import psutil
from nbformat import NotebookNode
from tqdm.auto import tqdm

from exercises import role, settings
from notebooks import ROOT
from running import COLOUR, NO_START

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


# ---------------------------------------------------------------- one submission, in a process of its own


def autograde(request: dict) -> dict:
    """Grade one notebook with nbgrader in the course folder of `request`; returns scores, remarks and the state."""
    from nbgrader.apps import NbGraderAPI

    course, exercise = Path(request["course"]), request["exercise"]
    try:
        handed, remarks = read(Path(request["handed"]).read_bytes())
        expected = nbformat.read(course / "release" / exercise / f"{exercise}.ipynb", as_version=4)
        notebook, more = repair(handed, expected)
    except ValueError as error:
        return {"state": str(error), "remarks": [], "scores": {}}
    target = course / "submitted" / "student" / exercise / f"{exercise}.ipynb"
    target.parent.mkdir(parents=True)
    nbformat.write(notebook, target)
    api = NbGraderAPI(config=_config(course, request["cell_seconds"]))
    for _ in range(3):
        outcome = api.autograde(exercise, "student")
        if NO_START not in str(outcome):
            break
    if not outcome["success"]:
        reason, said = "nbgrader could not grade it: " + _last(outcome), str(outcome)
        if "DeadKernel" in said:
            reason = "its code ended the kernel"
        elif "CellTimeoutError" in said:
            reason = f"a cell ran for more than {request['cell_seconds']} s and could not be interrupted"
        return {"state": f"not graded: {reason}", "remarks": remarks + more, "scores": {}}
    graded = nbformat.read(course / "autograded" / "student" / exercise / f"{exercise}.ipynb", as_version=4)
    failed = {cell.metadata.nbgrader.grade_id: _failure(cell) for cell in graded.cells if role(cell) == "check"}
    scores = {}
    with api.gradebook as gradebook:
        for grade in gradebook.find_submission_notebook(exercise, exercise, "student").grades:
            by_hand = grade.auto_score is None
            points = None if by_hand else grade.auto_score
            scores[grade.name] = {"points": points, "of": grade.max_score, "failed": failed.get(grade.name, "")}
    return {"state": "graded", "remarks": remarks + more, "scores": scores}


def write_feedback(request: dict) -> None:
    """The page for the student, in the course folder of `request`, after `autograde`."""
    from nbgrader.apps import NbGraderAPI

    api = NbGraderAPI(config=_config(Path(request["course"]), request["cell_seconds"]))
    api.generate_feedback(request["exercise"], "student")


def _config(course: Path, cell_seconds: int):
    config = settings()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.source_directory = "source"
    config.CourseDirectory.release_directory = "release"
    config.CourseDirectory.db_url = f"sqlite:///{course / 'gradebook.db'}"
    config.NbGrader.logfile = ""
    config.Application.log_level = "ERROR"
    config.Execute.timeout = cell_seconds
    return config


def _last(outcome: dict) -> str:
    """The last error that nbgrader logged, but for its own general one."""
    lines = [
        line.strip() for line in (outcome.get("log") or "").splitlines() + (outcome.get("error") or "").splitlines()
    ]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Timeout|Interrupt)\b", line)]
    special = [line for line in named if "NbGraderException" not in line]
    return (special or named or lines or ["for an unknown reason"])[-1]


def _failure(cell: NotebookNode) -> str:
    """The error of a check in one line."""
    errors = [f"{out.ename}: {out.evalue}" for out in cell.outputs if out.output_type == "error"]
    return re.sub(r"\s+", " ", re.sub(COLOUR, "", errors[0]))[:300] if errors else ""


def _loopback() -> None:
    """Switch on the loopback device of a new network namespace: Jupyter talks to its kernel through it."""
    import fcntl
    import socket
    import struct

    up_and_running, set_flags = 0x41, 0x8914
    with socket.socket() as opened:
        fcntl.ioctl(opened, set_flags, struct.pack("16sH14s", b"lo", up_and_running, b""))


def _limit(memory_gb: float) -> None:
    """Limits for this process and all that it starts."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (int(memory_gb * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def isolation() -> list[str]:
    """The start of a command line that takes away network and, when it ends, everything it started; or nothing."""
    command = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
    works = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else []


# ---------------------------------------------------------------- the whole class


def prepare(exercise: str, folder: Path, root: Path = ROOT) -> Path:
    """A course folder of nbgrader with one released exercise, to be copied for each submission."""
    course = folder / exercise
    source = course / "source" / exercise
    source.mkdir(parents=True)
    shutil.copy(root / "solutions" / exercise / f"{exercise}.ipynb", source)
    from nbgrader.apps import NbGraderAPI

    before = os.environ.get("PATH", "")
    os.environ["PATH"] = _path()
    try:
        outcome = NbGraderAPI(config=_config(course, 60)).generate_assignment(exercise)
    finally:
        os.environ["PATH"] = before
    if not outcome["success"]:
        raise RuntimeError(f"nbgrader could not make {exercise}: {_last(outcome)}")
    return course


def _path() -> str:
    """PATH with the scripts of this Python first: nbgrader starts `alembic` by its bare name."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def grade_one(one: Submission, course: Path, out: Path, options: argparse.Namespace, prefix: Sequence[str]) -> None:
    """Fill in state, remarks and scores of one submission, from an earlier run if nothing has changed."""
    kept = out / "results" / one.exercise / f"{one.student}.json"
    made_of = hashlib.sha256(one.content + (course / "release" / one.exercise / f"{one.exercise}.ipynb").read_bytes())
    if kept.is_file():
        with contextlib.suppress(ValueError, KeyError):
            old = json.loads(kept.read_text(encoding="utf-8"))
            if old.pop("made_of") == made_of.hexdigest():
                one.state, one.remarks, one.scores = old["state"], old["remarks"], old["scores"]
                return
    with tempfile.TemporaryDirectory(prefix="grade", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        shutil.copytree(course, work / "course")
        (work / "handed.ipynb").write_bytes(one.content)
        request = {"course": str(work / "course"), "exercise": one.exercise, "handed": str(work / "handed.ipynb")}
        request |= {
            "cell_seconds": options.cell_seconds,
            "memory_gb": options.memory_gb,
            "alone": bool(prefix),
            "answer": str(work / "answer"),
        }
        result = _in_a_process(request, work, options.seconds, prefix)
        one.state, one.remarks, one.scores = result["state"], result["remarks"], result["scores"]
        page = work / "course" / "feedback" / "student" / one.exercise / f"{one.exercise}.html"
        if page.is_file():
            target = out / "feedback" / one.exercise / f"{one.student}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    if one.scores:  # the others are tried again next time, perhaps with other limits
        _whole(kept, json.dumps(result | {"made_of": made_of.hexdigest()}, indent=1))


def _in_a_process(request: dict, work: Path, seconds: float, prefix: Sequence[str]) -> dict:
    """The answer of `autograde` in a process that is killed, with all it started, when its time is over."""
    (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
    env = os.environ | {"OMP_NUM_THREADS": "1", "JUPYTER_RUNTIME_DIR": str(work / "r"), "IPYTHONDIR": str(work / "i")}
    env |= {
        "PATH": _path(),
        "HOME": str(work),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "TQDM_DISABLE": "1",
        "MPLBACKEND": "agg",
    }
    command = [*prefix, sys.executable, str(Path(__file__).resolve()), str(work / "request.json")]
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=work, env=env)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"state": f"not graded: it ran for more than {seconds:.0f} s", "remarks": [], "scores": {}}
        finally:
            _kill(process)
    try:
        return json.loads(Path(request["answer"]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        with (work / "log").open("rb") as log:
            log.seek(max(0, (work / "log").stat().st_size - 2000))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
        state = f"not graded: the grading process ended with code {process.returncode}: {lines[-1] if lines else ''}"
        return {"state": state, "remarks": [], "scores": {}}


def _kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(psutil.Error):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def grade(place: Path, out: Path, options: argparse.Namespace, root: Path = ROOT) -> list[Submission]:
    """Grade a folder or a zip; writes results, feedback, grades.csv and report.html into `out`."""
    exercises = sorted(path.stem for path in root.glob("solutions/*/*.ipynb"))
    found = collect(place, exercises)
    todo = [one for one in found if one.state == "graded"]
    prefix = isolation()
    if not prefix:
        print("NOTE: this system gives no way to run the students' code without network; it can reach what you can.")
    if sys.platform == "win32":
        print("NOTE: this system gives no way to limit the memory that the students' code takes.")
    with tempfile.TemporaryDirectory(prefix="course", ignore_cleanup_errors=True) as temporary:
        courses = {name: prepare(name, Path(temporary), root) for name in sorted({one.exercise for one in todo})}
        with ThreadPoolExecutor(options.jobs) as pool:
            runs = [pool.submit(grade_one, one, courses[one.exercise], out, options, prefix) for one in todo]
            for run in tqdm(runs, desc="graded", unit="notebook", disable=None):
                run.result()
    out.mkdir(parents=True, exist_ok=True)
    _table(found, out / "grades.csv")
    _whole(out / "report.html", report(found))
    return found


def _table(found: Sequence[Submission], path: Path) -> None:
    """grades.csv: one row for each file, also for those that could not be graded."""
    rows = [["student", "exercise", "points", "of", "by hand", "state", "remarks", "file"]]
    for one in sorted(found, key=lambda one: (one.exercise, one.student, one.file)):
        points = [f"{one.points:g}", f"{one.of:g}", f"{one.by_hand:g}"] if one.scores else ["", "", ""]
        row = [one.student, one.exercise, *points, one.state, "; ".join(one.remarks), one.file]
        rows.append(
            ["'" + text if text[:1] in ("=", "+", "-", "@") else text for text in row]
        )  # no spreadsheet formula
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    part.replace(path)


def report(found: Sequence[Submission]) -> str:
    """The class report as a page: for each part the mean and the most common failed check; then every file."""
    text = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Class report</title>',
        f"<style>{STYLE}</style>",
    ]
    text.append("<h1>Class report</h1>")
    for exercise in sorted({one.exercise for one in found if one.scores}):
        graded = [one for one in found if one.exercise == exercise and one.scores]
        text.append(f"<h2>{html.escape(exercise)}</h2><p>{len(graded)} graded.</p>")
        text.append("<table><tr><th>part<th>mean<th>of<th>failed<th>most common reason</tr>")
        for name in graded[0].scores:
            scores = [one.scores[name] for one in graded if name in one.scores]
            failed = collections.Counter(score["failed"] for score in scores if score["failed"])
            reason = f"{failed.most_common(1)[0][1]} × {failed.most_common(1)[0][0]}" if failed else ""
            points = [score["points"] for score in scores]
            mean = "by hand" if None in points else f"{sum(points) / len(points):.1f}"
            cells = (name, mean, f"{scores[0]['of']:g}", sum(failed.values()), reason)
            text.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in cells) + "</tr>")
        text.append("</table>")
    text.append("<h2>Every file</h2><table><tr><th>file<th>student<th>exercise<th>points<th>state and remarks</tr>")
    for one in sorted(found, key=lambda one: (one.state == "graded", one.exercise, one.student)):
        name = html.escape(one.student)
        if one.scores:
            name = f'<a href="feedback/{html.escape(one.exercise)}/{html.escape(one.student)}.html">{name}</a>'
        points = f"{one.points:g} of {one.of:g}" if one.scores else ""
        said = html.escape("; ".join([one.state, *one.remarks]))
        text.append(f"<tr><td>{html.escape(one.file)}<td>{name}<td>{one.exercise}<td>{points}<td>{said}</tr>")
    return "\n".join([*text, "</table></html>"])


STYLE = (
    "body{font:16px sans-serif;margin:2em;max-width:70em}td,th{text-align:left;padding:.2em .8em;vertical-align:top}"
)


def _whole(path: Path, text: str) -> None:
    """A file that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if asked["alone"]:
        _loopback()
    with contextlib.suppress(ImportError):
        _limit(asked["memory_gb"])
    result = autograde(asked)
    if result["scores"]:
        write_feedback(asked)
    _whole(Path(asked["answer"]), json.dumps(result))
