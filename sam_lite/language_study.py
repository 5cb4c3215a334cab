"""Does SAM hurt a small transformer, and is it the logits? AdamW, SAM, and SAM along one of its two paths alone.

    python -m sam_lite.language_study      try all settings and make language_study.csv anew, in about 20 minutes on one core

Every method may compute as many gradients, and chooses one of six settings on languages that it is not judged on. Each of
the ten networks (59,000 weights) learns a language of its own and sees every line of text once, as large models do.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sam_lite import require
from sam_lite.language import Grammar, Transformer, grammar, texts
from sam_lite.models import build
from sam_lite.params import Params, params_of, stack
from sam_lite.paths import logit_share, path_gradient

FILE = Path(__file__).with_name("language_study.csv")
SEEDS, TUNING_SEEDS = range(10), (100, 101, 102)
GRADIENTS = 1600  # in all
LINES, LENGTH, N_TEST = 8, 32, 300  # lines in a batch, characters in a line, lines of test
CHECKS = 8  # looks at each network
WARM_UP, DECAY = 0.05, 0.01  # share of the steps in which the rate rises; AdamW's usual decay
PATHS = {"SAM": "both", "functional SAM": "jacobian", "logit SAM": "logits"}
RATES = (0.002, 0.005, 0.012)
RHOS, DECAYS = (0.05, 0.2), (0.01, 0.1)
GRID = {"AdamW": DECAYS, **dict.fromkeys(PATHS, RHOS)}  # method -> its own setting: weight decay, or rho
N_CHARACTERS = 9
make = lambda: Transformer(N_CHARACTERS, LENGTH)  # noqa: E731


@cache
def language(seed: int) -> Grammar:
    """Thirty words over an alphabet of eight letters; after each, four may follow."""
    return grammar(seed, n_words=30, n_letters=N_CHARACTERS - 1, n_next=4)


def text(seeds: Sequence[int], n: int, part: int) -> tuple[Tensor, Tensor]:
    """`n` lines of each seed's language, (n_seeds, n, LENGTH), and minus the log of the true chances; part 0 to learn from."""
    dice = [torch.Generator().manual_seed(2 * require.seed(seed) + part) for seed in seeds]
    drawn = [texts(language(seed), n, LENGTH, one) for seed, one in zip(seeds, dice, strict=True)]
    lines, surprise = zip(*drawn, strict=True)
    return torch.stack(lines), torch.stack(surprise)


def direction(method: str, rho: float) -> Callable[[Params, Tensor], Params]:
    """(params, lines) -> the direction of descent of each network: name -> (n, *shape) and (n, LINES, LENGTH) in."""
    model = build(make, 0)  # whose weights are not used

    def one(params: Params, lines: Tensor) -> Params:
        outputs, criterion = _parts(model, lines)
        if method == "AdamW":
            return grad(lambda p: criterion(outputs(p)))(params)
        return path_gradient(outputs, criterion, params, rho, PATHS[method])

    return vmap(one)


