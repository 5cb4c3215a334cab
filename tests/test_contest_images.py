"""sam_lite/contest_images.py: who sees which images, networks against a plain loop, the record, and a sample made again."""

import sys

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_imports import made_by

from sam_lite import contest, contest_images, image_study, language_study, stacked
from sam_lite.data import Data
from sam_lite.models import build, convnet
from sam_lite.params import member, params_of, stack
from sam_lite.sam import SAM

N, HELD_OUT = 300, 60


@pytest.fixture
def small(monkeypatch):
    """Ten patterns under noise in the place of the photographs: 360 to learn from or to be held out, 40 of the test."""
    dice = torch.Generator().manual_seed(0)
    patterns, parts = torch.randn(10, 784, generator=dice), []
    for n in (N + HELD_OUT, 40):
        y = torch.randint(10, (n,), generator=dice)
        parts += [patterns[y] + 3 * torch.randn(n, 784, generator=dice), y]
    data = Data(*parts)
    for module in (contest_images, image_study):
        monkeypatch.setattr(module, "photographs", lambda: data)
    monkeypatch.setattr(image_study, "N_TRAIN", N)
    monkeypatch.setattr(image_study, "N_HELD_OUT", HELD_OUT)
    monkeypatch.setattr(contest_images, "PARTS", {"tuning": (5,), "final": (7, 8), "opponent": (7, 8)})
    return data


def test_the_gradient_of_the_convnet_is_that_of_backward():
    """In float64, of two networks with images of their own; `stacked` maps over the weights of the convolutions."""
    dice = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 6, 784, generator=dice).double(), torch.randint(10, (2, 6), generator=dice)
    models = [build(convnet, seed).double() for seed in (0, 1)]
    found = stacked.gradient(build(convnet, 2).double())(stack([params_of(model) for model in models]), x, y)
    for i, model in enumerate(models):
        F.cross_entropy(model(x[i]), y[i]).backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(member(found, i)[name], p.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("rival", "setting"), [("SGD", 1e-3), ("SAM", 0.1), ("EMA", 0.99), ("label smoothing", 0.2)])
def test_a_network_is_what_a_plain_loop_gives(small, rival, setting):
    """The second of two, alone, with torch's optimizer or SAM around it, on the batches that both have drawn."""
    steps = contest_images.EARLY + 3
    found = contest_images.trained(rival, 0.1, setting, "final", steps=steps)
    model, dice = build(convnet, 8), torch.Generator().manual_seed(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=setting if rival == "SGD" else 0.0)
    optimizer = SAM(optimizer, rho=setting) if rival == "SAM" else optimizer
    average, losses = params_of(model), []
    for step in range(1, steps + 1):
        index = torch.randint(N, (2, 64), generator=dice)[1]

        def closure(index=index):
            optimizer.zero_grad()
            smoothing = setting if rival == "label smoothing" else 0.0
            loss = F.cross_entropy(model(small.x_train[index]), small.y_train[index], label_smoothing=smoothing)
            loss.backward()
            return loss

        optimizer.step(closure)
        new = {name: p.detach().clone() for name, p in model.named_parameters()}
        average = (
            {name: setting * average[name] + (1 - setting) * p for name, p in new.items()} if rival == "EMA" else new
        )
        judged = build(convnet, 0)
        judged.load_state_dict(average)
        if step in (contest_images.EARLY, steps):
            losses.append(F.cross_entropy(judged(small.x_train[:N]), small.y_train[:N]).item())
    sure = judged(small.x_test).softmax(1).amax(1).mean().item()
    right = (judged(small.x_test).argmax(1) == small.y_test).float().mean().item()
    row = found.set_index("seed").loc[8]
    assert [row["early_loss"], row["train_loss"]] == pytest.approx(losses, rel=1e-3) and losses[0] != losses[1]
    assert row["gradients"] == steps * (2 if rival == "SAM" else 1)
    assert row["accuracy"] == pytest.approx(100 * right, abs=2.6)  # one image of forty
    assert row["accuracy"] + row["overconfidence"] == pytest.approx(100 * sure, abs=0.1)


