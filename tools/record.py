"""Run notebooks from a fresh kernel and write down what they said: the only writer of notebook outputs.

    python tools/record.py [NOTEBOOKS]      record them (default: every lecture) and gather lectures/CLAIMS.md
    python tools/record.py --check          run them and compare with what is committed; write nothing
    python tools/record.py --seed-sets 3    run them with three disjoint sets of seeds and compare the verdicts

Recording twice on one machine gives the same bytes: no times, no addresses, no widget state, no picture metadata.
A notebook that raises, warns or writes to stderr is not recorded.
"""

import argparse
import atexit
import base64
import configparser
import difflib
import os
import re
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300  # seconds for one cell, as for nbval
NO_START = "Kernel died before replying"  # another program took a port that the kernel was to have: try once more
ASSERTING = [n for n in range(2, 34) if n not in (8, 30)]  # slides; 1 is the title, 8 defines a line, 30 names a paper
WIDGET = "application/vnd.jupyter.widget-view+json"
COLOUR = r"\x1b\[[0-9;]*m"
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
    address = input("Address (https://...) of the course that this notebook is from: ")
    %pip install -q git+{address}"""
UNCOMPARED = ("NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP", "PYTEST_VALIDATE_IGNORE_OUTPUT")


class Claim(NamedTuple):
    """One printed line of `sam_lite.claims`. cell: its execution count."""

    mark: str
    claim: str
    paper: str
    ours: str
    seeds: str
    slide: str
    notebook: str
    cell: int


class NotebookError(Exception):
    """A notebook that cannot be recorded, with the reason."""


# ---------------------------------------------------------------- running


def execute(path: Path, seed_set: int | None = None) -> NotebookNode:
    """Run a notebook from a fresh kernel, in its own folder, and return it normalised.

    Raises NotebookError for an error in a cell and for outputs that must not be stored (see `problems`).
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    env = {k: v for k, v in os.environ.items() if k != "SAM_LITE_SEED_SET"} | {"TQDM_DISABLE": "1"}
    if seed_set is not None:
        env["SAM_LITE_SEED_SET"] = str(seed_set)
    try:
        with tempfile.TemporaryDirectory(prefix="home") as spare:
            try:
                tempfile.TemporaryDirectory(dir=Path.home()).cleanup()
            except OSError:  # Matplotlib and IPython would say on stderr that they cannot write there
                env |= {"MPLCONFIGDIR": spare, "IPYTHONDIR": spare}
            _execute(notebook, path.parent, env)
    except CellTimeoutError as error:
        raise NotebookError(f"{path.name}: a cell ran for more than {TIMEOUT} s\n{error}") from None
    except (CellExecutionError, DeadKernelError) as error:
        raise NotebookError(f"{path.name}: {re.sub(COLOUR, '', str(error))}") from None
    claims_of(notebook, path.name)  # raises for a line that cannot be read
    found = problems(normalise(notebook))
    if found:
        raise NotebookError("\n".join(f"{path.name}: {problem}" for problem in found))
    return notebook


def _execute(notebook: NotebookNode, folder: Path, env: dict[str, str], attempts: int = 3) -> None:
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute(env=env)
    except RuntimeError as error:
        atexit.unregister(client._cleanup_kernel)  # done already
        if attempts == 1 or NO_START not in str(error):
            raise
        _execute(notebook, folder, env, attempts - 1)


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


def install_cell() -> NotebookNode:
    """The second cell of every notebook, folded away where the frontend can."""
    metadata = {"jupyter": {"source_hidden": True}, "slideshow": {"slide_type": "skip"}}
    return nbformat.v4.new_code_cell(INSTALL, id="install", metadata=metadata)


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
        if cell.source.rstrip().endswith(";"):
            found.append(f"cell {number}: nbval does not heed the ; at the end: assign the value to _ instead")
        for output in cell.outputs:
            found += [f"cell {number}: {problem}" for problem in _output_problems(cell, output)]
    return found


def _output_problems(cell: NotebookNode, output: NotebookNode) -> list[str]:
    if output.get("name") == "stderr":
        return [f"stderr: {output.text.strip()}"]
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


# ---------------------------------------------------------------- claims


def claims_of(notebook: NotebookNode, name: str) -> list[Claim]:
    """The claims that a recorded notebook printed, in order."""
    return [
        _parse(line, name, cell.execution_count)
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") == "stdout"
        for line in output.text.splitlines()
        if line[:2] in ("✓ ", "✗ ")
    ]


def _parse(line: str, name: str, cell: int) -> Claim:
    parts = line[2:].split(" | ")
    named = {part.split(" ", 1)[0].rstrip(":"): part.split(" ", 1)[-1] for part in parts[1:]}
    seeds = [part for part in parts[1:] if re.fullmatch(r"\d+ (seeds?|runs?)|exact", part)]
    if len(parts) not in (4, 5) or not {"paper", "ours"} <= named.keys() or len(seeds) != 1:
        raise NotebookError(f"{name}: this line begins like a claim but cannot be read: {line!r}")
    return Claim(line[0], parts[0], named["paper"], named["ours"], seeds[0], named.get("slide", ""), name, cell)


def claims_page(claims: Iterable[Claim]) -> str:
    """lectures/CLAIMS.md: one table for each notebook."""
    claims = list(claims)
    held = sum(c.mark == "✓" for c in claims)
    open_slides = [str(n) for n in ASSERTING if str(n) not in {c.slide for c in claims}]
    lines = [
        "# What was measured",
        "",
        "Gathered from the recorded lectures by `tools/record.py`; do not edit. ✓ holds at this scale, ✗ does not.",
        "",
        f"Claims: {len(claims)}. Of these {held} hold.",
        f"Slides that assert something and have no claim yet: {', '.join(open_slides) or 'none'}.",
    ]
    for name in dict.fromkeys(c.notebook for c in claims):
        lines += ["", f"## [{name}]({name})", "", "| | claim | slide | paper | ours | runs | cell |", "|" + "---|" * 7]
        for c in claims:
            if c.notebook == name:
                cells = (c.mark, c.claim, c.slide, c.paper, c.ours, c.seeds, f"[{c.cell}]")
                lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    return "\n".join(lines) + "\n"


