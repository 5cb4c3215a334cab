"""The suite rejects wrong implementations: every fault listed in tests/wrong/ fails the test named beside it.

Each is planted in a copy of the package. A new process for each would spend two seconds on importing torch, so one
process imports everything but `sam_lite` and forks: `python tests/test_wrong.py`, a line of JSON in, a line out.
"""

import ast
import contextlib
import functools
import gc
import io
import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TABLES = sorted((ROOT / "tests" / "wrong").glob("*.py"))
WAITS = {"two processes in one folder", "a job that is caught in itself outlives its limit"}  # a minute, half a minute
MUTANTS = [
    pytest.param(
        *row,
        id=f"{table.stem}: {row[0]}",
        marks=[
            pytest.mark.xdist_group(f"wrong_{table.stem}"),
            pytest.mark.when_changed(row[1], row[-1].partition("::")[0], f"tests/wrong/{table.name}"),
            *([pytest.mark.nightly] if row[0] in WAITS else []),
        ],
    )
    for table in TABLES
    for row in runpy.run_path(str(table))["MUTANTS"]
]
TESTS = sorted({mutant.values[-1] for mutant in MUTANTS})
NOT_A_FAULT = {"NameError", "UnboundLocalError", "AttributeError", "ImportError", "ModuleNotFoundError", "SyntaxError"}
LAYOUT = {tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider"]
SECONDS = 300  # then a test that does not end is killed; all named tests together take 60 on a busy machine

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(scope="module")
def outcome():
    """A function (folder of a package, tests) -> exit code and outcomes, from a process that serves until the end."""
    single = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = os.environ | single | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    with subprocess.Popen(
        [sys.executable, __file__], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:

        def ask(folder, tests):
            print(json.dumps([str(folder), tests]), file=server.stdin, flush=True)
            line = server.stdout.readline()
            assert line, "the process that serves has ended; its last words are in the captured stderr"
            return json.loads(line)

        yield ask
        server.stdin.close()


def copy_of_the_package(folder):
    shutil.copytree(ROOT / "sam_lite", folder / "sam_lite", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@functools.cache
def tree(source):
    return ast.dump(ast.parse(source))


@functools.cache
def tokens(text):
    """What Python reads of it, without layout, comments and the commas of broken lines: (word, start, end) each."""
    lines, found = text.splitlines(keepends=True), []
    starts = [0, *itertools.accumulate(map(len, lines))]
    with contextlib.suppress(tokenize.TokenError):  # a part of a statement may have brackets that stay open
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in LAYOUT and token.string:
                a, b = (starts[row - 1] + column for row, column in (token.start, token.end))
                found.append((token.string, a, b))
    return [
        t
        for t, after in zip(found, [*found[1:], ("", 0, 0)], strict=True)
        if t[0] != "," or after[0] not in (")", "]", "}")
    ]


def where(part, source):
    """The places (start, end) at which `part` stands in `source`: as it is, or else however it is broken over lines."""
    if source.count(part) == 1:
        return [(at := source.index(part), at + len(part))]
    words, there = [word for word, _, _ in tokens(textwrap.dedent(part))], tokens(source)
    n, names = len(words), [word for word, _, _ in there]
    return [(there[i][1], there[i + n - 1][2]) for i in range(len(names) - n + 1) if names[i : i + n] == words]


def test_a_fault_is_planted_however_the_line_is_broken():
    source = "def f(x):\n    y = g(\n        x,  # the point\n        2,\n    )\n    return y + g(x, 3)\n"
    assert [source[a:b] for a, b in where("g(x, 2)", source)] == ["g(\n        x,  # the point\n        2,\n    )"]
    assert len(where("g( x,", source)) == 2 and not where("g(x, 4)", source)


def test_every_part_has_its_table_and_every_fault_its_name():
    assert {t.stem for t in TABLES} >= {"sam", "training", "hessian", "sharpness", "landscape_toys", "jiang"}
    names = [mutant.id for mutant in MUTANTS]
    assert len(names) == len(set(names))


def with_the_fault(file, right, wrong):
    """The text of a file of the package with a fault in it, which must have one place there and be Python."""
    source = (ROOT / file).read_text(encoding="utf-8")
    places = where(right, source)
    assert len(places) == 1, f"{right!r} must stand once in {file}, and does {len(places)} times"
    start, end = places[0]
    planted = source[:start] + (wrong if source[start:end] == right else wrong.strip()) + source[end:]
    assert ast.dump(ast.parse(planted)) != tree(source), f"{wrong!r} changes nothing in {file}"
    return planted


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_every_fault_has_its_place(table):
    """Said at once, not after the twenty minutes in which the faults are looked for."""
    for _, file, right, wrong, _ in runpy.run_path(str(table))["MUTANTS"]:
        with_the_fault(file, right, wrong)


@pytest.mark.slow
@needs_fork
def test_without_a_fault_every_named_test_passes(outcome, tmp_path):
    """One of each file; on the package itself all of them run in their own files, and here every night."""
    files = {name.partition("::")[0]: name for name in TESTS}
    tests = TESTS if os.environ.get("SAM_LITE_ALL_TESTS") else [*files.values()]
    result = outcome(copy_of_the_package(tmp_path), tests)
    assert result["code"] == 0, result["output"]
    passed = {name for name, when, what in result["reports"] if when == "call" and what == "passed"}
    assert set(tests) <= passed | {name.partition("[")[0] for name in passed}


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize(("name", "file", "right", "wrong", "test"), MUTANTS)
def test_a_fault_is_found(outcome, tmp_path, name, file, right, wrong, test):
    planted = with_the_fault(file, right, wrong)
    (copy_of_the_package(tmp_path) / file).write_text(planted, encoding="utf-8")
    result = outcome(tmp_path, [test])
    assert result["code"] == 1, f"{test} does not find it: {result['output']}"
    failed = [(when, what) for _, when, what in result["reports"] if what != "passed"]
    assert [when for when, _ in failed] == ["call"] and failed[0][1] not in NOT_A_FAULT, result["output"]


class Reports:
    """What came of each test: (its name, setup, call or teardown, "passed" or the name of the exception)."""

    def __init__(self):
        self.rows = []

    def pytest_runtest_makereport(self, item, call):
        self.rows.append((item.nodeid, call.when, call.excinfo.typename if call.excinfo else "passed"))


def run(folder, tests, results):
    """In the child: the tests on the package in `folder`."""
    signal.alarm(SECONDS)
    with open(folder / "output.txt", "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.dont_write_bytecode = len(tests) == 1  # compiled once, with all tests; those of faults are read once each
    sys.path.insert(0, str(folder))
    import sam_lite

    assert Path(sam_lite.__file__).parent == folder / "sam_lite"
    reports = Reports()
    code = pytest.main([*OPTIONS, "--basetemp", str(folder / "tmp"), *tests], plugins=[reports])
    results.write_text(json.dumps({"code": int(code), "reports": reports.rows}))


def serve():
    """Before the first fork: everything that the tests import, and nothing of ours."""
    import numpy.random  # noqa: F401
    import pandas  # noqa: F401
    import scipy.optimize  # noqa: F401
    import sklearn.decomposition  # noqa: F401
    import torch._dynamo  # the first optimizer would
    import torch.func
    import torch.nn.attention
    import torch.optim.swa_utils  # noqa: F401

    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*OPTIONS, str(ROOT / "tests" / "wrong")])  # no test is there; pytest has all its parts loaded
    gc.freeze()  # pytest collects garbage at its end: not this
    assert not any(name.partition(".")[0] == "sam_lite" for name in sys.modules)
    for line in sys.stdin:
        folder, tests = json.loads(line)
        results = Path(folder) / "results.json"
        child = os.fork()
        if child == 0:
            try:
                run(Path(folder), tests, results)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        answer = json.loads(results.read_text()) if results.exists() else {"code": ended, "reports": []}
        output = (Path(folder) / "output.txt").read_text()
        print(json.dumps(answer | {"output": output}), flush=True)


if __name__ == "__main__":
    serve()
