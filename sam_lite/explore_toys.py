"""The explorers of losses with a few weights: one step of SAM, a flat and a sharp minimum, and the bounce."""

import ipywidgets
import numpy as np
import torch
from torch import Tensor

from sam_lite import plots, toys
from sam_lite.sam import p_ascent
from sam_lite.widgets import Control, Picture, explorer


def step_explorer() -> ipywidgets.VBox:
    """One step of SAM on a valley, as two arrows, and the paths of SAM and gradient descent from there (lecture 05).

    The loss is (a^2 + 10 c^2) / 2 for the places a along the valley and c across it; the climb is in the p-norm chosen.
    """
    hessian = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    loss = toys.quadratic(hessian)
    side = np.linspace(-2.2, 2.2, 111)
    x, y = np.meshgrid(side, side / 2)
    figure, ax = plots.subplots(width=6.5, height=4.6)
    ax.contour(x, y, (x**2 + 10 * y**2) / 2, levels=np.geomspace(0.05, 8, 9), colors="grey", linewidths=0.6)
    ax.set(xlabel="along the valley (flat)", ylabel="across it (sharp)", xlim=(-2.2, 2.2), ylim=(-1.1, 1.1))
    (descent,) = ax.plot([], [], color=plots.COLORS[0], linestyle="--", marker="o", ms=3, label="gradient descent")
    (path,) = ax.plot([], [], color=plots.COLORS[1], marker="s", ms=3, label="SAM")
    (climb,) = ax.plot(
        [], [], color=plots.COLORS[2], linewidth=3, linestyle=":", marker="^", ms=6, label="1: climb by ρ"
    )
    (down,) = ax.plot(
        [], [], color=plots.COLORS[3], linewidth=3, marker="D", ms=5, label="2: step, with the slope there"
    )
    ax.legend(fontsize=9, loc="upper right", handlelength=1.2)
    title = plots.headline(ax)

    def update(rho: float, lr: float, along: float, across: float, p: float) -> str:
        start = torch.tensor([along, across], dtype=torch.float64)
        walk, plain = (_walk(hessian, start, lr, r, p) for r in (rho, 0.0))
        climbed = start + p_ascent(p)({"w": hessian @ start}, {}, rho)["w"]
        up = torch.stack([start, climbed])
        for line, points in ((path, walk), (descent, plain), (climb, up), (down, walk[:2])):
            line.set_data(*points.T.numpy())
        ends = [f"{float(loss({'w': points[-1]})):.2g}" for points in (walk, plain)]
        title.set_text(f"Loss: SAM {ends[0]}, descent {ends[1]}")
        return (
            f"Contours of a narrow valley. From ({along:g}, {across:g}) SAM climbs by {rho:g} and steps with rate {lr:g}; "
            f"after 20 steps its loss is {ends[0]}, that of gradient descent {ends[1]}."
        )

    controls = {
        "rho": Control("ρ, radius of the climb", 0.0, 1.0, 0.01, 0.3),
        "lr": Control("η, learning rate", 0.005, 0.25, 0.005, 0.1),
        "along": Control("start, along the valley", -2.0, 2.0, 0.05, -1.8),
        "across": Control("start, across it", -1.0, 1.0, 0.05, 0.7),
        "p": Control("p, norm of the climb", 1.0, 6.0, 0.5, 2.0),
    }
    moving = [descent, path, climb, down, title]
    return explorer(
        Picture(figure, moving, update),
        controls,
        caption="One step of SAM as two arrows, then twenty steps beside gradient descent. SAM ends up jumping "
        "across the valley: the larger ρ and η, the farther.",
    )


