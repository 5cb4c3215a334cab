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
STYLE = """
.reveal .fit * { box-sizing: border-box; }
.reveal { font: 24px/1.45 system-ui, sans-serif; color: #1b1b1f; }
.reveal .slides section { text-align: left; height: 100%; }
.reveal :is(h1, h2, h3) { font: 600 1.5em/1.2 system-ui, sans-serif; margin: 0 0 .6em; text-transform: none; }
.reveal :is(pre, code) { font: 16px/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.reveal pre { white-space: pre-wrap; overflow-wrap: anywhere; width: 100%; margin: 0; box-shadow: none; }
.reveal .code_cell:has(.input):has(.output_wrapper) { display: grid; gap: 1.2rem; }
.reveal .code_cell { grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); }
.reveal .output_text pre { font-size: 20px; padding-left: .6rem; border-left: 3px solid #9db8d2; }
.reveal :is(ul, ol) { padding-left: 1.4em; }
.reveal .prompt, .reveal .anchor-link { display: none; }
.reveal img { max-width: 100%; max-height: 580px; margin: 0; }
.reveal .code_cell:not(:has(.input)) img { width: 100%; max-height: 560px; object-fit: contain; object-position: left; }
.reveal .output_markdown { font-size: .75em; color: #5b6069; }
.reveal table { font-size: .7em; border-collapse: collapse; }
.reveal :is(th, td) { padding: .2em .6em; border-bottom: 1px solid #dcdfe4; }
.reveal :is(p, ul, ol, blockquote, details) { margin: 0 0 .7em; width: auto; }
.reveal math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", "DejaVu Math TeX Gyre", math; }
"""
FIT = """
function fit(section) {
    const inside = section && section.querySelector(":scope > .fit");
    if (!inside) return;
    for (let zoom = 1; zoom >= 0.3; zoom -= 0.05) {
        inside.style.zoom = zoom;
        const [need, have] = [inside, section].map(one => one.getBoundingClientRect().height);
        if (need <= have && inside.scrollWidth <= inside.clientWidth + 1) break;
    }
}
Reveal.initialize({width: 1280, height: 720, margin: 0.04, center: false, hash: true, transition: "none"});
for (const event of ["ready", "slidechanged"]) Reveal.on(event, ({currentSlide}) => fit(currentSlide));
"""


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
    links = []
    for path, notebook in notebooks:
        title = pages.title_of(notebook, path.stem)
        code = HtmlFormatter(style="default").get_style_defs(".highlight")
        text = (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
            '<link rel="stylesheet" href="reveal/reset.css">\n<link rel="stylesheet" href="reveal/reveal.css">\n'
            f'<style>{code}{STYLE}</style>\n</head>\n<body>\n<div class="reveal"><div class="slides">\n{deck(notebook)}\n'
            f'</div></div>\n<script src="reveal/reveal.js"></script>\n<script>{FIT}</script>\n</body>\n</html>\n'
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
