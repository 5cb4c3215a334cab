"""Checks of exercise 6: what a lead over SGD is worth."""

import random

import numpy as np
import torch
from scipy.stats import t as student
from torch.func import grad

from ..ascents import ascent
from ..params import add
from . import Draw, expect, part, probe, unpack

DOUBLE = torch.float64


@part("Part 1, equal epochs", points=2)
def mean_reduction(draw: Draw, mean_reduction):
    n = draw.whole(2, 6)
    sgd = draw.rng.uniform(3, 25, n)
    sam = sgd * draw.rng.uniform(0.4, 1.1, n)
    got = mean_reduction(*((sam.tolist(), sgd.tolist()) if draw.round % 2 else (sam, sgd)))
    right = 100 * (1 - sam / sgd).mean()
    mistakes = {
        "this is the reduction of the mean error; take the mean of the reductions": 100 * (1 - sam.mean() / sgd.mean()),
        "this is in points: divide by the error of SGD": (sgd - sam).mean(),
        "you divided by SAM's error": 100 * (sgd / sam - 1).mean(),
        "percent are wanted": right / 100,
        "the sign is wrong: it is positive where SAM is better": -right,
        "this is a ratio of errors, not a reduction": 100 - right,
        "the sum was taken for the mean": n * right,
        "this is the median: take the mean": 100 * np.median(1 - sam / sgd),
    }
    expect(f"the mean reduction of {n} comparisons", got, right, looks_like=mistakes)
    expect("SAM is worse", mean_reduction([6.0], [5.0]), -20.0)


@part("Part 1, equal gradients", points=2, rounds=5)
def equal_gradients(draw: Draw, equal_gradients):
    epochs = [10 * draw.whole(1, 4) * 2**k for k in range(4)]
    epochs = sorted({*epochs, epochs[0] * 2, epochs[0] * 3})
    table = {}
    for network in ("A", "B", "C")[: draw.whole(2, 3)]:
        table[network] = {
            who: {int(e): draw.number(2, 20) for e in draw.rng.permutation(epochs)[: draw.whole(3, len(epochs))]}
            for who in ("SAM", "SGD")
        }
        table[network]["SAM"][epochs[0]] = draw.number(2, 20)
        table[network]["SGD"][2 * epochs[0]] = draw.number(2, 20)
    got = equal_gradients(table)

    def compared(partner, reduction=lambda sam, sgd: 100 * (sgd - sam) / sgd, key=lambda e, other: e):
        return {
            (network, key(e, partner(e))): reduction(sam, both["SGD"][partner(e)])
            for network, both in table.items()
            for e, sam in both["SAM"].items()
            if partner(e) in both["SGD"]
        }

    twice = lambda e: 2 * e  # noqa: E731
    mistakes = {
        "SGD has half of SAM's epochs; it must have twice as many": compared(lambda e: e / 2),
        "these are equal epochs": compared(lambda e: e),
        "this is in points: divide by the error of SGD": compared(twice, lambda sam, sgd: sgd - sam),
        "you divided by SAM's error": compared(twice, lambda sam, sgd: 100 * (sgd - sam) / sam),
        "the sign is wrong: it is positive where SAM is better": compared(
            twice, lambda sam, sgd: 100 * (sam - sgd) / sgd
        ),
        "the keys must have SAM's epochs, not SGD's": compared(twice, key=lambda e, other: other),
    }
    expect("equal gradients", got, compared(twice), looks_like=mistakes)
    expect("a table with nothing to compare", equal_gradients({"A": {"SAM": {400: 3.0}, "SGD": {400: 4.0}}}), {})


def _paid(steps, every, start):
    return sum(2 if t >= start and (t - start) % every == 0 else 1 for t in range(steps))


