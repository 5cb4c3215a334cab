"""The tables of a class: grades.csv, with the points that an instructor typed into it, and the report."""

import collections
import csv
import html
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from submissions import Submission

FIRST = ["student", "exercise", "points", "of", "by hand", "days late", "state", "remarks", "file"]
WRITTEN, COMMENT = " (written)", " (comment)"  # end the names of columns that are filled in by hand
FORMULA = ("=", "+", "-", "@")  # begin what a spreadsheet would compute
STYLE = (
    "body{font:16px sans-serif;margin:2em;max-width:70em}td,th{text-align:left;padding:.2em .8em;vertical-align:top}"
)


def column(name: str, score: dict) -> str:
    """The column of a part: what was checked under its name, what is written marked as such."""
    written = name if not name.endswith("_check") else name.removesuffix("_check")
    return written + (WRITTEN if score.get("written") else "")


def merge(
    found: Sequence[Submission], path: Path, due: datetime | None = None, marks: Mapping[tuple, Mapping] | None = None
) -> None:
    """Write grades.csv, a row for each file. What somebody typed into a column of a part stays, and counts.

    marks: (student, exercise) -> column -> what a page of written answers says; it counts more than the last table.
    """
    typed = _typed(path)
    for whose, said in (marks or {}).items():
        typed[whose] = {**typed.get(whose, {}), **said}
    for one in found:
        _by_hand(one, typed.get((one.student, one.exercise), {}), path)
    columns = []
    for one in sorted(found, key=lambda one: one.exercise):
        for name, score in one.scores.items():
            columns += [column(name, score), *([name + COMMENT] if score.get("written") else [])]
    columns = list(dict.fromkeys(columns))
    checked = [name for name in columns if not name.endswith((WRITTEN, COMMENT))]
    rows = [[*FIRST, *columns, *(f"{name} by the checks" for name in checked)]]
    for one in sorted(found, key=lambda one: (one.exercise, one.student, one.file)):
        cells = {column(name, score): _shown(score["points"]) for name, score in one.scores.items()}
        cells |= {name + COMMENT: score.get("comment", "") for name, score in one.scores.items()}
        auto = {column(name, score): _shown(score["auto"]) for name, score in one.scores.items()}
        sums = [f"{one.points:g}", f"{one.of:g}", f"{one.by_hand:g}"] if one.scores else ["", "", ""]
        late = f"{max(0.0, (one.when - due.timestamp()) / 86400):.2g}" if due and one.scores else ""
        row = [one.student, one.exercise, *sums, late, one.state, "; ".join([*one.remarks, *_reasons(one)]), one.file]
        rows.append([*row, *(cells.get(name, "") for name in columns), *(auto.get(name, "") for name in checked)])
    save(path, rows)


def _by_hand(one: Submission, mine: Mapping[str, str], path: Path) -> None:
    """Put what was typed into the scores. Raises SystemExit for points that cannot be."""
    for name, score in one.scores.items():
        part, score["auto"] = column(name, score), score["points"]
        score["comment"] = mine.get(name + COMMENT, "")
        if part in mine:
            score["points"] = _number(mine[part], score, f"{one.student}, {part}", path)
            if score["auto"] is not None:
                one.remarks.append(f"{part}: {score['points']:g} by hand, {score['auto']:g} by the checks")


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def save(path: Path, rows: Sequence[Sequence[str]], *, bom: bool = True) -> None:
    """Write a table, whole or not at all; no cell of it is a formula. bom: the mark that Excel needs to see UTF-8."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        csv.writer(file).writerows([["'" + text if text[:1] in FORMULA else text for text in row] for row in rows])
    part.replace(path)


def _reasons(one: Submission) -> list[str]:
    """Why a part has fewer points than it could: no mark is without a reason."""
    return [
        f"{name.removesuffix('_check')}: {score['failed']}" for name, score in one.scores.items() if score["failed"]
    ]


def _typed(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(student, exercise) -> column -> what somebody typed into the last grades.csv."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig")
    found, separator = {}, ","
    if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(","):  # as spreadsheets in Europe save it
        separator = ";"
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=separator):
        row = {name: _unguarded(value) for name, value in row.items() if isinstance(value, str)}
        student = row.get("student") or ""
        mine = {
            name: value.strip()
            for name, value in row.items()
            if name and name not in FIRST and not name.endswith(" by the checks") and (value or "").strip()
        }
        mine = {
            name: value for name, value in mine.items() if value != (row.get(f"{name} by the checks") or "").strip()
        }
        if mine:
            found.setdefault((student, row.get("exercise") or ""), {}).update(mine)
    return found


def _unguarded(text: str) -> str:
    return text[1:] if text[:1] == "'" and text[1:2] in FORMULA else text


def _number(text: str, score: dict, where: str, path: Path) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = -1.0
    if not 0 <= value <= score["of"]:
        raise SystemExit(
            f"{path}: {where} must be a number from 0 to {score['of']:g}, got {text!r}; correct it there. Nothing is lost."
        )
    return value


def report(found: Sequence[Submission]) -> str:
    """The class report as a page: for each part the mean and the most common failed check; then every file."""
    text = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Class report</title>',
        f"<style>{STYLE}</style>",
    ]
    text.append("<h1>Class report</h1><p>Pairs with nearly equal code, a hint and no verdict: similar.csv.</p>")
    for exercise in sorted({one.exercise for one in found if one.scores}):
        graded = [one for one in found if one.exercise == exercise and one.scores]
        text.append(f"<h2>{html.escape(exercise)}</h2><p>{len(graded)} graded.</p>")
        text.append("<table><tr><th>part<th>mean<th>of<th>failed<th>most common reason</tr>")
        for name in graded[0].scores:
            scores = [one.scores[name] for one in graded if name in one.scores]
            failed = collections.Counter(score["failed"] for score in scores if score["failed"])
            reason = f"{failed.most_common(1)[0][1]} × {failed.most_common(1)[0][0]}" if failed else ""
            points = [score["points"] for score in scores if score["points"] is not None]
            mean = f"{sum(points) / len(points):.1f}" if points else "by hand"
            mean += f", {len(scores) - len(points)} open" if points and len(points) < len(scores) else ""
            cells = (name, mean, f"{scores[0]['of']:g}", sum(failed.values()), reason)
            text.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in cells) + "</tr>")
        text.append("</table>")
    text.append("<h2>Every file</h2><table><tr><th>file<th>student<th>exercise<th>points<th>state and remarks</tr>")
    for one in sorted(found, key=lambda one: (one.state == "graded", one.exercise, one.student)):
        name = html.escape(one.student)
        if one.scores:
            name = f'<a href="feedback/{html.escape(one.exercise)}/{html.escape(one.student)}.html">{name}</a>'
        reached = f"{one.points:g} of {one.of:g}" if one.scores else ""
        said = html.escape("; ".join([one.state, *one.remarks, *one.hidden, *_reasons(one)]))
        text.append(f"<tr><td>{html.escape(one.file)}<td>{name}<td>{one.exercise}<td>{reached}<td>{said}</tr>")
    return "\n".join([*text, "</table></html>"])
