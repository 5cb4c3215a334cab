"""The study of real images: what it trains, what it measures, and how it ends and goes on."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_data import write_idx
from test_imports import made_by

from sam_lite import hessian, image_network, image_study, sharpness, sweep
from sam_lite.data import Data, batches, wrong_labels
from sam_lite.models import build, convnet
from sam_lite.params import loss_of, params_of
from sam_lite.train import evaluate


def make_data(seed=0):
    """Ten patterns under noise, as many as a large batch has: (1,024, 784) and 100."""
    generator = torch.Generator().manual_seed(seed)
    patterns, parts = torch.randn(10, 784, generator=generator), []
    for n in (1024, 100):
        y = torch.arange(n) % 10
        parts += [patterns[y] + 3 * torch.randn(n, 784, generator=generator), y]
    return Data(*parts)


LEVELS = (2.25, 2.2)


def made_anew(test):
    """A test that trains networks of the study and measures them: seconds each."""
    return pytest.mark.slow(pytest.mark.when_changed(*made_by("image_study"))(test))


@pytest.fixture(scope="module")
def small():
    return make_data()


@pytest.fixture(scope="module")
def runs(small):
    """arm -> the table of a network of it, after one epoch of small batches."""
    rates = {"sgd": 0.01, "large_linear": 0.16, "sam_0.05": 0.01, "wrong_40_sam": 0.01, "adam": 0.003}
    found = {}
    for arm, lr in rates.items():
        with pytest.MonkeyPatch.context() as patch:  # lines over all the data, curvature over few
            patch.setattr(image_network, "MEASURED", 512 if arm == "large_linear" else 64)
            how = {"data": small, "epochs": 1, "equal_losses": LEVELS}
            found[arm] = image_study.network("none", arm, 3, lr, 0.05, **how)
    return found


# --- what is trained


@made_anew
def test_arms_have_equal_epochs_equal_updates_and_equal_gradients(runs):
    at = {arm: table.set_index("moment") for arm, table in runs.items()}
    assert at["sgd"]["step"]["epochs"] == 16 and at["sgd"]["epoch"]["epochs"] == 1
    assert at["large_linear"]["epoch"]["epochs"] == 1  # equal epochs, a sixteenth of the updates
    assert at["large_linear"]["step"]["end"] == at["sgd"]["step"]["epochs"]  # equal updates
    assert at["sam_0.05"]["step"]["end"] == at["sgd"]["step"]["epochs"]  # equal steps
    ends = ("sgd", "sam_0.05", "wrong_40_sam", "adam")
    assert {at[arm]["gradients"]["end"] for arm in ends} == {32}  # equal gradients
    assert {at[arm]["status"]["end"] for arm in at} == {"steps"}


def test_the_arms_are_what_was_announced():
    batch = {name: (arm.batch_size, arm.factor, arm.times) for name, arm in image_study.ARMS.items() if "large" in name}
    assert batch == {"large": (1024, 1, 16), "large_sqrt": (1024, 4, 16), "large_linear": (1024, 16, 16)}
    assert sum(arm.rho is not None for arm in image_study.ARMS.values()) == 4 and len(image_study.SEEDS) >= 10
    times = {name: arm.times for name, arm in image_study.ARMS.items() if arm.batch_size == 64}
    assert times == {name: 1 if "sam" in name else 2 for name in times}  # equal gradients
    assert {arm.wrong for arm in image_study.ARMS.values()} == {0, 0.2, 0.4}
    sizes = {method: len(rates) * len(strengths) for method, (rates, strengths) in image_study.GRID.items()}
    assert len(set(sizes.values())) == 1, sizes  # an equal grid
    assert not set(image_study.SEEDS) & set(image_study.TUNING_SEEDS)


@pytest.mark.slow
def test_a_network_is_what_a_loop_by_hand_gives(small):
    """SGD with momentum and weight decay at a rate that grows over the first 32 steps, on the batches of the seed."""
    run, kept = image_network.trained("none", image_study.ARMS["sgd"], 0.05, 1e-3, 5, small, epochs=1)
    model = build(convnet, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    generator, step = torch.Generator().manual_seed(5), 0
    for _ in range(2):
        for index in batches(1024, 64, generator):
            optimizer.param_groups[0]["lr"] = 0.05 * min(1, (step + 1) / 32)
            optimizer.zero_grad()
            F.cross_entropy(model(small.x_train[index]), small.y_train[index]).backward()
            optimizer.step()
            step += 1
    assert list(kept) == run.records["step"].tolist() == [8, 16, 24, 32]
    for name, p in params_of(model).items():
        torch.testing.assert_close(params_of(kept[32])[name], p, rtol=1e-3, atol=1e-5)


def test_jobs_take_the_tuned_setting_but_for_what_an_arm_is_about():
    jobs = image_study.jobs("none", {"sgd": (0.01, 1e-3), "sam": (0.02, 0.1), "adam": (0.003, 0.0)})
    assert len(jobs) == len(image_study.ARMS) * len(image_study.SEEDS)
    first = {job["arm"]: (job["lr"], job["strength"]) for job in jobs[: len(image_study.ARMS)]}
    assert first["sgd"] == first["large"] == first["wrong_20_sgd"] == (0.01, 1e-3)
    assert first["large_sqrt"] == (0.04, 1e-3) and first["large_linear"] == (0.16, 1e-3)
    assert [first[f"sam_{rho}"] for rho in image_study.RHOS] == [(0.02, rho) for rho in image_study.RHOS]
    assert first["wrong_40_sam"] == (0.02, 0.1) and first["adam"] == (0.003, 0.0)
    assert {job["seed"] for job in jobs[: len(first)]} == {0}  # seed by seed


@pytest.mark.parametrize("method", ["sgd", "sam", "adam"])
def test_optimizers_are_what_they_are_called(method):
    optimizer = image_network.optimizer_of(convnet(1), method, 0.02, 0.1)
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.02 and group["weight_decay"] == (0 if method == "sam" else 0.1)
    assert group.get("momentum") == (None if method == "adam" else 0.9)
    assert getattr(optimizer, "rho", None) == (0.1 if method == "sam" else None)


def test_labels_are_wrong_in_exactly_the_share_that_is_asked_for():
    y = torch.arange(1000) % 10
    wrong = wrong_labels(y, 0.4, seed=1)
    assert (wrong != y).sum() == 400 and wrong.min() >= 0 and wrong.max() <= 9
    assert torch.equal(wrong, wrong_labels(y, 0.4, seed=1))
    assert not torch.equal(wrong, wrong_labels(y, 0.4, seed=2))
    assert torch.equal(wrong_labels(y, 0.0, seed=1), y)
    shifts = ((wrong_labels(torch.zeros(90_000, dtype=torch.long), 1.0, seed=0)) % 10).bincount(minlength=10)
    assert shifts[0] == 0 and (shifts[1:] - 10_000).abs().max() < 500  # uniform over the nine others: 5 deviations


@made_anew
def test_wrong_labels_are_learned_and_scored_as_such(runs, small):
    table = image_study.network("none", "wrong_40_sgd", 3, 0.02, 0.0, data=small, epochs=2, equal_losses=())
    end = table.set_index("moment").loc["end"]  # the patterns are learned first, four labels in ten are not they
    assert end["train_acc"] + 0.1 < end["test_acc"] and 0 < end["wrong_learned"] < 0.3
    assert "wrong_learned" not in runs["sgd"]


# --- what is measured


def test_moments_are_the_first_low_losses_equal_epochs_and_the_end():
    records = pd.DataFrame({"step": [8, 16, 24, 32], "train_loss": [0.9, 0.29, 0.31, 0.2]})
    found = image_network.moments(records, (0.3, 0.25, 0.1), 24)
    assert found == {"loss_0.3": 16, "loss_0.25": 32, "epochs": 24, "end": 32}
    assert image_network.moments(records, (), 32) == {"end": 32}
    diverged = pd.DataFrame({"step": [8, 9], "train_loss": [0.9, float("nan")]})
    assert image_network.moments(diverged, (0.3,), 24) == {"end": 9}


@made_anew
def test_at_equal_loss_the_loss_is_just_below(runs):
    at = runs["sgd"].set_index("moment")
    for level in LEVELS:
        assert at["train_loss"][f"loss_{level}"] <= level
    assert at["step"]["loss_2.25"] < at["step"]["loss_2.2"] or at["train_loss"]["loss_2.25"] <= 2.2


@pytest.mark.slow
def test_a_network_that_diverges_is_kept_without_measures(small):
    table = image_study.network("none", "sgd", 0, 1e9, 0.0, data=small, epochs=1)
    assert table["moment"].tolist() == ["end"] and table["status"].tolist() == ["diverged"]
    assert "lambda_max" not in table and table["seconds"].gt(0).all()


@made_anew
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_measures_are_those_of_the_dense_hessian(norm, small, monkeypatch):
    """Of 476 weights, in float64; the study measures in float32 from products."""
    monkeypatch.setattr(image_network, "MEASURED", 60)
    model = build(lambda: convnet(1, norm=image_network.NORMS[norm]), 0)
    model(small.x_train)  # batch statistics
    model.eval()
    found = image_network.measured(model, small, small.y_train)
    x, y = small.x_train[:60].double(), small.y_train[:60]
    loss, w = loss_of(model.double(), x, y), params_of(model)
    values = torch.linalg.eigvalsh(hessian.dense(loss, w))
    assert found["lambda_max"] == pytest.approx(values[-1].item(), rel=0.03)
    assert abs(found["trace"] - values.sum().item()) < 5 * found["trace_error"]
    assert found["ascent"] == pytest.approx(sharpness.ascent_sharpness(loss, w, 0.05).value.item(), rel=1e-3)
    assert 0 < found["ascent"] <= 1.01 * found["worst"]
    assert found["box"] == pytest.approx(sharpness.box_sharpness(loss, w, 1e-3, steps=30).value.item(), rel=0.1)
    mean = sharpness.average_sharpness(loss, w, 0.5, samples=300, seed=1)
    assert abs(found["average"] - mean.value.item()) < 0.5 * abs(mean.value.item()) + 5 * mean.error.item()
    assert found["measured_loss"] == pytest.approx(loss(w).item(), rel=1e-5)
    assert (found["test_loss"], found["test_acc"]) == pytest.approx(
        evaluate(model, small.x_test.double(), small.y_test)
    )


@pytest.mark.slow
def test_the_line_ends_in_the_two_networks(small):
    one, two = (build(convnet, seed).eval() for seed in (0, 1))
    rows = {row["alpha"]: row for row in image_network.line(one, two, small)}
    assert list(rows) == [i / 4 for i in range(-4, 9)]
    for alpha, model in ((0, one), (1, two)):
        for part, x, y in (("train", *small[:2]), ("test", *small[2:])):
            found = rows[alpha][f"{part}_loss"], rows[alpha][f"{part}_acc"]
            assert found == pytest.approx(evaluate(model, x, y), rel=1e-4)


@pytest.mark.slow
def test_lines_with_batch_norm_have_statistics_of_their_own_at_each_point(small, monkeypatch):
    """So a network whose running statistics are wrong has a line as one whose are right."""
    monkeypatch.setattr(image_network, "MEASURED", 64)
    one, two = (build(lambda: convnet(norm="batch"), seed) for seed in (0, 1))
    fresh = image_network.line(one.eval(), two.eval(), small)
    for model in (one, two):
        model.train()(5 + 3 * small.x_train)
    assert fresh == image_network.line(one.eval(), two.eval(), small)


@made_anew
def test_a_line_joins_the_networks_at_equal_loss(runs):
    """Its ends have the losses of the two, which the whole of the small data and these few images share."""
    rows = runs["large_linear"]
    ends = rows[rows["moment"] == "line_2.2"].set_index("alpha")["train_loss"]
    assert len(ends) == 13
    large, small_one = (runs[arm].set_index("moment").loc["loss_2.2", "train_loss"] for arm in ("large_linear", "sgd"))
    assert ends[1.0] == pytest.approx(large, rel=1e-4)
    assert ends[0.0] == pytest.approx(small_one, rel=1e-3)
    assert not runs["sgd"]["moment"].str.startswith("line").any()


@made_anew
def test_the_test_images_have_no_part_in_training(small, monkeypatch):
    monkeypatch.setattr(image_network, "MEASURED", 64)
    other = small._replace(x_test=small.x_test.flip(0))
    a, b = (image_study.network("none", "sgd", 1, 0.01, 0.0, data=d, epochs=1, equal_losses=()) for d in (small, other))
    same = [name for name in a if name not in ("test_loss", "test_acc", "seconds")]
    pd.testing.assert_frame_equal(a[same], b[same])
    assert not a["test_loss"].equals(b["test_loss"])


@made_anew
def test_the_card_tells_every_column_and_no_other(runs, small):
    card = (files("sam_lite") / "image_study.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in card.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"tuning", "epochs", "end"}
    found = {name for table in runs.values() for name in table} | {"norm", "arm", "method", "seed", "lr", "strength"}
    assert told == found | set(image_study.tried("none", "sgd", 0.01, 0.0, 0, data=small, epochs=1))


# --- tuning


@pytest.mark.slow
def test_a_setting_is_judged_on_images_that_it_was_not_trained_on(small):
    found = {
        method: image_study.tried("none", method, 0.01, 0.01, 100, data=small, epochs=1).iloc[0]
        for method in ("sgd", "sam")
    }
    assert found["sgd"]["gradients"] == found["sam"]["gradients"] == 32
    run, kept = image_network.trained("none", image_network.Arm("sam"), 0.01, 0.01, 100, small, 1)
    held_out = found["sam"]["held_out_loss"], found["sam"]["held_out_acc"]
    assert held_out == pytest.approx(evaluate(kept[16], *small[2:]))


@pytest.mark.slow
def test_the_held_out_images_are_training_images_and_no_others(small, monkeypatch):
    monkeypatch.setattr(image_study, "N_TRAIN", 1024)
    monkeypatch.setattr(image_study, "N_HELD_OUT", 100)
    marked = Data(torch.cat([small.x_train, small.x_test]), torch.cat([small.y_train, small.y_test]), *[None] * 2)
    monkeypatch.setattr(image_study, "photographs", lambda: marked)  # there are no test images at all
    a = image_study.tried("none", "sgd", 0.01, 0.0, 100, epochs=1)
    b = image_study.tried("none", "sgd", 0.01, 0.0, 100, data=small, epochs=1)
    pd.testing.assert_frame_equal(a.drop(columns="seconds"), b.drop(columns="seconds"))


@pytest.mark.slow
def test_a_setting_that_diverges_is_never_chosen(small):
    row = image_study.tried("none", "sgd", 1e9, 0.0, 100, data=small, epochs=1).iloc[0]
    assert row["status"] == "diverged" and row["held_out_acc"] == 0


def test_the_best_mean_on_held_out_images_is_chosen():
    rows = [("sgd", 0.1, 0.0, 0.8), ("sgd", 0.1, 0.0, 0.9), ("sgd", 0.2, 0.0, 0.95), ("sgd", 0.2, 0.0, 0.7)]
    rows += [("sam", 0.1, 0.05, 0.5), ("sam", 0.1, 0.1, 0.4)]
    table = pd.DataFrame(rows, columns=["method", "lr", "strength", "held_out_acc"])
    assert image_study.chosen(table) == {"sgd": (0.1, 0.0), "sam": (0.1, 0.05)}


# --- what is refused


@pytest.mark.slow
def test_settings_of_no_study_are_refused(small):
    for call, match in (
        (
            lambda: image_study.network("group", "sgd", 0, 0.1, 0, data=small),
            "norm must be one of none, batch, got 'group'",
        ),
        (
            lambda: image_study.network("none", "huge", 0, 0.1, 0, data=small),
            "arm must be one of sgd, large, .*, got 'huge'",
        ),
        (
            lambda: image_study.network("none", "sgd", -1, 0.1, 0, data=small),
            "seed must be an integer from 0 to .*, got -1",
        ),
        (
            lambda: image_study.network("none", "sgd", 0, 0.1, 0, data=small, epochs=0),
            "epochs must be an integer >= 1, got 0",
        ),
        (lambda: image_study.tried("none", "lion", 0.1, 0, 0, data=small), "method must be one of sgd, sam, adam, got"),
        (lambda: image_study.tried("none", "sgd", 0.0, 0, 0, data=small), "lr must be a finite number > 0"),
        (
            lambda: wrong_labels(small.y_train, 1.1, 0),
            "share must be a finite number >= 0 and <= 1, got 1.1",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.slow
def test_photographs_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*apt install dataset-fashion-mnist"):
        image_study.photographs(tmp_path / "nowhere")
    for part, n in (("train", 30_000), ("t10k", 10_000)):  # half of the training images
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.zeros((n, 28, 28), np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    match = r"Fashion-MNIST must be whole: 60,000 .* got \(30000, 10000\); fetch its four files again"
    with pytest.raises(ValueError, match=match):
        image_study.photographs(tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((30_000, 28, 28), np.uint8), damage="truncated")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz is damaged, fetch it again"):
        image_study.photographs(tmp_path)


@pytest.mark.slow
def test_photographs_of_debian(fashion):
    data = image_study.photographs()
    assert [len(part) for part in data] == [22_288, 22_288, 10_000, 10_000]
    counts = data.y_train[: image_study.N_TRAIN].bincount(minlength=10)
    assert counts.min() > 1100 and counts.max() < 1350  # each class a tenth: 5 deviations


@pytest.mark.slow
def test_results_of_another_version_or_grid_are_refused(tmp_path):
    work = lambda **job: pd.DataFrame({"loss": [1.0]})  # noqa: E731
    sweep.run(work, image_study.tuning_jobs("none"), tmp_path, version="0")
    with pytest.raises(ValueError, match="has other version: '0' there, '1' now; name another folder"):
        sweep.run(work, image_study.tuning_jobs("none"), tmp_path, version=image_study.VERSION)


# --- what is recorded


@pytest.fixture(scope="module")
def recorded():
    return image_study.load()


def test_it_holds_every_job_once_and_is_small(recorded):
    ends = recorded[recorded["moment"] == "end"]
    assert set(recorded["norm"]) == set(image_study.NORMS)
    for norm in image_study.NORMS:
        tuning = recorded.query("moment == 'tuning' and norm == @norm")
        assert len(tuning) == len(image_study.tuning_jobs(norm))
        jobs = pd.DataFrame(image_study.jobs(norm, image_study.chosen(tuning)))  # the choice follows from the record
        found = ends[ends["norm"] == norm]
        pd.testing.assert_frame_equal(found[list(jobs)].reset_index(drop=True), jobs, check_dtype=False)
    assert (files("sam_lite") / "image_study.parquet").stat().st_size < 2_000_000
    assert recorded.attrs["hours"] > 0 and recorded.attrs["EPOCHS"] == image_study.EPOCHS


def test_values_of_an_arm_come_by_seed(recorded):
    found = image_study.values(recorded, "adam", "test_acc", norm="none")
    rows = recorded.query("arm == 'adam' and moment == 'end' and norm == 'none'")
    assert dict(found) == dict(zip(rows["seed"], rows["test_acc"], strict=True)) and len(found) == 10
    holes = recorded.assign(test_acc=recorded["test_acc"].where(recorded["seed"] != 3))
    assert 3 not in image_study.values(holes, "adam", "test_acc", norm="none").index
    for word, bad in (("arm", "adamw"), ("column", "accuracy"), ("moment", "start"), ("norm", "layer")):
        words = {"arm": "adam", "column": "test_acc", word: bad}
        with pytest.raises(ValueError, match=f"{word} must be one of .*{bad}"):
            image_study.values(recorded, **words)


def test_what_ended_is_measured_and_what_diverged_is_not(recorded):
    networks = recorded[recorded["moment"].isin(["loss_0.4", "loss_0.25", "epochs", "end"])]
    measures = ["test_acc", "lambda_max", "trace", "box", "worst", "ascent", "average"]
    went_well = (networks["status"] == "steps") | (networks["moment"] != "end")
    assert np.isfinite(networks.loc[went_well, measures]).all(axis=None)
    assert networks.loc[~went_well, measures].isna().all(axis=None)
    for loss in image_study.EQUAL_LOSSES:
        at = networks[networks["moment"] == f"loss_{loss}"]
        assert len(at) and (at["train_loss"] <= loss).all()
    ascent, worst = networks.loc[went_well, "ascent"], networks.loc[went_well, "worst"]
    assert (ascent <= 1.05 * worst + 1e-3).mean() > 0.95  # the search from one direction misses it now and then


@pytest.mark.slow
@pytest.mark.when_changed(*made_by("image_study"), "sam_lite/image_study.parquet")
@pytest.mark.parametrize("norm", image_study.NORMS)
def test_a_sample_of_it_is_made_again(norm, recorded, fashion):
    """SAM at rho 0.05 with the first seed: within the spread of the ten, since other processors round differently."""
    old = recorded.query("norm == @norm and arm == 'sam_0.05' and moment == 'end'").set_index("seed")
    new = image_study.network(norm, "sam_0.05", 0, old["lr"][0], old["strength"][0]).set_index("moment").loc["end"]
    for name in ("train_loss", "test_loss", "test_acc", "lambda_max", "trace", "box", "worst", "ascent"):
        assert abs(new[name] - old[name].mean()) < 4 * old[name].std(), (name, new[name], old[name].to_list())
    assert new["step"] == old["step"][0] and new["gradients"] == old["gradients"][0]


# --- the command


COMMAND = """
import functools, resource, sys
sys.path.insert(0, {tests!r})
from sam_lite import image_network, image_study
from test_image_study import make_data
if {bytes}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, {bytes}))
image_study.N_TRAIN, image_study.N_HELD_OUT, image_study.SEEDS, image_study.TUNING_SEEDS = 900, 100, (0, 1), (100,)
image_study.NORMS = {{"none": None}}
image_network.MEASURED = 64
image_study.ARMS = {{name: image_study.ARMS[name] for name in ("sgd", "sam_0.05", "wrong_40_sam")}}
image_study.GRID = {{"sgd": ((0.01,), (0.0, 1e-3)), "sam": ((0.01,), (0.05, 0.1))}}
for work in (image_study.network, image_study.tried):
    work.__kwdefaults__["epochs"] = 1
