"""Answers to exercise 3. WRONG: (mistake, cell, what stands there, what a student wrote). RIGHT: (name, {cell: text})."""

WRONG = [
    ("k rounded down", "adapt", "k = -(-large // small)", "k = large // small"),
    ("k not rounded", "adapt", "k = -(-large // small)", "k = large / small"),
    (
        "the drops stay",
        "adapt",
        '[k * drop for drop in regime["drops"]]',
        'list(regime["drops"])',
    ),
    (
        "changes the given regime",
        "adapt",
        '    return {"epochs": k * regime["epochs"], "drops": [k * drop for drop in regime["drops"]]}',
        '    new = dict(regime)\n    new["epochs"] *= k\n'
        '    for i in range(len(new["drops"])):\n        new["drops"][i] *= k\n    return new',
    ),
    ("a drop one step late", "rate_at", "epochs_over = step //", "epochs_over = (step - 1) //"),
    ("a drop one epoch late", "rate_at", "epochs_over >= drop", "epochs_over > drop"),
    ("counts incomplete batches", "rate_at", "step // (n // batch_size)", "step * batch_size / n"),
    ("one drop only", "rate_at", "sum(epochs_over >= drop for drop in drops)", "any(epochs_over >= d for d in drops)"),
    (
        "second moment instead of covariance",
        "step_covariance",
        "centred = grads - grads.mean(0)",
        "centred = grads",
    ),
    ("divides by n - 1", "step_covariance", "centred.T @ centred / n", "centred.T @ centred / (n - 1)"),
    ("learning rate not squared", "step_covariance", "lr**2 / batch_size", "lr / batch_size"),
    ("batch size squared", "step_covariance", "lr**2 / batch_size", "(lr / batch_size) ** 2"),
    (
        "no correction without replacement",
        "step_covariance",
        "(1 if replace else (n - batch_size) / (n - 1))",
        "1",
    ),
    (
        "correction over n",
        "step_covariance",
        "(n - batch_size) / (n - 1))",
        "(n - batch_size) / n)",
    ),
    ("centres in place", "step_covariance", "centred = grads - grads.mean(0)", "centred = grads.sub_(grads.mean(0))"),
    ("rules swapped", "matched_rate", '{"step": 0.5, "time": 1.0}', '{"step": 1.0, "time": 0.5}'),
    ("small over large", "matched_rate", "(large / small)", "(small / large)"),
    ("k an integer", "matched_rate", "(large / small)", "(large // small)"),
    (
        "no error for another word",
        "matched_rate",
        "    if keep not in powers:\n        raise ValueError(f\"keep must be 'step' or 'time', got {keep!r}\")\n"
        "    return lr * (large / small) ** powers[keep]",
        "    return lr * (large / small) ** powers.get(keep, 1.0)",
    ),
    ("weights reversed", "running_weights", "np.arange(k - 1, -1, -1)", "np.arange(k)"),
    ("powers begin at 1", "running_weights", "np.arange(k - 1, -1, -1)", "np.arange(1, k + 1)"),
    (
        "ghosts averaged first",
        "running_weights",
        "    return np.concatenate([[(1 - momentum) ** k], momentum * (1 - momentum) ** age])",
        "    return [1 - momentum] + k * [momentum / k]",
    ),
    ("whole batch", "ghost_norm", "x.split(self.ghost_size)", "[x]"),
    ("unbiased variance normalizes", "ghost_norm", "ghost.var(0, correction=0)", "ghost.var(0)"),
    ("biased running variance", "ghost_norm", "(ghost.var(0) - self.running_var)", "(var - self.running_var)"),
    (
        "statistics detached",
        "ghost_norm",
        "ghost.mean(0), ghost.var(0, correction=0)",
        "ghost.mean(0).detach(), ghost.var(0, correction=0).detach()",
    ),
    (
        "one update per batch",
        "ghost_norm",
        "            with torch.no_grad():\n"
        "                self.running_mean += self.momentum * (mean - self.running_mean)\n"
        "                self.running_var += self.momentum * (ghost.var(0) - self.running_var)\n",
        "        with torch.no_grad():\n            ghosts = x.view(-1, self.ghost_size, x.shape[1])\n"
        "            self.running_mean += self.momentum * (ghosts.mean(1).mean(0) - self.running_mean)\n"
        "            self.running_var += self.momentum * (ghosts.var(1).mean(0) - self.running_var)\n",
    ),
    ("batch statistics in evaluation", "ghost_norm", "        if not self.training:", "        if False:"),
    (
        "the running statistics carry gradients",
        "ghost_norm",
        "            with torch.no_grad():\n"
        "                self.running_mean += self.momentum * (mean - self.running_mean)\n"
        "                self.running_var += self.momentum * (ghost.var(0) - self.running_var)\n",
        "            self.running_mean = self.running_mean + self.momentum * (mean - self.running_mean)\n"
        "            self.running_var = self.running_var + self.momentum * (ghost.var(0) - self.running_var)\n",
    ),
    (
        "norms of tensors added",
        "distance",
        "((p - start[name]) ** 2).sum() for name, p in params.items()) ** 0.5",
        "(p - start[name]).norm() for name, p in params.items())",
    ),
    ("no root", "distance", " ** 0.5", ""),
    (
        "difference of lengths",
        "distance",
        "    return sum(((p - start[name]) ** 2).sum() for name, p in params.items()) ** 0.5",
        "    size = lambda model: sum((p**2).sum() for p in model.values()) ** 0.5\n    return size(params) - size(start)",
    ),
    ("a line in t", "extrapolate", "np.polyval(line, np.log(t_new))", "np.polyval(np.polyfit(t, y, 1), t_new)"),
    (
        "logarithm of the prediction",
        "extrapolate",
        "np.exp(np.polyval(power, np.log(t_new)))",
        "np.polyval(power, np.log(t_new))",
    ),
    ("power law through 1", "extrapolate", "np.log(y), 1)", "np.log(y), 0)"),
    (
        "exponential growth",
        "extrapolate",
        "    power = np.polyfit(np.log(t), np.log(y), 1)\n"
        '    return {"log t": np.polyval(line, np.log(t_new)), "power law": np.exp(np.polyval(power, np.log(t_new)))}',
        "    power = np.polyfit(t, np.log(y), 1)\n"
        '    return {"log t": np.polyval(line, np.log(t_new)), "power law": np.exp(np.polyval(power, t_new))}',
    ),
    ("1.96 for few seeds", "paired_interval", "t.ppf(0.975, n - 1)", "1.96"),
    ("degrees of freedom n", "paired_interval", "t.ppf(0.975, n - 1)", "t.ppf(0.975, n)"),
    ("one-sided quantile", "paired_interval", "t.ppf(0.975, n - 1)", "t.ppf(0.95, n - 1)"),
    ("variance over n", "paired_interval", ".std(ddof=1)", ".std()"),
    ("spread of single seeds", "paired_interval", " / np.sqrt(n)", ""),
    (
        "unpaired",
        "paired_interval",
        "    return differences.mean(), t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)",
        "    error = np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / n)\n"
        "    return differences.mean(), t.ppf(0.975, n - 1) * error",
    ),
    (
        "a constant",
        "running_weights",
        "    return np.concatenate([[(1 - momentum) ** k], momentum * (1 - momentum) ** age])",
        "    return [0.343, 0.147, 0.21, 0.3]",
    ),
    ("two drops at most", "rate_at", "for drop in drops)", "for drop in drops[:2])"),
    ("rounds to the nearest", "adapt", "k = -(-large // small)", "k = round(large / small)"),
    ("seeds by the table of five", "paired_interval", "t.ppf(0.975, n - 1)", "2.776445"),
    (
        "its own ε",
        "ghost_norm",
        "        self.ghost_size, self.momentum, self.eps = ghost_size, momentum, eps",
        "        self.ghost_size, self.momentum, self.eps = ghost_size, momentum, 1e-5",
    ),
    (
        "ε outside the root",
        "ghost_norm",
        "(ghost - mean) / torch.sqrt(var + self.eps)",
        "(ghost - mean) / (torch.sqrt(var) + self.eps)",
    ),
    (
        "a table of six t",
        "paired_interval",
        "t.ppf(0.975, n - 1)",
        "{3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365}.get(n, 2.023)",
    ),
    (
        "the ends of the interval",
        "paired_interval",
        "    return differences.mean(), t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)",
        "    half = t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)\n"
        "    return differences.mean() - half, differences.mean() + half",
    ),
    ("a difference without its sign", "paired_interval", "return differences.mean()", "return abs(differences.mean())"),
    ("shortens the list of drops", "rate_at", "    epochs_over = ", "    drops.sort(reverse=True)\n    epochs_over = "),
    (
        "centres its arguments",
        "paired_interval",
        "    n = len(differences)\n",
        "    n = len(differences)\n    if isinstance(a, np.ndarray):\n        a -= a.mean()\n",
    ),
]
RIGHT = [
    (
        "other libraries",
        {
            "adapt": """
from math import ceil

def adapt(regime, small, large):
    k = ceil(large / small)
    return {"drops": (np.array(regime["drops"]) * k).tolist(), "epochs": regime["epochs"] * k}
""",
            "rate_at": """
def rate_at(step, lr, drops, n, batch_size):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=lr)
    per_epoch = n // batch_size
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [d * per_epoch for d in drops], gamma=0.1)
    for _ in range(step):
        optimizer.step()
        scheduler.step()
    return scheduler.get_last_lr()[0]
""",
            "step_covariance": """
def step_covariance(grads, lr, batch_size, replace=True):
    n = grads.shape[0]
    sigma = np.atleast_2d(np.cov(grads.numpy(), rowvar=False, bias=True))
    if not replace:
        sigma = sigma * (n - batch_size) / (n - 1)
    return sigma * lr * lr / batch_size
""",
            "ghost_norm": """
from sam_lite.models import GhostBatchNorm1d

class GhostNorm(GhostBatchNorm1d):
    def __init__(self, n_features, ghost_size, momentum=0.1, eps=1e-5):
        super().__init__(n_features, ghost_size, momentum, affine=False)
        self.eps = eps
""",
            "distance": """
from sam_lite.params import add, norm

def distance(params, start):
    return norm(add(params, start, -1.0))
""",
            "extrapolate": """
from scipy.stats import linregress

def extrapolate(t, y, t_new):
    first, second = linregress(np.log(t), y), linregress(np.log10(t), np.log10(y))
    return {
        "power law": 10**second.intercept * t_new**second.slope,
        "log t": first.intercept + first.slope * np.log(t_new),
    }
""",
            "paired_interval": """
from scipy.stats import ttest_rel

def paired_interval(a, b):
    result = ttest_rel(np.asarray(a, float), np.asarray(b, float) + 1e-300)
    a, b = np.asarray(a, float), np.asarray(b, float)
    if (a == b).all():
        return 0.0, 0.0
    low, high = result.confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2
""",
        },
    ),
    (
        "plain loops and recurrences",
        {
            "rate_at": """
def rate_at(step, lr, drops, n, batch_size):
    per_epoch = n // batch_size
    for drop in drops:
        if step >= drop * per_epoch:
            lr = lr / 10
    return lr
""",
            "step_covariance": """
def step_covariance(grads, lr, batch_size, replace=True):
    n, d = grads.shape
    mean = [sum(float(grads[i, j]) for i in range(n)) / n for j in range(d)]
    factor = 1.0 if replace else (n - batch_size) / (n - 1)
    return [[lr**2 / batch_size * factor * sum((float(grads[i, a]) - mean[a]) * (float(grads[i, b]) - mean[b])
             for i in range(n)) / n for b in range(d)] for a in range(d)]
""",
            "matched_rate": """
def matched_rate(lr, small, large, keep):
    if keep == "step":
        return (lr**2 / small * large) ** 0.5
    if keep == "time":
        return lr / small * large
    raise ValueError(keep)
""",
            "running_weights": """
def running_weights(k, momentum):
    weights = [1.0]
    for _ in range(k):
        weights = [(1 - momentum) * w for w in weights] + [momentum]
    return weights
""",
            "distance": """
def distance(params, start):
    total = 0.0
    for name in params:
        for p, q in zip(params[name].flatten().tolist(), start[name].flatten().tolist()):
            total += (p - q) ** 2
    return total**0.5
""",
            "extrapolate": """
def extrapolate(t, y, t_new):
    columns = lambda times: np.stack([np.ones(len(times)), np.log(times)], 1)
    found = {}
    for law, to, back in (("log t", lambda v: v, lambda v: v), ("power law", np.log, np.exp)):
        best = np.linalg.solve(columns(t).T @ columns(t), columns(t).T @ to(y))
        found[law] = back(columns(t_new) @ best)
    return found
""",
            "paired_interval": """
from scipy import stats

def paired_interval(a, b):
    d = [float(p) - float(q) for p, q in zip(a, b)]
    n = len(d)
    mean = sum(d) / n
    variance = sum((v - mean) ** 2 for v in d) / (n - 1)
    return mean, -stats.t.ppf(0.025, df=n - 1) * (variance / n) ** 0.5
""",
        },
    ),
    (
        "all ghosts at once, in float32, weights in torch",
        {
            "step_covariance": """
def step_covariance(grads, lr, batch_size, replace=True):
    steps = -lr * grads.float()
    n = len(steps)
    return torch.cov(steps.T, correction=0) * ((1.0 if replace else (n - batch_size) / (n - 1)) / batch_size)
""",
            "running_weights": """
def running_weights(k, momentum):
    old = (1 - momentum) ** torch.arange(k, -1, -1.0)
    old[1:] *= momentum
    return old
""",
            "ghost_norm": """
class GhostNorm(nn.Module):
    def __init__(self, n_features, ghost_size, momentum=0.1, eps=1e-5):
        super().__init__()
        self.ghost_size, self.momentum, self.eps = ghost_size, momentum, eps
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_var", torch.ones(n_features))

    def forward(self, x):
        if not self.training:
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        ghosts = x.view(-1, self.ghost_size, x.shape[1])
        var, mean = torch.var_mean(ghosts, 1, correction=0, keepdim=True)
        k, m = len(ghosts), self.momentum
        weights = (m * (1 - m) ** torch.arange(k - 1, -1, -1)).to(x)
        unbiased = var * self.ghost_size / (self.ghost_size - 1)
        self.running_mean = ((1 - m) ** k * self.running_mean + weights @ mean[:, 0]).detach()
        self.running_var = ((1 - m) ** k * self.running_var + weights @ unbiased[:, 0]).detach()
        return ((ghosts - mean) * (var + self.eps).rsqrt()).reshape(x.shape)
""",
            "distance": """
from sam_lite.params import to_vector

def distance(params, start):
    return torch.dist(to_vector(params), to_vector(start)).item()
""",
            "extrapolate": """
def extrapolate(t, y, t_new):
    t, y, new = (torch.as_tensor(v, dtype=torch.float64) for v in (t, y, t_new))
    def fit(target):
        design = torch.stack([torch.ones_like(t), t.log()], 1)
        a, b = torch.linalg.lstsq(design, target).solution
        return a + b * new.log()
    return {"log t": fit(y).numpy(), "power law": fit(y.log()).exp().numpy()}
""",
        },
    ),
    (
        "PyTorch's batch norm on each ghost",
        {
            "ghost_norm": """
class GhostNorm(nn.Module):
    def __init__(self, n_features, ghost_size, momentum=0.1, eps=1e-5):
        super().__init__()
        self.ghost_size, self.momentum, self.eps = ghost_size, momentum, eps
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_var", torch.ones(n_features))

    def forward(self, x):
        chunks = x.split(self.ghost_size) if self.training else [x]
        return torch.cat([
            nn.functional.batch_norm(c, self.running_mean, self.running_var, None, None, self.training, self.momentum, self.eps)
            for c in chunks
        ])
""",
        },
    ),
    (
        "warnings, prints and SciPy",
        {
            "paired_interval": """
import scipy.stats

def paired_interval(a, b):
    d = np.subtract(a, b)
    low, high = scipy.stats.t.interval(0.95, len(d) - 1, loc=d.mean(), scale=scipy.stats.sem(d))
    print("interval", low, high)
    return (low + high) / 2, (high - low) / 2
""",
            "distance": """
import logging

def distance(params, start):
    logging.warning("noise")
    return torch.tensor(torch.cat([(params[k] - start[k]).flatten() for k in params]).norm())
""",
            "matched_rate": """
import sys

def matched_rate(lr, small, large, keep):
    print("noise", file=sys.stderr)
    if keep == "step":
        return np.float32(lr) * np.sqrt(np.float32(large) / small)
    if keep == "time":
        return lr / small * large
    raise ValueError(keep)
""",
        },
    ),
    (
        "bisection, statistics, running sums",
        {
            "rate_at": """
import bisect

def rate_at(step, lr, drops, n, batch_size):
    return lr / 10 ** bisect.bisect_right(sorted(drops), step // (n // batch_size))
""",
            "paired_interval": """
import statistics
from scipy.stats import t

def paired_interval(a, b):
    d = [float(x - y) for x, y in zip(a, b)]
    return statistics.fmean(d), t.isf(0.025, len(d) - 1) * statistics.stdev(d) / len(d) ** 0.5
""",
        },
    ),
]
