"""tools/live.py: what moves on a page without a kernel is what the notebook's picture shows, whichever way it is moved."""

import base64
import io
import itertools
import random
import re

import numpy as np
import pytest
from matplotlib.lines import Line2D
from PIL import Image

import live
import pages
import slides
from sam_lite import plots
from sam_lite.widgets import Control, Picture

NAMES = list(live.EXPLORERS)


def fragment(name: str) -> str:
    return (live.FOLDER / f"{name}.html").read_text(encoding="utf-8")


def sample(name: str, n: int) -> list[tuple[list[int], dict]]:
    """(places along the grid, values of all controls) of the first, the last and some other states."""
    grid, controls = live.EXPLORERS[name].grid, live.captured(live.EXPLORERS[name].make).controls
    every = list(itertools.product(*(range(len(values)) for values in grid.values())))
    start = {one: live.start_of(control) for one, control in controls.items()}
    chosen = [every[0], every[-1], *random.Random(0).sample(every, min(n, len(every)) - 2)]
    return [(at, start | {one: grid[one][i] for one, i in zip(grid, at, strict=True)}) for at in chosen]


@pytest.fixture(scope="module")
def explorers():
    """The explorers, made once."""
    return {name: live.drawn(name) for name in NAMES}


def far(points: np.ndarray, path: np.ndarray) -> float:
    """The largest distance of points from the pieces of a path."""
    a, b = path[:-1, None], path[1:, None]
    along = ((points - a) * (b - a)).sum(-1) / np.maximum(((b - a) ** 2).sum(-1), 1e-12)
    near = a + np.clip(along, 0, 1)[..., None] * (b - a)
    return float(np.hypot(*(points - near).T).min(1).max(initial=0)) if len(points) else 0.0


# ---- what is stored


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_is_what_the_notebook_shows(name, explorers):
    """Words exactly, lines and markers within a pixel of where the axes put their data, on logarithmic axes as well."""
    found, picture = live.unpack(fragment(name)), explorers[name].picture
    height, logs = picture.figure.bbox.height, 0
    for at, values in sample(name, 12):
        assert live.said(found, at) == picture.update(**values), "made of older code: python tools/live.py"
        stored = iter(live.item_of(found, i, at) for i in range(len(found["items"])))
        for artist in picture.moving:
            mine = [next(stored) for _ in live.style(artist)]
            if not isinstance(artist, Line2D):
                assert mine[0].split("\n")[1:] == (artist.get_text().split("\n") if artist.get_text() else [])
                continue
            if artist.get_transform() != artist.axes.transData:
                continue  # a line across the whole height
            data = artist.get_xydata().astype(float)
            positive = [axis.get_scale() != "log" for axis in (artist.axes.xaxis, artist.axes.yaxis)] | (data > 0)
            data = data[np.isfinite(data).all(1) & positive.all(1)]
            logs += not positive.all() or "log" in (artist.axes.get_xscale(), artist.axes.get_yscale())
            expected = artist.axes.transData.transform(data) if len(data) else np.zeros((0, 2))
            inside = np.array([artist.axes.bbox.contains(*point) for point in expected], bool)
            expected = (expected * [1, -1] + [0, height])[inside]
            for piece in mine:
                spots = np.array(live.places(piece)).reshape(-1, 2) / live.QUARTER
                if piece is mine[-1] and live.has_markers(artist):
                    assert all(np.hypot(*(spots - point).T).min() < 1 for point in expected)
                elif len(spots) > 1 and "m" not in piece[1:]:
                    assert far(expected, spots) < 1
    assert logs or name in ("flat", "step", "measure")


def test_a_table_gives_back_every_value():
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 9, (3, 1, 4)).astype(str).astype(object) + np.zeros((3, 5, 4), int).astype(str).astype(
        object
    )
    axes, values = item = live.thin(whole)
    assert axes == [0, 2] and len(values) == 12
    assert all(live.look_up(item, whole.shape, at) == whole[at] for at in np.ndindex(whole.shape))
    assert live.thin(np.full((2, 3), "a", object)) == [[], ["a"]]