def gather(folder: Path) -> str:
    """`claims_page` of all recorded notebooks of a folder."""
    notebooks = [(path.name, nbformat.read(path, as_version=4)) for path in sorted(folder.glob("*.ipynb"))]
    return claims_page(claim for name, notebook in notebooks for claim in claims_of(notebook, name))


# ---------------------------------------------------------------- the three things to do


def record(paths: Sequence[Path]) -> bool:
    """Run the notebooks, write their outputs back, and bring CLAIMS.md up to date in each folder of lectures."""
    good = True
    for path, fresh in _run(paths):
        good = good and fresh is not None
        if fresh is not None:
            _write(path, dumps(fresh))
    for folder in sorted({path.resolve().parent for path in paths if path.resolve().parent.name == "lectures"}):
        _write(folder / "CLAIMS.md", gather(folder))
    return good


def check(paths: Sequence[Path], site: Path | None = None) -> bool:
    """Run the notebooks, print every claim and what changed against the stored outputs, and write the pages."""
    good, results, claims, changed = True, [], [], []
    for path, fresh in _run(paths):
        good = good and fresh is not None
        if fresh is None:
            continue
        stored = nbformat.read(path, as_version=4)
        results.append((path, fresh))
        claims += claims_of(fresh, path.name)
        changed += [f"{path.name}: {text}" for text in problems(stored) + differences(stored, fresh)]
    print_claims(claims)
    if changed:
        print("\nCHANGED against the committed notebooks:\n" + "\n".join(changed))
    elif good:
        print("Every verdict and every word is as committed.")
    if site is not None:
        import pages

        print(f"Pages to read: {pages.build(results, site, pages.committed()[1]).resolve()}")
    return good and not changed


def seed_sets(paths: Sequence[Path], n: int) -> bool:
    """Run each notebook with `n` disjoint sets of seeds and say which verdicts are not the same in all."""
    good = True
    for path in paths:
        runs = [claims_of(fresh, path.name) if fresh else None for i in range(n) for _, fresh in _run([path], i)]
        if None in runs:
            good = False
            continue
        flips = flipped(runs)
        for flip in flips:
            print(f"  FLIPS {flip}")
        good = good and not flips
        print(f"{path.name}: {len(runs[0])} claims, {len(flips)} that flip between {n} sets of seeds")
    return good


def flipped(runs: Sequence[Sequence[Claim]]) -> list[str]:
    """The claims whose verdict or wording is not the same in all runs; also runs that did not use their seeds."""
    by_place = list(zip(*runs, strict=False))
    found = [f"{' '.join(c.mark for c in same)} {same[0].claim}" for same in by_place if len({c[:2] for c in same}) > 1]
    if len({len(run) for run in runs}) > 1:
        found.append(f"the number of claims: {[len(run) for run in runs]}")
    random = [same for same in by_place if same[0].seeds != "exact"]
    if random and all(len({c.ours for c in same}) == 1 for same in random):
        found.append("nothing, not even a figure: the notebook does not take its seeds from claims.seeds()")
    return found


def print_claims(claims: Sequence[Claim]) -> None:
    """The table of claims for a terminal."""
    for name in dict.fromkeys(c.notebook for c in claims):
        print(f"\n{name}")
        for c in claims:
            if c.notebook == name:
                print(f"  {c.mark} {c.claim}\n      paper: {c.paper}   ours {c.ours}   ({c.seeds})")
    held = sum(c.mark == "✓" for c in claims)
    print(f"\nClaims: {len(claims)}. Of these {held} hold here, {len(claims) - held} do not.")


def _run(paths: Sequence[Path], seed_set: int | None = None) -> Iterable[tuple[Path, NotebookNode | None]]:
    """(path, fresh run) one after another with a line of progress; None for a notebook that failed."""
    for number, path in enumerate(paths, 1):
        seeds = "" if seed_set is None else f", seeds {seed_set}"
        print(f"[{number}/{len(paths)}] {path.name}{seeds} ... ", end="", flush=True)
        start = time.perf_counter()
        try:
            fresh = execute(path, seed_set)
        except NotebookError as error:
            print(f"FAILED\n{error}", flush=True)
            yield path, None
            continue
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        yield path, fresh


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: lectures/*.ipynb")
    parser.add_argument("--check", action="store_true", help="run and compare; write no notebook")
    parser.add_argument("--site", type=Path, metavar="FOLDER", help="with --check: write readable pages there")
    parser.add_argument("--seed-sets", type=int, metavar="N", help="run with N disjoint sets of seeds; write nothing")
    options = parser.parse_args(arguments)
    if options.seed_sets is not None and options.seed_sets < 2:
        parser.error(f"--seed-sets must be >= 2 to compare anything, got {options.seed_sets}")
    if options.site and not options.check:
        parser.error("--site goes with --check; tools/pages.py makes pages of what is committed")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    paths = options.notebooks or sorted((ROOT / "lectures").glob("*.ipynb"))
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        parser.error(f"no such notebook: {', '.join(missing) or 'lectures/*.ipynb'}")
    if options.seed_sets:
        return 0 if seed_sets(paths, options.seed_sets) else 1
    return 0 if (check(paths, options.site) if options.check else record(paths)) else 1


if __name__ == "__main__":
    sys.exit(main())
