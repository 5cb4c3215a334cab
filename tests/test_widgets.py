"""Widgets without a browser: every value of every control, errors in the picture's place, and nothing that piles up."""

import asyncio
import base64
import gc
import html
import importlib
import io
import re
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from test_imports import made_by

from sam_lite import (
    explore_images,
    explore_measures,
    explore_networks,
    explore_toys,
    grids,
    plots,
    ranking,
    toys,
    widgets,
)
from sam_lite.ensemble import train_ensemble
from sam_lite.sam import sam_gradient


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: (data, metadata) of each call."""
    calls = []
    keep = lambda data, metadata=None, raw=False: calls.append((data, metadata))  # noqa: E731
    monkeypatch.setattr(widgets, "display", keep)
    monkeypatch.setattr(plots, "display", keep)
    return calls


def small_study():
    """Some settings with a gap that one measure ranks and another does not."""
    rng = np.random.default_rng(0)
    values = dict(width=[1, 2, 3], depth=[1, 2], batch_size=[10, 20], optimizer=["sgd", "adam"], dropout=[0.0, 0.1])
    values |= dict(lr_level=[0, 1], weight_decay=[0.0], seed=[0, 1])
    table = pd.MultiIndex.from_product(values.values(), names=values).to_frame(index=False)
    table["gap"] = 0.5 + 0.01 * table["lr_level"] + 0.001 * rng.standard_normal(len(table))
    table["trace"], table["noise"] = table["gap"] * 3, rng.standard_normal(len(table))
    return table.assign(status="stop_loss", lr=0.1, train_loss=0.01, train_acc=1.0, test_loss=1.0, test_acc=0.5)


MAKE = {
    "flat": explore_toys.flat_explorer,
    "batch": explore_networks.batch_explorer,
    "epochs": explore_networks.epochs_explorer,
    "measure": lambda: explore_measures.measure_explorer(small_study()),
    "step": explore_toys.step_explorer,
    "rho": explore_networks.rho_explorer,
    "images": explore_images.images_explorer,
    "bouncing": explore_toys.bouncing_explorer,
}


def rows(widget):
    """All but the style that hides the still picture, and the picture."""
    return widget.children[1:-1]


def inputs(widget):
    found = [row.children[0] for row in rows(widget)]
    return [one for one in found if not isinstance(one, ipywidgets.Button)]


def alt(widget):
    return html.unescape(re.search('alt="([^"]*)"', widget.children[-1].value).group(1))


def pixels(widget):
    data = re.search('base64,([^"]*)', widget.children[-1].value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def values_of(one):
    if isinstance(one, ipywidgets.SelectionSlider):
        return one.options
    return np.linspace(one.min, one.max, 7).tolist()


def test_every_explorer_is_swept():
    modules = [importlib.import_module(f"sam_lite.{p.stem}") for p in Path(grids.__file__).parent.glob("explore_*.py")]
    explorers = {name for module in modules for name in vars(module) if re.fullmatch("[a-z]+_explorer", name)}
    assert explorers == {f"{name}_explorer" for name in MAKE}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_every_control_shows_a_picture_over_its_whole_range(name, shown):
    widget = MAKE[name]()
    size = pixels(widget).shape
    for one in inputs(widget):
        before, seen = one.value, set()
        for value in values_of(one):
            one.value = value
            assert "<img" in widget.children[-1].value, widget.children[-1].value
            assert pixels(widget).shape == size  # nothing jumps
            seen.add(pixels(widget).tobytes())
        assert len(seen) > 1, f"{one.description} changes nothing"
        one.value = before


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_the_alternative_text_goes_with_the_picture(name, shown):
    widget = MAKE[name]()
    before = alt(widget)
    assert len(before) > 40
    one = inputs(widget)[0]
    one.value = values_of(one)[-1]
    assert alt(widget) != before


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_a_static_twin_stands_above_and_the_page_has_no_other_picture(name, shown):
    MAKE[name]()
    (picture, metadata), (caption, _), (view, _) = shown
    assert picture["image/png"] and len(metadata["image/png"]["alt"]) > 40 and caption.data.startswith("*")
    assert set(view) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert view["text/plain"] == "Run this cell to move the controls."


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_the_kept_background_and_the_marks_make_the_whole_figure(name, shown):
    """The same pixels as the static twin, which matplotlib drew as a whole."""
    widget = MAKE[name]()
    twin = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0][0]["image/png"]))).convert("RGB")).astype(int)
    assert (abs(pixels(widget).astype(int) - twin).max(2) > 40).mean() < 0.02  # marks lie above the legend now


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flat", "step", "bouncing"])
def test_slider_and_number_box_agree_both_ways(name, shown):
    for row in rows(MAKE[name]()):
        slider, box, *_ = row.children
        slider.value = slider.min
        assert box.value == slider.min
        box.value = slider.max
        assert slider.value == slider.max
        box.value = slider.max + 100  # beyond the range
        assert slider.value == box.value == slider.max
        assert slider.description and box.tooltip.startswith(slider.description)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch", "measure", "rho"])
def test_slider_and_list_agree_both_ways(name, shown):
    for slider, box in (row.children for row in rows(MAKE[name]()) if len(row.children) == 2):
        slider.value = slider.options[-1]
        assert box.value == slider.options[-1]
        box.value = slider.options[0]
        assert slider.value == slider.options[0] and box.tooltip == f"{slider.description}, by name"


def test_an_error_stands_in_the_pictures_place_and_the_next_value_recovers(shown):
    figure, ax = plots.subplots()
    (line,) = ax.plot([], [])

    def update(x):
        if x > 1:
            raise ValueError("x must be <= 1, got <2>")
        line.set_data([0, x], [0, 1])
        return f"a line to {x}"

    widget = widgets.explorer(
        widgets.Picture(figure, [line], update), {"x": widgets.Control("x", 0, 2, 0.5, 1)}, caption="c"
    )
    good, (slider,) = widget.children[-1].value, inputs(widget)
    slider.value = 2
    assert "ValueError: x must be &lt;= 1, got &lt;2&gt;" in widget.children[-1].value
    assert 'role="alert"' in widget.children[-1].value and "<img" not in widget.children[-1].value
    slider.value = 1
    assert widget.children[-1].value == good


def count():
    """Living figures and widgets, each of which has a comm."""
    gc.collect()
    return [sum(issubclass(type(o), kind) for o in gc.get_objects()) for kind in (Figure, ipywidgets.Widget)]


@pytest.mark.slow
def test_many_updates_leave_nothing_behind(shown):
    widget = explore_toys.step_explorer()
    (rho, *_), picture = inputs(widget), widget.children[-1]
    alive, lengths = count(), set()
    for i in range(300):
        rho.value = (i % 100) / 100
        lengths.add(len(picture.value))
    assert max(lengths) < 200_000 and len(shown) == 3
    assert count() == alive
    assert len(rows(widget)) == 5


def test_the_walk_is_sam():
    h = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    start = torch.tensor([0.5, -0.3], dtype=torch.float64)
    walk = explore_toys._walk(h, start, 0.05, 0.2, 2.0, 10)
    w = {"w": start}
    for point in walk[1:]:
        w = {"w": w["w"] - 0.05 * sam_gradient(toys.quadratic(h), w, 0.2)[0]["w"]}
        torch.testing.assert_close(point, w["w"])


@pytest.mark.slow
def test_the_bouncing_picture_says_what_theory_says(shown):
    widget = explore_toys.bouncing_explorer()
    expected = toys.two_cycle_amplitude(0.3, 0.3, 3.0)
    ours, theirs, lam = re.findall(r"(?:of|at|to) (\d[\d.]*\d)", alt(widget))
    assert float(ours) == pytest.approx(expected, rel=0.02) and float(theirs) == pytest.approx(expected, rel=0.01)
    assert float(lam) < 3.0
    inputs(widget)[0].value = 1.0
    assert alt(widget) == "ηλ is 3, not below 2: the path leaves the picture."


def test_the_measure_picture_says_tau_and_psi_of_what_is_shown(shown):
    widget = explore_measures.measure_explorer(small_study())
    table = small_study().groupby(["width", "depth", "batch_size", "optimizer", "dropout", "lr_level"], as_index=False)
    means = table[["gap", "trace", "noise"]].mean()
    measure, _, held = inputs(widget)
    assert measure.options == ("trace", "noise") and "Kendall's tau is +1.00, Psi +1.00" in alt(widget)
    measure.value, held.value = "noise", "optimizer = adam"
    part = means[means["optimizer"] == "adam"]
    axes = ["width", "depth", "batch_size", "dropout", "lr_level"]
    psi = np.mean([ranking.granulated(part, "noise", axis, axes) for axis in axes])
    assert f"tau is {ranking.tau(part, 'noise'):+.2f}, Psi {psi:+.2f}" in alt(widget)
    assert "The gap of 48 settings against the rank of noise" in alt(widget)


@pytest.mark.slow
def test_play_moves_the_steps(shown):
    row = rows(explore_toys.bouncing_explorer())[6]
    slider, box, play = row.children
    play.value = 7
    assert slider.value == box.value == 7 and (play.min, play.max) == (1, 60)
    slider.value = 20
    assert play.value == 20


def test_the_drift_in_the_ravine_is_that_of_theory():
    """Small steps: the mean change of z per step on the two-cycle, from h'(z) = λ z at z = 1."""
    lr, rho, lam = 0.1, 0.02, 3.0
    cycle = toys.two_cycle_amplitude(lr, rho, lam)
    found = explore_toys.ravine_curvature(lr, rho, lam, 100, w=cycle)
    z = np.sqrt(2 * found / lam - 1)
    assert (z[-1] - z[0]) / 100 == pytest.approx(toys.drift_per_step(lr, rho, lam, lam), rel=0.05)
    assert len(explore_toys.ravine_curvature(1.0, 0.5, 5.0, 1000)) < 1000  # ends where it diverges


