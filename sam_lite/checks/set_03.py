"""Checks of exercise 3: batch size and learning rate, ghost batch norm, two laws of distance."""

import itertools

import numpy as np
import torch
from scipy.stats import t as student
from torch import nn

from ..models import GhostBatchNorm1d
from . import Draw, expect, expect_error, part, probe, unpack

DOUBLE = torch.float64


@part("Part 1, the adapted regime", points=2, rounds=5)
def adapt(draw: Draw, adapt):
    small, k = draw.whole(8, 60), draw.whole(2, 9)
    regime = {"epochs": draw.whole(10, 200), "drops": sorted(draw.rng.integers(2, 150, draw.whole(1, 3)).tolist())}
    times = lambda k, drops=None: {  # noqa: E731
        "epochs": k * regime["epochs"],
        "drops": [(k if drops is None else drops) * drop for drop in regime["drops"]],
    }
    mistakes = {
        "the drops stayed where they were": times(k, 1),
        "only the drops were moved": times(1, k),
        "the batch sizes are swapped": times(1 / k),
    }
    expect(f"{small} to {k * small}", adapt(regime, small, k * small), times(k), looks_like=mistakes)
    large = k * small - draw.whole(1, small - 1)
    mistakes = {"k was rounded down": times(large // small), "k was not rounded": times(large / small)}
    mistakes["k was rounded to the nearest: round up"] = times(round(large / small))
    expect(f"{small} to {large}", adapt(regime, small, large), times(k), looks_like=mistakes)
    expect("the same batch size: nothing changes", adapt(regime, small, small), times(1))
    none = {"epochs": regime["epochs"], "drops": []}
    expect("without any drop", adapt(none, small, k * small), {"epochs": k * regime["epochs"], "drops": []})


@part("Part 1, the rate of a step", points=2, rounds=5)
def rate_at(draw: Draw, rate_at):
    size, per = draw.whole(8, 40), draw.whole(2, 4)
    n, lr = size * per + draw.whole(1, size - 1), draw.number(0.05, 2)
    first = draw.whole(2, 3)
    drops = [first, first + draw.whole(2, 3)]
    if draw.round % 2:
        drops.append(drops[-1] + 1)
    steps = range((drops[-1] + 2) * per)
    got = [rate_at(step, lr, drops, n, size) for step in steps]
    with_epochs = lambda epoch: [lr * 0.1 ** sum(epoch(s) >= drop for drop in drops) for s in steps]  # noqa: E731
    mistakes = {
        "the drop comes one step too late": with_epochs(lambda s: (s - 1) // per),
        "the drop comes an epoch too late": with_epochs(lambda s: s // per - 1),
        "incomplete batches were counted": with_epochs(lambda s: s * size / n),
        "an epoch was taken to have one step more: leave the incomplete batch out": with_epochs(
            lambda s: s // (per + 1)
        ),
        "the later drops undid the first, or were forgotten": [
            lr * (0.1 if s // per >= drops[0] else 1) for s in steps
        ],
        "drops were taken as numbers of steps": with_epochs(lambda s: s),
        "the rate never drops": [lr for _ in steps],
        "the factor is 1/10, not 1/2": [lr * 0.5 ** sum(s // per >= drop for drop in drops) for s in steps],
    }
    expect(f"the rates of {len(steps)} steps", got, with_epochs(lambda s: s // per), looks_like=mistakes)
    expect("no drop", rate_at(1000, lr, [], n, size), lr)


@part("Part 2, the covariance", points=3)
def step_covariance(draw: Draw, step_covariance):
    n, d, lr = draw.whole(3, 5), draw.whole(2, 3), draw.number(0.05, 0.6)
    grads = draw.normal(n, d, dtype=DOUBLE) + draw.away(d, dtype=DOUBLE)

    def over_all(batches):
        """The covariance of the step over a list of equally likely batches: no formula, only counting."""
        every = torch.stack([-lr * grads[list(batch)].mean(0) for batch in batches])
        return (every - every.mean(0)).T @ (every - every.mean(0)) / len(every)

    for B in (1, 2, 3):
        got, without = step_covariance(grads, lr, B), step_covariance(grads, lr, B, replace=False)
        right = over_all(list(itertools.product(range(n), repeat=B)))
        mistakes = {
            "the mean was not taken away: noise is what deviates from it": lr**2 / B * grads.T @ grads / n,
            "you divided by n - 1: these n examples are all there are": right * n / (n - 1),
            "the learning rate must be squared": right / lr,
            "this is the covariance of the gradient: where is the learning rate": right / lr**2,
            "this does not depend on the batch size as it should": lr**2 * torch.cov(grads.T, correction=0),
            "the mean of B draws has Σ/B, not Σ/B²": right / B,
            "this is the sum of B draws, not their mean": right * B**2,
            "the draws repel each other here, though they were made with replacement": right * (n - B) / (n - 1),
        }
        if B == 1:
            mistakes = dict(list(mistakes.items())[:4])
        expect(f"batches of {B}, with replacement", got, right, looks_like=mistakes)
        right = over_all(list(itertools.combinations(range(n), B)))
        mistakes = {"the factor must be 1 for B = 1: divide by n - 1": right * (n - 1) / n}
        if B < n:
            mistakes["the factor for draws without replacement is missing"] = right * (n - 1) / (n - B)
        expect(f"batches of {B}, without replacement", without, right, looks_like=mistakes)
    everything = step_covariance(grads, lr, n, replace=False)
    expect("all examples at once: no noise", everything, torch.zeros(d, d))
    expect("equal gradients: no noise", step_covariance(torch.ones(5, 3), lr, 2), torch.zeros(3, 3))


@part("Part 2, two rules", points=2)
def matched_rate(draw: Draw, matched_rate):
    lr, small, k = draw.number(0.01, 0.5), draw.whole(4, 32), draw.whole(2, 16)
    swapped = "the rules are swapped: solve for η once with η²/B, once with η/B"
    for large in (k * small, k * small + draw.whole(1, small - 1)):
        ratio = large / small
        for keep, right, other in (("step", ratio**0.5, ratio), ("time", ratio, ratio**0.5)):
            mistakes = {
                swapped: lr * other,
                "the rate goes the wrong way: a larger batch is less noisy": lr / right,
                "k must not be squared": lr * ratio**2,
                "the rate has not changed": lr,
                "k need not be an integer": lr * (large // small) ** (0.5 if keep == "step" else 1),
            }
            what = "of a step" if keep == "step" else "per time"
            got = matched_rate(lr, small, large, keep)
            expect(
                f"the rate that keeps the covariance {what}, {small} to {large}", got, lr * right, looks_like=mistakes
            )
    expect_error("another word", lambda: matched_rate(lr, small, k * small, "epoch"), ValueError)


@part("Part 3, the weights", points=2, rounds=4)
def running_weights(draw: Draw, running_weights):
    k, m = draw.whole(3, 6), draw.number(0.15, 0.4)
    q, age = 1 - m, np.arange(k - 1, -1, -1)
    got = running_weights(k, m)
    right = [q**k, *(m * q**age)]
    late = m * q ** (age + 1)
    mistakes = {
        "the order is reversed: the last ghost counts most": [q**k, *(m * q ** age[::-1])],
        "the powers begin at 1: then the weights do not sum to 1": [q**k, *late],
        "the powers begin at 1, and the order is reversed": [q**k, *late[::-1]],
        "the ghosts were averaged first and counted as one update": [q, *np.full(k, m / k)],
        "all ghosts weigh the same: each update shrinks what was there before": [q**k, *np.full(k, (1 - q**k) / k)],
        "momentum and 1 - momentum are swapped": [m**k, *(q * m**age)],
        "the weight of the old mean is missing": right[1:],
        "the weight of the old mean stands first": [*right[1:], right[0]],
    }
    expect(f"the weights for {k} ghosts and m = {m:.3g}", got, right, looks_like=mistakes)
    expect("one ghost: as in batch norm", running_weights(1, m), [q, m])
    expect("no ghost yet", running_weights(0, m), [1.0])
    expect("m = 1: only the last ghost counts", running_weights(4, 1.0), [0, 0, 0, 0, 1.0])


def _look_at(layer_of, x, size, momentum, eps, slope):
    """All that is asked of a ghost norm, in plain tensors."""
    n = x.shape[1]
    layer, kept = layer_of(n, size, momentum=momentum, eps=eps).double(), x.clone()
    seen = {"train": layer(x).detach(), "same": torch.equal(x, kept)}
    seen |= {"mean": layer.running_mean.clone(), "var": layer.running_var.clone()}
    at = kept.clone().requires_grad_()
    (layer(at) ** 3 * slope).sum().backward()
    seen |= {"slope": at.grad, "carries": layer.running_mean.requires_grad or layer.running_var.requires_grad}
    seen |= {"mean2": layer.running_mean.detach().clone(), "var2": layer.running_var.detach().clone()}
    layer.eval()
    before = layer.running_mean.detach().clone()
    seen |= {"eval": layer(kept).detach(), "eval part": layer(kept[: size + 1]).detach()}
    seen["moved"] = not torch.equal(layer.running_mean, before)
    whole = layer_of(n, len(x))
    seen |= {"whole": whole(kept.float()).detach(), "whole var": whole.running_var.detach()}
    return seen


def _peer(n, size, momentum=0.1, eps=1e-5):
    layer = GhostBatchNorm1d(n, size, momentum=momentum, affine=False)
    layer.eps = eps
    return layer


@part("Part 3, ghost batch norm", points=4)
def ghost_norm(draw: Draw, layer_of):
    size, ghosts, n, m = draw.whole(3, 5), draw.whole(2, 4), draw.whole(2, 4), draw.number(0.15, 0.4)
    x = draw.normal(size * ghosts, n, dtype=DOUBLE) * draw.away(n, dtype=DOUBLE, low=0.3, high=3)
    x[:size] += 2.0  # the ghosts differ
    slope, parts = draw.normal(size * ghosts, n, dtype=DOUBLE), x.split(size)
    eps = draw.number(0.01, 0.1)
    seen = probe(_look_at, layer_of, x.clone(), size, m, eps, slope)
    peer = _look_at(_peer, x.clone(), size, m, eps, slope)

    def standard(part, correction=0, eps=eps):
        return (part - part.mean(0)) / (part.var(0, correction=correction) + eps).sqrt()

    mistakes = {
        "the whole batch was normalized at once: where are the ghosts": standard(x),
        "the variance that normalizes is divided by the number of points, not by one less": torch.cat(
            [standard(part, 1) for part in parts]
        ),
        "the ghosts are interleaved: the first one is the first rows": torch.stack(
            [standard(x[i::ghosts]) for i in range(ghosts)], 1
        ).reshape(len(x), n),
        "the running statistics were used in training": x / (1 + eps) ** 0.5,
        "the argument eps is not used, or 1e-5 in its place": torch.cat([standard(p, eps=1e-5) for p in parts]),
        "ε belongs under the root": torch.cat([(p - p.mean(0)) / (p.std(0, correction=0) + eps) for p in parts]),
        "the variance was taken for the standard deviation": torch.cat(
            [(p - p.mean(0)) / (p.var(0, correction=0) + eps) for p in parts]
        ),
    }
    expect("the output in training", seen["train"], torch.cat([standard(p) for p in parts]), looks_like=mistakes)
    assert seen["same"], "the batch must stay as it was."

    means, spreads = torch.stack([p.mean(0) for p in parts]), torch.stack([p.var(0) for p in parts])
    old = (1 - m) ** ghosts
    weights = m * (1 - m) ** torch.arange(ghosts - 1, -1, -1, dtype=DOUBLE)
    mistakes = {
        "the ghosts were averaged first and counted as one update": m * means.mean(0),
        "only the last ghost moved it": m * means[-1],
        "the ghosts came in reverse order": weights.flip(0) @ means,
        "the running mean has not moved": torch.zeros(n),
        "momentum and 1 - momentum are swapped": (1 - m) * m ** torch.arange(ghosts - 1, -1, -1, dtype=DOUBLE) @ means,
    }
    expect("the running mean after one batch", seen["mean"], weights @ means, looks_like=mistakes)
    mistakes = {
        "the running variance takes the unbiased one, divided by the number of points minus one": old
        + weights @ spreads * (size - 1) / size,
        "the ghosts were averaged first and counted as one update": 1 - m + m * spreads.mean(0),
        "the variance of the whole batch was used": 1 - m + m * x.var(0),
        "the running variance has not moved": torch.ones(n),
    }
    expect("the running variance after one batch", seen["var"], old + weights @ spreads, looks_like=mistakes)
    fixed = [3 * standard(p) ** 2 / (p.var(0, correction=0) + eps).sqrt() for p in parts]
    mistakes = {"mean and variance count as constants: the gradient must flow through them": torch.cat(fixed) * slope}
    expect("the gradient of the output", seen["slope"], peer["slope"], looks_like=mistakes, tolerance=1e-4)
    assert not seen["carries"], "the running statistics must carry no gradient: update them under torch.no_grad()."
    expect("the running variance after two batches", seen["var2"], peer["var2"])
    batch_used = "the statistics of the batch were used in evaluation"
    mistakes = {
        batch_used: torch.cat([standard(p) for p in parts]),
        f"{batch_used}, without ghosts": standard(x),
    }
    expect("the output in evaluation", seen["eval"], peer["eval"], looks_like=mistakes)
    few = {batch_used: standard(x[: size + 1])}
    expect(f"the output in evaluation, {size + 1} rows", seen["eval part"], peer["eval part"], looks_like=few)
    assert not seen["moved"], "evaluation must not move the running mean."
    plain = nn.BatchNorm1d(n, affine=False)
    expect("one ghost is batch norm (float32)", seen["whole"], plain(x.float()), tolerance=1e-4)
    expect("… and so are its running statistics", seen["whole var"], plain.running_var, tolerance=1e-4)


@part("Part 4, the distance", points=1, rounds=4)
def distance(draw: Draw, distance):
    shapes = {"weight": (draw.whole(2, 3), draw.whole(2, 4)), "bias": (draw.whole(2, 4),)}
    w, w0 = ({name: draw.away(*shape) for name, shape in shapes.items()} for _ in range(2))
    got = distance(w, w0)
    apart = [(w[name] - w0[name]).double() for name in shapes]
    every = torch.cat([t.flatten() for t in apart])
    right = every.norm()
    flat = [torch.cat([t.flatten().double() for t in p.values()]) for p in (w, w0)]
    mistakes = {
        "the norms of the tensors were added: the squares add up": sum(t.norm() for t in apart),
        "the root is missing": right**2,
        "this is the difference of two lengths, not the length of the difference": flat[0].norm() - flat[1].norm(),
        "the distances of single weights were added": every.abs().sum(),
        "this is a mean over the weights": every.square().mean().sqrt(),
        "this is the largest change of a weight": every.abs().max(),
    }
    expect("the distance", got, right, looks_like=mistakes)
    expect("the distance to itself", distance(w, w), 0.0)


@part("Part 4, two laws", points=3)
def extrapolate(draw: Draw, extrapolate):
    n = draw.whole(5, 9)
    t = np.cumsum(draw.rng.uniform(0.5, 4, n))
    t_new = t[-1] * np.array([2.0, 4.0, 15.0])
    y = 1 + 0.8 * np.log1p(t) + draw.rng.uniform(-0.15, 0.15, n)
    logs = np.log(t), np.log(t_new)

    def line(u, v, u_new):
        """The straight line of least squares, from its normal equations."""
        slope = ((u - u.mean()) * (v - v.mean())).sum() / ((u - u.mean()) ** 2).sum()
        return v.mean() + slope * (u_new - u.mean())

    found = extrapolate(t, y, t_new)
    assert isinstance(found, dict) and set(found) == {"log t", "power law"}, (
        "extrapolate must return a dict with the keys 'log t' and 'power law'."
    )
    first, second = line(logs[0], y, logs[1]), np.exp(line(logs[0], np.log(y), logs[1]))
    through = logs[0] @ logs[0]
    mistakes = {
        "this is a straight line in t: take the logarithm of t": line(t, y, t_new),
        "the logarithm of y was fitted: that is for the power law": second,
        "the line goes through 0: a is missing": (logs[0] @ y) / through * logs[1],
    }
    expect("the prediction of log t", found["log t"], first, looks_like=mistakes)
    mistakes = {
        "this is the logarithm of the prediction": np.log(second),
        "c is missing, or fixed at 1": np.exp((logs[0] @ np.log(y)) / through * logs[1]),
        "this is exponential growth: take the logarithm of t, too": np.exp(line(t, np.log(y), t_new)),
        "this is the prediction of log t": first,
    }
    expect("the prediction of the power law", found["power law"], second, looks_like=mistakes)


@part("Part 5", points=3, rounds=4)
def paired_interval(draw: Draw, paired_interval):
    n = draw.whole(*((3, 5), (6, 8), (9, 25), (30, 60))[draw.round])
    base = draw.rng.uniform(40, 70, n)
    a, b = base + draw.rng.uniform(0, 3, n), base - draw.rng.uniform(0, 2, n)
    a, b = (a, b) if draw.rng.random() < 0.5 else (b, a)
    sides = [a.tolist(), b.tolist()] if draw.round % 2 else [a, b]
    mean, half = unpack(paired_interval(*sides), "the mean", "half the width")
    gaps = a - b
    root, t = gaps.std(ddof=1) / n**0.5, student.ppf(0.975, n - 1)
    mistakes = {
        "the difference is taken the wrong way round": -gaps.mean(),
        "this is the lower end of the interval: return its middle and half its width": gaps.mean() - t * root,
    }
    expect("the mean of the differences", mean, gaps.mean(), looks_like=mistakes)
    apart = ((a.var(ddof=1) + b.var(ddof=1)) / n) ** 0.5
    mistakes = {
        "1.96 is for very many seeds": student.ppf(0.975, 1e9) * root,
        "the variance is divided by n instead of n - 1": t * root * (1 - 1 / n) ** 0.5,
        "this is the spread of single seeds: divide by √n": t * gaps.std(ddof=1),
        "this is a standard error: the factor t is missing": root,
        "the degrees of freedom are n - 1": student.ppf(0.975, n) * root,
        "this is the 95% quantile: half of the 5% lie on each side": student.ppf(0.95, n - 1) * root,
        "this is the whole width": 2 * t * root,
        "the seeds are not paired: take the differences first": t * apart,
        "the seeds are not paired, and have 2n - 2 degrees of freedom: take the differences first": apart
        * student.ppf(0.975, 2 * n - 2),
    }
    expect(f"half the width of the interval, {n} seeds", half, t * root, looks_like=mistakes, tolerance=5e-4)
