"""The recorded study is what its card says, and what its code makes."""

import math
import os
import re
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import torch
from test_imports import made_by

from sam_lite import measures, study
from sam_lite.data import Data, mnist1d

CARD = (files("sam_lite") / "study.md").read_text(encoding="utf-8")
AXES = list(study.SETTINGS)


@pytest.fixture(scope="module")
def table():
    return measures.load_study()


@pytest.fixture(scope="module")
def small():
    return mnist1d(100, 400, seed=1)


def test_it_holds_every_combination_once(table):
    assert len(table) == 3**7 * 5 and (table.groupby(list(study.AXES)).size() == 45).all()
    assert not table.duplicated([*AXES, "seed"]).any()
    assert all(table[axis].nunique() == 3 for axis in AXES) and sorted(table["seed"].unique()) == [0, 1, 2, 3, 4]
    for axis, values in study.AXES.items():
        assert set(table[axis]) == set(values)
    lr = [study.LR[o][level] for o, level in zip(table["optimizer"], table["lr_level"], strict=True)]
    np.testing.assert_allclose(table["lr"], lr)


def test_networks_that_reached_the_loss_have_all_measures_and_the_others_none(table):
    reached = table["status"] == "stop_loss"
    settings = [*AXES, "seed", "lr", "status", "step", "train_loss", "train_acc", "steps_to_0_1", "steps_0_1_to_0_01"]
    measured = table.drop(columns=settings)
    assert reached.mean() > 0.8
    assert np.isfinite(measured[reached]).all(axis=None) and measured[~reached].isna().all(axis=None)
    assert (table["train_loss"][reached] <= 0.01).all()
    assert (table["train_loss"] <= 0.01).equals(reached) and set(table["status"]) <= {"stop_loss", "steps", "diverged"}
    np.testing.assert_allclose(table["gap"], table["train_acc"] - table["test_acc"], atol=1e-6)
    np.testing.assert_allclose(table["loss"][reached], table["train_loss"][reached], rtol=1e-4)


def test_the_card_tells_every_column_and_no_other(table):
    rows = [line.split("|")[1] for line in CARD.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"_over_margin"}
    told |= {f"{name}_over_margin" for name in ("spec_prod", "spec_sum", "fro_prod", "fro_sum")}
    assert told == set(table.columns)


def test_the_file_is_a_few_megabytes():
    assert (files("sam_lite") / "study.parquet").stat().st_size < 4_000_000


@pytest.mark.slow
@pytest.mark.when_changed(*made_by("study"), "sam_lite/study.parquet")
def test_a_sample_of_it_is_made_again(table):
    """Three networks of each of eleven groups, 0.3%: other processors round differently and training amplifies it, so
    single networks are not compared, but the median of what differs, and the mean with its standard error."""
    rng = np.random.default_rng(0)
    jobs = table[list(study.AXES)].drop_duplicates().to_dict("records")
    again = []
    for i in rng.choice(len(jobs), 11, replace=False):
        level, decay = int(rng.integers(3)), float(rng.choice(study.WEIGHT_DECAY))
        seeds = sorted(rng.choice(5, 3, replace=False).tolist())
        made = study.group(**jobs[i], lr_levels=[level], weight_decays=[decay], seeds=seeds)
        again.append(made.assign(**jobs[i]))
    again = pd.concat(again, ignore_index=True)
    key = [*AXES, "seed"]
    recorded = again[key].merge(table, on=key, how="left", validate="one_to_one")
    assert len(again) == len(recorded) == 33
    same = again["status"] == recorded["status"]
    assert same.mean() > 0.9
    both = same & (again["status"] == "stop_loss")
    new, old = again[both], recorded[both]
    assert (new["gap"] - old["gap"]).abs().max() < 0.04
    assert abs((new["gap"] - old["gap"]).mean()) < 0.005
    names = "l2 spec_prod path_norm fro_distance inverse_margin flatness sharpness flatness_mag trace lambda_max"
    for name in [*names.split(), "sharpness_mag", "box", "sam", "gradient_variance", "step"]:
        ratio = np.log(new[name] / old[name])  # of a network or two it may be large
        assert ratio.abs().median() < 0.4, (name, ratio.to_list())
        assert abs(ratio.mean()) < 0.02 + 4 * ratio.std() / len(ratio) ** 0.5, (name, ratio.to_list())


@pytest.mark.slow
def test_a_group_has_a_row_per_network_in_the_order_of_the_grid(small):
    table = study.group(
        16, 2, 20, "adam", 0.0, lr_levels=[0, 2], weight_decays=[0.0], seeds=[7, 8], data=small, samples=2
    )
    assert table["lr_level"].tolist() == [0, 0, 2, 2] and table["seed"].tolist() == [7, 8, 7, 8]
    assert table["lr"].tolist() == pytest.approx([0.002, 0.002, 0.008, 0.008])
    assert (table["status"] == "stop_loss").all() and np.isfinite(table.drop(columns="status")).all(axis=None)
    assert (table["steps_to_0_1"] + table["steps_0_1_to_0_01"] == table["step"]).all()
    alone = study.group(16, 2, 20, "adam", 0.0, lr_levels=[2], weight_decays=[0.0], seeds=[8], data=small, samples=2)
    numbers = alone.drop(columns="status").columns
    np.testing.assert_allclose(table[numbers].iloc[3].astype(float), alone[numbers].iloc[0].astype(float), rtol=0.05)