def test_the_true_loss_is_the_mean_over_all_shifts():
    w, draws = np.linspace(-2, 2, 9), np.random.default_rng(0).standard_normal(200_000)
    mean = np.stack([explore_toys.moved_wells(x - 0.3 * draws).mean() for x in w])
    np.testing.assert_allclose(mean, explore_toys.moved_wells(w, 0.3), atol=4e-3)


def test_a_sharp_minimum_keeps_less_of_its_promise(shown):
    widget = explore_toys.flat_explorer()
    shift, n, _ = inputs(widget)
    sharp_train, sharp_true, flat_train, flat_true = map(float, re.findall(r"loss (\d\.\d\d)", alt(widget)))
    assert sharp_train < flat_train and sharp_true > flat_true
    shift.value = 0
    sharp_train, sharp_true, flat_train, flat_true = map(float, re.findall(r"loss (\d\.\d\d)", alt(widget)))
    assert sharp_train == sharp_true and flat_train == flat_true


# ---- training behind a button


def buttons(widget):
    return rows(widget)[-1].children


def trained(*shares, result=None, error=None):
    """A widget with a Train button whose work has these pieces; (widget, its log)."""
    figure, ax = plots.subplots()
    (line,) = ax.plot([], [])
    log = []

    def update(x):
        line.set_data([0, x], [0, 1])
        return f"{len(log)} results"

    def train(x):
        yield from shares
        if error:
            raise error
        log.append(x)

    controls = {"x": widgets.Control("x", 0, 2, 0.5, 1)}
    return widgets.explorer(widgets.Picture(figure, [line], update), controls, caption="c", train=train), log


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")


