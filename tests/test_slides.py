"""tools/slides.py: what is chosen of a lecture becomes a slide, all else is the speaker's, and a hall can read it."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_pages import DOT

import pages
import slides
from sam_lite import claims
from slides import Slide

LECTURES = {path.stem: path for path, _ in pages.committed()[0]}
CHOSEN = slides.chosen()
SMALLEST = 24  # pixels of a letter on a slide of 720
TEXT = """The reading. Of the figure (seen by A. Uthor et al. in 1990).

## 2 · Why, and *what*

First $a. B$ sentence. **Second one. It goes on.** ρ is third.

$$E = m c^2$$

- an item
- another [item](x.ipynb)

✍ *Guess. How much?*"""


def lecture(*more):
    picture = new_output("display_data", {"image/png": DOT}, metadata={"image/png": {"alt": "a dot"}})
    caption = new_output("display_data", {"text/markdown": "*One dot.*"})
    claim = claims.check("The dot <is> there (share)", [1.0] * 9 + [1.01], above=0)
    row = claim._asdict() | {"margin": "inf"}
    table = new_output("display_data", {"text/markdown": "| a |\n|---|\n| b |"}, metadata={claims.KEY: [row]})
    said = new_output("stream", text="4\n")
    cells = [
        new_markdown_cell("# Part 1 · One", id="title"),
        new_code_cell("import pip", id="install"),
        new_markdown_cell(TEXT, id="text"),
        new_code_cell("draw(2)", id="figure", outputs=[picture, caption, table, said], execution_count=1),
        new_markdown_cell(
            "Read.\n\n## Remember\n\nAll.\n\n<details><summary>1. Why?</summary>\n\nSo.\n</details>", id="end"
        ),
    ]
    return new_notebook(cells=[*cells, *more])


DECK = [
    Slide(["title"]),
    Slide(["text"], ["First", "**Second", "$$"]),
    Slide(["text"], ["- another", "✍"], title="Ask"),
    Slide(["figure"]),
    Slide(["end"], ["<details>"]),
]


def test_what_a_block_can_be_chosen_by():
    first, heading, sentences, *_ = slides.blocks(TEXT)
    assert slides.pieces(first) == ["The reading.", "Of the figure (seen by A. Uthor et al. in 1990)."]
    assert slides.pieces(heading) == [heading]
    assert slides.pieces(sentences) == ["First $a. B$ sentence.", "**Second one. It goes on.**", "ρ is third."]


def test_sentences_in_a_row_become_a_list_and_a_prompt_a_paragraph():
    assert slides.picked(TEXT, ["First", "**Second"]) == "- First $a. B$ sentence.\n- **Second one. It goes on.**"
    assert slides.picked(TEXT, ["First", "$$", "- another"]) == (
        "First $a. B$ sentence.\n\n$$E = m c^2$$\n\n- another item"
    )
    with pytest.raises(ValueError, match="nothing in the cell begins with 'Third'"):
        slides.picked(TEXT, ["Third"])


def test_a_deck_shows_what_is_chosen_and_tells_the_speaker_all_words_once():
    found = slides.deck(lecture(), DECK).split("<section")[1:]
    faces = [one.split("<aside")[0] for one in found]
    asides = [one.split("<aside")[1] for one in found]
    assert len(found) == 5 and "<h1>Part 1 &#183; One</h1>" in faces[0]
    assert ">Why, and" in faces[1] and "<li>First" in faces[1] and "third" not in faces[1] and "<math" in faces[1]
    assert ">Ask<" in faces[2] and '<p class="ask">' in faces[2]
    assert 'alt="a dot"' in faces[3] and "draw" not in faces[3] and "&lt;is&gt; there<" in faces[3]
    assert faces[3].index("<img") < faces[3].index('class="after fragment"') < faces[3].index("✓")
    assert "<li>Why?" in faces[4] and "So." not in faces[4]
    told = " ".join(asides)
    for words in ("The reading.", "ρ is third.", "an item", "How much?", "One dot.", "4", "Read.", "All.", "So."):
        assert told.count(words) == 1, words
    assert "The reading." in asides[0] and "One dot." in asides[3] and "Read." in asides[3]


def test_code_is_shown_where_it_is_the_point():
    assert ">draw<" in slides.deck(lecture(), [Slide(["figure"], code=True)])


def test_of_an_explorer_some_panels_can_be_shown():
    cell = new_code_cell("_ = rho_explorer()")
    assert [slides.shown(cell, panels)[0].count("<svg") for panels in ([], [0, 1], [2])] == [3, 2, 1]


@pytest.mark.parametrize(
    ("deck", "said"),
    [
        ([Slide(["none"])], "the lecture has no cell none"),
        (
            [Slide(["figure"]), Slide(["text"], ["First"])],
            "must follow the order of the lecture; that of 'text' does not",
        ),
    ],
)
def test_a_line_that_fits_no_lecture_is_named(deck, said):
    with pytest.raises(ValueError, match=said):
        slides.deck(lecture(), deck)


def test_a_picture_without_words_is_an_error():
    cell = new_code_cell("1", id="bare", outputs=[new_output("display_data", {"image/png": DOT})])
    with pytest.raises(ValueError, match="slide of bare: a picture has no alternative text"):
        slides.deck(lecture(cell), [Slide(["bare"])])


# ---- what is committed


def test_every_part_has_a_deck_that_fits_a_lecture():
    parts = {name for name, path in LECTURES.items() if "# Part" in nbformat.read(path, as_version=4).cells[0].source}
    assert parts | {"00_start_here"} >= set(CHOSEN) >= (parts & {f"0{i}" for i in range(10)})
    assert len(CHOSEN) == 10 and all(12 <= len(deck) <= 20 for deck in CHOSEN.values())


@pytest.mark.parametrize("name", CHOSEN)
def test_all_that_a_deck_shows_is_found_in_its_lecture(name):
    """Whoever changes a lecture's words must look at its deck: this says where."""
    cells = [cell for cell in nbformat.read(LECTURES[name], as_version=4).cells if cell.id != "install"]
    by_id = {cell.id: cell for cell in cells}
    assert len(slides.places(cells, CHOSEN[name])) == len(CHOSEN[name])
    for slide in CHOSEN[name]:
        texts = [by_id[one].source for one in slide.cells if by_id[one].cell_type == "markdown"]
        assert texts or not slide.says
        assert all(slides.picked(text, slide.says) for text in texts)
        shown = [one for one in slide.cells if by_id[one].cell_type == "code" and not slide.code]
        assert all(by_id[one].outputs for one in shown), f"{name}: nothing comes out of {shown}"
        code = "\n".join(by_id[one].source for one in slide.cells if slide.code).splitlines()
        assert not [line for line in code if len(line) > 88], f"{name}: too wide for letters of 24 pixels"


