"""The claims of recorded notebooks, and the page that lists them."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from notebooks import NotebookError, controls, lectures
from sam_lite.claims import Claim, read, unsettled

ASSERTING = [n for n in range(2, 34) if n not in (8, 30)]  # slides; 1 is the title, 8 defines a line, 30 names a paper


class Place(NamedTuple):
    """A claim and where it stands. cell: its execution count."""

    claim: Claim
    notebook: str
    cell: int


def claims_of(notebook: NotebookNode, name: str) -> list[Place]:
    """The claims that a recorded notebook shows, in order. Raises NotebookError for one text that stands twice."""
    places = [
        Place(claim, name, cell.execution_count)
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for claim in read(output.get("metadata", {}))
    ]
    texts = [place.claim.claim for place in places]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise NotebookError(f"{name}: one claim stands there twice: {twice!r}")
    return places


def open_verdicts(places: Iterable[Place]) -> list[str]:
    """The verdicts that must not be recorded, each with the reason."""
    reasons = ((place, unsettled(place.claim)) for place in places)
    return [f"{place.claim.claim!r}: {reason}" for place, reason in reasons if reason]


def counted(places: Iterable[Place]) -> str:
    """How many claims have which mark: "26 ✓, 1 ✗, 2 ○"."""
    marks = [place.claim.mark for place in places]
    return ", ".join(f"{marks.count(mark)} {mark}" for mark in "✓✗○" if mark in marks) or "no claims"


def page(places: Iterable[Place]) -> str:
    """lectures/CLAIMS.md: one table for each notebook, lectures first, then controls."""
    places = sorted(places, key=lambda place: _is_control(place.notebook))
    slides = {place.claim.slide for place in places}
    without = [str(n) for n in ASSERTING if str(n) not in slides]
    lines = [
        "# What was measured",
        "",
        "Gathered from the recorded lectures by `tools/record.py`; do not edit. ✓ holds at this scale, ✗ does not, "
        "○ is open: more seeds than a lecture can train would be needed to tell.",
        "",
        f"Claims: {len(places)}. Of these: {counted(places)}.",
        f"Slides that assert something and have no claim yet: {', '.join(without) or 'none'}.",
    ]
    before = None
    for name in dict.fromkeys(place.notebook for place in places):
        if _is_control(name) and not (before and _is_control(before)):
            lines += [
                "",
                "# Controls",
                "",
                "Measurements behind the lectures, each for a reader who asks: could it be something else?",
            ]
        lines += ["", f"## [{name}]({name})", "", "| | claim | slide | paper | here | bound | runs | cell |"]
        lines += ["|" + "---|" * 8]
        for c, notebook, cell in places:
            if notebook == name:
                cells = (c.mark, c.claim, c.slide, c.paper, c.here, c.bound, c.count, f"[{cell}]")
                lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
        before = name
    return "\n".join(lines) + "\n"


def name_of(path: Path) -> str:
    """A notebook as CLAIMS.md links it: 05_sam.ipynb, controls/05_sam.ipynb."""
    return f"controls/{path.name}" if path.parent.name == "controls" else path.name


def _is_control(name: str) -> bool:
    return name.startswith("controls/")


def gather(folder: Path) -> str:
    """`page` of all recorded notebooks of a folder of lectures, and of its folder of controls."""
    stored = [
        (name_of(path), nbformat.read(path, as_version=4)) for path in lectures(folder.parent) + controls(folder.parent)
    ]
    return page(place for name, notebook in stored for place in claims_of(notebook, name))
