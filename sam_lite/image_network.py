"""How a network of the study of real images is trained, and what is measured on it and between two of them."""

import copy
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_lite import hessian, require, sharpness
from sam_lite.batchnorm import loss_between
from sam_lite.data import Data
from sam_lite.models import build, convnet
from sam_lite.noise import noise
from sam_lite.params import add, loss_of, params_of
from sam_lite.sam import SAM
from sam_lite.train import Training, evaluate, train

NORMS = {"none": None, "batch": "batch"}
SMALL, WARM_UP = 64, 32  # images in a small batch; steps in which the learning rate grows to its value
MEASURED, BOX, NEAR, FAR = 1024, 1e-3, 0.05, 0.5  # training images for curvature; radii of metric 2.1, ball, mean
ALPHAS = tuple(i / 4 for i in range(-4, 9))  # of the lines from a small batch's network (0) to a large batch's (1)


class Arm(NamedTuple):
    """How the networks of an arm are trained: `times` as many epochs as the study has, `factor` times the tuned rate."""

    method: str
    times: int = 1
    batch_size: int = SMALL
    factor: float = 1.0
    rho: float | None = None  # in place of the tuned one
    wrong: float = 0.0  # share of the training labels


def trained(
    norm: str,
    arm: Arm,
    lr: float,
    strength: float,
    seed: int,
    data: Data,
    epochs: int,
    autocast: bool = False,
) -> tuple[Training, dict[int, nn.Module]]:
    """A training, and copies of its network in evaluation mode by step: twice in an epoch of small batches."""
    n, epochs = len(data.x_train), require.whole("epochs", epochs)
    make = functools.partial(convnet, norm=NORMS[one_of("norm", norm, NORMS)])
    model = build(make, seed).to(data.x_train.device, memory_format=torch.channels_last)
    optimizer = optimizer_of(model, arm.method, lr, strength)
    per_epoch, kept = n // arm.batch_size, {}

    def keep(step: int, model: nn.Module) -> dict:
        kept[step] = copy.deepcopy(model)
        return {}

    every = math.gcd(max(1, n // SMALL // 2), epochs * per_epoch)
    run = train(
        model,
        data._replace(x_test=data.x_test[:1], y_test=data.y_test[:1]),  # while it trains nobody looks at the test
        optimizer,
        batch_size=arm.batch_size,
        steps=epochs * arm.times * per_epoch,
        seed=seed,
        schedule=lambda step: min(1.0, (step + 1) / WARM_UP),
        check_every=every,
        record_every=every,
        record=keep,
        autocast=autocast,
    )
    return run, kept


def optimizer_of(model: nn.Module, method: str, lr: float, strength: float) -> torch.optim.Optimizer:
    if method == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=strength)
    decay = 0.0 if method == "sam" else strength
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    return SAM(sgd, rho=strength) if method == "sam" else sgd


def moments(records: pd.DataFrame, equal_losses: Sequence[float], after: int) -> dict[str, int]:
    """moment -> step, of the rows that `train` recorded; after: the step of "epochs", which may be the last or none."""
    found, last = {}, int(records["step"].iloc[-1])
    for loss in equal_losses:
        low = records.loc[records["train_loss"] <= loss, "step"]
        found |= {f"loss_{loss}": int(low.iloc[0])} if len(low) else {}
    return found | ({"epochs": after} if 0 < after < last else {}) | {"end": last}


def one_of(name: str, value: Any, known: dict) -> str:
    """`value`; ValueError where it is no key of `known`."""
    if value not in known:
        raise require.error(name, f"one of {', '.join(known)}", value)
    return value


def measured(model: nn.Module, data: Data, true_labels: Tensor) -> dict[str, float]:
    """Losses and accuracies over all images; curvature and sharpness over the first MEASURED training images."""
    (train_loss, train_acc), (test_loss, test_acc) = evaluate(model, *data[:2]), evaluate(model, *data[2:])
    found = {"train_loss": train_loss, "train_acc": train_acc, "test_loss": test_loss, "test_acc": test_acc}
    if len(wrong := (data.y_train != true_labels).nonzero().flatten()):
        found["wrong_learned"] = evaluate(model, data.x_train[wrong], data.y_train[wrong])[1]
    loss, w = loss_of(model, data.x_train[:MEASURED], data.y_train[:MEASURED]), params_of(model)
    away = noise("directions", 16, w, 0)  # with their opposites, so that the slope has no part in the mean
    top = hessian.top_eigenvalues(loss, w, steps=20, tol=0.02)
    average = sharpness.average_sharpness(loss, w, FAR, samples=torch.cat([away, -away]))
    trace, box = hessian.trace(loss, w, probes=10), sharpness.box_sharpness(loss, w, BOX, steps=8)
    numbers = {"measured_loss": average.loss, "lambda_max": top.values[0], "lambda_error": top.residuals[0]}
    numbers |= {"trace": trace.mean, "trace_error": trace.error, "box": box.value}
    numbers |= {"worst": sharpness.worst_sharpness(loss, w, NEAR, starts=1, steps=12).value}
    numbers |= {"ascent": sharpness.ascent_sharpness(loss, w, NEAR).value}
    numbers |= {"average": average.value}
    return found | {name: value.item() for name, value in numbers.items()}


def line(small: nn.Module, large: nn.Module, data: Data) -> list[dict]:
    """Rows of the loss and accuracy at ALPHAS on the line from `small` to `large`, over 2 MEASURED images of each part.

    Batch statistics are computed anew at each point, from the training images.
    """
    n, start = 2 * MEASURED, params_of(small)
    span = add(params_of(large), start, -1)
    statistics = data.x_train[:n] if any(isinstance(m, nn.BatchNorm2d) for m in small.modules()) else "keep"
    both = lambda out, y: torch.stack([F.cross_entropy(out, y), (out.argmax(1) == y).float().mean()])  # noqa: E731
    parts = {"train": (data.x_train[:n], data.y_train[:n]), "test": (data.x_test[:n], data.y_test[:n])}
    along = {name: loss_between(small, large, x, y, statistics, both) for name, (x, y) in parts.items()}
    rows = []
    with torch.no_grad():
        for alpha in ALPHAS:
            found = {name: of(add(start, span, alpha)).tolist() for name, of in along.items()}
            losses = {f"{name}_{what}": found[name][i] for name in found for i, what in enumerate(("loss", "acc"))}
            rows.append({"alpha": alpha} | losses)
    return rows
