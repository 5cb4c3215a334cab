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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
from nbformat import NotebookNode
from tqdm.auto import tqdm

from assignments import role, settings
from notebooks import ROOT, write
from running import COLOUR, NO_START
from submissions import Submission, collect, read, repair

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
        write(kept, json.dumps(result | {"made_of": made_of.hexdigest()}, indent=1))


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
    write(out / "report.html", report(found))
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


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if asked["alone"]:
        _loopback()
    with contextlib.suppress(ImportError):
        _limit(asked["memory_gb"])
    result = autograde(asked)
    if result["scores"]:
        write_feedback(asked)
    write(Path(asked["answer"]), json.dumps(result))
