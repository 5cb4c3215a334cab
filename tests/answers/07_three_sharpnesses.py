"""Answers to exercise 7. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    ("zeros count as smallest", "limits", "values[values > 1e-8 * values[-1]].min()", "values[0]"),
    ("rounding counts as an eigenvalue", "limits", "values > 1e-8 * values[-1]", "values > 0"),
    ("drops small eigenvalues", "limits", "1e-8 * values[-1]", "1e-2 * values[-1]"),
    ("trace not over d", "limits", "values.mean()", "values.sum()"),
    ("rho not squared", "limits", "rho**2 / 2", "rho / 2"),
    ("mean of the non-zero eigenvalues", "limits", "values.mean()", "values[values > 1e-8 * values[-1]].mean()"),
    ("stays on the sphere", "worst", "(rho / e.norm()).clamp(max=1)", "(rho / e.norm())"),
    ("no projection", "worst", "            e = e * (rho / e.norm()).clamp(max=1)\n", ""),
    ("first start only", "worst", "for start in starts:", "for start in starts[:1]:"),
    ("starts not of length rho", "worst", "e = rho * start / start.norm()", "e = 0 * start"),
    ("loss instead of rise", "worst", "rise = loss(w + e) - base", "rise = loss(w + e)"),
    ("NaN on flat ground", "worst", "                break", "                return loss(w) / 0, w / 0"),
    ("last point instead of the best", "worst", "            if rise > best:\n", "            if True:\n"),
    ("goes downhill", "worst", "e = e + rho * (1 - t / steps) * g", "e = e - rho * (1 - t / steps) * g"),
    ("moves w in place", "worst", "    return best, where", "    w += where\n    return best, where"),
    ("no difference", "along", "- loss(w)", ""),
    ("downhill", "along", "w + rho * g", "w - rho * g"),
    ("not normalized", "along", "rho * g / g.norm()", "rho * g"),
    ("NaN at the minimum", "along", "    if g.norm() == 0:\n        return torch.zeros(())\n", ""),
    ("a constant added to the norm", "along", "rho * g / g.norm()", "rho * g / (g.norm() + 1e-8)"),
    ("first order only", "along", "return loss(w + rho * g / g.norm()) - loss(w)", "return rho * g.norm()"),
    (
        "noise not scaled",
        "average",
        "size = noise.norm(dim=1, keepdim=True) if sphere else len(w) ** 0.5",
        "size = 1.0",
    ),
    ("one norm for all draws", "average", "noise.norm(dim=1, keepdim=True)", "noise.norm()"),
    ("sphere and Gaussian exchanged", "average", "if sphere else", "if not sphere else"),
    ("spread for error", "average", " / len(rises) ** 0.5", ""),
    ("divides by n", "average", "rises.std()", "rises.std(correction=0)"),
    (
        "partners count as independent",
        "average",
        "rises = (rises + torch.stack([loss(w - e) - loss(w) for e in steps])) / 2",
        "rises = torch.cat([rises, torch.stack([loss(w - e) - loss(w) for e in steps])])",
    ),
    ("partners added", "average", " for e in steps])) / 2", " for e in steps]))"),
    ("noise normalized in place", "average", "rho * noise / size", "noise.div_(size).mul_(rho)"),
    (
        "number instead of vector",
        "times",
        "return grad(lambda x: grad(loss)(x) @ v)(w)",
        "return v @ grad(lambda x: grad(loss)(x) @ v)(w)",
    ),
    (
        "builds the Hessian",
        "times",
        "return grad(lambda x: grad(loss)(x) @ v)(w)",
        "return jacrev(grad(loss))(w) @ v",
    ),
    ("row sums times v", "times", "(x) @ v)(w)", "(x).sum())(w) * v"),
    ("normalizes v", "times", "(x) @ v)(w)", "(x) @ (v / v.norm()))(w)"),
    ("without v on the left", "trace", "v @ product(v)", "product(v).sum()"),
    ("mean eigenvalue", "trace", "v @ product(v)", "v @ product(v) / len(v)"),
    ("spread for error", "trace", " / len(probes) ** 0.5", ""),
    ("error divided by d", "trace", "len(probes)", "probes.shape[1]"),
    ("divides by n", "trace", "values.std()", "values.std(correction=0)"),
    ("smallest eigenvector", "alignment", "[:, -1]", "[:, 0]"),
    ("a row of the matrix", "alignment", "[:, -1]", "[-1]"),
    ("the whole SAM gradient", "alignment", " - grad(loss)(w)", ""),
    ("no absolute value", "alignment", ".abs()", ""),
    (
        "the Hessian at the end of the climb",
        "alignment",
        "hessian_of(loss, w)",
        "hessian_of(loss, w + rho * grad(loss)(w) / grad(loss)(w).norm())",
    ),
    (
        "largest in magnitude",
        "alignment",
        "torch.linalg.eigh(hessian_of(loss, w))[1][:, -1]",
        "torch.linalg.svd(hessian_of(loss, w))[0][:, 0]",
    ),
    (
        "shared climb",
        "sideways",
        "    mean = sum(",
        "    losses = [lambda x, f=losses: sum(g(x) for g in f) / len(f)]\n    mean = sum(",
    ),
    ("sum for the mean", "sideways", " / len(losses)", ""),
    ("factor 1 over rho squared", "sideways", "* 2 / rho**2", "/ rho**2"),
    ("first coordinates", "sideways", "T.T @ mean", "mean[: T.shape[1]]"),
    ("no climb", "sideways", "sam_at(loss, w, rho)", "grad(loss)(w)"),
    ("the gradient at w", "worst", "g = grad(loss)(w + e)", "g = grad(loss)(w)"),
    (
        "takes away the gradient at w",
        "sideways",
        "sam_at(loss, w, rho) for",
        "sam_at(loss, w, rho) - grad(loss)(w) for",
    ),
    ("one value of two", "average", "return rises.mean(), rises.std() / len(rises) ** 0.5", "return rises.mean()"),
    (
        "a constant",
        "limits",
        "    return {name: rho**2 / 2 * x",
        "    return {'worst': 0.1, 'ascent': 0.01, 'average': 0.03}\n    return {name: rho**2 / 2 * x",
    ),
    ("an absolute zero", "limits", "values > 1e-8 * values[-1]", "values > 1e-8"),
    ("a zero of 1e-6", "limits", "values > 1e-8 * values[-1]", "values > 1e-6 * values[-1]"),
    ("a zero in units of the trace", "limits", "values > 1e-8 * values[-1]", "values > 1e-8 * values.sum()"),
    (
        "directions of its own",
        "worst",
        "    for start in starts:",
        "    angles = torch.arange(24) * torch.pi / 12\n    for start in torch.stack([angles.cos(), angles.sin()], 1):",
    ),
    ("six starts", "worst", "    for start in starts:", "    for start in [starts[i] for i in range(6)]:"),
    ("a small gradient is none", "along", "    if g.norm() == 0:", "    if g.norm() < 1e-10:"),
    ("clears the probes", "trace", "    return values.mean()", "    probes.zero_()\n    return values.mean()"),
    ("steps without rho", "worst", "e = e + rho * (1 - t / steps)", "e = e + (1 - t / steps)"),
    ("forty steps of its own", "worst", "for t in range(steps):", "steps = 40\n        for t in range(steps):"),
    (
        "a grid of the plane",
        "worst",
        "    return best, where",
        "    best, where = torch.zeros(()), torch.zeros_like(w)\n    for radius in np.linspace(0, rho, 41)[1:]:\n        for angle in np.linspace(0, 2 * np.pi, 91)[1:]:\n            e = radius * torch.tensor([np.cos(angle), np.sin(angle)])\n            if loss(w + e) - base > best:\n                best, where = loss(w + e) - base, e\n    return best, where",
    ),
]
RIGHT = [
    (
        "numpy and scipy",
        {
            "limits": """
