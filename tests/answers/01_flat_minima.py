"""Answers to exercise 1. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    (
        "no factor 1/2",
        "shift_price",
        "torch.trace(hessian @ second_moment) / 2",
        "torch.trace(hessian @ second_moment)",
    ),
    (
        "product of the traces",
        "shift_price",
        "torch.trace(hessian @ second_moment)",
        "torch.trace(hessian) * torch.trace(second_moment)",
    ),
    ("diagonals only", "shift_price", "torch.trace(hessian @ second_moment)", "hessian.diag() @ second_moment.diag()"),
    ("the mean is ignored", "shift_price", "cov + torch.outer(mean, mean)", "cov"),
    (
        "adds to the covariance in place",
        "shift_price",
        "cov + torch.outer(mean, mean)",
        "cov.add_(torch.outer(mean, mean))",
    ),
    ("adds the widths", "averaged_hole", "math.sqrt(width**2 + spread**2)", "width + spread"),
    ("depth without the power", "averaged_hole", "(width / wider) ** d", "(width / wider)"),
    ("depth stays", "averaged_hole", "depth * (width / wider) ** d", "depth"),
    ("the spread of one draw", "mean_rise", "rises.std() / n**0.5", "rises.std()"),
    ("divides the variance by n", "mean_rise", "rises.std()", "rises.std(correction=0)"),
    ("the loss itself", "mean_rise", " - loss(params)", ""),
    (
        "noise of length 1",
        "mean_rise",
        "add(params, member(noise, k), sigma)",
        "add(params, member(noise, k), sigma / norm(member(noise, k)))",
    ),
    (
        "independent errors",
        "rise_gap",
        "    gaps = torch.stack(gaps)\n    return gaps.mean(), gaps.std() / len(gaps) ** 0.5",
        "    gaps, n = torch.stack(gaps), len(gaps)\n"
        "    one, two = (torch.stack([loss(add(p, member(noise, k), sigma)) for k in range(n)]) for p in (first, second))\n"
        "    return gaps.mean(), (one.var() / n + two.var() / n) ** 0.5",
    ),
    ("losses, not rises", "rise_gap", "base = loss(second) - loss(first)", "base = 0"),
    (
        "no direction of length 1",
        "reach",
        "base, length = loss(params), norm(direction)",
        "base, length = loss(params), 1",
    ),
    (
        "length by tensor",
        "reach",
        "loss(add(params, direction, t / length))",
        "loss(add(params, {k: v / v.norm() for k, v in direction.items()}, t))",
    ),
    (
        "bisects from far away",
        "reach",
        "near, far = far, min(far + stride, furthest)",
        "near, far = far, furthest",
    ),
    ("only strides", "reach", "for _ in range(40):", "for _ in range(0):"),
    ("rises to the tolerance", "reach", " - base >= tolerance", " >= tolerance"),
    ("the end of the walk for infinity", "reach", "            return math.inf", "            return far"),
    (
        "the prices in their own order",
        "price_by_direction",
        "return values * (vectors * (cov @ vectors)).sum(0) / 2",
        "return (values * (vectors * (cov @ vectors)).sum(0) / 2).sort().values",
    ),
    ("natural logarithm", "box_of_weights", "torch.log2", "torch.log"),
    (
        "epsilon without the root",
        "box_of_weights",
        "(tolerance / (shares**2).sum()) ** 0.5",
        "tolerance / (shares**2).sum() ** 0.5",
    ),
    (
        "sum of absolute values",
        "box_of_weights",
        "s = jacobian.pow(2).sum(0).sqrt()",
        "s = jacobian.abs().sum(0)",
    ),
    ("no absolute value", "box_of_weights", "jacobian[:, used].abs()", "jacobian[:, used]"),
    ("dead weights", "box_of_weights", "used = s > 0", "used = s >= 0"),
    ("sums the outputs first", "box_of_weights", "(shares**2).sum()", "shares.sum() ** 2"),
    ("covariance for one example", "minimum_covariance", "len(grads) ** 2", "len(grads)"),
    ("n - 1", "minimum_covariance", "len(grads) ** 2", "(len(grads) * (len(grads) - 1))"),
    (
        "multiplies by the Hessian",
        "minimum_covariance",
        "torch.linalg.solve(hessian, grads.T)",
        "hessian @ grads.T",
    ),
    ("one inverse", "minimum_covariance", "moves @ moves.T", "moves @ grads"),
    (
        "sharpest first",
        "price_by_direction",
        "return values",
        "values, vectors = values.flip(0), vectors.flip(1)\n    return values",
    ),
    (
        "rows for eigenvectors",
        "price_by_direction",
        "values, vectors = torch.linalg.eigh(hessian)",
        "values, vectors = torch.linalg.eigh(hessian)\n    vectors = vectors.T",
    ),
    (
        "prices of the weights",
        "price_by_direction",
        "values, vectors = torch.linalg.eigh(hessian)",
        "values, vectors = hessian.diag(), torch.eye(len(hessian), dtype=hessian.dtype)",
    ),
    (
        "chooses on the test points",
        "fair_choice",
        'best, chosen = runs["val_acc"].mean()',
        'best, chosen = runs["test_acc"].mean()',
    ),
    (
        "chooses on the test points throughout",
        "fair_choice",
        'and runs["val_acc"].mean() > best:\n            best, chosen = runs["val_acc"].mean(),',
        'and runs["test_acc"].mean() > best:\n            best, chosen = runs["test_acc"].mean(),',
    ),
    ("any seed is enough", "fair_choice", "<= limit).all()", "<= limit).any()"),
    ("NaN passes", "fair_choice", '(runs["train_loss"] <= limit).all()', 'not (runs["train_loss"] > limit).any()'),
    ("in the order of the rows", "fair_choice", 'runs.sort_values("seed")["test_acc"]', 'runs["test_acc"]'),
    ("no error", "fair_choice", "    if chosen is None:", "    if False:"),
    (
        "marks runs in the given table",
        "fair_choice",
        "    best, chosen = -math.inf, None",
        '    table.loc[table["train_loss"] > limit, "val_acc"] = 0.0\n    best, chosen = -math.inf, None',
    ),
    ("a constant", "averaged_hole", "return depth * (width / wider) ** d, wider", "return 0.3461538, 1.3"),
    (
        "a name of the check",
        "shift_price",
        "    return torch.trace(hessian @ second_moment) / 2",
        '    return globals()["right"]',
    ),
    (
        "the worst seed",
        "fair_choice",
        'and runs["val_acc"].mean() > best:\n            best, chosen = runs["val_acc"].mean(),',
        'and runs["val_acc"].min() > best:\n            best, chosen = runs["val_acc"].min(),',
    ),
    (
        "the middle seed",
        "fair_choice",
        'and runs["val_acc"].mean() > best:\n            best, chosen = runs["val_acc"].mean(),',
        'and runs["val_acc"].median() > best:\n            best, chosen = runs["val_acc"].median(),',
    ),
    ("below the limit only", "fair_choice", "<= limit).all()", "< limit).all()"),
    ("seven draws", "mean_rise", "rises.std() / n**0.5", "rises.std() / 7**0.5"),
    ("a stride of its own", "reach", "min(far + stride, furthest)", "min(far + 3.0, furthest)"),
    ("a stride in units of v", "reach", "min(far + stride, furthest)", "min(far + stride * float(length), furthest)"),
    (
        "centres the noise in place",
        "rise_gap",
        "    gaps = []\n",
        "    for z in noise.values():\n        z -= z.mean(0)\n    gaps = []\n",
    ),
    (
        "noise of length 1 in place",
        "rise_gap",
        "    gaps = []\n",
        "    for z in noise.values():\n        z /= z.norm()\n    gaps = []\n",
    ),
    (
        "the noise without its sign, in place",
        "rise_gap",
        "    gaps = []\n",
        "    for z in noise.values():\n        z.abs_()\n    gaps = []\n",
    ),
    (
        "looks a stride beyond the end",
        "reach",
        "        if far >= furthest:\n            return math.inf\n        near, far = far, min(far + stride, furthest)",
        "        if far >= furthest:\n            return math.inf\n        near, far = far, far + stride",
    ),
    (
        "full strides only",
        "reach",
        "        if far >= furthest:\n            return math.inf\n        near, far = far, min(far + stride, furthest)",
        "        near, far = far, far + stride\n        if far > furthest:\n            return math.inf",
    ),
    ("a small influence is none", "box_of_weights", "used = s > 0", "used = s > 1e-2"),
    (
        "the mean loss decides",
        "fair_choice",
        '(runs["train_loss"] <= limit).all()',
        'runs["train_loss"].mean(skipna=False) <= limit',
    ),
    (
        "clears its arguments",
        "price_by_direction",
        "    return values * (vectors * (cov @ vectors)).sum(0) / 2",
        "    prices = values * (vectors * (cov @ vectors)).sum(0) / 2\n    hessian.zero_()\n    cov.zero_()\n    return prices",
    ),
]
RIGHT = [
    (
        "numpy and plain loops",
        {
            "shift_price": """
