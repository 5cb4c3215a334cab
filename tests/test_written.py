"""What grading writes for people: the page of a student, the page of written answers, and the points that come back."""

import base64
import csv
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

assignments = pytest.importorskip("assignments", reason="nbgrader is missing: pip install -e '.[instructor]'")
import feedback  # noqa: E402
import gradebook  # noqa: E402
import judging  # noqa: E402
import own  # noqa: E402
import platforms  # noqa: E402
import similar  # noqa: E402
import submissions  # noqa: E402
import written  # noqa: E402
from notebooks import ROOT  # noqa: E402
from sam_lite.checks import variants  # noqa: E402

SOLUTION = ROOT / "solutions" / "05_sam" / "05_sam.ipynb"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


class Outside(HTMLParser):
    """What a page would run or fetch: scripts, handlers, and addresses other than those that hold their content."""

    def __init__(self, text):
        super().__init__()
        self.found = re.findall(r"@import|url\(", text)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [tag] if tag in ("script", "link", "iframe", "object", "embed", "base") else []
        for name, value in attrs:
            address = name in ("src", "srcset", "action", "data") or (name == "href" and "script:" in value)
            if name.startswith("on") or (address and not (value or "").startswith("data:image/")):
                self.found.append(f"{name}={value}")

    def handle_comment(self, text):
        self.found.append(text)


@pytest.fixture(scope="module")
def solution():
    return nbformat.read(SOLUTION, as_version=4)


def answered(student, text, points=None):
    """A submission with one checked and one written part, as grading leaves it."""
    scores = {
        "climb_check": {"points": 3.0, "of": 3, "failed": ""},
        "accumulated_why": {"points": points, "of": 5, "failed": "", "written": True},
    }
    one = submissions.Submission(f"{student}/05_sam.ipynb", student, "05_sam", scores=scores)
    one.written, one.body = {"accumulated_why": feedback.markdown(text)}, feedback._mark("accumulated_why")
    return one


def class_of_two():
    return [answered("Zoë Doe_2", "It *bounces*: $a^2 < 4$."), answered("Max Doe_1", "I do not know.")]


