"""The page that a student gets back: the notebook as it was graded, with points and reasons below each part."""

import contextlib
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence

import nbformat
import psutil
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from assignments import role

SCRIPT = re.compile(r"(?:javascript|data|vbscript)\s*:", re.IGNORECASE)  # in a link


def page(notebook: NotebookNode, scores: Mapping[str, Mapping], remarks: Sequence[str]) -> str:
    """The page, as HTML. Nothing that the student's code printed is on it, nor any script of the student's."""
    cells = [new_markdown_cell(_sum(scores, remarks))]
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):  # pictures, which were not drawn
            continue
        shown = nbformat.from_dict(cell)
        if cell.cell_type == "code":
            shown.outputs, shown.execution_count = [], None
        elif role(cell) == "written" or cell.id.startswith("own-"):
            shown.source = SCRIPT.sub("", shown.source.replace("<", "&lt;"))
        cells.append(shown)
        if role(cell) in ("check", "written"):
            cells.append(new_markdown_cell(_line(scores[cell.metadata.nbgrader.grade_id])))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    return exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata))[0]


def _sum(scores, remarks) -> str:
    checked = [score for score in scores.values() if score["points"] is not None]
    open_ = sum(score["of"] for score in scores.values() if score["points"] is None)
    got, of = sum(score["points"] for score in checked), sum(score["of"] for score in checked)
    lines = [f"# {got:g} of {of:g} points", f"{open_:g} points more are given by hand." if open_ else ""]
    return "\n\n".join([*lines, *(f"*{_plain(remark)}.*" for remark in remarks)])


def _line(score) -> str:
    if score["points"] is None:
        return f"**{score['of']:g} points are given by hand.**"
    why = f" {_plain(score['failed'])}" if score["failed"] else " Right."
    return f"**{score['points']:g} of {score['of']:g} points.**{why}"


def _plain(text: str) -> str:
    """Text in Markdown that stays as it is."""
    for sign in "\\`*_{}[]<>#|$":
        text = text.replace(sign, "\\" + sign)
    return text.replace("\n", " ")


def kill(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(psutil.Error):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    if process.stdout:
        process.stdout.close()
