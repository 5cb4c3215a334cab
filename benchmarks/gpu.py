"""Lectures 02 to 06 at the scale of a GPU, and parts of the studies: python benchmarks/gpu.py [NAME ...] [--rehearse]

For each lecture, with LARGE = True: which verdicts differ from the stored ones, its time, the most memory it held, and how
many times as fast as this machine's CPU the same training runs. For the study: one group of it, beside what is recorded
of the same networks. For the study of real images: two of its arms, in float32 and in bfloat16. --rehearse needs no GPU:
it takes the same branch of each lecture in miniature, so that every cell runs with images and deeper networks; its
verdicts mean nothing and are not shown.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import nbformat
import pandas as pd
import torch

from sam_lite import image_network, image_study, measures, study
from sam_lite.data import Data, best_device, mnist1d

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import running  # noqa: E402
from claims_table import claims_of  # noqa: E402

LARGE, IMAGES = {"LARGE = False": "LARGE = True"}, {"n_train=10_000": "n_train=960, n_test=200"}
# lecture -> what the rehearsal writes in place of its large sizes
MINIATURE = {
    "02_keskar": IMAGES | {"[512] * 3": "[24] * 3", "64, 1000, 0.05, 30_000": "16, 80, 0.05, 1000"},
    "03_hoffer": IMAGES | {"[512, 512]": "[24, 24]", "32, 256, 80, 0.03": "16, 128, 4, 0.05"},
    "04_jiang": {"n_train=1000, n_test=10_000": "n_train=200, n_test=400", "(70, 140)": "(16, 24)"},
    "06_sam_results": IMAGES | {"[512, 512]": "[24, 24]", "128, 6000": "32, 300"},
}
# lecture -> the networks whose training is timed, and their batch size: as its cells name them
TIMED = {
    "02_keskar": ("make", "SB"),
    "03_hoffer": ("make", "SB"),
    "04_jiang": ("lambda: mlp(40, (100,) * 3, 10)", "100"),
}
MEASURED = """
import json, time
from sam_lite.ensemble import train_ensemble
def seconds(device, steps=30):
    start = time.perf_counter()
    train_ensemble({make}, data.to(device), seeds=SEEDS, batch_size={size}, lr=0.01, steps=steps, check_every=steps)
    return time.perf_counter() - start