image_study.photographs = make_data
sys.argv = ["image_study", {folder!r}]
image_study.main()
"""


def start(folder, bytes=0):
    code = textwrap.dedent(COMMAND).format(tests=os.path.dirname(__file__), folder=str(folder), bytes=bytes)
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}, **how)


@made_anew
def test_the_command_goes_on_after_kill_9_and_after_a_full_disk_and_ends_in_the_same_table(tmp_path):
    whole = start(tmp_path / "whole")
    said, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    assert re.search(r"end +6\n", said)

    full = start(tmp_path / "torn", bytes=4000)
    _, errors = full.communicate(timeout=300)
    assert full.returncode == 1 and "free some space, and the same call goes on" in errors
    for n in (1, 3):  # kill -9 once so many networks are done
        killed, networks = start(tmp_path / "torn"), tmp_path / "torn" / "none_networks"
        while killed.poll() is None and len(list(networks.glob("*.parquet"))) < n:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert not (tmp_path / "torn" / "image_study.parquet").exists()
    last = start(tmp_path / "torn")
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert "3/6" in errors or "4/6" in errors  # it went on from there
    tables = [pd.read_parquet(tmp_path / name / "image_study.parquet") for name in ("whole", "torn")]
    pd.testing.assert_frame_equal(*(table.drop(columns="seconds") for table in tables))
    assert tables[0].attrs["versions"]["torch"] == torch.__version__ and tables[0].attrs["hours"] > 0
    assert tables[0].attrs["SEEDS"] == [0, 1] and tables[0].attrs["EPOCHS"] == image_study.EPOCHS


def test_the_best_of_several_norms_together_is_refused(recorded):
    """The means over both are the best of neither."""
    tuning = recorded[recorded["moment"] == "tuning"]
    alone = {}
    for norm, rows in tuning.groupby("norm"):
        means = rows.groupby(["method", "lr", "strength"])["held_out_acc"].mean()
        alone[norm] = {method: means[method].idxmax() for method in image_study.GRID}
        assert image_study.chosen(rows) == alone[norm]
    with pytest.raises(ValueError, match="tuning must be the rows of one norm, got .*; give tuning"):
        image_study.chosen(tuning)


@pytest.mark.parametrize("held_out", [False, True])
def test_what_is_done_to_the_images_is_not_done_to_the_study(held_out, small, monkeypatch):
    monkeypatch.setattr(image_study, "N_TRAIN", 20)
    monkeypatch.setattr(image_study, "photographs", lambda: small)
    before = [part.clone() for part in small]
    for part in image_study.split(held_out=held_out):
        part.zero_()
    assert all(map(torch.equal, small, before))


def test_a_network_that_is_there_twice_is_refused(recorded):
    """Ten seeds would count as twenty, and the differences of two arms as all pairs."""
    both = pd.concat([recorded, recorded.assign(test_acc=recorded["test_acc"] - 0.01)])
    with pytest.raises(ValueError, match="table must be one row for each network, got \"two of 'adam' with the seed 0"):
        image_study.values(both, "adam", "test_acc")
    alphas = recorded.query("arm == 'large' and moment == 'line_0.4' and norm == 'none'")["alpha"]
    assert image_study.values(recorded, "large", "alpha", "line_0.4").tolist() == alphas.tolist() and len(alphas) > 100
