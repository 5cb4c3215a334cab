"""The contest on photographs: SAM and its rivals, convnets on Fashion-MNIST, tuned on grids of one size, gradients counted.

`python -m sam_lite.contest_images FOLDER` tries all settings and trains ten networks of each rival, or goes on with that,
in about forty minutes on one core, and ends in FOLDER/contest_images.csv; the package ships that record. Images, network,
batches and the number of steps are those of `image_study`; the rivals and their loop are those of `contest`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sam_lite import contest, require, rivals, stacked, sweep
from sam_lite.image_network import SMALL, one_of
from sam_lite.image_study import EPOCHS, N_TRAIN, SEEDS, TUNING_SEEDS, photographs, split
from sam_lite.models import build, convnet
from sam_lite.params import Params, params_of, stack

VERSION = "1"  # of what a job computes; results of another are refused
FILE = Path(__file__).with_name("contest_images.csv")
STEPS = EPOCHS * N_TRAIN // SMALL
EARLY = 40  # steps, after which a training is looked at for the first time
PARTS = {"tuning": TUNING_SEEDS, "final": SEEDS, "opponent": SEEDS}
# The grid was fixed before any result was seen. The study of images tunes SGD with momentum 0.9, which multiplies a rate by
# ten in the long run: its two upper rates, 0.01 and 0.03, are 0.1 and 0.3 here, where there is no momentum. A trial with a
# seed of its own, 200, went well with both.
RATES = (0.1, 0.3)
DECAYS, RHOS = (1e-3, 3e-3), (0.05, 0.1)  # the study's two upper weight decays; the rho of Foret et al. and the study's
GRID: dict[str, tuple[float, float]] = contest.OWN | {  # the others as in `contest`: they do not measure weights
    **dict.fromkeys(("SGD", "SGD, twice the steps", "SGD, falling rate"), DECAYS),
    **dict.fromkeys(("SAM", "gradient penalty", "SAM, last tenth"), RHOS),
    "SAM, every 5th step": (0.1, 0.2),  # a rare climb may be longer, as in `contest`
    "AWP": (0.01, 0.02),  # at the start of this network a climb of length 0.05 and 0.09
    "random perturbation": (0.3, 1.0),  # three times and more the length of SAM's, as in `contest`
}


def field(seeds: Sequence[int], part: str) -> contest.Field:
    """Fashion-MNIST for networks that `seeds` begin: the training images of `image_study.split`, the same for each.

    part: "tuning", with held-out training images in the place of the test images; any other, with the test images.
    FileNotFoundError where the images are not; ValueError for another part and for bad seeds.
    """
    data = split(held_out=one_of("part", part, PARTS) == "tuning")
    x, y, x_test, y_test = (one.expand(len(seeds), *one.shape) for one in data)  # the same memory for all
    start = stack([params_of(build(convnet, seed)) for seed in seeds])
    return contest.Field(build(convnet, 0), start, x, y, x_test, y_test, seeds[0])


def trained(rival: str, lr: float, setting: float, part: str, *, steps: int = STEPS) -> pd.DataFrame:
    """A network of a rival for each seed of a part, all side by side: a row each.

    Args:
        rival: a key of GRID.
        lr: learning rate.
        setting: the rival's own, one of GRID[rival].
        part: "tuning": TUNING_SEEDS, judged on held-out training images; "final", or "opponent" for settings that were not
            chosen: SEEDS, judged on the test images.
        steps: of all but SGD with twice as many; EARLY at least.

    Columns: seed; gradients (that the network computed); accuracy (percent) and overconfidence (mean confidence less
    accuracy, points) on the images of the part; train_loss and early_loss (nats over all training images, at the end and
    after EARLY steps). ValueError for other words and numbers.
    """
    steps = require.whole("steps", steps, least=EARLY)
    if setting not in GRID[one_of("rival", rival, GRID)]:
        raise require.error("setting", f"one of {GRID[rival]} for {rival}", setting)
    here, given = field(PARTS[one_of("part", part, PARTS)], part), contest.roster(steps, GRID)[rival][setting]
    early: Params = {}

    def after(fast: Params, slow: Params, step: int) -> tuple[Params, Params]:
        fast, slow = given.get("after", rivals.newest)(fast, slow, step)
        if step == EARLY:
            early.update(slow)
        return fast, slow

    end = contest.run(here, lr, **{"batch_size": SMALL, "steps": steps} | given | {"after": after})
    accuracy, overconfidence = contest.judge(here, end.params)
    late_loss, early_loss = (
        stacked.evaluate(stacked.forward(here.model), params, here.x[0], here.y[0])[0] for params in (end.params, early)
    )
    found = {"accuracy": accuracy, "overconfidence": overconfidence, "train_loss": late_loss, "early_loss": early_loss}
    seeds = {"seed": PARTS[part], "gradients": end.gradients}
    return pd.DataFrame(seeds | {name: values.tolist() for name, values in found.items()})


def chosen(tried: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """rival -> (lr, setting): the best mean accuracy in a table of `trained`, over the seeds of the tuning."""
    best = tried.groupby(["rival", "lr", "setting"])["accuracy"].mean().groupby("rival").idxmax()
    return {rival: best[rival][1:] for rival in GRID}


def tuning_jobs() -> list[sweep.tables.Job]:
    """All of RATES and GRID."""
    settings = [(rival, lr, setting) for rival, own in GRID.items() for lr in RATES for setting in own]
    return [{"rival": rival, "lr": lr, "setting": setting, "part": "tuning"} for rival, lr, setting in settings]


def jobs(settings: dict[str, tuple[float, float]]) -> list[sweep.tables.Job]:
    """Every rival, with what was chosen for it."""
    return [{"rival": rival, "lr": lr, "setting": own, "part": "final"} for rival, (lr, own) in settings.items()]


def opponent_jobs(settings: dict[str, tuple[float, float]]) -> list[sweep.tables.Job]:
    """SGD, against which all are measured, with what was not chosen for it: what if the choice was bad luck?"""
    others = [job for job in tuning_jobs() if job["rival"] == "SGD" and (job["lr"], job["setting"]) != settings["SGD"]]
    return [job | {"part": "opponent"} for job in others]


def recorded() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What `main` wrote, as `trained` has it: all that was tried, ten networks of each rival, and of each other SGD."""
    table = pd.read_csv(FILE)
    tried, final, others = (table[table["part"] == part].reset_index(drop=True) for part in PARTS)
    return tried, final, others


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sam_lite.contest_images", description=__doc__)
    parser.add_argument("folder", type=Path, help="for the results; when it holds some, the contest goes on from there")
    folder = parser.parse_args().folder
    photographs()  # one error now, where the images are missing, and not one for each job
    from tqdm import tqdm

    tried = sweep.run(trained, tuning_jobs(), folder / "tuning", version=VERSION, progress=tqdm)
    best = chosen(tried)
    final = sweep.run(trained, jobs(best), folder / "final", version=VERSION, progress=tqdm)
    others = sweep.run(trained, opponent_jobs(best), folder / "opponent", version=VERSION, progress=tqdm)
    pd.concat([tried, final, others]).to_csv(folder / FILE.name, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
