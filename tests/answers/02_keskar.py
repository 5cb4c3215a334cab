"""Answers to exercise 2. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    ("ends swapped", "line_between", "(1 - a) * w + a * large[name]", "a * w + (1 - a) * large[name]"),
    ("adds the second", "line_between", "(1 - a) * w", "w"),
    (
        "in place",
        "line_between",
        "loss({name: (1 - a) * w + a * large[name] for name, w in small.items()})",
        "loss({name: w.mul_(1 - a).add_(a * large[name]) for name, w in small.items()})",
    ),
    (
        "mixes the losses",
        "line_between",
        "loss({name: (1 - a) * w + a * large[name] for name, w in small.items()})",
        "(1 - a) * loss(small) + a * loss(large)",
    ),
    ("no factor 100", "at_corners", "100 * (best", "(best"),
    ("relative to f", "at_corners", "(1 + base)", "base"),
    ("not divided", "at_corners", " / (1 + base)", ""),
    ("no 1 in the box", "at_corners", "(x.abs() + 1)", "x.abs()"),
    ("a cube", "at_corners", "radius * (x.abs() + 1)", "radius * torch.ones_like(x)"),
    ("no absolute value", "at_corners", "(x.abs() + 1)", "(x + 1)"),
    ("without the centre", "at_corners", "best = base\n", "best = float('-inf')\n"),
    (
        "half of the corners",
        "at_corners",
        "for signs in itertools.product((-1, 1), repeat=len(x)):",
        "for signs in itertools.product((1,), *[(-1, 1)] * (len(x) - 1)):",
    ),
    ("only the upper corner", "at_corners", "itertools.product((-1, 1), repeat=len(x))", "[(1,) * len(x)]"),
    ("without the centre", "by_search", "best = base\n", "best = float('-inf')\n"),
    ("a hundred steps of its own", "largest_eigenvalue", "range(steps)", "range(100)"),
    ("no clipping", "by_search", ".clamp(-1, 1)", ""),
    ("downhill", "by_search", "u + stride", "u - stride"),
    ("the last, not the best", "by_search", "best = max(best, loss(here))", "best = loss(here)"),
    ("the gradient at x", "by_search", "grad(loss)(here)", "grad(loss)(params)"),
    ("a step too few", "by_search", "range(steps + 1)", "range(steps)"),
    (
        "starts in the centre",
        "by_search",
        "base, u = radius * (x.abs() + 1), loss(params), start",
        "base, u = radius * (x.abs() + 1), loss(params), 0 * start",
    ),
    (
        "changes the start",
        "by_search",
        "u = (u + stride * to_vector(grad(loss)(here)).sign()).clamp(-1, 1)",
        "u.add_(stride * to_vector(grad(loss)(here)).sign()).clamp_(-1, 1)",
    ),
    ("without the sign", "by_search", ".sign()", ""),
    ("the transpose", "in_subspace", "torch.linalg.pinv(directions)", "directions.T"),
    ("no 1 in the box", "in_subspace", ".abs() + 1)", ".abs())"),
    (
        "a cube",
        "in_subspace",
        "radius * ((torch.linalg.pinv(directions) @ x).abs() + 1)",
        "radius * torch.ones_like(directions[0])",
    ),
    (
        "orthonormal columns",
        "in_subspace",
        "    x = to_vector(params)\n",
        "    x, directions = to_vector(params), torch.linalg.qr(directions)[0]\n",
    ),
    ("without the centre", "in_subspace", "base = best = loss(params)", "base, best = loss(params), float('-inf')"),
    ("the gradient", "hessian_times", "return grad(slope_along_v)(params)", "return grad(loss)(params)"),
    (
        "a difference quotient",
        "hessian_times",
        "return grad(slope_along_v)(params)",
        "up, down = (grad(loss)(add(params, v, h)) for h in (1e-3, -1e-3))\n    return {name: (up[name] - down[name]) / 2e-3 for name in up}",
    ),
    (
        "a one-sided quotient",
        "hessian_times",
        "return grad(slope_along_v)(params)",
        "up, here = grad(loss)(add(params, v, 1e-4)), grad(loss)(params)\n    return {name: (up[name] - here[name]) / 1e-4 for name in up}",
    ),
    (
        "normalizes v",
        "hessian_times",
        "return grad(slope_along_v)(params)",
        "return {name: t / norm(v) for name, t in grad(slope_along_v)(params).items()}",
    ),
    ("the square of the slope", "hessian_times", "(g[name] * v[name]).sum()", "(g[name] ** 2).sum()"),
    (
        "of largest size",
        "largest_eigenvalue",
        "return dominant if dominant >= 0 else power(dominant)",
        "return dominant",
    ),
    ("the size", "largest_eigenvalue", "return dominant if dominant >= 0 else power(dominant)", "return abs(dominant)"),
    ("μ is not added", "largest_eigenvalue", "return value + shift", "return value"),
    (
        "length by tensor",
        "largest_eigenvalue",
        "v = {name: t / length for name, t in v.items()}",
        "v = {name: t / t.norm() for name, t in v.items()}",
    ),
    ("no normalization", "largest_eigenvalue", "length = norm(v)", "length = 1"),
    ("the shift's sign", "largest_eigenvalue", "add(product(v), v, -shift)", "add(product(v), v, shift)"),
    ("below the level only", "first_step", "] <= level", "] < level"),
    ("the last", "first_step", "good.min()", "good.max()"),
    ("the first row", "first_step", "good.min()", "good.iloc[0]"),
    ("numbers of rows", "first_step", "int(good.min())", "int(good.min()) // 50 - 1"),
    (
        "models that are missing",
        "first_step",
        'for number, rows in records.groupby("model"):',
        'for number, rows in records[records["train_loss"] <= level].groupby("model"):',
    ),
    (
        "the step of the lowest loss",
        "first_step",
        "int(good.min())",
        'int(rows.loc[rows["train_loss"].idxmin(), "step"])',
    ),
    ("first bias forgotten", "rescaled", 'f"{into}.bias": alpha, ', ""),
    (
        "second bias divided",
        "rescaled",
        'f"{out_of}.weight": 1 / alpha',
        'f"{out_of}.weight": 1 / alpha, f"{out_of}.bias": 1 / alpha',
    ),
    ("both multiplied", "rescaled", "1 / alpha", "alpha"),
    ("in place", "rescaled", "factors.get(name, 1) * p for", "p.mul_(factors.get(name, 1)) for"),
    (
        "a very short difference quotient",
        "hessian_times",
        "    return grad(slope_along_v)(params)",
        "    h = 1e-8\n    up, down = (grad(loss)(add(params, v, s)) for s in (h, -h))\n    return {k: (up[k] - down[k]) / (2 * h) for k in up}",
    ),
    (
        "a difference quotient of the loss",
        "hessian_times",
        "    return grad(slope_along_v)(params)",
        "    h = 1e-5\n    up, here = grad(loss)(add(params, v, h)), grad(loss)(params)\n    return {k: (up[k] - here[k]) / h for k in up}",
    ),
    (
        "a fixed shift",
        "largest_eigenvalue",
        "    dominant = power(0.0)\n    return dominant if dominant >= 0 else power(dominant)",
        "    return power(-10.0)",
    ),
    ("a constant", "line_between", "    return torch.stack(losses)", "    return [90.0, 90.0, 45.0, 5.5, 30.0]"),
    (
        "a ball for the box",
        "by_search",
        "(u + stride * to_vector(grad(loss)(here)).sign()).clamp(-1, 1)",
        "u + stride * to_vector(grad(loss)(here)).sign()\n        u = u / u.norm().clamp(min=1)",
    ),
    ("only one factor", "rescaled", 'f"{into}.bias": alpha, ', ""),
    (
        "a quotient that is shorter still",
        "hessian_times",
        "    return grad(slope_along_v)(params)",
        "    h = 1e-11\n    up, down = (grad(loss)(add(params, v, s)) for s in (h, -h))\n    return {k: (up[k] - down[k]) / (2 * h) for k in up}",
    ),
    (
        "Richardson's quotient",
        "hessian_times",
        "    return grad(slope_along_v)(params)",
        "    q = lambda h: {k: (a - grad(loss)(add(params, v, -h))[k]) / (2 * h) for k, a in grad(loss)(add(params, v, h)).items()}\n    one, two = q(4e-11), q(8e-11)\n    return {k: (4 * one[k] - two[k]) / 3 for k in one}",
    ),
    (
        "stops at the first fall",
        "by_search",
        "        best = max(best, loss(here))",
        "        if loss(here) < best and step > 1:\n            break\n        best = max(best, loss(here))",
    ),
    (
        "clips only where the loss is taken",
        "by_search",
        "        here = from_vector(x + half * u, params)\n        best = max(best, loss(here))\n"
        "        u = (u + stride * to_vector(grad(loss)(here)).sign()).clamp(-1, 1)",
        "        here = from_vector(x + half * u.clamp(-1, 1), params)\n        best = max(best, loss(here))\n"
        "        u = u + stride * to_vector(grad(loss)(here)).sign()",
    ),
    (
        "changes the weights",
        "largest_eigenvalue",
        "    product = hessian.hvp(loss, params)\n",
        "    params.update({name: 2 * p for name, p in params.items()})\n    product = hessian.hvp(loss, params)\n",
    ),
]
RIGHT = [
    (
        "numpy and plain loops",
        {
            "line_between": """
