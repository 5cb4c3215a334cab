"""The explorer of the recorded study: which measure goes along with the generalization gap."""

import ipywidgets
import pandas as pd

from sam_lite import measures, plots, ranking, require, study
from sam_lite.widgets import Choice, Picture, explorer

SHAPES = "●■▲◆▼✚✖"  # of plots.MARKERS


def measure_explorer(table: pd.DataFrame | None = None) -> ipywidgets.VBox:
    """The gap against any measure of the recorded study, a mark per setting (mean of its seeds), with tau and Psi (04).

    table: as of `measures.load_study`, which is the default.
    """
    axes = list(study.SETTINGS)
    table = measures.load_study() if table is None else table
    if absent := {"status", "seed", "lr", "gap", "trace", *axes} - set(table):
        raise require.error("table", "one of `measures.load_study`", f"none of {', '.join(sorted(absent))}")
    levels = {axis: table[axis].nunique(dropna=False) for axis in axes}
    if max(levels.values()) > len(SHAPES) or table[axes].isna().any(axis=None):
        rule = f"one with up to {len(SHAPES)} values of an axis, none of them missing"
        raise require.error("table", rule, levels, "leave rows out, as in table[table['width'] < 200]")
    settings = (
        table[table["status"] == "stop_loss"]
        .drop(columns=["status", "seed", "lr"])
        .groupby(axes, as_index=False)
        .mean(numeric_only=True)
    )
    if settings.empty:
        raise require.error("table", "one with networks of the status 'stop_loss'", sorted(set(table["status"])))
    known = [*axes, "gap", "train_loss", "train_acc", "test_loss", "test_acc"]
    names = ["trace", *(name for name in settings if name not in [*known, "trace"])]
    held = ["nothing", *(f"{axis} = {value}" for axis in axes for value in sorted(settings[axis].unique()))]
    figure, ax = plots.subplots(width=7, height=4.2)
    marks = [
        ax.plot([], [], linestyle="none", marker=plots.MARKERS[i], color=plots.COLORS[i], ms=4, alpha=0.7)[0]
        for i in range(max(levels.values()))
    ]
    shapes = ax.text(0.02, 0.97, "", transform=ax.transAxes, va="top", fontsize=9)
    title = plots.headline(ax)
    gaps = 100 * settings["gap"]
    ax.set(xlabel="measure, by rank: least on the left", ylabel="generalization gap (points)", xlim=(-0.03, 1.03))
    ax.set_ylim(gaps.min() - 0.5, gaps.max() + 1.5)

    def update(measure: str, colour: str, only: str) -> str:
        axis, _, value = only.partition(" = ")
        part = settings if only == "nothing" else settings[settings[axis].astype(str) == value]
        part = part.sort_values(measure)  # neighbours in the picture are stored in few bytes on a page
        place, values = part[measure].rank(pct=True), sorted(settings[colour].unique())
        for line, level in zip(marks, values, strict=False):
            chosen = part[colour] == level
            line.set_data(place[chosen], 100 * part["gap"][chosen])
        left = [a for a in axes if part[a].nunique() > 1]
        tau, psi = ranking.tau(part, measure), ranking.psi(part, measure, left)
        levels = ", ".join(f"{shape} {level}" for shape, level in zip(SHAPES, values, strict=False))
        title.set_text(f"{measure}: τ = {tau:+.2f}, Ψ = {psi:+.2f}")
        shapes.set_text(f"{colour}: {levels}")
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
        Picture(figure, [*marks, shapes, title], update),
        controls,
        caption="Each mark is a setting of the seven hyper-parameters: its gap against the rank of a measure. A good "
        "measure makes the cloud rise to the right, for whatever is held fixed.",
    )