def shift_price(hessian, cov, mean=None):
    h, c = hessian.numpy(), cov.numpy()
    m = np.zeros(len(h)) if mean is None else mean.numpy()
    total = 0.0
    for i in range(len(h)):
        for j in range(len(h)):
            total += h[i, j] * (c[j, i] + m[i] * m[j])
    return total / 2
""",
            "averaged_hole": """
def averaged_hole(depth, width, spread, d=1):
    new = np.hypot(width, spread)
    return [depth * (1 + spread**2 / width**2) ** (-d / 2), new]
""",
            "mean_rise": """
def mean_rise(loss, params, sigma, noise):
    start, rises = float(loss(params)), []
    for k in range(len(noise[next(iter(noise))])):
        moved = {name: p + sigma * noise[name][k] for name, p in params.items()}
        rises.append(float(loss(moved)) - start)
    return np.mean(rises), np.std(rises, ddof=1) / np.sqrt(len(rises))
""",
            "rise_gap": """
def rise_gap(loss, first, second, sigma, noise):
    def rises(params):
        n = len(next(iter(noise.values())))
        return np.array([float(loss(add(params, member(noise, k), sigma)) - loss(params)) for k in range(n)])

    gap = rises(second) - rises(first)
    return float(gap.mean()), float(np.sqrt(gap.var(ddof=1) / len(gap)))