def line_between(loss, small, large, alphas):
    out = []
    for alpha in alphas:
        point = {}
        for key in small:
            point[key] = small[key] + alpha * (large[key] - small[key])
        out.append(loss(point).item())
    return out
""",
            "at_corners": """
def at_corners(loss, params, radius):
    x = to_vector(params).numpy()
    values = [float(loss(params))]
    for number in range(2 ** len(x)):
        signs = np.array([1 if number >> i & 1 else -1 for i in range(len(x))])
        moved = torch.from_numpy(x + signs * radius * (np.abs(x) + 1))
        values.append(float(loss(from_vector(moved, params))))
    return 100 * (max(values) - values[0]) / (1 + values[0])
""",
            "by_search": """
def by_search(loss, params, radius, start, steps, stride=0.25):
    x = to_vector(params).clone()
    h = radius * (abs(x) + 1)
    lower, upper, z = -h, h, h * start
    seen = [loss(params).item(), loss(from_vector(x + z, params)).item()]
    for _ in range(steps):
        point = (x + z).requires_grad_()
        (slope,) = torch.autograd.grad(loss(from_vector(point, params)), point)
        z = torch.min(torch.max(z + stride * h * slope.sign(), lower), upper)
        seen.append(loss(from_vector(x + z, params)).item())
    return np.max(seen) * 100 / (1 + seen[0]) - 100 * seen[0] / (1 + seen[0])
