"""The marks of one submission: `judge` runs its answers in confinement, and judges them here.

The student's code runs in a process of its own (`answers.py`), which is started anew, without the cell that was at
fault, when it ends or takes too long. This process imports nothing of the student's: it runs the checks of the course
with the values that came back.
"""

import ast
import base64
import builtins
import contextlib
import importlib
import io
import json
import os
import queue
import re
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import feedback
import own
import similar
from assignments import is_picture, role
from plain import decode, restore
from running import COLOUR
from submissions import read, repair

CALL = re.compile(r"^(set_\w+)\.(\w+)\(([\w, ]+)\)$")  # a check of the course, alone in its cell
LONGEST = 64 * 2**20  # characters of one line
LOOKS = re.compile(
    r"_getframe|\binspect\.|sam_lite[./]checks|from sam_lite import .*\bchecks\b|gradebook|f_locals|CHECK_SEED"
    r"|\bset_0\d\.\w+ *=(?!=)|setattr\( *set_0\d"
)


GONE = "the answer's process stopped before the check was over"
START = 90  # seconds until the first cell runs
ASIDE = 10  # seconds, and cells, of the student's own that are run for what they leave behind
LEAVES = re.compile(
    r"(?m)import \*|\b(exec|globals|setattr|\w*seed|set_default_\w+|chdir|write\w*|to_csv|save|savez\w*|savetxt|dump)\("
    r"|\bsys\.path\b|^\s*(%%|%run|%pylab|!)"
)  # what names do not show: an answer may depend on it


class Gone(AssertionError):
    """The student's process did not say what came back."""


class NotStarted(RuntimeError):
    """The process of the answers did not come as far as the first cell: this is not the student's doing."""


class Replayed:
    """Stands for an answer in a check: gives what the student's function gave to the same call."""

    def __init__(self, log: Iterator[dict]):
        self.log = log

    def __call__(self, *arguments, **named):
        return self.probe(None, *arguments, **named)

    def probe(self, function, *arguments, **named):
        entry = next(self.log, None)
        if not isinstance(entry, dict):
            raise Gone(GONE)
        if "after" in entry:
            args, kwargs = decode(entry["after"])
            restore(arguments, args)
            restore(named, kwargs)
        if "raised" in entry:
            raise _error(*map(str, entry["raised"]))
        return decode(entry.get("returned"))


def _error(name: str, text: str) -> Exception:
    known = getattr(builtins, name, None)
    if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, (UnicodeError, OSError)):
        return known(text)
    return type(name if name.isidentifier() else "Error", (Exception,), {})(text)


# ---------------------------------------------------------------- what is run, and in which order