def small(update=None, **style):
    figure, ax = plots.subplots(width=3, height=2)
    (line,) = ax.plot([], [], **style)
    ax.set(xlim=(0, 1), ylim=(0, 1))

    def move(x):
        line.set_data([0, x], [0, 1])
        if update:
            update(line, x)
        return f"a line to {x:g}"

    return Picture(figure, [line], move), {"x": Control("x", 0, 1, 0.5, 0.5)}


def test_a_change_of_style_is_an_error_since_it_would_be_lost():
    picture, controls = small(lambda line, x: line.set_color("red" if x == 1 else "blue"))
    with pytest.raises(ValueError, match=r"the style of a mark changes at \{'x': 1"):
        live.table(picture, {"x": [0.0, 0.5, 1.0]}, controls)


def test_a_grid_without_the_start_and_a_mark_of_another_kind_are_errors():
    picture, controls = small()
    with pytest.raises(ValueError, match="the grid of 'x' must hold its start, 0.5, got"):
        live.table(picture, {"x": [0.0, 1.0]}, controls)
    with pytest.raises(TypeError, match="must be a line or a text, got a AxesImage"):
        live.stored(picture.figure.axes[0].imshow([[0.0]]), 100)


def test_the_words_of_a_state_are_cut_into_words_and_numbers():
    picture, controls = small()
    found = live.table(picture, {"x": [0.0, 0.5, 1.0]}, controls)
    assert found["said"] == [[[], ["a line to \0"]], [[0], ["0", "0.5", "1"]]]
    assert live.said(found, [1]) == "a line to 0.5"


def test_every_explorer_moves_on_a_page():
    assert {path.stem for path in live.FOLDER.glob("*.html")} == {*NAMES, "valley"}
    assert sum(path.stat().st_size for path in live.FOLDER.glob("*.html")) < 1_000_000


# ---- in a browser, without network


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """The address of a page with one explorer."""
    folder = tmp_path_factory.mktemp("live")

    def made(name: str) -> str:
        path = folder / f"{name}.html"
        path.write_text(pages.page(name, f"<h1>{name}</h1>\n{fragment(name)}", search=False), encoding="utf-8")
        return path.as_uri()

    return made


@pytest.fixture
def opened(chrome):
    """opened(address, **settings): a page without network, once its explorers listen; fails where anything is fetched."""
    contexts = []

    def opened(address, width=1280, ready=True, **settings):
        context = chrome.new_context(viewport={"width": width, "height": 900}, offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: asked.append(str(error)))
        page.goto(address)
        if ready:
            page.locator("figure.live.ready").first.wait_for()
        return page

    asked: list[str] = []
    yield opened
    for context in contexts:
        context.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


