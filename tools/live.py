"""Explorers that move on a page without a kernel: what they show for a grid of values, stored beside the page.

    python tools/live.py [NAMES]      make tools/live/NAME.html anew from the explorers of the package (default: all)

The still part of a figure becomes a picture. Of each mark that moves only what SVG takes is stored, for every state of
the grid: the course of a line in whole quarter-pixels, a text, and the alternative text, cut into words and numbers.
What does not depend on a control is stored once along it. `live.js`, which knows nothing of any one explorer, looks the
state up. Pages and slides take the stored files, so building them runs nothing.
"""

import argparse
import base64
import contextlib
import html
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ipywidgets
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.path import Path as Curve
from matplotlib.text import Text
from PIL import Image

from sam_lite import explore_images, explore_measures, explore_networks, explore_toys, grids, plots
from sam_lite.widgets import Control, Picture

FOLDER = Path(__file__).with_name("live")
QUARTER = 4  # whole quarters of a pixel
ROOM = 40  # pixels around the axes in which a line still has its course
SAME = "="  # as the item before: the markers of a line that runs through all of them
NUMBER = r"\d[\d.]*(?:e[+-]?\d+)?|\b(?:nan|inf)\b"
FONT = "DejaVu Sans, Verdana, sans-serif"


class Live(NamedTuple):
    """An explorer and the values that its controls have on a page; the others stay where they start."""

    make: Callable[[], ipywidgets.Widget]
    grid: dict[str, Sequence]
    more: str  # what it can do in a notebook besides
    size: tuple[float, float] | None = (
        None  # in inches, where it is drawn smaller: a phone shows its letters larger then
    )


EXPLORERS = {
    "flat": Live(
        explore_toys.flat_explorer,
        {
            "shift": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
            "n": [1, 2, 5, 10, 20, 50, 100, 200],
            "sample": [1, 2, 3, 4, 5],
        },
        "any shift and number of examples, and twenty samples",
        (4.0, 3.2),
    ),
    "batch": Live(
        explore_networks.batch_explorer,
        {"size": grids.SIZES, "rule": list(grids.RULES), "budget": grids.BUDGETS},
        "a button that trains the setting anew while you watch",
    ),
    "epochs": Live(
        explore_networks.epochs_explorer,
        {"size": grids.SIZES, "rule": list(grids.RULES), "budget": grids.BUDGETS},
        "a button that trains the setting anew while you watch",
    ),
    "step": Live(
        explore_toys.step_explorer,
        {
            "rho": [i / 20 for i in range(21)],
            "lr": [0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22],
            "p": [1.0, 1.5, 2.0, 3.0, 6.0],
        },
        "any start, and finer steps of every control",
        (4.0, 3.3),
    ),
    "measure": Live(
        explore_measures.measure_explorer,
        {
            "measure": ["trace", "l2", "path_norm", "flatness_mag"],
            "colour": ["width", "dropout"],
            "only": ["nothing", "width = 50", "width = 70", "width = 100"],
        },
        "all measures of the study, and every axis to mark or to hold fixed",
        (4.4, 3.4),
    ),
    "rho": Live(explore_networks.rho_explorer, {"rho": grids.RHOS}, "the same values, and code to change"),
    "images": Live(
        explore_images.images_explorer,
        {"equal": list(explore_images.COMPARED), "network": list(explore_images.NETWORKS)},
        "the same values, and code to change",
    ),
    "bouncing": Live(
        explore_toys.bouncing_explorer,
        {
            "lr": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
            "rho": [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0],
            "first": [1.0, 2.0, 3.0, 4.0],
            "steps": [1, 2, 3, 4, 6, 9, 14, 20, 30, 45, 60],
        },
        "any start and second curvature, and every step",
    ),
}


# ---------------------------------------------------------------- what is stored of a mark


def numbers(values: Sequence[int]) -> str:
    """Whole numbers as SVG reads them, with no more between them than it needs: 12 3-4."""
    return re.sub(r" (?=-)", "", " ".join(map(str, values)))


def course(points: np.ndarray, starts: Sequence[bool]) -> str:
    """Points in pixels as moves of SVG from one to the next, in quarters: `starts` says where the pen is lifted."""
    whole = np.rint(points * QUARTER).astype(int)
    steps = np.diff(whole, axis=0, prepend=[[0, 0]])
    pieces = []
    for step, start in zip(steps.tolist(), starts, strict=True):
        if start:
            pieces.append(list(step))
        elif any(step):  # less than a quarter of a pixel is no step
            pieces[-1] += step
    return "".join(f"m{numbers(piece)}" for piece in pieces)


