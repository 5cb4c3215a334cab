"""What may stand in a committed notebook, and how two runs of it are compared."""

import base64
import configparser
import difflib
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT_CHUNKS = set(b"IHDR PLTE tRNS pHYs IDAT IEND acTL fcTL fdAT".split())  # of a PNG: the pictures and their sizes
BARE = re.compile(r"<Figure size |<matplotlib\.|\[?(<matplotlib|Text\()")  # what a cell that ends in a plot shows
CHANGING = {  # text that differs from run to run or tells where it ran
    "an address": r"\bat 0x[0-9a-fA-F]{4,}",
    "a path of this machine": r"(?<![\w.])/(?:tmp|home|root|Users|private|var/folders)/\S+|ipykernel_\d+",
    "a time": r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d",
}
INSTALL = """\
# Only where this notebook came alone, as on Colab: fetch the course. Elsewhere this cell does nothing.
from importlib.util import find_spec

if find_spec("sam_lite") is None:
    address = ADDRESS
    %pip install -q git+{address}"""
ASKS = 'input("Address (https://...) of the course that this notebook is from: ")'
CLOCK = re.compile(r"\b(perf_counter|monotonic|timeit|process_time|time\.time)\b")
UNCOMPARED = ("NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP", "PYTEST_VALIDATE_IGNORE_OUTPUT")


def lectures(root: Path = ROOT) -> list[Path]:
    """The lectures, in order."""
    return sorted((root / "lectures").glob("*.ipynb"))


def controls(root: Path = ROOT) -> list[Path]:
    """The notebooks with the measurements behind the lectures, in order."""
    return sorted((root / "lectures" / "controls").glob("*.ipynb"))


