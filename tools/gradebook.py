"""The tables of a class: grades.csv, with the points that an instructor typed into it, and the report."""

import collections
import contextlib
import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from submissions import Submission

FIRST = ["student", "exercise", "points", "of", "by hand", "days late", "state", "remarks", "file"]
WRITTEN, COMMENT = " (written)", " (comment)"  # end the names of columns that are filled in by hand
CHECKED = " by the checks"  # ends the names of columns with what was given before anybody typed
KEPT = "kept from an earlier run: no marks were made for it now"
FORMULA = "'*[=+@-]"  # begins what a spreadsheet would compute, in a cell, or behind what may separate cells elsewhere
NUMBER = re.compile(r"'*(0\d+|\d{16,}|\d+(\.\d*)?[eE]\d+)")  # a name that a spreadsheet would write as another number
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

    Rows of students and exercises that have no marks this time stay as they are, and so do columns of one's own.
    marks: (student, exercise) -> column -> what a page of written answers says; it counts more than the last table.
    """
    before, rows = _last(path, found), []
    typed, own = _typed(before, path), _own(before)
    for whose, said in (marks or {}).items():
        typed[whose] = {**typed.get(whose, {}), **said}
    for one in found:
        _by_hand(one, typed.get((one.student, one.exercise), {}), path)
    marked = {(one.student, one.exercise) for one in found if one.scores}
    for one in sorted(found, key=lambda one: (one.exercise, one.student, one.file)):
        sums = [f"{one.points:g}", f"{one.of:g}", f"{one.by_hand:g}"] if one.scores else ["", "", ""]
        late = f"{round(max(0.0, (one.when - due.timestamp()) / 86400), 3):g}" if due and one.scores else ""
        first = [one.student, one.exercise, *sums, late, one.state, "; ".join([*one.remarks, *_reasons(one)]), one.file]
        row = dict(zip(FIRST, first, strict=True))
        for name, score in one.scores.items():
            part = column(name, score)
            row |= {part: _shown(score["points"])}
            row |= {name + COMMENT: score.get("comment", "")} if score.get("written") else {}
            row |= {part + CHECKED: _shown(score["auto"])}
        key = (one.student, one.exercise)
        mine = own.get(key, {}) | typed.get(key, {}) if one.scores else {}
        rows.append(mine | own.get(one.file, {}) | row)
    for row in before:
        gone = row["file"] not in {one.file for one in found} and own[row["file"]]
        if (row["student"], row["exercise"]) not in marked and (_parts(row) or gone):
            rows.append(row | {"state": KEPT})
    names = [name for row in sorted(rows, key=lambda row: row["exercise"]) for name in row if name not in FIRST]
    names = sorted(dict.fromkeys(names), key=lambda name: name.endswith(CHECKED))
    save(path, [[*FIRST, *names], *([row.get(name, "") for name in [*FIRST, *names]] for row in rows)])


def _parts(row: Mapping[str, str]) -> dict[str, str]:
    """The columns of parts that are filled in: those that this program made."""
    return {
        name: value.strip()
        for name, value in row.items()
        if value.strip() and (name.endswith((WRITTEN, COMMENT)) or name + CHECKED in row)
    }


def _own(rows: Sequence[Mapping[str, str]]) -> dict[object, dict[str, str]]:
    """File, and (student, exercise) -> what stands in columns that somebody added to the table."""
    found: dict[object, dict[str, str]] = {}
    for row in rows:
        parts = _parts(row)
        mine = {
            name: value
            for name, value in row.items()
            if value and name not in FIRST and name not in parts and not name.endswith(CHECKED)
        }
        for key in (row["file"], (row["student"], row["exercise"])):
            found[key] = found.get(key, {}) | mine
    return found


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


def save(path: Path, rows: Sequence[Sequence[str]], *, people: bool = True) -> None:
    """Write a table, whole or not at all; no cell of it is a formula.

    people: it is for a spreadsheet, with the mark that Excel needs to see UTF-8, and names such as 007 as text.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [[_guarded(text, numbers=people) for text in row] for row in rows]
    with part.open("w", encoding="utf-8-sig" if people else "utf-8", newline="") as file:
        csv.writer(file).writerows(made)
    part.replace(path)


