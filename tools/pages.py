"""Readable HTML pages of notebooks: one file each, an index and a search, readable without network or server.

    python tools/pages.py [FOLDER]      pages of the committed lectures and blank exercises (default folder: _site)

Equations become MathML, which browsers show themselves; pictures are inside the page, with the alternative text from
their output's metadata. Only the page of search results has a script.
"""

import argparse
import functools
import html
import json
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

import claims_table
import notebooks
from notebooks import ROOT

Page = tuple[Path, NotebookNode]


def mathml(tex: str, display: str = "inline") -> str:
    """An equation as MathML. Raises ValueError naming a command that cannot be shown."""
    result = convert(re.sub(r"\{(aligned|split)\}", "{align*}", tex.strip()), display=display)
    unknown = re.search(r"\\[A-Za-z]+|&(?=<)", result)
    if unknown:
        raise ValueError(f"{unknown[0]} cannot be shown on a page, in the equation {tex.strip()!r}; write it otherwise")
    return result.replace("<math ", '<math tabindex="0" ', 1) if display == "block" and len(tex) > 40 else result


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
        return super().link(text, address_of(url), title)


def address_of(url: str) -> str:
    """The page for a link that one notebook has to another, to CLAIMS.md or to an exercise; other links as they are."""
    if re.fullmatch(r"(\.\./)?CLAIMS\.md", url):
        return "index.html#claims"
    return re.sub(
        r"^(?:\.\./)*(?:lectures/)?(?:(controls/)|(exercises/[\w-]+/))?([\w-]+)\.ipynb(?=#|$)",
        lambda match: f"{'control_' if match[1] else 'exercise_' if match[2] else ''}{match[3]}.html",
        url,
    )


class Exporter(HTMLExporter):
    """The body of a page, without the scripts and styles that nbconvert would fetch from the network."""

    def __init__(self, code: bool = True) -> None:
        super().__init__(template_name="basic", exclude_input=not code)

    def default_filters(self):
        yield from super().default_filters()
        yield "markdown2html", markdown


@functools.cache
def exporter(code: bool) -> Exporter:
    """One for all pages and slides: making it takes longer than a slide."""
    return Exporter(code)


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


def body_of(notebook: NotebookNode, code: bool = True) -> str:
    """The cells of a notebook as HTML, or without code what they show. Every picture must have an alternative text."""
    notebook = nbformat.from_dict(notebook)
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != "install"]  # nothing to read
    for output in (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs):
        data = output.get("data", {})
        if "text/latex" in data and "text/html" not in data:
            data["text/html"] = mathml(data["text/latex"].strip().strip("$"), "block")
        if "image/png" in data and not output.metadata.get("image/png", {}).get("alt"):
            raise ValueError("a picture has no alternative text: show it with plots.show(figure, caption=..., alt=...)")
    body, _ = exporter(code).from_notebook_node(notebook)
    return body.replace("ns0:", "").replace("xmlns:ns0=", "xmlns=")  # what becomes of equations in headings