def names_in(source: str) -> tuple[set[str], set[str]]:
    """(names that a cell defines, names that it uses); all that looks like a name where it does not parse."""
    plain = re.sub(r"(?m)^\s*[%!].*$", "pass", source)
    try:
        tree = ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        words = set(re.findall(r"[^\W\d]\w*", source))
        return words, words
    defined = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            defined |= {inner.id for inner in ast.walk(node.value) if isinstance(inner, ast.Name)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return defined, used


def plan(notebook: NotebookNode) -> list[dict]:
    """The cells to run: answers, checks, and what they depend on. Pictures and experiments give no marks."""
    cells, needed, aside = [], set(), 0
    for cell in reversed([cell for cell in notebook.cells if cell.cell_type == "code" and not is_picture(cell)]):
        kind, name = role(cell), cell.metadata.get("nbgrader", {}).get("grade_id", "")
        call = CALL.match(cell.source.strip())
        defined, used = names_in(cell.source)
        if kind == "check" and call:
            names = [one.strip() for one in call[3].split(",")]
            needed |= set(names)
            made = {"kind": "call", "name": name, "module": call[1], "check": call[2], "names": names}
            cells.append(made | ({"seconds": cell.metadata.seconds} if "seconds" in cell.metadata else {}))
        elif kind in ("check", "code") or cell.get("id") == "imports" or defined & needed:
            needed |= used
            cells.append({"kind": kind, "name": name, "source": cell.source})
        elif needed and aside < ASIDE and LEAVES.search(cell.source):
            aside += 1
            cells.append({"kind": kind, "name": name, "source": cell.source, "seconds": ASIDE})
    return cells[::-1]


def longer(sheet: NotebookNode) -> float:
    """Seconds that the checks of a sheet have beyond the limits: those whose cells say how long they may take."""
    return sum(cell.metadata.get("seconds", 0) for cell in sheet.cells)


# ---------------------------------------------------------------- the student's process


def run(cells: list[dict], request: dict, work: Path) -> tuple[dict[int, dict], list[str]]:
    """number of a cell -> what the process said of it (`failed`: why it said nothing), and what was replaced.

    Raises NotStarted if there was no process that could say anything.
    """
    told, replaced, skipped = {}, [], set()
    finish = time.monotonic() + request["seconds"]
    for _ in range(len(cells) + 1):
        todo = [i for i in range(len(cells)) if i not in skipped and not (cells[i]["kind"] == "call" and i in told)]
        if not any(cells[i]["kind"] in ("call", "check") for i in todo) or time.monotonic() > finish:
            break
        fault = _attempt(cells, todo, told, replaced, request, work, finish)
        if fault is None:
            return told, replaced
        culprit, reason = fault
        if culprit is None and time.monotonic() < finish:
            raise NotStarted(reason)
        if culprit is None:
            break
        told[culprit] = {"failed": reason}
        skipped.add(culprit)
    for i in range(len(cells)):
        told.setdefault(i, {"failed": f"the notebook ran for more than {request['seconds']:.0f} s"})
    return told, replaced


def _attempt(cells, todo, told, replaced, request, work, finish):
    """Run the cells `todo` once; None, or (the cell at which it ended, why)."""
    asked = {"cells": [cells[i] for i in todo], "modules": request["modules"], "private": request["private"]}
    asked |= {"alone": bool(request["prefix"]), "memory_gb": request["memory_gb"]}
    asked |= {"seed": request["seed"]}
    home = Path(tempfile.mkdtemp(prefix="home", dir=work))  # a new one: what an attempt leaves runs in no other
    for name, content in request["beside"].items():
        with contextlib.suppress(OSError):  # a name that this system does not have
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(base64.b64decode(content))
    asking = home / ".request.json"
    asking.write_text(json.dumps(asked), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not re.search("TOKEN|SECRET|KEY|PASS", name.upper())}
    env |= {"HOME": str(home), "TMPDIR": str(home), "IPYTHONDIR": str(home / "i"), "MPLCONFIGDIR": str(home / "m")}
    env |= {"SAM_LITE_PRIVATE_CHECKS": request["private"] or "", "PYTHONNOUSERSITE": "1"}
    env.pop("SAM_LITE_CHECK_SEED", None)
    packages = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []  # ours, and not those in the new home
    paths = [*env.get("PYTHONPATH", "").split(os.pathsep), *packages]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)  # an empty one would be the new home
    command = [
        *request["prefix"],
        sys.executable,
        "-s",
        str(Path(__file__).parent / "answers.py"),
        str(asking),
    ]
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=home,
            env=env,
            start_new_session=True,
        )
    try:
        return _listen(process, cells, todo, told, replaced, request, work, finish)
    finally:
        feedback.kill(process.pid)
        process.wait()
        process.stdout.close()


def _listen(process, cells, todo, told, replaced, request, work, finish):
    lines: queue.Queue[bytes] = queue.Queue(100)
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    at, limit = None, time.monotonic() + START
    while True:
        try:
            line = lines.get(timeout=max(0.0, min(limit, finish) - time.monotonic()))
        except queue.Empty:
            whole = finish <= time.monotonic()
            if at is None:
                return None, f"the process of the answers did not start within {START} s"
            seconds = request["seconds"] if whole else cells[todo[at]].get("seconds", request["cell_seconds"])
            return todo[at], f"{'the notebook' if whole else 'it'} ran for more than {seconds:.0f} s"
        if not line:
            return (None if at is None else todo[at]), _ended(process, work, at)
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if not isinstance(said, dict):
            continue
        if said.get("begin") in range(len(todo)):
            at = int(said["begin"])
            limit = time.monotonic() + cells[todo[at]].get("seconds", request["cell_seconds"])
        elif at is not None and said.get("end") == at:
            told[todo[at]] = said
        elif isinstance(said.get("replaced"), list) and at == len(todo) - 1 and todo[at] in told:
            replaced += [str(name)[:80] for name in said["replaced"][:20]]
            return None


def _read(stream, lines) -> None:
    """Put every line of a stream into a queue, and an empty one at its end; one that is too long counts as the end."""
    with contextlib.suppress(ValueError, OSError):
        while line := stream.readline(LONGEST):
            if len(line) == LONGEST:
                break
            lines.put(line)
    lines.put(b"")


def _ended(process, work, at) -> str:
    code = process.wait()
    if at is not None:
        return "it ended the process, as exit() does" if code == 0 else f"it ended the process (code {code})"
    with (work / "log").open("rb") as log:
        lines = log.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
    return f"the process of the answers did not start: {lines[-1] if lines else code}"