def test_settings_are_judged_on_held_out_images_and_networks_on_the_test(small):
    """Neither is learned from, and no image of the test has a part in the choice."""
    tuning, final, opponent = (contest_images.field([1, 2, 3], part) for part in contest_images.PARTS)
    for field in (tuning, final, opponent):
        assert torch.equal(field.x[2], small.x_train[:N]) and torch.equal(field.y[2], small.y_train[:N])
    assert torch.equal(tuning.x_test[2], small.x_train[N:]) and torch.equal(tuning.y_test[2], small.y_train[N:])
    for field in (final, opponent):
        assert torch.equal(field.x_test[2], small.x_test) and torch.equal(field.y_test[2], small.y_test)


def test_networks_begin_where_their_seeds_say_and_leave_the_global_generator_alone(small):
    before = torch.get_rng_state()
    start = contest_images.field([3, 4], "final").start
    assert torch.equal(before, torch.get_rng_state())
    for i in range(2):
        torch.testing.assert_close(member(start, i), params_of(build(convnet, 3 + i)), rtol=0, atol=0)


def test_the_contest_is_that_of_the_small_data_with_the_steps_of_the_study():
    assert list(contest_images.GRID) == list(contest.OWN) and len(contest_images.RATES) == len(contest.RATES) == 2
    assert {len(set(settings)) for settings in contest_images.GRID.values()} == {2}
    assert contest_images.STEPS == image_study.EPOCHS * (image_study.N_TRAIN // 64) == 1536
    assert contest_images.PARTS["tuning"] == image_study.TUNING_SEEDS
    assert contest_images.PARTS["final"] == contest_images.PARTS["opponent"] == image_study.SEEDS
    assert len(set(image_study.SEEDS)) == 10 and not set(image_study.SEEDS) & set(image_study.TUNING_SEEDS)


def test_the_best_mean_on_held_out_images_is_chosen(monkeypatch):
    monkeypatch.setattr(contest_images, "GRID", {"SAM": (0.05, 0.1), "EMA": (0.9, 0.99)})
    rows = [("SAM", 0.1, 0.05, 80.0), ("SAM", 0.1, 0.05, 82.0), ("SAM", 0.3, 0.05, 85.0), ("SAM", 0.3, 0.05, 70.0)]
    rows += [("EMA", 0.1, 0.9, 10.0), ("EMA", 0.1, 0.99, 11.0)]
    table = pd.DataFrame(rows, columns=["rival", "lr", "setting", "accuracy"])
    assert contest_images.chosen(table) == {"SAM": (0.1, 0.05), "EMA": (0.1, 0.99)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Adam", 0.1, 0.1, "final"), "rival must be one of SGD, SGD, twice the steps, .*, got 'Adam'"),
        (("SAM", 0.1, 0.7, "final"), r"setting must be one of \(0.05, 0.1\) for SAM, got 0.7"),
        (("SAM", 0.0, 0.1, "final"), "lr must be a finite number > 0, got 0.0"),
        (("SAM", 0.1, 0.1, "test"), "part must be one of tuning, final, opponent, got 'test'"),
    ],
)
def test_what_is_no_job_of_the_contest_is_named(small, arguments, said):
    with pytest.raises(ValueError, match=said):
        contest_images.trained(*arguments)
    with pytest.raises(ValueError, match="steps must be an integer >= 40, got 39"):
        contest_images.trained("SAM", 0.1, 0.1, "final", steps=39)


