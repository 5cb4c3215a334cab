"""Readable HTML pages of notebooks: one file each, an index and a search, readable without network or server.

    python tools/pages.py [FOLDER]      pages of the committed lectures and blank exercises (default folder: _site)

Equations become MathML, which browsers show themselves; pictures are inside the page, with the alternative text from
their output's metadata. Explorers move on a page by what `live.py` has stored of them. Only they and the page of search
results have a script. Markdown files become pages, too: the glossary, the recipe, `docs/`, the guide for teachers.
"""

import argparse
import ast
import functools
import html
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

import address
import front
import notebooks
from notebooks import ROOT

Page = tuple[Path, NotebookNode]
LIVE = Path(__file__).with_name("live")
MATH = "http://www.w3.org/1998/Math/MathML"
WORD = re.compile(r"([_^])\{([A-Za-z]{3,})\}")  # an index that is a word: upright
LIMITS = {"max", "min", "sup", "inf", "lim", "argmax", "argmin"}


def mathml(tex: str, display: str = "inline") -> str:
    """An equation as MathML. Raises ValueError naming a command that cannot be shown."""
    upright = WORD.sub(r"\1{\\mathrm{\2}}", re.sub(r"\{(aligned|split)\}", "{align*}", tex.strip()))
    result = convert(upright, display=display)
    unknown = re.search(r"\\[A-Za-z]+|&(?=<)", result)
    if unknown:
        raise ValueError(f"{unknown[0]} cannot be shown on a page, in the equation {tex.strip()!r}; write it otherwise")
    if display == "block":
        result = limits_below(result)
    elif len(tex) > 40:
        return (
            f'<span class="long" tabindex="0">{result}</span>'  # scrolls sideways on a phone, as a displayed one does
        )
    return result.replace("<math ", '<math tabindex="0" ', 1) if display == "block" and len(tex) > 40 else result


def limits_below(result: str) -> str:
    """MathML with what stands under a maximum under it, not beside it."""
    ElementTree.register_namespace("", MATH)
    tree = ElementTree.fromstring(result)
    for node in tree.iter(f"{{{MATH}}}msub"):
        if "".join(node[0].itertext()).strip().replace(" ", "") in LIMITS:
            node.tag = f"{{{MATH}}}munder"
    return ElementTree.tostring(tree, encoding="unicode")


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
    if words := re.fullmatch(r"(?:\.\./)*(?:docs/|lectures/)?([\w-]+)\.md(#.*)?", url):
        return f"{words[1]}.html{words[2] or ''}"
    return re.sub(
        r"^(?:\.\./)*(?:lectures/)?(?:(controls/)|(exercises/[\w-]+/))?([\w-]+)\.ipynb(?=#|$)",
        lambda match: f"{'control_' if match[1] else 'exercise_' if match[2] else ''}{match[3]}.html",
        url,
    )


class Exporter(HTMLExporter):
    """The body of a page, without the scripts and styles that nbconvert would fetch from the network."""

    def __init__(self) -> None:
        super().__init__(template_name="basic")

    def default_filters(self):
        yield from super().default_filters()
        yield "markdown2html", markdown


@functools.cache
def exporter() -> Exporter:
    """One for all pages: making it takes longer than a page."""
    return Exporter()


def markdown(source: str, path: Path = ROOT / "lectures") -> str:
    """Markdown as HTML; local pictures are put inside, and a graph of arrows becomes a table."""
    source = re.sub(r"```mermaid\ngraph LR\n(.*?)```", _arrows, source, flags=re.DOTALL)
    return MarkdownWithMath(renderer=Renderer(escape=False, embed_images=True, path=str(path))).render(source)


def _arrows(graph: re.Match) -> str:
    rows = (line.strip().partition(" --> ") for line in graph[1].splitlines())
    return "| file | imports |\n|---|---|\n" + "\n".join(f"| {a} | {b.replace(' & ', ', ')} |" for b, _, a in rows)


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
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != "install"]  # nothing to read
    names: list[str] = []
    for cell in notebook.cells:
        if name := explorer_of(cell):
            captions = [output for output in cell.outputs if "text/markdown" in output.get("data", {})]
            shown = {"text/html": moving(name, names.count(name))}
            cell.outputs = [nbformat.v4.new_output("display_data", shown), *captions]
            names.append(name)
    for output in (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs):
        data = output.get("data", {})
        if "text/latex" in data and "text/html" not in data:
            data["text/html"] = mathml(data["text/latex"].strip().strip("$"), "block")
        if "image/png" in data:
            alternative(output)
    body, _ = exporter().from_notebook_node(notebook)
    for cell in notebook.cells:
        if what := folded(cell):
            end = r'(?=<div class="output_wrapper">|\n</div>\n<div class="cell |\n</div>\s*\Z)'
            found = re.search(rf'id="cell-id={re.escape(cell.id)}">\n(<div class="input">.*?){end}', body, re.DOTALL)
            summary = f"<details class='code'><summary>{what}</summary>"
            body = f"{body[: found.start(1)]}{summary}{found[1]}</details>{body[found.end(1) :]}"
    return plain_namespaces(body)


