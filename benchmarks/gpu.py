"""Lectures 02, 03, 05 and 06 at the scale of a GPU, on Fashion-MNIST: python benchmarks/gpu.py [--rehearse]

For each lecture: which verdicts differ from the stored ones, its time, the most memory it held, and how many times as
fast as this machine's CPU the same training runs. --rehearse needs no GPU: it takes the same branch of each lecture in
miniature, so that every cell runs with images and deeper networks; its verdicts mean nothing and are not shown.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import record  # noqa: E402

ON_A_GPU = 'if device.type == "cuda":'
# lecture -> what the rehearsal writes in place of the sizes of its GPU branch
MINIATURE = {
    "02_keskar": {"[512] * 3": "[24] * 3", "64, 1000, 0.05, 30_000": "16, 160, 0.05, 1500"},
    "03_hoffer": {"[512, 512]": "[24, 24]", "32, 512, 60, 0.002": "16, 128, 4, 0.002"},
    "05_sam": {"[512, 512]": "[24, 24]", "256, 300": "32, 100"},
    "06_sam_results": {"[512, 512]": "[24, 24]", "128, 16_000": "32, 1000"},
}
IMAGES = "n_train=10_000"
MEASURED = """
import json, time
from sam_lite.ensemble import train_ensemble
def seconds(device, steps=30):
    start = time.perf_counter()
    train_ensemble(make, data.to(device), seeds=SEEDS, batch_size={size}, lr=0.01, steps=steps, check_every=steps)
    return time.perf_counter() - start
times = {{name: [seconds(name) for _ in range(3)][-1] for name in ("cpu", device)}}
memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
print(json.dumps({{"faster": times["cpu"] / times[device], "gigabytes": memory / 1e9}}))
"""


def prepared(name: str, rehearse: bool) -> nbformat.NotebookNode:
    """The lecture, with a last cell that measures; for a rehearsal its GPU branch in miniature, on any device."""
    notebook = nbformat.read(ROOT / "lectures" / f"{name}.ipynb", as_version=4)
    (scale,) = (cell for cell in notebook.cells if cell.id == "scale")
    changes = {ON_A_GPU: "if True:", IMAGES: "n_train=1600, n_test=400"} | MINIATURE[name]
    for old, new in changes.items():
        if scale.source.count(old) != 1:
            raise ValueError(f"{name}: the cell `scale` must hold {old!r} once:\n{scale.source}")
        if rehearse:
            scale.source = scale.source.replace(old, new)
    size = "SB" if "SB" in scale.source else "BATCH"
    notebook.cells.append(nbformat.v4.new_code_cell(MEASURED.format(size=size)))
    return notebook


def run(name: str, rehearse: bool) -> str:
    stored = nbformat.read(ROOT / "lectures" / f"{name}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.ipynb"
        nbformat.write(prepared(name, rehearse), path)
        start = time.perf_counter()
        fresh = record.execute(path)
        seconds = time.perf_counter() - start
    measured = json.loads(fresh.cells[-1].outputs[-1].text)
    claims = [record.claims_of(notebook, name) for notebook in (stored, fresh)]
    changed = [new for old, new in zip(*claims, strict=True) if old.mark != new.mark]
    if rehearse:
        return f"{name}: {len(claims[1])} claims, every cell ran"
    lines = [f"  now {c.mark} {c.claim} | paper: {c.paper} | ours {c.ours}" for c in changed]
    head = f"{name}: {len(claims[1]) - len(changed)} of {len(claims[1])} verdicts as stored, {seconds:.0f} s"
    return "\n".join(
        [f"{head}, {measured['gigabytes']:.1f} GB, training {measured['faster']:.1f} times as fast as the CPU", *lines]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lectures", nargs="*", choices=[*MINIATURE, []], help="default: all four")
    parser.add_argument("--rehearse", action="store_true", help="the same cells in miniature, on any machine")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("No CUDA device here: nothing measured. --rehearse runs the same cells in miniature.")
        return
    record.TIMEOUT = 3600
    for name in options.lectures or MINIATURE:
        print(run(name, options.rehearse), flush=True)


if __name__ == "__main__":
    main()
