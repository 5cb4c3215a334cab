"""Grade what a class handed in: every submission in processes of its own, with one table, one report, a page for each.

Used through `tools/exercises.py grade`. Grading runs code that students wrote; `confine.py` says what that code may do.
"""

import argparse
import base64
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import runpy
import secrets
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import FunctionType

import nbformat
import torch
from tqdm.auto import tqdm

import confine
import feedback
import gradebook
import judging
import own
import platforms
import similar
import written
from assignments import blank, read, role, source_of
from notebooks import ROOT, write
from submissions import Submission, collect

PROCESSES = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
if sys.platform != "win32":
    PROCESSES.set_forkserver_preload(["grading", "scipy.stats"])  # torch and the rest are imported once
LIBRARIES = ("numpy", "torch", "pandas", "scipy", "nbformat")


def sheets(exercises: Sequence[str], folder: Path, root: Path = ROOT) -> dict[str, Path]:
    """exercise -> the sheet as it is graded: no solutions, and the checks of `solutions/` with their hidden tests."""
    found = {}
    for name in exercises:
        solution = read(_solution(name, root))
        found[name] = folder / f"{name}.ipynb"
        nbformat.write(blank(solution, hidden=True), found[name])
    return found


def _solution(exercise: str, root: Path) -> Path:
    return root / "solutions" / exercise / f"{exercise}.ipynb"


def _known(exercise: str, root: Path) -> tuple[set[str], set[str]]:
    """The grade ids of a set, and the code of its published solution."""
    cells = read(_solution(exercise, root)).cells
    ids = {cell.metadata.nbgrader.grade_id for cell in cells if role(cell) != "given"}
    return ids, {cell.source.strip() for cell in cells if role(cell) == "code"}


def fixed_part(exercise: str, sheet: Path, options: argparse.Namespace) -> bytes:
    """All on which marks depend besides the submission: sheet, checks, private checks, seed, limits and versions."""
    made = hashlib.sha256(sheet.read_bytes())
    package = ROOT / "sam_lite"
    files = sorted([*package.rglob("*.py"), *Path(__file__).parent.glob("*.py")])
    if options.private:
        files += sorted(Path(options.private).rglob("*.py"))
    for path in files:
        made.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    limits = [options.seed, options.seconds, options.cell_seconds, options.memory_gb]
    made.update(json.dumps([exercise, *limits, *map(version, LIBRARIES), sys.version]).encode())
    return made.digest()


def private_checks(folder: Path) -> Path:
    """The whole path of a folder of private checks. Raises SystemExit for one of them that would never run."""
    sets = {path.stem for path in (ROOT / "sam_lite" / "checks").glob("set_*.py")}
    if not (files := sorted(folder.glob("*.py"))):
        raise SystemExit(f"--private must be a folder with files like set_05.py, and {folder} has none")
    for path in files:
        if path.stem not in sets:
            raise SystemExit(
                f"{path}: its name must be one of {', '.join(sorted(sets))}, with .py. Nothing was graded."
            )
        checks = vars(importlib.import_module(f"sam_lite.checks.{path.stem}"))
        known = [name for name, one in checks.items() if hasattr(one, "points")]
        try:
            found = runpy.run_path(str(path), run_name="private").items()
        except Exception as error:
            raise SystemExit(f"{path} cannot be run: {type(error).__name__}: {error}. Nothing was graded.") from None
        mine = [name for name, one in found if isinstance(one, FunctionType) and one.__module__ == "private"]
        if wrong := [name for name in mine if not name.startswith("_") and name not in known]:
            raise SystemExit(
                f"{path}: {', '.join(wrong)} must have the name of a check of this set, {', '.join(known)}, or begin with _ "
                "if it is a helper: it would never run. Nothing was graded."
            )
    return folder.resolve()