HOSTILE = {
    "<script>alert(1)</script>": "&lt;script&gt;",
    "[x](javascript:alert(1))": "harmful-link",
    "![me](https://example.com/me.png)": "[picture me]",
    "![me](/etc/passwd)": "[picture me]",
    r"$\text{<script>alert(1)</script>}$": "<code>",
    r"$\text{<img src=x onerror=alert(1)>}$": "<code>",
    r"$\href{javascript:alert(1)}{x}$": "<code>",
    r"$\nonsense{x}$": r"<code>\nonsense{x}</code>",
    "```mermaid\n</pre><script>alert(1)</script>\n```": "&lt;script&gt;",
    "<!--points of climb_check-->": "&lt;!--",
    r"$\text{<!--points of climb_check-->}$": "<code>",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_student_wrote_runs_or_is_fetched_on_a_page(text):
    shown = feedback.markdown(text)
    assert HOSTILE[text] in shown
    assert Outside(shown).found == []


def test_equations_and_code_of_a_student_are_shown_as_meant():
    shown = feedback.markdown("`a < b`, $\\frac{a}{2}$ and\n\n$$\\lambda_{max}$$\n\n```python\nx = 1 < 2\n```")
    assert "<code>a &lt; b</code>" in shown and "<mfrac>" in shown and 'display="block"' in shown
    assert "ns0:" not in feedback.markdown("## The size of $a^2$") and "<msup>" in feedback.markdown("## Of $a^2$")


def test_the_page_of_a_student_fetches_nothing_and_has_no_script(solution):
    blank = assignments.blank(solution)
    scores = {
        cell.metadata.nbgrader.grade_id: {"points": 0.0, "of": 1, "failed": "a reason"}
        for cell in blank.cells
        if assignments.role(cell) in ("check", "written")
    }
    page = feedback.page("05_sam: mia", feedback.body(blank), scores, ["a remark"])
    assert Outside(page).found == [] and "$" not in re.sub(r"(?s)<pre>.*?</pre>", "", page)
    assert page.count("a reason") == len(scores) and "<math" in page and "a remark." in page
    assert "total(set_05" not in page and "find_spec" not in page


def test_pictures_are_those_of_own_cells_and_those_pasted_into_text(solution):
    handed = nbformat.from_dict(solution)
    assert feedback.pictures(handed, solution) == []
    mine = new_output("display_data", {"image/png": DOT, "text/html": "<script>"})
    pasted = new_markdown_cell("![image.png](attachment:image.png)", attachments={"image.png": {"image/png": DOT}})
    bad = new_output("display_data", {"image/png": '"><script>alert(1)</script>'})
    handed.cells += [new_code_cell("plot()", outputs=[mine, bad]), pasted]
    assert feedback.pictures(handed, solution) == [f"data:image/png;base64,{DOT}"] * 2
    assert base64.b64decode(DOT)[1:4] == b"PNG"


def test_a_page_of_written_answers_holds_question_rubric_and_all_answers(solution):
    page = written.page("05_sam", class_of_two(), solution, key=7)
    for said in ("Zoë Doe_2", "I do not know.", "how many different ε per step", "<em>Rubric (a): 1 point", "<msup>"):
        assert said in page
    assert page.index("Max Doe_1") < page.index("Zoë Doe_2") and Outside(page).found == ["script"]
    hidden = written.page("05_sam", class_of_two(), solution, key=7, anonymous=True)
    assert "Doe" not in hidden and "I do not know." in hidden and "Answer 2" in hidden


def table(path: Path, *rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([written.HEADER, *rows])
    return path


def test_points_and_comments_of_a_page_reach_the_table_and_the_page_of_the_student(tmp_path):
    zoe = written.code_of("Zoë Doe_2", "05_sam", 7)
    saved = table(tmp_path / "05_sam_points.csv", [zoe, "accumulated_why", "3.5", '=Good, "but"\nshort <b>'])
    grades = tmp_path / "grades.csv"
    gradebook.merge(class_of_two(), grades, marks=written.points([saved], class_of_two(), 7))
    for _ in range(2):  # and again, from the table alone
        one, other = class_of_two()
        gradebook.merge([one, other], grades)
        assert (one.points, one.by_hand, other.points, other.by_hand) == (6.5, 0, 3, 5)
        page = feedback.page("x", one.body, one.scores, one.remarks)
        assert "3.5 of 5 points, given by hand." in page and "=Good, &quot;but&quot; short &lt;b&gt;" in page
        assert "6.5 of 8 points" in page
    shown = written.page("05_sam", [one, other], nbformat.read(SOLUTION, as_version=4), key=7)
    assert 'value="3.5"' in shown and "=Good, &quot;but&quot; short &lt;b&gt;</textarea>" in shown


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["0" * 8, "accumulated_why", "1", ""], "no graded submission has the answer 00000000"),
        (["ZOE", "other_why", "1", ""], "no graded submission has the answer .* to other_why"),
        (["ZOE", "accumulated_why", "6", ""], r"Zoë Doe_2, accumulated_why \(written\) must be a number from 0 to 5"),
        (["ZOE", "accumulated_why", "nan", ""], "must be a number from 0 to 5, got 'nan'"),
    ],
)
def test_points_that_belong_nowhere_or_cannot_be_change_nothing(row, said, tmp_path):
    zoe = written.code_of("Zoë Doe_2", "05_sam", 7)
    saved = table(tmp_path / "points.csv", [zoe if cell == "ZOE" else cell for cell in row])
    grades = tmp_path / "grades.csv"
    gradebook.merge(class_of_two(), grades)
    before = grades.read_bytes()
    with pytest.raises(SystemExit, match=said):
        gradebook.merge(class_of_two(), grades, marks=written.points([saved], class_of_two(), 7))
    assert grades.read_bytes() == before


