"""tools/record.py: what it stores, what it refuses to store, what it notices, what it gathers."""

import base64
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import claims_table
import notebooks
import record
import running
from sam_lite import claims

TEN = "[4.0, 4.1, 4.2, 4.3, 4.4, 4.0, 4.1, 4.2, 4.3, 4.4]"
SHOW = f"""from sam_lite import claims

claims.show(claims.check('Wide is flat', {TEN}, above=1, paper='8.7–223', unit='×', slide=12))"""


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
    return notebooks.normalise(new_notebook(cells=[new_markdown_cell("# One", id="m"), cell]))


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
    path = write(tmp_path / "lectures" / "one.ipynb", SHOW, picture, ticks, "1 + 1")
    assert record.main([str(path)]) == 0
    first, table = path.read_bytes(), (path.parent / "CLAIMS.md").read_bytes()
    assert record.main([str(path)]) == 0
    assert (path.read_bytes(), (path.parent / "CLAIMS.md").read_bytes()) == (first, table)
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3, 4]
    assert [cell.id for cell in notebook.cells] == ["c0", "c1", "c2", "c3"]
    assert base64.b64decode(notebook.cells[1].outputs[0].data["image/png"]) == png()
    assert [output.text for output in notebook.cells[2].outputs] == ["0\n1\n2\n"]
    assert notebooks.problems(notebook) == []
    assert first.endswith(b"}\n") and b"\r" not in first

    capsys.readouterr()
    assert record.main(["--check", str(path)]) == 0
    assert "Every verdict and every word is as recorded." in capsys.readouterr().out
    assert path.read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import warnings; warnings.warn('beware')", "beware"),
        ("import sys; print('aside', file=sys.stderr)", "stderr: aside"),
        ("1 / 0", "ZeroDivisionError"),
        ("object()", "an address is stored"),
        ("import os; print(os.getcwd())", "a path of this machine is stored"),
        ("print('✓ no table')", "prints a line that looks like a claim"),
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


@pytest.mark.slow
def test_progress_bars_are_silent_in_a_recording(tmp_path):
    path = write(tmp_path / "one.ipynb", "from tqdm.auto import tqdm\nfor i in tqdm(range(3)):\n    print(i)")
    assert record.main([str(path)]) == 0


@pytest.mark.slow
def test_where_the_home_cannot_be_written_matplotlib_and_ipython_get_a_folder(tmp_path, monkeypatch):
    source = "import os\n\nprint({'MPLCONFIGDIR', 'IPYTHONDIR'} <= os.environ.keys())"
    path = write(tmp_path / "lectures" / "a.ipynb", source)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    assert running.execute(running.Job(path)).cells[0].outputs[0].text == "False\n"
    monkeypatch.setattr(running.Path, "home", lambda: tmp_path / "gone")
    assert running.execute(running.Job(path)).cells[0].outputs[0].text == "True\n"


@pytest.mark.slow
def test_one_broken_notebook_does_not_stop_the_next(tmp_path, capsys):
    bad, good = write(tmp_path / "a.ipynb", "1 / 0"), write(tmp_path / "b.ipynb", "2")
    assert record.main([str(bad), str(good)]) == 1
    said = capsys.readouterr().out
    assert "a.ipynb ... FAILED" in said and "[2/2]" in said and "ZeroDivisionError" in said
    assert nbformat.read(good, as_version=4).cells[0].execution_count == 1


def test_a_picture_keeps_its_pixels_and_loses_its_history():
    chatty = png(
        (b"pHYs", bytes(9)),
        (b"tEXt", b"Software\0x"),
        (b"tIME", bytes(7)),
        (b"iTXt", b"Title\0\0\0\0\0t"),
        (b"eXIf", b"MM"),
    )
    assert notebooks.strip_png(chatty) == png((b"pHYs", bytes(9)))
    with pytest.raises(notebooks.NotebookError, match="not a PNG"):
        notebooks.strip_png(b"GIF89a")


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
    assert any(said in problem for problem in notebooks.problems(notebook)), notebooks.problems(notebook)


