"""The explorer of the recorded study of real images: batch size, SAM and Adam beside SGD."""

import ipywidgets
import numpy as np
import pandas as pd

from sam_lite import image_study, plots
from sam_lite.widgets import Choice, Picture, explorer

ARMS = {  # as in the study, and the role that gives an arm its colour
    "1,024 images, η": ("large", "large batches"),
    "1,024 images, η√k": ("large_sqrt", "large batches"),
    "1,024 images, ηk": ("large_linear", "large batches"),
    "SAM, ρ = 0.02": ("sam_0.02", "SAM"),
    "SAM, ρ = 0.05": ("sam_0.05", "SAM"),
    "SAM, ρ = 0.1": ("sam_0.1", "SAM"),
    "SAM, ρ = 0.2": ("sam_0.2", "SAM"),
    "Adam": ("adam", "training"),
}
COMPARED = {  # what is equal -> the moments of SGD and Adam, of large batches, and of SAM
    "training loss (0.4)": ("loss_0.4", "loss_0.4", "loss_0.4"),
    "updates": ("epochs", "end", "end"),
    "epochs": ("epochs", "epochs", "end"),
    "gradients": ("end", None, "end"),
}
NETWORKS = {"without batch norm": "none", "with batch norm": "batch"}
LEARNED = 0.2  # accuracy of a network that does better than guessing


def images_explorer() -> ipywidgets.VBox:
    """Accuracy and λ_max of convnets on Fashion-MNIST against SGD with batches of 64, by how they were trained (06).

    Networks that do no better than guessing are left out.
    """
    table = image_study.load()
    figure, axes = plots.subplots(1, 2, width=11, height=3.6)
    rows = {name: -place for place, name in enumerate(ARMS)}
    marks = [
        [ax.plot([], [], ls="none", marker="o", ms=4, alpha=0.6, color=_color(name))[0] for name in ARMS] for ax in axes
    ]
    means = [
        [ax.plot([], [], ls="none", marker="|", ms=16, mew=2.5, color=_color(name))[0] for name in ARMS] for ax in axes
    ]
    for ax, reference in zip(axes, (0, 1), strict=True):
        ax.axvline(reference, color=plots.COLORS[plots.ROLES["SGD"]])
        ax.set(ylim=(-len(ARMS) + 0.4, 0.6), yticks=list(rows.values()), yticklabels=list(rows))
    compared = {
        (equal, network): _against_sgd(table, norm, *moments)
        for equal, moments in COMPARED.items()
        for network, norm in NETWORKS.items()
    }
    every = [np.concatenate([pair[i] for found in compared.values() for pair in found.values()]) for i in (0, 1)]
    axes[0].set(xlabel="accuracy gained over SGD (points)", xlim=(every[0].min() - 0.5, every[0].max() + 0.5))
    axes[1].set(xlabel="λ_max over SGD's (ratio)", xscale="log", xlim=(every[1].min() / 1.2, every[1].max() * 1.2))
    axes[1].set_xticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    axes[1].minorticks_off()
    titles = [plots.headline(ax) for ax in axes]

    def update(equal: str, network: str) -> str:
        found = compared[equal, network]
        for panel in (0, 1):
            for name, mark, middle in zip(ARMS, marks[panel], means[panel], strict=True):
                numbers = found[name][panel]
                mark.set_data(numbers, np.full(len(numbers), rows[name]))
                middle.set_data(*([_middle(numbers, panel)], [rows[name]]) if len(numbers) else ([], []))
        there = [name for name in ARMS if len(found[name][0])]
        gains, ratios = ([_middle(found[name][panel], panel) for name in there] for panel in (0, 1))
        titles[0].set_text(f"Accuracy: {min(gains):+.1f} to {max(gains):+.1f} points")
        titles[1].set_text(f"λ_max: {min(ratios):.2g} to {max(ratios):.2g} of SGD's")
        said = "; ".join(
            f"{name}: {gain:+.1f} points, λ_max {ratio:.2g} of SGD's"
            for name, gain, ratio in zip(there, gains, ratios, strict=True)
        )
        absent = [name for name in ARMS if name not in there]
        return f"At equal {equal}, {network}, against SGD with 64 images: {said}." + (
            f" Not there: {', '.join(absent)}." if absent else ""
        )

    return explorer(
        Picture(figure, [*sum(marks, []), *sum(means, []), *titles], update),
        {"equal": Choice("compared at equal", list(COMPARED)), "network": Choice("networks", list(NETWORKS))},
        caption="Convolutional networks on photographs of clothes, ten seeds for each row, against SGD with batches of 64 "
        "images from the same start (the blue line), where both have the same of what the first slider names. A dot is a "
        "seed, a stroke the mean. Left: accuracy on fresh photographs. Right: largest eigenvalue of the Hessian. With ηk "
        "most networks do no better than guessing; these are left out.",
    )


def _against_sgd(
    table: pd.DataFrame, norm: str, small: str, large: str | None, sam: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each of ARMS what it gains in points and its ratio of λ_max, over the seeds that got to these moments."""
    found = {}
    for name, (arm, role) in ARMS.items():
        moment = {"large batches": large, "SAM": sam}.get(role, small)
        if moment is None:
            found[name] = (np.zeros(0), np.zeros(0))
            continue
        acc, top = (
            [image_study.values(table, one, column, at, norm) for one, at in ((arm, moment), ("sgd", small))]
            for column in ("test_acc", "lambda_max")
        )
        learned = acc[0].index[acc[0] > LEARNED]
        gained, ratio = (100 * (acc[0] - acc[1]))[learned].dropna(), (top[0] / top[1])[learned].dropna()
        found[name] = (gained.to_numpy(), ratio.to_numpy())
    return found


def _middle(numbers: np.ndarray, panel: int) -> float:
    """Mean over the seeds: of points the arithmetic one, of ratios the geometric."""
    return float(numbers.mean() if panel == 0 else np.exp(np.log(numbers).mean()))


def _color(name: str) -> str:
    return plots.COLORS[plots.ROLES[ARMS[name][1]]]