@part("Part 2, the cost", points=1, rounds=4)
def cost(draw: Draw, cost):
    every, rounds = draw.whole(2, 5), draw.whole(2, 6)
    steps = every * rounds + draw.whole(1, every - 1)
    climbs = rounds + 1
    mistakes = {
        "steps, not gradients, were counted": steps,
        "the quotient was rounded down: the first step climbs as well": steps + rounds,
        "only the ascents were counted": climbs,
        "a step of SAM costs two gradients, not three": steps + 2 * climbs,
        "the schedule is disregarded": 2 * steps,
        "the quotient was not rounded": steps + steps / every,
    }
    expect(f"{steps} steps, every={every}", cost(steps, every), steps + climbs, looks_like=mistakes)
    start = draw.whole(2, steps - 2)
    right = _paid(steps, every, start)
    mistakes = {
        "`start` is disregarded": steps + climbs,
        "the first step of SAM is the step `start` itself": right - 1,
        "the steps before `start` are free": right - start,
    }
    expect(f"{steps} steps, every={every} from step {start} on", cost(steps, every, start), right, looks_like=mistakes)
    for _ in range(12):
        steps, every, start = draw.whole(0, 30), draw.whole(1, 8), draw.whole(0, 12) * draw.whole(0, 1)
        expect(
            f"the cost of {steps} steps, every={every}, start={start}",
            cost(steps, every, start),
            _paid(steps, every, start),
        )
    expect("from step 10 on, 10 steps", cost(10, 4, 10), 10)
    expect("without SAM", cost(steps, None), steps)


def _affordable(budget, every, start):
    paid = steps = 0
    while True:
        paid += 2 if steps >= start and (steps - start) % every == 0 else 1
        if paid > budget:
            return steps
        steps += 1


@part("Part 2, the budget", points=3, rounds=4)
def steps_within(draw: Draw, steps_within):
    half = draw.whole(20, 400)
    mistakes = {f"that is the cost of {2 * half} steps": 4 * half, "the ascents are not paid for": 2 * half}
    expect(f"SAM with {2 * half} gradients", steps_within(2 * half, 1), half, looks_like=mistakes)
    every = draw.whole(2, 5)
    budget = (every + 1) * draw.whole(2, 8) + 1
    right = _affordable(budget, every, 0)
    mistakes = {
        "the last step is overdrawn: its second gradient is not paid for": right + 1,
        "the ascents are not paid for": budget,
        f"this is what {budget} steps cost": _paid(budget, every, 0),
        "the number of steps is not an integer: it must be rounded down": budget * every / (every + 1),
        "this is the budget of SAM at every step": budget // 2,
    }
    expect(f"{budget} gradients, every={every}", steps_within(budget, every), right, looks_like=mistakes)
    start, left = draw.whole(3, 9), draw.whole(3, 9)
    mistakes = {
        "`start` is disregarded": (start + left) // 2,
        "the steps before `start` are free": start + (start + left) // 2,
    }
    right = start + left // 2
    got = steps_within(start + left, 1, start)
    expect(f"{start + left} gradients, SAM from step {start} on", got, right, looks_like=mistakes)
    for _ in range(40):
        budget, every, start = draw.whole(0, 40), draw.whole(1, 8), draw.whole(0, 9) * draw.whole(0, 1)
        what = f"{budget} gradients, every={every}, start={start}"
        expect(what, steps_within(budget, every, start), _affordable(budget, every, start))
    expect("without SAM", steps_within(budget, None), budget)