def test_widget_state_and_times_are_noticed_and_normalised_away():
    view = new_output("display_data", {notebooks.WIDGET: {"model_id": "f00"}, "text/plain": "Slider()"})
    notebook = new_notebook(cells=[new_code_cell("1", outputs=[view], execution_count=1, metadata={"execution": {}})])
    notebook.metadata["widgets"] = {}
    assert len(notebooks.problems(notebook)) == 3
    assert notebooks.problems(notebooks.normalise(notebook)) == []
    assert notebook.cells[0].outputs[0].data == {"text/plain": "Slider()"}


def test_a_sound_notebook_has_no_problems():
    text = new_output(
        "stream", name="stdout", text="attached at 10 o'clock: a/home/b, /usr/share, 0x7f00aa, 2031-01-02\n"
    )
    assert notebooks.problems(stored(text)) == []
    raising = stored(new_output("error", ename="E", evalue="", traceback=[]), metadata={"tags": ["raises-exception"]})
    assert notebooks.problems(raising) == []


# ---- what counts as a difference


@pytest.mark.parametrize(
    "text",
    ["≈ 12", "≈ 0.43", "≈ 1.2e-05", "≈ −3.1", "≈ -3.1", "≈ +2", "≈ 1,200", "≈ 4.2 ± 0.3", "≈ 3e+10 ± 1e-06"],
)
def test_the_number_after_the_sign_is_not_compared(text):
    assert notebooks.sanitiser()(f"a 12 {text} × | 5 seeds") == "a 12 ≈ NUMBER × | 5 seeds"


@pytest.mark.parametrize("text", ["≈ inf", "≈ nan ± 1", "≈12", "= 12", "± 3", "~ 5", "≈ x 5", "≥ 1.5"])
def test_everything_else_is_compared(text):
    assert notebooks.sanitiser()(text) == text


def test_several_numbers_in_one_line_keep_what_stands_between():
    assert notebooks.sanitiser()("≈ 1.5, at ≈ 20. 7 (≈ 3 of 4)") == "≈ NUMBER, at ≈ NUMBER. 7 (≈ NUMBER of 4)"


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
    found = notebooks.differences(was, stored(new_output("stream", name="stdout", text=now)))
    assert bool(found) == differs
    assert not differs or "cell 1" in found[0] and "- ✓ a".replace("- ", "-") in found[0]


def test_pixels_are_not_compared_but_the_presence_of_a_picture_is():
    def one(image):
        return new_output("display_data", {"image/png": base64.b64encode(image).decode(), "text/plain": "dot"})

    was = stored(one(png()))
    assert notebooks.differences(was, stored(one(png((b"pHYs", bytes(9)))))) == []
    assert notebooks.differences(was, stored(new_output("display_data", {"text/plain": "dot"})))
    assert notebooks.differences(was, stored(one(png()), one(png())))


def stored_claim(monkeypatch, values, **bounds):
    """A recorded notebook that shows one claim."""
    outputs = []
    display = lambda data, metadata, raw: outputs.append(new_output("display_data", data, metadata=metadata))  # noqa: E731
    monkeypatch.setattr(claims, "display", display)
    claims.show(claims.check("Wide is flat", values, **bounds))
    return stored(*outputs)


def test_another_sample_changes_digits_and_the_word_close_and_neither_counts(monkeypatch):
    far, near, beyond = ([m + x for x in (-1, 1, 0, -1, 1, 0, -1, 1, 0, 0)] for m in (9.0, 0.1, -0.1))
    was, close, other = (stored_claim(monkeypatch, values, above=0) for values in (far, near, beyond))
    assert "(close)" in close.cells[1].outputs[0].data["text/markdown"]
    assert notebooks.differences(was, close) == []
    assert len(notebooks.differences(was, other)) == 1
    assert notebooks.differences(was, stored_claim(monkeypatch, far, above=1)) != []  # the bound is compared


# ---- what is recorded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "bounds", "said"),
    [
        ("[4.0, 4.1] * 4", "above=1", "8 seeds; a verdict needs 10"),
        ("[4.0, 4.1] * 5", "above=4", "half-widths from its bound, > 4"),
        ("[4.0, 4.1] * 5", "above=4.1", "half-widths from its bound, > 4.1"),  # not refuted either
        ("[4.0, 4.1] * 5", "above=1", None),
        ("[4.0, 4.1] * 5", "below=1", None),  # refuted
        ("[4.0, 4.1] * 5", "above=4, open=True", None),
    ],
)
def test_only_settled_verdicts_are_recorded(tmp_path, capsys, values, bounds, said):
    source = f"from sam_lite import claims\nclaims.show(claims.check('Wide is flat', {values}, {bounds}))"
    path = write(tmp_path / "one.ipynb", source)
    before = path.read_bytes()
    assert record.main([str(path)]) == (said is not None)
    text = capsys.readouterr().out
    if said:
        assert "one.ipynb: this verdict is not settled" in text and "'Wide is flat'" in text and said in text
    assert (path.read_bytes() == before) == (said is not None)


