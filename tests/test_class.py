"""A class of sixty, handed in through Moodle and through Canvas: graded, marked by hand, and graded again with one more."""

import argparse
import csv

import pytest

pytest.importorskip("assignments", reason="nbgrader is missing: pip install -e '.[instructor]'")
import a_class  # noqa: E402

import confine  # noqa: E402
import grading  # noqa: E402
import submissions  # noqa: E402
import written  # noqa: E402

OPTIONS = {"jobs": 2, "seconds": 300, "cell_seconds": 20, "memory_gb": 8}
WHY = "accumulated_why"


def rows_of(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def checked(one):
    """The points of the parts that checks mark."""
    return sum(score["points"] for score in one.scores.values() if not score.get("written"))


def graded(place, out, **more):
    """student -> what became of the submission that counts."""
    found = grading.grade(place, out, argparse.Namespace(**OPTIONS, **more))
    return {one.student: one for one in found if one.scores}


def hand_in_and_mark(platform, class_, folder):
    out, kinds = folder / "out", {}
    for number, student in enumerate(class_):
        last = platform(number, student)[-1]
        kinds[submissions._who(submissions._parts(last), [a_class.EXERCISE])[1]] = student
    place = a_class.write(folder, class_)[platform.__name__]
    first = graded(place, out)
    assert first.keys() == kinds.keys()
    for name, one in first.items():
        if kinds[name].kind != "hostile: reaches out" or confine.can_confine_files():
            assert checked(one) == kinds[name].points, (kinds[name].kind, one)
        assert all(score["failed"] for score in one.scores.values() if score["points"] == 0), one

    key, saved = grading.seed_of(out), folder / "05_sam_points.csv"
    open_ = sorted(name for name, one in first.items() if one.by_hand)
    given = {name: number % 6 for number, name in enumerate(open_)}
    with saved.open("w", encoding="utf-8", newline="") as file:
        rows = [[written.code_of(name, a_class.EXERCISE, key), WHY, points, ""] for name, points in given.items()]
        csv.writer(file).writerows([written.HEADER, *rows])
    late = class_[0]._replace(name="Late Comer")
    a_class.write(folder, [*class_, late])
    again = graded(place, out, points=[saved])
    assert len(again) == len(first) + 1
    for name, one in first.items():
        assert again[name].points == checked(one) + given.get(name, 0) and not again[name].by_hand
        page = (out / "feedback" / a_class.EXERCISE / f"{name}.html").read_text(encoding="utf-8")
        assert f"<h1>{again[name].points:g} of 26 points</h1>" in page
    rows = {row["student"]: row for row in rows_of(out / "grades.csv") if row["state"] == "graded"}
    assert {name: float(row["points"]) for name, row in rows.items()} == {n: one.points for n, one in again.items()}
    (table,) = (out / "give_back").glob("*.csv")
    assert table.name == f"{platform.__name__}_05_sam.csv" and len(rows_of(table)) >= len(first)
    return [(kinds[row["student"]].kind, kinds[row["other"]].kind) for row in rows_of(out / "similar.csv")
            if row["student"] in kinds and row["other"] in kinds]  # fmt: skip


@pytest.mark.slow
def test_the_names_of_both_platforms_tell_sixty_students_apart(tmp_path):
    class_ = a_class.students()
    for name, place in a_class.write(tmp_path, class_).items():
        found = submissions.collect(place, [a_class.EXERCISE])
        due = {getattr(a_class, name)(number, student)[-1] for number, student in enumerate(class_)}
        graded = [one for one in found if one.state == "graded"]
        assert {one.file for one in graded} == due and len({one.student for one in graded}) == 60
        assert {one.platform for one in found} == {name} and len(found) == 65


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("platform", [a_class.moodle, a_class.canvas], ids=lambda platform: platform.__name__)
def test_everybody_gets_what_they_are_due_and_nothing_that_was_typed_is_lost(platform, tmp_path):
    pairs = hand_in_and_mark(platform, a_class.students(), tmp_path)
    assert ("copied", "copied") in pairs