# ---------------------------------------------------------------- marks


def verdict(cell: dict, told: dict) -> tuple[str, str]:
    """(why the check failed, or nothing; what the student is not shown of it)."""
    if "failed" in told:
        return told["failed"], ""
    if cell["kind"] != "call":
        return re.sub(r"\s+", " ", re.sub(COLOUR, "", str(told.get("error", "")))), ""
    if told.get("missing"):
        return f"{', '.join(map(str, told['missing']))} is not defined", ""
    check = getattr(importlib.import_module(f"sam_lite.checks.{cell['module']}"), cell["check"])
    log = iter(told["log"] if isinstance(told.get("log"), list) else [])
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            check(*[Replayed(log) for _ in cell["names"]])
    except Exception as error:
        if str(error) == GONE and told.get("stopped"):  # what that process said says more
            return re.sub(r"\s+", " ", str(told["stopped"]))[:400], ""
        name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return re.sub(r"\s+", " ", name + str(error))[:400] or name, getattr(error, "hidden", "")
    return "", ""


def judge(request: dict) -> dict:
    """State, remarks and scores of one notebook, and what is shown of it, as HTML: the cells, the written answers."""
    work = Path(request["work"])
    expected = nbformat.read(request["expected"], as_version=4)
    try:
        handed, remarks = read(Path(request["handed"]).read_bytes())
        notebook, more = repair(handed, expected)
    except ValueError as error:
        return {"state": str(error), "remarks": [], "scores": {}}
    remarks += more
    cells = plan(notebook)
    request["modules"] = sorted({f"sam_lite.checks.{cell['module']}" for cell in cells if cell["kind"] == "call"})
    os.environ |= {"SAM_LITE_CHECK_SEED": str(request["seed"]), "SAM_LITE_PRIVATE_CHECKS": request["private"] or ""}
    request["seconds"] += longer(expected) + 3 * ASIDE * sum(cell.get("seconds") == ASIDE for cell in cells)
    try:
        told, replaced = run(cells, request, work)
    except NotStarted as error:
        return {"state": f"not graded: {error}", "remarks": [], "scores": {}}
    failed = {
        c["name"]: told[i].get("error") or told[i].get("failed") for i, c in enumerate(cells) if c["kind"] == "code"
    }
    found = {}
    for number, cell in enumerate(cells):
        if cell["kind"] in ("call", "check"):
            why, secret = verdict(cell, told[number])
            stopped = failed.get(cell["name"].removesuffix("_check"))
            found[cell["name"]] = (f"the cell of the answer failed: {stopped}" if why and stopped else why, secret)
    if replaced:
        remarks.append(f"its code replaced {', '.join(replaced)}: read it")
    given = {line for cell in expected.cells for line in cell.source.splitlines()}
    theirs = [cell.source for cell in notebook.cells if role(cell) == "code" or cell.id.startswith("own-")]
    if any(LOOKS.search(line) for source in theirs for line in source.splitlines() if line not in given):
        remarks.append("an answer looks at what calls it, or into the checks: read it")
    scores, hidden, numbers = {}, [], own.of(handed, expected)
    for cell in expected.cells:
        kind = role(cell)
        if kind not in ("check", "written"):
            continue
        name, points = cell.metadata.nbgrader.grade_id, cell.metadata.nbgrader.points
        if kind == "written":
            mine = next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name)
            empty = mine.source.strip() in ("", cell.source.strip())
            scores[name] = {
                "points": 0.0 if empty else None,
                "of": points,
                "failed": "nothing was written" if empty else "",
            }
            scores[name]["written"] = True
            scores[name] |= {"own": numbers} if numbers else {}
            continue
        why, secret = found.get(name, ("it was not run", ""))
        scores[name] = {"points": 0.0 if why else float(points), "of": points, "failed": why}
        hidden += [f"{name}, hidden: {secret}"] if secret else []
    written = {
        cell.metadata.nbgrader.grade_id: feedback.markdown(cell.source)
        for cell in notebook.cells
        if role(cell) == "written"
    }
    code = [
        c.source for c in notebook.cells if c.cell_type == "code" and (role(c) == "code" or c.id.startswith("own-"))
    ]
    stubs = similar.runs(cell.source for cell in expected.cells if cell.cell_type == "code")
    shown: dict[str, object] = {"runs": sorted(similar.runs(code) - stubs)}
    shown |= {"body": feedback.body(notebook), "written": written, "pictures": feedback.pictures(handed, expected)}
    return {"state": "graded", "remarks": remarks, "scores": scores, "hidden": hidden, **shown}
