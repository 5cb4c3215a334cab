"""Decks for the hall, chosen from the recorded lectures, in reveal.js; shown without network.

    python tools/slides.py [FOLDER]          a deck for each lecture that has one (default folder: _slides)
    python tools/slides.py --pdf [FOLDER]    and a PDF beside each, printed by Chromium

`lectures/decks.toml` says what becomes a slide, a line for each. `cells` names cells by their id. Of a cell of text the
slide shows what begins as `says` lists it: a sentence, an equation ($$), an item, a table (|), a question with its answer
folded (<details>), the prompt (✍). Of a cell of code it shows the explorer, picture or table, and with the next click the
verdicts; `code = true` shows the code, `panels` some of the panels of an explorer. `seed` lists the slides of Lim's
lecture, which the course measures, that it covers. All text and all captions are in the speaker's notes, once (key S).
"""

import argparse
import html
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import browser
import pages
from sam_lite.claims import Claim, read

REVEAL = "_static/revealjs"  # in the package sphinx_revealjs, of which this is all that is used
NEEDED = ("dist/reveal.js", "dist/reveal.css", "dist/reset.css", "plugin/notes/notes.js", "LICENSE")
DECKS = pages.ROOT / "lectures" / "decks.toml"
SEED = range(1, 34)  # the slides of the lecture that the course measures
WIDE = 130  # letters of an equation that need smaller ones
LIM = "The course follows two chapters of a lecture by Dong-Young Lim (UNIST); each of their slides is taken up here."
SAID = {"✓": "holds", "✗": "does not hold", "○": "open"}


class Slide(NamedTuple):
    """A line of `decks.toml`."""

    cells: Sequence[str]
    says: Sequence[str] = ()
    title: str = ""  # in place of the heading under which its words stand
    code: bool = False
    panels: Sequence[int] = ()
    seed: Sequence[int] = ()


def chosen(path: Path = DECKS) -> dict[str, list[Slide]]:
    """The deck of each lecture, by the stem of its file."""
    decks = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: [Slide(**line) for line in lines] for name, lines in decks.items()}


# ---------------------------------------------------------------- the words of a lecture


def blocks(source: str) -> list[str]:
    """Headings, paragraphs, equations, lists and tables of Markdown, each whole; what is folded is one block."""
    return [block for block in re.split(r"\n\s*\n(?![^<]*</details>)", source.strip()) if block.strip()]


def pieces(block: str) -> list[str]:
    """What of a block can be chosen by itself: its items, or its sentences; a bold or slanted passage is one."""
    if re.match(r"\$\$|\||#|<|```|>", block):
        return [block]
    if re.match(r"([-*]|\d+\.) ", block):
        return re.split(r"\n(?=(?:[-*]|\d+\.) )", block)
    words, found = block.split(), [[]]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        found[-1].append(word)
        said = " ".join(found[-1])
        plain = re.sub(r"\$[^$]*\$|`[^`]*`", "", said)
        closed = "$" not in plain and plain.count("**") % 2 == 0 and plain.count("*") % 2 == 0
        closed = closed and plain.count("(") == plain.count(")")
        if re.search(r"(?<!al)[.?!][*)]*$", word) and closed and following and not re.match("[a-z]", following):
            found.append([])
    return [" ".join(words) for words in found]


def picked(source: str, says: Sequence[str]) -> str:
    """The pieces of Markdown that begin as `says` lists them; several sentences in a row become a list."""
    known, found = [piece for block in blocks(source) for piece in pieces(block)], []
    for start in says:
        if not (matches := [piece for piece in known if piece.startswith(start)]):
            raise ValueError(f"nothing in the cell begins with {start!r}; decks.toml must follow the lecture's words")
        found.append(re.sub(r"(?s)^<details><summary>(?:\d+\. )?(.*?)</summary>.*", r"1. \1", matches[0]))
    plain = [not re.match(r"\$\$|\||✍|([-*]|\d+\.) ", one) for one in found]
    text = ""
    for i, one in enumerate(found):
        row = plain[i] and (plain[i - 1 : i] == [True] or plain[i + 1 : i + 2] == [True])
        one, item = f"- {one}" if row else one, row or re.match(r"[-*] |\d+\. ", one)
        text += ("\n" if item and re.search(r"\n(- |\d+\. )[^\n]*$", "\n" + text) else "\n\n") + one
    return re.sub(r"(?<!!)\[([^\]]+)\]\([^)]+\)", r"\1", text.strip())