@pytest.mark.slow
def test_one_claim_that_stands_twice_in_a_notebook_is_refused(tmp_path, capsys):
    path = write(tmp_path / "one.ipynb", SHOW, SHOW)
    before = path.read_bytes()
    assert record.main([str(path)]) == 1
    assert "one.ipynb: one claim stands there twice: 'Wide is flat'" in capsys.readouterr().out
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_verdict_beside_a_clock_is_refused(tmp_path, capsys):
    clock = "import time\nstart = time.perf_counter()\n" + SHOW
    assert record.main([str(write(tmp_path / "one.ipynb", clock))]) == 1
    assert "a claim stands beside a clock" in capsys.readouterr().out


# ---- for a reader


@pytest.mark.slow
def test_a_verdict_that_differs_here_is_told_a_reader_and_is_an_error_to_check(tmp_path, capsys):
    path, site = write(tmp_path / "one.ipynb", "# One", SHOW, "3 * 7"), tmp_path / "site"
    assert record.main([str(path)]) == 0
    capsys.readouterr()
    assert record.main(["--run", "--site", str(site), str(path)]) == 0
    said = capsys.readouterr().out
    assert (
        "[1/1] one.ipynb" in said and "1 ✓. Read it: " in said and "Every verdict and every word is as recorded" in said
    )
    assert "Wide is flat" in (site / "index.html").read_text(encoding="utf-8")

    notebook = nbformat.read(path, as_version=4)
    (output,) = notebook.cells[1].outputs
    output.data = {mime: text.replace("✓", "✗") for mime, text in output.data.items()}
    output.metadata[claims.KEY][0]["mark"] = "✗"
    nbformat.write(notebook, path)
    assert record.main(["--run", "--site", str(site), str(path)]) == 0
    said = capsys.readouterr().out
    assert "one.ipynb: ✓ here, ✗ as recorded: 'Wide is flat' (≈ 4.2 ± 0.1 ×, bound > 1)." in said
    assert "nothing is broken" in said and "Every verdict" not in said
    assert "✓" in (site / "one.html").read_text(encoding="utf-8")
    assert record.main(["--check", str(path)]) == 1
    said = capsys.readouterr().out
    assert "CHANGED" in said and "-| ✗ | Wide is flat" in said and "+| ✓ | Wide is flat" in said