def test_a_comment_is_taken_as_it_was_typed(tmp_path):
    zoe = written.code_of("Zoë Doe_2", "05_sam", 7)
    for said in ("'=x is no formula", "=2", "''+1", 'a\u00a0b; c, "d"'):
        saved, grades = table(tmp_path / "points.csv", [zoe, "accumulated_why", "1", said]), tmp_path / "grades.csv"
        gradebook.merge(class_of_two(), grades, marks=written.points([saved], class_of_two(), 7))
        one, _ = found = class_of_two()
        gradebook.merge(found, grades)
        assert one.scores["accumulated_why"]["comment"] == " ".join(said.split())


def test_another_table_is_named(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="other.csv: a column must be named answer"):
        written.points([other], class_of_two(), 7)


def as_saved(text, form):
    """A table as spreadsheets save it: with other separators, a line that names the separator, other letters."""
    separator, encoding, first = form
    rows = list(csv.reader(text.lstrip("\ufeff").splitlines()))
    lines = [separator.join(f'"{cell}"' if separator in cell else cell for cell in row) for row in rows]
    return (first + "\r\n".join(lines) + "\r\n").encode(encoding)


FORMS = [
    (",", "utf-8", ""), (";", "utf-8-sig", ""), ("\t", "utf-16", ""), (";", "cp1252", "sep=;\r\n"),
    (",", "cp1252", '"sep=,"\n'), ("\t", "utf-8", ""),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_tables_are_read_as_spreadsheets_save_them(form, tmp_path):
    grades, saved = tmp_path / "grades.csv", tmp_path / "points.csv"
    zoe = written.code_of("Zoë Doe_2", "05_sam", 7)
    saved.write_bytes(as_saved(f"answer,part,points,comment\n{zoe},accumulated_why,3.5,schön", form))
    gradebook.merge(class_of_two(), grades, marks=written.points([saved], class_of_two(), 7))
    grades.write_bytes(as_saved(grades.read_text(encoding="utf-8-sig"), form))
    found = class_of_two()
    gradebook.merge(found, grades)
    assert (found[0].points, found[0].scores["accumulated_why"]["comment"]) == (6.5, "schön")
    assert "Zoë Doe_2" in grades.read_text(encoding="utf-8-sig")


@pytest.mark.parametrize("content", ["name,points\nmia,1\n", "student|exercise\nmia|05_sam\n", "\0\0"])
def test_a_table_that_cannot_be_read_is_left_alone(content, tmp_path):
    grades = tmp_path / "grades.csv"
    grades.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match="grades.csv: a column must be named student, .* Nothing was written"):
        gradebook.merge(class_of_two(), grades)
    assert grades.read_text(encoding="utf-8") == content


def test_no_code_of_an_answer_looks_like_a_number():
    codes = [written.code_of(f"student {i}", "05_sam", 7) for i in range(500)]
    assert len(set(codes)) == 500 and all(re.fullmatch("[a-z][0-9a-f]{8}", code) for code in codes)


def test_a_table_that_was_saved_with_codes_without_the_letter_is_read(tmp_path):
    zoe = written.code_of("Zoë Doe_2", "05_sam", 7)
    saved = table(tmp_path / "points.csv", [zoe[1:], "accumulated_why", "2", ""])
    assert written.points([saved], class_of_two(), 7)[("Zoë Doe_2", "05_sam")]["accumulated_why (written)"] == "2"


