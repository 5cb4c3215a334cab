"""tools/record.py: what it stores, what it refuses to store, what it notices, what it gathers."""

import base64
import os
import struct
import zlib

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import record

PRINT = "print('✓ Wide is flat | paper: 8.7–223 × | ours ≈ 4.2 ± 0.3 × | 5 seeds | slide 12')"


def png(*extra: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of one pixel with extra chunks after its header."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        *extra,
        (b"IDAT", zlib.compress(b"\0\x80")),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def stored(*outputs, source="1", **changes):
    """A recorded notebook of one code cell."""
    cell = new_code_cell(source, outputs=list(outputs), execution_count=1, id="a")
    cell.update(changes)
    return record.normalise(new_notebook(cells=[new_markdown_cell("# One", id="m"), cell]))


def write(path, *sources):
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[new_code_cell(s, id=f"c{i}") for i, s in enumerate(sources)]), path)
    return path


# ---- what is stored


@pytest.mark.slow
def test_recording_twice_gives_the_same_bytes_and_a_second_run_agrees(tmp_path, capsys):
    chatty = base64.b64encode(png((b"tEXt", b"Software\0v1"))).decode()
    picture = (
        "import base64; from IPython.display import display\n"
        f"display({{'image/png': {chatty!r}, 'text/plain': 'dot'}},"
        " metadata={'image/png': {'alt': 'dot'}}, raw=True)"
    )
    ticks = "import time\nfor i in range(3):\n    print(i, flush=True); time.sleep(0.02)"
    path = write(tmp_path / "lectures" / "one.ipynb", PRINT, picture, ticks, "1 + 1")
    assert record.main([str(path)]) == 0
    first, claims = path.read_bytes(), (path.parent / "CLAIMS.md").read_bytes()
    assert record.main([str(path)]) == 0
    assert (path.read_bytes(), (path.parent / "CLAIMS.md").read_bytes()) == (first, claims)
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3, 4]
    assert [cell.id for cell in notebook.cells] == ["c0", "c1", "c2", "c3"]
    assert base64.b64decode(notebook.cells[1].outputs[0].data["image/png"]) == png()
    assert [output.text for output in notebook.cells[2].outputs] == ["0\n1\n2\n"]
    assert record.problems(notebook) == []
    assert first.endswith(b"}\n") and b"\r" not in first

    capsys.readouterr()
    site = tmp_path / "site"
    assert record.main(["--check", "--site", str(site), str(path)]) == 0
    said = capsys.readouterr().out
    assert "✓ Wide is flat" in said and "as committed" in said and str(site / "index.html") in said
    assert path.read_bytes() == first
    assert "Wide is flat" in (site / "index.html").read_text(encoding="utf-8")
    assert 'alt="dot"' in (site / "one.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import warnings; warnings.warn('beware')", "beware"),
        ("import sys; print('aside', file=sys.stderr)", "stderr: aside"),
        ("1 / 0", "ZeroDivisionError"),
        ("object()", "an address is stored"),
        ("import os; print(os.getcwd())", "a path of this machine is stored"),
        ("print('✓ no table')", "cannot be read"),
        ("1 + 1;", "does not heed the ;"),
        ("class F:\n    __repr__ = lambda s: '<Figure size 9x9 with 1 Axes>'\nF()", "end the cell with plots.show"),
        ("class T:\n    __repr__ = lambda s: \"Text(0.5, 0, 'a')\"\n[T()]", "end the cell with plots.show"),
        ("# NBVAL_SKIP\n1", "hides its output"),
    ],
)
def test_what_must_not_be_stored_is_refused_and_nothing_is_written(tmp_path, capsys, source, said):
    path = write(tmp_path / "one.ipynb", source)
    before = path.read_bytes()
    assert record.main([str(path)]) == 1
    assert said in capsys.readouterr().out
    assert path.read_bytes() == before


def test_progress_bars_are_silent_in_a_recording(tmp_path):
    path = write(tmp_path / "one.ipynb", "from tqdm.auto import tqdm\nfor i in tqdm(range(3)):\n    print(i)")
    assert record.main([str(path)]) == 0


def test_where_the_home_cannot_be_written_matplotlib_and_ipython_get_a_folder(tmp_path, monkeypatch):
    source = "import os\n\nprint({'MPLCONFIGDIR', 'IPYTHONDIR'} <= os.environ.keys())"
    path = write(tmp_path / "lectures" / "a.ipynb", source)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    assert record.execute(path).cells[0].outputs[0].text == "False\n"
    monkeypatch.setattr(record.Path, "home", lambda: tmp_path / "gone")
    assert record.execute(path).cells[0].outputs[0].text == "True\n"


@pytest.mark.slow
def test_one_broken_notebook_does_not_stop_the_next(tmp_path, capsys):
    bad, good = write(tmp_path / "a.ipynb", "1 / 0"), write(tmp_path / "b.ipynb", "2")
    assert record.main([str(bad), str(good)]) == 1
    assert "[2/2] b.ipynb" in capsys.readouterr().out
    assert nbformat.read(good, as_version=4).cells[0].execution_count == 1


