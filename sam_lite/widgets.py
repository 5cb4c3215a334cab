"""A figure with controls.

A widget is rows of controls and a picture. Moving a control calls `update` of the picture, which moves its marks and
says in words what is to be seen; only the marks are drawn anew, on pixels of the rest that were kept. The picture is
HTML with an alternative text, so nothing piles up, and errors show in its place. The still figure above a widget is
for where there is no kernel: while the widget is shown, it hides that figure. What takes longer, such as training, has
a button, and a task that gives way between its pieces, so that progress shows and Stop is heard.
"""

import asyncio
import base64
import html
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ipywidgets
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sam_lite import plots, require

# Not both in one output: JupyterLab would show neither, once the kernel that has the widget is gone.
LIVE = "sam-lite-live"
ONE_PICTURE = """<style>
.jp-OutputArea:has(.sam-lite-live:not(.jupyter-widgets-disconnected)) > .jp-OutputArea-child:has(.jp-RenderedImage),
.sam-lite-live.jupyter-widgets-disconnected { display: none; }
</style>"""


class Control(NamedTuple):
    """A number that can be moved: from low to high in steps, with the unit or meaning in words. play: it can run."""

    label: str
    low: float
    high: float
    step: float
    start: float
    play: bool = False


class Choice(NamedTuple):
    """One of several; the first at the start, or `start`."""

    label: str
    options: Sequence
    start: object = None


class Picture:
    """A figure of which only `moving` changes. update(**values): moves them, and returns the alternative text."""

    def __init__(self, figure: Figure, moving: Sequence[Artist], update: Callable[..., str]):
        self.figure, self.moving, self.update = figure, moving, update
        self.canvas = FigureCanvasAgg(figure)
        for artist in moving:
            artist.set_animated(True)
        self.canvas.draw()
        self.rest = self.canvas.copy_from_bbox(figure.bbox)

    def html(self, **values: float) -> str:
        """The picture for these values as an <img>; what went wrong in its place, if anything did."""
        width, height = self.canvas.get_width_height()
        try:
            alt = self.update(**values)
        except Exception as error:  # whatever it is, the student shall see it where the picture was
            said = html.escape(f"{type(error).__name__}: {error}")
            box = f"width:{width}px;max-width:100%;aspect-ratio:{width}/{height}"
            return f'<div role="alert" style="{box}">{said}<br>Move a control to go on.</div>'
        self.canvas.restore_region(self.rest)
        for artist in self.moving:
            self.figure.draw_artist(artist)
        pixels, buffer = Image.frombuffer("RGBA", (width, height), self.canvas.buffer_rgba()), io.BytesIO()
        pixels.convert("RGB").save(buffer, "PNG", compress_level=1)
        data = base64.b64encode(buffer.getvalue()).decode()
        size = f'width="{width}" height="{height}" style="max-width:100%;height:auto"'
        return f'<img {size} alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def explorer(
    picture: Picture,
    controls: Mapping[str, Control | Choice],
    *,
    caption: str,
    train: Callable[..., Iterator[float]] | None = None,
) -> ipywidgets.VBox:
    """Show the figure for the start values, and in its place the widget where a kernel runs; return the widget, which
    keeps its `picture` and `controls`. controls: by names of `update`.

    Each is a slider, and beside it a number box (Control) or a list (Choice), which always agree. All go by keyboard:
    JupyterLab keeps the arrow keys from a list, but not from a slider.
    train(**values): what the button Train does for the values of the moment, see `training`.
    """
    inputs = {name: _slider(control) for name, control in controls.items()}
    values = lambda: {name: one.value for name, one in inputs.items()}  # noqa: E731
    alt = picture.update(**values())
    for artist in picture.moving:
        artist.set_animated(False)
    plots.show(picture.figure, caption=caption, alt=alt, plain=True)  # the static twin
    for artist in picture.moving:
        artist.set_animated(True)
    shown = ipywidgets.HTML(picture.html(**values()))

    def redraw(change: dict | None = None) -> None:
        shown.value = picture.html(**values())

    for one in inputs.values():
        one.observe(redraw, "value")
    rows = [_row(controls[name], one) for name, one in inputs.items()]
    if train:
        rows.append(training(lambda: train(**values()), redraw))
    widget = ipywidgets.VBox([ipywidgets.HTML(ONE_PICTURE), *rows, shown])
    widget.add_class(LIVE)
    widget.picture, widget.controls = picture, controls
    view = {"model_id": widget.model_id, "version_major": 2, "version_minor": 0}
    text = "Run this cell to move the controls."
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)
    return widget