def _reasons(one: Submission) -> list[str]:
    """Why a part has fewer points than it could: no mark is without a reason."""
    return [
        f"{name.removesuffix('_check')}: {score['failed']}" for name, score in one.scores.items() if score["failed"]
    ]


def table(path: Path, column: str) -> list[dict[str, str]]:
    """The rows of a table as any spreadsheet saves it. Raises SystemExit if it has no such column: nothing is lost yet."""
    content = path.read_bytes() if path.is_file() else b""
    if not content.strip():
        return []
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "cp1252", "latin-1"):
        with contextlib.suppress(UnicodeError):
            text = content.decode(encoding)
            break
    else:
        raise SystemExit(f"{path}: it begins as UTF-16 and is none; save it as CSV, UTF-8. Nothing was written.")
    if said := re.match('"?sep=(.)"?[^\\r\\n]*(\\r\\n|\\r|\\n)', text):
        text = text[said.end() :]
    for separator in (said[1],) if said else (",", ";", "\t"):
        head, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row] or [[]]
        if column in (head := [name.strip() for name in head]):
            head = [name or f"column {number}" for number, name in enumerate(head, 1)]
            head += [f"column {number}" for number in range(len(head) + 1, max(map(len, rows), default=0) + 1)]
            whole = [row + [""] * (len(head) - len(row)) for row in rows]
            return [dict(zip(head, row, strict=True)) for row in whole]
    raise SystemExit(
        f"{path}: a column must be named {column}, and none is in the first line, {text.splitlines()[:1]}; "
        "save it as CSV with its first line as it was. Nothing was written."
    )


def _last(path: Path, found: Sequence[Submission]) -> list[dict[str, str]]:
    """The rows of the last grades.csv; where a spreadsheet changed a student's name, the file says who it is."""
    rows = [{name: _unguarded(value) for name, value in row.items()} for row in table(path, "student")]
    known = {(one.file, one.exercise): one.student for one in found}
    everybody = {(one.student, one.exercise) for one in found}
    for row in rows:
        row |= {name: row.get(name, "") for name in FIRST}
        if (row["student"], row["exercise"]) not in everybody:
            row["student"] = known.get((row["file"], row["exercise"]), row["student"])
    return rows


def _typed(rows: Sequence[Mapping[str, str]], path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(student, exercise) -> column -> what somebody typed into these rows. Raises SystemExit where two differ."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        mine = found.setdefault((row["student"], row["exercise"]), {})
        for name, value in _parts(row).items():
            blank = f"{name.removesuffix(WRITTEN)}: nothing was written" in row["remarks"]  # as earlier tables said it
            if value == row.get(name + CHECKED, "0" if blank else "").strip():
                continue
            if mine.setdefault(name, value) != value:
                raise SystemExit(
                    f"{path}: {row['student']}, {name} must be the same in all rows of one student and exercise, "
                    f"got {mine[name]!r} and {value!r}; leave one of them. Nothing is lost."
                )
    return found


def _guarded(text: str, *, numbers: bool) -> str:
    return "'" + text if numbers and NUMBER.fullmatch(text) else re.sub(f"(^|[;\t])(?={FORMULA})", r"\1'", text)


def _unguarded(text: str) -> str:
    return text[1:] if text[:1] == "'" and NUMBER.fullmatch(text) else re.sub(f"(^|[;\t])'(?={FORMULA})", r"\1", text)


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
        said = html.escape("; ".join([one.state, *one.remarks, *one.hidden, *one.odd, *_reasons(one)]))
        text.append(f"<tr><td>{html.escape(one.file)}<td>{name}<td>{one.exercise}<td>{reached}<td>{said}</tr>")
    return "\n".join([*text, "</table></html>"])