@part("Part 3", points=4, rounds=4)
def choose(draw: Draw, choose):
    n = draw.whole(3, 5)
    m, level = draw.number(50, 80), draw.number(40, 70)
    luck = np.full(n, -0.6)
    luck[draw.whole(0, n - 1)] += 0.6 * n  # mean 0; the middle and the worst seed are below those of the next radius
    single = np.full(n, -1.0 - 6.0 / (n - 1))
    single[draw.whole(0, n - 1)] = 0.6 * n + 2
    validation = {"fair": m + luck, "test": m - 0.1 + draw.rng.uniform(-0.05, 0.05, n), "single": m + single}
    validation["last"] = m - draw.rng.uniform(3, 5, n)
    test = {"fair": level, "test": level + 4, "single": level - 3, "last": level - 5}
    test = {name: value + draw.rng.uniform(-1.5, 1.5, n) for name, value in test.items()}
    names = draw.rng.permutation(list(validation)).tolist()
    rhos = draw.rng.permutation([0.01, 0.02, 0.05, 0.1, 0.2, 0.4])[:4].tolist()
    at = dict(zip(names, rhos, strict=True))
    on_validation, on_test = (np.array([table[name] for name in names]) for table in (validation, test))
    given = (on_validation.tolist(), on_test.tolist()) if draw.round % 2 else (on_validation, on_test)
    got = unpack(choose(rhos, *given), "the radius", "its mean test accuracy")
    own = on_test[on_validation.argmax(0), np.arange(n)].mean()
    mistakes = {
        "the test set has chosen, or the worst seed, or the median": (at["test"], test["test"].mean()),
        "this is the validation accuracy: report the test accuracy": (at["fair"], m),
        "the best single seed has chosen: take means over the seeds first": (at["single"], test["single"].mean()),
        "every seed chose its own radius": (at["fair"], own),
        "this is the number of the row, not the radius": (names.index("fair"), test["fair"].mean()),
        "this is the best test accuracy of a seed: take the mean": (at["fair"], test["fair"].max()),
    }
    expect("the radius and its test accuracy", got, (at["fair"], test["fair"].mean()), looks_like=mistakes)
    spoilt, diverged = on_validation.copy(), draw.whole(0, n - 1)
    spoilt[names.index("fair"), diverged] = np.nan
    mistakes = {"a radius with a run that diverged was chosen": (at["fair"], test["fair"].mean())}
    what = "a radius with a diverged run is out"
    expect(what, choose(rhos, spoilt, on_test), (at["test"], test["test"].mean()), looks_like=mistakes)
    poor, good = draw.rng.uniform(10, 20, (2, n)), draw.rng.uniform(85, 95, (1, n))
    good[0, diverged], reported = np.nan, draw.rng.uniform(10, 95, (3, n))
    mistakes = {"a run that diverged was counted as an accuracy of 0 or of chance": (0.05, reported[2].mean())}
    right = 0.1 if poor[0].mean() > poor[1].mean() else 0.2
    got = choose([0.1, 0.2, 0.05], np.r_[poor, good], reported)
    best = reported[0 if right == 0.1 else 1].mean()
    expect("… also where all others are worse by far", got, (right, best), looks_like=mistakes)
    near = np.array([[50.0, 60.0, 70.0], [50.02, 60.02, 70.02]])
    got = choose([0.05, 0.1], near, near + 1)
    closest = {"nearly equal was taken for equal: only of equally good radii the smallest counts": (0.05, 61.0)}
    expect("a radius that is better by a little", got, (0.1, 61.02), looks_like=closest, tolerance=1e-6)
    tied = np.array([[50.0, 52.0], [53.0, 49.0], [51.0, 51.0], [40.0, 41.0]])
    reported = tied + draw.rng.uniform(0, 5, (4, 1))
    mistakes = {
        "the first was taken, not the smallest": (0.5, reported[0].mean()),
        "the smallest of all radii was taken": (0.01, reported[3].mean()),
    }
    got = choose([0.5, 0.05, 0.2, 0.01], tied, reported)
    expect("equally good radii: the smallest", got, (0.05, reported[1].mean()), looks_like=mistakes)


@part("Part 4", points=4, rounds=4)
def lead(draw: Draw, lead):
    n = draw.whole(*((3, 5), (6, 8), (9, 20), (21, 50))[draw.round])
    base = draw.rng.uniform(45, 65, n)
    a, b = base + draw.rng.uniform(0, 3, n), 54 + 0.2 * (base - 55) - draw.rng.uniform(0, 2, n)  # unequal variances
    a, b = (a, b) if draw.rng.random() < 0.5 else (b, a)
    sides = (a.tolist(), b.tolist()) if draw.round % 2 else (a, b)
    mean, paired, unpaired = unpack(lead(*sides), "the mean", "half the width, paired", "half the width, unpaired")
    q = lambda p, df: student.ppf(p, df)  # noqa: E731
    gaps, sd = a - b, (a - b).std(ddof=1)
    se, apart = sd / n**0.5, ((a.var(ddof=1) + b.var(ddof=1)) / n) ** 0.5
    one, two = q(0.975, n - 1), q(0.975, 2 * n - 2)
    turned = {"the difference is taken the wrong way round, or its sign is lost": -gaps.mean()}
    expect("the mean", mean, gaps.mean(), looks_like=turned)
    v, w = a.var(ddof=1), b.var(ddof=1)
    mistakes = {
        "paired and unpaired are exchanged": two * apart,
        "the variance is divided by n instead of n - 1": one * se * (1 - 1 / n) ** 0.5,
        "1.96 is for very many seeds": q(0.975, 1e9) * se,
        "the degrees of freedom are n - 1": q(0.975, n) * se,
        "the degrees of freedom are n - 1, not those of two groups": two * se,
        "this is the spread of single seeds: divide by √n": one * sd,
        "this is a standard error: the factor t is missing": se,
        "half of the 5% lie on each side": q(0.95, n - 1) * se,
        "this is the whole width": 2 * one * se,
        "the seeds are not paired here: take the differences first": one * apart,
    }
    expect(f"half the width, paired, {n} seeds", paired, one * se, looks_like=mistakes, tolerance=5e-4)
    mistakes = {
        "paired and unpaired are exchanged": one * se,
        "the variances are divided by n instead of n - 1": two * apart * (1 - 1 / n) ** 0.5,
        "the degrees of freedom are 2n - 2": one * apart,
        "1.96 is for very many seeds": q(0.975, 1e9) * apart,
        "this is the spread of single seeds: divide by √n": two * apart * n**0.5,
        "the standard deviations were added: add the variances": two * (a.std(ddof=1) + b.std(ddof=1)) / n**0.5,
        "this is a standard error: the factor t is missing": apart,
        "this is the whole width": 2 * two * apart,
        "these are Welch's degrees of freedom: 2n - 2 are asked for": q(0.975, (v + w) ** 2 / (v**2 + w**2) * (n - 1))
        * apart,
        "the variances are added, and the sum is divided by n, not by 2n": two * apart / 2**0.5,
    }
    expect(f"half the width, unpaired, {n} seeds", unpaired, two * apart, looks_like=mistakes, tolerance=5e-4)