def places(cells: Sequence[NotebookNode], deck: Sequence[Slide]) -> list[tuple[int, int]]:
    """Where each slide begins, as (cell, block): at the heading before its words, if no slide before has that."""
    numbers, found = {cell.id: i for i, cell in enumerate(cells)}, [(-1, 0)]
    for slide in deck:
        if unknown := set(slide.cells) - set(numbers):
            raise ValueError(f"the lecture has no cell {', '.join(sorted(unknown))}")
        at, block = numbers[slide.cells[0]], 0
        if slide.says and cells[at].cell_type == "markdown":
            all_blocks = blocks(cells[at].source)
            first = (i for i, one in enumerate(all_blocks) if any(x.startswith(slide.says[0]) for x in pieces(one)))
            block = next(first, 0)
            heads = [i for i in range(block) if all_blocks[i].startswith("#")]
            if heads and (at, heads[-1]) > found[-1]:
                block = heads[-1]
            elif not heads and (at, 0) > found[-1]:
                block = 0
        if (at, block) <= found[-1]:
            raise ValueError(f"slides must follow the order of the lecture; that of {slide.cells[0]!r} does not")
        found.append((at, block))
    return found[1:]


def notes(cells: Sequence[NotebookNode], start: tuple[int, int], end: tuple[int, int]) -> str:
    """All words of the lecture from one place to another, with captions and what cells print, as Markdown."""
    found = []
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            found += [block for j, block in enumerate(blocks(cell.source)) if start <= (i, j) < end]
        elif start <= (i, 0) < end:
            texts = (
                out.get("data", {}).get("text/markdown") for out in cell.outputs if not read(out.get("metadata", {}))
            )
            found += [text for text in texts if text and not text.startswith("|")]
            found += [f"```\n{out.text}```" for out in cell.outputs if out.output_type == "stream"]
    return re.sub(r"(?<!!)\[([^\]]+)\]\([^)]+\)", r"\1", "\n\n".join(found))


# ---------------------------------------------------------------- a slide


def shown(cell: NotebookNode, panels: Sequence[int] = ()) -> tuple[str, str]:
    """(picture or explorer, tables) of a code cell."""
    if name := pages.explorer_of(cell):
        piece = pages.moving(name)
        for i, panel in reversed(list(enumerate(re.findall(r"<svg .*?</svg>", piece, re.DOTALL)))):
            piece = piece if not panels or i in panels else piece.replace(panel, "")
        return piece, ""
    pictures, tables = "", ""
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            alt = html.escape(pages.alternative(output))
            pictures += f'<img alt="{alt}" src="data:image/png;base64,{data["image/png"].strip()}">'
        elif data.get("text/markdown", "").startswith("|") and not read(output.get("metadata", {})):
            tables += pages.markdown(data["text/markdown"])
    return pictures, tables


def verdicts(claims: Sequence[Claim]) -> str:
    """Claims as a list: mark, claim, and below it ours, the paper's figure and the bound."""
    rows = []
    for claim in claims:
        parts = {"here": claim.here, "paper": claim.paper, "bound": claim.bound}
        said = " · ".join(
            f"<span>{name} <b>{html.escape(text)}</b></span>" for name, text in parts.items() if text not in ("", "–")
        )
        mark = f'<span role="img" aria-label="{SAID[claim.mark]}">{claim.mark}</span>'
        words = re.sub(r" \(([^()]|\([^()]*\))*\)$", "", claim.claim)
        rows.append(f'<li class="mark-{SAID[claim.mark].split()[0]}">{mark} {html.escape(words)}<p>{said}</p></li>')
    return "<ul>" + "".join(rows) + "</ul>"


def section(cells: dict[str, NotebookNode], slide: Slide, heading: str, aside: str) -> str:
    """A slide as HTML."""
    words, pictures, after, wide = "", "", "", ""
    for cell in (cells[name] for name in slide.cells):
        if cell.cell_type == "markdown":
            text = picked(cell.source, slide.says)
            words += pages.markdown(text)
            wide = (
                " wide"
                if any(len(equation) > WIDE for equation in re.findall(r"\$\$.*?\$\$", text, re.DOTALL))
                else wide
            )
        elif slide.code:
            words += highlight(cell.source, PythonLexer(), HtmlFormatter())
        else:
            picture, tables = shown(cell, slide.panels)
            claims = [claim for output in cell.outputs for claim in read(output.get("metadata", {}))]
            pictures, after = pictures + picture, after + tables + (verdicts(claims) if claims else "")
    title = slide.title or ("" if "<img" in pictures else heading)
    opens = slide.cells == ["title"]
    head = pages.markdown(f"{'#' if opens else '##'} {title}") if title else ""
    words = re.sub(r"<p>✍ *", '<p class="ask">✍ ', words)
    stage = f'<div class="picture">{pictures}</div>' if pictures else ""
    stage += f'<div class="after{" fragment" if words or pictures else ""}">{after}</div>' if after else ""
    body = (f'<div class="words{wide}">{words}</div>' if words else "") + (
        f'<div class="stage">{stage}</div>' if stage else ""
    )
    kind = ' class="opening"' if opens else ""
    aside = f'<aside class="notes">{pages.markdown(aside)}</aside>' if aside else ""
    return re.sub(
        r'(<h\d) id="[^"]*"|<a class="anchor-link".*?</a>', r"\1", f"<section{kind}>{head}{body}{aside}</section>"
    )