def flat_explorer() -> ipywidgets.VBox:
    """The training loss as a noisy copy of the true one, and what a sharp and a flat minimum of it are worth (lecture 01).

    Each example sees the same landscape, moved by a normal number; see `moved_wells`.
    """
    w = np.linspace(-2.2, 3.2, 541)
    figure, ax = plots.subplots(width=6.5, height=4.2)
    ax.set(xlabel="w", ylabel="loss", xlim=(-2.2, 3.2), ylim=(0, 1.6))
    colors = {name: plots.COLORS[plots.ROLES[name]] for name in ("training", "fresh data")}
    (true,) = ax.plot([], [], color=colors["fresh data"], linestyle="--", label="true loss")
    (train,) = ax.plot([], [], color=colors["training"], label="training loss")
    ends = [ax.plot([], [], color="black", marker=mark, linestyle=":", lw=2)[0] for mark in "^s"]
    for end, name in zip(ends, ("price of the sharp minimum", "price of the flat minimum"), strict=True):
        end.set_label(name)
    ax.legend(fontsize=9, loc="upper right", handlelength=1.5)
    title = plots.headline(ax)

    def update(shift: float, n: float, sample: float) -> str:
        draws = np.random.default_rng(int(sample)).standard_normal(500)[: int(n)]
        seen, expected = moved_wells(w[:, None] - shift * draws).mean(1), moved_wells(w, shift)
        train.set_data(w, seen)
        true.set_data(w, expected)
        said, lost = [], []
        for line, side, name in zip(ends, (w < 0, w >= 0), ("sharp", "flat"), strict=True):
            at = np.flatnonzero(side)[seen[side].argmin()]
            line.set_data([w[at], w[at]], [seen[at], expected[at]])
            lost.append(f"{name} {expected[at] - seen[at]:+.2f}")
            said.append(f"{name} minimum: training loss {seen[at]:.2f}, true loss {expected[at]:.2f}")
        title.set_text(f"The price: {lost[0]}, {lost[1]}")
        return (
            f"Training and true loss of {int(n)} examples, moved by {shift:g} each. At the {said[0]}. At the {said[1]}."
        )

    controls = {
        "shift": Control("shift of an example's loss", 0.0, 0.6, 0.02, 0.2),
        "n": Control("training examples", 1, 200, 1, 1),
        "sample": Control("which sample", 1, 20, 1, 3),
    }
    return explorer(
        Picture(figure, [true, train, *ends, title], update),
        controls,
        caption="A training loss (solid) and the true loss (dashed). The dotted lines lead from the two minima of the "
        "training loss to the true loss at the same place: the narrow hole promises more and keeps less.",
    )


def moved_wells(w: np.ndarray, spread: float = 0.0) -> np.ndarray:
    """A narrow deep well at -1 and a wide one at 1, in the mean over normal shifts of w with this standard deviation."""
    loss = np.ones_like(w)
    for depth, centre, width in ((0.9, -1.0, 0.12), (0.8, 1.0, 0.6)):
        wider = np.hypot(width, spread)
        loss -= depth * width / wider * np.exp(-((w - centre) ** 2) / (2 * wider**2))
    return loss


def _walk(hessian: Tensor, start: Tensor, lr: float, rho: float, p: float, steps: int = 20) -> Tensor:
    """SAM with the p-norm's ascent on `toys.quadratic`, whose slope is H w: (steps + 1, d). rho 0: gradient descent."""
    points, ascent = [start], p_ascent(p)
    for _ in range(steps):
        w = points[-1]
        points.append(w - lr * hessian @ (w + ascent({"w": hessian @ w}, {}, rho)["w"]))
    return torch.stack(points)