@pytest.mark.slow
def test_the_command_tries_all_then_trains_with_what_was_chosen_and_goes_on(small, monkeypatch, tmp_path):
    """With three rivals and two steps; stopped at the fifth setting, and called again."""
    monkeypatch.setattr(contest_images, "GRID", {name: contest_images.GRID[name] for name in ("SGD", "SAM", "EMA")})
    monkeypatch.setattr(contest_images, "EARLY", 2)
    monkeypatch.setattr(sys, "argv", ["contest_images", str(tmp_path)])
    done, train = [], contest_images.trained

    def trained(rival, lr, setting, part):
        if len(done) == 4:
            done.append("stopped")
            raise KeyboardInterrupt
        done.append((rival, lr, setting, part))
        return train(rival, lr, setting, part, steps=2)

    monkeypatch.setattr(contest_images, "trained", trained)
    with pytest.raises(KeyboardInterrupt):
        contest_images.main()
    contest_images.main()
    assert len(done) == 1 + 3 * 4 + 3 + 3 and len(set(done)) == len(done)
    monkeypatch.setattr(contest_images, "FILE", tmp_path / "contest_images.csv")
    tried, final, others = contest_images.recorded()
    assert len(tried) == 12 and final["seed"].tolist() == others["seed"].tolist() == [7, 8] * 3
    best = contest_images.chosen(tried)
    assert done[-6:-3] == [(name, *best[name], "final") for name in best]
    candidates = [("SGD", lr, own) for lr in contest_images.RATES for own in contest_images.GRID["SGD"]]
    assert [job[:3] for job in done[-3:]] == [one for one in candidates if one[1:] != best["SGD"]]


def test_the_record_is_whole():
    tried, final, others = contest_images.recorded()
    settings = {(job["rival"], job["lr"], job["setting"]) for job in contest_images.tuning_jobs()}
    assert len(settings) == 13 * 4 and tried[["accuracy", "early_loss"]].notna().all(axis=None)
    best = {(rival, *own) for rival, own in contest_images.chosen(tried).items()}
    of_sgd = {one for one in settings - best if one[0] == "SGD"}
    tens = list(range(10))
    for table, expected, seeds in ((tried, settings, [100, 101]), (final, best, tens), (others, of_sgd, tens)):
        found = table.groupby(["rival", "lr", "setting"])["seed"].apply(list)
        assert set(found.index) == expected and all(row == seeds for row in found)
    for table in (final, others):
        assert table.notna().all(axis=None) and table["accuracy"].between(50, 100).all()
    steps = contest_images.STEPS
    twice = dict.fromkeys(("SGD, twice the steps", "SAM", "gradient penalty", "AWP"), 2 * steps)
    rare = {"SAM, every 5th step": steps + steps // 5, "SAM, last tenth": steps + 154}
    cost = dict.fromkeys(contest_images.GRID, steps) | twice | rare
    for table in (tried, final, others):
        assert (table["gradients"] == table["rival"].map(cost)).all()


@pytest.mark.slow
@pytest.mark.when_changed(*made_by("contest_images"), "sam_lite/contest_images.csv")
@pytest.mark.parametrize(
    ("rival", "lr", "setting", "part"),
    [("SAM", 0.1, 0.1, "tuning"), ("EMA", 0.3, 0.99, "final")],
)
def test_a_sample_of_the_record_is_what_training_gives(rival, lr, setting, part, fashion):
    """The first 40 steps, where other processors' rounding has not yet grown, as it has for SAM at the rate 0.3."""
    again = contest_images.trained(rival, lr, setting, part, steps=contest_images.EARLY)
    table = dict(zip(contest_images.PARTS, contest_images.recorded(), strict=True))[part]
    there = table[(table["rival"] == rival) & (table["lr"] == lr) & (table["setting"] == setting)]
    assert again["seed"].tolist() == there["seed"].tolist() == list(contest_images.PARTS[part])
    assert again["early_loss"].tolist() == pytest.approx(there["early_loss"].tolist(), rel=0.005)
    assert again["early_loss"].tolist() == again["train_loss"].tolist()


def test_what_is_done_to_the_record_is_not_done_to_the_next():
    """As where a cell of a notebook that changes units runs twice."""
    for study in (contest_images, language_study):
        first = [part.copy() for part in study.recorded()]
        for part in study.recorded():
            part["lr"] *= 1000
            del part["seed"]
        for before, after in zip(first, study.recorded(), strict=True):
            pd.testing.assert_frame_equal(before, after)
