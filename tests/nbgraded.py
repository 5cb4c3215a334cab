"""nbgrader's own autograder, as it runs on a hub: to see that it gives the same marks as the course's grader."""

import os
import sys
from pathlib import Path

import nbformat
from nbgrader.apps import NbGraderAPI

from assignments import role, settings
from notebooks import ROOT
from running import NO_START


def path() -> str:
    """PATH with the scripts of this Python first: nbgrader starts `alembic` by its bare name."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _api(course: Path) -> NbGraderAPI:
    config = settings()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.source_directory = "source"
    config.CourseDirectory.release_directory = "release"
    config.CourseDirectory.db_url = f"sqlite:///{course / 'gradebook.db'}"
    config.NbGrader.logfile = ""
    config.Application.log_level = "ERROR"
    return NbGraderAPI(config=config)


def prepare(exercise: str, folder: Path) -> Path:
    """A course folder of nbgrader with one released exercise, to be copied for each submission."""
    course, before = folder / exercise, os.environ.get("PATH", "")
    source = course / "source" / exercise
    source.mkdir(parents=True)
    (source / f"{exercise}.ipynb").write_bytes((ROOT / "solutions" / exercise / f"{exercise}.ipynb").read_bytes())
    os.environ["PATH"] = path()
    try:
        outcome = _api(course).generate_assignment(exercise)
    finally:
        os.environ["PATH"] = before
    assert outcome["success"], outcome
    return course


def autograde(request: dict) -> dict:
    """The marks of one notebook, in the course folder of `request`: {"scores": {part: {points, failed}}}."""
    course, exercise = Path(request["course"]), request["exercise"]
    target = course / "submitted" / "student" / exercise / f"{exercise}.ipynb"
    target.parent.mkdir(parents=True)
    target.write_bytes(Path(request["handed"]).read_bytes())
    api = _api(course)
    for _ in range(3):
        outcome = api.autograde(exercise, "student")
        if NO_START not in str(outcome):
            break
    assert outcome["success"], outcome
    graded = nbformat.read(course / "autograded" / "student" / exercise / f"{exercise}.ipynb", as_version=4)
    failed = {}
    for cell in graded.cells:
        if role(cell) == "check":
            errors = [f"{out.ename}: {out.evalue}" for out in cell.outputs if out.output_type == "error"]
            failed[cell.metadata.nbgrader.grade_id] = " ".join(errors[0].split())[:300] if errors else ""
    scores = {}
    with api.gradebook as gradebook:
        for grade in gradebook.find_submission_notebook(exercise, exercise, "student").grades:
            scores[grade.name] = {"points": grade.auto_score, "failed": failed.get(grade.name, "")}
    return {"scores": scores}
