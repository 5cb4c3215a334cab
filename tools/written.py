"""One page with all written answers of a set, the rubric beside them: points entered there come back as a small table.

The page is one file without a server. Its button saves `05_sam_points.csv`, and `grade --points` reads it. An answer is
known by a code that is drawn from the name, so that the page can be without names.
"""

import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path

from nbformat import NotebookNode

import feedback
import own
import pages
from assignments import role
from gradebook import COMMENT, column, table
from submissions import Submission

HEADER = ["answer", "part", "points", "comment"]
STYLE = """
main { max-width: none; }
.part { display: grid; gap: 0 2rem; } .part > * { min-width: 0; }
@media screen and (min-width: 60rem) {
  .part { grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
  .rubric { position: sticky; top: 0; align-self: start; max-height: calc(100vh - 4rem); overflow-y: auto; }
}
.rubric h3:first-child { margin-top: .5rem; } .how code { white-space: nowrap; }
.rubric { font-size: .88em; background: var(--note); padding: .2rem 1rem; }
article .own { font-size: .88em; background: var(--code); padding: .3rem .9rem; }
article { border-top: 1px solid var(--line); padding: 0 0 1rem; }
article h3 { margin: 1rem 0 .3rem; }
label { font: 14px/1.5 system-ui, sans-serif; display: block; margin: .4rem 0; }
[type=number] { width: 5rem; }
textarea { display: block; width: 100%; font: inherit; color: inherit; background: var(--code); border: 1px solid var(--soft); }
.bar { position: sticky; bottom: 0; background: var(--page); border-top: 2px solid var(--line); padding: .6rem 0; z-index: 1; }
button { font: inherit; padding: .3rem 1rem; }
input:invalid { outline: 3px solid var(--wrong); }
"""
HOW = """<p class="how">Enter points, and a comment where it helps; the student's page shows both. What you enter is kept in
this browser. <b>Save points</b> then writes <code>{exercise}_points.csv</code>. Grade again with
<code>--points {exercise}_points.csv</code>: the points go into <code>grades.csv</code> and onto the students' pages.</p>"""


def code_of(student: str, exercise: str, key: int) -> str:
    """A letter and eight digits that say who wrote an answer to nobody but the grader; no spreadsheet sees a number."""
    return "a" + hashlib.sha256(f"{key} {exercise} {student}".encode()).hexdigest()[:8]


def page(
    exercise: str, found: Sequence[Submission], solution: NotebookNode, key: int, *, anonymous: bool = False
) -> str:
    """The page of a set. key: the number behind the codes. anonymous: in the order of the codes, without names."""
    mine = {code_of(one.student, exercise, key): one for one in found if one.exercise == exercise and one.scores}
    codes = sorted(mine) if anonymous else sorted(mine, key=lambda code: mine[code].student)
    text = [f"<h1>{html.escape(exercise)}: the written answers of {len(mine)}</h1>", HOW.format(exercise=exercise)]
    for number, cell in enumerate(solution.cells):
        if role(cell) != "written":
            continue
        name, of = cell.metadata.nbgrader.grade_id, cell.metadata.nbgrader.points
        question = re.sub(r"^## .*\n", "", solution.cells[number - 1].source)
        text.append(f'<h2 id="{name}">{name}, {of} points</h2>\n<div class="part"><div>')
        for place, code in enumerate(codes, 1):
            who = f"Answer {place}" if anonymous else mine[code].student
            text.append(_answer(mine[code], who, code, name, anonymous))
        text.append('</div><div class="rubric" tabindex="0" aria-label="Question and rubric"><h3>Question</h3>')
        text.append(feedback.markdown(question, ours=True) + "<h3>Model answer and rubric</h3>")
        text.append(feedback.markdown(cell.source, ours=True) + "</div></div>")
    text.append('<p class="bar"><button type="button">Save points</button> <span role="status"></span></p>')
    script = f"<script>\n{pages.own('written.js')}</script>"
    whole = f'<style>{STYLE}</style><div id="marking" data-exercise="{exercise}">{"".join(text)}</div>{script}'
    return pages.page(f"{exercise}: written answers", whole, search=False)


def _answer(one: Submission, who: str, code: str, name: str, anonymous: bool) -> str:
    score = one.scores[name]
    now = "" if score["points"] is None else f"{score['points']:g}"
    shown = one.written.get(name, "") if not score["failed"] else f"<p><em>{html.escape(score['failed'])}</em></p>"
    images = "".join(f'<img alt="picture {i}" src="{source}">' for i, source in enumerate(one.pictures, 1))
    folded = f"<details><summary>Pictures in the notebook: {len(one.pictures)}</summary>{images}</details>"
    return (
        f'<article data-answer="{code}" data-part="{name}"><h3>{html.escape(who)}</h3>{shown}'
        f"{folded if images else ''}{own.shown(score.get('own'), one.odd, name=not anonymous)}"
        f'<label>Points of {score["of"]:g} <input type="number" min="0" max="{score["of"]:g}" step="any" value="{now}"'
        f' data-before="{now}"></label>'
        f'<label>Comment <textarea rows="2">{html.escape(score.get("comment", ""))}</textarea></label></article>'
    )


def points(paths: Sequence[Path], found: Sequence[Submission], key: int) -> dict[tuple[str, str], dict[str, str]]:
    """(student, exercise) -> column of grades.csv -> what these files say of it. Raises SystemExit with the reason."""
    known = {code_of(one.student, one.exercise, key): one for one in found if one.scores}
    known |= {code[1:]: one for code, one in known.items()}  # as pages of an earlier version saved them
    marks: dict[tuple[str, str], dict[str, str]] = {}
    for path in paths:
        rows = table(path, HEADER[0])
        if rows and not set(HEADER) <= set(rows[0]):
            raise SystemExit(
                f"{path}: its columns must be {', '.join(HEADER)}; save it from the page of written answers"
            )
        for row in rows:
            one = known.get(row["answer"])
            if one is None or row["part"] not in one.scores:
                raise SystemExit(
                    f"{path}: no graded submission has the answer {row['answer']} to {row['part']}; "
                    "grade the same submissions into the same folder. Nothing was changed."
                )
            name = column(row["part"], one.scores[row["part"]])
            mine = marks.setdefault((one.student, one.exercise), {})
            given = (row["points"] or "").strip()
            mine |= {name: given} if given else {}
            mine[row["part"] + COMMENT] = " ".join((row["comment"] or "").split())
    return marks