def training(start: Callable[[], Iterator[float]], finished: Callable[[], None]) -> ipywidgets.HBox:
    """Buttons Train and Stop, a bar and a line of text. start() yields the share done after every piece of work, each
    well under a second; `finished` is called at its end. Stopped or failed runs change nothing."""
    go, stop = ipywidgets.Button(description="Train"), ipywidgets.Button(description="Stop", disabled=True)
    bar = ipywidgets.FloatProgress(max=1.0, layout=ipywidgets.Layout(width="12em"))
    said = ipywidgets.HTML("")
    tasks: list[asyncio.Task] = []

    async def run() -> None:
        for share in start():
            bar.value = share
            await asyncio.sleep(0.01)  # time for the kernel to hear Stop and the other controls
        finished()

    def ended(task: asyncio.Task) -> None:
        tasks.clear()
        go.disabled, stop.disabled, bar.value = False, True, 0.0
        if task.cancelled():
            said.value = "Stopped; nothing was added."
        elif task.exception():  # the student shall see it, whatever it is
            said.value = html.escape(f"{type(task.exception()).__name__}: {task.exception()}")
        else:
            said.value = "Done, and added to the picture."

    def begin(_: ipywidgets.Button) -> None:
        if not tasks:  # a second press, sent before the button was seen to be off
            go.disabled, stop.disabled, said.value = True, False, "Training …"
            tasks.append(asyncio.get_running_loop().create_task(run()))
            tasks[0].add_done_callback(ended)

    go.on_click(begin)
    stop.on_click(lambda _: [task.cancel() for task in tasks])
    return ipywidgets.HBox([go, stop, bar, said], layout=ipywidgets.Layout(flex_flow="row wrap", min_height="36px"))


def _row(control: Control | Choice, slider: ipywidgets.Widget) -> ipywidgets.HBox:
    beside: dict[str, Any] = {
        "tooltip": f"{control.label}, as a number" if isinstance(control, Control) else f"{control.label}, by name"
    }
    beside |= {"style": {"description_width": "4em"}}
    if isinstance(control, Choice):
        layout = ipywidgets.Layout(width="16em", max_width="100%")
        box = ipywidgets.Dropdown(
            options=slider.options, value=slider.value, description="name", layout=layout, **beside
        )
        ipywidgets.link((slider, "value"), (box, "value"))
        row = [slider, box]
    else:
        limits = {"min": control.low, "max": control.high, "step": control.step}
        layout = ipywidgets.Layout(width="11em")
        box = ipywidgets.BoundedFloatText(value=control.start, description="number", layout=layout, **limits, **beside)
        tidy = lambda value: round(value, 9)  # noqa: E731  # the browser's slider says 1.0000000000000002
        ipywidgets.link((slider, "value"), (box, "value"), transform=(tidy, tidy))
        row = [slider, box, _play(control, slider)] if control.play else [slider, box]
    return ipywidgets.HBox(row, layout=ipywidgets.Layout(flex_flow="row wrap"))


def _play(control: Control, slider: ipywidgets.FloatSlider) -> ipywidgets.Play:
    if any(number != int(number) for number in (control.low, control.high, control.step, control.start)):
        raise require.error("a control that can run", "of whole numbers", control, "leave out play")
    play = ipywidgets.Play(min=int(control.low), max=int(control.high), step=int(control.step), interval=150)
    play.value = int(control.start)
    ipywidgets.link((play, "value"), (slider, "value"))
    return play


def _slider(control: Control | Choice) -> ipywidgets.Widget:
    common = {
        "description": control.label,
        "readout": False,
        "style": {"description_width": "13em"},
        "layout": ipywidgets.Layout(width="32em", max_width="100%"),
    }
    if isinstance(control, Choice):
        start = control.options[0] if control.start is None else control.start
        return ipywidgets.SelectionSlider(options=control.options, value=start, **common)
    limits = {"min": control.low, "max": control.high, "step": control.step}
    return ipywidgets.FloatSlider(value=control.start, **limits, **common)