@pytest.mark.slow
def test_in_a_browser_points_are_kept_and_saved(chrome, solution, tmp_path):
    path = tmp_path / "05_sam.html"
    path.write_text(written.page("05_sam", class_of_two(), solution, key=7), encoding="utf-8")
    context = chrome.new_context(offline=True, accept_downloads=True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    zoe = page.locator("article", has_text="bounces")
    zoe.get_by_label("Points").fill("9")
    page.get_by_role("button").click()  # 9 of 5: nothing is saved
    assert page.get_by_role("status").inner_text() == "1 of 2 have points."
    zoe.get_by_label("Points").fill("4.5")
    zoe.get_by_label("Comment").fill('Good, "but"\nshort')
    page.reload()
    with page.expect_download() as download:
        page.get_by_role("button").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name == "05_sam_points.csv" and not errors
    marks = written.points([saved], class_of_two(), 7)
    said = {"accumulated_why (written)": "4.5", "accumulated_why (comment)": 'Good, "but" short'}
    assert marks == {("Zoë Doe_2", "05_sam"): said}
    context.close()


def test_text_below_the_running_total_is_the_written_answer(solution):
    sheet = assignments.blank(solution)
    handed = nbformat.from_dict(sheet)
    handed.cells.append(new_markdown_cell("My answer."))
    repaired, _ = submissions.repair(handed, sheet)
    assert next(c for c in repaired.cells if c.id == "accumulated-why").source == "My answer."
    assert [c.id for c in repaired.cells] == [c.id for c in sheet.cells]


# ---------------------------------------------------------------- numbers of one's own


def asking(name, solution):
    """The blank sheet of set 5 with this text after NAME =."""
    handed = assignments.blank(solution)
    cell = next(cell for cell in handed.cells if cell.id == "numbers")
    cell.source = cell.source.replace('NAME = ""', f"NAME = {name}")
    return handed


def called(student, name, solution, exercise="05_sam"):
    """A submission in which a name was typed, as grading leaves it."""
    one = answered(student, "It bounces.")
    one.exercise, one.scores["accumulated_why"]["own"] = exercise, own.of(asking(repr(name), solution), solution)
    return one


def moved(notebook):
    notebook.cells.insert(0, notebook.cells.pop([cell.id for cell in notebook.cells].index("numbers")))


def bare(notebook):
    for cell in notebook.cells:
        cell.metadata = {}
        cell.pop("id", None)
    notebook.nbformat_minor = 4


def missing(notebook):
    notebook.cells = [cell for cell in notebook.cells if cell.id != "numbers"]


def split(notebook):
    missing(notebook)
    notebook.cells += [new_code_cell('NAME = "Zoë Doe"'), new_code_cell('own_numbers("05_sam", NAME)')]


def direct(notebook):
    missing(notebook)
    notebook.cells.append(new_code_cell('own_numbers("05_sam", name="Zoë Doe")'))


def another_below(notebook):
    notebook.cells += [new_code_cell('NAME = "resnet"'), new_code_cell("NAME = = ((("), new_markdown_cell('NAME = "x"')]


READ = [
    ('"Zoë Doe"', None, "Zoë Doe"),
    ('"Zoë Doe"', moved, "Zoë Doe"),
    ('"Zoë Doe"', bare, "Zoë Doe"),
    ('"Zoë Doe"', another_below, "Zoë Doe"),
    ('"Max Doe"\n%time NAME = "Zoë Doe"', None, "Max Doe"),
    ('"Max Doe"; NAME = "Zoë Doe"', None, "Zoë Doe"),
    ('""', split, "Zoë Doe"),
    ('""', direct, "Zoë Doe"),
    ('""', None, ""),
    ('"..."', None, ""),
    ('"Zoë Doe"', missing, ""),
    ("5", None, ""),
    ('["Zoë Doe"]', None, ""),
    ('f"{exit()}"', None, ""),
    ('open("/etc/passwd").read()', None, ""),
    ('"Zoë Doe', None, ""),
    ("(" * 5000, None, ""),
]


@pytest.mark.parametrize(("name", "change", "due"), READ, ids=range(len(READ)))
def test_a_typed_name_is_read_whatever_became_of_its_cell_and_never_run(name, change, due, solution):
    handed = asking(name, solution)
    if change:
        change(handed)
    handed, _ = submissions.read(nbformat.writes(handed).encode())
    assert own.typed(handed) == due
    found = own.of(handed, solution)
    assert found["typed"] == due and found.get("right") == (variants.drawn("05_sam", due).right if due else None)


def test_a_sheet_without_the_cell_asks_for_no_name(solution):
    sheet = assignments.blank(solution)
    missing(sheet)
    assert own.of(asking('"Zoë Doe"', solution), sheet) is None and own.shown(None) == ""


def test_the_marking_page_shows_numbers_result_and_what_is_odd_about_a_name(solution):
    found = [
        called("Zoë Doe_2", "DOE, Zoe", solution),
        called("Max Roe_1", "doe zoë", solution),
        called("Ann Poe_3", "Bea Moe", solution),
        called("Eve Loe_4", "", solution),
        called("Zoë Doe_2", "Zoe Doe", solution, exercise="06_sam_results"),
    ]
    own.remark(found)
    alike = "typed the same name for the numbers"
    assert [one.odd for one in found] == [
        [f"Max Roe_1 {alike}"],
        ["'doe zoë', typed for the numbers, is no name of Max Roe_1", f"Zoë Doe_2 {alike}"],
        ["'Bea Moe', typed for the numbers, is no name of Ann Poe_3"],
        [],
        [],
    ]
    page = written.page("05_sam", found, solution, key=7)
    answers = dict(re.findall(r"<h3>([^<]* \w+_\d)</h3>(.*?)</article>", page, re.DOTALL))
    due = variants.drawn("05_sam", "Bea Moe")
    assert due.asked in answers["Ann Poe_3"] and f"Expected: {due.right}." in answers["Ann Poe_3"]
    assert "is no name of Ann Poe_3.</strong>" in answers["Ann Poe_3"] and "Bea Moe" in answers["Ann Poe_3"]
    assert "is no name of" not in answers["Zoë Doe_2"] and f"Max Roe_1 {alike}.</strong>" in answers["Zoë Doe_2"]
    assert own.NONE in answers["Eve Loe_4"] and own.NONE not in answers["Ann Poe_3"]
    assert "is no name of Ann Poe_3" in gradebook.report(found)


def test_without_names_only_numbers_and_result_are_shown(solution):
    found = [called("Ann Poe_3", "Bea Moe", solution), called("Eve Loe_4", "Bea Moe", solution)]
    own.remark(found)
    page = written.page("05_sam", found, solution, key=7, anonymous=True)
    assert page.count(f"Expected: {variants.drawn('05_sam', 'Bea Moe').right}.") == 2
    assert not re.search("Bea|Moe|Poe|Loe|is no name|same name", page)


def test_the_page_of_a_student_shows_the_own_numbers_and_says_nothing_odd(solution):
    one = called("Ann Poe_3", "Bea Moe", solution)
    own.remark([one])
    page = feedback.page("x", one.body, one.scores, one.remarks)
    assert f"Expected: {variants.drawn('05_sam', 'Bea Moe').right}." in page and "is no name" not in page


STRANGE = [
    "<script>alert(1)</script>",
    "</p></article><b>\u202e'\"&amp;",
    "Zoë " * 5000,
    "<!--points of accumulated_why-->",
]


@pytest.mark.parametrize("name", STRANGE, ids=range(len(STRANGE)))
def test_a_typed_name_is_shown_short_and_as_text(name, solution):
    one = called("Ann Poe_3", name, solution)
    own.remark([one])
    assert one.scores["accumulated_why"]["own"]["right"] == variants.drawn("05_sam", name).right
    marking, theirs = written.page("05_sam", [one], solution, key=7), feedback.page("x", one.body, one.scores, [])
    for page, scripts in ((marking, ["script"]), (theirs, [])):
        (line,) = re.findall(r'<p class="own">(.*?)</p>', page, re.DOTALL)
        assert Outside(page).found == scripts and len(line) < 1200 and "\u202e" not in line
        assert re.findall("<(?!br>|strong>|/strong>)", line) == []


NAMED = [
    ("Ada Lovelace", "Lovelace Ada_123", True),
    ("ada", "Ada Lovelace", True),
    ("José", "JOSE PEREZ_9", True),
    ("Jane Doe", "doejane_12345", True),
    ("Bo Li", "libo_7", True),
    ("Ada Lovelace", "doejane_12345", False),
    ("Li", "Alice Ng", False),
    ("李雷", "韩梅梅", False),
    ("Ada Lovelace", "s1234567", True),
    ("Ada Lovelace", "mmu042_7", True),
    ("Ada Lovelace", "unnamed folder", True),
]


@pytest.mark.parametrize(("name", "student", "due"), NAMED)
def test_a_name_is_odd_where_no_word_of_it_is_the_students(name, student, due):
    assert own._shares(name, student) == due


def test_a_name_reaches_the_page_from_what_was_handed_in_and_is_no_code_of_ones_own(solution, monkeypatch, tmp_path):
    monkeypatch.setattr(judging, "run", lambda cells, *_: ({i: {"failed": "not run"} for i in range(len(cells))}, []))
    for name in ("SAM_LITE_CHECK_SEED", "SAM_LITE_PRIVATE_CHECKS"):
        monkeypatch.setenv(name, "")
    files = {"handed": asking('"Zoë Doe"', solution), "expected": assignments.blank(solution)}
    for name, notebook in files.items():
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    request = {"seconds": 1, "seed": 7, "private": "", "work": str(tmp_path)}
    result = judging.judge(request | {name: str(tmp_path / f"{name}.ipynb") for name in files})
    due = variants.drawn("05_sam", "Zoë Doe")
    told = {"typed": "Zoë Doe", "asked": due.asked, "right": due.right}
    assert {name: score.get("own") for name, score in result["scores"].items() if score.get("own")} == {
        "accumulated_why": told
    }
    assert result["remarks"] == [] and "Zoë" not in result["body"] and result["runs"] == []


# ---------------------------------------------------------------- what platforms take back


def handed_in(name, points):
    exercise, student, _, platform = submissions._who(submissions._parts(name), ["05_sam"])
    one = answered(student, "", points)
    one.file, one.platform = name, platform
    return one


def test_tables_and_pages_go_back_under_the_names_of_the_platform_when_marks_are_complete(tmp_path):
    found = [
        handed_in("Doe Jane_123_assignsubmission_file_/05_sam.ipynb", 1.5),
        handed_in("O'Neill Pat_124_assignsubmission_file_/05_sam.ipynb", 5),
        handed_in("Open Max_125_assignsubmission_file_/05_sam.ipynb", None),
        handed_in("doejane_LATE_12345_67890_05_sam-1.ipynb", 2),
        handed_in("leebob_12346_67891_work.zip/05_sam/05_sam.ipynb", 2),
        handed_in("mia_05_sam.ipynb", 2),
    ]
    for one in found:
        path = tmp_path / "feedback" / "05_sam" / f"{one.student}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one.student, encoding="utf-8")
    platforms.give_back(found, tmp_path)
    table = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "give_back").glob("*.csv")}
    assert table.pop("moodle_05_sam.csv").splitlines() == [
        "Identifier,Full name,Grade,Maximum Grade,Last modified (grade)",
        "Participant 123,Doe Jane,4.5,8,",
        "Participant 124,O'Neill Pat,8,8,",
    ]
    assert table.pop("canvas_05_sam.csv").splitlines() == [
        "Student,ID,SIS User ID,SIS Login ID,Section,05_sam",
        "Points Possible,,,,,8",
        "doejane,12345,,,,5",
        "leebob,12346,,,,5",
    ]
    assert table == {}
    with zipfile.ZipFile(tmp_path / "give_back" / "moodle_05_sam.zip") as archive:
        pages = {name: archive.read(name).decode() for name in archive.namelist()}
    assert pages == {
        "Doe Jane_123_assignsubmission_file_/05_sam.html": "Doe Jane_123",
        "O'Neill Pat_124_assignsubmission_file_/05_sam.html": "O'Neill Pat_124",
    }
    with zipfile.ZipFile(tmp_path / "give_back" / "canvas_05_sam.zip") as archive:
        assert archive.namelist() == ["doejane_LATE_12345_67890_05_sam-1.html", "leebob_12346_67891_work.html"]