def deck(notebook: NotebookNode, slides: Sequence[Slide]) -> str:
    """The sections of a lecture."""
    cells = [cell for cell in notebook.cells if cell.get("id") != "install"]
    starts, by_id, sections = places(cells, slides), {cell.id: cell for cell in cells}, []
    for slide, start, end in zip(slides, starts, [*starts[1:], (len(cells), 0)], strict=True):
        above = notes(cells, (0, 0), (start[0], start[1] + 1))
        heading = (re.findall(r"^#+ +(.*)$", above, re.MULTILINE) or [""])[-1]
        heading = heading if slide.cells == ["title"] else re.sub(r"^\d+ · ", "", heading)
        try:
            sections.append(section(by_id, slide, heading, notes(cells, max(start, (0, 0)), end)))
        except ValueError as error:
            raise ValueError(f"slide of {', '.join(slide.cells)}: {error}") from None
    return pages.plain_namespaces("\n".join(sections))


# ---------------------------------------------------------------- the files


def build(notebooks: Sequence[pages.Page], folder: Path, decks: dict[str, list[Slide]] | None = None) -> Path:
    """Write the deck of each (path, notebook) that has one, and an index, with reveal.js beside; return the index."""
    decks = chosen() if decks is None else decks
    reveal = Path(find_spec("sphinx_revealjs").origin).parent / REVEAL
    (folder / "reveal").mkdir(parents=True, exist_ok=True)
    for name in NEEDED:
        shutil.copy(reveal / name, folder / "reveal" / Path(name).name)
    style = "\n".join(
        [HtmlFormatter(style="default").get_style_defs(".highlight"), *map(pages.own, ("live.css", "slides.css"))]
    )
    script, titles = pages.own("slides.js") + pages.own("live.js"), {}
    for path, notebook in notebooks:
        if path.stem not in decks:
            continue
        titles[path.stem] = title = pages.title_of(notebook, path.stem)
        try:
            slides = deck(notebook, decks[path.stem])
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
        text = (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
            '<link rel="stylesheet" href="reveal/reset.css">\n<link rel="stylesheet" href="reveal/reveal.css">\n'
            f'<style>{style}</style>\n</head>\n<body>\n<div class="reveal"><div class="slides">\n{slides}\n</div></div>\n'
            '<script src="reveal/reveal.js"></script>\n<script src="reveal/notes.js"></script>\n'
            f"<script>\n{script}</script>\n</body>\n</html>\n"
        )
        (folder / f"{path.stem}.html").write_text(text, encoding="utf-8", newline="\n")
    index = folder / "index.html"
    index.write_text(
        pages.page("Slides", pages.markdown(contents(titles, decks)), search=False), encoding="utf-8", newline="\n"
    )
    return index


def contents(titles: dict[str, str], decks: dict[str, list[Slide]]) -> str:
    """The page of all decks, and where each slide of the lecture that the course measures is taken up."""
    lines = ["# Slides", "", "Space goes on, S opens the speaker's notes, ? lists all keys.", ""]
    lines += [f"1. [{title}]({stem}.html), {len(decks[stem])} slides" for stem, title in titles.items()]
    lines += ["", "## The slides that the course measures", "", LIM, "", "| its slide | here |", "|---|---|"]
    for number in SEED:
        where = [f"[{titles[stem]}, slide {i}]({stem}.html#/{i - 1})" for stem in titles
                 for i, slide in enumerate(decks[stem], 1) if number in slide.seed]  # fmt: skip
        lines.append(f"| {number} | {'; '.join(where) or 'not taken up'} |")
    return "\n".join(lines) + "\n"


def print_pdfs(index: Path, chromium) -> list[Path]:
    """A PDF beside each deck, with a page for each state of a slide. chromium: Playwright's `Browser`."""
    page, made = chromium.new_page(), []
    decks = (path for path in index.parent.glob("*.html") if "reveal/reveal.js" in path.read_text(encoding="utf-8"))
    for path in sorted(decks):
        page.goto(f"{path.resolve().as_uri()}?print-pdf")
        page.wait_for_function("Reveal.isReady() && document.querySelector('.pdf-page')")
        made.append(path.with_suffix(".pdf"))
        page.pdf(path=made[-1], prefer_css_page_size=True, print_background=True)
    page.close()
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=pages.ROOT / "_slides")
    parser.add_argument("--pdf", action="store_true", help="print each deck to a PDF, too")
    arguments = parser.parse_args()
    folder = pages.fit(arguments.folder, "pages", "search.html", parser)
    index = build(pages.committed()[0], folder)
    if arguments.pdf and browser.CHROMIUM is None:
        print("No PDFs: they need Chromium (apt-get install chromium)")
    elif arguments.pdf:
        with browser.chromium() as chromium:
            print_pdfs(index, chromium)
    print(f"Slides: {index.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
