"""Every committed notebook is recorded and clean, and strict nbval bites: the proof, with the command of the Makefile."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import CODE
from nbformat.v4 import new_code_cell, new_notebook

import claims_table
import notebooks
import record

ROOT = Path(__file__).parent.parent
COMMITTED = [path for folder in ("lectures", "solutions") for path in sorted((ROOT / folder).rglob("*.ipynb"))]
LECTURES = [path for path in COMMITTED if path.parent.name in ("lectures", "controls")]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_notebook_is_recorded_and_clean(path):
    assert notebooks.problems(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_a_committed_notebook_is_as_record_writes_it(path):
    notebook = nbformat.read(path, as_version=4)
    assert path.read_text(encoding="utf-8") == notebooks.dumps(notebooks.normalise(notebook)), (
        f"{path.name}: record it again"
    )


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_the_second_cell_fetches_the_course_where_it_is_missing(path):
    cell = nbformat.read(path, as_version=4).cells[1]
    expected = notebooks.install_cell()
    assert (cell.id, cell.source, cell.metadata) == ("install", expected.source, expected.metadata), (
        "copy the second cell of another notebook, or run tools/address.py"
    )
    assert cell.outputs == []


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.name)
def test_every_committed_verdict_is_settled(path):
    """Ten seeds, three half-widths: another processor or ten other seeds turn it once in two thousand."""
    assert claims_table.open_verdicts(claims_table.claims_of(nbformat.read(path, as_version=4), path.name)) == []


def test_committed_claims_are_those_of_the_committed_lectures():
    if LECTURES:
        page = (ROOT / "lectures" / "CLAIMS.md").read_text(encoding="utf-8")
        assert page == claims_table.gather(ROOT / "lectures"), "run tools/record.py"


# ---- the proof that nbval bites


def nbval(*paths: Path, extra: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run the command of `make nbval`, as make itself prints it, on other notebooks and with this Python."""
    names = " ".join(f'"{path}"' for path in paths)
    dry = ["make", "--dry-run", "nbval", f'RUN="{sys.executable}"', f"NOTEBOOKS={names}"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PYTEST", "COV"))}
    command = subprocess.run(dry, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert "--nbval" in command or "nbval.txt" in command
    line = " ".join([command, *extra])
    return subprocess.run(line, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def outcomes(done: subprocess.CompletedProcess, path: Path) -> list[str]:
    """The verdict on each cell of a notebook, in order, from pytest's short summary (-rA)."""
    found = re.findall(rf"^([A-Z]+) \S*\b{path.name}::Cell (\d+)", done.stdout, re.MULTILINE)
    return [verdict for verdict, _ in sorted(found, key=lambda pair: int(pair[1]))]


SOURCES = [
    "from sam_lite import claims\n\n"
    "claims.show(claims.check('Wide is flat', [4.1, 4.2] * 5, above=1, paper='8.7', slide=12))",
    "print('nothing here after 3 words')",
    "21 * 2",
]


def text(notebook, old, new):
    data = notebook.cells[0].outputs[0].data
    data.update({mime: shown.replace(old, new) for mime, shown in data.items()})


def other_word(notebook):
    notebook.cells[1].outputs[0].text = "nothing there after 3 words\n"


def other_number(notebook):
    notebook.cells[1].outputs[0].text = "nothing here after 4 words\n"


def other_result(notebook):
    notebook.cells[2].outputs[0].data["text/plain"] = "43"


def lost_count(notebook):
    notebook.cells[1].execution_count = None


def lost_output(notebook):
    notebook.cells[0].outputs = []


def unrun(notebook):
    for cell in notebook.cells:
        cell.update(outputs=[], execution_count=None)


CHANGES = {  # change to the stored notebook -> verdict of nbval on its three cells
    "unchanged": (lambda notebook: None, ["PASSED", "PASSED", "PASSED"]),
    "measured": (
        lambda notebook: text(notebook, "≈ 4.15 ± 0.04", "≈ 17 ± 1e-05 (close)"),
        ["PASSED", "PASSED", "PASSED"],
    ),
    "verdict": (lambda notebook: text(notebook, "✓", "✗"), ["FAILED", "PASSED", "PASSED"]),
    "claim": (lambda notebook: text(notebook, "flat", "sharp"), ["FAILED", "PASSED", "PASSED"]),
    "bound": (lambda notebook: text(notebook, "> 1", "> 2"), ["FAILED", "PASSED", "PASSED"]),
    "paper": (lambda notebook: text(notebook, "8.7", "8.8"), ["FAILED", "PASSED", "PASSED"]),
    "not_a_number": (lambda notebook: text(notebook, "≈ 4.15", "≈ nan"), ["FAILED", "PASSED", "PASSED"]),
    "word": (other_word, ["PASSED", "FAILED", "PASSED"]),
    "number": (other_number, ["PASSED", "FAILED", "PASSED"]),
    "result": (other_result, ["PASSED", "PASSED", "FAILED"]),
    "count": (lost_count, ["PASSED", "FAILED", "PASSED"]),
    "output": (lost_output, ["FAILED", "PASSED", "PASSED"]),
    "unrun": (unrun, ["PASSED", "PASSED", "PASSED"]),  # which our own check does not let pass
}


@pytest.fixture(scope="module")
def bitten(tmp_path_factory):
    """The recorded notebook, and nbval's run over one copy for each change."""
    folder = tmp_path_factory.mktemp("nbval")
    origin = folder / "origin.ipynb"
    cells = [new_code_cell(source, id=f"c{i}") for i, source in enumerate(SOURCES)]
    nbformat.write(new_notebook(cells=cells), origin)
    assert record.main([str(origin)]) == 0
    for name, (change, _) in CHANGES.items():
        notebook = nbformat.read(origin, as_version=4)
        change(notebook)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    paths = [folder / f"{name}.ipynb" for name in CHANGES]
    return folder, nbval(*paths, extra=("-rA", "--color=no"))


@pytest.mark.slow
@pytest.mark.when_changed(*CODE)
@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
@pytest.mark.parametrize("name", CHANGES)
def test_nbval_bites(name, bitten):
    folder, done = bitten
    assert done.returncode == 1, done.stdout + done.stderr
    assert outcomes(done, folder / f"{name}.ipynb") == CHANGES[name][1], done.stdout


@pytest.mark.slow
@pytest.mark.when_changed(*CODE)
@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
def test_an_unrun_notebook_that_nbval_lets_pass_is_found_by_our_own_check(bitten):
    folder, _ = bitten
    assert len(notebooks.problems(nbformat.read(folder / "unrun.ipynb", as_version=4))) == len(SOURCES)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
@pytest.mark.skipif(not LECTURES, reason="there is no lecture yet")
def test_nbval_collects_every_code_cell_of_every_lecture():
    done = nbval(ROOT / "lectures", extra=("--collect-only", "-q", "--color=no"))
    for path in LECTURES:
        cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
        name = path.relative_to(ROOT).as_posix()
        collected = sum(line.strip().startswith(f"{name}::") for line in done.stdout.splitlines())
        assert collected == cells, done.stdout + done.stderr