# ---------------------------------------------------------------- nearly equal code

MINE = """def climb(grads, rho):
    \"\"\"Uphill.\"\"\"
    length = torch.sqrt(sum((g**2).sum() for g in grads.values()))  # of all tensors together
    scale = rho / length if length > 0 else 0.0
    return {name: scale * g for name, g in grads.items()}"""
THEIRS = """def climb(dic, radius):
    # all by myself
    l = torch.sqrt(sum((x ** 2).sum()
                       for x in dic.values()))
    s = radius / l if l > 0 else 0.0

    return {k: s * x for k, x in dic.items()}"""
OTHER = """def climb(grads, rho):
    vector = torch.cat([g.reshape(-1) for g in grads.values()])
    size = torch.linalg.vector_norm(vector)
    if size == 0:
        return grads
    return {name: g * (rho / size) for name, g in grads.items()}"""


def test_names_comments_and_layout_do_not_hide_a_copy_and_other_ways_are_none():
    runs = {name: similar.runs([source]) for name, source in {"a": MINE, "b": THEIRS, "c": OTHER}.items()}
    assert runs["a"] == runs["b"] and len(runs["a"]) > 50
    assert [pair[2:] for pair in similar.pairs(runs)] == [("a", "b")]


def test_what_everybody_writes_is_no_hint():
    common = similar.runs([MINE])
    class_ = {f"student {i}": common | similar.runs([f"x = [{i}, {i}, {i}, {i}, {i}, {i}]"]) for i in range(20)}
    assert similar.pairs(class_) == []


