"""SAM and its rivals on equal terms: what the page of questions compares, and how each rival's settings were chosen.

python -m sam_lite.contest [NAMES]   tries all settings on ten data sets that the page does not judge on, in minutes
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_lite import require, rivals, stacked
from sam_lite.data import load
from sam_lite.models import build, mlp
from sam_lite.params import Params, params_of, stack

STEPS, BATCH = 1000, 32
RATES = (0.3, 0.5)  # each rival may choose one of these, and one of two settings of its own
DECAYS = (0.0, 1e-3)
# name -> the two settings of its own: weight decay, share of the labels, decay, start, steps, rho, share of a layer's norm
OWN: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("SGD", "SGD, twice the steps", "SGD, falling rate"), DECAYS),
    "label smoothing": (0.1, 0.2),
    "EMA": (0.99, 0.997),
    "SWA": (0.5, 0.75),
    "Lookahead": (5, 10),
    "random perturbation": (1.0, 3.0),
    "SAM": (0.35, 0.5),
    "gradient penalty": (0.35, 0.5),
    "AWP": (0.02, 0.04),
    "SAM, every 5th step": (0.5, 1.0),
    "SAM, last tenth": (0.35, 0.5),
}
# name -> learning rate, setting: what `python -m sam_lite.contest` found best
CHOSEN: dict[str, tuple[float, float]] = {
    "SGD": (0.5, 0.001),
    "SGD, twice the steps": (0.5, 0.001),
    "SGD, falling rate": (0.5, 0.001),
    "label smoothing": (0.5, 0.1),
    "EMA": (0.5, 0.997),
    "SWA": (0.5, 0.5),
    "Lookahead": (0.5, 5),
    "random perturbation": (0.5, 1.0),
    "SAM": (0.5, 0.35),
    "gradient penalty": (0.5, 0.35),
    "AWP": (0.5, 0.04),
    "SAM, every 5th step": (0.5, 0.5),
    "SAM, last tenth": (0.3, 0.5),
}


class Field(NamedTuple):
    """Where rivals compete: one network, and for each of n_models a start, training and test data of its own.

    start: name -> (n_models, *shape). x: (n_models, n, *features), y: (n_models, n), and so for the test data.
    """

    model: nn.Module
    start: Params
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    seed: int

    def outputs(self, params: Params, x: Tensor) -> Tensor:
        """Of one network, (n, 10): maps over many."""
        return functional_call(self.model, params, (x,))


def field(seeds: Sequence[int]) -> Field:
    """MNIST-1D with 1,000 training examples, drawn anew for each seed, and a network with two hidden layers of 100 units."""
    make = partial(mlp, 40, [100, 100], 10)
    sets = [load("mnist1d", n_train=1000, n_test=3000, seed=seed) for seed in seeds]
    x, y, x_test, y_test = (torch.stack(part) for part in zip(*sets, strict=True))
    return Field(
        build(make, seeds[0]), stack([params_of(build(make, seed)) for seed in seeds]), x, y, x_test, y_test, seeds[0]
    )


def run(field: Field, lr: float, *, smoothing: float = 0.0, steps: int = STEPS, **settings: Any) -> rivals.Descent:
    """Let one rival compete. smoothing: of the labels. settings: what `descend` takes."""
    criterion = partial(F.cross_entropy, label_smoothing=smoothing) if smoothing else F.cross_entropy
    gradient, settings = stacked.gradient(field.model, criterion), {"batch_size": BATCH, "seed": field.seed} | settings
    return rivals.descend(gradient, field.start, field.x, field.y, lr=lr, steps=steps, **settings)


def chosen(field: Field, name: str) -> rivals.Descent:
    """Let a rival of the roster compete with the settings that were chosen for it."""
    if name not in CHOSEN:
        raise require.error("name", f"one of {', '.join(CHOSEN)}", name)
    lr, setting = CHOSEN[name]
    return run(field, lr, **roster()[name][setting])


def judge(field: Field, params: Params) -> tuple[Tensor, Tensor]:
    """Accuracy on fresh data in percent, and mean confidence less accuracy in points, of each network, (n_models,)."""
    out = stacked.forward(field.model)(params, field.x_test)
    right = 100 * (out.argmax(2) == field.y_test).double().mean(1)
    return right, 100 * out.softmax(2).amax(2).double().mean(1) - right


def roster(steps: int = STEPS, own: Mapping[str, tuple[float, float]] = OWN) -> dict[str, dict[float, dict]]:
    """name -> {a setting: what `run` is given}, for the two settings of each in `own`."""
    late = lambda step: step > 0.9 * steps  # noqa: E731
    fifth = lambda step: step % 5 == 0  # noqa: E731
    given: dict[str, Callable[[Any], dict]] = {
        "SGD": lambda wd: {"direction": rivals.decayed(wd)},
        "SGD, twice the steps": lambda wd: {"direction": rivals.decayed(wd), "steps": 2 * steps},
        "SGD, falling rate": lambda wd: {"direction": rivals.decayed(wd), "schedule": rivals.fall},
        "label smoothing": lambda s: {"smoothing": s},
        "EMA": lambda d: {"after": rivals.ema(d)},
        "SWA": lambda s: {"after": rivals.swa(int(s * steps), 10)},
        "Lookahead": lambda k: {"after": rivals.lookahead(k, 0.5)},
        "random perturbation": lambda r: {"direction": rivals.noise(r)},
        "SAM": lambda r: {"direction": rivals.sam(r)},
        "gradient penalty": lambda r: {"direction": rivals.sam(r, mix=0.8)},
        "AWP": lambda r: {"direction": rivals.sam(r, rivals.layer_ascent)},
        "SAM, every 5th step": lambda r: {"direction": rivals.sometimes(rivals.sam(r), fifth)},
        "SAM, last tenth": lambda r: {"direction": rivals.sometimes(rivals.sam(r), late)},
    }
    return {name: {setting: given[name](setting) for setting in settings} for name, settings in own.items()}


def main() -> None:
    """Print the mean accuracy with every setting on ten data sets that the lecture does not judge on."""
    parser = argparse.ArgumentParser(prog="python -m sam_lite.contest", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of rivals (default: all): {', '.join(OWN)}")
    names = parser.parse_args().names or list(OWN)
    if unknown := [name for name in names if name not in OWN]:
        parser.error(f"names must be some of {', '.join(OWN)}, got {', '.join(unknown)}")
    others = field(range(500, 510))
    for name in names:
        tried = {}
        for lr in RATES:
            for setting, given in roster()[name].items():
                tried[lr, setting] = judge(others, run(others, lr, **given).params)[0].mean().item()
                print(f"{name}: rate {lr}, setting {setting:g}: {tried[lr, setting]:.2f} %", flush=True)
        print(f'    "{name}": {max(tried, key=tried.__getitem__)},', flush=True)


if __name__ == "__main__":
    main()
