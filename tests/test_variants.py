"""Numbers drawn from a name: each question has the result that something else computes from the printed numbers."""

import collections
import itertools
import os
import re
import subprocess
import sys
import unicodedata
from fractions import Fraction
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from torch.func import grad
from torch.utils.data import DataLoader

from sam_lite import ranking, sharpness, toys
from sam_lite.checks import variants

ROOT = Path(__file__).parent.parent
SETS = list(variants.QUESTIONS)
NAMES = [
    f"{given} {family} {number}" for given in ("Ada", "Noor") for family in ("Ng", "Ólafs") for number in range(500)
]
DOUBLE = torch.float64


def numbers(text):
    """The numbers that a student reads."""
    return [float(one.replace(",", "")) for one in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]


# ---------------------------------------------------------------- the results, by other ways


def two_valleys(along, across, *curvatures):
    """The mean price of the four shifts of one standard deviation along each axis, up or down."""
    shifts = torch.tensor([*itertools.product((-1, 1), repeat=2)], dtype=DOUBLE) * torch.tensor([along, across]).sqrt()
    a, b, c, d = curvatures
    return [float((torch.tensor(valley) * shifts**2).sum(1).mean() / 2) for valley in ([a, b], [c, d])]


def thrown_out(_, steep, rate, *sizes):
    """Steps of descent on the mean loss of a batch with one steep example, and its second derivative."""
    losses = [
        lambda x, size=size: (torch.tensor([steep] + [0.0] * (int(size) - 1)) * x**2 / 2).mean() for size in sizes
    ]
    at = torch.tensor(1.0)
    return [*(float(grad(grad(loss))(at)) for loss in losses), *(float(at - rate * grad(loss)(at)) for loss in losses)]


def larger_batch(examples, batch, rate, epochs, large):
    """Batches counted by PyTorch; rates from the covariance of a step, η²/B, and over a distance, η/B."""
    now, before = (int(epochs) * len(DataLoader(range(int(examples)), int(size))) for size in (large, batch))
    return [now, before, np.sqrt(rate**2 / batch * large), rate / batch * large]


def four_networks(*cells):
    measure, gap = cells[::2], cells[1::2]
    table = pd.DataFrame({"width": [0, 0, 1, 1], "lr": [0, 1, 0, 1], "measure": measure, "gap": gap})
    axes = ["lr", "width"]
    along = [ranking.granulated(table, "measure", axis, axes) for axis in axes]
    return [ranking.tau(table, "measure"), *along, ranking.psi(table, "measure", axes)]


def ascents(parts, gpus):
    """Gradients of all micro-batches of all GPUs, and how many are left after each kind of mean."""
    gradients = np.arange(parts * gpus).reshape(int(parts), int(gpus))
    return [gradients.mean(axis).size for axis in ((0, 1), 0, 1, ())]


def equal_gradients(epochs, every):
    """Gradients counted step by step, with 60 steps in an epoch."""
    steps = range(int(60 * epochs))
    return [sum(2 if step % k == 0 else 1 for step in steps) / 60 for k in (every, 1)]


def three_rises(*given):
    """A search of the ball, SAM's climb from a side along each axis, and the mean over both ends of all axes."""
    *eigenvalues, rho = given
    loss, d = toys.quadratic(torch.diag(torch.tensor(eigenvalues, dtype=DOUBLE))), len(eigenvalues)
    worst, axes = sharpness.worst_sharpness(loss, {"w": torch.zeros(d, dtype=DOUBLE)}, rho), torch.eye(d, dtype=DOUBLE)
    slopes = [grad(loss)({"w": 1e-9 * axis})["w"] for axis in axes]
    climbs = [float(loss({"w": rho * slope / slope.norm()})) for slope in slopes if slope.norm() > 0]
    return [float(worst.value), min(climbs), float(sum(loss({"w": rho * axis}) for axis in axes) / d)]


def last_bounce(*given):
    """Where SAM is after a thousand steps from a crooked start."""
    first, second, rate, rho = given
    curvatures, w = torch.tensor([first, second], dtype=DOUBLE), torch.tensor([0.3, 0.7], dtype=DOUBLE) * rho
    for _ in range(1000):
        g = curvatures * w
        w = w - rate * curvatures * (w + rho * g / g.norm())
    assert float(w.abs().min()) < 1e-9 * rho and w.abs().argmax() == curvatures.argmax()
    return [float(w.abs().max())]


# ---------------------------------------------------------------- tests