times = {{name: [seconds(name) for _ in range(3)][-1] for name in ("cpu", device)}}
memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
print(json.dumps({{"faster": times["cpu"] / times[device], "gigabytes": memory / 1e9}}))
"""
# One group of the study, and what the rehearsal makes of it
GROUP = dict(width=70, depth=3, batch_size=50, optimizer="momentum", dropout=0.01)
PART = dict(lr_levels=(2,), weight_decays=(0.0,), seeds=(0, 1))
ARMS = ("sgd", "sam_0.05")  # of the study of real images, whose recorded rates and weight decays they have
WORKERS = 8  # processes that train networks of it side by side: one fills a small part of a GPU


def prepared(name: str, rehearse: bool) -> nbformat.NotebookNode:
    """The lecture at its large scale, with a last cell that measures; for a rehearsal in miniature, on any device."""
    notebook = nbformat.read(ROOT / "lectures" / f"{name}.ipynb", as_version=4)
    (scale,) = (cell for cell in notebook.cells if cell.id == "scale")
    for old, new in (LARGE | MINIATURE[name]).items():
        if scale.source.count(old) != 1:
            raise ValueError(f"{name}: the cell `scale` must hold {old!r} once:\n{scale.source}")
        if rehearse or old in LARGE:
            scale.source = scale.source.replace(old, new)
    if rehearse:
        scale.source = re.sub(r"claims\.seeds\(\d+\)", "claims.seeds(2)", scale.source)
    make, size = TIMED.get(name, ("make", "BATCH"))
    notebook.cells.append(nbformat.v4.new_code_cell(MEASURED.format(make=make, size=size)))
    return notebook


def lecture(name: str, rehearse: bool) -> str:
    stored = nbformat.read(ROOT / "lectures" / f"{name}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.ipynb"
        nbformat.write(prepared(name, rehearse), path)
        start = time.perf_counter()
        fresh = running.execute(running.Job(path))
        seconds = time.perf_counter() - start
    measured = json.loads(fresh.cells[-1].outputs[-1].text)
    claims = [[place.claim for place in claims_of(notebook, name)] for notebook in (stored, fresh)]
    changed = [new for old, new in zip(*claims, strict=True) if old.mark != new.mark]
    if rehearse:
        return f"{name}: {len(claims[1])} claims, every cell ran"
    lines = [f"  now {c.mark} {c.claim}: {c.here}, bound {c.bound}, paper {c.paper}" for c in changed]
    head = f"{name}: {len(claims[1]) - len(changed)} of {len(claims[1])} verdicts as stored, {seconds:.0f} s"
    return "\n".join(
        [f"{head}, {measured['gigabytes']:.1f} GB, training {measured['faster']:.1f} times as fast as the CPU", *lines]
    )


def group(rehearse: bool) -> str:
    """Networks of the study made again on this device: how far they are from what is recorded of them."""
    device, part = best_device(), PART if rehearse else {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    data = mnist1d(1000, 10_000, seed=0)
    start = time.perf_counter()
    made = study.group(**GROUP, **part, data=data.to(device))
    seconds = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0
    key = ["lr_level", "weight_decay", "seed"]
    recorded = measures.load_study().merge(pd.DataFrame([GROUP]), on=list(GROUP))
    recorded = made[key].merge(recorded, on=key, validate="one_to_one")
    if rehearse:
        return f"study: {len(recorded)} networks made again"
    start = time.perf_counter()
    study.group(**GROUP, data=data)
    faster = (time.perf_counter() - start) / seconds
    ratios = {name: (made[name] / recorded[name]).median() for name in ("step", "test_acc", "l2", "trace", "flatness")}
    return (
        f"study: {len(made)} networks, {(made['status'] == 'stop_loss').sum()} reach the loss (recorded: "
        f"{(recorded['status'] == 'stop_loss').sum()}), {seconds:.0f} s, {memory:.1f} GB, {faster:.1f} times as fast as "
        f"the CPU; made again over recorded, medians: {', '.join(f'{n} {r:.3f}' for n, r in ratios.items())}"
    )


def recorded(arm: str) -> pd.DataFrame:
    """The rows at the end of the training that the study has of an arm, by seed."""
    return image_study.load().query("norm == 'none' and moment == 'end' and arm == @arm").set_index("seed")


def photograph(arm: str, seed: int, device: torch.device, autocast: bool, rehearse: bool) -> pd.Series:
    """What is measured at the end of one training of the image study; in a rehearsal on few images, for one epoch."""
    everything = image_study.photographs()
    n, n_test = (1024, 200) if rehearse else (image_study.N_TRAIN, 10_000)
    data = Data(*(part[:n] for part in everything[:2]), *(part[:n_test] for part in everything[2:]))
    how = {"data": data.to(device), "epochs": 1 if rehearse else image_study.EPOCHS, "autocast": autocast}
    with patch.object(image_network, "MEASURED", 64 if rehearse else image_network.MEASURED):
        lr, strength = recorded(arm)[["lr", "strength"]].iloc[0]
        table = image_study.network("none", arm, seed, lr, strength, **how)
    return table.query("moment == 'end'").iloc[0]


def photographs(rehearse: bool) -> str:
    """ARMS of the image study on this device, ten seeds: SAM beside SGD, float32 beside bfloat16, and the CPU's time.

    The times are of the first seed, one training after the other; the other seeds train in WORKERS processes.
    """
    device, seeds = best_device(), (0, 1) if rehearse else image_study.SEEDS
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    made = {(arm, half, 0): photograph(arm, 0, device, half, rehearse) for half in (False, True) for arm in ARMS}
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0
    took = {f"{arm}{' in bfloat16' * half}": f"{row['seconds']:.1f} s" for (arm, half, _), row in made.items()}
    cpu = photograph("sgd", 0, torch.device("cpu"), False, rehearse)["seconds"]
    took |= {f"sgd on the CPU ({torch.get_num_threads()} threads)": f"{cpu:.1f} s"}
    if not rehearse:
        print(f"images, one network: {', '.join(map(' '.join, took.items()))}; {memory:.2f} GB", flush=True)
    others = [(arm, half, seed) for arm in ARMS for half in (False, True) for seed in seeds[1:]]
    if rehearse:
        made |= {job: photograph(job[0], job[2], device, job[1], rehearse) for job in others}
    else:
        with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
            jobs = {job: pool.submit(photograph, job[0], job[2], device, job[1], rehearse) for job in others}
            made |= {job: future.result() for job, future in jobs.items()}
    end = pd.DataFrame(made).T.sort_index().rename_axis(["arm", "half", "seed"])
    end = end[["test_acc", "lambda_max"]].astype(float)
    lines = [f"images: {len(ARMS)} arms, seeds {len(seeds)}, in float32 and in bfloat16"]
    if rehearse:
        return lines[0]
    for where, tables in {"here": [end.xs((arm, False)) for arm in ARMS], "recorded": map(recorded, ARMS)}.items():
        sgd, sam = tables
        ratio, gain = sgd["lambda_max"] / sam["lambda_max"], 100 * (sam["test_acc"] - sgd["test_acc"])
        lines += [
            f"  {where}: lambda_max of SGD over SAM {ratio.mean():.2f} ± {2 * ratio.sem():.2f}, SAM's test accuracy "
            f"minus SGD's {gain.mean():.2f} ± {2 * gain.sem():.2f} points, SGD's {100 * sgd['test_acc'].mean():.2f} %"
        ]
    for arm in ARMS:
        moved = 100 * (end.xs((arm, True)) - end.xs((arm, False)))["test_acc"]
        lines += [
            f"  {arm}, bfloat16 minus float32, points of test accuracy: {moved.mean():.2f} ± {2 * moved.sem():.2f}"
        ]
    return "\n".join(lines)


ALONE = {"study": group, "images": photographs}
NAMES = [*MINIATURE, *ALONE]


def run(name: str, rehearse: bool) -> str:
    return ALONE[name](rehearse) if name in ALONE else lecture(name, rehearse)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="default: all of them")
    parser.add_argument("--rehearse", action="store_true", help="the same cells in miniature, on any machine")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("No CUDA device here: nothing measured. --rehearse runs the same cells in miniature.")
        return
    running.TIMEOUT = 3600
    for name in options.names or NAMES:
        print(run(name, options.rehearse), flush=True)


if __name__ == "__main__":
    main()