def limits(H, rho):
    values = sorted(np.linalg.eigvals(H.numpy()).real)
    nonzero = [v for v in values if v > 1e-8 * values[-1]]
    return {
        "average": rho * rho * float(torch.trace(H)) / (2 * len(H)),
        "worst": rho * rho * values[-1] / 2,
        "ascent": rho * rho * nonzero[0] / 2,
    }
""",
            "worst": """
def worst(loss, w, rho, starts, steps=40):
    from scipy.optimize import minimize

    here, found = float(loss(w)), [(0.0, np.zeros(len(w)))]
    for s in starts.numpy():
        result = minimize(
            lambda e: -float(loss(w + torch.from_numpy(e))),
            0.98 * rho * s / np.linalg.norm(s),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda e: rho**2 - e @ e},
        )
        e = result.x / max(1.0, np.linalg.norm(result.x) / rho)
        found.append((float(loss(w + torch.from_numpy(e))) - here, e))
    return max(found, key=lambda pair: pair[0])
""",
            "average": """
def average(loss, w, rho, noise, sphere=True, pairs=False):
    values = []
    for z in noise.numpy():
        u = z / (np.sqrt((z * z).sum()) if sphere else np.sqrt(z.size))
        both = [float(loss(w + rho * torch.from_numpy(sign * u))) for sign in ((1, -1) if pairs else (1,))]
        values.append(np.mean(both) - float(loss(w)))
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
""",
            "times": """