def test_train_shows_its_progress_and_adds_to_the_picture(shown):
    widget, log = trained(0.25, 0.5, 1.0)
    go, stop, bar, said = buttons(widget)
    seen = []
    bar.observe(lambda change: seen.append(change["new"]), "value")

    async def press():
        go.click()
        assert go.disabled and not stop.disabled
        go.click()  # twice
        await until(lambda: not go.disabled)

    asyncio.run(press())
    assert log == [1.0] and seen == [0.25, 0.5, 1.0, 0.0]
    assert said.value == "Done, and added to the picture." and alt(widget) == "1 results" and stop.disabled


@pytest.mark.slow
def test_stop_stops_and_adds_nothing_and_train_works_again(shown):
    widget, log = trained(*[i / 100 for i in range(100)])
    go, stop, bar, said = buttons(widget)

    async def press():
        go.click()
        await until(lambda: bar.value > 0.02)
        stop.click()
        await until(lambda: not go.disabled)
        assert said.value == "Stopped; nothing was added." and log == [] and bar.value == 0
        go.click()
        await until(lambda: not go.disabled)

    asyncio.run(press())
    assert log == [1.0]


def test_an_error_in_training_is_shown_and_leaves_the_buttons_usable(shown):
    widget, log = trained(0.5, error=ValueError("lr must be > 0, got <0>"))
    go, stop, _, said = buttons(widget)

    async def press():
        go.click()
        await until(lambda: not go.disabled)

    asyncio.run(press())
    assert said.value == "ValueError: lr must be &gt; 0, got &lt;0&gt;" and stop.disabled and log == []