@pytest.mark.parametrize("source", ["def f(:\n  x = = 1\n" * 3, "x = '''never closed", "", "\x00", "(" * 500])
def test_code_that_cannot_be_read_stops_nothing(source):
    assert isinstance(similar.runs([source, MINE]), set) and similar.runs([source, MINE]) >= similar.runs([MINE])


def test_a_group_of_equal_answers_is_shown_once_and_hides_no_other_pair(tmp_path):
    """As a class of sixty showed: eight equal ones are 28 pairs, and filled the table before the two that copied."""
    group = [f"group {i:02d}" for i in range(15)]
    sources = dict.fromkeys(group, MINE + "\n" + OTHER) | {
        "mia": THEIRS,
        "ben": THEIRS,
        "eve": "x = [1, 2, 3, 4, 5, 6]",
    }
    found = [answered(name, "") for name in sources]
    for one, source in zip(found, sources.values(), strict=True):
        one.runs = sorted(similar.runs([source]))
    similar.write(found, {"05_sam": similar.runs(["y = (6, 5, 4, 3, 2, 1)"])}, tmp_path / "similar.csv")
    with (tmp_path / "similar.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [{row["student"], row["other"]} for row in csv.DictReader(file)]
    assert {"mia", "ben"} in rows and len(rows) == 15
    assert set().union(*rows) == {*group, "mia", "ben"}  # everyone of the group is in it


def test_the_table_of_pairs_knows_the_published_solution(tmp_path):
    found = [answered("mia", ""), answered("ben", ""), answered("eve", "")]
    for one, source in zip(found, (MINE, THEIRS, OTHER), strict=True):
        one.runs = sorted(similar.runs([source]))
    similar.write(found, {"05_sam": similar.runs([OTHER])}, tmp_path / "similar.csv")
    with (tmp_path / "similar.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [(row["student"], row["other"], row["alike (%)"]) for row in csv.DictReader(file)]
    assert sorted(rows) == [("ben", "mia", "100"), ("eve", "the published solution", "100")]