def plain_namespaces(body: str) -> str:
    """Equations in headings come out of a parser of XML: without the prefix that it gives them."""
    return body.replace("ns0:", "").replace("xmlns:ns0=", "xmlns=")


def alternative(output: NotebookNode) -> str:
    """The alternative text of a picture. Raises ValueError if it has none."""
    if text := output.metadata.get("image/png", {}).get("alt"):
        return text
    raise ValueError("a picture has no alternative text: show it with plots.show(figure, caption=..., alt=...)")


def explorer_of(cell: NotebookNode) -> str:
    """The explorer that a cell shows, if it is one that can move on a page."""
    found = re.search(r"\b(\w+)_explorer\(\)", cell.source) if cell.cell_type == "code" else None
    return found[1] if found and (LIVE / f"{found[1]}.html").is_file() else ""


def moving(name: str, before: int = 0) -> str:
    """What `live.py` has stored of an explorer; before: how often it stands on the page already."""
    piece = (LIVE / f"{name}.html").read_text(encoding="utf-8")
    other = rf"\g<0>-{before + 1}" if before else r"\g<0>"
    return re.sub(rf'((?:id|aria-labelledby)="|\(#){name}(?=["-])', other, piece)


def folded(cell: NotebookNode) -> str:
    """What stands in place of a cell's code that only draws, makes a table or imports, until it is opened. Empty: nothing.

    The tags "fold" and "unfold" of a cell decide otherwise.
    """
    tags = cell.metadata.get("tags", [])
    if cell.cell_type != "code" or "unfold" in tags:
        return ""
    if not cell.outputs:
        imports = all(isinstance(one, ast.Import | ast.ImportFrom) for one in _statements(cell.source))
        return "Imports" if imports else "Code" if "fold" in tags else ""
    if explorer_of(cell) or any("image/png" in output.get("data", {}) for output in cell.outputs):
        work = re.search(r"\bclaims\.|\btrain\w*\(|^def |\.backward\(|print\(", cell.source, re.MULTILINE)
        return "" if work and "fold" not in tags else "Code of this picture"
    tables = all(
        isinstance(one, ast.Expr) and ast.unparse(one).startswith(("claims.show(", "plots.table("))
        for one in _statements(cell.source)
    )
    return "Code of this table" if tables else "Code" if "fold" in tags else ""


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # a cell with a command of IPython
        return [ast.Pass()]


def terms() -> dict[str, str]:
    """Where the glossary explains what: words in small letters (abbreviations as they are) -> place on its page."""
    path, found = ROOT / "lectures" / "glossary.md", {}
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    page = body_of(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]))
    for name, head in re.findall(r'<h3 id="([^"]+)">(.*?)<a', page):
        for term in html.unescape(head).split(", "):
            if len(term) > 2:
                found[term if term.isupper() or term[1].isupper() else term[0].lower() + term[1:]] = name
    return found


