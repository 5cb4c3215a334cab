"""One step of an optimizer for many models at once, each with its own settings.

group: the models, with `params` and `moments` (the optimizer's running means), name -> (n, *shape), `uses` (which
settings are not zero) and `each(name, like)` (a setting of each model, shaped to multiply a stacked tensor).
"""

import math
from typing import Any

import torch

from sam_lite.params import Params


def sgd(group: Any, grads: Params, step: int, factor: float) -> None:
    """torch.optim.SGD's arithmetic: buffer = momentum buffer + g + weight_decay w, then w -= lr buffer."""
    grads = _decayed(group, grads)
    if group.uses["momentum"]:
        if not group.moments:
            group.moments = [{name: torch.zeros_like(g) for name, g in grads.items()}]
        for name, m in group.moments[0].items():
            m.mul_(group.each("momentum", m)).add_(grads[name])
        grads = group.moments[0]
    for name, g in grads.items():
        group.params[name].addcmul_(g, group.each("lr", g), value=-factor)


def adam(group: Any, grads: Params, step: int, factor: float) -> None:
    """torch.optim.Adam's arithmetic with its default settings (Kingma and Ba 2015, Algorithm 1)."""
    grads, (b1, b2), eps = _decayed(group, grads), (0.9, 0.999), 1e-8
    if not group.moments:
        group.moments = [{name: torch.zeros_like(g) for name, g in grads.items()} for _ in range(2)]
    first, second = group.moments
    for name, g in grads.items():
        first[name].lerp_(g, 1 - b1)
        second[name].mul_(b2).addcmul_(g, g, value=1 - b2)
        scale = second[name].sqrt().div_(math.sqrt(1 - b2**step)).add_(eps)
        group.params[name].addcmul_(first[name] / scale, group.each("lr", g), value=-factor / (1 - b1**step))


def _decayed(group, grads: Params) -> Params:
    if not group.uses["weight_decay"]:
        return grads
    return {name: g.addcmul(group.params[name], group.each("weight_decay", g)) for name, g in grads.items()}


UPDATES = {"sgd": sgd, "adam": adam}
