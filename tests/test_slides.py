"""tools/slides.py: what becomes a slide, and that nothing runs off one."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_pages import DOT

import notebooks
import pages
import slides

SMALLEST = 10  # pixels of a line of text in a window of 1280 x 720


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (new_markdown_cell("# One"), "slide"),
        (new_markdown_cell("## Two"), "slide"),
        (new_markdown_cell("### Three"), "subslide"),
        (new_markdown_cell("text"), "subslide"),
        (new_code_cell("# no heading"), "subslide"),
        (notebooks.install_cell(), "skip"),
        (new_markdown_cell("## Two", metadata={"slideshow": {"slide_type": "skip"}}), "skip"),
    ],
)
def test_what_becomes_a_slide(cell, kind):
    assert slides.slide_type(cell) == kind


def test_the_order_of_slides_and_what_metadata_changes():
    said = lambda kind: {"slideshow": {"slide_type": kind}}  # noqa: E731
    cells = [
        new_markdown_cell("# A"),
        new_code_cell("b = 1", execution_count=1),
        new_markdown_cell("c", metadata=said("-")),
        new_markdown_cell("secret", metadata=said("skip")),
        new_markdown_cell("aside", metadata=said("notes")),
        new_markdown_cell("## D $x^2$"),
        new_markdown_cell("  "),
    ]
    text = slides.deck(new_notebook(cells=cells))
    assert text.count("<section>") == 2 + 3 and "secret" not in text and "<math" in text
    assert text.index(">A") < text.index("<p>c") < text.index('class="notes"') < text.index(">D")
    stacks = text.split("\n<section>")
    assert "<p>c" in stacks[0] and ">D" in stacks[1]


def test_a_figure_is_shown_without_the_code_that_draws_it():
    shown = [
        new_output("display_data", {"image/png": DOT}, metadata={"image/png": {"alt": "a dot"}}),
        new_output("display_data", {"text/markdown": "One dot."}),
    ]
    said = [new_output("stream", name="stdout", text="4")]
    cells = [new_code_cell("draw()", outputs=shown), new_code_cell("print(2 + 2)", outputs=said)]
    text = slides.deck(new_notebook(cells=cells))
    assert 'alt="a dot"' in text and "One dot." in text and "draw" not in text
    assert "print" in text and "4" in text


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    return slides.build(pages.committed()[0], tmp_path_factory.mktemp("slides")).parent


@pytest.mark.slow
def test_all_that_a_deck_needs_lies_beside_it(decks):
    assert sorted(path.name for path in (decks / "reveal").iterdir()) == [
        "LICENSE",
        "reset.css",
        "reveal.css",
        "reveal.js",
    ]
    for path in decks.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not any(f'{where}="http' in text for where in ("src", "link href", "action")), path.name
    assert len(list(decks.glob("*.html"))) == 1 + len(pages.committed()[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path, _ in pages.committed()[0]])
def test_nothing_runs_off_a_slide_and_all_can_be_read(name, decks, chrome):
    page = chrome.new_page(viewport={"width": 1280, "height": 720})
    page.goto(f"{(decks / name).as_uri()}.html")
    page.wait_for_function("Reveal.isReady()")
    shown = []
    while True:
        shown.append(
            page.evaluate(
                """() => {
                const slide = Reveal.getCurrentSlide(), inside = slide.querySelector(".fit");
                const box = inside.getBoundingClientRect(), text = [...inside.querySelectorAll("p, li, pre")];
                const sizes = text.filter(one => one.offsetParent).map(one => parseFloat(getComputedStyle(one).fontSize));
                const scale = Reveal.getScale() * parseFloat(inside.style.zoom);
                return [box.right, box.bottom, Math.min(99, ...sizes) * scale, inside.textContent.slice(0, 60)];
            }"""
            )
        )
        if page.evaluate("Reveal.isLastSlide()"):
            break
        page.evaluate("Reveal.next()")
    page.close()
    faults = [one for one in shown if one[0] > 1281 or one[1] > 721 or one[2] < SMALLEST]
    assert not faults, faults
    notebook = nbformat.read(pages.ROOT / "lectures" / f"{name}.ipynb", as_version=4)
    assert len(shown) == sum(slides.slide_type(cell) in ("slide", "subslide") for cell in notebook.cells)