class NotebookError(Exception):
    """A notebook that cannot be recorded, with the reason."""


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Remove, in place, everything that may differ between two runs; authors' metadata and cell ids stay."""
    notebook.update(nbformat=4, nbformat_minor=5)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"}
    for number, cell in enumerate(notebook.cells):
        cell.setdefault("id", f"cell-{number}")
        for key in ("execution", "ExecuteTime", "collapsed", "trusted"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = _merge_streams(cell.outputs)
            for output in cell.outputs:
                _clean(output)
    return notebook


def cited(name: str, root: Path = ROOT) -> str:
    """A field of CITATION.cff; empty if it is not there."""
    path = root / "CITATION.cff"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(rf'^\s*(?:- )?{name}: "?(.*?)"?$', text, re.MULTILINE)
    return found[1] if found else ""


def install_source(repository: str, version: str) -> str:
    """The second cell of every notebook: it fetches this edition, and asks where from as long as no address is known."""
    return INSTALL.replace("ADDRESS", f'"{repository}@v{version}"' if repository else ASKS)


def install_cell(root: Path = ROOT) -> NotebookNode:
    """`install_source` with what CITATION.cff says, folded away where the frontend can."""
    metadata = {"jupyter": {"source_hidden": True}, "slideshow": {"slide_type": "skip"}}
    source = install_source(cited("repository-code", root), cited("version", root))
    return nbformat.v4.new_code_cell(source, id="install", metadata=metadata)


def _merge_streams(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where a kernel cuts them is chance."""
    merged = []
    for output in outputs:
        if merged and output.output_type == "stream" == merged[-1].output_type and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _clean(output: NotebookNode) -> None:
    data = output.get("data", {})
    data.pop(WIDGET, None)  # a random model id
    if "image/png" in data:
        data["image/png"] = base64.b64encode(strip_png(base64.b64decode(data["image/png"]))).decode()


def strip_png(image: bytes) -> bytes:
    """The same picture without text, time and colour-profile chunks, which name versions and dates."""
    if image[:8] != b"\x89PNG\r\n\x1a\n":
        raise NotebookError("an image/png output is not a PNG")
    kept, at = [image[:8]], 8
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        if image[at + 4 : at + 8] in KEPT_CHUNKS:
            kept.append(image[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)


def dumps(notebook: NotebookNode) -> str:
    """Sorted keys, one space of indent, a newline at the end."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def write(path: Path, text: str) -> None:
    """A file that is there whole or not at all, in a folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


# ---------------------------------------------------------------- checking what is stored


def problems(notebook: NotebookNode) -> list[str]:
    """Everything in a recorded notebook that strict nbval would let pass or that must never be stored."""
    found = [] if notebook.get("nbformat_minor", 0) >= 5 else ["nbformat is older than 4.5: cells have no ids"]
    if "widgets" in notebook.metadata:
        found.append("widget state is stored")
    count = 0
    for number, cell in enumerate(notebook.cells):
        if {"execution", "ExecuteTime"} & set(cell.metadata):
            found.append(f"cell {number}: execution times are stored")
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count != count:
            found.append(f"cell {number}: execution count is {cell.execution_count}, must be {count}: record it again")
        hidden = {tag.upper().replace("-", "_") for tag in cell.metadata.get("tags", [])}
        if any(marker in cell.source or marker in hidden for marker in UNCOMPARED):
            found.append(f"cell {number}: a marker hides its output from nbval")
        if CLOCK.search(cell.source) and "claims.check" in cell.source:
            found.append(f"cell {number}: a claim stands beside a clock; time gets no verdict")
        if cell.source.rstrip().endswith(";"):
            found.append(f"cell {number}: nbval does not heed the ; at the end: assign the value to _ instead")
        for output in cell.outputs:
            found += [f"cell {number}: {problem}" for problem in _output_problems(cell, output)]
    return found


def _output_problems(cell: NotebookNode, output: NotebookNode) -> list[str]:
    if output.get("name") == "stderr":
        return [f"stderr: {output.text.strip()}"]
    if output.output_type == "stream" and re.search(r"^[✓✗○] ", output.text, re.MULTILINE):
        return ["it prints a line that looks like a claim: show it with claims.show"]
    if output.output_type == "error":
        return [] if "raises-exception" in cell.metadata.get("tags", []) else [f"error: {output.ename}"]
    found = ["widget state is stored"] if WIDGET in output.get("data", {}) else []
    if BARE.match(output.get("data", {}).get("text/plain", "")):
        found.append(f"{output.data['text/plain'][:30]!r} is stored: end the cell with plots.show(...)")
    if "execution_count" in output and output.execution_count != cell.execution_count:
        found.append("the count of the result is not that of its cell")
    for mime, text in _texts(output):
        for what, pattern in CHANGING.items():
            match = re.search(pattern, text)
            if match and not mime.startswith("image/"):
                found.append(f"{what} is stored: {match[0]}")
    return found


def _texts(output: NotebookNode) -> list[tuple[str, str]]:
    """(kind, text) of everything an output shows; a picture's text is empty, so that only its presence counts."""
    if output.output_type == "stream":
        return [(output.name, output.text)]
    if output.output_type == "error":
        return [("error", f"{output.ename}: {output.evalue}")]
    shown = output.get("data", {}).items()
    return sorted((mime, "" if mime in ("image/png", "image/jpeg") else str(data)) for mime, data in shown)


def sanitiser() -> Callable[[str], str]:
    """The replacement that nbval makes, from the same file."""
    config = configparser.RawConfigParser(delimiters=(":",))
    config.read(ROOT / "tools" / "sanitize.cfg", encoding="utf-8")
    rules = [(re.compile(config[name]["regex"]), config[name]["replace"]) for name in config.sections()]

    def sanitise(text: str) -> str:
        for pattern, replacement in rules:
            text = pattern.sub(replacement, text)
        return text

    return sanitise


def differences(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """Where the outputs of two runs of a notebook differ other than in measured numbers and in pixels."""
    sanitise = sanitiser()
    found = []
    for number, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        if old.cell_type != "code":
            continue
        before, now = (
            [line for out in cell.outputs for kind, text in _texts(out) for line in [f"[{kind}]", *text.splitlines()]]
            for cell in (old, new)
        )
        if [sanitise(line) for line in before] != [sanitise(line) for line in now]:
            delta = difflib.unified_diff(before, now, lineterm="", n=0)
            shown = [line for line in delta if line[:3] not in ("---", "+++") and line[:2] != "@@"]
            found.append(f"cell {number} (- stored, + now):\n    " + "\n    ".join(shown[:20]))
    return found