""",
            "in_subspace": """
def in_subspace(loss, params, directions, radius):
    x, A = to_vector(params).numpy(), directions.numpy()
    coordinates = np.linalg.lstsq(A, x, rcond=None)[0]
    half, f = radius * (np.abs(coordinates) + 1), float(loss(params))
    rises = [0.0]
    for signs in itertools.product([-1, 1], repeat=A.shape[1]):
        moved = torch.from_numpy(x + A @ (half * np.array(signs)))
        rises.append(float(loss(from_vector(moved, params))) - f)
    return 100 * max(rises) / (1 + f)
""",
            "largest_eigenvalue": """
def largest_eigenvalue(loss, params, start, steps=100):
    product = hessian.hvp(loss, params)
    times = lambda x: to_vector(product(from_vector(x, params)))

    def iterate(f):
        x = to_vector(start)
        for _ in range(steps):
            x = f(x / x.norm())
        x = x / x.norm()
        return float(x @ f(x))

    mu = iterate(times)
    return mu if mu > 0 else mu + iterate(lambda x: times(x) - mu * x)
""",
            "first_step": """
def first_step(records, level):
    found = {int(number): None for number in records["model"]}
    for row in records.sort_values("step").itertuples():
        if row.train_loss <= level and found[row.model] is None:
            found[row.model] = row.step
    return found
""",
            "rescaled": """
def rescaled(params, alpha, into, out_of):
    new = dict(params)
    for name in ("weight", "bias"):
        new[into + "." + name] = params[into + "." + name] * alpha
    new[out_of + ".weight"] = params[out_of + ".weight"] / alpha
    return new
""",
        },
    ),
    (
        "library functions and vmap",
        {
            "line_between": """
from sam_lite import landscape

def line_between(loss, small, large, alphas):
    return landscape.line(loss, small, large, alphas)
""",
            "at_corners": """
def at_corners(loss, params, radius):
    x = to_vector(params)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * len(x)).to(x)
    rises = torch.func.vmap(lambda s: loss(from_vector(x + s * radius * (x.abs() + 1), params)))(signs) - loss(params)
    return 100 * rises.max() / (1 + loss(params))
""",
            "in_subspace": """
def in_subspace(loss, params, directions, radius):
    x, p = to_vector(params), directions.shape[1]
    half = radius * (torch.linalg.lstsq(directions, x[:, None]).solution[:, 0].abs() + 1)
    corners = torch.tensor([[0] * p, *itertools.product((-1, 1), repeat=p)], dtype=x.dtype)
    values = torch.func.vmap(lambda s: loss(from_vector(x + directions @ (half * s), params)))(corners)
    return (values.max() - values[0]) / (1 + values[0]) * 100
