"""The page that a student gets back: the notebook as it was graded, with points and reasons below each part.

`body` is made where a submission is judged, since what a student wrote may make it slow. `page` puts the points in,
which may have been typed by hand meanwhile. A page has no script and fetches nothing.
"""

import base64
import binascii
import contextlib
import html
import re
import signal
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import psutil
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from nbformat import NotebookNode

import own
import pages
from assignments import is_picture, role, shown

TAG = re.compile(r"(\{http://www\.w3\.org/1998/Math/MathML\})?(math|m[a-z]+|semantics|span)")
ACTIVE = re.compile("on|href|src|style|xlink|\\{")
LARGEST = 8 * 2**20  # characters of all pictures of one submission
STYLE = (
    ".points { border-left: 4px solid var(--good); background: var(--code); padding: .4rem .9rem; margin: 1rem 0; }\n"
    ".points.lost { border-color: var(--wrong); } .points.open { border-color: #e0a100; }"
)


class Careful(pages.Renderer):
    """For text that anybody may have written: no HTML of its own, no pictures, no odd links; equations where it has any."""

    def __init__(self, escape: bool = True):
        super().__init__(escape=escape, allow_harmful_protocols=False)

    def block_math(self, body: str) -> str:
        return _equation(body, "block")

    def inline_math(self, body: str) -> str:
        return _equation(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return _equation(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return f"[picture {html.escape(text or url)}]"

    def block_mermaidjs(self, code: str) -> str:
        return f"<pre>{html.escape(code)}</pre>"


def _equation(tex: str, display: str) -> str:
    """MathML, or the TeX itself where that cannot be made or holds anything else: the converter lets HTML through."""
    try:
        made = pages.mathml(tex, display)
        nodes = list(ElementTree.fromstring(made).iter())
        if "<!" not in made and all(
            TAG.fullmatch(node.tag) and not any(map(ACTIVE.match, node.attrib)) for node in nodes
        ):
            return made
    except Exception:  # whatever a wrong formula makes the converter raise
        pass
    return f"<code>{html.escape(tex)}</code>"


def markdown(source: str, *, ours: bool = False) -> str:
    """Markdown as HTML. ours: it stands in the sheet, and may hold HTML."""
    return pages.plain_namespaces(MarkdownWithMath(renderer=Careful(escape=not ours)).render(source))


def body(notebook: NotebookNode) -> str:
    """The cells as HTML, without what the student's code printed, and a mark where the points of a part belong."""
    highlight, text = Highlight2HTML(pygments_lexer="ipython3"), []
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden") or is_picture(cell) or cell.id == "total":
            continue
        if cell.cell_type == "code":
            text.append(f'<div class="code_cell"><div class="input_area">{highlight(shown(cell))}</div></div>')
        else:
            own = role(cell) == "written" or cell.id.startswith("own-")
            text.append(markdown(cell.source, ours=not own))
        if role(cell) in ("check", "written"):
            text.append(_mark(cell.metadata.nbgrader.grade_id))
    return "\n".join(text)


def _mark(name: str) -> str:
    return f"<!--points of {name}-->"  # no text of a student's has such a thing: its < is escaped


def pictures(handed: NotebookNode, expected: NotebookNode) -> list[str]:
    """The pictures in a student's own cells and those pasted into text, as addresses that hold them."""
    known, found, room = {cell.source.strip() for cell in expected.cells}, [], LARGEST
    for cell in handed.get("cells", []):
        bundles = list((cell.get("attachments") or {}).values())
        if cell.get("cell_type") == "code" and "".join(cell.get("source", "")).strip() not in known:
            bundles += [output.get("data") or {} for output in cell.get("outputs", [])]
        for bundle in bundles:
            for kind in ("image/png", "image/jpeg"):
                with contextlib.suppress(binascii.Error, ValueError, TypeError):
                    data = "".join("".join(bundle.get(kind, "") if isinstance(bundle, Mapping) else "").split())
                    if data and len(data) <= room and base64.b64decode(data, validate=True):
                        found.append(f"data:{kind};base64,{data}")
                        room -= len(data)
    return found


# ---------------------------------------------------------------- with the points


def page(title: str, body: str, scores: Mapping[str, Mapping], remarks: Sequence[str]) -> str:
    """A whole page: `body` with a line of points for each part, and their sum above."""
    for name, score in scores.items():
        body = body.replace(_mark(name), line(score) + own.shown(score.get("own")))
    given = [score for score in scores.values() if score["points"] is not None]
    open_ = sum(score["of"] for score in scores.values() if score["points"] is None)
    got, of = sum(score["points"] for score in given), sum(score["of"] for score in given)
    head = f"<h1>{got:g} of {of:g} points</h1>\n" + (
        f"<p>{open_:g} points more are given by hand.</p>" if open_ else ""
    )
    head += "".join(f"<p><em>{html.escape(remark)}.</em></p>" for remark in remarks)
    return pages.page(title, f"<style>{STYLE}</style>{head}\n{body}", search=False)


def line(score: Mapping) -> str:
    """The points of a part, with the reason."""
    if score["points"] is None:
        return f'<p class="points open"><strong>{score["of"]:g} points are given by hand.</strong></p>'
    by_hand = "auto" in score and score["auto"] != score["points"]
    full, comment = score["points"] == score["of"], score.get("comment", "")
    why = "" if by_hand else score["failed"] or "Right."
    said = [f"<strong>{score['points']:g} of {score['of']:g} points{', given by hand' if by_hand else ''}.</strong>"]
    said += [html.escape(text) for text in (why, comment) if text]
    return f'<p class="points{"" if full else " lost"}">{" ".join(said)}</p>'


def kill(pid: int) -> None:
    """End a process and all that it started; who started it waits for it."""
    with contextlib.suppress(psutil.Error):
        for member in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            with contextlib.suppress(psutil.Error):
                member.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
