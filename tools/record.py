"""Run notebooks from fresh kernels and write down what they said: the only writer of notebook outputs.

    python tools/record.py [NOTEBOOKS]      record them (default: every lecture and control) and gather CLAIMS.md
    python tools/record.py --run            run them and write pages to read; what differs from the record is told
    python tools/record.py --check          run them and compare with the record; another verdict or word is an error
    python tools/record.py --seed-sets 3    run them with three disjoint sets of seeds and compare the verdicts
    python tools/record.py --machines       run them under other arithmetics of this processor and compare the verdicts

Several notebooks run side by side (--jobs). Recording twice on one machine gives the same bytes: no times, no addresses,
no widget state, no picture metadata. A notebook that raises, warns or writes to stderr is not recorded, nor is one with
a verdict that is not settled (`sam_lite.claims`).
"""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import pages
from claims_table import Place, claims_of, counted, gather, open_verdicts
from notebooks import ROOT, NotebookError, controls, differences, dumps, lectures, problems, write
from running import Done, Job, line_writer, run
from sam_lite.claims import HALF_WIDTHS, SEED_SET

MACHINES = {  # what makes PyTorch, MKL, oneDNN and OpenBLAS round as on another processor
    "as it is": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "without AVX": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "two threads": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
}


# ---------------------------------------------------------------- the things to do


def record(paths: Sequence[Path], jobs: int | None = None) -> bool:
    """Run the notebooks, write their outputs back, and bring CLAIMS.md up to date in each folder of lectures."""
    good, before = True, {path: path.read_bytes() for path in paths}
    for done in _run([Job(path) for path in paths], jobs):
        path = done.job.path
        if done.notebook and not (path.is_file() and path.read_bytes() == before[path]):
            print(f"{path.name}: it was changed while it ran, and is left as it is now; record it again")
            good = False
            continue
        refused = open_verdicts(claims_of(done.notebook, done.job.path.name)) if done.notebook else []
        for reason in refused:
            print(f"{path.name}: this verdict is not settled, declare it open=True or measure more: {reason}")
        good = good and done.notebook is not None and not refused
        if done.notebook is not None and not refused:
            write(path, dumps(done.notebook))
    for folder in sorted(
        {parent for path in paths for parent in path.resolve().parents[:2] if parent.name == "lectures"}
    ):
        write(folder / "CLAIMS.md", gather(folder))
    return good


def check(paths: Sequence[Path], jobs: int | None = None) -> bool:
    """Run the notebooks and print what differs from what is stored."""
    good, changed, before = True, [], {path: nbformat.read(path, as_version=4) for path in paths}
    for done in _run([Job(path) for path in paths], jobs):
        good = good and done.notebook is not None
        if done.notebook is not None:
            stored = before[done.job.path]
            changed += [f"{done.job.path.name}: {x}" for x in problems(stored) + differences(stored, done.notebook)]
    if changed:
        print("\nCHANGED against the recorded notebooks:\n" + "\n".join(changed))
    elif good:
        print("Every verdict and every word is as recorded.")
    return good and not changed


def read(paths: Sequence[Path], site: Path, jobs: int | None = None) -> bool:
    """Run the notebooks for a reader: pages of what they say here; false only where a cell fails."""
    stored = {path: nbformat.read(path, as_version=4) for path in paths}
    results, failed, other, count = dict(stored), [], [], 0
    _, exercises, controls = pages.committed()
    build = partial(pages.build, folder=site, exercises=exercises, controls=controls)
    index = build(list(results.items()))
    print(f"Running {len(paths)} notebooks. Pages to read, as recorded, until they have run: {index.resolve()}")
    try:
        for done in _run([Job(path) for path in paths], jobs, quiet=True):
            path, count = done.job.path, count + 1
            if done.notebook is None:
                failed.append(done)
                print(f"[{count}/{len(paths)}] {path.name} FAILED after {done.seconds:.0f} s\n{done.error}", flush=True)
                continue
            results[path] = done.notebook
            other += _told(stored[path], done.notebook, path.name)
            address = build(list(results.items()), only=path).resolve()
            said = counted(claims_of(done.notebook, path.name))
            print(f"[{count}/{len(paths)}] {path.name} {done.seconds:.0f} s: {said}. Read it: {address}", flush=True)
    finally:
        build(list(results.items()))
    for line in other:
        print(line)
    if other:
        print(
            "Another processor rounds otherwise, and training makes another sample of that: a verdict may differ now and"
            " then, and nothing is broken. The pages say what came out here."
        )
    elif not failed:
        print("Every verdict and every word is as recorded.")
    print(f"Pages to read: {index.resolve()}")
    for done in failed:
        print(f"FAILED: {done.job.path.name}, in the cell shown above; its page is as recorded.")
    return not failed


def compare(paths: Sequence[Path], sets: Sequence[int], machines: Sequence[str], jobs: int | None = None) -> bool:
    """Run each notebook with each set of seeds on each machine, and say which verdicts moved."""
    ways = [(s, m) for m in machines for s in sets]
    todo = [Job(path, MACHINES[m] | {SEED_SET: str(s)}, f"seeds {s}, {m}") for path in paths for s, m in ways]
    runs: dict[Path, list[Done]] = {path: [] for path in paths}
    good = True
    for done in _run(todo, jobs):
        runs[done.job.path].append(done)
    for path, several in runs.items():
        several.sort(key=lambda done: todo.index(done.job))
        ran = [done.notebook for done in several if done.notebook is not None]
        if len(ran) < len(several):
            good = False
            continue
        places = [claims_of(notebook, path.name) for notebook in ran]
        lines = moved(places)
        for line in lines:
            print(f"  MOVED {line}")
        good = good and not lines
        print(f"{path.name}: {len(places[0])} claims, {len(lines)} that moved in {len(ways)} runs")
    return good


