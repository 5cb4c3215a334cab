"""Checks of exercises: right answers of any kind pass, and a message says what is wrong."""

import numpy as np
import pytest
import torch

from sam_lite.checks import expect, expect_error


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
    ],
)
def test_a_right_answer_of_any_kind_passes(got, right):
    expect("x", got, right)


@pytest.mark.parametrize(
    ("got", "right", "message"),
    [
        (None, 1.0, "x: nothing came back; is there a return"),
        ("one", 1.0, "x: numbers were expected; str came"),
        (object(), 1.0, "x: numbers were expected; object came"),
        (1.0, {"w": 1.0}, r"x: a dict was expected, with the keys \['w'\]; float came"),
        ({"v": 1.0}, {"w": 1.0}, r"x: the keys must be \['w'\], and are \['v'\]"),
        ({"v": 1.0, "w": 2.0}, {"v": 1.0, "w": 1.0}, r"x: \['w'\] it is wrong, by 1 of its size \(2\)"),
        (torch.ones(2), torch.ones(3), r"x: the shape must be \(3,\), and is \(2,\)"),
        ([1.0, float("nan")], [1.0, 2.0], "x: there is a NaN or an infinity in it"),
        ([1.0, 2.1], [1.0, 2.0], "x: it is wrong, by 0.05 of its size"),
        (float("inf"), -float("inf"), "x: it is wrong, by inf of its size"),
        (1e-4, 0.0, "x: it is wrong"),
    ],
)
def test_a_wrong_answer_is_described(got, right, message):
    with pytest.raises(AssertionError, match=message):
        expect("x", got, right)


def test_a_known_mistake_is_named():
    mistakes = {"the root was forgotten": 4.0, "the sign is wrong": -2.0}
    with pytest.raises(AssertionError, match="length: it looks as if the root was forgotten"):
        expect("length", torch.tensor(4.0), 2.0, looks_like=mistakes)
    with pytest.raises(AssertionError, match=r"length: it is wrong, by 0.5 of its size \(3\)"):
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
