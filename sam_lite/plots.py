"""Figures from arrays: colour-blind-safe, told apart by line style too, with a caption and alt text.

What a line shows stands at its end; `ax.legend()` puts a legend in its place. One thing has one colour in the whole
course (`ROLES`). Figures are made without pyplot, so that none stay open behind the notebook's back.
"""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter
from PIL import Image

from sam_lite import require

# Okabe and Ito's colours (2008), in an order that also differs in grey
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
ROLES = {
    "SGD": 0,
    "gradient descent": 0,
    "SAM": 1,
    "small batches": 2,
    "large batches": 3,
    "training": 4,
    "fresh data": 5,
}
DIRECT = "label at the end"  # marks the lines that `show` labels


def subplots(
    rows: int = 1, columns: int = 1, *, width: float = 9.0, height: float = 3.4, title: str = ""
) -> tuple[Figure, Any]:
    """A figure of the given size in inches (height per row) and its axes: one, or an array (columns,) or (rows, columns).

    title: what the figure says, in a sentence.
    """
    figure = Figure(figsize=(width, height * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=True)
    for ax in np.atleast_1d(axes).flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure, axes


def band(
    ax: Axes, x: Sequence[float], y: np.ndarray, *, label: str, style: int | None = None, marker: bool = False
) -> None:
    """Mean over seeds with a band of one standard deviation. x: (n,), y: (n_seeds, n).

    A seed that is not finite somewhere, since it diverged, or masked, is left out there.
    style: number of colour and line style; if not given, those of the label's role, or the next that the axes have free.
    The band of positive values ends at the smallest, so that a logarithmic axis can show it.
    """
    x, y = np.asarray(x, float), np.atleast_2d(np.ma.filled(np.ma.asarray(y, float), np.nan))
    if y.shape[1] != len(x):
        raise ValueError(f"y must have shape (n_seeds, {len(x)}) to go with x, got {y.shape}")
    if not y.size:
        raise require.error("y", "of one seed or more, and one x or more", f"shape {y.shape} for {label!r}")
    if not np.isfinite(y).any():
        return diverged(ax, label)
    n = _number(ax, label, style)
    there = np.isfinite(y)
    counts, y = np.maximum(there.sum(0), 1), np.where(there, y, 0)
    mean = np.where(there.any(0), y.sum(0) / counts, np.nan)
    spread = np.sqrt(np.where(there, (y - mean) ** 2, 0).sum(0) / np.maximum(counts - 1, 1))
    line: dict[str, Any] = {
        "color": COLORS[n],
        "linestyle": STYLES[n],
        "marker": MARKERS[n] if marker else None,
        "ms": 5,
    }
    ax.plot(x, mean, label=label, gid=DIRECT, **line)
    low = np.maximum(mean - spread, y.min(0, where=there, initial=np.inf)) if (y[there] > 0).all() else mean - spread
    ax.fill_between(x, low, mean + spread, color=COLORS[n], alpha=0.15, linewidth=0)


def dots(ax: Axes, x: Sequence[float], y: Sequence[float], *, label: str, style: int | None = None) -> None:
    """One mark per model."""
    n = _number(ax, label, style)
    ax.plot(x, y, linestyle="none", marker=MARKERS[n], color=COLORS[n], ms=5, alpha=0.8, label=label)


def path(ax: Axes, points: np.ndarray, *, label: str, style: int | None = None) -> None:
    """A run in a plane, points (n, 2), with a mark where it ends."""
    n, points = _number(ax, label, style), np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must have shape (n, 2), a row for each, got {points.shape}")
    ax.plot(*points.T, color=COLORS[n], linestyle=STYLES[n], lw=1.3, label=label, gid=DIRECT)
    ax.plot(*points[-1], color=COLORS[n], marker=MARKERS[n])


def contours(
    ax: Axes, x: Sequence[float], y: Sequence[float], heights: np.ndarray, *, levels: int = 14
) -> QuadContourSet:
    """Grey contour lines behind what else is drawn. x: (n,), y: (m,), heights: (m, n). Returned for `ax.clabel`."""
    return ax.contour(
        np.asarray(x), np.asarray(y), np.asarray(heights), levels=levels, colors="grey", linewidths=0.6, zorder=0
    )


def _number(ax: Axes, label: str, style: int | None) -> int:
    used = sum(not str(line.get_label()).startswith("_") for line in ax.lines)
    return (ROLES.get(label, used) if style is None else style) % len(COLORS)


def _label_ends(figure: Figure) -> None:
    """Write at the end of each line what it shows, apart from one another, in axes without a legend."""
    for ax in figure.axes:
        lines = [line for line in ax.lines if line.get_gid() == DIRECT and not str(line.get_label()).startswith("_")]
        if ax.get_legend() or not lines:
            continue
        points = [line.get_xydata()[np.isfinite(line.get_xydata()).all(1)] for line in lines]
        lines = [line for line, there in zip(lines, points, strict=True) if len(there)]  # not one that diverged
        ends = [ax.transData.transform(there[-1]) for there in points if len(there)]
        gap, last = 15 * figure.dpi / 100, float("-inf")
        for i in sorted(range(len(lines)), key=lambda i: ends[i][1]):
            last = max(float(ends[i][1]), last + gap)
            shift = (7, (last - ends[i][1]) * 72 / figure.dpi)
            style = {"color": lines[i].get_color(), "fontsize": 10, "va": "center", "annotation_clip": False}
            at = ax.transData.inverted().transform(ends[i])
            ax.annotate(str(lines[i].get_label()), tuple(at), xytext=shift, textcoords="offset points", **style)
            lines[i].set_gid(None)  # once


def headline(ax: Axes, text: str = " ") -> Text:
    """The title of one panel, which says what it shows; an explorer may write it anew for each state."""
    return ax.set_title(text, loc="left", fontsize=10, fontweight="bold")


def diverged(ax: Axes, label: str) -> None:
    """Say in the picture that there is nothing to draw, and why."""
    ax.text(0.5, 0.5, f"{label}: diverged", transform=ax.transAxes, ha="center", va="center")


def png(figure: Figure, scale: float = 1.0) -> bytes:
    """The figure as PNG without date or version, so that the same figure gives the same bytes. scale: pixels per pixel."""
    whole = _full_png(figure, scale)
    picture = Image.open(io.BytesIO(whole)).convert("RGB")
    if not picture.getcolors(4096):
        return whole
    buffer = io.BytesIO()  # lines and letters: a palette shows them as well, in a third of the bytes
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _full_png(figure: Figure, scale: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, dpi=scale * figure.dpi)
    return buffer.getvalue()


def show(figure: Figure, *, caption: str, alt: str, plain: bool = False) -> None:
    """Display a figure as a plain PNG with its alternative text, and the caption below it.

    caption: a sentence that says what to see. alt: what the picture shows, for readers who cannot see it. The PNG has
    twice the pixels of its size on the page, for dense screens. plain: single pixels, and no labels at the ends of lines.
    """
    if not plain:
        _label_ends(figure)
        for ax in figure.axes:  # numbers between the powers of ten would run into one another
            for axis in (ax.xaxis, ax.yaxis):
                if axis.get_scale() == "log":
                    axis.set_minor_formatter(NullFormatter())
    width = None if plain else round(figure.get_figwidth() * figure.dpi)
    _display(png(figure, scale=1 if plain else 2), caption, alt, width)


def animate(
    figure: Figure, draw: Callable[[int], object], frames: int, *, seconds: float = 5.0, caption: str, alt: str
) -> None:
    """Display an animated PNG of draw(0), ..., draw(frames - 1), each of which changes `figure`, played once.

    The last frame stays at the end, and is what a browser or printer shows that shows only one picture.
    """
    if frames < 2:
        raise ValueError(f"frames must be >= 2 to move, got {frames}; use show(figure, ...)")
    pictures: list[Image.Image] = []
    for i in reversed(range(frames)):  # the last has all that is ever drawn, so its colours serve for all
        draw(i)
        picture = Image.open(io.BytesIO(_full_png(figure))).convert("RGB")
        palette = pictures[0] if pictures else None
        pictures.append(picture.quantize(64, palette=palette, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    moving = {"save_all": True, "default_image": True, "duration": round(1000 * seconds / frames), "loop": 1}
    pictures[0].save(buffer, format="PNG", append_images=pictures[::-1], **moving)
    _display(buffer.getvalue(), caption, alt)


def _display(image: bytes, caption: str, alt: str, width: int | None = None) -> None:
    for name, text in (("caption", caption), ("alt", alt)):
        if not text.strip():
            raise ValueError(f"{name} must not be empty: a figure without it is unreadable to some")
    data = {"image/png": base64.b64encode(image).decode(), "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt} | ({"width": width} if width else {})}, raw=True)
    display(Markdown(f"*{caption}*"))


def table(rows: dict[str, Sequence[str]], columns: Sequence[str], *, caption: str) -> None:
    """Display texts as a Markdown table with the caption below it: rows: name -> one text per column."""
    for name, row in rows.items():
        if len(row) != len(columns):
            raise ValueError(f"row {name!r} must have {len(columns)} entries, one per column, got {len(row)}")
    lines = [["", *columns], ["---", *["---:"] * len(columns)], *([name, *row] for name, row in rows.items())]
    if odd := [text for line in lines for text in line if not isinstance(text, str) or "\n" in text]:
        raise require.error("the entries of a table", "texts of one line", odd[0], "write a number as f'{number:.2f}'")
    whole = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
    display(Markdown("\n".join(whole) + f"\n\n*{caption}*"))