# ---------------------------------------------------------------- what is said of the results


def moved(runs: Sequence[Sequence[Place]]) -> list[str]:
    """The verdicts that are not the same in all runs, with their distance from the bound; runs that are no other runs."""
    found = []
    if len({tuple(place.claim.claim for place in run) for run in runs}) > 1:
        return [f"the claims themselves: {[len(run) for run in runs]} of them, or other words"]
    by_claim = [[place.claim for place in same] for same in zip(*runs, strict=True)]
    for same in by_claim:
        if len({claim.mark for claim in same}) > 1:
            first, marks = same[0], " ".join(claim.mark for claim in same)
            need = math.ceil(first.n * (HALF_WIDTHS / max(min(c.margin for c in same), 0.1)) ** 2)
            found.append(
                f"{marks} {first.claim!r}: {first.here}, bound {first.bound}; half-widths from it "
                f"{', '.join(f'{c.margin:.1f}' for c in same)}"
                + (f"; some {need} seeds would settle it" if need else "")
            )
    random = [same for same in by_claim if same[0].n]
    if len(runs) > 1 and random and all(len({claim.here for claim in same}) == 1 for same in random):
        found.append("nothing, not even a figure: the notebook does not take its seeds from claims.seeds()")
    return found


def _told(stored: NotebookNode, fresh: NotebookNode, name: str) -> list[str]:
    """What differs here from the record, for a reader: each verdict in a line of its own."""
    before = {place.claim.claim: place.claim for place in claims_of(stored, name)}
    lines = []
    for claim in (place.claim for place in claims_of(fresh, name)):
        was = before.get(claim.claim)
        if was and was.mark != claim.mark:
            lines.append(
                f"{name}: {claim.mark} here, {was.mark} as recorded: {claim.claim!r} ({claim.here}, bound {claim.bound})."
            )
    if not lines and differences(stored, fresh):
        lines = [f"{name}: some words differ from the record (python tools/record.py --check {name} shows them)."]
    return lines


def _run(todo: Sequence[Job], jobs: int | None, quiet: bool = False):
    """`run`, with a line for each notebook that is done."""
    line, count = line_writer(), 0
    for done in run(todo, jobs, line):
        count += 1
        if line:
            line("")
        if not quiet:
            label = f", {done.job.label}" if done.job.label else ""
            ended = "FAILED" if done.notebook is None else f"{done.seconds:.0f} s"
            print(f"[{count}/{len(todo)}] {done.job.path.name}{label} ... {ended}", flush=True)
            if done.error:
                print(done.error, flush=True)
        yield done


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="default: lectures/*.ipynb and lectures/controls/*.ipynb"
    )
    parser.add_argument("--run", action="store_true", help="run the lectures and write pages to read")
    parser.add_argument("--site", type=Path, metavar="FOLDER", help="with --run: where to (default: _site)")
    parser.add_argument("--check", action="store_true", help="run and compare; write nothing")
    parser.add_argument("--seed-sets", type=int, metavar="N", help="run with N disjoint sets of seeds; write nothing")
    parser.add_argument("--first-set", type=int, metavar="K", help="with --seed-sets: sets K to K + N - 1 (default: 0)")
    parser.add_argument("--machines", action="store_true", help="run under other arithmetics; write nothing")
    parser.add_argument("--jobs", type=int, metavar="N", help="notebooks side by side (default: one for each core)")
    options = parser.parse_args(arguments)
    several = options.seed_sets is not None or options.machines
    if options.seed_sets is not None and options.seed_sets < (1 if options.machines else 2):
        parser.error(f"--seed-sets must be >= 2 to compare anything, got {options.seed_sets}")
    if options.first_set is not None and (options.first_set < 0 or not several):
        parser.error(f"--first-set must be >= 0, beside --seed-sets or --machines, got {options.first_set}")
    if options.site and not options.run:
        parser.error(f"--site must stand beside --run, got {options.site} alone")
    if options.site and options.site.exists() and not options.site.is_dir():
        parser.error(f"--site must be a folder, or nothing yet, got {options.site}")
    if options.run + options.check + several > 1:
        parser.error(
            "--run, --check and --seed-sets or --machines must not stand together: they are three things to do"
        )
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"--jobs must be >= 1, got {options.jobs}")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    paths = list(dict.fromkeys(options.notebooks)) or lectures() + ([] if options.run else controls())
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        parser.error(f"no such notebook: {', '.join(missing) or 'lectures/*.ipynb'}")
    for path in paths:
        try:
            nbformat.read(path, as_version=4)
        except Exception as error:  # whatever a damaged file makes nbformat raise
            parser.error(f"{path} is no notebook that can be read: {type(error).__name__}: {str(error)[:200]}")
    try:
        if several:
            sets = [(options.first_set or 0) + i for i in range(options.seed_sets or 1)]
            good = compare(paths, sets, list(MACHINES) if options.machines else ["as it is"], options.jobs)
        elif options.run:
            good = read(paths, options.site or ROOT / "_site", options.jobs)
        else:
            good = (check if options.check else record)(paths, options.jobs)
    except KeyboardInterrupt:
        print("\nStopped. No kernel is left, and what is done can be read.")
        return 130
    except NotebookError as error:
        print(error)
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the kernels as Ctrl-C does
    sys.exit(main())
