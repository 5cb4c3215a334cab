"""The explorers of trained networks: batch size and SAM's radius."""

from collections.abc import Iterator

import ipywidgets
import numpy as np

from sam_lite import grids, plots, require
from sam_lite.widgets import Choice, Picture, explorer

DONE = {"marker": "o", "ms": 4, "alpha": 0.7}
UNDONE = {"marker": "x", "ms": 5}
DISTANCES = np.linspace(0, 1, 9)[:5]  # from a solution, in parts of the weights' norm


def batch_explorer(budget: str = "updates") -> ipywidgets.VBox:
    """Test accuracy, λ_max and the line from the networks of batch 32, over batch size, learning-rate rule and budget.

    From the recorded grid, five seeds each (lecture 02). Train repeats the setting with other batches: stars. budget: at
    the start.
    """
    if budget not in grids.BUDGETS:
        raise require.error("budget", f"one of {', '.join(grids.BUDGETS)}", budget)
    cells, base = grids.recorded()["batch"], grids.recorded()["reference"]
    live: dict[tuple, dict] = {}
    figure, axes = plots.subplots(1, 3, width=11, height=3.6)
    panels = [(axes[0], plots.ROLES["fresh data"]), (axes[1], plots.ROLES["SGD"])]
    curves = [[_mark(ax, n, linestyle="none", **style) for style in (DONE, UNDONE)] for ax, n in panels]
    means = [_mark(ax, n, lw=1.2) for ax, n in panels]
    here = [ax.axvline(grids.SIZES[0], color="grey", linestyle=":") for ax, _ in panels]
    stars = [_mark(ax, 6, linestyle="none", marker="*", ms=10) for ax, _ in panels]
    lines = [_mark(axes[2], plots.ROLES["training"], lw=1, alpha=0.6) for _ in grids.SEEDS]
    for ax, label in zip(axes, ("test accuracy (%)", "largest eigenvalue of H", "training loss (nats)"), strict=True):
        ax.set(xscale="log", xlabel="batch size", ylabel=label, xlim=(6, 1300))
        ax.set_xticks([8, 32, 128, 512], ["8", "32", "128", "512"])
        ax.minorticks_off()
    axes[0].set_ylim(15, 55)
    axes[1].set(yscale="log", ylim=(0.1, 50))
    axes[2].set(xscale="linear", xlabel="α, on the line between them", xlim=(-0.5, 1.5), yscale="log", ylim=(1e-3, 10))
    axes[2].set_xticks([0, 1], ["0: batch 32", "1: this batch"])
    titles = [plots.headline(ax) for ax in axes]
    numbers = [
        100 * np.array([c["test_acc"] for c in cells.values()]),
        np.array([c["lambda_max"] for c in cells.values()]),
    ]
    keys = list(cells)
    reached = np.array([c["train_loss"] < 1.01 * grids.ENOUGH for c in cells.values()])

    def update(size: int, rule: str, budget: str) -> str:
        chosen = [keys.index((s, rule, budget)) for s in grids.SIZES]
        for values, marks, mean, star, name in zip(
            numbers, curves, means, stars, ("test_acc", "lambda_max"), strict=True
        ):
            sizes = np.repeat(grids.SIZES, len(grids.SEEDS)).reshape(values[chosen].shape)
            for mark, which in zip(marks, (reached[chosen], ~reached[chosen]), strict=True):
                mark.set_data(sizes[which], values[chosen][which])
            mean.set_data(grids.SIZES, _mean(values[chosen]))
            added = [(s, v) for (s, r, b), cell in live.items() if (r, b) == (rule, budget) for v in cell[name]]
            star.set_data([s for s, _ in added], [100 * v if name == "test_acc" else v for _, v in added])
        for line in here:
            line.set_xdata([size, size])
        cell = cells[size, rule, budget]
        pair = [chosen[grids.SIZES.index(s)] for s in (32, size)]
        ends = [[_mean(v[i]) for i in pair] for v in numbers]
        titles[0].set_text(f"Batch {size} against 32: {ends[0][1] - ends[0][0]:+.1f} points")
        fair = f"{ends[1][1]:.2g} at {size}, {ends[1][0]:.2g} at 32"
        both = fair if reached[pair].all() else f"{size} ran out of updates"
        titles[1].set_text(f"λ_max: {both}")
        titles[2].set_text(f"Between the two: loss up to {_mean(cell['line'][:, 5:16].max(1)):.2g}")
        for line, values in zip(lines, cell["line"], strict=True):
            line.set_data(grids.ALPHAS, values)
        there = f"{int(reached[pair[1]].sum())} of {len(grids.SEEDS)} reached {grids.ENOUGH}"
        plan = grids.schedule(size, rule, budget)
        return (
            f"Batch size {size}, learning rate {plan['lr']:.3g}, {plan['steps']} updates: test accuracy "
            f"{100 * _mean(cell['test_acc']):.1f} %, largest eigenvalue {_mean(cell['lambda_max']):.3g}, training loss "
            f"{_mean(cell['train_loss']):.2g}; {there}; {len(live)} settings trained live."
        )

    def train(size: int, rule: str, budget: str) -> Iterator[float]:
        for share, params in grids.training(**grids.schedule(size, rule, budget), order=1 + len(live)):
            networks = params
            yield 0.95 * share
        live[size, rule, budget] = grids.measured(networks, base)

    controls = {
        "size": Choice("batch size", grids.SIZES, 512),
        "rule": Choice("learning rate", list(grids.RULES)),
        "budget": Choice("equal number of", grids.BUDGETS, budget),
    }
    moving = [*here, *sum(curves, []), *means, *stars, *lines, *titles]
    return explorer(
        Picture(figure, moving, update),
        controls,
        caption="Five networks for each batch size. Left and middle: accuracy on fresh data and largest eigenvalue; the "
        "dotted line marks the chosen batch size. Right: the training loss on the straight line from the network of batch "
        "32 (α = 0) to that of the chosen batch (α = 1). A circle is a network that reached a training loss of 0.01. A "
        "cross is one that ran out of updates before; do not compare it with a circle.",
        train=train,
    )