""",
            "hessian_times": """
def hessian_times(loss, params, v):
    _, pullback = torch.func.vjp(grad(loss), params)
    return pullback(v)[0]
""",
            "largest_eigenvalue": """
def largest_eigenvalue(loss, params, start, steps=100):
    return torch.linalg.eigvalsh(hessian.dense(loss, params)).max()
""",
            "first_step": """
def first_step(records, level):
    first = records[records.train_loss <= level].groupby("model").step.min()
    return {m: first.get(m) for m in records.model.unique()}
""",
            "rescaled": """
def rescaled(params, alpha, into, out_of):
    copy = {name: p.clone() for name, p in params.items()}
    copy[f"{into}.weight"] *= alpha
    copy[f"{into}.bias"] *= alpha
    copy[f"{out_of}.weight"] /= alpha
    return copy
""",
        },
    ),
    (
        "autograd with a graph, scipy's eigenvalues",
        {
            "hessian_times": """
def hessian_times(loss, params, v):
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    slopes = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    inner = sum((g * v[name]).sum() for name, g in zip(leaves, slopes))
    return dict(zip(leaves, torch.autograd.grad(inner, list(leaves.values()))))
""",
            "largest_eigenvalue": """
from scipy.sparse.linalg import LinearOperator, eigsh

def largest_eigenvalue(loss, params, start, steps=100):
    product, n = hessian.hvp(loss, params), count(params)
    matvec = lambda x: to_vector(product(from_vector(torch.from_numpy(x.reshape(-1)), params))).numpy()
    operator = LinearOperator((n, n), matvec=matvec, dtype=np.float64)
    return eigsh(operator, k=1, which="LA", v0=to_vector(start).numpy(), return_eigenvectors=False)[0]
""",
            "by_search": """
def by_search(loss, params, radius, start, steps, stride=0.25):
    half = {name: radius * (p.abs() + 1) for name, p in params.items()}
    u = from_vector(start.clone(), params)
    f = loss(params).item()
    top = f
    for k in range(steps + 1):
        at = {name: p + half[name] * u[name] for name, p in params.items()}
        slopes, value = torch.func.grad_and_value(loss)(at)
        top = max(top, value.item())
        u = {name: (u[name] + stride * slopes[name].sign()).clip(-1, 1) for name in u}
    return 100 * (top - f) / (1 + f)
""",
        },
    ),
    (
        "warnings, prints and other ways",
        {
            "line_between": """
import warnings

def line_between(loss, small, large, alphas):
    warnings.warn("noise")
    print(len(alphas))
    return [torch.tensor(loss({k: torch.lerp(small[k], large[k], float(a)) for k in small})) for a in alphas]
""",
            "hessian_times": """
def hessian_times(loss, params, v):
    names = list(params)
    inside = [params[k].detach().clone().requires_grad_() for k in names]
    first = torch.autograd.grad(loss(dict(zip(names, inside))), inside, create_graph=True)
    second = torch.autograd.grad(sum((g * v[k]).sum() for g, k in zip(first, names)), inside)
    return dict(zip(names, second))
""",
            "first_step": """
import sys

def first_step(records, level):
    print("looking", file=sys.stderr)
    hits = {}
    for row in records.sort_values("step").itertuples():
        hits.setdefault(row.model, None)
        if hits[row.model] is None and row.train_loss <= level:
            hits[row.model] = row.step
    return hits
""",
        },
    ),
    (
        "the whole Hessian, and NumPy",
        {
            "hessian_times": """
def hessian_times(loss, params, v):
    whole = torch.func.hessian(loss)(params)
    blocks = lambda a: (whole[a][b].reshape(*params[a].shape, -1) @ v[b].reshape(-1) for b in params)
    return {name: sum(blocks(name)).numpy() for name in params}
""",
            "by_search": """
def by_search(loss, params, radius, start, steps, stride=0.25):
    x, u = to_vector(params), start.clone()
    at = lambda u: from_vector(x + radius * (x.abs() + 1) * u, params)
    seen = [float(loss(params)), float(loss(at(u)))]
    for _ in range(steps):
        u += stride * torch.sign(to_vector(grad(loss)(at(u))))
        u.clamp_(-1, 1)
        seen.append(float(loss(at(u))))
    return np.float64(100 * (max(seen) - seen[0]) / (1 + seen[0]))
""",
        },
    ),
]
