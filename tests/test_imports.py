"""The shape of the package: who may import whom, and how long a file may be."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sam_lite"

# file -> files of ours that it may import, besides `require`, which all may
ARROWS = {
    "require": set(),
    "pure": set(),
    "params": {"pure"},
    "images": set(),
    "data": {"images"},
    "models": set(),
    "claims": set(),
    "batchnorm": {"pure", "params"},
    "ascents": {"params"},
    "sam": {"pure", "params", "ascents"},
    "noise": {"params"},
    "lanczos": {"params", "noise"},
    "hessian": {"pure", "params", "noise", "lanczos"},
    "climb": {"pure", "params"},
    "sharpness": {"pure", "params", "ascents", "sam", "noise", "climb"},
    "landscape": {"pure", "params"},
    "measures": {"pure", "params", "noise", "hessian", "sharpness"},
    "ranking": set(),
    "toys": {"params"},
    "callbacks": set(),
    "describe": set(),
    "checkpoint": {"describe"},
    "plan": set(),
    "train": {"pure", "data", "models", "callbacks", "checkpoint", "plan"},
    "stacked": {"pure", "params"},
    "starting": {"pure", "params", "data", "models", "describe", "stacked"},
    "updates": {"params"},
    "ensemble": {"params", "ascents", "data", "callbacks", "stacked", "starting", "updates", "plan"},
    "rivals": {"params", "ascents"},
    "contest": {"params", "data", "models", "stacked", "rivals"},
    "paths": {"pure", "params", "ascents"},
    "language": set(),
    "language_study": {"params", "models", "paths", "language"},
    "tables": set(),
    "cluster": set(),
    "sweep": {"callbacks", "cluster", "tables"},
    "study": {"cluster", "data", "models", "stacked", "ensemble", "measures", "sweep"},
    "image_network": {"params", "data", "models", "noise", "batchnorm", "sam", "hessian", "sharpness", "train"},
    "image_study": {"data", "train", "tables", "cluster", "sweep", "image_network"},
    "contest_images": {"params", "models", "stacked", "rivals", "contest", "sweep", "image_network", "image_study"},
    "plots": set(),
    "widgets": {"plots"},
    "grids": {"params", "data", "models", "stacked", "ensemble", "hessian", "landscape"},
    "explore_toys": {"plots", "toys", "sam", "widgets"},
    "explore_networks": {"plots", "grids", "widgets"},
    "explore_measures": {"plots", "measures", "ranking", "study", "widgets"},
    "explore_images": {"plots", "image_study", "widgets"},
}
# third-party module -> the only files that may import it
ONLY_IN = {
    "matplotlib": {"plots", "widgets"},
    "ipywidgets": {"widgets", "explore_toys", "explore_networks", "explore_measures", "explore_images"},
    "IPython": {"claims", "plots", "widgets"},
}
FILES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
CHECKS = sorted((PACKAGE / "checks").glob("*.py"))


def behind(name: str) -> set[str]:
    """All files that this one may reach by arrows."""
    return ARROWS[name].union(*map(behind, ARROWS[name]))


def made_by(name: str) -> list[str]:
    """The files that decide what this one computes: with all that it reaches, and the versions of libraries."""
    return [f"sam_lite/{one}.py" for one in sorted({name, "require"} | behind(name))] + ["constraints.txt"]


def imported(source: str) -> set[str]:
    """Every module named by an import statement, wherever it stands: {"torch.func", "sam_lite.params"}."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = "sam_lite" if node.level else node.module
            tail = f".{node.module}" if node.level and node.module else ""
            whole = package + tail
            names |= {f"{whole}.{alias.name}" for alias in node.names} if whole == "sam_lite" else {whole}
    return names


def test_the_reader_of_imports_sees_every_form():
    source = "import sam_lite.a\nfrom sam_lite import b\nfrom .c import x\nfrom . import d\n"
    source += "def f():\n    from sam_lite.e import y\n"
    assert imported(source) == {f"sam_lite.{name}" for name in "abcde"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_what_its_arrows_allow(name):
    assert name in ARROWS, f"{name}.py is not in ARROWS: a new file is a decision about the design"
    allowed = ARROWS[name] | {"require"}
    modules = imported((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    ours = {module.split(".")[1] for module in modules if module.startswith("sam_lite.")}
    assert ours <= allowed, f"{name}.py must not import {sorted(ours - allowed)}"
    for outside, homes in ONLY_IN.items():
        if name not in homes:
            assert outside not in {module.split(".")[0] for module in modules}, f"{name}.py must not import {outside}"


def test_the_figure_in_the_docs_shows_these_arrows():
    """All of them, but those that follow from others."""
    lines = []
    for name, ours in ARROWS.items():
        direct = sorted(one for one in ours if not any(one in behind(other) for other in ours))
        lines += [f"    {' & '.join(direct)} --> {name}"] if direct else []
    text = (PACKAGE.parent / "docs" / "package.md").read_text(encoding="utf-8")
    assert "```mermaid\ngraph LR\n" + "\n".join(lines) + "\n```" in text, "\n".join(lines)
    alone = set(FILES) - {name for name, ours in ARROWS.items() if ours or any(name in a for a in ARROWS.values())}
    assert alone == {"claims", "require"}
    assert (
        "`claims`, which stands alone, `checks`, which nothing imports, and `require`, which all use, are left out"
        in text
    )


def test_plots_need_no_torch():
    modules = imported((PACKAGE / "plots.py").read_text(encoding="utf-8"))
    assert "torch" not in {module.split(".")[0] for module in modules}


LONGER = {  # files above 200 lines, docstrings apart, with the reason
    "pure": "what leaves no trace in a model is looked at from all sides",
    "ensemble": "its models train, are looked at and leave in one loop",
    "train": "the settings of a training are checked at the door",
}


def lines_without_docstrings(source):
    bodies = [node.body for node in ast.walk(ast.parse(source)) if isinstance(getattr(node, "body", None), list)]
    firsts = [body[0] for body in bodies if body and isinstance(body[0], ast.Expr)]
    strings = [node for node in firsts if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)]
    return len(source.splitlines()) - sum(node.end_lineno - node.lineno + 1 for node in strings)


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_checks_draw_no_figures_and_know_no_other_set(path):
    """Their folder stands at the edge: they may use the package, and nothing of the package uses them (ARROWS)."""
    modules = imported(path.read_text(encoding="utf-8").replace("from . import", "from sam_lite.checks import"))
    ours = {module.removeprefix("sam_lite.") for module in modules if module.startswith("sam_lite.")}
    assert not {one for one in ours if one.startswith(("checks.set", "plots", "widgets", "explore"))}, ours
    assert not {"matplotlib", "ipywidgets", "IPython"} & {module.split(".")[0] for module in modules}
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 450, f"{path.name} has {lines} lines: a set's checks are one file of short functions"


@pytest.mark.parametrize("name", FILES)
def test_a_file_can_be_read_in_one_sitting(name):
    lines = lines_without_docstrings((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    assert lines <= (250 if name in LONGER else 200), f"{name}.py has {lines} lines: delete before adding, or say why"
    assert name not in LONGER or lines > 200, f"{name}.py has {lines} lines and needs no reason any more"