def epochs_explorer() -> ipywidgets.VBox:
    """`batch_explorer`, from equal epochs (lecture 03)."""
    return batch_explorer("epochs")


def rho_explorer() -> ipywidgets.VBox:
    """What the radius ρ of SAM changes against SGD: accuracy, curvature, and the width of the valley (lecture 06)."""
    found, rhos, ranks = grids.recorded()["rho"], list(grids.RHOS), range(1, 11)
    gain, top, width = found["test_acc"] - found["test_acc"][0], found["spectrum"].mean(1), valley(found["surface"])
    figure, axes = plots.subplots(1, 3, width=11, height=3.6)
    plots.band(axes[0], rhos, 100 * gain.T, label="SAM", marker=True)
    axes[0].axhline(0, color=plots.COLORS[0])
    axes[0].text(0.78, 0.2, "SGD", color=plots.COLORS[0], ha="right")
    axes[0].text(0.2, 1.3, "SAM", color=plots.COLORS[1], ha="center")
    axes[0].set(xlabel="radius ρ", ylabel="accuracy gained over SGD (points)", ylim=(-6, 4))
    axes[1].set(xlabel="rank of the eigenvalue", ylabel="eigenvalue of H", yscale="log", ylim=(0.05, 4))
    axes[2].set(xlabel="distance from the solution", ylabel="training loss (nats)", ylim=(0, 5))
    here, lines, names = axes[0].axvline(0, color="grey", linestyle=":"), [], []
    other = {"left": "right", "right": "left"}
    for ax, x, curves, side in ((axes[1], ranks, top, "right"), (axes[2], DISTANCES, width, "left")):
        ax.plot(x, curves[0], color=plots.COLORS[0])
        ax.text(x[3], 1.1 * curves[0][3], "SGD", color=plots.COLORS[0], ha=other[side], va="bottom")
        lines.append(_mark(ax, 1, linestyle="--", marker="s", ms=4))
        names.append(ax.text(1, 1, "SAM", color=plots.COLORS[1], ha=side, va="top", in_layout=False))
    _, *titles = [plots.headline(ax, "Little gained, then a fall") for ax in axes]

    def update(rho: float) -> str:
        at = rhos.index(rho)
        here.set_xdata([rho, rho])
        shown = (ranks, top[at], 9), (DISTANCES, width[at], 2)  # the number of the mark that has the name
        for line, name, (x, values, i) in zip(lines, names, shown, strict=True):
            line.set_data(x, values)
            name.set_position((x[i], 0.8 * values[i]))
            name.set_text(f"SAM, ρ = {rho:g}")
        largest, half = [f"{top[i][0]:.3g}" for i in (at, 0)], [f"{width[i][4]:.2g}" for i in (at, 0)]
        titles[0].set_text(f"Curvature: λ_max {largest[0]}, SGD's {largest[1]}")
        titles[1].set_text(f"At distance 0.5: loss {half[0]}, SGD's {half[1]}")
        return (
            f"SAM with radius {rho:g}: test accuracy {100 * _mean(found['test_acc'][at]):.1f} %, "
            f"{100 * _mean(gain[at]):+.1f} points against SGD; largest eigenvalue {largest[0]} against {largest[1]}; training "
            f"loss {_mean(found['train_loss'][at]):.2g}. At a distance of 0.5 the loss is {half[0]}, that of SGD {half[1]}."
        )

    return explorer(
        Picture(figure, [here, *lines, *names, *titles], update),
        {"rho": Choice("ρ, radius of the climb", rhos, 0.05)},
        caption="Networks trained by SAM and by SGD from the same five starts. Left: accuracy gained on fresh data, with one "
        "standard deviation of the gain as a band; the dotted line marks the chosen ρ. Middle: the ten largest eigenvalues "
        "of the Hessian H, mean of the five. Right: the training loss around one of the five, mean over directions; at "
        "distance 1 the weights have moved by their own length. Up to ρ = 0.05 both methods reach the same training loss; "
        "from ρ = 0.1 on SAM stays above it, so its valley is not compared at equal loss.",
    )


def valley(surface: np.ndarray) -> np.ndarray:
    """The mean of each surface (n, 25, 25) at DISTANCES from its middle: (n, 9)."""
    away = np.hypot(*np.meshgrid(grids.SIDE, grids.SIDE))
    return np.stack([surface[:, abs(away - d) < DISTANCES[1] / 2].mean(1) for d in DISTANCES], axis=1)


def _mark(ax, number: int, **style):
    """An empty line in colour `number`, to be filled."""
    return ax.plot([], [], color=plots.COLORS[number], **style)[0]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the seeds that did not diverge, along the last axis; NaN if all did."""
    n = np.isfinite(values).sum(-1)
    return np.where(n > 0, np.nansum(values, -1) / np.maximum(n, 1), np.nan)