@pytest.mark.slow
def test_two_copies_train_side_by_side(shown):
    pairs = [trained(*[i / 20 for i in range(20)]) for _ in range(2)]

    async def press():
        for widget, _ in pairs:
            buttons(widget)[0].click()
        buttons(pairs[0][0])[1].click()
        await until(lambda: not any(buttons(widget)[0].disabled for widget, _ in pairs))

    asyncio.run(press())
    assert [log for _, log in pairs] == [[], [1.0]]


@pytest.mark.slow
def test_the_batch_explorer_trains_the_setting_it_shows(shown, monkeypatch):
    monkeypatch.setattr(grids, "UPDATES", 640)  # 20 steps for 1,000 points and as many epochs
    widget = explore_networks.batch_explorer()
    size, _, budget = inputs(widget)
    size.value, budget.value = 1000, "epochs"
    go, *_, said = buttons(widget)

    async def press():
        go.click()
        await until(lambda: not go.disabled)

    asyncio.run(press())
    assert said.value == "Done, and added to the picture.", said.value
    assert "1 settings trained live" in alt(widget)


# ---- the recorded grids


def test_the_grids_are_whole():
    found = grids.recorded()
    assert len(found["batch"]) == 8 * 3 * 2 and found["rho"]["surface"].shape == (10, 25, 25)
    for cell in found["batch"].values():
        good = np.isfinite(cell["train_loss"])
        assert (np.isfinite(cell["lambda_max"]) == good).all() and cell["line"].shape == (5, 21)
    base = found["batch"][32, "the same", "updates"]
    np.testing.assert_allclose(base["line"][:, 5], base["line"][:, 15], rtol=1e-3)  # from itself to itself
    assert np.isfinite(found["rho"]["spectrum"]).all()
    middle = found["rho"]["surface"][:, 12, 12]
    np.testing.assert_allclose(middle, found["rho"]["train_loss"][:, 0], rtol=1e-3)
    assert grids.FILE.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.when_changed(*made_by("grids"), "sam_lite/grids.npz")
def test_a_sample_of_the_grid_is_what_training_gives():
    """One setting whose path is smooth, exactly but for the rounding of another processor, and the mean of a noisy one."""
    found = grids.recorded()
    again = grids.batch_cell(1000, "the same", "epochs", found["reference"])
    for name, values in found["batch"][1000, "the same", "epochs"].items():
        np.testing.assert_allclose(again[name], values, rtol=1e-3, err_msg=name)
    rho = grids.rho_cells([0.02])
    at = grids.RHOS.index(0.02)
    assert rho["test_acc"].mean() == pytest.approx(found["rho"]["test_acc"][at].mean(), abs=0.03)
    assert rho["spectrum"][..., 0].mean() == pytest.approx(found["rho"]["spectrum"][at, :, 0].mean(), rel=0.3)


