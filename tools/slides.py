"""The lectures as slides, in reveal.js, from what is stored in the notebooks; shown without network.

    python tools/slides.py [FOLDER]      a page of slides for each lecture (default folder: _slides)

A heading starts a slide to the right, every other cell is one further down: text, a figure without the code that draws
it, or code with its verdicts beside it. A cell's metadata `slideshow.slide_type` changes that: `slide`, `subslide`, `-`
(goes on), `skip` and `notes`. What would run off a slide is made smaller until it fits.
"""

import argparse
import html
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

import pages

REVEAL = "_static/revealjs"  # in the package sphinx_revealjs, of which this is all that is used


def slide_type(cell: NotebookNode) -> str:
    """What a cell's metadata says, or what follows from its content."""
    said = cell.metadata.get("slideshow", {}).get("slide_type")
    if said:
        return said
    return "slide" if cell.cell_type == "markdown" and cell.source.startswith(("# ", "## ")) else "subslide"


def deck(notebook: NotebookNode) -> str:
    """The sections of a notebook."""
    stacks: list[list[str]] = []
    for cell in notebook.cells:
        kind = slide_type(cell)
        if kind == "skip" or not cell.source.strip():
            continue
        alone = {key: value for key, value in notebook.items() if key != "cells"} | {"cells": [cell]}
        figure = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        body = pages.body_of(nbformat.from_dict(alone), code=not figure)
        if kind == "notes" and stacks:
            stacks[-1][-1] += f'<aside class="notes">{body}</aside>'
        elif kind in ("-", "fragment") and stacks:
            stacks[-1][-1] += body
        elif kind == "slide" or not stacks:
            stacks.append([body])
        else:
            stacks[-1].append(body)
    down = ("".join(f'<section><div class="fit">{body}</div></section>' for body in stack) for stack in stacks)
    return "\n".join(f"<section>{stack}</section>" for stack in down)


def build(notebooks: list[pages.Page], folder: Path) -> Path:
    """Write the slides of each (path, notebook) and an index, with reveal.js beside them; return the index."""
    reveal = Path(find_spec("sphinx_revealjs").origin).parent / REVEAL
    (folder / "reveal").mkdir(parents=True, exist_ok=True)
    for name in ("reveal.js", "reveal.css", "reset.css"):
        shutil.copy(reveal / "dist" / name, folder / "reveal" / name)
    shutil.copy(reveal / "LICENSE", folder / "reveal" / "LICENSE")
    script, links = pages.own("slides.js") + pages.own("live.js"), []
    for path, notebook in notebooks:
        title = pages.title_of(notebook, path.stem)
        style = (
            HtmlFormatter(style="default").get_style_defs(".highlight")
            + pages.own("live.css")
            + pages.own("slides.css")
        )
        text = (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
            '<link rel="stylesheet" href="reveal/reset.css">\n<link rel="stylesheet" href="reveal/reveal.css">\n'
            f'<style>{style}</style>\n</head>\n<body>\n<div class="reveal"><div class="slides">\n{deck(notebook)}\n'
            f'</div></div>\n<script src="reveal/reveal.js"></script>\n<script>\n{script}</script>\n</body>\n</html>\n'
        )
        (folder / f"{path.stem}.html").write_text(text, encoding="utf-8", newline="\n")
        links.append(f"1. [{title}]({path.stem}.html)")
    index = folder / "index.html"
    body = pages.markdown("# Slides\n\nSpace goes on, ? lists all keys.\n\n" + "\n".join(links))
    index.write_text(pages.page("Slides", body, search=False), encoding="utf-8", newline="\n")
    return index


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=pages.ROOT / "_slides")
    print(f"Slides: {build(pages.committed()[0], parser.parse_args().folder).resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
