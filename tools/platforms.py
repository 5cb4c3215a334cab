"""What learning platforms take back: tables of points, and the pages of feedback as a zip.

Canvas imports a table of its gradebook (canvas-lms, lib/gradebook_importer.rb): these columns in this order, a row of
points possible, and a blank grade erases one. Moodle imports the grading worksheet of an assignment (moodle,
mod/assign/feedback/offline/importgradeslib.php): Identifier, Grade and Last modified (grade), in English, with the
number that its export puts behind the name. Both take pages back in a zip, Moodle under the folders of its export
(mod/assign/feedback/file/importziplib.php), Canvas under the names of the files. So only finished marks are in them.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from gradebook import save
from submissions import CANVAS, Submission


def give_back(found: Sequence[Submission], out: Path) -> None:
    """Write a table and a zip of each exercise into out/give_back, for each platform whose names the files have.

    Submissions with written answers that have no points yet are left out.
    """
    for platform, rows_of in {"canvas": _canvas, "moodle": _moodle}.items():
        for exercise in sorted({one.exercise for one in found if one.scores and one.platform == platform}):
            mine = [one for one in found if one.scores and (one.platform, one.exercise) == (platform, exercise)]
            done = sorted((one for one in mine if not one.by_hand), key=lambda one: one.student)
            path = out / "give_back" / f"{platform}_{exercise}.csv"
            save(path, rows_of(exercise, done), people=False)
            with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
                for one in done:
                    archive.write(out / "feedback" / exercise / f"{one.student}.html", _place(one))


def _canvas(exercise: str, done: Sequence[Submission]) -> list[list[str]]:
    rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", exercise]]
    rows += [["Points Possible", "", "", "", "", f"{done[0].of:g}"]] if done else []
    for one in done:
        name, _, number = one.student.rpartition("_")
        rows.append([name, number, "", "", "", f"{one.points:g}"])
    return rows


def _moodle(exercise: str, done: Sequence[Submission]) -> list[list[str]]:
    rows = [["Identifier", "Full name", "Grade", "Maximum Grade", "Last modified (grade)"]]
    for one in done:
        name, _, number = one.student.rpartition("_")
        rows.append([f"Participant {number}", name, f"{one.points:g}", f"{one.of:g}", ""])
    return rows


def _place(one: Submission) -> str:
    """The name of a page in the zip: that under which the platform gave out the submission, as far as it reads it."""
    if one.platform == "canvas":
        given = next(filter(CANVAS.match, reversed(Path(one.file).parts)), one.file)  # the file, or the zip it came in
        return Path(given).stem + ".html"
    name, _, number = one.student.rpartition("_")
    return f"{name.replace('_', ' ')}_{number}_assignsubmission_file_/{one.exercise}.html"