def bouncing_explorer() -> ipywidgets.VBox:
    """SAM's bounce on a quadratic against theory, and the drift it causes in a ravine (lecture 08).

    Left and middle: curvatures λ₁ and λ₂. Right: the ravine h(z) w²/2 with h(z) = λ₁ (1 + z²) / 2, from z = 1.
    """
    figure, (left, middle, right) = plots.subplots(1, 3, width=11, height=3.6)
    (orbit,) = left.plot([], [], color=plots.COLORS[1], marker="s", ms=3, linewidth=0.8, label="SAM")
    left.set(xlabel="w₁, along λ₁", ylabel="w₂, along λ₂", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    (size,) = middle.plot([], [], color=plots.COLORS[0], marker="o", ms=3, label="|w|")
    (theory,) = middle.plot([], [], color=plots.COLORS[2], linestyle="--", label="ηρλ/(2 − ηλ)")
    middle.set(yscale="log", xlabel="step", ylabel="distance from the minimum", xlim=(0, 60), ylim=(1e-3, 1e2))
    (drift,) = right.plot([], [], color=plots.COLORS[3], label="λ_max in a ravine")
    right.set(xlabel="step (ten times as many)", ylabel="largest eigenvalue", xlim=(0, 600), ylim=(0, 5.2))
    middle.legend(fontsize=9, loc="upper right")
    titles = [plots.headline(ax) for ax in (left, middle, right)]

    def update(lr: float, rho: float, first: float, second: float, w1: float, w2: float, steps: float) -> str:
        hessian, shown = torch.diag(torch.tensor([first, second], dtype=torch.float64)), int(steps)
        points = _walk(hessian, torch.tensor([w1, w2], dtype=torch.float64), lr, rho, 2.0, 60)
        points = points.nan_to_num(1e6, 1e6, -1e6).clamp(-1e6, 1e6)[: shown + 1]
        curvature = ravine_curvature(lr, rho, first, 10 * shown)
        top = max(first, second)
        stable = lr * top < 2
        end = toys.two_cycle_amplitude(lr, rho, top) if stable else float("nan")
        orbit.set_data(points[:, 0].numpy(), points[:, 1].numpy())
        size.set_data(range(shown + 1), points.norm(dim=1).numpy())
        theory.set_data([0, 60], [end, end])
        drift.set_data(range(len(curvature)), curvature)
        at, leaves = float(points[-1].norm()), "It leaves the picture: ηλ > 2"
        bounces = f"SAM ends bouncing at ±{end:.2g}" if rho else "Without ρ it comes to rest"
        titles[0].set_text(bounces if stable else leaves)
        titles[1].set_text(f"After {shown} steps: {at:.2g}; in theory {end:.2g}" if stable else leaves)
        titles[2].set_text(
            f"The bounce lowers λ_max: {first:.2g} → {curvature[-1]:.2g}" if rho else "No bounce, no drift"
        )
        if not stable:
            return f"ηλ is {lr * top:.2g}, not below 2: the path leaves the picture."
        return (
            f"After {shown} steps SAM is at a distance of {at:.3g} from the minimum; theory says it "
            f"ends bouncing at {end:.3g}. In a ravine its largest eigenvalue went from {first:.3g} to {curvature[-1]:.3g}."
        )

    controls = {
        "lr": Control("η, learning rate", 0.01, 1.0, 0.01, 0.3),
        "rho": Control("ρ, radius of the climb", 0.0, 1.0, 0.01, 0.3),
        "first": Control("λ₁, curvature", 0.1, 5.0, 0.1, 3.0),
        "second": Control("λ₂, curvature", 0.1, 5.0, 0.1, 1.0),
        "w1": Control("w₁ of the start", -1.5, 1.5, 0.05, 1.0),
        "w2": Control("w₂ of the start", -1.5, 1.5, 0.05, 1.2),
        "steps": Control("steps shown", 1, 60, 1, 60, play=True),
    }
    return explorer(
        Picture(figure, [orbit, size, theory, drift, *titles], update),
        controls,
        caption="SAM on a quadratic: its path; its distance from the minimum, which settles at what theory says, a "
        "bounce along the largest curvature; and, where the curvature can change, how the bounce drives it down.",
    )


def ravine_curvature(lr: float, rho: float, lam: float, steps: int, w: float = 0.1) -> np.ndarray:
    """h(z) after 0, 1, ... steps of SAM on h(z) w²/2 with h(z) = lam (1 + z²) / 2, from z = 1; it ends where it diverges."""
    z, found = 1.0, [lam]
    for _ in range(steps):
        g = np.array([lam * z * w**2 / 2, found[-1] * w])
        up = np.array([z, w]) + rho * g / max(np.linalg.norm(g), 1e-30)
        z -= lr * lam * up[0] * up[1] ** 2 / 2
        w -= lr * lam * (1 + up[0] ** 2) / 2 * up[1]
        if not abs(w) + abs(z) < 1e6:
            break
        found.append(lam * (1 + z**2) / 2)
    return np.array(found)