def _flips(flip, y, share, classes, seeds):
    """The labels by both seeds, a second time, and by one generator twice; whether the global states are as before."""
    seeded = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731
    states = lambda: (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: E731
    before = states()
    noisy = flip(y, share, classes, seeded(seeds[0]))
    after = states()
    same = torch.equal(before[0], after[0]) and repr(before[1:]) == repr(after[1:])
    torch.rand(3)
    again, generator = flip(y, share, classes, seeded(seeds[0])), seeded(seeds[1])
    other, more = flip(y, share, classes, generator), flip(y, share, classes, generator)
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])
    return {"noisy": noisy, "again": again, "other": other, "more": more, "same": same}


@part("Part 5", points=3)
def flip(draw: Draw, flip):
    classes, due, n = draw.whole(4, 7), draw.whole(1800, 3000), 6000
    share, seeds = (due - 0.3) / n, draw.rng.permutation(10_000)[:2].tolist()
    y = torch.from_numpy(draw.rng.permutation(n) % classes)
    seen = probe(_flips, flip, y, share, classes, seeds)
    assert seen["noisy"] is not None, "nothing came back; is there a return?"
    noisy, again, other, more = (torch.as_tensor(seen[name]) for name in ("noisy", "again", "other", "more"))
    assert noisy.shape == y.shape and noisy.dtype == torch.int64, (
        f"labels of shape {tuple(y.shape)} and torch.int64 were expected, {tuple(noisy.shape)} and {noisy.dtype} came."
    )
    assert 0 <= noisy.min() and noisy.max() < classes, "there is a label that is no class."
    wrong = noisy != y
    count = int(wrong.sum())
    near = ""
    if count == due - 1:
        near = " It looks as if share * n was cut off: round it."
    elif abs(count - due * (1 - 1 / classes)) < 90 or count < due * 0.9:
        near = " It looks as if the new class may be the old one, or as if indices are drawn twice."
    elif abs(count - due) < 150:
        near = " It looks as if the number is left to chance."
    assert count == due, f"{due} of {n} labels should be wrong, and {count} are.{near}"
    places = wrong.nonzero().flatten().double()
    gaps = places.diff()  # at random they have the mean 1 / share, and this spread
    spread = abs(places.mean() - n / 2) < 250 and gaps.std() > 0.5 * (1 - share) ** 0.5 / share
    assert spread, "the wrong labels are not spread at random over the data."
    jumps = torch.bincount((noisy - y)[wrong] % classes, minlength=classes)[1:]
    each = due / (classes - 1)
    assert (jumps - each).abs().max() < 6 * each**0.5, (
        f"each of the {classes - 1} other classes should get about {each:.0f} of the wrong labels, and they get "
        f"{jumps.tolist()} (by places on the circle of classes)."
    )
    where = torch.bincount(y[wrong], minlength=classes)
    even = (where - due / classes).abs().max() < 6 * (due / classes) ** 0.5
    assert even, "the wrong labels are not spread evenly over the classes."
    assert torch.equal(again, noisy), "the same seed must give the same labels: take all randomness from `generator`."
    assert not torch.equal(other, noisy), "another seed must give other labels."
    both = int((wrong & (other != y)).sum())
    assert both < (share + 0.1) * due, f"another seed must choose other labels, and {both} of {due} are the same."
    assert not torch.equal(other, more), (
        "one generator gave the same labels twice: draw from the generator itself, not from its seed."
    )
    assert seen["same"], (
        "the global random state (of torch, NumPy or random) was used or changed: take all randomness from `generator`."
    )
    seeded = lambda seed: torch.Generator().manual_seed(seed)  # noqa: E731
    for share, n, count in [(0.0, 50, 0), (1.0, 50, 50), (0.33, 10, 3), (0.5, 2, 1)]:
        y = torch.arange(n) % 2
        got = int((torch.as_tensor(flip(y, share, 2, seeded(3))) != y).sum())
        expect(f"the number of wrong labels for a share of {share} of {n}, two classes", got, count)