def own(name: str) -> str:
    """The text of a file that stands beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def styles() -> str:
    """pages.css and the colours of code, for light and dark."""
    light, dark = (
        re.sub(
            r"^(\.highlight|pre|td\.linenos|span\.linenos)[^,]*\{[^}]*\}\n",
            "",
            HtmlFormatter(style=style).get_style_defs(".highlight"),
            flags=re.MULTILINE,
        )
        for style in ("default", "github-dark")
    )
    return f"{own('pages.css')}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def page(title: str, body: str, links: Sequence[tuple[str, str]] = (), *, search: bool = True) -> str:
    """A whole HTML file. links: (address, text) of its neighbours. search: with the field for it."""
    around = "".join(f'<a href="{url}">{html.escape(text)}</a>' for url, text in links)
    field = '<input type="search" name="q" aria-label="Search" placeholder="Search">'
    asks = f'<form action="search.html" role="search">{field}</form>' if search else ""
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)(?=<a|</h2>)', body, re.DOTALL)
    inside = "".join(f'<li><a href="#{name}">{text.strip()}</a></li>' for name, text in headings)
    contents = f'<nav class="contents" aria-label="On this page"><ul>{inside}</ul></nav>' if len(headings) > 2 else ""
    body = body.replace("<table", '<table tabindex="0"')  # on a phone it scrolls sideways, by keyboard too
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{styles()}\n</style>\n</head>\n<body>\n"
        f'<header><nav aria-label="Before and after">{around}</nav>{asks}</header>\n{contents}<main>\n{body}\n</main>\n'
        f'<footer><nav aria-label="Before and after, again">{around}</nav></footer>\n</body>\n</html>\n'
    )


def sections(address: str, title: str, body: str) -> list[list[str]]:
    """[address, heading, text] of each part of a page, for the search."""
    parts = re.split(r'<h[1-3] id="([^"]+)">(.*?)</h[1-3]>', body, flags=re.DOTALL)
    plain = lambda text: " ".join(html.unescape(re.sub(r"<[^>]*>", " ", re.sub("</?span[^>]*>", "", text))).split())  # noqa: E731
    found = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    return [[f"{address}#{name}", f"{title}: {plain(head).rstrip('¶ ')}", plain(text)] for name, head, text in found]


def build(
    lectures: Sequence[Page],
    folder: Path,
    exercises: Sequence[Page] = (),
    controls: Sequence[Page] = (),
    *,
    only: Path | None = None,
) -> Path:
    """Write one page for each (path, notebook), an index with the claims and the search; return the index.

    only: write nothing but the page of this notebook, and return it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write = lambda name, text: (folder / name).write_text(text, encoding="utf-8", newline="\n")  # noqa: E731
    contents, known = [], []
    kinds = (("Lectures", "", lectures), ("Exercises", "exercise_", exercises), ("Controls", "control_", controls))
    for kind, prefix, some in kinds:
        titles = [title_of(notebook, path.stem) for path, notebook in some]
        addresses = [f"{prefix}{path.stem}.html" for path, _ in some]
        neighbours = list(zip(addresses, titles, strict=True))
        for i, (path, notebook) in enumerate(some):
            if only not in (None, path):
                continue
            before = [(a, f"← {t}") for a, t in neighbours[max(i - 1, 0) : i]]
            after = [(a, f"{t} →") for a, t in neighbours[i + 1 : i + 2]]
            try:
                body = body_of(notebook)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from None
            write(addresses[i], page(titles[i], body, [*before, ("index.html", "All pages"), *after]))
            if only:
                return folder / addresses[i]
            known += sections(addresses[i], titles[i], body)
        if some:
            items = "".join(f'<li><a href="{a}">{html.escape(t)}</a></li>' for a, t in neighbours)
            contents.append(f"<h2>{kind}</h2>\n<ol>{items}</ol>")
    claims = claims_table.page(
        c for p, nb in [*lectures, *controls] for c in claims_table.claims_of(nb, claims_table.name_of(p))
    )
    table = markdown(claims[claims.index("✓ holds") :])
    table = re.sub(r"(</?)h2", r"\1h3", table)
    title = "Flat minima and Sharpness-Aware Minimization, measured"
    table = f'<h2 id="claims">What was measured</h2>\n{table}'
    body = f"<h1>{title}</h1>\n{ABOUT}{''.join(contents)}\n{table}"
    write("index.html", page(title, body))
    write("search.js", f"const KNOWN = {json.dumps(known, ensure_ascii=False)};\n")
    write("search.html", page("Search", SEARCH.format(script=own("pages.js")), [("index.html", "All pages")]))
    return folder / "index.html"


ABOUT = """<p>A university lecture on the generalization gap, flat minima and SAM, in which every claim is measured by a
cell that takes seconds on a laptop, beside the figure of the paper.</p>
"""
SEARCH = """<h1>Search</h1>
<p id="said" role="status">Searching needs JavaScript.</p>
<ol id="found"></ol>
<script src="search.js"></script>
<script>
{script}</script>"""


def committed() -> tuple[list[Page], list[Page], list[Page]]:
    """The recorded lectures, the blank exercises and the recorded controls."""
    paths = notebooks.lectures(), sorted((ROOT / "exercises").glob("*/*.ipynb")), notebooks.controls()
    return tuple([(path, nbformat.read(path, as_version=4)) for path in some] for some in paths)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "_site")
    folder = parser.parse_args().folder
    lectures, exercises, controls = committed()
    print(f"Pages to read: {build(lectures, folder, exercises, controls).resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
