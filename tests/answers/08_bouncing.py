"""Answers to exercise 8. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    ("climbs along w", "step", "rho * g / size", "rho * w / w.norm()"),
    ("not normalized", "step", "rho * g / size", "rho * g"),
    ("no climb", "step", "H @ (w + rho * g / size)", "g"),
    ("NaN at the minimum", "step", "    if size == 0:\n        return w.clone()\n", ""),
    ("a constant added to the norm", "step", "size = g.norm()", "size = g.norm() + 1e-8"),
    ("starts at the end of the climb", "step", "return w - lr", "w = w + rho * g / size\n    return w - lr"),
    ("climbs in place", "step", "w - lr * H @ (w + rho * g / size)", "w.sub_(lr * H @ (w + rho * g / size))"),
    ("width for amplitude", "amplitude", "a * rho / (2 - a)", "2 * a * rho / (2 - a)"),
    ("first order", "amplitude", "a * rho / (2 - a)", "a * rho / 2"),
    ("sign of the denominator", "amplitude", "a * rho / (2 - a)", "a * rho / (2 + a)"),
    ("lambda lost", "amplitude", "a * rho / (2 - a)", "lr * rho / (2 - a)"),
    (
        "no error",
        "amplitude",
        '    if not 0 < a < 2:\n        raise ValueError(f"lr * lam must lie between 0 and 2, got {a}")\n',
        "",
    ),
    ("2 is allowed", "amplitude", "0 < a < 2", "0 < a <= 2"),
    ("negative is allowed", "amplitude", "0 < a < 2", "a < 2"),
    ("limit of gradient descent's monotone steps", "amplitude", "0 < a < 2", "0 < a < 1"),
    ("gradient descent's factor", "multiplier", " - (2 - lr * lam) * r**2", ""),
    ("one factor missing", "multiplier", "r**2", "r"),
    ("length A", "multiplier", "r**2", "mu * r"),
    ("exchanged", "multiplier", "r = mu / lam", "r = lam / mu"),
    (
        "absolute value",
        "multiplier",
        "return 1 - lr * mu - (2 - lr * lam) * r**2",
        "return abs(1 - lr * mu - (2 - lr * lam) * r**2)",
    ),
    ("A with a plus", "multiplier", "(2 - lr * lam)", "(2 + lr * lam)"),
    ("own axis too", "stable", " if j != i]", "]"),
    ("any for all", "stable", "all(abs(m)", "any(abs(m)"),
    ("does not exist", "stable", "lr * lams[i] >= 2", "lr * max(lams) >= 9"),
    ("rounding and marginal", "stable", "abs(m) < 1 - 1e-9", "abs(m) <= 1"),
    ("the sharpest always", "stable", "    return [lasts(i)", "    return [lams[i] == max(lams)"),
    ("signs of the weights", "bounce", "along = steps @ v / v.norm()", "along = path @ v / v.norm()"),
    ("divides by T", "bounce", "(len(path) - 2)", "len(path)"),
    ("divides by the moves", "bounce", "(len(path) - 2)", "(len(path) - 1)"),
    ("zero counts", "bounce", "along[:-1] < 0", "along[:-1] <= 0"),
    (
        "a move of zero has a sign",
        "bounce",
        "(along[1:] * along[:-1] < 0).sum()",
        "((along[1:] > 0) != (along[:-1] > 0)).sum()",
    ),
    ("v not normalized", "bounce", " / v.norm()", ""),
    (
        "root of the share",
        "bounce",
        "(along**2).sum() / (steps**2).sum()",
        "((along**2).sum() / (steps**2).sum()) ** 0.5",
    ),
    ("absolute values for squares", "bounce", "(along**2).sum()", "along.abs().sum()"),
    ("leading term", "drift", "highest = 2 * rho / (2 - lr * lam)", "highest = rho"),
    ("at A", "drift", "2 * rho / (2 - lr * lam)", "lr * lam * rho / (2 - lr * lam)"),
    ("uphill", "drift", "return -lr", "return lr"),
    ("half forgotten", "drift", "highest**2 / 2", "highest**2"),
    ("not squared", "drift", "highest**2 / 2", "highest * rho / 2"),
    ("a gradient", "drift", "return -lr * slope", "return slope"),
    ("cut is ignored", "move", "    if cut:", "    if False:"),
    ("Hessian at the end", "move", "hessian_of(loss, x)", "hessian_of(loss, x + rho * u)"),
    ("no gradient in the cut", "move", "(g + rho * hessian_of(loss, x) @ u)", "(rho * hessian_of(loss, x) @ u)"),
    ("not normalized", "move", "u = g / g.norm()", "u = g"),
    ("a constant added to the length", "move", "u = g / g.norm()", "u = g / (g.norm() + 1e-8)"),
    ("NaN at a minimum", "move", "    if g.norm() == 0:\n        return torch.zeros_like(x)\n", ""),
    ("new weights", "move", "return -lr * grad(loss)", "return x - lr * grad(loss)"),
    (
        "moves x in place",
        "move",
        "return -lr * grad(loss)(x + rho * u)",
        "return x.add_(-lr * grad(loss)(x + rho * u)) - x",
    ),
    (
        "naive formula",
        "edge",
        "return 4 / (lr * (1 + root))",
        "return size / (2 * rho) * (root - 1) if rho else 2 / lr",
    ),
    ("divides by zero", "edge", "return 4 / (lr * (1 + root))", "return size / (2 * rho) * (root - 1)"),
    ("gradient descent's edge", "edge", "8 * rho", "0 * rho"),
    ("not normalized", "edge", "(lr * size)", "lr"),
    ("a small radius is none", "edge", "    root = ", "    if rho < 1e-3:\n        return 2 / lr\n    root = "),
    ("4 for 8", "edge", "8 * rho", "4 * rho"),
    ("a constant", "stable", "    return [lasts(i) for i in range(len(lams))]", "    return [False, True, False]"),
    (
        "the largest lasts, always",
        "stable",
        "    return [lasts(i) for i in range(len(lams))]",
        "    return [lam == max(lams) for lam in lams]",
    ),
    ("a small gradient is none", "step", "    if size == 0:", "    if size < 1e-14:"),
    (
        "only the first 15 points",
        "bounce",
        "    steps = path[1:] - path[:-1]",
        "    path = path[:15]\n    steps = path[1:] - path[:-1]",
    ),
    (
        "sorts the curvatures in place",
        "stable",
        "    return [lasts(i) for i in range(len(lams))]",
        "    found = [lasts(i) for i in range(len(lams))]\n    lams.sort()\n    return found",
    ),
]
RIGHT = [
    (
        "numpy",
        {
            "step": """
