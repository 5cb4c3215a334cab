"""lectures/10_questions.ipynb: every question has an answer, a check, advice and a source, and can be found."""

import re
from pathlib import Path

import nbformat
import pytest

CELLS = nbformat.read(Path(__file__).parent.parent / "lectures" / "10_questions.ipynb", as_version=4).cells
ASKED = [i for i, cell in enumerate(CELLS) if cell.cell_type == "markdown" and re.search("^### ", cell.source, re.M)]


def test_the_index_lists_every_question_in_order():
    found = re.findall(r"^(\d+)\. \[(.+?)\]\(#(.+?)\)$", CELLS[0].source, re.M)
    headings = [re.search(r"^### (\d+): (.+)$", CELLS[i].source, re.M).groups() for i in ASKED]
    assert [(number, words) for number, words, _ in found] == headings
    assert [int(number) for number, _ in headings] == list(range(1, 26))
    assert all(place == f"{number}:-{words.replace(' ', '-')}" for number, words, place in found)


@pytest.mark.parametrize("i", ASKED, ids=lambda i: CELLS[i].id)
def test_a_question_has_an_answer_advice_a_source_and_a_check(i):
    answer, advice = CELLS[i].source.split("\n### ")[-1].split("**In practice.**")
    advice, source = advice.split("*Asked in*")
    sentences = re.findall(r"[.?!:](?= |\n|$)", answer.split("\n", 1)[1])
    assert 2 <= len(sentences) <= 8 and len(advice) > 20 and "](https://" in source
    until = next((j for j in range(i + 1, len(CELLS)) if CELLS[j].cell_type == "markdown"), len(CELLS))
    assert any("claims.check" in cell.source for cell in CELLS[i + 1 : until])
