"""What happens to batch statistics when weights move: kept, interpolated or recomputed.

With statistics that belong to other weights, the loss may be much higher than the weights themselves explain.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sam_lite import pure, require
from sam_lite.params import Loss, Params, add, dot, params_of


def loss_between(
    start: nn.Module,
    end: nn.Module,
    x: Tensor,
    y: Tensor,
    statistics: str | Tensor,
    criterion: Callable = F.cross_entropy,
) -> Loss:
    """The loss on (x, y) in evaluation mode as a function of the weights, around two nets with batch norm.

    alpha is the place of the weights along the line from `start` (0) to `end` (1). The batch statistics are
    - "keep": those of the nearer net; the loss jumps at alpha = 1/2;
    - "interpolate": (1 - alpha) times start's plus alpha times end's, with variances not below 0;
    - a tensor of training data (n, *features): recomputed from it at every point in one pass, as
      `torch.optim.swa_utils.update_bn` does, but with dropout off.
    At alpha = 0 and 1 each net's own loss comes back; with recomputed statistics, only if its own were made so. Raises
    ValueError for other words, for nets that differ in shape or in a buffer of integers, and to recompute what is not of a
    batch norm. There is a value everywhere, and a derivative with "keep" alone: PyTorch has none by statistics that move,
    and ValueError says so.
    """
    if not (len(statistics) if isinstance(statistics, Tensor) else str(statistics) in ("keep", "interpolate")):
        rule = "'keep', 'interpolate' or a tensor of training data to recompute from"
        raise require.error("statistics", rule, statistics)
    pure.check_model(start)
    require.functions(criterion)
    buffers, others = ({k: b.clone() for k, b in net.named_buffers() if b.is_floating_point()} for net in (start, end))
    origin, goal = params_of(start), params_of(end)
    if any(
        {k: p.shape for k, p in a.items()} != {k: p.shape for k, p in b.items()}
        for a, b in [(origin, goal), (buffers, others)]
    ):
        raise ValueError("end must have the parameters and buffers of start, got another architecture")
    theirs = dict(end.named_buffers())
    for key, b in start.named_buffers():
        if not (key in buffers or key.endswith("num_batches_tracked") or (key in theirs and b.equal(theirs[key]))):
            remedy = "there is nothing between the two; build both from one seed"
            raise require.error("end", "a net with the integers and masks of start", f"another {key!r}", remedy)
    span = add(goal, origin, -1)
    layers = {name: layer for name, layer in start.named_modules() if isinstance(layer, nn.modules.batchnorm._NormBase)}
    recomputed = [name for name, layer in layers.items() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for key, b in buffers.items() if isinstance(statistics, Tensor) else ():
        layer = key.rpartition(".")[0]
        if layer not in recomputed and (layer in layers or not b.equal(others[key])):
            remedy = "use 'keep' or 'interpolate', or layers with track_running_stats=False"
            raise require.error("statistics", "of batch norm to be recomputed", f"{key!r}", remedy)

    def recompute(params: Params) -> Params:
        fresh = {k: b.clone() for k, b in start.named_buffers()}
        for name in recomputed:
            layer = layers[name]
            if layer.track_running_stats:
                layer.train()
                layer.momentum = None  # the plain average of what follows
                fresh[f"{name}.num_batches_tracked".lstrip(".")].zero_()
        functional_call(start, params | fresh, (torch.clone(statistics),))  # which a model may change
        start.eval()
        return fresh

    def between(params: Params) -> Params:
        alpha = (dot(add(params, origin, -1), span) / dot(span, span)).nan_to_num()
        if statistics == "keep":
            alpha = (alpha >= 0.5).to(alpha.dtype)
        state = {k: (1 - alpha) * b + alpha * others[k] for k, b in buffers.items()}
        return {k: b.clamp(min=0) if k.endswith("running_var") else b for k, b in state.items()}

    statistics_at = recompute if isinstance(statistics, Tensor) else between

    moving = bool(recomputed if isinstance(statistics, Tensor) else buffers and statistics == "interpolate")

    def loss(params: Params) -> Tensor:
        if moving and torch.is_grad_enabled() and any(p.requires_grad for p in params.values()):
            remedy = "use 'keep' for a derivative, and torch.no_grad() for a value"
            raise require.error(
                "statistics", "kept where a derivative is taken", "some that move with the weights", remedy
            )
        with pure.untouched(start), pure.eager():
            start.eval()
            return criterion(functional_call(start, params | statistics_at(params), (x.clone(),)), y.clone())

    return loss