def test_a_picture_keeps_its_pixels_and_loses_its_history():
    chatty = png(
        (b"pHYs", bytes(9)),
        (b"tEXt", b"Software\0x"),
        (b"tIME", bytes(7)),
        (b"iTXt", b"Title\0\0\0\0\0t"),
        (b"eXIf", b"MM"),
    )
    assert record.strip_png(chatty) == png((b"pHYs", bytes(9)))
    with pytest.raises(record.NotebookError, match="not a PNG"):
        record.strip_png(b"GIF89a")


# ---- what is noticed in a stored notebook


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        (stored(execution_count=None), "execution count is None, must be 1"),
        (stored(execution_count=2), "execution count is 2, must be 1"),
        (stored(new_output("stream", name="stderr", text="oh")), "stderr: oh"),
        (stored(new_output("error", ename="E", evalue="", traceback=[])), "error: E"),
        (stored(new_output("execute_result", {"text/plain": "<f at 0x7f00aa>"}, execution_count=1)), "an address"),
        (stored(new_output("execute_result", {"text/html": "<b>x at 0x7f00aa</b>"}, execution_count=1)), "an address"),
        (stored(new_output("execute_result", {"text/plain": "2"}, execution_count=7)), "count of the result"),
        (stored(new_output("stream", name="stdout", text="see /tmp/x.png")), "a path"),
        (stored(new_output("stream", name="stdout", text="done 2031-01-02 10:11")), "a time"),
        (stored(source="# NBVAL_IGNORE_OUTPUT\n1"), "hides its output"),
        (stored(metadata={"tags": ["nbval-skip"]}), "hides its output"),
    ],
)
def test_a_stored_fault_is_named(notebook, said):
    assert any(said in problem for problem in record.problems(notebook)), record.problems(notebook)


def test_widget_state_and_times_are_noticed_and_normalised_away():
    view = new_output("display_data", {record.WIDGET: {"model_id": "f00"}, "text/plain": "Slider()"})
    notebook = new_notebook(cells=[new_code_cell("1", outputs=[view], execution_count=1, metadata={"execution": {}})])
    notebook.metadata["widgets"] = {}
    assert len(record.problems(notebook)) == 3
    assert record.problems(record.normalise(notebook)) == []
    assert notebook.cells[0].outputs[0].data == {"text/plain": "Slider()"}


def test_a_sound_notebook_has_no_problems():
    text = new_output(
        "stream", name="stdout", text="attached at 10 o'clock: a/home/b, /usr/share, 0x7f00aa, 2031-01-02\n"
    )
    assert record.problems(stored(text)) == []
    raising = stored(new_output("error", ename="E", evalue="", traceback=[]), metadata={"tags": ["raises-exception"]})
    assert record.problems(raising) == []


# ---- what counts as a difference


@pytest.mark.parametrize(
    "text",
    ["≈ 12", "≈ 0.43", "≈ 1.2e-05", "≈ −3.1", "≈ -3.1", "≈ +2", "≈ 1,200", "≈ 4.2 ± 0.3", "≈ 3e+10 ± 1e-06"],
)
def test_the_number_after_the_sign_is_not_compared(text):
    assert record.sanitiser()(f"a 12 {text} × | 5 seeds") == "a 12 ≈ NUMBER × | 5 seeds"


@pytest.mark.parametrize("text", ["≈ inf", "≈ nan ± 1", "≈12", "= 12", "± 3", "~ 5", "≈ x 5", "≥ 1.5"])
def test_everything_else_is_compared(text):
    assert record.sanitiser()(text) == text


def test_several_numbers_in_one_line_keep_what_stands_between():
    assert record.sanitiser()("≈ 1.5, at ≈ 20. 7 (≈ 3 of 4)") == "≈ NUMBER, at ≈ NUMBER. 7 (≈ NUMBER of 4)"


@pytest.mark.parametrize(
    ("now", "differs"),
    [
        ("✓ a | ours ≈ 99 | 5 seeds", False),
        ("✗ a | ours ≈ 4.2 | 5 seeds", True),
        ("✓ b | ours ≈ 4.2 | 5 seeds", True),
        ("✓ a | ours ≈ 4.2 | 6 seeds", True),
        ("✓ a | ours ≈ nan | 5 seeds", True),
        ("", True),
    ],
)
def test_differences_between_two_texts(now, differs):
    was = stored(new_output("stream", name="stdout", text="✓ a | ours ≈ 4.2 | 5 seeds"))
    found = record.differences(was, stored(new_output("stream", name="stdout", text=now)))
    assert bool(found) == differs
    assert not differs or "cell 1" in found[0] and "- ✓ a".replace("- ", "-") in found[0]


def test_pixels_are_not_compared_but_the_presence_of_a_picture_is():
    def one(image):
        return new_output("display_data", {"image/png": base64.b64encode(image).decode(), "text/plain": "dot"})

    was = stored(one(png()))
    assert record.differences(was, stored(one(png((b"pHYs", bytes(9)))))) == []
    assert record.differences(was, stored(new_output("display_data", {"text/plain": "dot"})))
    assert record.differences(was, stored(one(png()), one(png())))