""",
            "box_of_weights": """
def box_of_weights(jacobian, tolerance):
    J = jacobian.double().numpy()
    s = np.sqrt((J**2).sum(axis=0))
    total = sum(sum(abs(J[k, i]) / s[i] for i in range(J.shape[1]) if s[i]) ** 2 for k in range(len(J)))
    widths = [np.sqrt(tolerance / total) / si if si else np.inf for si in s]
    return widths, sum(-np.log2(width) for width in widths if np.isfinite(width))
""",
            "minimum_covariance": """
def minimum_covariance(hessian, grads):
    h, g = hessian.numpy(), grads.numpy()
    inverse = np.linalg.inv(h)
    return inverse @ (sum(np.outer(row, row) for row in g) / len(g)) @ inverse / len(g)
""",
            "price_by_direction": """
def price_by_direction(hessian, cov):
    values, vectors = np.linalg.eigh(hessian.numpy())
    return [float(l * v @ cov.numpy() @ v / 2) for l, v in zip(values, vectors.T)]
""",
            "fair_choice": """
def fair_choice(table, limit):
    good = {}
    for rate in sorted(set(table.lr)):
        part = table[table.lr == rate]
        if all(loss <= limit for loss in part.train_loss):
            good[rate] = part.val_acc.mean()
    if not good:
        raise ValueError("none")
    rate = max(good, key=good.get)
    return rate, list(table[table.lr == rate].set_index("seed").sort_index().test_acc)
""",
        },
    ),
    (
        "vmap, library functions and scipy",
        {
            "mean_rise": """
def mean_rise(loss, params, sigma, noise):
    rises = torch.func.vmap(lambda z: loss(add(params, z, sigma)) - loss(params))(noise)
    variance, mean = torch.var_mean(rises)
    return [mean.item(), (variance / len(rises)).sqrt().item()]
""",
            "rise_gap": """
from scipy.stats import sem

def rise_gap(loss, first, second, sigma, noise):
    rise = lambda p, z: loss(add(p, z, sigma)) - loss(p)
    gaps = torch.func.vmap(lambda z: rise(second, z) - rise(first, z))(noise).numpy()
    return gaps.mean(), sem(gaps)
""",
            "reach": """
from scipy.optimize import brentq