@pytest.mark.slow
def test_a_cell_that_fails_is_named_to_a_reader_and_the_other_pages_are_there(tmp_path, capsys):
    bad, good = write(tmp_path / "a.ipynb", "unknown_name"), write(tmp_path / "b.ipynb", "'fine ' * 2")
    site = tmp_path / "site"
    assert record.main(["--run", "--site", str(site), str(bad), str(good)]) == 1
    said = capsys.readouterr().out
    assert "a.ipynb FAILED" in said and "NameError" in said and "unknown_name" in said
    assert "FAILED: a.ipynb, in the cell shown above" in said
    assert "fine fine" in (site / "b.html").read_text(encoding="utf-8") and (site / "a.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_an_interrupt_leaves_no_kernel_and_what_is_done_can_be_read(tmp_path, sent):
    done = write(tmp_path / "a.ipynb", "'fine ' * 2")
    says = f"import os, pathlib, time\npathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\ntime.sleep(300)"
    endless, site = write(tmp_path / "b.ipynb", says), tmp_path / "site"
    command = [sys.executable, record.__file__, "--run", "--jobs", "2", "--site", str(site), str(done), str(endless)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        said = ""
        while "a.ipynb" not in said.replace("(a.ipynb", "") or "Read it" not in said:
            said += process.stdout.readline()
        wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        os.kill(process.pid, sent)
        said += process.stdout.read()
        assert process.wait(30) == 130
    assert "Stopped. No kernel is left" in said
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text())
    assert "fine fine" in (site / "a.html").read_text(encoding="utf-8")


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_notebooks_run_side_by_side_each_on_one_thread(tmp_path):
    """Each waits for the other: one after the other neither would end."""
    wait = "import pathlib, time\npathlib.Path('{me}.here').touch()\n"
    wait += "while not pathlib.Path('{other}.here').exists():\n    time.sleep(0.05)\n"
    threads = "import torch\nprint(torch.get_num_threads())"
    a = write(tmp_path / "a.ipynb", wait.format(me="a", other="b"), threads)
    b = write(tmp_path / "b.ipynb", wait.format(me="b", other="a"), threads)
    said = []
    results = {done.job.path.name: done for done in running.run([running.Job(a), running.Job(b)], 2, said.append)}
    assert [results[name].notebook.cells[1].outputs[0].text for name in ("a.ipynb", "b.ipynb")] == ["1\n", "1\n"]


def test_the_line_of_progress_says_how_long_it_will_take():
    assert running._progress(3, 100, 4.0) == "3 of 100 cells"
    assert running._progress(20, 100, 30.0) == "20 of 100 cells; about 2 minutes left"
    assert running._progress(80, 100, 40.0) == "80 of 100 cells; about 10 s left"


# ---- claims and seeds


def place(mark="✓", text="Wide is flat", here="≈ 4.2", margin=4.0, n=10):
    claim = claims.Claim(mark, text, "8", here, "> 1", f"{n} seeds" if n else "exact", "12", margin, n)
    return claims_table.Place(claim, "a.ipynb", 1)


def test_claims_are_read_and_gathered(monkeypatch):
    notebook = stored_claim(monkeypatch, [4.0, 4.5, 4.2] * 4, above=1.0, paper="8 ×", unit="×", slide=3)
    (found,) = claims_table.claims_of(notebook, "a.ipynb")
    assert (found.notebook, found.cell, found.claim.mark, found.claim.n) == ("a.ipynb", 1, "✓", 12)
    assert claims_table.open_verdicts([found]) == []
    page = claims_table.page([found, place("○", "Undecided |x|"), place("✗", "Sharp")])
    assert "Claims: 3. Of these: 1 ✓, 1 ✗, 1 ○." in page
    assert "| ✓ | Wide is flat | 3 | 8 × | ≈ 4.2 ± 0.1 × | > 1 | 12 seeds | [1] |" in page
    assert "Undecided \\|x\\|" in page and "have no claim yet: 2, 4, 5" in page


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([[place(here="≈ 1")], [place(here="≈ 2")]], []),
        (
            [[place(here="≈ 1", margin=1.5)], [place("✗", here="≈ 2", margin=0.5)]],
            ["✓ ✗ 'Wide is flat': ≈ 1, bound > 1; half-widths from it 1.5, 0.5; some 360 seeds would settle it"],
        ),
        (
            [[place(here="≈ 1")], [place(text="Narrow", here="≈ 2")]],
            ["the claims themselves: [1, 1] of them, or other words"],
        ),
        ([[place(here="≈ 1")], []], ["the claims themselves: [1, 0] of them, or other words"]),
        (
            [[place()], [place()]],
            ["nothing, not even a figure: the notebook does not take its seeds from claims.seeds()"],
        ),
        ([[place(n=0)], [place(n=0)]], []),
    ],
)
def test_what_is_said_about_verdicts_of_several_runs(runs, said):
    assert record.moved(runs) == said


@pytest.mark.slow
def test_sets_of_seeds_are_compared_and_nothing_is_written(tmp_path, capsys):
    source = "from sam_lite import claims\ns = claims.seed_set()\n"
    source += "claims.show(claims.check('Luck', [2 - s + x / 100 for x in range(10)], above=0.5))"
    path = write(tmp_path / "one.ipynb", source)
    before = path.read_bytes()
    assert record.main(["--seed-sets", "2", str(path)]) == 0
    assert record.main(["--seed-sets", "3", str(path)]) == 1
    assert "MOVED ✓ ✓ ✗ 'Luck'" in capsys.readouterr().out
    assert record.main(["--seed-sets", "2", "--first-set", "2", str(path)]) == 0
    assert path.read_bytes() == before