def line_course(line: Line2D, height: float) -> str:
    """A line as it runs inside its axes: transformed first, so that logarithms are taken, and then cut off."""
    box = line.axes.bbox.padded(ROOM)
    path = line.get_path().transformed(line.get_transform())
    simplify = not has_markers(line) and len(path) > 2
    path = path.cleaned(remove_nans=True, clip=box.extents, simplify=simplify, curves=False)
    kept = path.codes != Curve.STOP
    points = np.column_stack([path.vertices[kept, 0], height - path.vertices[kept, 1]])
    return course(points, path.codes[kept] == Curve.MOVETO)


def marker_course(line: Line2D, height: float) -> str:
    """The places of a line's markers, as far as they are near its axes."""
    points = line.get_path().transformed(line.get_transform()).vertices
    points = points[np.isfinite(points).all(1)]
    box = line.axes.bbox.padded(ROOM)
    points = points[[box.contains(*point) for point in points]] * [1, -1] + [0, height]
    return course(points, [i == 0 for i in range(len(points))])


def shape_of(line: Line2D) -> str:
    """The outline of a line's marker around its place, in quarter-pixels."""
    marker = line._marker  # Matplotlib has no public way to it
    size = line.get_markersize() * line.figure.dpi / 72 * QUARTER
    path, said, at = marker.get_path().transformed(marker.get_transform()), "", np.zeros(2)
    start = at
    for points, code in path.iter_segments():
        if code == Curve.CLOSEPOLY:
            said += "z"
            at = start
            continue
        points = points.reshape(-1, 2) * [size, -size]
        letter = {Curve.MOVETO: "m", Curve.LINETO: "l", Curve.CURVE3: "q", Curve.CURVE4: "c"}[code]
        said += letter + numbers(np.rint(points - at).astype(int).ravel().tolist())
        at = at + np.rint(points - at)[-1]
        start = at if letter == "m" else start
    return said


def text_lines(text: Text, height: float) -> str:
    """Where a text stands, in quarter-pixels, and its lines."""
    if not text.get_text():
        return ""
    x, y = text.get_transform().transform(text.get_position())
    return "\n".join([numbers(np.rint([x * QUARTER, (height - y) * QUARTER]).astype(int).tolist()), text.get_text()])


def stored(artist: Artist, height: float) -> list[str]:
    """What is stored of a mark for the state it is in, for each element of its `style`."""
    if isinstance(artist, Text):
        return [text_lines(artist, height)]
    if not isinstance(artist, Line2D):
        raise TypeError(f"a mark that moves on a page must be a line or a text, got a {type(artist).__name__}")
    both = [line_course(artist, height)] if artist.get_linestyle() != "None" else []
    if has_markers(artist):
        marks = marker_course(artist, height)
        both.append(SAME if both and marks == both[0] else marks)
    return both


def has_markers(line: Line2D) -> bool:
    return line.get_marker() not in ("None", None, "")


def style(artist: Artist) -> list[str]:
    """The SVG of a mark without its course, an element for each thing stored."""
    px = artist.figure.dpi / 72 * QUARTER
    alpha = f' opacity="{artist.get_alpha():g}"' if artist.get_alpha() is not None else ""
    if isinstance(artist, Text):
        anchor = {"left": "start", "center": "middle", "right": "end"}[artist.get_ha()]
        said = (
            f'text-anchor="{anchor}" font-size="{artist.get_fontsize() * px:.0f}" fill="{to_hex(artist.get_color())}"'
        )
        return [f'<text {said} font-weight="{artist.get_weight()}" data-va="{artist.get_va()}"{alpha}></text>']
    elements = []
    if artist.get_linestyle() != "None":
        _, dashes = artist._dash_pattern
        dashed = f' stroke-dasharray="{numbers([round(d * px) for d in dashes])}"' if dashes else ""
        line = f'stroke="{to_hex(artist.get_color())}" stroke-width="{artist.get_linewidth() * px:.1f}"{dashed}'
        elements.append(f'<path fill="none" {line} stroke-linejoin="round"{alpha}/>')
    if has_markers(artist):
        fill = to_hex(artist.get_markerfacecolor()) if artist._marker.is_filled() else "none"
        mark = f'fill="{fill}" stroke="{to_hex(artist.get_markeredgecolor())}"'
        mark += f' stroke-width="{artist.get_markeredgewidth() * px:.1f}" data-shape="{shape_of(artist)}"'
        elements.append(f"<path {mark}{alpha}/>")
    return elements


def look(artist: Artist) -> list:
    """All that `style` depends on."""
    names = ["color", "alpha", "visible", "clip_on"]
    line = ["linestyle", "linewidth", "marker", "markersize", "markerfacecolor", "markeredgecolor", "markeredgewidth"]
    names += line if isinstance(artist, Line2D) else ["fontsize", "weight", "ha", "va"]
    return [getattr(artist, f"get_{name}")() for name in names]


# ---------------------------------------------------------------- all states of a grid


