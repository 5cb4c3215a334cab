"""The cells that only a GPU reaches: the larger branch of each lecture that has one, in miniature on any machine."""

import importlib.util
from pathlib import Path

import nbformat
import pytest
from test_imports import made_by

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)


def test_a_gpu_is_used_only_where_a_lecture_is_told_to_and_this_is_rehearsed():
    asking = set()
    for path in (p for folder in ("lectures", "exercises", "solutions") for p in (ROOT / folder).rglob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and ("best_device()" in cell.source or "cuda" in cell.source):
                assert cell.source.startswith("LARGE = False  # True, with a GPU"), path
                assert cell.source.count("if LARGE:\n    device = best_device()\n") == 1, path
                asking.add(path.stem)
    assert asking == set(gpu.MINIATURE)


def lectures():
    """One worker each, and only when the lecture or what it stands on has changed: nbval runs the same cells on a CPU."""
    for name in gpu.MINIATURE:
        decides = [f"lectures/{name}.ipynb", "benchmarks/gpu.py", "sam_lite", "constraints.txt"]
        yield pytest.param(name, marks=[pytest.mark.xdist_group(f"gpu_{name}"), pytest.mark.when_changed(*decides)])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(lectures()))
def test_every_cell_runs_in_the_branch_of_a_gpu(name, fashion):
    stored = nbformat.read(ROOT / "lectures" / f"{name}.ipynb", as_version=4)
    n = len(gpu.claims_of(stored, name))
    assert gpu.run(name, rehearse=True) == f"{name}: {n} claims, every cell ran"


@pytest.mark.slow
def test_a_group_of_the_study_finds_its_recorded_networks():
    assert gpu.run("study", rehearse=True) == "study: 2 networks made again"


@pytest.mark.slow
@pytest.mark.when_changed("benchmarks/gpu.py", *made_by("image_study"))
def test_two_arms_of_the_image_study_run(fashion):
    assert gpu.run("images", rehearse=True) == "images: 2 arms, seeds 2, in float32 and in bfloat16"


def test_a_changed_scale_cell_is_named(monkeypatch):
    monkeypatch.setitem(gpu.MINIATURE, "06_sam_results", {"[512, 513]": ""})
    with pytest.raises(ValueError, match=r"06_sam_results: the cell `scale` must hold '\[512, 513\]' once"):
        gpu.prepared("06_sam_results", rehearse=True)