def test_a_changed_verdict_is_reported_and_the_exit_code_says_so(tmp_path, capsys):
    path = write(tmp_path / "one.ipynb", PRINT, "3 * 7")
    assert record.main([str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].outputs[0].text = notebook.cells[0].outputs[0].text.replace("✓", "✗")
    nbformat.write(notebook, path)
    assert record.main(["--check", str(path)]) == 1
    said = capsys.readouterr().out
    assert "CHANGED" in said and "-✗ Wide is flat" in said and "+✓ Wide is flat" in said


# ---- claims and seeds


def claim(mark="✓", text="Wide is flat", ours="≈ 4.2", seeds="5 seeds"):
    return record.Claim(mark, text, "8", ours, seeds, "12", "a.ipynb", 1)


def test_claims_are_read_and_gathered():
    lines = "✓ Wide is flat | paper: 8.7–223 × | ours ≈ 4.2 ± 0.3 × | 5 seeds | slide 12\nprose\n"
    lines += "✗ λ = 2/η | paper: – | ours = 1.9990 | exact\n"
    notebook = stored(new_output("stream", name="stdout", text=lines))
    first, second = record.claims_of(notebook, "a.ipynb")
    assert first == ("✓", "Wide is flat", "8.7–223 ×", "≈ 4.2 ± 0.3 ×", "5 seeds", "12", "a.ipynb", 1)
    assert second == ("✗", "λ = 2/η", "–", "= 1.9990", "exact", "", "a.ipynb", 1)
    page = record.claims_page([first, second])
    assert "Claims: 2. Of these 1 hold." in page
    assert "| ✓ | Wide is flat | 12 | 8.7–223 × | ≈ 4.2 ± 0.3 × | 5 seeds | [1] |" in page


def test_the_lines_that_sam_lite_prints_can_be_read(capsys):
    claims = pytest.importorskip("sam_lite.claims")
    claims.check("Wide is flat", values=[4.0, 4.5, 4.2], above=1.0, paper="8 ×", unit="×", slide=3)
    claims.check("Wide is flat", values=[4.0], below=1.0)
    claims.check_exact("Twice two", value=4.0, expected=4.0)
    notebook = stored(new_output("stream", name="stdout", text=capsys.readouterr().out))
    read = record.claims_of(notebook, "a.ipynb")
    assert [(c.mark, c.paper, c.seeds, c.slide) for c in read] == [
        ("✓", "8 ×", "3 seeds", "3"),
        ("✗", "–", "1 run", ""),
        ("✓", "–", "exact", ""),
    ]
    assert [record.sanitiser()(c.ours) for c in read] == ["≈ NUMBER ×", "≈ NUMBER", "= 4.0000"]


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([[claim(ours="≈ 1")], [claim(ours="≈ 2")]], []),
        ([[claim(ours="≈ 1")], [claim("✗", ours="≈ 2")]], ["✓ ✗ Wide is flat"]),
        ([[claim(ours="≈ 1")], [claim(text="Narrow", ours="≈ 2")]], ["✓ ✓ Wide is flat"]),
        ([[claim(ours="≈ 1")], []], ["the number of claims: [1, 0]"]),
        (
            [[claim()], [claim()]],
            ["nothing, not even a figure: the notebook does not take its seeds from claims.seeds()"],
        ),
        ([[claim(seeds="exact")], [claim(seeds="exact")]], []),
    ],
)
def test_what_is_said_about_verdicts_of_several_sets_of_seeds(runs, said):
    assert record.flipped(runs) == said


@pytest.mark.slow
def test_seed_sets_rerun_with_other_seeds_and_write_nothing(tmp_path, capsys):
    seeded = "import os\ns = int(os.environ.get('SAM_LITE_SEED_SET', 0))\n"
    line = "print(f\"{'✓' if s < 2 else '✗'} Luck | paper: – | ours ≈ {s} | 5 seeds\")"
    path = write(tmp_path / "one.ipynb", seeded + line)
    before = path.read_bytes()
    assert record.main(["--seed-sets", "2", str(path)]) == 0
    assert record.main(["--seed-sets", "3", str(path)]) == 1
    assert "FLIPS ✓ ✓ ✗ Luck" in capsys.readouterr().out
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no.ipynb"], "no such notebook: no.ipynb"),
        (["--seed-sets", "1"], "--seed-sets must be >= 2"),
        (["--site", "x"], "--site goes with --check"),
    ],
)
def test_bad_arguments_are_named(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        record.main(arguments)
    assert said in capsys.readouterr().err


def test_a_kernel_that_cannot_start_is_tried_three_times(tmp_path, monkeypatch):
    """As when another program takes one of its ports; here it has no library."""
    tried, execute = [], record.NotebookClient.execute
    monkeypatch.setattr(record.NotebookClient, "execute", lambda self, **k: (tried.append(1), execute(self, **k)))
    with pytest.raises(RuntimeError, match=record.NO_START):
        record._execute(new_notebook(cells=[new_code_cell("1")]), tmp_path, os.environ | {"PYTHONHOME": str(tmp_path)})
    assert len(tried) == 3
