"""The name that a notebook types for numbers of its own, what follows from it, and what is odd about it.

A typed name gives numbers and nothing else: whose a file is, its place says (`submissions`).
"""

import ast
import collections
import html
import re
from collections.abc import Iterator, Mapping, Sequence

from nbformat import NotebookNode

from assignments import asks_name
from sam_lite.checks import variants
from submissions import Submission

SHOWN = 60  # characters of a typed name
NONE = "No name was typed, so there are no numbers of one's own."


def of(handed: NotebookNode, expected: NotebookNode) -> dict | None:
    """What a notebook typed, its numbers and the result; None if the sheet asks for no name."""
    sets = list(filter(None, map(asks_name, expected.cells)))
    if not sets:
        return None
    name = typed(handed)
    own = variants.drawn(sets[0], name)
    shown = name if len(name) <= SHOWN else f"{name[:SHOWN]} …"
    return {"typed": shown, "asked": own.asked, "right": own.right} if own else {"typed": ""}


def typed(notebook: NotebookNode) -> str:
    """The last name in the cells of a notebook, those that ask for numbers first. It is read, and nothing is run."""
    sources = ["".join(cell.get("source", "")) for cell in notebook.get("cells", []) if cell.get("cell_type") == "code"]
    sources.sort(key=lambda source: "own_numbers" in source)
    return ([""] + [name for source in sources for name in _names(source) if variants.words(name)])[-1]


def _names(source: str) -> Iterator[str]:
    """The texts that a cell calls NAME, or gives to `own_numbers` itself."""
    try:
        tree = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "pass", source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        found: list = []
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "NAME" for to in node.targets):
            found = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "own_numbers":
            found = [*node.args[1:2], *(one.value for one in node.keywords if one.arg == "name")]
        yield from (one.value for one in found if isinstance(one, ast.Constant) and isinstance(one.value, str))


def remark(found: Sequence[Submission]) -> None:
    """Say in `odd` of each submission where the typed name is not the student's, or another typed it, too."""
    alike = collections.defaultdict(list)
    for one in found:
        name = next((score["own"]["typed"] for score in one.scores.values() if score.get("own")), "")
        if name:
            alike[one.exercise, *variants.words(name)].append(one)
        if name and not _shares(name, one.student):
            one.odd.append(f"{name!r}, typed for the numbers, is no name of {one.student}")
    for several in alike.values():
        for one in several[: len(several) if len(several) > 1 else 0]:
            others = ", ".join(other.student for other in several if other is not one)
            one.odd.append(f"{others} typed the same name for the numbers")


def _shares(name: str, student: str) -> bool:
    """Whether a word of the name is one of the student's; where all of these have digits, nobody knows."""
    mine, theirs = variants.words(name), [word for word in variants.words(student) if not re.search(r"\d", word)]
    if not theirs or student.startswith("unnamed"):
        return True
    login = theirs[0] if len(theirs) == 1 else ""  # doejane
    return any(word in theirs or (len(word) > 1 and word in login) for word in mine)


def shown(own: Mapping[str, str] | None, odd: Sequence[str] = (), *, name: bool = True) -> str:
    """Numbers and expected result as HTML. name: with the typed name, and what is odd about it."""
    if own is None:
        return ""
    if not own["typed"]:
        return f'<p class="own"><em>{NONE}</em></p>'
    who = f"The name {own['typed']!r} has these numbers" if name else "Numbers"
    strange = "".join(f"<br><strong>{html.escape(one)}.</strong>" for one in odd if name)
    asked, right = html.escape(own["asked"]).replace("\n", "<br>"), html.escape(own["right"])
    return f'<p class="own">{html.escape(who)}:<br>{asked}<br>Expected: {right}.{strange}</p>'
