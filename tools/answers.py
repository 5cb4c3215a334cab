"""Runs what a student wrote and records what the functions return: `python tools/answers.py REQUEST`, in confinement.

Nothing that happens here is a verdict. Each check of the course is run for its inputs; what the student's function
made of them goes out as plain data, one line of JSON for a cell, and `judging.py` runs the same check with that.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import sys
from pathlib import Path

from plain import encode
from sam_lite.checks import SEED

SHOWN = 4000  # characters of what a cell prints


class Capped(io.TextIOBase):
    """Takes any amount of text and keeps its beginning."""

    def __init__(self):
        self.kept = ""

    def write(self, text: str) -> int:
        if len(self.kept) < SHOWN:
            self.kept += str(text)[: SHOWN - len(self.kept)]
        return len(text)

    def writable(self) -> bool:
        return True


class Recorder:
    """Stands for an answer in a check: calls it, and keeps what came back and what became of the arguments."""

    def __init__(self, answer, log: list):
        self.answer, self.log = answer, log

    def __call__(self, *arguments, **named):
        return self.probe(lambda answer, *a, **k: answer(*a, **k), *arguments, **named)

    def probe(self, function, *arguments, **named):
        before = encode([arguments, named])
        entry = {}
        try:
            value = function(self.answer, *arguments, **named)
            entry["returned"] = encode(value)
            return value
        except BaseException as error:
            entry["raised"] = [type(error).__name__, str(error)[:400]]
            raise
        finally:
            after = encode([arguments, named])
            self.log.append(entry | ({"after": after} if after != before else {}))


def fingerprint() -> dict:
    """The functions of the course and of its libraries, by name: to see whether one was replaced."""
    watched = ["numpy", "numpy.linalg", "torch", "torch.linalg", "torch.nn.functional", "torch.func", "torch.Tensor"]
    watched += ["numpy.random", "sam_lite.checks.Draw", *(name for name in sys.modules if name.startswith("sam_lite."))]
    found = {}
    for name in watched:
        module, _, kind = name.rpartition(".")
        owner = sys.modules.get(name) or getattr(sys.modules.get(module), kind, None)
        for attribute, value in list(vars(owner).items()) if owner is not None else ():
            if callable(value) and (not attribute.startswith("__") or attribute == "__init__"):
                found[f"{name}.{attribute}"] = value
    return found


def replaced(before: dict, after: dict) -> list[str]:
    """The functions that are others now, and that no library put there."""
    changed = [name for name in before if after.get(name) is not before[name]]
    return sorted(name for name in changed if _home(after.get(name)) != name.partition(".")[0])


def _home(value) -> str:
    """The package that a function comes from; of one from a cell none, whatever it says of itself."""
    written = getattr(getattr(value, "__code__", None), "co_filename", "")
    return "" if written.startswith("<ipython") else (getattr(value, "__module__", None) or "").partition(".")[0]


@contextlib.contextmanager
def check_seed(seed: str):
    """The seed of the checks, for the time of one check: a cell of the student's does not find it."""
    os.environ[SEED] = seed
    try:
        yield
    finally:
        os.environ.pop(SEED, None)


def said(result) -> str:
    """The error of a cell in one line, or nothing."""
    error = result.error_before_exec or result.error_in_exec
    return f"{type(error).__name__}: {error}"[:400] if error else ""


def main(request: dict, out) -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    for name in request["modules"]:
        importlib.import_module(name)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.showtraceback = lambda *_, **__: None
    shell.enable_gui, shell.system = lambda *_, **__: None, shell.system_raw  # there is no window and no terminal
    shell.ask_exit = lambda: None  # exit() would end a kernel after its cell, and with it what comes later
    before, others = fingerprint(), set()
    seed = str(request.pop("seed"))
    sys.path.append(os.getcwd())  # as in a kernel, but behind everything else
    logging.disable(logging.CRITICAL)
    for number, cell in enumerate(request["cells"]):
        others |= set(replaced(before, fingerprint())) if cell["kind"] == "call" else set()
        out({"begin": number})
        told: dict[str, object] = {"end": number}
        stream = Capped()
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(Capped()):
            if cell["kind"] == "call":
                log, names = [], cell["names"]
                answers = [Recorder(shell.user_ns[name], log) for name in names if name in shell.user_ns]
                if len(answers) < len(names):
                    told["missing"] = [name for name in names if name not in shell.user_ns]
                else:
                    check = getattr(importlib.import_module(f"sam_lite.checks.{cell['module']}"), cell["check"])
                    try:
                        with check_seed(seed):
                            check(*answers)
                    except (Exception, SystemExit) as error:
                        told["stopped"] = f"{type(error).__name__}: {error}".removeprefix("Wrong: ")[:400]
                told["log"] = log
            else:
                told["error"] = said(shell.run_cell(cell["source"], silent=True))
        told["said"] = stream.kept
        out(told)
    out({"replaced": sorted(others | set(replaced(before, fingerprint())))[:20]})


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[1]).unlink()  # it holds the seed
    import confine

    if asked["alone"]:
        confine.loopback()
    confine.limit(asked["memory_gb"])
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    home = Path(sys.argv[1]).parent
    private = [Path(asked["private"])] if asked["private"] else []
    confine.confine_files([*confine.needed_folders(), *private], [home, Path("/dev/null"), Path("/dev/shm")])

    def out(line: dict) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    main(asked, out)
    os._exit(0)
