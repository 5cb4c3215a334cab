"""The largest eigenvalue of a trained network's Hessian, ours beside curvlinops and PyHessian, and of 256 networks.

    python benchmarks/curvature.py [device]

Ours stops at a relative residual |H v - value v| / value of 1e-3. curvlinops' operator goes to SciPy's ARPACK with that
tolerance, with the basis that needs the fewest products for it and with ARPACK's own, of 20. PyHessian stops its power
iteration where two values in a row differ by 1e-3 of themselves, its default. Every call has a new start; residuals
and errors are the largest of `STARTS`, measured in float64, the errors against 300 steps of ours. Second table: 256
networks in one call beside 256 calls, each of 15 products. Times and memory as in `sam.py`.
"""

import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import count
from unittest.mock import Mock, patch

import curvlinops
import pyhessian
import torch
from sam import compared, machine, peak, ratio
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.func import vmap

from sam_lite import hessian
from sam_lite.data import Data, best_device, mnist1d
from sam_lite.ensemble import train_ensemble
from sam_lite.hessian import hvp, top_eigenvalues
from sam_lite.models import build, mlp
from sam_lite.noise import noise
from sam_lite.params import from_vector, loss_of, member, params_of, to_vector
from sam_lite.train import train

TOL, STARTS, N_MODELS = 1e-3, range(10), 256
Found = tuple[float, Tensor, int]  # eigenvalue, eigenvector (n_params,), products


def ours(model: nn.Module, data: Data, seed: int) -> Found:
    with patch.object(hessian, "to_vector", wraps=to_vector) as products:  # called once in each
        found = top_eigenvalues(loss_of(model, *data[:2]), params_of(model), tol=TOL, seed=seed)
    return found.values[0].item(), to_vector(member(found.vectors, 0)), products.call_count


def arpack(model: nn.Module, data: Data, seed: int, basis: int = 20) -> Found:
    operator = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [data[:2]], check_deterministic=False
    ).to_scipy()
    operator._matvec = products = Mock(wraps=operator._matvec)
    start = noise("start", 1, params_of(model), seed)[0].cpu().numpy()
    values, vectors = eigsh(operator, k=1, which="LA", tol=TOL, ncv=basis, v0=start)
    return values[0], torch.from_numpy(vectors[:, 0]).to(data.x_train), products.call_count


def power(model: nn.Module, data: Data, seed: int) -> Found:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it leaves its graph in the gradients
        torch.manual_seed(seed)
        peer = pyhessian.hessian(model, nn.CrossEntropyLoss(), data=data[:2], cuda=data.x_train.is_cuda)
        with patch.object(torch.autograd, "grad", wraps=torch.autograd.grad) as products:
            values, vectors = peer.eigenvalues()
        model.zero_grad()
    return values[0], torch.cat([part.flatten() for part in vectors[0]]), products.call_count


def quality(tool: Callable, model: nn.Module, data: Data, exact: float) -> tuple[float, float, float]:
    """Mean number of products, largest relative residual, largest relative error of the value."""
    wide = Data(data.x_train.double(), data.y_train, data.x_test.double(), data.y_test)
    params = {name: p.double() for name, p in params_of(model).items()}
    product = hvp(loss_of(build(lambda: model, 0), *wide[:2]), params)
    products, residuals, errors = [], [], []
    for seed in STARTS:
        value, vector, n = tool(model, data, seed)
        v = vector.double() / torch.linalg.vector_norm(vector.double())
        missed = to_vector(product(from_vector(v, params))) - value * v
        products.append(n)
        residuals.append(torch.linalg.vector_norm(missed).item() / value)
        errors.append(abs(value - exact) / exact)
    return statistics.mean(products), max(residuals), max(errors)


def one_network(name: str, make: Callable, data: Data) -> None:
    model = build(make, 0).to(data.x_train.device)
    train(model, data, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), batch_size=50, steps=400)
    model.zero_grad()
    params, loss = params_of(model), loss_of(model, data.x_train.double(), data.y_train)
    exact = top_eigenvalues(loss, {n: p.double() for n, p in params.items()}, steps=300).values.item()
    cost = {basis: quality(partial(arpack, basis=basis), model, data, exact) for basis in range(3, 10)}
    basis = min((c[0], basis) for basis, c in cost.items() if c[1] <= TOL)[1]
    tools = {"ours": ours, f"curvlinops, basis of {basis}": partial(arpack, basis=basis), "curvlinops": arpack}
    tools |= {"PyHessian": power}
    seeds = {who: count() for who in tools}
    runs = {who: lambda who=who, tool=tool: tool(model, data, next(seeds[who])) for who, tool in tools.items()}
    times = compared(runs, data.x_train.device, rounds=11)
    for who, tool in tools.items():
        products, residual, error = quality(tool, model, data, exact)
        cells = [name, who, f"{products:.1f}", ratio(times["ours"], times[who]), f"{residual:.1e}", f"{error:.1e}"]
        print("|", " | ".join(cells), f"| {peak(runs[who], data.x_train.device) / 1e6:.1f} |", flush=True)


def many_networks(widths: tuple[int, ...], n: int, device: torch.device) -> None:
    data, make = mnist1d(n, 100).to(device), partial(mlp, 40, widths, 10)
    params = train_ensemble(make, data, seeds=range(N_MODELS), batch_size=50, lr=0.05, steps=50).params
    loss = loss_of(build(make, 0), *data[:2])
    top, chunk = (lambda p: top_eigenvalues(loss, p, steps=14).values), 64 if device.type == "cpu" else N_MODELS
    together = partial(vmap(top, chunk_size=chunk), params)

    def alone():
        return torch.stack([top(member(params, i)) for i in range(N_MODELS)])

    torch.testing.assert_close(together(), alone(), rtol=1e-4, atol=1e-4)
    times = compared({"alone": alone, "together": together}, device, rounds=5)
    memory = ", ".join(f"{peak(run, device) / 1e6:.1f}" for run in (together, alone))
    name = "–".join(map(str, (40, *widths, 10)))
    print(f"| {name} | {n} | {chunk} | {ratio(times['alone'], times['together'])} | {memory} |", flush=True)


def convnet() -> nn.Sequential:
    layers = [nn.Unflatten(1, (1, 40)), nn.Conv1d(1, 16, 5), nn.ReLU(), nn.Conv1d(16, 32, 5, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv1d(32, 32, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 6, 10))


def main() -> None:
    device = best_device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    peers = ", ".join(f"{name} {version(name)}" for name in ("curvlinops-for-pytorch", "PyHessian", "scipy"))
    print(f"{machine(device)}; {peers}; 1000 points of MNIST-1D; n = 11 rounds, {len(STARTS)} starts")
    print(
        "| network | tool | products | ours / its time | residual | error | memory, MB |\n|---|---|---|---|---|---|---|"
    )
    data = mnist1d(1000, 100).to(device)
    one_network("MLP 40–100–100–10", partial(mlp, 40, (100, 100), 10), data)
    one_network("convnet", convnet, data)
    print(
        f"\nn = 5 rounds\n| {N_MODELS} MLPs | points | chunk | 256 calls / one | memory, MB: one, 256 |\n|---|---|---|---|---|"
    )
    for widths, n in (((16,), 100), ((32, 32), 100), ((32, 32), 1000)):
        many_networks(widths, n, device)


if __name__ == "__main__":
    main()