def step(w, H, lr, rho):
    w, H = w.numpy(), H.numpy()
    g = H.dot(w)
    n = np.sqrt(g.dot(g))
    up = w if n == 0 else w + g * (rho / n)
    return torch.from_numpy(w - lr * H.dot(up))
""",
            "amplitude": """
def amplitude(lr, rho, lam):
    if lr * lam <= 0 or lr * lam >= 2:
        raise ValueError("no orbit")
    return rho / (2 / (lr * lam) - 1)
""",
            "multiplier": """
def multiplier(lr, lam, mu):
    over = (2 - lr * lam) / (lr * lam**2)  # ρ / (λ A)
    return 1 - lr * mu * (1 + over * mu)
""",
            "stable": """
def stable(lams, lr):
    lams = np.array(lams)
    top = lams.max()
    alone = (lams > top - 1e-9).sum() == 1
    return (lams == top) & alone & (lr * top < 2)
""",
            "bounce": """
def bounce(path, v):
    steps = np.diff(path.numpy(), axis=0)
    c = steps @ (v.numpy() / np.linalg.norm(v.numpy()))
    return np.mean(np.sign(c[1:]) * np.sign(c[:-1]) == -1), (c @ c) / (steps * steps).sum()
""",
            "drift": """
def drift(lr, rho, lam, slope):
    return -(lr * rho**2 / 2) * slope * (1 - lr * lam / 2) ** -2
""",
            "edge": """
def edge(lr, rho, size):
    # λ = 2 c / (1 + √(1 + 4 b c)) solves b λ² + λ = c
    b, c = rho / size, 2 / lr
    return 2 * c / (1 + np.sqrt(1 + 4 * b * c))
""",
        },
    ),
    (
        "functions of the library",
        {
            "step": """
from sam_lite.sam import sam_gradient

def step(w, H, lr, rho):
    return w - lr * sam_gradient(toys.quadratic(H), {"w": w}, rho)[0]["w"]
""",
            "amplitude": "amplitude = toys.two_cycle_amplitude",
            "multiplier": """
def multiplier(lr, lam, mu):
    return toys.transverse_multiplier(lr, lam, mu / lam)
""",
            "drift": "drift = toys.drift_per_step",
            "edge": "edge = toys.sam_edge",
            "move": """
from sam_lite.sam import sam_gradient

def move(loss, x, lr, rho, cut=False):
    of_dict = lambda p: loss(p["x"])
    if not cut:
        return -lr * sam_gradient(of_dict, {"x": x}, rho)[0]["x"]
    g = grad(loss)(x)
    u = torch.nn.functional.normalize(g, dim=0)
    return -lr * (g + rho * hessian.hvp(of_dict, {"x": x})({"x": u})["x"])
""",
        },
    ),
    (
        "plain loops and numerical answers",
        {
            "step": """
def step(w, H, lr, rho):
    d = len(w)
    g = [sum(float(H[i, j] * w[j]) for j in range(d)) for i in range(d)]
    n = sum(c * c for c in g) ** 0.5 or float("inf")
    up = [float(w[i]) + rho * g[i] / n for i in range(d)]
    return torch.tensor([float(w[i]) - lr * sum(float(H[i, j]) * up[j] for j in range(d)) for i in range(d)])
""",
            "amplitude": """