def test_schedules_give_all_sizes_the_same():
    for budget, unit in (("updates", lambda p: p["steps"]), ("epochs", lambda p: p["steps"] * p["batch_size"])):
        amounts = [unit(grids.schedule(size, "times k", budget)) for size in grids.SIZES]
        assert max(amounts) <= 1.05 * min(amounts)
    assert grids.schedule(128, "times √k", "updates")["lr"] == pytest.approx(0.2)
    assert grids.schedule(8, "times k", "updates")["lr"] == pytest.approx(0.025)


def test_what_diverged_has_no_numbers():
    *_, (_, params) = grids.training(100, 1e6, 20)
    found = grids.measured(params, grids.recorded()["reference"])
    assert all(np.isnan(values).all() for values in found.values())


def test_what_an_explorer_cannot_show_is_named():
    with pytest.raises(ValueError, match="budget must be one of updates, epochs, got 'steps'"):
        explore_networks.batch_explorer("steps")
    with pytest.raises(ValueError, match="table must be one of `measures.load_study`, got 'none of status, trace'"):
        explore_measures.measure_explorer(small_study().drop(columns=["status", "trace"]))


def test_a_training_that_an_interrupt_ended_is_no_part_of_a_grid(monkeypatch):
    """`train_ensemble` returns what it has, which was recorded, and drawn as the live run of an explorer."""

    def interrupted(*args, **settings):
        def schedule(step):
            raise KeyboardInterrupt

        return train_ensemble(*args, **settings, schedule=schedule)

    monkeypatch.setattr(grids, "train_ensemble", interrupted)
    with pytest.raises(KeyboardInterrupt, match="^$"):
        list(grids.training(100, 0.1, 20))
    with pytest.raises(KeyboardInterrupt, match="^$"):
        grids.rho_cells([0.02])


def test_grids_leave_the_global_generator_alone():
    before, two = torch.get_rng_state(), {name: p[:2] for name, p in grids.recorded()["reference"].items()}
    grids.top({name: torch.full_like(p, torch.nan) for name, p in two.items()}, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_study_of_more_levels_shows_all_its_marks(shown):
    """A fourth width had no mark, and counted in tau all the same."""
    table = small_study()
    wider = [table.assign(width=width, note="x") for width in (200, 300, 400)]
    widget = explore_measures.measure_explorer(pd.concat([table, *wider]))
    said = widget.picture.update(measure="trace", colour="width", only="nothing")
    marks = [len(line.get_xdata()) for line in widget.picture.moving if hasattr(line, "get_xdata")]
    assert f"The gap of {sum(marks)} settings" in said and len(marks) > 3 and min(marks) > 0
    with pytest.raises(ValueError, match="table must be one with up to 7 values of an axis, none of them missing"):
        explore_measures.measure_explorer(table.assign(width=range(len(table))))
    with pytest.raises(ValueError, match="none of them missing, got"):
        explore_measures.measure_explorer(table.assign(dropout=table["dropout"].where(table["dropout"] > 0)))
    with pytest.raises(ValueError, match=r"networks of the status 'stop_loss', got \['steps'\]"):
        explore_measures.measure_explorer(table.assign(status="steps"))


def test_the_title_of_the_whole_figure_may_move(shown):
    figure, _ = plots.subplots()
    title = figure.suptitle("before")
    picture = widgets.Picture(figure, [title], lambda word: title.set_text(word) or word)
    assert picture.html(word="one") != picture.html(word="another") and 'alt="one"' in picture.html(word="one")


def test_only_whole_numbers_can_run():
    """A step of less than 1 became 0, and play stood still."""
    picture = widgets.Picture(plots.subplots()[0], [], lambda rho: "alt")
    for control in (widgets.Control("ρ", 0, 1, 0.1, 0.5, True), widgets.Control("ρ", 0.5, 2.5, 1, 0.5, True)):
        with pytest.raises(ValueError, match="a control that can run must be of whole numbers, got .*; leave out play"):
            widgets.explorer(picture, {"rho": control}, caption="c")
