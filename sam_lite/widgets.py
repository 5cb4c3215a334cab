"""The same figures with sliders.

A widget is a row of controls and a picture. Moving a control calls `update` of the picture, which moves its marks and
says in words what is to be seen; only the marks are drawn anew, on pixels of the rest that were kept. The picture is
HTML with an alternative text, so nothing piles up, errors show in its place, and a page without a kernel shows the
static figure that stands above each widget.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ipywidgets
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sam_lite import measures, plots, ranking, study, toys
from sam_lite.sam import p_ascent


class Control(NamedTuple):
    """A number that can be moved: from low to high in steps, with the unit or meaning in words."""

    label: str
    low: float
    high: float
    step: float
    start: float


class Choice(NamedTuple):
    """One of several; the first at the start."""

    label: str
    options: Sequence[str]


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
            return (
                f'<div role="alert" style="width:{width}px;height:{height}px">{said}<br>Move a control to go on.</div>'
            )
        self.canvas.restore_region(self.rest)
        for artist in self.moving:
            artist.axes.draw_artist(artist)
        pixels, buffer = Image.frombuffer("RGBA", (width, height), self.canvas.buffer_rgba()), io.BytesIO()
        pixels.convert("RGB").save(buffer, "PNG", compress_level=1)
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<img width="{width}" height="{height}" alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def explorer(picture: Picture, controls: dict[str, Control | Choice], *, caption: str) -> ipywidgets.VBox:
    """Show the figure for the start values, and below it the widget; return the widget. controls: by names of `update`.

    A Control is a slider and a number box beside it, which always agree; a Choice is a list. All go by keyboard.
    """
    inputs = {name: _choice(c) if isinstance(c, Choice) else _slider(c) for name, c in controls.items()}
    start = {name: one.value for name, one in inputs.items()}
    alt = picture.update(**start)
    for artist in picture.moving:
        artist.set_animated(False)
    plots.show(picture.figure, caption=caption, alt=alt)  # the static twin
    for artist in picture.moving:
        artist.set_animated(True)
    height = f"{picture.canvas.get_width_height()[1] + 8}px"
    shown = ipywidgets.HTML(picture.html(**start), layout=ipywidgets.Layout(min_height=height))

    def moved(change: dict) -> None:
        shown.value = picture.html(**{name: one.value for name, one in inputs.items()})

    rows = []
    for name, one in inputs.items():
        one.observe(moved, "value")
        row = [one] if isinstance(controls[name], Choice) else [one, _box(controls[name], one)]
        rows.append(ipywidgets.HBox(row, layout=ipywidgets.Layout(flex_flow="row wrap")))
    widget = ipywidgets.VBox([*rows, shown])
    view = {"model_id": widget.model_id, "version_major": 2, "version_minor": 0}
    text = "Run this cell to move the controls."
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)
    return widget


def _choice(choice: Choice) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(
        options=choice.options,
        description=choice.label,
        style={"description_width": "13em"},
        layout=ipywidgets.Layout(width="32em", max_width="100%"),
    )


def _slider(control: Control) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=control.start,
        min=control.low,
        max=control.high,
        step=control.step,
        description=control.label,
        readout=False,
        style={"description_width": "13em"},
        layout=ipywidgets.Layout(width="32em", max_width="100%"),
    )


def _box(control: Control, slider: ipywidgets.FloatSlider) -> ipywidgets.BoundedFloatText:
    box = ipywidgets.BoundedFloatText(
        value=control.start,
        min=control.low,
        max=control.high,
        step=control.step,
        description="number",
        tooltip=f"{control.label}, as a number",
        style={"description_width": "4em"},
        layout=ipywidgets.Layout(width="11em"),
    )
    ipywidgets.link((slider, "value"), (box, "value"))
    return box


def step_explorer() -> ipywidgets.VBox:
    """One step of SAM on a valley, as two arrows, and the paths of SAM and gradient descent from there (lecture 05).

    The loss is (w1^2 + 10 w2^2) / 2; the climb is in the p-norm chosen.
    """
    hessian = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    loss = toys.quadratic(hessian)
    side = np.linspace(-2.2, 2.2, 111)
    x, y = np.meshgrid(side, side / 2)
    figure, ax = plots.subplots(width=7, height=4.4)
    ax.contour(x, y, (x**2 + 10 * y**2) / 2, levels=np.geomspace(0.05, 8, 9), colors="grey", linewidths=0.6)
    ax.set(xlabel="w₁ (flat direction)", ylabel="w₂ (sharp direction)", xlim=(-2.2, 2.2), ylim=(-1.1, 1.1))
    (descent,) = ax.plot([], [], color=plots.COLORS[0], linestyle="--", marker="o", ms=3, label="gradient descent")
    (path,) = ax.plot([], [], color=plots.COLORS[1], marker="s", ms=3, label="SAM")
    (climb,) = ax.plot(
        [], [], color=plots.COLORS[2], linewidth=3, linestyle=":", marker="^", ms=6, label="1: climb by ρ"
    )
    (down,) = ax.plot(
        [], [], color=plots.COLORS[3], linewidth=3, marker="D", ms=5, label="2: descend with the slope up there"
    )
    ax.legend(fontsize=8, loc="upper right")

    def update(rho: float, lr: float, w1: float, w2: float, p: float) -> str:
        start = torch.tensor([w1, w2], dtype=torch.float64)
        walk, plain = (_walk(hessian, start, lr, r, p) for r in (rho, 0.0))
        climbed = start + p_ascent(p)({"w": hessian @ start}, {}, rho)["w"]
        up = torch.stack([start, climbed])
        for line, points in ((path, walk), (descent, plain), (climb, up), (down, walk[:2])):
            line.set_data(*points.T.numpy())
        ends = [f"{float(loss({'w': points[-1]})):.2g}" for points in (walk, plain)]
        return (
            f"Contours of a narrow valley. From ({w1:g}, {w2:g}) SAM climbs by {rho:g} and steps with rate {lr:g}; "
            f"after 20 steps its loss is {ends[0]}, that of gradient descent {ends[1]}."
        )

    controls = {
        "rho": Control("ρ, radius of the climb", 0.0, 1.0, 0.01, 0.3),
        "lr": Control("η, learning rate", 0.005, 0.25, 0.005, 0.1),
        "w1": Control("w₁ of the start", -2.0, 2.0, 0.05, -1.8),
        "w2": Control("w₂ of the start", -1.0, 1.0, 0.05, 0.7),
        "p": Control("p, norm of the climb", 1.0, 6.0, 0.5, 2.0),
    }
    moving = [descent, path, climb, down]
    return explorer(
        Picture(figure, moving, update),
        controls,
        caption="One step of SAM as two arrows, then twenty steps beside gradient descent. SAM ends up jumping "
        "across the valley: the larger ρ and η, the farther.",
    )


def _walk(hessian: Tensor, start: Tensor, lr: float, rho: float, p: float, steps: int = 20) -> Tensor:
    """SAM with the p-norm's ascent on `toys.quadratic`, whose slope is H w: (steps + 1, d). rho 0: gradient descent."""
    points, ascent = [start], p_ascent(p)
    for _ in range(steps):
        w = points[-1]
        points.append(w - lr * hessian @ (w + ascent({"w": hessian @ w}, {}, rho)["w"]))
    return torch.stack(points)