def learn(
    seeds: Sequence[int], method: str, lr: float, setting: float, gradients: int = GRADIENTS, stop: float = 1.0
) -> pd.DataFrame:
    """Train a network for each seed: CHECKS rows for each, in the course of the training.

    Args:
        seeds: of language, text and first weights.
        method: of GRID.
        lr: the highest learning rate; it rises for the first twentieth of the steps, then falls to zero along a cosine.
        setting: AdamW's weight decay, or rho of the other methods.
        gradients: computed in all. A step of AdamW costs one, one of the others two.
        stop: share of the training after which to stop, up to 1, and a look or more.

    Columns: method, lr, setting, budget, seed, gradients (so far), excess (test loss above that of the true chances, nats
    a character), through_logits (`paths.logit_share` on the batch). ValueError for another method, no seeds, and no look.
    """
    seeds = list(seeds)
    if method not in GRID:
        raise ValueError(f"method must be one of {', '.join(GRID)}, got {method!r}")
    cost = 1 if method == "AdamW" else 2
    steps = require.whole("gradients", gradients, least=CHECKS * cost) // cost
    last = round(require.number("stop", stop, most=1) * steps)
    looks = [step for step in range(1, 1 + last) if step * CHECKS % steps < CHECKS]
    if not seeds or not looks:
        raise require.error("seeds and stop", "for one network and one look or more", f"{seeds} and {stop}")
    decay, rho = (setting, 0.0) if method == "AdamW" else (DECAY, setting)
    down, look = direction(method, rho), vmap(partial(_looked, build(make, 0)))
    lines, test = text(seeds, steps * LINES, 0)[0], text(seeds, N_TEST, 1)
    params = stack([params_of(build(make, seed)) for seed in seeds])
    # AdamW treats each weight by itself, so it treats each network by itself
    optimizer = torch.optim.AdamW(params.values(), lr=lr, weight_decay=decay)
    rows = []
    for step in range(1, 1 + last):
        batch = lines[:, (step - 1) * LINES : step * LINES]
        for p, g in zip(params.values(), down(params, batch).values(), strict=True):
            p.grad = g
        optimizer.param_groups[0]["lr"] = lr * rate((step - 1) / steps)
        optimizer.step()
        if step in looks:
            excess, share = look(params, *test, batch)
            row = {"method": method, "lr": lr, "setting": setting, "budget": gradients, "seed": seeds}
            found = {"gradients": cost * step, "excess": excess.tolist(), "through_logits": share.tolist()}
            rows.append(pd.DataFrame(row | found))
    return pd.concat(rows, ignore_index=True)


def rate(t: float) -> float:
    """What multiplies the learning rate, for t from 0 to 1."""
    return min(1.0, (t + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * t)) / 2


def _parts(model: nn.Module, lines: Tensor) -> tuple[Callable[[Params], Tensor], Callable[[Tensor], Tensor]]:
    """The network's logits as a function of its weights, and the loss as one of the logits."""
    outputs = lambda p: functional_call(model, p, (lines,))  # noqa: E731
    return outputs, lambda z: F.cross_entropy(z.flatten(0, 1), lines.flatten())


def _looked(model: nn.Module, params: Params, lines: Tensor, surprise: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """excess and through_logits of one network."""
    outputs, criterion = _parts(model, lines)
    excess = criterion(outputs(params)) - surprise.mean()
    return excess, logit_share(*_parts(model, batch), params)


def chosen(tried: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """method -> (lr, setting) with the least mean excess at the end, over the seeds with which all settings were tried."""
    end = tried[tried["gradients"] == tried["budget"]]
    mean = end.groupby(["method", "lr", "setting"])["excess"].mean().fillna(math.inf)
    return {method: mean[method].idxmin() for method in GRID}


def tuning() -> pd.DataFrame:
    """`learn` with every setting of every method, on languages that are not judged on."""
    return pd.concat(
        [learn(TUNING_SEEDS, m, lr, own) for m, settings in GRID.items() for lr in RATES for own in settings]
    )


def final(settings: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """`learn` with the settings chosen; AdamW also with half the gradients, which are SAM's number of steps."""
    runs = [learn(SEEDS, method, *setting) for method, setting in settings.items()]
    return pd.concat([*runs, learn(SEEDS, "AdamW", *settings["AdamW"], gradients=GRADIENTS // 2)])


def recorded() -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `main` wrote: all that was tried, and the ten networks of each method."""
    table = pd.read_csv(FILE)
    tried = table["seed"].isin(TUNING_SEEDS)
    return table[tried].reset_index(drop=True), table[~tried].reset_index(drop=True)


def main() -> None:
    argparse.ArgumentParser(prog="python -m sam_lite.language_study", description=__doc__).parse_args()
    tried = tuning()
    pd.concat([tried, final(chosen(tried))]).to_csv(FILE, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