def times(loss, w, v):
    return torch.func.vjp(grad(loss), w)[1](v)[0].numpy()
""",
            "trace": """
def trace(product, probes):
    from scipy.stats import sem

    values = [float(v @ product(v)) for v in probes]
    return sum(values) / len(values), sem(values)
""",
            "alignment": """
def alignment(loss, w, rho):
    values, vectors = np.linalg.eig(hessian_of(loss, w).numpy())
    top = vectors[:, values.argmax()]
    g = grad(loss)(w)
    added = (grad(loss)(w + rho * g / g.norm()) - g).numpy()
    return abs(added @ top) / np.linalg.norm(added) / np.linalg.norm(top)
""",
        },
    ),
    (
        "functions of the library",
        {
            "limits": """
from sam_lite import toys

def limits(H, rho):
    found = toys.limiting_sharpness(H)
    return {"worst": rho**2 * found["max"], "ascent": rho**2 * found["ascent"], "average": rho**2 * found["average"]}
""",
            "worst": """
from sam_lite import sharpness

def worst(loss, w, rho, starts, steps=40):
    found = sharpness.worst_sharpness(lambda p: loss(p["w"]), {"w": w}, rho, starts=starts, steps=steps)
    return found.value, found.direction["w"]
""",
            "along": """
from sam_lite import sharpness

def along(loss, w, rho):
    return sharpness.ascent_sharpness(lambda p: loss(p["w"]), {"w": w}, rho).value
""",
            "average": """
from sam_lite import sharpness

def average(loss, w, rho, noise, sphere=True, pairs=False):
    both = (lambda e: (loss(w + e) + loss(w - e)) / 2) if pairs else (lambda e: loss(w + e))
    zero = {"e": torch.zeros_like(w)}
    if sphere:
        found = sharpness.average_sharpness(lambda p: both(p["e"]), zero, rho, samples=noise)
        return found.value + both(zero["e"]) - loss(w), found.error
    rises = vmap(both)(rho / len(w) ** 0.5 * noise) - loss(w)
    return rises.mean(), rises.std() / len(noise) ** 0.5
""",
            "times": """
def times(loss, w, v):
    return hessian.hvp(lambda p: loss(p["w"]), {"w": w})({"w": v})["w"]
""",
            "alignment": """
def alignment(loss, w, rho):
    top = member(hessian.top_eigenvalues(lambda p: loss(p["w"]), {"w": w}).vectors, 0)["w"]
    return torch.cosine_similarity(sam_at(loss, w, rho) - grad(loss)(w), top, dim=0).abs()
""",
            "sideways": """
from sam_lite.sam import m_sam_gradient

def sideways(losses, w, rho, T):
    parts = [lambda p, f=f: f(p["w"]) for f in losses]
    return m_sam_gradient(parts, {"w": w}, rho)[0]["w"] @ T / (rho**2 / 2)
""",
        },
    ),
    (
        "autograd, loops, float32",
        {
            "limits": """
def limits(H, rho):
    H = H.double()
    singular = torch.linalg.svdvals(H)
    kept = [s for s in singular.tolist() if s > 1e-8 * singular[0]]
    return {"worst": kept[0] * rho**2 / 2, "ascent": kept[-1] * rho**2 / 2, "average": sum(kept) / len(H) * rho**2 / 2}
""",
            "worst": """
def worst(loss, w, rho, starts, steps=40):
    values, points = [loss(w)], [torch.zeros_like(w)]
    for start in starts:
        e = (start / start.norm()).mul_(rho).requires_grad_()
        for t in range(steps + 1):
            value = loss(w + e)
            values.append(value.detach())
            points.append(e.detach().clone())
            (g,) = torch.autograd.grad(value, e)
            with torch.no_grad():
                e += rho * (1 - t / steps) * g / g.norm().clamp(min=1e-300)
                if e.norm() > rho:
                    e *= rho / e.norm()
    best = int(torch.stack(values).argmax())
    return float(values[best] - values[0]), points[best]
