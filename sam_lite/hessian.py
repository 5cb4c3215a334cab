"""Curvature through Hessian-vector products.

The Hessian H of a loss has n_params^2 entries, but a product H v costs only two gradients (Pearlmutter 1994), and
products are enough for what follows. Every function here is `f(loss, params, ...)`: it changes nothing, gives the same
result twice, and maps over an ensemble:

    vmap(lambda p: top_eigenvalues(loss, p, k).values, chunk_size=64)(ensemble)     # (n_models, k)

H is the Hessian of the loss as given: with its data, the mode of its layers, and weight decay only if the loss contains
it. If the data do not fit into memory, give a list of losses, one for each chunk, or pairs (loss, size) if the chunks
differ (`params.shares`). Their mean is meant, and one graph at a time is in memory. Differences of gradients are no
substitute: they step across the kinks of a ReLU. Where the loss is not finite, all is NaN. Results keep no graph: no
`backward` goes through them, but `torch.func.jacfwd` does. Raises ValueError for a loss that is random or has no
derivative, for half precision, also by `torch.autocast`, and for weights by which `torch.func.grad` takes a derivative.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp, vmap

from sam_lite import pure, require
from sam_lite.lanczos import lanczos
from sam_lite.noise import noise, nonzero
from sam_lite.params import Loss, Losses, Params, count, from_vector, length, shares, to_vector


class Eigenpairs(NamedTuple):
    values: Tensor  # (k,), descending
    vectors: Params  # name -> (k, *shape), of length 1
    residuals: Tensor  # (k,): |H v - value v|; an eigenvalue of H lies this close to the value


class Estimate(NamedTuple):
    mean: Tensor  # scalar
    error: Tensor  # scalar: standard error of the mean


class Density(NamedTuple):
    nodes: Tensor  # (n_probes, steps)
    weights: Tensor  # (n_probes, steps), >= 0, of sum 1
    grid: Tensor  # (points,)
    values: Tensor  # (points,): density over the grid, of integral 1


@torch.no_grad()
def hvp(loss: Loss, params: Params) -> Callable[[Params], Params]:
    """The function v -> H v, both like `params`: the pullback of the gradient, H v = d(grad . v) / dw (Pearlmutter 1994).

    Args:
        loss: the loss as a function of the weights, such as `loss_of(model, x, y)`.
        params: weights, name -> (*shape), at which the Hessian is meant.

    >>> import torch
    >>> loss = lambda p: p["w"][0] ** 2 + p["w"][0] * p["w"][1]
    >>> hvp(loss, {"w": torch.tensor([1.0, 2.0])})({"w": torch.tensor([1.0, 0.0])})
    {'w': tensor([2., 1.])}

    One graph serves every v. A parameter that takes no part has a block of zeros. Attention and recurrent layers run on
    their plain kernels, because the fused ones have no second derivative; a loss that is not from `loss_of` needs, for
    recurrent layers on a GPU, `with torch.backends.cudnn.flags(enabled=False)`.
    """
    pure.check(loss, params)
    return _hvp(loss, {name: p.clone() for name, p in params.items()})  # which may change before the last product


def _hvp(loss: Loss, params: Params) -> Callable[[Params], Params]:
    def pulled() -> tuple[Callable, Tensor]:
        with pure.twice():
            return vjp(grad_and_value(pure.differentiable(loss)), dict(params), has_aux=True)[1:]

    pullback, height = pulled()
    finite = height.isfinite()  # or else the derivatives may come out as 0

    @torch.no_grad()
    def product(v: Params) -> Params:
        nonlocal pullback
        require.same_names(params, v)
        v = {name: v[name] for name in params}
        try:
            found = pullback(v)[0]
        except RuntimeError as error:
            if "workspace" not in str(error):  # which oneDNN's LSTM lacks for a second derivative
                raise
            with pure.without(torch.backends.mkldnn):
                pullback, _ = pulled()
            found = pullback(v)[0]
        return {name: torch.where(finite, x, torch.nan) for name, x in found.items()}

    return product


@torch.no_grad()
def dense(loss: Losses, params: Params) -> Tensor:
    """The whole Hessian, (n_params, n_params), column by column: for small networks."""
    identity = torch.ones_like(to_vector(params)).diag()
    return vmap(_on_vectors(loss, params), out_dims=1, chunk_size=256)(identity)


@torch.no_grad()
def top_eigenvalues(
    loss: Losses,
    params: Params,
    k: int = 1,
    *,
    steps: int = 30,
    tol: float = 0.0,
    start: Tensor | None = None,
    seed: int = 0,
) -> Eigenpairs:
    """The k largest eigenvalues of the Hessian: the largest by value, not by magnitude.

    Args:
        loss: the loss as a function of the weights, or a list of them: see the top of this file.
        params: weights, name -> (*shape).
        k: how many, from 1 to n_params.
        steps: Hessian-vector products, at least k; n_params of them are exact. Where residuals are large give more.
        tol: if above 0, stop once residual <= tol |value| for all k, perhaps before every copy of a repeated eigenvalue
            is found; not under vmap.
        start: vector (n_params,) to start from; None: Gaussian noise.
        seed: of that noise.

    Returns Eigenpairs(values (k,), vectors, residuals (k,)); NaN for a diverged model. ValueError for settings out of
    these bounds. Lanczos (1950) with full reorthogonalization; k more products for the residuals.

    >>> import torch
    >>> loss = lambda p: (torch.tensor([1.0, 5.0, 3.0]) * p["w"] ** 2).sum() / 2
    >>> top_eigenvalues(loss, {"w": torch.ones(3)}, k=2).values.round(decimals=4)
    tensor([5., 3.])
    """
    k = require.whole("k", k, most=count(params), remedy="there are as many eigenvalues as parameters")
    steps, tol = require.whole("steps", steps, least=k), require.number("tol", tol, least=0)
    if not (start is None or isinstance(start, Tensor)):
        raise require.error("start", "a vector (n_params,)", type(start), "give to_vector(start)")
    row = noise("start", 1 if start is None else start[None], params, seed)
    product = _on_vectors(loss, params)
    values, mixes, basis = lanczos(product, row[0], min(steps, row.shape[1]), k, tol)
    values, vectors = values.flip(0)[:k], mixes.flip(1)[:, :k].mT @ basis  # (k,), (k, n_params)
    missed = torch.stack([product(v) - value * v for value, v in zip(values, vectors, strict=True)])
    return Eigenpairs(values, vmap(lambda v: from_vector(v, params))(vectors), length(missed))


@torch.no_grad()
def trace(loss: Losses, params: Params, *, probes: int | Tensor = 30, seed: int = 0) -> Estimate:
    """The trace of the Hessian: mean of v . H v over random signs v, and its standard error (Hutchinson 1990).

    Args:
        loss, params: as in `top_eigenvalues`.
        probes: how many, at least 2, or the noise (n_probes, n_params) that gives the signs.
        seed: of the signs.

    Returns Estimate(mean, error), scalars. Exact for a diagonal Hessian.

    >>> import torch
    >>> loss = lambda p: (torch.tensor([1.0, 5.0, 3.0]) * p["w"] ** 2).sum() / 2
    >>> trace(loss, {"w": torch.ones(3)}).mean.round(decimals=4)
    tensor(9.)
    """
    product, signs = _on_vectors(loss, params), _signs(probes, params, seed)
    require.whole("probes", len(signs), least=2)
    samples = torch.stack([v @ product(v) for v in signs])
    return Estimate(samples.mean(), samples.std() / len(signs) ** 0.5)


@torch.no_grad()
def spectral_density(
    loss: Losses,
    params: Params,
    *,
    steps: int = 30,
    probes: int | Tensor = 8,
    seed: int = 0,
    width: float = 0.01,
    points: int = 500,
) -> Density:
    """The density of the eigenvalues by stochastic Lanczos quadrature (Golub & Welsch 1969; Ghorbani et al. 2019).

    Each probe (as in `trace`) starts a Lanczos run. Its eigenvalues are the nodes; the squared first entries of its
    eigenvectors are their weights. The density is smoothed by Gaussians of standard deviation width * max |node|, so the
    scale of the loss does not matter, and by at least two thirds of a step of the grid, which narrower ones would fall
    through: for a small `width` give more `points`. The sum of weights * nodes is the trace / n_params. Raises ValueError
    for counts < 1 and width <= 0.
    """
    steps, points = require.whole("steps", steps), require.whole("points", points, least=2)
    width = require.number("width", width, least=1e-6)
    product, signs = _on_vectors(loss, params), _signs(probes, params, seed)
    pairs = [lanczos(product, v, min(steps, len(v)))[:2] for v in signs]
    nodes = torch.stack([values for values, _ in pairs])
    weights = torch.stack([mixes[0] ** 2 for _, mixes in pairs]) / len(pairs)
    largest = nodes.abs().amax()
    finest = (nodes.amax() - nodes.amin()) / max(1.5 * (points - 1) - 10, 1)  # two thirds of a step of the grid
    sigma = width * largest.masked_fill(largest == 0, 1)
    sigma = torch.maximum(sigma, finest)
    low, high = nodes.amin() - 5 * sigma, nodes.amax() + 5 * sigma
    grid = low + (high - low) * torch.linspace(0, 1, points, dtype=nodes.dtype, device=nodes.device)
    bumps = torch.exp(-0.5 * ((grid[:, None] - nodes.flatten()) / sigma) ** 2) / (sigma * (2 * torch.pi) ** 0.5)
    return Density(nodes, weights, grid, bumps @ weights.flatten())


def _signs(probes: int | Tensor, params: Params, seed: int) -> Tensor:
    signs = noise("probes", probes, params, seed).sign()
    return nonzero("probes", signs, signs == 0)


def _on_vectors(losses: Losses, params: Params) -> Callable[[Tensor], Tensor]:
    """H v for v (n_params,)."""
    parts = shares(losses)
    for loss, _ in parts:
        pure.check(loss, params)
    if len(parts) > 1:
        return lambda v: sum(part * to_vector(_hvp(loss, params)(from_vector(v, params))) for loss, part in parts)
    product = _hvp(parts[0][0], params)
    return lambda v: to_vector(product(from_vector(v, params)))