@pytest.mark.slow
def test_machines_differ_in_what_their_kernels_find_in_their_environment(tmp_path, capsys):
    source = "import os\nfrom sam_lite import claims\nfast = os.environ.get('ATEN_CPU_CAPABILITY') != 'avx2'\n"
    source += (
        "claims.show(claims.check('Rounding', [fast + x / 100 - claims.seed_set() for x in range(10)], above=0.5))"
    )
    path = write(tmp_path / "one.ipynb", source)
    assert record.main(["--machines", str(path)]) == 1
    said = capsys.readouterr().out
    assert "MOVED ✓ ✗ ✓ ✓ 'Rounding'" in said and "one.ipynb, seeds 0, AVX2" in said
    assert "1 claims, 1 that moved in 4 runs" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no.ipynb"], "no such notebook: no.ipynb"),
        (["--seed-sets", "1"], "--seed-sets must be >= 2"),
        (["--jobs", "0"], "--jobs must be >= 1"),
        (["--machines", "--seed-sets", "-2"], "--seed-sets must be >= 2"),
        (
            ["--seed-sets", "2", "--first-set", "-3"],
            "--first-set must be >= 0, beside --seed-sets or --machines, got -3",
        ),
        (["--first-set", "7"], "--first-set must be >= 0, beside --seed-sets or --machines, got 7"),
        (["--site", "pages"], "--site must stand beside --run, got pages alone"),
        (["--run", "--site", __file__], "--site must be a folder, or nothing yet"),
        (["--run", "--check"], "must not stand together"),
        (["--check", "--machines"], "must not stand together"),
    ],
)
def test_bad_arguments_are_named(arguments, said, capsys, monkeypatch):
    """Among them those that were passed over, so that the notebooks were recorded in place of what was asked for."""
    monkeypatch.setattr(record, "_run", lambda *_: pytest.fail("it runs"))
    with pytest.raises(SystemExit, match="2"):
        record.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b'{"cells": [', b"[]", b'{"nbformat": 4}', "é".encode("latin-1"), b"# text"])
def test_a_damaged_notebook_is_named_and_nothing_runs(tmp_path, content, capsys, monkeypatch):
    monkeypatch.setattr(record, "_run", lambda *_: pytest.fail("it runs"))
    good, bad = write(tmp_path / "good.ipynb", "1"), tmp_path / "bad.ipynb"
    bad.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        record.main([str(good), str(bad)])
    assert f"{bad} is no notebook that can be read: " in capsys.readouterr().err


@pytest.mark.parametrize("change", ["an edit", "a cell more", "gone"])
def test_what_an_author_saves_while_a_notebook_runs_is_kept(tmp_path, capsys, monkeypatch, change):
    """A lecture runs for minutes, and was then written back over what had been saved in between."""
    path = write(tmp_path / "one.ipynb", "1 + 1")
    ran = notebooks.normalise(nbformat.read(path, as_version=4))

    def runs(todo, jobs):
        if change == "gone":
            path.unlink()
        else:
            write(path, *(["2 + 2"] if change == "an edit" else ["1 + 1", "3"]))
        yield running.Done(todo[0], ran, "", 1.0)

    monkeypatch.setattr(record, "_run", runs)
    assert not record.record([path])
    assert (
        "one.ipynb: it was changed while it ran, and is left as it is now; record it again" in capsys.readouterr().out
    )
    assert path.exists() == (change != "gone") and (change == "gone" or "1 + 1" != path.read_text())
    if change == "a cell more":
        assert len(nbformat.read(path, as_version=4).cells) == 2
        ran.cells[0].execution_count = 1
        write(path, "1 + 1")
        assert not record.check([path])  # compared with what ran: it was not recorded


@pytest.mark.slow
def test_a_kernel_that_cannot_start_is_tried_three_times(tmp_path, monkeypatch):
    """As when another program takes one of its ports; here it has no library."""
    tried, execute = [], running.NotebookClient.async_execute
    monkeypatch.setattr(
        running.NotebookClient, "async_execute", lambda self, **k: tried.append(1) or execute(self, **k)
    )
    notebook, environment = new_notebook(cells=[new_code_cell("1")]), os.environ | {"PYTHONHOME": str(tmp_path)}
    with pytest.raises(RuntimeError, match=running.NO_START):
        running._execute(notebook, tmp_path, environment, [])
    assert len(tried) == 3