@pytest.mark.slow
@pytest.mark.parametrize("exercise", SETS)
def test_a_result_is_what_something_else_computes_from_the_printed_numbers(exercise):
    other = globals()[variants.QUESTIONS[exercise][0].__name__]
    every = variants.all_of(exercise)
    for own in every[:: max(1, len(every) // 40)]:
        assert [float(one) for one in own.values] == pytest.approx(other(*numbers(own.asked)), rel=2e-5, abs=1e-9), own


@pytest.mark.parametrize("exercise", SETS)
def test_every_result_is_clean_and_is_said(exercise):
    every = variants.all_of(exercise)
    assert len({own.asked for own in every}) == len(every) >= 36
    for own in every:
        for value in own.values:
            if isinstance(value, Fraction):
                assert value.denominator in (1, 2, 3), own
            else:
                assert value == pytest.approx(float(f"{value:.4g}"), rel=1e-12), own
            said = (
                str(value) if isinstance(value, Fraction) else f"{value:,}" if isinstance(value, int) else f"{value:g}"
            )
            assert said in own.right, own


@pytest.mark.parametrize("exercise", SETS)
def test_names_spread_over_all_questions(exercise):
    drawn = [variants.drawn(exercise, name) for name in NAMES]
    assert len(set(NAMES)) == 2000 and len({own.asked for own in drawn}) >= 36
    mean = len(drawn) / len(variants.all_of(exercise))
    assert max(collections.Counter(drawn).values()) < mean + 6 * mean**0.5, "one question is drawn too often"


def test_questions_differ_in_their_verdicts():
    sharp = [own.right.endswith("sharp one costs more") for own in variants.all_of("01_flat_minima")]
    assert 0.25 < np.mean(sharp) < 0.75
    thrown = {own.right.count("not thrown out") for own in variants.all_of("02_keskar")}
    assert thrown == {0, 1, 2}
    assert all(own.values[0] != own.values[3] for own in variants.all_of("04_jiang"))
    axes = [re.search(r"on axis (\d)", own.right)[1] for own in variants.all_of("08_bouncing")]
    assert axes.count("1") == axes.count("2")


SAME = ["Zoë Müller-Lüdenscheid", "  zoë  MÜLLER-lüdenscheid ", "Müller-Lüdenscheid, Zoë", "Zoe Muller Ludenscheid"]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_one_name_gives_one_question_however_it_is_written(form):
    for exercise in SETS:
        drawn = {variants.drawn(exercise, unicodedata.normalize(form, name)) for name in SAME}
        assert len(drawn) == 1
    assert variants.words(unicodedata.normalize(form, "Straße İ")) == ["i", "strasse"]
    others = ("Zoë Müller", "Müller", "李雷", "韩梅梅", "Ada")
    assert len({tuple(variants.drawn(exercise, name).asked for exercise in SETS) for name in others}) == len(others)


def test_questions_do_not_depend_on_the_process():
    name, code = "Zoë Doe", "import runpy, sys; drawn = runpy.run_path(sys.argv[1])['drawn']\n"
    code += "print(*(drawn(one, sys.argv[2]).asked for one in sys.argv[3:]), sep='|', end='')"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code, variants.__file__, name, *SETS],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("|") == [variants.drawn(one, name).asked for one in SETS]


def test_a_student_sees_numbers_and_no_result(capsys):
    for exercise in SETS:
        own = variants.drawn(exercise, "Ada Lovelace")
        assert variants.own_numbers(exercise, "Ada Lovelace") is None
        assert capsys.readouterr().out == own.asked + "\n" and own.right not in own.asked


@pytest.mark.parametrize("name", ["", "  ", "...", "\ud800", None, 5, ["Ada"]], ids=repr)
def test_without_a_name_the_student_is_asked_for_one(name, capsys):
    variants.own_numbers("05_sam", name)
    assert capsys.readouterr().out.startswith("Write your name between the quotation marks")
    assert variants.drawn("05_sam", name) is None


def test_another_set_is_named():
    with pytest.raises(ValueError, match="exercise must be one of 01_flat_minima, .*, got '09_project'"):
        variants.drawn("09_project", "Ada")


@pytest.mark.parametrize("exercise", SETS)
def test_a_sheet_asks_for_a_name_and_its_rubric_shows_one_result(exercise):
    for folder in ("solutions", "exercises"):
        cells = nbformat.read(ROOT / folder / exercise / f"{exercise}.ipynb", as_version=4).cells
        ids = [cell.id for cell in cells]
        at = ids.index("numbers")
        assert ids[at - 1 : at + 2] == ["numbers-text", "numbers", "why-text"] and ids[-1] == "total"
        assert '\nNAME = ""  # your first and last name' in cells[at].source
        assert cells[at].source.endswith(f'\nown_numbers("{exercise}", NAME)')
        question, answer = cells[at + 1 : at + 3]
        points = sum(map(int, re.findall(r"\*(\d) points?\*", question.source)))
        assert points == answer.metadata.nbgrader.points and "**(c)** With your own numbers: " in question.source
        result = f"For the name Ada Lovelace: {variants.drawn(exercise, 'Ada Lovelace').right}."
        assert (result in answer.source) == (folder == "solutions")
        assert ("(c): 1 point for " in answer.source) == (folder == "solutions")
