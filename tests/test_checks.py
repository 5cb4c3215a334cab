"""Checks of exercises: right answers of any kind pass, and a message says what is wrong."""

import copy
import logging
import os
import sys
import warnings
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from sam_lite.checks import Wrong, expect, expect_error, part, total, unpack


@pytest.mark.parametrize(
    ("got", "right"),
    [
        (0.1, torch.tensor(0.1)),
        (torch.tensor(0.1, dtype=torch.float32), 0.1),
        ([1, 2], np.array([1.0, 2.0])),
        ([torch.tensor(1.0), torch.tensor(2.0)], [1, 2]),
        (torch.ones(2, requires_grad=True), np.ones(2)),
        ({"w": torch.ones(2, dtype=torch.float64)}, {"w": torch.ones(2)}),
        (1e-6, 0.0),
        (True, 1.0),
        (float("inf"), float("inf")),
        (np.linalg.eigvals(np.array([[2.0, 1.0], [1.0, 2.0]])).astype(complex) + 1e-17j, [3.0, 1.0]),
    ],
)
def test_a_right_answer_of_any_kind_passes(got, right):
    expect("x", got, right)


@pytest.mark.parametrize(
    ("got", "right", "message"),
    [
        (None, 1.0, "x: nothing came back; is there a return"),
        ("one", 1.0, "x: numbers were expected; str came"),
        (np.array([1.0 + 5.0j, 2.0]), [1.0, 2.0], "x: numbers were expected; ndarray came"),
        (torch.tensor([1.0, 2.0j]), [1.0, 0.0], "x: numbers were expected; Tensor came"),
        (object(), 1.0, "x: numbers were expected; object came"),
        (1.0, {"w": 1.0}, r"x: a dict was expected, with the keys \['w'\]; float came"),
        ({"v": 1.0}, {"w": 1.0}, r"x: the keys must be \['w'\], and are \['v'\]"),
        ({"v": 1.0, "w": 2.0}, {"v": 1.0, "w": 1.0}, r"x: \['w'\] it is wrong, by 1 of its size \(yours is 2\)"),
        (torch.ones(2), torch.ones(3), r"x: the shape must be \(3,\), and is \(2,\)"),
        ([1.0, float("nan")], [1.0, 2.0], "x: there is a NaN or an infinity in it"),
        ([1.0, 2.1], [1.0, 2.0], r"x: it is wrong, by 0.05 of its size, at \[1\]\."),
        ([1.1, 2.1], [1.0, 2.0], r"x: it is wrong, by 0.05 of its size\."),
        (torch.ones(1, 1), 1.0, r"x: one number was expected, and an array of the shape \(1, 1\) came"),
        (float("inf"), -float("inf"), "x: -inf was expected, and inf came"),
        (0.0, float("inf"), "x: inf was expected, and 0 came"),
        (1e-4, 0.0, "x: it is wrong"),
        (52.0, 1.0, "x: yours is 52, and the right one is about 50 times smaller"),
    ],
)
def test_a_wrong_answer_is_described(got, right, message):
    with pytest.raises(AssertionError, match=message):
        expect("x", got, right)


def test_a_known_mistake_is_named():
    mistakes = {"the root was forgotten": 4.0, "the sign is wrong": -2.0}
    with pytest.raises(AssertionError, match="length: it looks as if the root was forgotten"):
        expect("length", torch.tensor(4.0), 2.0, looks_like=mistakes)
    with pytest.raises(AssertionError, match=r"length: it is wrong, by 0.5 of its size \(yours is 3\)"):
        expect("length", 3.0, 2.0, looks_like=mistakes)
    expect("length", 2.0, 2.0, looks_like=mistakes)


def test_the_tolerance_is_relative_to_the_largest_entry():
    expect("x", [1000.0, 0.005], [1000.0, 0.0])
    with pytest.raises(AssertionError, match="x: it is wrong"):
        expect("x", [1000.0, 0.02], [1000.0, 0.0])
    expect("x", [1000.0, 5.0], [1000.0, 0.0], tolerance=0.01)


def test_an_error_is_expected():
    def fail(error):
        raise error

    expect_error("rho", lambda: fail(ValueError("rho must be >= 0")), ValueError, about="rho must")
    with pytest.raises(AssertionError, match="rho: ValueError was expected and nothing was raised"):
        expect_error("rho", lambda: None, ValueError)
    with pytest.raises(AssertionError, match="rho: ValueError was expected, KeyError came: 'rho'"):
        expect_error("rho", lambda: fail(KeyError("rho")), ValueError)
    with pytest.raises(AssertionError, match="the message must say 'rho', and says 'no'"):
        expect_error("rho", lambda: fail(ValueError("no")), ValueError, about="rho")
    with pytest.raises(NotImplementedError, match="write"):
        expect_error("rho", lambda: fail(NotImplementedError("write your code")), ValueError)


