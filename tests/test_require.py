"""The checks at the door: what is a number, what is whole, and what the error says."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.func import vmap

from sam_lite import require


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int64(1), torch.tensor(0.5), np.array(0.5)])
def test_numbers_of_every_library_come_back_as_pythons(value):
    assert require.number("rho", value, least=0) == float(value)
    assert type(require.number("rho", value, least=0)) in (float, int)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.5", None, True, [0.5], torch.ones(1)])
def test_anything_else_is_refused_with_name_rule_and_value(value):
    with pytest.raises(ValueError, match=r"rho must be a finite number >= 0, got ") as caught:
        require.number("rho", value, least=0)
    assert repr(value) in str(caught.value)


def test_bounds_that_are_allowed_and_bounds_that_are_not():
    assert require.number("p", 1, least=1, most=1) == 1
    with pytest.raises(ValueError, match=r"lr must be a finite number > 0 and < 2, got 0; give it in steps"):
        require.number("lr", 0, above=0, below=2, remedy="give it in steps")
    with pytest.raises(ValueError, match=r"a finite number > 0 and < 2, got 2$"):
        require.number("lr", 2, above=0, below=2)


def test_what_cannot_be_read_without_waiting_is_let_through():
    meta = torch.tensor(0.5, device="meta")
    assert require.number("rho", meta, least=0) is meta
    doubled = vmap(lambda rho: 2 * require.number("rho", rho, least=0))(torch.tensor([1.0, 2.0]))
    assert doubled.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_whole_numbers_of_every_library(value):
    assert type(require.whole("steps", value)) is int and require.whole("steps", value) == 3


@pytest.mark.parametrize("value", [0, 2.5, 3.0, True, "3", None, torch.tensor(3.0), float("inf"), torch.tensor(True)])
def test_what_is_not_whole(value):
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got "):
        require.whole("steps", value)


def test_seeds_are_what_every_generator_takes():
    assert require.seed(np.int64(7)) == 7 and np.random.default_rng(require.seed(2**63 - 1))
    with pytest.raises(ValueError, match="seed must be an integer from 0 to 9223372036854775807, got -1"):
        require.seed(-1)
    with pytest.raises(ValueError, match=r"seeds\[2\] must be an integer from 0"):
        require.seed(0.5, "seeds[2]")


def test_the_largest_whole_number_is_named():
    with pytest.raises(ValueError, match="batch_size must be an integer from 1 to 60, got 61; use fewer"):
        require.whole("batch_size", 61, most=60, remedy="use fewer")


def test_fractions_are_floats_and_what_is_too_large_for_them_is_refused():
    half = require.number("rho", Fraction(1, 2), least=0)
    assert half == 0.5 and type(half) is float and torch.ones(1).mul(half).item() == 0.5
    for value in (10**400, -(10**400), Fraction(10**400)):
        with pytest.raises(ValueError, match="lr must be a finite number, got "):
            require.number("lr", value)
    assert require.number("lr", 10**300) == 10**300


def test_of_a_data_set_in_the_place_of_tensors_few_items_are_named():
    asked = []

    def items():
        while True:
            asked.append(len(asked))
            yield torch.ones(3), 1

    with pytest.raises(ValueError, match=r"data must be tensors x, y, got \['tuple', 'tuple', 'tuple'\]; use"):
        require.tensors("data", items(), ["x", "y"])
    assert len(asked) == 3


def test_a_number_that_a_table_masks_is_none():
    """Its `item()` is 0."""
    with pytest.raises(ValueError, match="rho must be a finite number, got masked"):
        require.number("rho", np.ma.array([1.0, 2.0], mask=[False, True])[1])


@pytest.mark.parametrize("odd", [torch.nn.CrossEntropyLoss, "mse", None])
def test_a_criterion_can_be_called(odd):
    with pytest.raises(ValueError, match="criterion must be a function, got"):
        require.functions(odd)
    with pytest.raises(ValueError, match=r"schedule must be a function, got \[1.0\]"):
        require.functions(torch.nn.MSELoss(), record=None, schedule=[1.0])