def bouncing_explorer() -> ipywidgets.VBox:
    """SAM on a quadratic with two eigenvalues: its path, its size against theory, and where it drifts (lecture 08)."""
    figure, (left, right) = plots.subplots(1, 2, width=9, height=3.6)
    (orbit,) = left.plot([], [], color=plots.COLORS[1], marker="s", ms=3, linewidth=0.8, label="SAM, 60 steps")
    left.set(xlabel="w₁, along λ₁", ylabel="w₂, along λ₂", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    left.legend(fontsize=8, loc="upper right")
    (size,) = right.plot([], [], color=plots.COLORS[0], marker="o", ms=3, label="|w| of each step")
    (theory,) = right.plot([], [], color=plots.COLORS[2], linestyle="--", label="theory: ηρλ₁/(2 − ηλ₁)")
    right.set(yscale="log", xlabel="step", ylabel="distance from the minimum", xlim=(0, 60), ylim=(1e-3, 1e2))
    right.legend(fontsize=8, loc="upper right")

    def update(lr: float, rho: float, first: float, second: float, w1: float, w2: float) -> str:
        hessian = torch.diag(torch.tensor([first, second], dtype=torch.float64))
        points = _walk(hessian, torch.tensor([w1, w2], dtype=torch.float64), lr, rho, 2.0, 60)
        points = points.nan_to_num(1e6, 1e6, -1e6).clamp(-1e6, 1e6)
        top = max(first, second)
        stable = lr * top < 2
        end = toys.two_cycle_amplitude(lr, rho, top) if stable else float("nan")
        orbit.set_data(points[:, 0].numpy(), points[:, 1].numpy())
        size.set_data(range(61), points.norm(dim=1).numpy())
        theory.set_data([0, 60], [end, end])
        last = float(points[-1].norm())
        if not stable:
            return f"ηλ is {lr * top:.2g}, not below 2: the path leaves the picture."
        return f"After 60 steps SAM is at a distance of {last:.3g} from the minimum; theory says it ends bouncing at {end:.3g}."

    controls = {
        "lr": Control("η, learning rate", 0.01, 1.0, 0.01, 0.3),
        "rho": Control("ρ, radius of the climb", 0.0, 1.0, 0.01, 0.3),
        "first": Control("λ₁, curvature", 0.1, 5.0, 0.1, 3.0),
        "second": Control("λ₂, curvature", 0.1, 5.0, 0.1, 1.0),
        "w1": Control("w₁ of the start", -1.5, 1.5, 0.05, 1.0),
        "w2": Control("w₂ of the start", -1.5, 1.5, 0.05, 1.2),
    }
    return explorer(
        Picture(figure, [orbit, size, theory], update),
        controls,
        caption="SAM on a quadratic. Left its path, right its distance from the minimum, which settles at what theory "
        "says: a bounce along the direction of largest curvature.",
    )


def measure_explorer(table: pd.DataFrame | None = None) -> ipywidgets.VBox:
    """The gap against any measure of the recorded study, a mark per setting (mean of its seeds), with tau and Psi (04).

    table: as of `measures.load_study`, which is the default.
    """
    axes = list(study.SETTINGS)
    table = measures.load_study() if table is None else table
    settings = (
        table[table["status"] == "stop_loss"]
        .drop(columns=["status", "seed", "lr"])
        .groupby(axes, as_index=False)
        .mean()
    )
    known = [*axes, "gap", "train_loss", "train_acc", "test_loss", "test_acc"]
    names = ["trace", *(name for name in settings if name not in [*known, "trace"])]
    held = ["nothing", *(f"{axis} = {value}" for axis in axes for value in sorted(settings[axis].unique()))]
    figure, ax = plots.subplots(width=7, height=4.2)
    marks = [
        ax.plot([], [], linestyle="none", marker=plots.MARKERS[i], color=plots.COLORS[i], ms=4, alpha=0.7)[0]
        for i in range(3)
    ]
    text = ax.text(0.02, 0.97, "", transform=ax.transAxes, va="top", fontsize=9)
    gaps = 100 * settings["gap"]
    ax.set(xlabel="measure, by rank: least on the left", ylabel="generalization gap (points)", xlim=(-0.03, 1.03))
    ax.set_ylim(gaps.min() - 0.5, gaps.max() + 1.5)

    def update(measure: str, colour: str, only: str) -> str:
        axis, _, value = only.partition(" = ")
        part = settings if only == "nothing" else settings[settings[axis].astype(str) == value]
        place, values = part[measure].rank(pct=True), sorted(settings[colour].unique())
        for line, level in zip(marks, values, strict=False):
            chosen = part[colour] == level
            line.set_data(place[chosen], 100 * part["gap"][chosen])
        left = [a for a in axes if part[a].nunique() > 1]
        tau, psi = ranking.tau(part, measure), ranking.psi(part, measure, left)
        levels = ", ".join(f"{shape} {level}" for shape, level in zip("●■▲", values, strict=False))
        text.set_text(f"{measure}: τ = {tau:+.2f}, Ψ = {psi:+.2f}; {colour}: {levels}")
        return (
            f"The gap of {len(part)} settings against the rank of {measure}, marked by {colour}, held fixed: {only}. "
            f"Kendall's tau is {tau:+.2f}, Psi {psi:+.2f}."
        )

    controls = {
        "measure": Choice("measure", names),
        "colour": Choice("marks tell apart", axes),
        "only": Choice("hold fixed", held),
    }
    return explorer(
        Picture(figure, [*marks, text], update),
        controls,
        caption="Each mark is a setting of the seven hyper-parameters: its gap against the rank of a measure. A good "
        "measure makes the cloud rise to the right, for whatever is held fixed.",
    )