def captured(make: Callable[[], ipywidgets.Widget]) -> ipywidgets.Widget:
    """An explorer, without what it would show in a notebook."""
    with contextlib.redirect_stdout(io.StringIO()):
        return make()


def drawn(name: str) -> ipywidgets.Widget:
    """One of EXPLORERS, in the size that it has on a page."""
    widget = captured(EXPLORERS[name].make)
    if size := EXPLORERS[name].size:
        old = widget.picture
        old.figure.set_size_inches(size)
        widget.picture = Picture(old.figure, old.moving, old.update)
    return widget


def states(grid: dict[str, Sequence], controls: dict) -> list[dict]:
    """The values of all controls in each state, the last control fastest."""
    for name, values in grid.items():
        if controls[name].start is not None and controls[name].start not in values:
            raise ValueError(f"the grid of {name!r} must hold its start, {controls[name].start}, got {list(values)}")
    start = {name: start_of(control) for name, control in controls.items()}
    return [start | dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def start_of(control) -> object:
    return control.options[0] if control.start is None else control.start


def thin(values: np.ndarray) -> list:
    """[axes along which the values differ, the values along these alone]."""
    axes = [a for a in range(values.ndim) if (values != values.take([0], a)).any()]
    for a in range(values.ndim):
        if a not in axes:
            values = values.take([0], a)
    return [axes, values.ravel().tolist()]


def table(picture: Picture, grid: dict[str, Sequence], controls: dict) -> dict:
    """All that moves, for every state: {shape, items of the marks, said: items of the words}."""
    shape, height = [len(values) for values in grid.values()], picture.figure.bbox.height
    first = None
    rows, words = [], []
    for values in states(grid, controls):
        said = picture.update(**values)
        looks = [look(artist) for artist in picture.moving]
        first = first or looks
        if looks != first:
            raise ValueError(f"the style of a mark changes at {values}; only its course, its place or its text may")
        rows.append([piece for artist in picture.moving for piece in stored(artist, height)])
        words.append([re.sub(NUMBER, "\0", said), *re.findall(NUMBER, said)])
    most = max(map(len, words))
    words = [row + [""] * (most - len(row)) for row in words]
    of = lambda lines: [thin(np.array(column, object).reshape(shape)) for column in zip(*lines, strict=True)]  # noqa: E731
    return {"shape": shape, "items": of(rows), "said": of(words)}


def look_up(item: list, shape: Sequence[int], at: Sequence[int]) -> str:
    """What `live.js` finds: the value of an item for the state with these places along the grid."""
    axes, values = item
    place = 0
    for a in axes:
        place = place * shape[a] + at[a]
    return values[place]


def item_of(found: dict, number: int, at: Sequence[int]) -> str:
    """What a mark shows in a state."""
    value = look_up(found["items"][number], found["shape"], at)
    return item_of(found, number - 1, at) if value == SAME else value


def said(found: dict, at: Sequence[int]) -> str:
    """The alternative text of a state."""
    words, *numbers = (look_up(item, found["shape"], at) for item in found["said"])
    return re.sub("\0", lambda _: numbers.pop(0), words)


# ---------------------------------------------------------------- the piece of a page


def panels(picture: Picture) -> list[tuple[float, float, Axes]]:
    """(left end, right end, axes) of each part that can stand alone, in pixels."""
    renderer = picture.canvas.get_renderer()
    axes = sorted(picture.figure.axes, key=lambda ax: ax.get_position().x0)
    boxes = [ax.get_tightbbox(renderer, for_layout_only=True) for ax in axes]  # a title may stand out
    cuts = [(a.x1 + b.x0) / 2 for a, b in itertools.pairwise(boxes)]
    ends = [0, *np.rint(cuts).astype(int).tolist(), round(picture.figure.bbox.width)]
    return list(zip(ends, ends[1:], axes, strict=False))


def piece(name: str, picture: Picture, controls: dict, grid: dict[str, Sequence], more: str) -> str:
    """An explorer as HTML: its panels, its controls, its words, and the table of its states."""
    figure = picture.figure
    figure.set_layout_engine("none")  # all stays where it is
    found = table(picture, grid, controls)
    start = [list(values).index(start_of(controls[one])) for one, values in grid.items()]
    for artist in picture.moving:
        artist.set_visible(False)
    whole = Image.open(io.BytesIO(plots.png(figure, scale=2))).convert("RGB")
    height, parts, number = round(figure.bbox.height), [], 0
    at = {}  # of each mark, the number of its first item
    for artist in picture.moving:
        at[artist] = number
        number += len(style(artist))
    for i, (left, right, ax) in enumerate(panels(picture)):
        box, marks = ax.bbox, ""
        for artist in (artist for artist in picture.moving if artist.axes is ax):
            for j, one in enumerate(style(artist)):
                value = item_of(found, at[artist] + j, start)
                one = one.replace(" ", f' data-item="{at[artist] + j}" ', 1)
                clip = f' clip-path="url(#{name}-clip-{i})"' if artist.get_clip_on() and artist.get_clip_box() else ""
                marks += f"<g{clip}><g transform='scale({1 / QUARTER})'>{filled(one, value)}</g></g>"
        area = f'x="{box.x0:.1f}" y="{height - box.y1:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
        back = f'<image x="{left}" width="{right - left}" height="{height}" href="{data(whole, left, right)}"/>'
        clip = f'<clipPath id="{name}-clip-{i}"><rect {area}/></clipPath>'
        width = right - left
        room = f"flex:{width} 1 {width // 2}px;max-width:min(100%,{1.4 * width:.0f}px)"
        view = f'viewBox="{left} 0 {width} {height}" style="{room}"'
        parts.append(f'<svg aria-hidden="true" {view}>{clip}{back}{marks}</svg>')
    packed = base64.b64encode(zlib.compress(json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode(), 9))
    rows = "".join(_control(one, controls[one], grid[one], place) for (one, place) in zip(grid, start, strict=True))
    return (
        f'<figure class="live" id="{name}"><div class="panels" role="img" aria-labelledby="{name}-said">{"".join(parts)}'
        f'</div><form class="knobs" hidden>{rows}</form>'
        f'<p class="said" id="{name}-said" role="status">{html.escape(said(found, start))}</p>'
        + (f'<p class="more">In the notebook this picture has {html.escape(more)}.</p>' if more else "")
        + f'<script type="text/plain">{packed.decode()}</script></figure>\n'
    )


def data(picture: Image.Image, left: int, right: int) -> str:
    """A part of a picture, which has two pixels for each of the page, as an address."""
    buffer = io.BytesIO()
    part = picture.crop((2 * left, 0, 2 * right, picture.height))
    part.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def filled(element: str, value: str) -> str:
    """An element in the state with this value, as `live.js` leaves it."""
    if element.startswith("<text"):
        return element.replace("></text>", f">{lines_of(element, value)}</text>")
    shape = re.search('data-shape="([^"]*)"', element)
    course = value if not shape else "".join(f"M{x} {y}{shape[1]}" for x, y in places(value))
    return element.replace("<path ", f'<path d="{course}" ', 1)


def places(course: str) -> list[tuple[int, int]]:
    """The points of a course."""
    steps = np.array([int(n) for n in re.findall(r"-?\d+", course)]).reshape(-1, 2)
    return [tuple(point) for point in steps.cumsum(0).tolist()]


def lines_of(element: str, value: str) -> str:
    """The lines of a text at their places."""
    if not value:
        return ""
    place, *lines = value.split("\n")
    (x, y), size = places(place)[0], float(re.search('font-size="([^"]*)"', element)[1])
    first = {"top": 0.95, "center": 0.36 - 0.6 * (len(lines) - 1)}.get(re.search('data-va="([^"]*)"', element)[1], 0)
    spots = ((line, round(y + size * (first + 1.2 * i))) for i, line in enumerate(lines))
    return "".join(f'<tspan x="{x}" y="{spot}">{html.escape(line)}</tspan>' for line, spot in spots)


def _control(name: str, control, values: Sequence, place: int) -> str:
    shown = [f"{v:g}" if isinstance(v, int | float) else str(v) for v in values]
    slider = (
        f'<input type="range" name="{name}" min="0" max="{len(shown) - 1}" value="{place}" data-prevent-swipe '
        f'data-values="{html.escape(json.dumps(shown, ensure_ascii=False))}" aria-valuetext="{html.escape(shown[place])}">'
    )
    play = '<button type="button">Play</button>' if isinstance(control, Control) and control.play else ""
    label = f"<label><span>{html.escape(control.label)}</span>{slider}</label>"
    return f"<div>{label}<output>{html.escape(shown[place])}</output>{play}</div>"


def unpack(text: str) -> dict:
    """The table of a stored piece."""
    packed = re.search(r'<script type="text/plain">([^<]*)</script>', text)[1]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def build(name: str) -> str:
    """One of EXPLORERS as a piece of a page."""
    live = EXPLORERS[name]
    widget = drawn(name)
    return piece(name, widget.picture, widget.controls, live.grid, live.more)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(EXPLORERS)}")
    names = parser.parse_args(arguments).names or list(EXPLORERS)
    if unknown := sorted(set(names) - set(EXPLORERS)):
        parser.error(f"no such explorer: {', '.join(unknown)}; there are {', '.join(EXPLORERS)}")
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        text = build(name)
        (FOLDER / f"{name}.html").write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: {len(unpack(text)['items'])} marks, {len(text) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