""",
            "along": """
def along(loss, w, rho):
    x = w.clone().requires_grad_()
    value = loss(x)
    value.backward()
    size = x.grad.norm()
    with torch.no_grad():
        return (loss(w + x.grad * (rho / size if size > 0 else 0.0)) - value).item()
""",
            "average": """
def average(loss, w, rho, noise, sphere=True, pairs=False):
    u = torch.nn.functional.normalize(noise, dim=1) if sphere else noise / np.sqrt(noise.shape[1])
    at = vmap(loss)
    rises = at(w + rho * u) - loss(w)
    if pairs:
        rises = torch.stack([rises, at(w - rho * u) - loss(w)]).mean(0)
    n = len(rises)
    mean = rises.sum() / n
    return mean.item(), (((rises - mean) ** 2).sum() / (n * (n - 1))).sqrt().item()
""",
            "times": """
def times(loss, w, v):
    x = w.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (h,) = torch.autograd.grad((g * v).sum(), x)
    return h.float()
""",
            "trace": """
def trace(product, probes):
    total, squares, n = 0.0, 0.0, len(probes)
    for v in probes:
        value = float((v * product(v)).sum())
        total, squares = total + value, squares + value**2
    return total / n, (max(squares - total**2 / n, 0.0) / (n - 1) / n) ** 0.5
""",
            "sideways": """
def sideways(losses, w, rho, T):
    pull = torch.zeros(T.shape[1])
    for loss in losses:
        g = grad(loss)(w)
        up = grad(loss)(w + rho * g / g.norm())
        for j in range(T.shape[1]):
            pull[j] += (up * T[:, j]).sum() / len(losses) / (rho**2 / 2)
    return pull
""",
        },
    ),
    (
        "differences of gradients and of the loss",
        {
            "times": """
def times(loss, w, v):
    h = 1e-5 / v.norm()
    return (grad(loss)(w + h * v) - grad(loss)(w - h * v)) / (2 * h)
""",
            "sideways": """
def sideways(losses, w, rho, T):
    rows = torch.stack([sam_at(loss, w, rho) for loss in losses])
    return (rows @ T).mean(0) / (0.5 * rho**2)
""",
            "worst": """
def worst(loss, w, rho, starts, steps=40):
    climbers = rho * starts / starts.norm(dim=1, keepdim=True)
    values, seen = [torch.zeros(1)], [torch.zeros(1, len(w))]
    slope, height = vmap(grad(lambda e: loss(w + e))), vmap(lambda e: loss(w + e))
    for t in range(steps):
        climbers = climbers + rho * (1 - t / steps) * torch.nn.functional.normalize(slope(climbers), dim=1, eps=1e-300)
        climbers = climbers / (climbers.norm(dim=1, keepdim=True) / rho).clamp(min=1)
        values.append(height(climbers) - loss(w))
        seen.append(climbers)
    best = torch.cat(values).argmax()
    return torch.cat(values)[best], torch.cat(seen)[best]
""",
        },
    ),
    (
        "warnings, prints and float32",
        {
            "along": """
import warnings

def along(loss, w, rho):
    warnings.warn("noise")
    print("noise")
    g = grad(loss)(w)
    if not g.any():
        return 0
    return torch.tensor(loss(w + rho * g / torch.linalg.vector_norm(g)) - loss(w))
""",
            "trace": """
import sys

def trace(product, probes):
    print("noise", file=sys.stderr)
    values = [float(torch.dot(v, product(v))) for v in probes]
    return np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5
""",
        },
    ),
    (
        "hypot, eigenvalues by SVD in a list, jvp",
        {
            "along": """
def along(loss, w, rho):
    g = grad(loss)(w).numpy()
    g = g / (np.abs(g).max() or 1.0)
    size = np.linalg.norm(g)
    return float(loss(w + torch.from_numpy(rho * g / size)) - loss(w)) if size else 0.0
""",
            "times": """
def times(loss, w, v):
    return torch.func.jvp(grad(loss), (w,), (v,))[1]
""",
        },
    ),
]
