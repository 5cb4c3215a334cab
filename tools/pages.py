"""Readable HTML pages of notebooks: one file each and an index, readable without network, scripts or server.

    python tools/pages.py [FOLDER]      pages of the committed lectures (default folder: _site)

Equations become MathML, which browsers show themselves; pictures are inside the page, with the alternative text from
their output's metadata.
"""

import argparse
import html
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

import record

ROOT = Path(__file__).resolve().parent.parent
Page = tuple[Path, NotebookNode]


def mathml(tex: str, display: str = "inline") -> str:
    """An equation as MathML. Raises ValueError naming a command that cannot be shown."""
    result = convert(re.sub(r"\{(aligned|split)\}", "{align*}", tex.strip()), display=display)
    unknown = re.search(r"\\[A-Za-z]+|&(?=<)", result)
    if unknown:
        raise ValueError(f"{unknown[0]} cannot be shown on a page, in the equation {tex.strip()!r}; write it otherwise")
    return result


class Renderer(IPythonRenderer):
    """Markdown with equations as MathML and links between notebooks as links between pages."""

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def _html_embed_images(self, html: str) -> str:
        def inside(match: re.Match) -> str:
            return match[1] + (self._src_to_base64(match[2]) or match[2])

        return re.sub(r'(<img\b[^>]*\bsrc=")([^"]+)', inside, html)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, re.sub(r"^([\w-]+)\.ipynb(?=#|$)", r"\1.html", url), title)


class Exporter(HTMLExporter):
    """The body of a page, without the scripts and styles that nbconvert would fetch from the network."""

    def __init__(self) -> None:
        super().__init__(template_name="basic")

    def default_filters(self):
        yield from super().default_filters()
        yield "markdown2html", markdown


def markdown(source: str, path: Path = ROOT / "lectures") -> str:
    """Markdown as HTML; local pictures are put inside."""
    return MarkdownWithMath(renderer=Renderer(escape=False, embed_images=True, path=str(path))).render(source)


def title_of(notebook: NotebookNode, default: str) -> str:
    """The text of the first heading."""
    for cell in notebook.cells:
        match = re.search(r"^#\s+(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if match:
            return re.sub(r"[*`$]", "", match[1]).strip()
    return default


def body_of(notebook: NotebookNode) -> str:
    """The cells of a notebook as HTML. Every picture must have an alternative text."""
    notebook = nbformat.from_dict(notebook)
    for output in (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs):
        data = output.get("data", {})
        if "text/latex" in data and "text/html" not in data:
            data["text/html"] = mathml(data["text/latex"].strip().strip("$"), "block")
        if "image/png" in data and not output.metadata.get("image/png", {}).get("alt"):
            raise ValueError("a picture has no alternative text: show it with plots.show(figure, caption=..., alt=...)")
    body, _ = Exporter().from_notebook_node(notebook)
    return body


def page(title: str, body: str, links: Sequence[tuple[str, str]] = ()) -> str:
    """A whole HTML file. links: (address, text) of its neighbours."""
    css = (ROOT / "tools" / "pages.css").read_text(encoding="utf-8")
    css += HtmlFormatter(style="default").get_style_defs(".highlight")
    css = re.sub(r"\.highlight \{ background: [^}]*\}", "", css)
    nav = (
        "<nav>" + "".join(f'<a href="{url}">{html.escape(text)}</a>' for url, text in links) + "</nav>" if links else ""
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{css}\n</style>\n</head>\n<body>\n"
        f"<header>{nav}</header>\n<main>\n{body}\n</main>\n<footer>{nav}</footer>\n</body>\n</html>\n"
    )


def build(notebooks: Sequence[Page], folder: Path) -> Path:
    """Write one page for each (path, notebook) and an index with the claims; return the index."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = [title_of(notebook, path.stem) for path, notebook in notebooks]
    addresses = [f"{path.stem}.html" for path, _ in notebooks]
    for i, (path, notebook) in enumerate(notebooks):
        links = [("index.html", "All lectures")]
        if i > 0:
            links.insert(0, (addresses[i - 1], f"← {titles[i - 1]}"))
        if i + 1 < len(notebooks):
            links.append((addresses[i + 1], f"{titles[i + 1]} →"))
        try:
            text = page(titles[i], body_of(notebook), links)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
        (folder / addresses[i]).write_text(text, encoding="utf-8", newline="\n")
    contents = "\n".join(f"1. [{t}]({a})" for t, a in zip(titles, addresses, strict=True))
    claims = record.claims_page(c for path, notebook in notebooks for c in record.claims_of(notebook, path.name))
    body = markdown(
        f"# Flat minima and Sharpness-Aware Minimization, measured\n\n{contents}\n\n{claims.replace('# ', '## ', 1)}"
    )
    index = folder / "index.html"
    index.write_text(
        page("Flat minima and Sharpness-Aware Minimization, measured", body), encoding="utf-8", newline="\n"
    )
    return index


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "_site")
    folder = parser.parse_args().folder
    paths = sorted((ROOT / "lectures").glob("*.ipynb"))
    print(build([(path, nbformat.read(path, as_version=4)) for path in paths], folder).resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