@part("Part 6", points=3, rounds=4)
def m_sharpness(draw: Draw, m_sharpness):
    m = draw.whole(2, 4)
    n, rho = m * 2 + draw.whole(1, m - 1), draw.number(0.1, 0.5)
    x, y = draw.normal(n, 3, dtype=DOUBLE), draw.away(n, dtype=DOUBLE)
    params, cubic = {"w": draw.normal(3, dtype=DOUBLE), "b": draw.normal(dtype=DOUBLE)}, draw.number(0.1, 0.5)

    def loss(p, x, y):
        miss = x @ p["w"] + p["b"] - y
        return (miss**2 + cubic * miss**4).mean()

    def rise(climbs_on, seen_by):
        """The rise that the examples `seen_by` see where `climbs_on` have climbed to."""
        here = lambda p: loss(p, x[climbs_on], y[climbs_on])  # noqa: E731
        up = add(params, ascent(grad(here)(params), params, rho))
        return loss(up, x[seen_by], y[seen_by]) - loss(params, x[seen_by], y[seen_by])

    got, one, all_, more = (m_sharpness(loss, params, x, y, size, rho) for size in (m, 1, n, 10 * n))
    everyone, parts = list(range(n)), [list(range(i, min(i + m, n))) for i in range(0, n, m)]
    total = sum(len(b) * rise(b, b) for b in parts)
    full = parts[:-1]
    mistakes = {
        "all batches climbed with one ε, that of all examples": rise(everyone, everyone),
        "all batches climbed with the ε of the first": sum(len(b) * rise(parts[0], b) for b in parts) / n,
        "the rise was taken of the loss of all examples": sum(len(b) * rise(b, everyone) for b in parts) / n,
        "the small last batch counts as much as a full one": sum(rise(b, b) for b in parts) / len(parts),
        "the last batch was left out": sum(rise(b, b) for b in full) / len(full),
        "the last batch was left out of the sum, but not of n": m * sum(rise(b, b) for b in full) / n,
        "the sum over the batches was taken for the mean": sum(rise(b, b) for b in parts),
        "this is the loss at w + ε, not its rise": total / n + loss(params, x, y),
        "the largest rise was taken": max(rise(b, b) for b in parts),
        "m is taken for the number of batches": sum(
            len(b) * rise(b, b) for b in [p.tolist() for p in np.array_split(np.arange(n), m)]
        )
        / n,
    }
    expect(f"the m-sharpness for m = {m}, n = {n}", got, total / n, looks_like=mistakes)
    expect("m = n", all_, rise(everyone, everyone))
    expect("m = 1", one, sum(rise([i], [i]) for i in everyone) / n)
    expect("m larger than n", more, rise(everyone, everyone))
    summits = lambda p, x, y: -(p["w"] - x).square().mean()  # a batch climbs towards its mean  # noqa: E731
    w = {"w": params["w"][:1]}
    x = w["w"] + rho * torch.tensor([[0.1], [0.1], [3.0], [3.0]], dtype=DOUBLE)
    got = m_sharpness(summits, w, x, x[:, 0], 2, rho)
    falls, rises = -0.8 * rho**2, 5 * rho**2
    lost = {
        "a rise below zero was counted as 0: a climb across a summit lowers the loss": rises / 2,
        "the sign of a rise below zero was lost: a climb across a summit lowers the loss": (rises - falls) / 2,
    }
    expect("where a batch climbs across a summit", got, (falls + rises) / 2, looks_like=lost)