def test_every_slide_that_the_course_measures_is_taken_up_and_the_index_says_where():
    covered = {number for deck in CHOSEN.values() for slide in deck for number in slide.seed}
    assert covered == set(slides.SEED)
    page = slides.contents({name: name for name in CHOSEN}, CHOSEN)
    assert "not taken up" not in page and "| 27 | [06_sam_results, slide 9](06_sam_results.html#/8);" in page


def test_a_prompt_stands_before_its_answer():
    for name, deck in CHOSEN.items():
        cells = {cell.id: cell for cell in nbformat.read(LECTURES[name], as_version=4).cells}
        asked = [slide.cells[0] for slide in deck if "✍" in slide.says]
        assert len(asked) >= 3, name
        prompts = [one for one in cells if cells[one].cell_type == "markdown" and "✍ *" in cells[one].source]
        assert asked == [one for one in prompts if one in asked], name


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    return slides.build(pages.committed()[0], tmp_path_factory.mktemp("slides")).parent


@pytest.mark.slow
def test_all_that_a_deck_needs_lies_beside_it(decks):
    needed = ["LICENSE", "notes.js", "reset.css", "reveal.css", "reveal.js"]
    assert sorted(path.name for path in (decks / "reveal").iterdir()) == needed
    for path in decks.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'(?:src|link href|action)="http', text), path.name
    assert {path.stem for path in decks.glob("*.html")} == {"index", *CHOSEN}


LOOK = """() => {
    const slide = Reveal.getCurrentSlide();
    const seen = [...slide.querySelectorAll("*")].filter(e => !e.closest("aside, svg, math") && e.checkVisibility());
    const words = e => [...e.childNodes].some(child => child.nodeType == Node.TEXT_NODE && child.data.trim());
    const boxes = seen.map(e => e.getBoundingClientRect());
    return [Math.max(...boxes.map(b => b.right)), Math.max(...boxes.map(b => b.bottom)),
            Math.min(99, ...seen.filter(words).map(e => parseFloat(getComputedStyle(e).fontSize))),
            slide.textContent.slice(0, 60)];
}"""


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_nothing_runs_off_a_slide_and_all_can_be_read_from_the_last_row(name, decks, chrome):
    page = chrome.new_page(viewport={"width": 1280, "height": 720})
    page.goto(f"{(decks / name).as_uri()}.html")
    page.wait_for_function("Reveal.isReady()")
    shown, states = [page.evaluate(LOOK)], page.evaluate("Reveal.getTotalSlides()")
    states += page.locator(".fragment").count()
    for _ in range(states - 1):
        page.evaluate("Reveal.next()")
        shown.append(page.evaluate(LOOK))
    assert page.evaluate("Reveal.isLastSlide()")
    page.close()
    assert len({one[3] for one in shown}) > 10
    faults = [one for one in shown if one[0] > 1281 or one[1] > 721 or one[2] < SMALLEST]
    assert not faults, faults


def test_slides_take_the_place_of_no_file_and_of_no_pages(monkeypatch, capsys, tmp_path):
    (tmp_path / "search.html").touch()
    for wrong, said in ((__file__, "must be one, or nothing yet"), (str(tmp_path), "must not hold pages")):
        monkeypatch.setattr("sys.argv", ["slides.py", wrong])
        with pytest.raises(SystemExit, match="2"):
            slides.main()
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["search.html"]


@pytest.mark.slow
def test_a_deck_is_printed_as_it_is_shown_with_a_page_for_each_state(tmp_path, chrome):
    index = slides.build([(pages.ROOT / "lectures" / "one.ipynb", lecture())], tmp_path, {"one": DECK})
    (tmp_path / "mine.html").write_text("<p>A page of somebody's own, and no deck.", encoding="utf-8")
    (path,) = slides.print_pdfs(index, chrome)
    pages_of_it = re.findall(rb"/Type\s*/Page\b", path.read_bytes())
    page = chrome.new_page(viewport={"width": 1280, "height": 720})
    page.goto(f"{(tmp_path / 'one.html').as_uri()}?print-pdf")
    page.wait_for_function("Reveal.isReady() && document.querySelector('.pdf-page')")
    page.emulate_media(media="print")
    assert page.locator(".pdf-page").count() == len(pages_of_it) == 6
    look = "s => [s.offsetHeight, getComputedStyle(s).flexDirection, getComputedStyle(s).paddingTop]"
    assert all(one.evaluate(look) == [720, "column", "26px"] for one in page.locator(".pdf-page > section").all())
    page.close()