def explained(body: str, known: dict[str, str]) -> str:
    """The body of a page with a link to the glossary where each of its terms first stands in running text."""
    if not known:
        return body
    words = "|".join(re.escape(term) for term in sorted(known, key=len, reverse=True))
    pattern, left, outside = re.compile(rf"(?<![\w-])(?i:{words})(?=e?s?(?![\w-]))"), set(known.values()), 0

    def link(match: re.Match) -> str:
        term = match[0] if match[0] in known else match[0][0].lower() + match[0][1:]
        place = known.get(term)
        if place not in left:
            return match[0]
        left.remove(place)
        return f'<a class="term" href="glossary.html#{place}">{match[0]}</a>'

    pieces = re.split(r"(<[^>]+>)", body)
    for i, piece in enumerate(pieces):
        if tag := re.match(r"<(/?)(a|code|pre|h\d|math|script|figure|svg|summary|table)\b", piece):
            outside += -1 if tag[1] else 1
        elif not outside and not piece.startswith("<"):
            pieces[i] = pattern.sub(link, piece)
    return "".join(pieces)


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
    return f"{own('pages.css')}\n{own('live.css')}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def page(
    title: str,
    body: str,
    links: Sequence[tuple[str, str]] = (),
    *,
    search: bool = True,
    all_pages: str = "",
    run: Sequence[tuple[str, str]] = (),
) -> str:
    """A whole HTML file. links: (address, text) of its neighbours. search: with the field for it. all_pages: their list.

    run: (name, address) of places that have the notebook of the page.
    """
    around = "".join(f'<a href="{url}">{html.escape(text)}</a>' for url, text in links)
    field = '<input type="search" name="q" aria-label="Search" placeholder="Search">'
    asks = f'<form action="search.html" role="search">{field}</form>' if search else ""
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)(?=<a|</h2>)', body, re.DOTALL)
    inside = "".join(f'<li><a href="#{name}">{text.strip()}</a></li>' for name, text in headings)
    contents = f'<nav class="contents" aria-label="On this page"><ul>{inside}</ul></nav>' if len(headings) > 2 else ""
    body = body.replace("<table", '<table tabindex="0"')  # on a phone these scroll sideways, by keyboard too
    body = body.replace('<div class="output_png', '<div tabindex="0" class="output_png')
    every = f'<nav class="all" aria-label="All pages">{all_pages}</nav>' if all_pages else ""
    ways = " · ".join(f'<a href="{html.escape(url)}">{name}</a>' for name, url in run)
    ways = f'<p class="run">This notebook: {ways}</p>' if run else ""
    known = all_pages and (ROOT / "ERRATA.md").is_file()
    edition = f'<p>Version {notebooks.cited("version")} · <a href="ERRATA.html">Errata</a>' if known else ""
    if edition and (url := address.report(title)):
        edition += f' · <a href="{html.escape(url)}">Report a mistake on this page</a>'
    script = f"<script>\n{own('live.js')}</script>\n" if '<figure class="live"' in body else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{styles()}\n</style>\n</head>\n<body>\n"
        f'<header><nav aria-label="Before and after">{around}</nav>{asks}</header>\n{contents}<main>\n{ways}{body}\n</main>\n'
        f'<footer><nav aria-label="Before and after, again">{around}</nav>{edition}</footer>\n{every}\n{script}</body>\n</html>\n'
    )


def sections(address: str, title: str, body: str) -> list[list[str]]:
    """[address, heading, text] of each part of a page, for the search."""
    body = re.sub(r"<script.*?</script>|<form.*?</form>", "", body, flags=re.DOTALL)
    parts = re.split(r'<h[1-3] id="([^"]+)">(.*?)</h[1-3]>', body, flags=re.DOTALL)
    plain = lambda text: " ".join(html.unescape(re.sub(r"<[^>]*>", " ", re.sub("</?span[^>]*>", "", text))).split())  # noqa: E731
    found = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    return [[f"{address}#{name}", f"{title}: {plain(head).rstrip('¶ ')}", plain(text)] for name, head, text in found]


def texts() -> list[tuple[Path, NotebookNode]]:
    """What is written in Markdown and becomes a page: each as a notebook of one cell."""
    names = ("recipe", "notation", "glossary", "references")
    paths = [*(ROOT / "lectures" / f"{name}.md" for name in names), ROOT / "INSTRUCTORS.md", ROOT / "ERRATA.md"]
    paths = [path for path in [*paths, *sorted((ROOT / "docs").glob("*.md"))] if path.is_file()]
    cells = ([nbformat.v4.new_markdown_cell(path.read_text(encoding="utf-8"))] for path in paths)
    return [(path, nbformat.v4.new_notebook(cells=some)) for path, some in zip(paths, cells, strict=True)]


