"""Widgets without a browser: every value of every control, errors in the picture's place, and nothing that piles up."""

import base64
import gc
import html
import io
import re

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from sam_lite import plots, ranking, toys, widgets
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
    "step": widgets.step_explorer,
    "bouncing": widgets.bouncing_explorer,
    "measure": lambda: widgets.measure_explorer(small_study()),
}


def inputs(widget):
    return [row.children[0] for row in widget.children[:-1]]


def alt(widget):
    return html.unescape(re.search('alt="([^"]*)"', widget.children[-1].value).group(1))


def pixels(widget):
    data = re.search('base64,([^"]*)', widget.children[-1].value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def values_of(one):
    if isinstance(one, ipywidgets.Dropdown):
        return one.options
    return np.linspace(one.min, one.max, 7).tolist()


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
            seen.add(widget.children[-1].value)
        assert len(seen) > 1, f"{one.description} changes nothing"
        one.value = before


@pytest.mark.parametrize("name", MAKE)
def test_the_alternative_text_goes_with_the_picture(name, shown):
    widget = MAKE[name]()
    before = alt(widget)
    assert len(before) > 40
    one = inputs(widget)[0]
    one.value = values_of(one)[-1]
    assert alt(widget) != before


@pytest.mark.parametrize("name", MAKE)
def test_a_static_twin_stands_above_and_the_page_has_no_other_picture(name, shown):
    MAKE[name]()
    (picture, metadata), (caption, _), (view, _) = shown
    assert picture["image/png"] and len(metadata["image/png"]["alt"]) > 40 and caption.data.startswith("*")
    assert set(view) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert view["text/plain"] == "Run this cell to move the controls."


@pytest.mark.parametrize("name", MAKE)
def test_the_kept_background_and_the_marks_make_the_whole_figure(name, shown):
    """The same pixels as the static twin, which matplotlib drew as a whole."""
    widget = MAKE[name]()
    twin = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0][0]["image/png"]))).convert("RGB")).astype(int)
    assert (abs(pixels(widget).astype(int) - twin).max(2) > 40).mean() < 0.02  # marks lie above the legend now


@pytest.mark.parametrize("name", ["step", "bouncing"])
def test_slider_and_number_box_agree_both_ways(name, shown):
    for row in MAKE[name]().children[:-1]:
        slider, box = row.children
        slider.value = slider.min
        assert box.value == slider.min
        box.value = slider.max
        assert slider.value == slider.max
        box.value = slider.max + 100  # beyond the range
        assert slider.value == box.value == slider.max
        assert slider.description and box.tooltip.startswith(slider.description)


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


def test_many_updates_leave_nothing_behind(shown):
    widget = widgets.step_explorer()
    (rho, *_), picture = inputs(widget), widget.children[-1]
    alive, lengths = count(), set()
    for i in range(300):
        rho.value = (i % 100) / 100
        lengths.add(len(picture.value))
    assert max(lengths) < 200_000 and len(shown) == 3
    assert count() == alive
    assert len(widget.children) == 6


def test_the_walk_is_sam():
    h = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    start = torch.tensor([0.5, -0.3], dtype=torch.float64)
    walk = widgets._walk(h, start, 0.05, 0.2, 2.0, 10)
    w = {"w": start}
    for point in walk[1:]:
        w = {"w": w["w"] - 0.05 * sam_gradient(toys.quadratic(h), w, 0.2)[0]["w"]}
        torch.testing.assert_close(point, w["w"])


def test_the_bouncing_picture_says_what_theory_says(shown):
    widget = widgets.bouncing_explorer()
    expected = toys.two_cycle_amplitude(0.3, 0.3, 3.0)
    ours, theirs = re.findall(r"[\d.]+(?= from|\.$)", alt(widget))
    assert float(ours) == pytest.approx(expected, rel=0.02) and float(theirs.rstrip(".")) == pytest.approx(
        expected, rel=0.01
    )
    inputs(widget)[0].value = 1.0
    assert alt(widget) == "ηλ is 3, not below 2: the path leaves the picture."


def test_the_measure_picture_says_tau_and_psi_of_what_is_shown(shown):
    widget = widgets.measure_explorer(small_study())
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