def amplitude(lr, rho, lam):
    if not (lr * lam > 0 and lr * lam < 2):
        raise ValueError(f"no orbit for {lr} and {lam}")
    from scipy.optimize import brentq

    return brentq(lambda w: 2 * w - lr * lam * (w + rho), -1.0, 1e9, xtol=1e-13, rtol=1e-14, maxiter=1000)
""",
            "multiplier": """
def multiplier(lr, lam, mu):
    A, delta = toys.two_cycle_amplitude(lr, 1.0, lam), 1e-5
    gradient = torch.tensor([lam * A, mu * delta])
    up = delta + gradient[1] / gradient.norm()
    return (delta - lr * mu * up) / delta
""",
            "stable": """
def stable(lams, lr):
    answers = []
    for i, lam in enumerate(lams):
        good = lr * lam < 2
        for j, mu in enumerate(lams):
            if good and j != i:
                m = 1 - lr * mu - (2 - lr * lam) * (mu / lam) ** 2
                good = -1 + 1e-9 < m < 1 - 1e-9
        answers.append(good)
    return answers
""",
            "bounce": """
def bounce(path, v):
    length, flips, along, total, before = float((v * v).sum()) ** 0.5, 0, 0.0, 0.0, 0.0
    for first, second in zip(path, path[1:]):
        step = second - first
        c = float(step.dot(v)) / length
        flips += c * before < 0
        along, total, before = along + c * c, total + float(step.dot(step)), c
    return flips / (len(path) - 2), along / total
""",
            "move": """
def move(loss, x, lr, rho, cut=False):
    y = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(y), y, create_graph=True)
    n = float(g.detach().norm())
    if n == 0:
        return 0 * x
    u = g.detach() / n
    if cut:
        (Hu,) = torch.autograd.grad(g @ u, y)
        return -lr * g.detach() - lr * rho * Hu
    z = (x + rho * u).requires_grad_()
    loss(z).backward()
    return (-lr * z.grad).detach()
""",
        },
    ),
    (
        "float32 and eigenvectors",
        {
            "step": """
def step(w, H, lr, rho):
    lams, Q = torch.linalg.eigh(H.float())
    y = Q.T @ w.float()
    slope = lams * y
    return (Q @ (y - lr * lams * (y + rho * torch.nn.functional.normalize(slope, dim=0, eps=1e-30)))).double()
""",
            "drift": """
def drift(lr, rho, lam, slope):
    A = np.float32(lr * rho * lam / (2 - lr * lam))
    return float(-lr * 0.5 * slope * (A + np.float32(rho)) ** 2)
""",
            "bounce": """
def bounce(path, v):
    moves = path.float().diff(dim=0)
    u = v.float() / v.float().norm()
    along = moves @ u
    pairs = along.unfold(0, 2, 1).prod(1)
    return (pairs < 0).float().mean(), along.square().sum() / moves.square().sum()
""",
        },
    ),
    (
        "warnings, prints and tensors",
        {
            "amplitude": """
import warnings

def amplitude(lr, rho, lam):
    warnings.warn("noise")
    print("noise")
    a = lr * lam
    if a <= 0 or a >= 2:
        raise ValueError("no orbit")
    return torch.tensor(torch.tensor(rho / (2 / a - 1)))
""",
            "move": """
def move(loss, x, lr, rho, cut=False):
    at = x.detach().clone().requires_grad_()
    g = torch.autograd.grad(loss(at), at, create_graph=True)[0]
    if float(g.norm()) == 0:
        return 0 * x
    u = (g / g.norm()).detach()
    if cut:
        return -lr * (g + rho * torch.autograd.grad(g @ u, at)[0])
    up = (at + rho * u).detach().requires_grad_()
    return -lr * torch.autograd.grad(loss(up), up)[0]
""",
        },
    ),
    (
        "scaled lengths, loops over pairs",
        {
            "step": """
def step(w, H, lr, rho):
    g = (H @ w).tolist()
    top = max(map(abs, g))
    u = torch.tensor([x / top for x in g], dtype=w.dtype) if top else torch.zeros_like(w)
    u = torch.nn.functional.normalize(u, dim=0)
    return (w - lr * H @ (w + rho * u)).numpy()
""",
            "bounce": """
def bounce(path, v):
    moves = [(b - a).tolist() for a, b in zip(path, path[1:])]
    length = sum(x * x for x in v.tolist()) ** 0.5
    along = [sum(x * y for x, y in zip(move, v.tolist())) / length for move in moves]
    turned = [a * b < 0 for a, b in zip(along, along[1:])]
    return sum(turned) / len(turned), sum(a * a for a in along) / sum(x * x for move in moves for x in move)
""",
        },
    ),
    (
        "an orbit needs a radius",
        {
            "amplitude": """
def amplitude(lr, rho, lam):
    if lr <= 0 or rho <= 0 or lam <= 0 or lr * lam >= 2:
        raise ValueError(f"no orbit of two points with lr {lr}, rho {rho} and lam {lam}")
    return rho / (2 / (lr * lam) - 1)
""",
        },
    ),
]