def reach(loss, params, direction, tolerance, stride=0.05, furthest=10.0):
    size = sum((v**2).sum() for v in direction.values()).sqrt()
    unit = {name: v / size for name, v in direction.items()}
    rise = lambda t: float(loss(add(params, unit, t)) - loss(params)) - tolerance
    at = [*np.arange(0, furthest, stride), furthest]
    for near, far in zip(at, at[1:]):
        if rise(far) >= 0:
            return brentq(rise, near, far, xtol=1e-12)
    return float("inf")
""",
            "box_of_weights": """
from sam_lite import sharpness

def box_of_weights(jacobian, tolerance):
    start = {"w": torch.zeros(jacobian.shape[1], dtype=jacobian.dtype)}
    nats, widths = sharpness.box_flatness(lambda p: jacobian @ p["w"], start, tolerance)
    return widths["w"], nats / math.log(2)
""",
        },
    ),
    (
        "float32 and closed forms",
        {
            "shift_price": """
def shift_price(hessian, cov, mean=None):
    mean = torch.zeros(len(hessian)) if mean is None else mean
    h, c, m = hessian.float(), cov.float(), mean.float()
    return (torch.einsum("ij,ji->", h, c) + torch.dot(m, torch.mv(h, m))) * 0.5
""",
            "minimum_covariance": """
def minimum_covariance(hessian, grads):
    newton = -grads.float() @ torch.linalg.inv(hessian.float())
    return torch.cov(newton.T, correction=0) / len(grads)
""",
            "price_by_direction": """
def price_by_direction(hessian, cov):
    values, vectors = torch.linalg.eigh(hessian.float())
    return values * torch.diagonal(vectors.T @ cov.float() @ vectors) * 0.5
""",
            "reach": """
def reach(loss, params, direction, tolerance, stride=0.05, furthest=10.0):
    length = float(norm(direction))
    level = float(loss(params)) + tolerance
    above = lambda t: float(loss(add(params, direction, t / length))) >= level
    t = 0.0
    while t < furthest and not above(min(t + stride, furthest)):
        t = min(t + stride, furthest)
    if t >= furthest:
        return math.inf
    size = min(stride, furthest - t)
    while size > 1e-9 * stride:
        size = size / 2
        if not above(t + size):
            t += size
    return torch.tensor(t)
""",
        },
    ),
    (
        "warnings, prints and NumPy",
        {
            "shift_price": """
import logging, sys, warnings

def shift_price(hessian, cov, mean=None):
    warnings.warn("noise")
    logging.error("noise")
    print("noise", file=sys.stderr)
    m = torch.zeros(len(cov)) if mean is None else torch.tensor(mean)
    return torch.tensor(float((hessian * (cov + m[:, None] * m[None])).sum()) / 2)
""",
            "minimum_covariance": """
def minimum_covariance(hessian, grads):
    inverse = torch.linalg.pinv(hessian, hermitian=True)
    return torch.stack([torch.outer(inverse @ g, inverse @ g) for g in grads]).sum(0) / len(grads) ** 2
""",
            "averaged_hole": """
def averaged_hole(depth, width, spread, d=1):
    print(depth, width)
    v = np.float32(width) ** 2 + np.float32(spread) ** 2
    return np.array([depth * float(width**2 / v) ** (d / 2), np.sqrt(v)])
""",
        },
    ),
    (
        "einsum, sets of pandas, a wall by SciPy in NumPy",
        {
            "price_by_direction": """
def price_by_direction(hessian, cov):
    values, vectors = torch.linalg.eigh(hessian)
    return torch.einsum("i,ji,jk,ki->i", values, vectors, cov, vectors).div(2).tolist()
""",
            "fair_choice": """
def fair_choice(table, limit):
    reached = table.groupby("lr").filter(lambda runs: (runs.train_loss <= limit).all())
    if reached.empty:
        raise ValueError("no rate reaches it")
    rate = reached.groupby("lr").val_acc.mean().idxmax()
    return rate, table[table.lr == rate].sort_values("seed").test_acc
""",
            "mean_rise": """
def mean_rise(loss, params, sigma, noise):
    rises = []
    for k in range(len(next(iter(noise.values())))):
        for name, p in params.items():  # there and back
            p += sigma * noise[name][k]
        up = float(loss(params))
        for name, p in params.items():
            p -= sigma * noise[name][k]
        rises.append(up - float(loss(params)))
    return np.mean(rises), np.std(rises, ddof=1) / len(rises) ** 0.5
""",
        },
    ),
]