# ---------------------------------------------------------------- a check of a set


def double(draw, double):
    x = draw.normal(3)
    expect("2 x", double(x), 2 * x, looks_like={"this is x": x, "this is 3 x": lambda: 3 * x})


check = part("Part 0", points=2)(double)


def test_a_check_says_right_or_names_the_mistake(capsys):
    check(lambda x: 2 * x)
    assert capsys.readouterr().out == "Part 0: right.\n"
    for wrong, said in [(lambda x: x, "this is x"), (lambda x: 3 * x, "this is 3 x")]:
        with pytest.raises(Wrong, match=f"2 x: it looks as if {said}"):
            check(wrong)


def test_the_running_total_says_what_each_check_said_last(capsys):
    checks = ModuleType("set_00")
    checks.double, checks.other = part("Part 0", points=2)(double), part("Part 1, more", points=3)(double)

    def said():
        capsys.readouterr()
        total(checks, written=4)
        first, second, last = capsys.readouterr().out.splitlines()
        assert second == "Part 1, more   0 of 3   not checked yet"
        return first, last.removesuffix(" points so far. The written answers give up to 4 more.")

    assert said() == ("Part 0         0 of 2   not checked yet", "Together: 0 of 5")
    checks.double(lambda x: 2 * x)
    assert said() == ("Part 0         2 of 2   right", "Together: 2 of 5")
    with pytest.raises(Wrong, match="this is x"):
        checks.double(lambda x: x)
    assert said() == ("Part 0         0 of 2   not right yet", "Together: 0 of 5")
    with pytest.raises(NotImplementedError, match="write"):
        checks.double(lambda x: (_ for _ in ()).throw(NotImplementedError("write your code")))
    assert said() == ("Part 0         0 of 2   not right yet", "Together: 0 of 5")


def test_the_inputs_are_new_at_every_call_and_the_same_for_a_seed(monkeypatch):
    def inputs():
        seen = []
        check(lambda x: (seen.append(x.clone()), 2 * x)[1])
        return seen

    first, second = inputs(), inputs()
    assert {x.dtype for x in first} == {torch.float32, torch.float64} and len(first) == 3
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    monkeypatch.setenv("SAM_LITE_CHECK_SEED", "5")
    assert all(torch.equal(a, b) for a, b in zip(inputs(), inputs(), strict=True))
    seen = []
    with pytest.raises(Wrong):
        check(lambda x: seen.append(os.environ.get("SAM_LITE_CHECK_SEED")))
    assert seen == [None] and os.environ["SAM_LITE_CHECK_SEED"] == "5"  # no answer finds it


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.tensor([1.0, 2.0, float("nan")]),
        lambda: np.array([3, 1]),
        lambda: np.array(["b", "a"]),
        lambda: [3, 1.5, None],
        lambda: ({"w": torch.ones(2)}, ["a", "b"]),
        lambda: pd.DataFrame({"x": [1.0, np.nan], "name": ["b", "a"]}),
        lambda: {"loss": len, "model": torch.nn.Linear(1, 1)},
    ],
)
def test_an_argument_stays_as_it_was_or_the_answer_is_wrong(made):
    changes = {
        torch.Tensor: lambda x: x.neg_(),
        np.ndarray: lambda x: x.sort(),
        list: lambda x: x.reverse(),
        tuple: lambda x: x[1].pop(),
        pd.DataFrame: lambda x: x.sort_values("name", inplace=True),
        dict: lambda x: x.pop("loss"),
    }

    def asks(draw, answer):
        expect("the second", answer(1.0, made()), 2.0)
        expect("what it does itself to a copy", answer(1.0, copy.deepcopy(made())), 2.0)

    def in_place(one, other):
        changes[type(other)](other)
        return 2.0

    part("Part 0", points=1)(asks)(lambda one, other: (changes[type(other)](copy.deepcopy(other)), 2.0)[1])
    with pytest.raises(Wrong, match=r"argument 2, a \w+, must stay as it was, and your function changed it: work on"):
        part("Part 0", points=1)(asks)(in_place)


