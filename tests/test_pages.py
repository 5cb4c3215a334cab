"""tools/pages.py: pages that need no network, whose links lead somewhere, that all can read, at any width."""

import os
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import claims_table
import notebooks
import pages
from due import ALL

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of all that is committed."""
    lectures, exercises, controls = pages.committed()
    return pages.build(lectures, tmp_path_factory.mktemp("site"), exercises, controls).parent


class Links(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    def __init__(self, text: str):
        super().__init__()
        self.to, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.to += [attrs[name] for name in ("href", "src", "action") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []


def test_a_page_needs_no_network_and_shows_equations_as_mathml(tmp_path):
    text = "# Box *sharpness*\n\n## Of $x^2$\n\n"
    text += "For $\\epsilon$ and\n$$\\begin{aligned} a &= \\max_x f \\\\ b &= 2\\end{aligned}$$\n\n"
    text += "`$5` [on](b.ipynb#x)\n\n"
    text += "<details><summary>Hint</summary>\n\nthe inside\n\n</details>"
    notebook = new_notebook(cells=[new_markdown_cell(text), new_code_cell("x = 1", execution_count=1)])
    index = pages.build([(tmp_path / "a.ipynb", notebook), (tmp_path / "b.ipynb", new_notebook())], tmp_path / "site")
    page = (index.parent / "a.html").read_text(encoding="utf-8")
    assert page.count("<math") == 3 and "<mtable" in page and "$$" not in page
    assert '<code>$5</code> <a href="b.html#x">on</a>' in page
    assert page.index("<details>") < page.index("the inside") < page.index("</details>")
    assert "<script" not in page and "src=" not in page and "ns0" not in page
    assert page.count("http") == page.count("http://www.w3.org/1998/Math/MathML")
    assert '<a href="a.html">Box sharpness</a>' in index.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("tex", "said"), [(r"\unknown{x}", r"\\unknown cannot be shown"), ("a & b", "& cannot be shown")]
)
def test_an_equation_that_cannot_be_shown_is_an_error_not_a_blot(tex, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        pages.mathml(tex)
    with pytest.raises(ValueError, match="a.ipynb: "):
        pages.build([(tmp_path / "a.ipynb", new_notebook(cells=[new_markdown_cell(f"${tex}$")]))], tmp_path)


def test_limits_stand_under_a_maximum_and_words_upright():
    shown = pages.mathml(r"\max_{\|e\| \le 1} L^{SAM}_i", "block")
    assert "<munder" in shown and re.search(r"<mi[^>]*>max|<mo[^>]*>max", shown)
    assert "munder" not in pages.mathml(r"\max_x f"), "in a line there is no room for it"
    assert shown.count("normal") or "SAM" in re.sub("<[^>]*>", "", shown)
    assert pages.mathml("x_{ij}", "block").count("<mi>") == 3


DRAWS = "fig, ax = plots.subplots()\nplots.show(fig, caption='c', alt='a dot')"


@pytest.mark.parametrize(
    ("source", "tags", "what"),
    [
        (DRAWS, [], "Code of this picture"),
        (DRAWS, ["unfold"], ""),
        ("run = train_ensemble(make, data)\n" + DRAWS, [], ""),
        ("run = train_ensemble(make, data)\n" + DRAWS, ["fold"], "Code of this picture"),
    ],
)
def test_code_that_only_draws_is_folded(source, tags, what):
    shown = new_output("display_data", {"image/png": DOT}, metadata={"image/png": {"alt": "a dot"}})
    cell = new_code_cell(source, outputs=[shown], execution_count=1, metadata={"tags": tags}, id="c")
    assert pages.folded(cell) == what
    body = pages.body_of(new_notebook(cells=[cell]))
    assert (f"<summary>{what}</summary>" in body) == bool(what) and body.count("<img") == 1
    if what:
        assert body.index("<details") < body.index("subplots") < body.index("</details>") < body.index("<img")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("claims.show(\n    claims.check('c', x, above=1),\n)", "Code of this table"),
        ("x = 1\nclaims.show(claims.check('c', x, above=1))", ""),
        ("%pip install x", ""),
    ],
)
def test_code_that_only_makes_a_table_is_folded(source, what):
    shown = new_output("display_data", {"text/markdown": "| a |"})
    assert pages.folded(new_code_cell(source, outputs=[shown], execution_count=1)) == what


def test_imports_are_folded_and_what_follows_is_not():
    cells = [new_code_cell("import a\nfrom b import c"), new_code_cell("x = 1"), new_code_cell("import d")]
    body = pages.body_of(new_notebook(cells=cells))
    assert body.count("<summary>Imports</summary>") == body.count("</details>") == 2
    assert body.count("<div") == body.count("</div>")
    assert body.index("</details>") < body.index(">x<") < body.rindex("<details")


def test_an_explorer_moves_on_the_page_and_its_still_picture_is_not_there():
    shown = [
        new_output("display_data", {"image/png": DOT}, metadata={"image/png": {"alt": "a dot"}}),
        new_output("display_data", {"text/markdown": "*The caption.*"}),
        new_output("display_data", {"text/plain": "Run this cell to move the controls."}),
    ]
    cells = [new_code_cell("_ = step_explorer()", outputs=shown, execution_count=1)]
    body = pages.body_of(new_notebook(cells=cells))
    assert '<figure class="live" id="step">' in body and "a dot" not in body and "Run this cell" not in body
    assert "The caption." in body and pages.page("t", body).count("<script") == 2
    more = [*cells, new_code_cell("_ = step_explorer()", outputs=shown, execution_count=2)]
    both = Links(pages.body_of(new_notebook(cells=more)))
    assert len(both.ids) == len(set(both.ids)) and {"step", "step-2", "step-2-said"} <= set(both.ids)


def test_a_graph_of_arrows_is_a_table_on_a_page():
    shown = pages.markdown("```mermaid\ngraph LR\n    a & b --> c\n```")
    assert "<td>c</td>" in shown and "<td>a, b</td>" in shown


def test_a_picture_without_alternative_text_is_an_error(tmp_path):
    shown = new_output("display_data", {"image/png": DOT})
    notebook = new_notebook(cells=[new_code_cell("1", outputs=[shown], execution_count=1)])
    with pytest.raises(ValueError, match="no alternative text"):
        pages.body_of(notebook)


@pytest.mark.parametrize(
    ("link", "address"),
    [
        ("02_keskar.ipynb#x", "02_keskar.html#x"),
        ("../../lectures/02_keskar.ipynb", "02_keskar.html"),
        ("../exercises/05_sam/05_sam.ipynb", "exercise_05_sam.html"),
        ("CLAIMS.md", "index.html#claims"),
        ("controls/05_sam.ipynb#x", "control_05_sam.html#x"),
        ("../05_sam.ipynb", "05_sam.html"),
        ("../docs/install.md", "install.html"),
        ("glossary.md#SAM", "glossary.html#SAM"),
        ("../INSTRUCTORS.md", "INSTRUCTORS.html"),
        ("https://example.org/a.ipynb", "https://example.org/a.ipynb"),
    ],
)
def test_links_between_notebooks_are_links_between_pages(link, address):
    assert pages.address_of(link) == address


@pytest.mark.slow
def test_every_link_leads_somewhere(site):
    found = {path.name: Links(path.read_text(encoding="utf-8")) for path in site.glob("*.html")}
    assert len(found) > 11
    for name, page in found.items():
        assert len(page.ids) == len(set(page.ids)), f"{name}: two places have one name"
        for link in page.to:
            if re.match(r"https://|data:image/", link):
                continue
            target, _, place = link.partition("#")
            assert not target or (site / target).is_file(), f"{name}: {link} leads to no file"
            assert not place or place in found[target or name].ids, f"{name}: {link} leads to no place"


@pytest.mark.slow
def test_every_lecture_and_exercise_is_reached_from_the_index_and_from_its_neighbours(site):
    index = Links((site / "index.html").read_text(encoding="utf-8")).to
    lectures, exercises, controls = pages.committed()
    for some, prefix in ((lectures, ""), (exercises, "exercise_"), (controls, "control_")):
        names = [f"{prefix}{path.stem}.html" for path, _ in some]
        assert set(names) <= set(index)
        for one, other in pairwise(names):
            assert other in Links((site / one).read_text(encoding="utf-8")).to
            assert one in Links((site / other).read_text(encoding="utf-8")).to


@pytest.mark.slow
def test_the_first_page_shows_every_claim_and_every_page_the_list_of_all(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    lectures, exercises, controls = pages.committed()
    claims = sum(len(claims_table.claims_of(notebook, path.name)) for path, notebook in [*lectures, *controls])
    assert len(re.findall(r'<td class="mark-(?:holds|does|open)">', index)) == claims > 0
    assert '<figure class="live" id="valley">' in index and len(re.findall(r'<li><a href="\d\d_', index)) == 2 * len(
        lectures
    )
    for path in site.glob("*.html"):
        if path.name != "search.html":
            text = path.read_text(encoding="utf-8")
            assert text.count(' aria-current="page"') == 1, path.name
            assert len(set(Links(text).to) & {other.name for other in site.glob("*.html")}) > 25, path.name


def test_the_glossary_names_each_term_once_with_the_lecture_that_defines_it():
    text = (pages.ROOT / "lectures" / "glossary.md").read_text(encoding="utf-8")
    parts = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    terms = [part.split("\n")[0] for part in parts]
    assert len(terms) > 25 and len(set(terms)) == len(terms)
    for part in parts:
        links = re.findall(r"\]\(([\w-]+\.ipynb)\)", part)
        assert links and all((pages.ROOT / "lectures" / link).is_file() for link in links), part


def test_a_term_is_linked_to_the_glossary_where_it_first_stands_in_running_text():
    body = "<h2>Seed</h2><p>A <code>seed</code>, <a href='x'>seed</a>. Seeds, <b>SAM</b> and 1-SAM; seed, sam, nature, nats.</p>"
    said = pages.explained(body, {"seed": "Seed", "SAM": "SAM", "1-SAM": "m", "nat": "Nat"})
    assert said.count('class="term"') == 4 and '. <a class="term" href="glossary.html#Seed">Seed</a>s, <b>' in said
    assert '<b><a class="term" href="glossary.html#SAM">SAM</a></b>' in said and '#m">1-SAM</a>' in said
    assert 'nature, <a class="term" href="glossary.html#Nat">nat</a>s.' in said


@pytest.mark.slow
def test_every_lecture_leads_to_the_glossary_and_every_term_is_led_to(site):
    found = {
        path.stem: Links((site / f"{path.stem}.html").read_text(encoding="utf-8")).to for path in notebooks.lectures()
    }
    led = {name: {link for link in links if link.startswith("glossary.html#")} for name, links in found.items()}
    assert all(len(links) >= 4 for links in led.values()), {name: len(links) for name, links in led.items()}
    assert len(set.union(*led.values())) > 0.8 * len(set(pages.terms().values()))


@pytest.mark.slow
def test_on_paper_no_picture_is_cut_and_nothing_of_the_screen_is_left(site, chrome):
    page = chrome.new_page()
    page.goto(f"{site.as_uri()}/05_sam.html")
    page.emulate_media(media="print")
    gone = page.locator("header, footer, .all, .contents, .knobs")
    assert gone.count() >= 5 and not any(one.is_visible() for one in gone.all())
    kept = "e => getComputedStyle(e).breakInside"
    for one in page.locator("img, figure.live, table").all():
        assert one.evaluate(kept) == "avoid"
    page.close()


@pytest.mark.slow
def test_search_finds_the_part_and_says_when_there_is_none(site, chrome):
    page = chrome.new_page()
    page.goto(f"{site.as_uri()}/05_sam.html")
    page.get_by_role("searchbox").fill("Ghost batch")
    page.keyboard.press("Enter")
    page.locator("#found a").first.wait_for()
    assert "03_hoffer.html#" in page.locator("#found a").first.get_attribute("href")
    page.locator("#found a").first.click()
    assert "03_hoffer.html#" in page.url
    page.goto(f"{site.as_uri()}/search.html?q=%3Cb%3Eflurble")
    assert page.locator("#said").text_content() == "0 parts for “<b>flurble”"
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [380, 800, 1280, 1500])
def test_nothing_runs_off_the_side(site, chrome, width):
    page = chrome.new_page(viewport={"width": width, "height": 900})
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
    page.close()


@pytest.mark.slow
def test_on_a_phone_a_figure_fits_and_a_tap_enlarges_it(site, chrome):
    context = chrome.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(f"{site.as_uri()}/08_bouncing.html")
    box, figure = page.locator(".output_png").first, page.locator(".output_png img").first
    width = lambda: figure.evaluate("e => e.getBoundingClientRect().width")  # noqa: E731
    scrolls = lambda: box.evaluate("e => e.scrollWidth > e.clientWidth")  # noqa: E731
    whole = width()
    assert 300 < whole <= 390 and not scrolls()
    figure.tap()
    assert width() > 1.7 * whole and scrolls()
    page.locator("h2").first.tap()
    assert width() == whole and not scrolls()
    box.focus()
    assert scrolls()
    context.close()


NEW = """seen => {
    // mark one text for each colour, background, size and weight that is not in `seen`, and tell these
    const behind = e => e ? [getComputedStyle(e), ...behind(e.parentElement)] : [];
    const told = e => {
        const styles = behind(e), {color, fontSize, fontWeight} = styles[0];
        const grounds = styles.map(s => `${s.backgroundColor} ${s.backgroundImage} ${s.opacity}`);
        return [color, fontSize, fontWeight, ...grounds.filter(g => g != "rgba(0, 0, 0, 0) none 1")].join();
    };
    const words = e => [...e.childNodes].some(child => child.nodeType == Node.TEXT_NODE && child.data.trim());
    const found = [];
    for (const e of document.querySelectorAll("body *")) {
        if (!words(e) && e.localName != "input") continue;
        const kind = told(e);
        if (seen.includes(kind) || found.includes(kind)) continue;
        found.push(kind);
        e.dataset.contrast = "";
    }
    return found;
}"""
CONTRAST = "color-contrast"


@pytest.mark.slow
def test_no_serious_fault_of_accessibility(site, chrome):
    """Contrast takes longest: it is judged once for each kind of text, in both schemes; the rest is the same in both.

    Every night all pages are judged, otherwise one lecture, one control, one exercise, and every page that is none.
    """
    from axe_playwright_python.sync_playwright import Axe

    every, faults = sorted(site.glob("*.html")), []
    if not os.environ.get(ALL):
        every = sorted({re.sub(r"\d\d_.*", "", path.stem): path for path in every}.values())

    def judge(page, name, rules, context=None):
        for one in Axe().run(page, context, {"resultTypes": ["violations"]} | rules).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                faults.append(f"{name}: {one['id']}: {one['nodes'][0]['html'][:200]} ({len(one['nodes'])} times)")

    for scheme in ("light", "dark"):
        context, seen = chrome.new_context(viewport={"width": 380, "height": 900}, color_scheme=scheme), []
        page = context.new_page()
        for path in every:
            page.goto(path.as_uri())
            if scheme == "light":
                judge(page, path.name, {"rules": {CONTRAST: {"enabled": False}}})
            if new := page.evaluate(NEW, seen):
                judge(page, f"{path.name}, {scheme}", {"runOnly": [CONTRAST]}, {"include": [["[data-contrast]"]]})
                seen += new
        context.close()
        assert len(seen) > 10, "the kinds of text that a page of code and words has"
    assert not faults, "\n".join(faults)


def test_a_file_is_no_folder_for_pages(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pages.py", __file__])
    with pytest.raises(SystemExit, match="2"):
        pages.main()
    assert "the folder must be one, or nothing yet, got" in capsys.readouterr().err


def test_pages_do_not_take_the_place_of_slides(monkeypatch, capsys, tmp_path):
    (tmp_path / "reveal").mkdir()
    monkeypatch.setattr(sys, "argv", ["pages.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        pages.main()
    assert "must not hold slides, which have the same names" in capsys.readouterr().err