NATURAL = """
svg { flex: none !important; max-width: none !important; min-width: 0 !important; }
.panels { position: absolute; top: 0; left: 0; flex-wrap: nowrap !important; max-width: none !important; width: max-content; }
main { max-width: none !important; }
"""
SET = """([name, at]) => {
    const inputs = document.getElementById(name).querySelectorAll("input");
    inputs.forEach((input, i) => { input.value = at[i]; });
    inputs[0].dispatchEvent(new Event("input", {bubbles: true}));
    return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_browser_draws_what_matplotlib_draws(name, explorers, page_of, opened):
    page, picture = opened(page_of(name), width=1700), explorers[name].picture
    page.add_style_tag(content=NATURAL)
    page.evaluate("document.querySelectorAll('svg').forEach(s => { s.style.width = s.viewBox.baseVal.width + 'px' })")
    shown = [], []
    for at, values in sample(name, 6):
        page.evaluate(SET, [name, list(at)])
        data = re.search('base64,([^"]*)', picture.html(**values))[1]
        ours = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        box = page.locator(".panels").bounding_box()
        clip = {"x": box["x"], "y": box["y"], "width": ours.width, "height": ours.height}
        theirs = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
        for some, one in zip(shown, (ours, theirs), strict=True):
            half = one.resize((one.width // 2, one.height // 2), Image.Resampling.BOX)  # edges are smoothed otherwise
            some.append(np.asarray(half).astype(int))
    unlike = lambda a, b: float((abs(a - b).max(2) > 80).mean())  # noqa: E731
    apart = [[unlike(a, b) for b in shown[1]] for a in shown[0]]
    for i, row in enumerate(apart):
        limit = (
            0.03 if explorers[name].picture.figure.bbox.width > 700 else 0.05
        )  # letters are a larger part of a small one
        assert row[i] < limit and row[i] < min(row) + 0.003, f"{name}: state {i} of {sample(name, 6)}: {row}"


def status(page, name="step"):
    return page.locator(f"#{name}-said").text_content()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_by_key_tap_and_drag(width, page_of, opened):
    page = opened(page_of("step"), width=width, has_touch=True)
    slider = page.get_by_label("ρ, radius of the climb")
    assert slider.get_attribute("aria-valuetext") == "0.3" and "climbs by 0.3 " in status(page)
    before = page.locator("svg").inner_html()
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("climbs by 0.35 ").wait_for()
    assert slider.get_attribute("aria-valuetext") == "0.35" and page.locator("svg").inner_html() != before
    page.keyboard.press("Home")
    page.get_by_text("climbs by 0 ").wait_for()
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    page.get_by_text("climbs by 1 ").wait_for()
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.wait_for_function("+document.querySelector('input').value > 5 && +document.querySelector('input').value < 15")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.querySelector('svg').getBoundingClientRect().width") > 0.75 * min(width, 700)


@pytest.mark.slow
def test_three_panels_stand_one_below_the_other_on_a_phone(page_of, opened):
    tops = "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().top)"
    assert len(set(opened(page_of("bouncing"), width=1280).evaluate(tops))) == 1
    assert len(set(opened(page_of("bouncing"), width=390).evaluate(tops))) == 3


@pytest.mark.slow
def test_play_runs_and_reduced_motion_has_none(page_of, opened):
    page = opened(page_of("bouncing"))
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Stop").click()
    steps = page.get_by_label("steps shown")
    steps.focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="Play").click()
    page.get_by_text("After 4 steps ").or_(page.get_by_text("After 60 steps ")).first.wait_for()
    page.wait_for_function("+document.querySelector('[name=steps]').value > 2")
    still = opened(page_of("bouncing"), reduced_motion="reduce")
    assert still.get_by_role("button", name="Play").count() == 0 and still.get_by_label("steps shown").is_visible()
    valley = opened(page_of("valley"), reduced_motion="reduce")
    at = valley.get_by_label("step", exact=True).input_value()
    valley.wait_for_timeout(400)
    assert valley.get_by_label("step", exact=True).input_value() == at == "40"


@pytest.mark.slow
def test_without_scripts_the_first_state_is_a_still_picture(page_of, opened):
    page = opened(page_of("step"), ready=False, java_script_enabled=False)
    assert page.locator("svg path[d^='m']").count() > 2 and "climbs by 0.3 " in status(page)
    assert (
        not page.get_by_role("slider").count()
        and page.get_by_role("img").get_attribute("aria-labelledby") == "step-said"
    )


@pytest.mark.slow
def test_the_address_holds_the_setting(page_of, opened):
    page = opened(page_of("step") + "#step?rho=0.5&lr=0.2&p=7")
    page.get_by_text("climbs by 0.5 and steps with rate 0.2").wait_for()
    assert page.get_by_label("p, norm of the climb").get_attribute("aria-valuetext") == "2", "7 is no value of it"
    page.get_by_label("p, norm of the climb").focus()
    page.keyboard.press("End")
    page.wait_for_function("location.hash === '#step?rho=0.5&lr=0.2&p=6'")
    page.evaluate("location.hash = '#step?rho=0&lr=0.1&p=2'")
    page.get_by_text("climbs by 0 and steps with rate 0.1").wait_for()


@pytest.mark.slow
def test_in_a_slide_the_keys_move_the_slider_and_not_the_slide(tmp_path, opened):
    import nbformat

    path = pages.ROOT / "lectures" / "05_sam.ipynb"
    slides.build([(path, nbformat.read(path, as_version=4))], tmp_path)
    page = opened(f"{(tmp_path / '05_sam.html').as_uri()}?step&rho=0.5#/1", width=1280)
    page.wait_for_function("Reveal.isReady()")
    slider = page.get_by_label("ρ, radius of the climb")
    page.wait_for_function("document.querySelector('.present .said')?.textContent.includes('climbs by 0.5 ')")
    here = page.evaluate("Reveal.getIndices()")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.present .said').textContent.includes('climbs by 0.55 ')")
    assert page.evaluate("Reveal.getIndices()") == here and slider.get_attribute("data-prevent-swipe") is not None
