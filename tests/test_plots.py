"""Figures: what is drawn is what was given, in every place that shows a plain PNG, for who sees it and who does not."""

import base64
import io

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from sam_lite import plots


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would display: (data, metadata) of each output."""
    outputs = []

    def display(thing, metadata=None, raw=False):
        outputs.append((thing if raw else {"text/markdown": thing.data}, metadata or {}))

    monkeypatch.setattr(plots, "display", display)
    return outputs


def picture(output):
    return Image.open(io.BytesIO(base64.b64decode(output[0]["image/png"])))


def test_a_band_is_mean_and_standard_deviation():
    _, ax = plots.subplots()
    y = np.random.default_rng(0).normal(size=(5, 4))
    plots.band(ax, [1, 2, 3, 4], y, label="five")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), y.mean(0))
    edges = ax.collections[0].get_paths()[0].vertices
    for i, x in enumerate([1, 2, 3, 4]):
        column = edges[edges[:, 0] == x, 1]
        assert column.max() == pytest.approx(y[:, i].mean() + y[:, i].std(ddof=1))
        assert column.min() == pytest.approx(y[:, i].mean() - y[:, i].std(ddof=1))


def test_the_band_of_positive_values_stays_positive():
    _, ax = plots.subplots()
    plots.band(ax, [1], [[0.1], [0.1], [9.0]], label="a jump")
    assert ax.collections[0].get_paths()[0].vertices[:, 1].min() == 0.1


def test_one_seed_has_a_line_and_no_spread():
    _, ax = plots.subplots()
    plots.band(ax, [1, 2], [3.0, 4.0], label="one")
    edges = ax.collections[0].get_paths()[0].vertices
    assert set(edges[:, 1]) == {3.0, 4.0}


def test_what_diverged_says_so_instead_of_an_empty_axis():
    _, ax = plots.subplots()
    plots.band(ax, [1, 2], [[np.nan, np.nan]], label="rate 10")
    assert [t.get_text() for t in ax.texts] == ["rate 10: diverged"]


def test_a_wrong_shape_is_named():
    _, ax = plots.subplots()
    with pytest.raises(ValueError, match=r"y must have shape \(n_seeds, 3\) to go with x, got \(2, 2\)"):
        plots.band(ax, [1, 2, 3], np.zeros((2, 2)), label="x")


def test_lines_differ_in_colour_style_and_grey():
    assert len(set(plots.COLORS)) == len(plots.STYLES) == len(plots.MARKERS) == 7
    grey = [np.dot(to_rgb(c), [0.299, 0.587, 0.114]) for c in plots.COLORS]
    for i in range(6):
        different = abs(grey[i] - grey[i + 1]) > 0.05
        assert different or plots.STYLES[i] != plots.STYLES[i + 1]
    _, ax = plots.subplots()
    for i in range(4):
        plots.band(ax, [0, 1], [[i, i]], label=str(i), style=i)
    assert len({(line.get_color(), str(line.get_linestyle())) for line in ax.lines}) == 4


@pytest.mark.parametrize(("shape", "count"), [((1, 1), 1), ((1, 3), 3), ((2, 2), 4)])
def test_subplots_have_the_size_asked_for(shape, count):
    figure, axes = plots.subplots(*shape, width=7, height=2)
    assert np.size(axes) == count
    assert tuple(figure.get_size_inches()) == (7, 2 * shape[0])


def test_figures_stay_open_nowhere():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plots.subplots()
    assert pyplot.get_fignums() == before
    assert matplotlib.get_backend()


def test_show_gives_a_png_with_alternative_text_and_a_caption(shown):
    figure, ax = plots.subplots(width=4, height=3)
    ax.plot([0, 1])
    plots.show(figure, caption="A line rises.", alt="a line")
    (data, metadata), (caption, _) = shown
    assert metadata["image/png"]["alt"] == data["text/plain"] == "a line"
    assert caption["text/markdown"] == "*A line rises.*"
    assert picture(shown[0]).size == (880, 660) and metadata["image/png"]["width"] == 440  # sharp on a dense screen


def test_the_same_figure_gives_the_same_bytes():
    def one():
        figure, ax = plots.subplots()
        ax.plot([0, 1, 4])
        return plots.png(figure)

    assert one() == one()


def test_an_animation_ends_with_its_static_twin(shown):
    figure, ax = plots.subplots(width=3, height=2)
    (line,) = ax.plot([], [], "o-")
    ax.set(xlim=(0, 5), ylim=(0, 5))
    drawn = []

    def draw(i):
        drawn.append(i)
        line.set_data(range(i + 1), range(i + 1))

    plots.animate(figure, draw, 5, seconds=2, caption="It moves.", alt="dots")
    image = picture(shown[0])
    assert sorted(drawn) == list(range(5))
    assert (image.n_frames, image.info["loop"], image.info["default_image"]) == (6, 1, True)
    frames = []
    for i in range(6):
        image.seek(i)
        frames.append(np.asarray(image.convert("RGB"), dtype=int))
    assert (frames[0] == frames[5]).all()  # first what shows where nothing moves, last where the animation stops
    draw(4)
    still = np.asarray(Image.open(io.BytesIO(plots.png(figure))).convert("RGB"), dtype=int)
    assert np.abs(frames[0] - still).mean() < 2
    ink = [(frame.sum(2) < 600).sum() for frame in frames[1:]]
    assert ink == sorted(ink)
    assert ink[0] < ink[-1]


@pytest.mark.parametrize(("caption", "alt", "name"), [("", "x", "caption"), ("x", " ", "alt")])
def test_no_figure_without_words(shown, caption, alt, name):
    figure, _ = plots.subplots()
    with pytest.raises(ValueError, match=f"{name} must not be empty"):
        plots.show(figure, caption=caption, alt=alt)
    with pytest.raises(ValueError, match=f"{name} must not be empty"):
        plots.animate(figure, lambda i: None, 2, caption=caption, alt=alt)
    assert shown == []


def test_one_frame_is_no_animation(shown):
    figure, _ = plots.subplots()
    with pytest.raises(ValueError, match="frames must be >= 2 to move, got 1"):
        plots.animate(figure, lambda i: None, 1, caption="c", alt="a")


def test_a_table_is_markdown(shown):
    plots.table({"F1": ["1", "2"], "ours": ["≈ 3", "≈ 4"]}, ["small", "large"], caption="A table.")
    assert shown[0][0]["text/markdown"].splitlines() == [
        "|  | small | large |",
        "| --- | ---: | ---: |",
        "| F1 | 1 | 2 |",
        "| ours | ≈ 3 | ≈ 4 |",
        "",
        "*A table.*",
    ]
    with pytest.raises(ValueError, match="row 'F1' must have 2 entries, one per column, got 1"):
        plots.table({"F1": ["1"]}, ["small", "large"], caption="A table.")


@pytest.mark.slow
def test_line_art_gets_a_palette_that_shows_it_alike_and_a_colour_map_keeps_its_colours():
    figure, (left, right) = plots.subplots(1, 2)
    left.plot([0, 1], [0, 1])
    right.plot([0, 1], [1, 0], linestyle="--")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    small = Image.open(io.BytesIO(plots.png(figure)))
    assert small.mode == "P" and len(plots.png(figure)) < 0.6 * len(buffer.getvalue())
    whole, small = (np.asarray(one.convert("RGB"), dtype=int) for one in (Image.open(buffer), small))
    assert abs(whole - small).max() < 40 and (abs(whole - small) > 8).mean() < 1e-3
    right.imshow(np.linspace(0, 1, 10_000).reshape(100, 100), cmap="viridis")
    right.imshow(np.random.default_rng(0).random((100, 100, 3)))
    assert Image.open(io.BytesIO(plots.png(figure))).mode != "P"


# ---- labels at the ends, roles, paths


def drawn(ax):
    """label -> (colour, line style) of the lines."""
    return {line.get_label(): (line.get_color(), line.get_linestyle()) for line in ax.lines}


def test_one_thing_has_one_colour_in_every_figure_and_the_rest_take_the_next():
    _, (left, right) = plots.subplots(1, 2)
    plots.band(left, [0, 1], [1, 2], label="SAM")
    plots.band(left, [0, 1], [1, 2], label="SGD")
    plots.path(right, [[0, 0], [1, 1]], label="SGD")
    plots.band(right, [0, 1], [1, 2], label="something else")
    assert drawn(left)["SGD"] == drawn(right)["SGD"] != drawn(left)["SAM"]
    assert drawn(right)["something else"][0] == plots.COLORS[1]
    assert len({*plots.ROLES.values()}) < len(plots.COLORS)


@pytest.mark.slow
def test_labels_stand_at_the_ends_in_the_colour_of_their_lines_and_apart(shown):
    figure, ax = plots.subplots()
    for name, end in (("high", 2.0), ("low", 1.0), ("as low", 1.001)):
        plots.band(ax, [0, 1, 2], [0, 1, end], label=name)
    plots.show(figure, caption="Three.", alt="three")
    texts = {text.get_text(): text for text in ax.texts}
    assert set(texts) == {"high", "low", "as low"}
    assert {name: text.get_color() for name, text in texts.items()} == {k: c for k, (c, _) in drawn(ax).items()}
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in texts.values()), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 2 for low, high in zip(boxes, boxes[1:], strict=False))
    assert min(box.x0 for box in boxes) > ax.transData.transform((2, 0))[0]
    plots.show(figure, caption="Again.", alt="again")
    assert len(ax.texts) == 3


def test_a_legend_takes_the_place_of_the_labels(shown):
    figure, ax = plots.subplots()
    plots.band(ax, [0, 1], [0, 1], label="one")
    ax.legend()
    plots.show(figure, caption="One.", alt="one")
    assert not ax.texts


def test_a_path_ends_in_a_mark_and_contours_lie_behind():
    _, ax = plots.subplots()
    points = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    plots.path(ax, points, label="SAM")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), points)
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), points[-1:])
    x, y = np.linspace(-1, 1, 5), np.linspace(0, 1, 4)
    plots.contours(ax, x, y, x**2 + y[:, None] ** 2, levels=[0.5])
    (curve,) = ax.collections
    assert curve.get_zorder() < ax.lines[0].get_zorder()
    ring = np.concatenate([p.vertices for p in curve.get_paths()])
    assert np.abs((ring**2).sum(1) - 0.5).max() < 0.15


def test_a_title_says_what_is_to_be_seen():
    figure, _ = plots.subplots(title="SAM learns more slowly")
    assert figure.get_suptitle() == "SAM learns more slowly"


def test_a_logarithmic_axis_has_numbers_only_where_it_is_told_or_at_powers_of_ten(shown):
    figure, ax = plots.subplots()
    plots.band(ax, [0.02, 0.05, 0.5], [1, 2, 3], label="one")
    ax.set(xscale="log")
    ax.set_xticks([0.02, 0.5], [0.02, 0.5])
    plots.show(figure, caption="One.", alt="one")
    figure.draw_without_rendering()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.02", "0.5"]
    assert {t.get_text() for t in ax.get_xticklabels(minor=True)} <= {""}


def test_a_seed_that_diverged_is_left_out_and_the_others_are_drawn(shown):
    figure, ax = plots.subplots()
    y = np.random.default_rng(0).normal(size=(4, 3))
    holed = np.vstack([y, np.full((1, 3), np.nan), [[np.nan, np.inf, 7.0]]])
    plots.band(ax, [1, 2, 3], holed, label="SAM")
    np.testing.assert_allclose(ax.lines[0].get_ydata()[:2], y.mean(0)[:2])
    assert ax.lines[0].get_ydata()[2] == pytest.approx((y[:, 2].sum() + 7) / 5)
    edges = ax.collections[0].get_paths()[0].vertices
    assert edges[edges[:, 0] == 1, 1].max() == pytest.approx(y[:, 0].mean() + y[:, 0].std(ddof=1))
    plots.show(figure, caption="One diverged.", alt="a band")
    assert [text.get_text() for text in ax.texts] == ["SAM"]


def test_a_line_without_a_number_has_no_name_at_its_end(shown):
    figure, ax = plots.subplots()
    plots.path(ax, np.full((3, 2), np.nan), label="lost")
    plots.path(ax, [[0, 1], [2, 3]], label="there")
    plots.show(figure, caption="One is lost.", alt="a path")
    assert [text.get_text() for text in ax.texts] == ["there"]


def test_a_point_where_all_diverged_is_a_gap_in_the_band():
    _, ax = plots.subplots()
    plots.band(ax, [1, 2, 3], [[1.0, np.nan, 3.0], [3.0, np.inf, 5.0]], label="two")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [2.0, np.nan, 4.0])


@pytest.mark.parametrize("points", [np.zeros((2, 6)), np.zeros((0, 2)), np.zeros(4), np.zeros((1, 4, 2))], ids=np.shape)
def test_a_path_that_is_no_row_of_points_is_refused(points):
    """Of (2, 6) six numbers would be taken for three lines."""
    with pytest.raises(ValueError, match=r"points must have shape \(n, 2\), a row for each, got \("):
        plots.path(plots.subplots()[1], points, label="SAM")


def test_a_seed_that_is_masked_is_left_out_as_one_that_is_not_a_number():
    y = np.array([[1.0, 2.0, 7.0], [3.0, 1e30, 8.0], [5.0, 4.0, 9.0]])
    masked, holed = (plots.subplots()[1] for _ in range(2))
    plots.band(masked, [0, 1, 2], np.ma.masked_greater(y, 1e9), label="SAM")
    plots.band(holed, [0, 1, 2], np.where(y > 1e9, np.nan, y), label="SAM")
    np.testing.assert_array_equal(masked.lines[0].get_ydata(), [3.0, 3.0, 8.0])
    bands = [ax.collections[0].get_paths()[0].vertices for ax in (masked, holed)]
    np.testing.assert_array_equal(*bands)


def test_no_seed_has_not_diverged():
    """As of a query that finds no row."""
    _, ax = plots.subplots()
    for x, y in (([1, 2], np.zeros((0, 2))), ([], np.zeros((3, 0)))):
        with pytest.raises(ValueError, match="y must be of one seed or more, and one x or more, got .* for 'SGD'"):
            plots.band(ax, x, y, label="SGD")
    assert not ax.texts


def test_a_stroke_in_a_table_makes_no_column(shown):
    plots.table({"|g|": ["0.1", "a|b"]}, ["|w|", "c"], caption="Norms.")
    head, _, row, *_ = shown[0][0]["text/markdown"].splitlines()
    assert head == r"|  | \|w\| | c |" and row == r"| \|g\| | 0.1 | a\|b |"
    for odd in (1.5, "two\nlines"):
        with pytest.raises(ValueError, match="the entries of a table must be texts of one line, got"):
            plots.table({"g": [odd]}, ["w"], caption="Norms.")
