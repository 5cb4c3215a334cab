"""Numbers of a trained network that may predict its generalization gap (Jiang et al. 2020, here "J", by equation).

Every function takes one model and gives name -> scalar; `measure` calls them all, and maps over an ensemble:

    vmap(lambda w, w0: measure(outputs, w, w0, x, y), chunk_size=8)(params, start)

outputs: (params, x) -> logits (n, n_classes), pure. w: the weights, w0: where training started, m: the number of points,
W_i: the weight matrices, a convolution's filters in rows, without biases, d: their number, omega: the number of weights,
gamma: the margin that a tenth of the points stay below. All are without unit but for those of the loss (nats) and the
steps. A larger value should predict a larger gap. J puts most under sqrt(. / m), which changes no rank and is left out.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vjp, vmap

from sam_lite import pure, require
from sam_lite.hessian import top_eigenvalues, trace
from sam_lite.noise import noise
from sam_lite.params import Loss, Params, check_alike, count, dot, from_vector, norm, to_vector
from sam_lite.sharpness import ascent_sharpness, box_sharpness

Outputs = Callable[[Params, Tensor], Tensor]
Measures = dict[str, Tensor]
TOLERANCE, EPSILON, DELTA = 0.1, 1e-3, 0.1  # J: fall of the accuracy; least noise on a weight; risk of the bound
LEVELS, DECADES = 9, 4  # of the searches for sigma (from 0.001) and alpha (from 0.0001): to 10^(4 / 512), 1.8%


def load_study() -> pd.DataFrame:
    """The recorded study, one row per model: its settings, how it ended, its gap, and its measures (see study.md)."""
    return pd.read_parquet(files("sam_lite") / "study.parquet")


@torch.no_grad()
def measure(
    outputs: Outputs, params: Params, start: Params, x: Tensor, y: Tensor, *, samples: int = 8, seed: int = 0
) -> Measures:
    """All measures of a network that need no record of its training. x: (m, *features), y: (m,), its training points.

    samples: number of noise vectors, drawn from `seed`, for sigma and for the trace; all models of one shape share them.
    Raises ValueError for outputs that are random, for half precision, and for fewer than 2 points or classes.
    """
    require.measured(params)
    require.whole("the number of points", len(x), least=2)
    logits = outputs(params, x)
    if not (isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1):
        rule = f"logits ({len(x)}, n_classes) of 2 classes or more"
        raise require.error("outputs(params, x)", rule, getattr(logits, "shape", logits))
    size, margin = capacity(params), margins(logits, y)
    gamma = 1 / margin["inverse_margin"].sqrt()
    found = size | margin | norms(params, start, gamma) | path_norms(outputs, params, x, gamma)
    found |= flatness(outputs, params, start, x, y, samples=samples, seed=seed)
    return found | curvature(outputs, params, x, y, samples=samples, seed=seed) | gradients(outputs, params, x, y)


def capacity(params: Params) -> Measures:
    """n_params: omega (J 20). vc_dimension: omega d log2(omega), to a constant (Bartlett et al. 2019)."""
    size, like = count(params), next(iter(params.values()))
    found = {"n_params": size, "vc_dimension": size * len(matrices(params)) * math.log2(size)}
    return {name: like.new_tensor(value) for name, value in found.items()}


def margins(logits: Tensor, y: Tensor) -> Measures:
    """inverse_margin: 1 / gamma^2 (J 22), gamma^2 with the sign of gamma. loss: mean cross-entropy, nats.

    negative_entropy: mean of sum_k p_k log p_k over the points, nats (J, after Pereyra et al. 2017).
    """
    if y.shape != logits.shape[:1]:
        raise require.error("y", f"labels of shape ({len(logits)},), one for each row of logits", tuple(y.shape))
    label = F.one_hot(y, logits.shape[1]).bool()
    gap = logits.where(label, 0).sum(1) - logits.masked_fill(label, -torch.inf).amax(1)
    gamma, logs = gap.sort().values[len(gap) // 10], logits.log_softmax(1)
    gamma = gamma.masked_fill(gap.isnan().any(), torch.nan)  # which are sorted as the largest
    chances = logs.exp()
    each = (chances * logs).masked_fill(chances == 0, 0)  # a class may be ruled out, by a logit of -inf
    return {
        "inverse_margin": 1 / (gamma * gamma.abs()),
        "loss": -logs.where(label, 0).sum(1).mean(),
        "negative_entropy": each.sum(1).mean(),
    }


def norms(params: Params, start: Params, gamma: Tensor) -> Measures:
    """Norms of the weight matrices; |W|_2 is the largest singular value, |W|_F the root of the sum of squares.

    l1, l2, l_inf: sum |w|, sum w^2 (J 42), max |w|. spec_prod, fro_prod: prod |W_i|^2 (J 32, 37).
    spec_sum, fro_sum: d (prod |W_i|^2)^(1/d) (J 35, 39). Each of these four _over_margin: the product over gamma^2
    (J 31, 34, 36, 38). fro_over_spec: sum |W_i|_F^2 / |W_i|_2^2 (J 33). spec_orig: that times prod |W_i|_2^2 / gamma^2
    (J 30), spec_init: with |W_i - W0_i|_F (J 29). fro_distance, spec_distance: sum |W_i - W0_i|^2 (J 40, 41).
    What is over gamma^2 is NaN where gamma is negative, as of a network that errs on a tenth of the points: J's do not,
    and of others these bounds say nothing. A product of more than float32 holds is inf: give float64. The roots are not.
    """
    now, moved = matrices(params), matrices(_moved(params, start))
    if not now:
        raise require.error("params", "of a network with a weight matrix or more", sorted(params))
    fro, fro_moved = (torch.stack([w.square().sum() for w in ws]) for ws in (now, moved))
    spec, spec_moved = (torch.stack([spectral(w).square() for w in ws]) for ws in (now, moved))
    flat, depth = torch.cat([w.flatten() for w in now]), len(now)
    found = {"l1": flat.abs().sum(), "l2": fro.sum(), "l_inf": flat.abs().amax()}
    for name, squares in (("spec", spec), ("fro", fro)):
        for tail, over in (("", 1.0), ("_over_margin", gamma**2)):
            product, mean = squares.prod() / over, squares.log().mean().exp()
            held = product.isfinite() & (product > torch.finfo(product.dtype).tiny)  # which many layers' may not be
            root = torch.where(held, product ** (1 / depth), mean / over ** (1 / depth))
            found |= {f"{name}_prod{tail}": product, f"{name}_sum{tail}": depth * root}
    found |= {"fro_over_spec": (fro / spec).sum(), "fro_distance": fro_moved.sum(), "spec_distance": spec_moved.sum()}
    bound = found["spec_prod_over_margin"]
    return found | {"spec_orig": bound * found["fro_over_spec"], "spec_init": bound * (fro_moved / spec).sum()}


def path_norms(outputs: Outputs, params: Params, x: Tensor, gamma: Tensor) -> Measures:
    """path_norm: the outputs' sum for the input 1 with every weight squared (J 44), and over gamma^2 (J 43).

    For ReLU networks without bias: sum over all paths from an input to an output of the product of the squared weights.
    """
    path = outputs({name: p.square() for name, p in params.items()}, torch.ones_like(x[:1])).sum()
    return {"path_norm": path, "path_norm_over_margin": path / gamma**2}


def flatness(
    outputs: Outputs, params: Params, start: Params, x: Tensor, y: Tensor, *, samples: int = 8, seed: int = 0
) -> Measures:
    """How far the weights can be moved until the accuracy has fallen by a tenth; |.| over all weights and biases.

    sigma: of noise N(0, sigma^2), on average. alpha: of the worst u found with |u_i| <= alpha, by ascent.
    sigma', alpha': the same in proportion, N(0, sigma'^2 w_i^2 + e^2), |u_i| <= alpha' |w_i| + e, e = 0.001.
    flatness, sharpness: 1 / sigma^2, 1 / alpha^2 (J 53, 54); _mag: 1 / sigma'^2, 1 / alpha'^2 (J 61, 62).
    pacbayes_init, pacbayes_orig: |v|^2 / (4 sigma^2) + log(m / sigma) + 10, v = w - w0 or v = w (J 48, 49).
    sharp_init, sharp_orig: |v|^2 log(2 omega) / (4 alpha^2) + log(m / alpha) + 10 (J 51, 52).
    pacbayes_mag_init, pacbayes_mag_orig: sum_i log((e^2 + (sigma'^2 + 1) |v|^2 / omega) / (e^2 + sigma'^2 v_i^2)) / 4
    + log(m / sigma') + 10 (J 56, 57). sharp_mag_init, sharp_mag_orig: with alpha' for sigma', 4 log(2 omega / 0.1) for 1
    (J 58, 59). Sizes are searched for from 0.001 (sigma) or 0.0001 (alpha) on, over four decades: beyond them the end is
    taken, which ranks right but is a bound. Raises ValueError for random outputs.
    """
    w, m, many = to_vector(params), len(x), math.log(2 * count(params))
    draws, loss = noise("samples", samples, params, seed), _loss(outputs, x, y)
    pure.check(loss, params)
    accuracy = lambda v: (outputs(from_vector(v, params), x).argmax(1) == y).to(w.dtype).mean()  # noqa: E731
    base, slope, found = accuracy(w), grad(pure.differentiable(lambda v: loss(from_vector(v, params)))), {}
    uphill = slope(w).sign()

    def on_average(spread: Callable, size: Tensor) -> Tensor:
        return base - torch.stack([accuracy(w + spread(size) * u) for u in draws]).mean()

    def at_worst(box: Callable, size: Tensor) -> Tensor:
        return base - accuracy(_climb(slope, w, uphill, box(size)))

    moved = {"init": to_vector(_moved(params, start)), "orig": w}
    sigma = _reach(partial(on_average, lambda s: s), w.new_tensor(1e-3))
    alpha = _reach(partial(at_worst, lambda s: s + 0 * w), w.new_tensor(1e-4))
    for origin, v in moved.items():
        square = v.square().sum() / 4
        found[f"pacbayes_{origin}"] = square / sigma**2 + torch.log(m / sigma) + 10
        found[f"sharp_{origin}"] = square * many / alpha**2 + torch.log(m / alpha) + 10
    found |= {"flatness": sigma**-2, "sharpness": alpha**-2}
    sigma = _reach(partial(on_average, lambda s: (s * w).square().add(EPSILON**2).sqrt()), w.new_tensor(1e-3))
    alpha = _reach(partial(at_worst, lambda s: s * w.abs() + EPSILON), w.new_tensor(1e-4))
    extra = 4 * (many - math.log(DELTA))
    for origin, v in moved.items():
        found[f"pacbayes_mag_{origin}"] = _magnitude_bound(v, sigma, 1.0) + torch.log(m / sigma) + 10
        found[f"sharp_mag_{origin}"] = _magnitude_bound(v, alpha, extra) + torch.log(m / alpha) + 10
    return found | {"flatness_mag": sigma**-2, "sharpness_mag": alpha**-2}


@pure.twice()
def curvature(outputs: Outputs, params: Params, x: Tensor, y: Tensor, *, samples: int = 8, seed: int = 0) -> Measures:
    """trace, lambda_max: of the Hessian. box: Keskar's metric 2.1 for 1e-3, percent. sam: L(w + e) - L(w) at rho 0.05, nats.

    fisher_rao: (d + 1)^2 times the mean of (w . gradient)^2 over the points (J 45, Liang et al. 2019).
    """
    loss = _loss(outputs, x, y)
    each = lambda p: F.cross_entropy(outputs(p, x), y, reduction="none")  # noqa: E731
    pullback = vjp(each, params)[1]
    along = grad(lambda v: dot(pullback(v)[0], params))(torch.ones_like(each(params)))  # forward mode, twice backward
    return {
        "trace": trace(loss, params, probes=2 * samples, seed=seed).mean,
        "lambda_max": top_eigenvalues(loss, params, steps=min(12, count(params)), seed=seed).values[0],
        "box": box_sharpness(loss, params, 1e-3, steps=8, seed=seed).value,
        "sam": ascent_sharpness(loss, params, 0.05).value,
        "fisher_rao": (len(matrices(params)) + 1) ** 2 * along.square().mean(),
    }


@pure.twice()  # and no rule for `vmap`
def gradients(outputs: Outputs, params: Params, x: Tensor, y: Tensor, *, batch: int = 40) -> Measures:
    """gradient_norm: |gradient|. gradient_variance: mean of |g_i - gradient|^2 over the points (J 67), from batches' means.

    The batches hold `batch` successive points each, at most half of all; their means vary less by that factor if the points
    are in random order: sorted by class they vary as much as the classes do.
    Raises ValueError for fewer than 2 points, whose gradients do not vary.
    """
    batch = min(require.whole("batch", batch), require.whole("the number of points", len(x), least=2) // 2)
    pure.check(_loss(outputs, x, y), params)
    n, slope = len(x) // batch, lambda x, y: grad(pure.differentiable(_loss(outputs, x, y)))(params)
    xs, ys = (part[: n * batch].view(n, batch, *part.shape[1:]) for part in (x, y))
    of_batch = vmap(lambda x, y: to_vector(slope(x, y)))(xs, ys)
    variance = batch * (of_batch - of_batch.mean(0)).square().sum() / (n - 1)
    return {"gradient_norm": norm(slope(x, y)), "gradient_variance": variance}


def controls(gap: Sequence[float], seed: int = 0) -> pd.DataFrame:
    """What a good and a useless measure would look like: oracle_02, oracle_05: gap + N(0, 0.02^2), N(0, 0.05^2). random."""
    noise = np.random.default_rng(require.whole("seed", seed, least=0)).standard_normal((3, len(gap)))
    return pd.DataFrame({"oracle_02": gap + 0.02 * noise[0], "oracle_05": gap + 0.05 * noise[1], "random": noise[2]})


def matrices(params: Params) -> list[Tensor]:
    """The weights of the layers as matrices (n_out, n_in), without biases."""
    return [p.flatten(1) for p in params.values() if p.ndim > 1]


def spectral(w: Tensor) -> Tensor:
    """The largest singular value, by 4,096 steps of power iteration in 12 squarings: maps, and takes NaN, as no SVD does."""
    scale = w.abs().amax() / w.abs().amax().clamp(1e-4, 1e4)  # 1, but for weights whose fourth powers leave the range
    w = w / scale.masked_fill(scale == 0, 1)
    gram = w @ w.mT if w.shape[0] < w.shape[1] else w.mT @ w
    power, least = gram, torch.finfo(w.dtype).tiny
    for _ in range(12):
        power = power / torch.linalg.vector_norm(power).clamp(min=least)
        power = power @ power
    v = power @ w.new_tensor(np.random.default_rng(0).standard_normal(len(gram)))
    return scale * (torch.linalg.vector_norm(gram @ v) / torch.linalg.vector_norm(v).clamp(min=least)).sqrt()


def _moved(params: Params, start: Params) -> Params:
    """w - w0, name by name."""
    check_alike(params, "start", start)
    return {name: p - start[name] for name, p in params.items()}


def _loss(outputs: Outputs, x: Tensor, y: Tensor) -> Loss:
    return lambda params: F.cross_entropy(outputs(params, x), y)


def _reach(fall: Callable[[Tensor], Tensor], low: Tensor) -> Tensor:
    """The largest size in DECADES from `low` at which the accuracy falls by no more than TOLERANCE; by bisection."""
    high = low * 10**DECADES
    for _ in range(LEVELS):
        middle = (low * high).sqrt()
        holds = fall(middle) <= TOLERANCE
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low


def _climb(slope: Callable[[Tensor], Tensor], w: Tensor, uphill: Tensor, box: Tensor, steps: int = 4) -> Tensor:
    """A point of high loss in the box around w: to the corner that is uphill at w, then by half its width each time."""
    u = box * uphill
    for _ in range(steps - 1):
        u = (u + box * slope(w + u).sign()).clamp(-box, box)
    return w + u


def _magnitude_bound(v: Tensor, size: Tensor, extra: float) -> Tensor:
    spread = EPSILON**2 + (size**2 + extra) * v.square().mean()
    return (spread / (EPSILON**2 + (size * v).square())).log().sum() / 4