def test_what_an_answer_moves_there_and_back_and_a_model_may_change():
    model = torch.nn.Linear(1, 1)

    def asks(draw, answer):
        expect("x", answer(draw.normal(3, dtype=torch.float32), model), 1.0)

    def there_and_back(x, model):
        x += 0.3
        x -= 0.3
        model.weight.data += 1
        return 1.0

    part("Part 0", points=1)(asks)(there_and_back)


def test_warnings_logs_and_stderr_of_an_answer_are_no_fault(capsys):
    def noisy(x):
        warnings.warn("loud", stacklevel=1)
        logging.warning("loud")
        print("loud", file=sys.stderr)
        with np.errstate(all="warn"):
            np.float64(1) / np.float64(0)
        return 2 * x

    with torch.no_grad():
        check(noisy)
    assert capsys.readouterr().err == ""


def test_an_error_of_an_answer_shows_the_lines_of_the_answer_and_none_of_the_check():
    def broken(x):
        return x / {}

    with pytest.raises(TypeError) as caught:
        check(broken)
    files = [entry.path.name for entry in caught.traceback if entry.path.name != "test_checks.py"]
    assert set(files) <= {"__init__.py"} and not [entry for entry in caught.traceback if entry.name == "double"][1:]
    with pytest.raises(NotImplementedError, match="write your code"):
        check(lambda x: (_ for _ in ()).throw(NotImplementedError("write your code")))
    with pytest.raises(Wrong) as caught:
        check(lambda x: x)
    assert caught.value._render_traceback_() == ["Not right yet. 2 x: it looks as if this is x."]


def test_a_case_of_the_instructor_counts_and_is_not_shown(monkeypatch, tmp_path):
    from sam_lite.checks import set_05

    answer = lambda grads, rho: {name: rho * g.sign() for name, g in grads.items()}  # noqa: E731
    monkeypatch.setenv("SAM_LITE_PRIVATE_CHECKS", str(tmp_path))
    set_05.climb_inf(answer)  # there is no such file
    private = "def climb_inf(draw, climb_inf):\n    raise AssertionError('secret')\n"
    (tmp_path / "set_05.py").write_text(private, encoding="utf-8")
    with pytest.raises(Wrong, match="wrong in one that is not shown") as caught:
        set_05.climb_inf(answer)
    assert "secret" in caught.value.hidden and "secret" not in str(caught.value)
    set_05.climb(lambda grads, rho: climb(grads, rho))  # the file has nothing for this one
    monkeypatch.setenv("SAM_LITE_PRIVATE_CHECKS", "private")  # nbgrader runs a check in the folder of the sheet
    with pytest.raises(Wrong, match=r"SAM_LITE_PRIVATE_CHECKS must be the whole path of a folder .*, got 'private'"):
        set_05.climb_inf(answer)


def climb(grads, rho):
    size = sum((g**2).sum() for g in grads.values()).sqrt()
    return {name: rho * g / size if size else g for name, g in grads.items()}


@pytest.mark.parametrize("got", [None, 3.0, torch.tensor(1.0), {"a": 1}, (1, 2, 3), "ab"])
def test_the_wrong_number_of_values_is_said(got):
    with pytest.raises(AssertionError, match="nothing came back|2 values were expected: the mean, its error"):
        unpack(got, "the mean", "its error")
    assert unpack((1, 2), "the mean", "its error") == unpack(np.array([1, 2]), "the mean", "its error") == [1, 2]


@pytest.mark.parametrize("constant", [0.0, 1.0, {}, {"w": torch.zeros(2)}])
def test_no_constant_passes_any_check_of_one_function(constant):
    from sam_lite.checks import set_01, set_02, set_03, set_05, set_06, set_07, set_08

    modules = (set_01, set_02, set_03, set_05, set_06, set_07, set_08)
    tried = 0
    for module in modules:
        for name, one in vars(module).items():
            if hasattr(one, "rounds") and name != "ghost_norm":
                tried += 1
                with pytest.raises(Exception, match="."):
                    one(lambda *a, **k: constant)
    assert tried == 56


def test_recorded_answers_pass_with_the_inputs_of_their_seed_only(monkeypatch):
    from sam_lite.checks import set_05

    record = []
    monkeypatch.setenv("SAM_LITE_CHECK_SEED", "1")
    set_05.climb(lambda grads, rho: record.append(climb(grads, rho)) or record[-1])
    again = iter(record)
    set_05.climb(lambda grads, rho: next(again))
    for seed in ("2", ""):
        monkeypatch.setenv("SAM_LITE_CHECK_SEED", seed)
        again = iter(record)
        with pytest.raises(Wrong, match="ε"):
            set_05.climb(lambda grads, rho, again=again: next(again))