@pytest.mark.slow
def test_a_row_of_the_study_gives_the_settings_of_a_group(small, table):
    """NumPy's numbers, as pandas hands them out."""
    row = table.query("optimizer == 'adam' and dropout == 0 and width == 50 and depth == 2 and batch_size == 50").iloc[
        0
    ]
    settings = [row[name] for name in study.AXES]
    assert {type(value).__module__ for value in settings} == {"numpy", "builtins"}
    one = dict(lr_levels=[row["lr_level"]], weight_decays=[row["weight_decay"]], seeds=[row["seed"]], data=small)
    found = study.group(*settings, **one, samples=np.int64(2))
    plain = study.group(
        50, 2, 50, "adam", 0.0, lr_levels=[int(row["lr_level"])], weight_decays=[0.0], seeds=[0], data=small, samples=2
    )
    assert row["seed"] == 0 and row["weight_decay"] == 0
    pd.testing.assert_frame_equal(found, plain)


def test_groups_of_other_settings_are_refused(small):
    for settings, match in (
        ({"optimizer": "lion"}, "optimizer must be one of sgd, momentum, adam, got 'lion'"),
        ({"lr_levels": [3]}, "lr_levels must be an integer from 0 to 2, got 3"),
        ({"depth": 2.0}, "depth must be an integer >= 0, got 2.0"),
        ({"samples": 0}, "samples must be an integer >= 1, got 0"),
        ({"dropout": None}, "dropout must be a finite number >= 0 and <= 0.99, got None"),
        ({"seeds": []}, "seed must be a list of one or more different values, got"),
    ):
        with pytest.raises(ValueError, match=match):
            study.group(**dict(width=8, depth=1, batch_size=20, optimizer="sgd", dropout=0.0, data=small) | settings)


def test_networks_that_never_get_there_are_kept_without_measures(small, monkeypatch):
    monkeypatch.setattr(study, "STEPS", 50)
    table = study.group(16, 2, 20, "sgd", 0.0, lr_levels=[0], weight_decays=[0.0], seeds=[0, 1], data=small)
    assert table["status"].tolist() == ["steps", "steps"] and table["step"].tolist() == [50, 50]
    assert "gap" not in table and table["steps_0_1_to_0_01"].isna().all()


@pytest.mark.slow
def test_optimizers_are_what_they_are_called(small, monkeypatch):
    seen = []
    true = study.train_ensemble
    monkeypatch.setattr(study, "train_ensemble", lambda *a, **k: (seen.append(k), true(*a, **k))[1])
    for name in ("sgd", "momentum", "adam"):
        study.group(8, 2, 50, name, 0.02, lr_levels=[1], weight_decays=[1e-4], seeds=[0], data=small, samples=2)
    assert [(k["optimizer"], k["momentum"]) for k in seen] == [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.0)]
    assert [k["lr"] for k in seen] == [[0.2], [0.02], [0.004]]
    assert all(k["dropout"] == 0.02 and k["weight_decay"] == [1e-4] and k["stop_loss"] == 0.01 for k in seen)


@pytest.mark.slow
def test_the_test_points_have_no_part_in_training(small):
    other = Data(small.x_train, small.y_train, small.x_test.flip(0), small.y_test)
    a, b = (
        study.group(8, 2, 20, "adam", 0.0, lr_levels=[2], weight_decays=[0.0], seeds=[0], data=d, samples=2)
        for d in (small, other)
    )
    assert a["l2"].item() == b["l2"].item() and a["test_acc"].item() != b["test_acc"].item()


@pytest.mark.slow
def test_the_command_makes_the_table(tmp_path):
    """The real command, with a grid of one group of two small networks in place of the whole."""
    code = f"""
import sys
from sam_lite import study
study.AXES = dict(width=(8,), depth=(2,), batch_size=(100,), optimizer=("sgd",), dropout=(0.0,))
study.STEPS, study.SEEDS = 50, (0,)
study.group.__kwdefaults__.update(seeds=(0,), weight_decays=(0.0,))
sys.argv = ["study", {str(tmp_path)!r}]
study.main()
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "steps    3" in done.stdout and "1/1" in done.stderr
    table = pd.read_parquet(tmp_path / "study.parquet")
    assert table["width"].tolist() == [8, 8, 8] and table["lr_level"].tolist() == [0, 1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_measures_are_the_same(small):
    settings = dict(lr_levels=[1], weight_decays=[0.0], seeds=[0, 1], samples=2)
    cpu = study.group(16, 2, 20, "adam", 0.0, data=small, **settings)
    gpu = study.group(16, 2, 20, "adam", 0.0, data=small.to("cuda"), **settings)
    np.testing.assert_allclose(cpu["l2"], gpu["l2"], rtol=0.05)
    assert math.isfinite(gpu["sharpness_mag"].sum())