def grade_one(one: Submission, sheet: Path, fixed: bytes, out: Path, options: argparse.Namespace, prefix: list) -> None:
    """Fill in state, remarks and scores of one submission, from an earlier run if nothing has changed."""
    kept = out / "results" / one.exercise / f"{one.student}.json"
    files = json.dumps([[name, hashlib.sha256(content).hexdigest()] for name, content in sorted(one.beside.items())])
    made_of = hashlib.sha256(fixed + one.content + (files.encode() if one.beside else b"")).hexdigest()
    if kept.is_file() and not options.regrade:
        with contextlib.suppress(ValueError, KeyError):
            old = json.loads(kept.read_text(encoding="utf-8"))
            if old["made_of"] == made_of:
                one.take(old)
                return
    with tempfile.TemporaryDirectory(prefix="grade", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        (work / "handed.ipynb").write_bytes(one.content)
        request: dict = {
            "handed": str(work / "handed.ipynb"),
            "expected": str(sheet),
            "work": str(work),
            "prefix": prefix,
        }
        request |= {name: getattr(options, name) for name in ("seconds", "cell_seconds", "memory_gb", "seed")}
        request |= {"private": str(options.private or ""), "answer": str(work / "answer.json")}
        request["beside"] = {name: base64.b64encode(content).decode() for name, content in one.beside.items()}
        result = _judge(request, work, judging.longer(nbformat.read(sheet, as_version=4)))
        one.take(result)
    if one.scores:  # the others are tried again next time, perhaps with other limits
        write(kept, json.dumps(result | {"made_of": made_of}, indent=1))


def _judge(request: dict, work: Path, longer: float = 0.0) -> dict:
    """What `judging.py` says, in a process that is killed, with all it started, when its time is over."""
    process = PROCESSES.Process(target=_apart, args=(request, work), daemon=True)
    process.start()
    process.join(2 * (request["seconds"] + longer) + 360)
    if process.is_alive():
        feedback.kill(process.pid)
        process.join()
        return {"state": "not graded: the checks themselves did not end", "remarks": [], "scores": {}}
    try:
        return json.loads(Path(request["answer"]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        log = work / "judge.log"
        lines = log.read_bytes()[-2000:].decode("utf-8", "replace").strip().splitlines() if log.is_file() else []
        state = f"not graded: the grading process ended with code {process.exitcode}: {lines[-1] if lines else ''}"
        return {"state": state, "remarks": [], "scores": {}}


def _apart(request: dict, work: Path) -> None:
    """Judge one submission in this process, which is forked from one that has imported everything."""
    with (work / "judge.log").open("wb") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    torch.set_num_threads(1)
    os.chdir(work)
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "MPLBACKEND": "agg"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    write(Path(request["answer"]), json.dumps(judging.judge(request)))


def seed_of(out: Path) -> int:
    """The seed of the checks' inputs: drawn once for a folder of results, so that grading again changes nothing."""
    path = out / "seed.txt"
    if not path.is_file():
        write(path, f"{secrets.randbits(31)}\n")
    return int(path.read_text(encoding="utf-8"))


def grade(place: Path, out: Path, options: argparse.Namespace, root: Path = ROOT) -> list[Submission]:
    """Grade a folder or a zip; writes results, pages for students and graders, tables and the report into `out`."""
    defaults = {"seed": None, "private": None, "regrade": False, "due": None, "points": [], "anonymous": False}
    for name, value in defaults.items():
        setattr(options, name, getattr(options, name, value))
    options.private = options.private and private_checks(options.private)
    for path, column in [(out / "grades.csv", "student"), *((path, "answer") for path in options.points)]:
        gradebook.table(path, column)  # stops before the work where it could not be read after it
    key = seed_of(out)
    options.seed = key if options.seed is None else options.seed
    exercises = [path.stem for path in source_of(root)]
    known = {name: _known(name, root) for name in exercises}
    found = collect(place, exercises, *({name: both[i] for name, both in known.items()} for i in (0, 1)))
    todo = [one for one in found if one.state == "graded"]
    prefix = confine.isolation()
    for lack in confine.lacking():
        print(lack)
    with tempfile.TemporaryDirectory(prefix="course", ignore_cleanup_errors=True) as temporary:
        papers = sheets(sorted({one.exercise for one in todo}), Path(temporary), root)
        fixed = {name: fixed_part(name, sheet, options) for name, sheet in papers.items()}
        with ThreadPoolExecutor(options.jobs) as pool:
            runs = [
                pool.submit(grade_one, one, papers[one.exercise], fixed[one.exercise], out, options, prefix)
                for one in todo
            ]
            try:
                for run in tqdm(runs, desc="graded", unit="notebook", disable=None):
                    run.result()
            except BaseException:  # an interrupt: leaving the pool would grade the rest of the class first
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    gradebook.merge(found, out / "grades.csv", options.due, written.points(options.points, found, key))
    own.remark(found)
    for one in found:
        if one.scores:
            page = feedback.page(f"{one.exercise}: {one.student}", one.body, one.scores, one.remarks)
            write(out / "feedback" / one.exercise / f"{one.student}.html", page)
    published = {}
    for exercise in papers:
        solution = read(_solution(exercise, root))
        published[exercise] = similar.runs(cell.source for cell in solution.cells if role(cell) == "code")
        page = written.page(exercise, found, solution, key, anonymous=options.anonymous)
        write(out / "written" / f"{exercise}.html", page)
    platforms.give_back(found, out)
    similar.write(found, published, out / "similar.csv")
    write(out / "report.html", gradebook.report(found))
    return found