def build(
    lectures: Sequence[Page],
    folder: Path,
    exercises: Sequence[Page] = (),
    controls: Sequence[Page] = (),
    *,
    only: Path | None = None,
) -> Path:
    """Write one page for each (path, notebook), the first page with the claims, and the search; return the first page.

    only: write nothing but the page of this notebook, and return it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write = lambda name, text: (folder / name).write_text(text, encoding="utf-8", newline="\n")  # noqa: E731
    kinds = {"Lectures": ("", lectures), "Exercises": ("exercise_", exercises), "Controls": ("control_", controls)}
    kinds["About"] = "", texts()
    titles = {f"{prefix}{p.stem}": title_of(nb, p.stem) for prefix, some in kinds.values() for p, nb in some}
    glossary = terms()
    known, groups = [], {kind: [f"{prefix}{p.stem}" for p, _ in some] for kind, (prefix, some) in kinds.items()}
    for kind, (prefix, some) in kinds.items():
        for i, (path, notebook) in enumerate(some):
            if only not in (None, path):
                continue
            name, near = f"{prefix}{path.stem}", groups[kind]
            links = [(f"{one}.html", f"← {titles[one]}") for one in near[max(i - 1, 0) : i]]
            links += [("index.html", "Start")] + [(f"{one}.html", f"{titles[one]} →") for one in near[i + 1 : i + 2]]
            try:
                body = body_of(notebook) if kind == "About" else explained(body_of(notebook), glossary)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from None
            ways = _ways(path, name)
            if ways:
                write(f"{name}.ipynb", path.read_text(encoding="utf-8"))
            write(f"{name}.html", page(titles[name], body, links, all_pages=_all_pages(groups, titles, name), run=ways))
            if only:
                return folder / f"{name}.html"
            known += sections(f"{name}.html", titles[name], body)
    valley = LIVE / "valley.html"
    picture = valley.read_text(encoding="utf-8") if valley.is_file() else ""
    body = front.page(lectures, controls, titles, picture)
    write("index.html", page(front.TITLE, body, all_pages=_all_pages(groups, titles, "index")))
    write("search.js", f"const KNOWN = {json.dumps(known, ensure_ascii=False)};\n")
    write("search.html", page("Search", SEARCH.format(script=own("pages.js")), [("index.html", "Start")]))
    return folder / "index.html"


def _ways(path: Path, name: str) -> list[tuple[str, str]]:
    """Where the notebook of a page can be had: beside the page, and where the course has an address."""
    if path.suffix != ".ipynb" or not path.is_file():
        return []
    inside = path.resolve().is_relative_to(ROOT)
    there = address.run_links(path.resolve().relative_to(ROOT).as_posix()) if inside else []
    return [("download", f"{name}.ipynb"), *there]


def _all_pages(groups: dict[str, list[str]], titles: dict[str, str], here: str) -> str:
    """The list of all pages, with the one that is open marked; the controls fold away."""
    marked = lambda name: ' aria-current="page"' if name == here else ""  # noqa: E731
    text = f'<a href="index.html"{marked("index")}>Start</a>'
    for kind, names in groups.items():
        short = [(name, re.sub(r"^(Part|Exercise|Controls?) (\d+) · ", r"\2 · ", titles[name])) for name in names]
        items = "".join(f'<li><a href="{n}.html"{marked(n)}>{html.escape(t)}</a></li>' for n, t in short)
        head, tail = (f"<details{' open' if here in names else ''}><summary>{kind}</summary>", "</details>")
        head, tail = (head, tail) if kind == "Controls" else (f"<p>{kind}</p>", "")
        text += f"{head}<ul>{items}</ul>{tail}" if names else ""
    return text


SEARCH = """<h1>Search</h1>
<p id="said" role="status">Searching needs JavaScript.</p>
<ol id="found"></ol>
<script src="search.js"></script>
<script>
{script}</script>"""


def committed() -> tuple[list[Page], list[Page], list[Page]]:
    """The recorded lectures, the blank exercises and the recorded controls."""

    def read(paths: Sequence[Path]) -> list[Page]:
        return [(path, nbformat.read(path, as_version=4)) for path in paths]

    blank = sorted((ROOT / "exercises").glob("*/*.ipynb"))
    return read(notebooks.lectures()), read(blank), read(notebooks.controls())


def fit(folder: Path, others: str, sign: str, parser: argparse.ArgumentParser) -> Path:
    """The folder, if it can be written to and has no others of the same names, by a sign of which they are known."""
    if folder.exists() and not folder.is_dir():
        parser.error(f"the folder must be one, or nothing yet, got {folder}")
    if (folder / sign).exists():
        parser.error(f"the folder must not hold {others}, which have the same names, got {folder}; take another one")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "_site")
    folder = fit(parser.parse_args().folder, "slides", "reveal", parser)
    lectures, exercises, controls = committed()
    print(f"Pages to read: {build(lectures, folder, exercises, controls).resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
