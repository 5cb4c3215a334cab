"""One step of an optimizer for many models at once, each with its own settings.

group: the models, with `params` and `moments` (the optimizer's running means), name -> (n, *shape), `uses` (which
settings are not zero), `each(name, like)` (a setting of each model, shaped to multiply a stacked tensor) and `space`.
Time goes into reading and writing memory, so there is one operation where there might be two, and no new tensor.
"""

import math
from typing import Any

import torch
from torch import Tensor

from sam_lite.params import Params, room


def sgd(group: Any, grads: Params, step: int, factor: float) -> None:
    """torch.optim.SGD's arithmetic: buffer = momentum buffer + g + weight_decay w, then w -= lr buffer."""
    if group.uses["momentum"] and not group.moments:
        group.moments = [{name: torch.zeros_like(g) for name, g in grads.items()}]
    for name, w in ((name, group.params[name]) for name in grads):
        g = _decayed(group, grads[name], w)
        if group.uses["momentum"]:
            m = group.moments[0][name]
            g = torch.addcmul(g, m, group.each("momentum", m), out=m)
        w.addcmul_(g, group.each("lr", g), value=-factor)


def adam(group: Any, grads: Params, step: int, factor: float) -> None:
    """torch.optim.Adam's arithmetic with its default settings (Kingma and Ba 2015, Algorithm 1).

    The corrections of the moments, and the square root's, are left to the last factor, as in their section 2.
    """
    (b1, b2), eps = (0.9, 0.999), 1e-8
    if not group.moments:
        group.moments = [{name: torch.zeros_like(g) for name, g in grads.items()} for _ in range(2)]
    root = math.sqrt(1 - b2**step)
    for name, w in ((name, group.params[name]) for name in grads):
        g, first, second = _decayed(group, grads[name], w), *(m[name] for m in group.moments)
        first.lerp_(g, 1 - b1)
        second.mul_(b2).addcmul_(g, g, value=1 - b2)
        scale = torch.sqrt(second, out=room(group.space, w.shape, w)).add_(eps * root)
        w.addcmul_(torch.div(first, scale, out=scale), group.each("lr", w), value=-factor * root / (1 - b1**step))


def _decayed(group: Any, g: Tensor, w: Tensor) -> Tensor:
    if not group.uses["weight_decay"]:
        return g
    return torch.addcmul(g, w, group.each("weight_decay", w), out=room(group.space, w.shape, w))


UPDATES = {"sgd": sgd, "adam": adam}
