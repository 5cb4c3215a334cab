"""The way in: what `help(sam_lite)` says is true, leads to every file, and its examples run."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import sam_lite

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.stem for path in (ROOT / "sam_lite").glob("*.py") if path.stem != "__init__")
METHOD = ["params", "ascents", "sam", "noise", "lanczos", "hessian", "climb", "sharpness"]


@pytest.mark.parametrize("name", ["", *MODULES])
def test_the_examples_of_a_file_run(name):
    module = importlib.import_module(f"sam_lite.{name}" if name else "sam_lite")
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert name or result.attempted >= 8


def test_the_table_of_contents_names_every_file_and_no_other():
    text = sam_lite.__doc__
    for name in MODULES:
        known = re.search(rf"\b{name}\b", text) or (name.startswith("explore_") and "explore_*" in text)
        assert known, f"{name} is not in the docstring of the package"
    for line in re.findall(r"^    ([a-z_, ]+?)  +\S", text, re.MULTILINE):
        for name in line.split(", "):
            assert name in MODULES, f"the docstring of the package names {name}"


def test_the_reading_order_is_one_in_which_nothing_is_used_before_it_was_read():
    """But the types and the machinery, which need no reading."""
    listed = re.findall(r"^    (\w+)  +", sam_lite.__doc__.split("to be read in this order")[1], re.MULTILINE)[
        : len(METHOD)
    ]
    assert listed == METHOD
    for i, name in enumerate(METHOD):
        source = (ROOT / "sam_lite" / f"{name}.py").read_text(encoding="utf-8")
        used = set(re.findall(r"^from sam_lite\.(\w+) import", source, re.MULTILINE)) & set(METHOD)
        assert used <= set(METHOD[:i]), f"{name} uses {sorted(used - set(METHOD[:i]))}, which come later"


def test_the_version_is_the_one_that_is_cited():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    assert sam_lite.__version__ == cited
    for name in ("CHANGELOG.md", "ERRATA.md"):
        first = re.search(r"^## (\S+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert first and first[1] == cited, f"{name} must begin with {cited}"


def test_the_paper_has_what_its_journal_asks_for():
    """Front matter, the sections of the review list of the Journal of Open Source Education, and references with a DOI."""
    paper, bib = ((ROOT / f"paper.{kind}").read_text(encoding="utf-8") for kind in ("md", "bib"))
    _, front, text = paper.split("---\n", 2)
    assert {"title", "tags", "authors", "affiliations", "date", "bibliography"} <= set(yaml.safe_load(front))
    asked = (
        "Summary",
        "Statement of need",
        "Learning objectives",
        "Content and instructional design",
        "The story of the project",
    )
    assert all(f"\n# {name}\n" in text for name in asked) and len(text.split()) < 1300
    keys = re.findall(r"^@\w+\{(\w+),", bib, re.MULTILINE)
    assert set(re.findall(r"@(\w+)", text)) == set(keys) and bib.count("doi = ") == len(keys)


def parameters():
    """(file, function, parameter) of all that the package offers."""
    for name in MODULES:
        for node in ast.parse((ROOT / "sam_lite" / f"{name}.py").read_text(encoding="utf-8")).body:
            inside = node.body if isinstance(node, ast.ClassDef) else [node]
            for function in (one for one in inside if isinstance(one, ast.FunctionDef)):
                if function.name == "__init__" or not function.name.startswith("_"):
                    yield from ((name, function.name, p) for p in (*function.args.args, *function.args.kwonlyargs))


def test_every_public_parameter_has_a_type():
    found = list(parameters())
    untyped = [f"{f}.{g}: {p.arg}" for f, g, p in found if p.annotation is None and p.arg not in ("self", "cls")]
    assert len(found) > 400 and not untyped


@pytest.mark.slow
def test_types_agree(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
