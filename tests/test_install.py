"""From nothing to a running course: make's route and conda's, and every command that the README and the pages of `docs` show."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import CODE, missing
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.specifiers import SpecifierSet

import browser
import notebooks
import record
import sam_lite
from due import ALL, due
from sam_lite.images import DEBIAN

ROOT = Path(__file__).parent.parent
NEEDED = ["Makefile", "README.md", "LICENSE", "LICENSE-text", "pyproject.toml", "constraints.txt", "environment.yml"]
ROUTES = ["Makefile", "tools/venv.sh", "pyproject.toml", "constraints.txt", "environment.yml"]
GRADING = "python tools/exercises.py grade submissions"  # executed in test_exercises.py
LAB = browser.QUIET
CLAIM = """from sam_lite import claims

claims.show(claims.check("sam_lite is here", [4.1, 4.2] * 5, above=1, paper="8.7"))"""

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what its own make, pytest and virtual environment put there.

    pip leaves compiling to the first import ("0" says so): most of what is installed here is never imported."""
    own = ("MAKE", "MFLAGS", "PYTEST", "VIRTUAL_ENV", "PYTHONPATH", "COV")
    return {k: v for k, v in os.environ.items() if not k.startswith(own)} | {"PIP_NO_COMPILE": "0"} | more


def sh(folder: Path, *command: str | Path, timeout: float = 580, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=timeout)


def copy_of_the_course(folder: Path) -> Path:
    """What the two routes need, with one small lecture, one small test and one small benchmark instead of all."""
    folder.mkdir(parents=True)
    for name in NEEDED:
        shutil.copy(ROOT / name, folder)
    for name in ("sam_lite", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("lectures", "solutions", "tests", "benchmarks"):
        (folder / name).mkdir()
    (folder / "tests" / "test_one.py").write_text("def test_one():\n    assert True\n")
    (folder / "benchmarks" / "one.py").write_text('print("one ratio")\n')
    cells = [new_markdown_cell("# One\n\nWith $x^2$.", id="m"), new_code_cell(CLAIM, id="c")]
    (folder / "lectures" / "decks.toml").write_text('one = [{ cells = ["m"], says = ["With"] }, { cells = ["c"] }]\n')
    path = folder / "lectures" / "one.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    assert record.main([str(path)]) == 0
    return folder


def served(folder: Path, *command: str | Path, **more: str) -> tuple[list[str], dict]:
    """Start JupyterLab by `command`; return the files it shows and its kernels; stop it."""
    with browser.server(command, folder, environment(**more)) as address:

        def get(what: str) -> dict:
            request = urllib.request.Request(address + what, headers={"Authorization": "token t"})
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.load(reply)

        return [entry["name"] for entry in get("api/contents")["content"]], get("api/kernelspecs")


# ---- make


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy in a folder whose name has a space and an umlaut."""
    return copy_of_the_course(tmp_path_factory.mktemp("make") / "Kurs Zürich")


def borrow(course: Path) -> None:
    """In place of .venv one that runs this Python, as if `make` had installed all in it."""
    shutil.rmtree(course / ".venv")
    python = course / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    versions = (course / "constraints.txt").read_bytes() + (course / "pyproject.toml").read_bytes()
    sums = subprocess.run(["cksum"], input=versions, capture_output=True, check=True).stdout.decode().strip()
    (course / ".venv" / "ready-all").write_text(f"{sums} {course}")


def make(course: Path, *arguments: str) -> str:
    done = sh(course, "make", f"PYTHON={sys.executable}", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lectures(course):
    said = make(course, "lectures")
    assert "Building .venv" in said and "1 ✓. Read it: " in said and "as recorded" in said
    assert str(course / "_site" / "index.html") in said
    assert "<math" in (course / "_site" / "one.html").read_text(encoding="utf-8")
    stamp = (course / ".venv" / "ready-course").stat().st_mtime_ns
    again = make(course, "lectures")
    assert "Building" not in again and "Installing" not in again and "as recorded" in again
    assert (course / ".venv" / "ready-course").stat().st_mtime_ns == stamp


def lab(course):
    shown, kernels = served(course, "make", "lab", f"PYTHON={sys.executable}", f"LAB={LAB}")
    assert "one.ipynb" in shown
    assert kernels["default"] == "python3"
    done = sh(course, course / ".venv" / "bin" / "python", "-m", "jupyter", "kernelspec", "list", "--json")
    assert str(course / ".venv") in json.loads(done.stdout)["kernelspecs"]["python3"]["resource_dir"]


def site(course):
    (course / "_site" / "one.html").unlink()
    assert str(course / "_site" / "index.html") in make(course, "site")
    assert "<math" in (course / "_site" / "one.html").read_text(encoding="utf-8")


def slides(course):
    assert str(course / "_slides" / "index.html") in make(course, "slides")
    assert (course / "_slides" / "one.html").read_text(encoding="utf-8").count("<section>") == 2
    assert (course / "_slides" / "one.pdf").is_file() == (browser.CHROMIUM is not None)


def run_tests(course):
    """Where the routes have not changed, with what is installed here: two minutes less."""
    if not due(*ROUTES):
        borrow(course)
    said = make(course, "test")
    assert ("Installing" in said) == due(*ROUTES) and said.count("1 passed") == 2
    path = course / "lectures" / "one.ipynb"
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace("| ✓ | sam", "| ✗ | sam"), encoding="utf-8")
    done = sh(course, "make", "test", f"PYTHON={sys.executable}")
    path.write_text(good, encoding="utf-8")
    assert done.returncode != 0 and "Cell outputs differ" in done.stdout


def check(course):
    assert "1 passed" in make(course, "check")


def bench(course):
    assert "one ratio" in make(course, "bench")


def recorded(course):
    before = (course / "lectures" / "one.ipynb").read_bytes()
    assert "one.ipynb" in make(course, "record")
    assert (course / "lectures" / "one.ipynb").read_bytes() == before


def study(course):
    """The real command on a grid of one group, in two processes."""
    path = course / "sam_lite" / "study.py"
    small = "\nAXES = dict(width=(8,), depth=(2,), batch_size=(100,), optimizer=('sgd',), dropout=(0.0,))\n"
    small += "STEPS, SEEDS = 50, (0,)\n"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("\n\n\ndef group(", small + "\n\ndef group(", 1), encoding="utf-8")
    assert "steps    9" in make(course, "study")
    path.write_text(whole, encoding="utf-8")
    assert (course / "results" / "study" / "study.parquet").stat().st_size > 0


def images(course):
    """The real command on a part of the real images, of two arms, in two processes."""
    if not DEBIAN["fashion_mnist"].is_dir():
        missing("needs Fashion-MNIST: apt-get install dataset-fashion-mnist")
    path = course / "sam_lite" / "image_study.py"
    small = """
N_TRAIN, N_HELD_OUT, EPOCHS, SEEDS, TUNING_SEEDS = 1024, 100, 1, (0,), (100,)
image_network.MEASURED = 64
NORMS, ARMS = {"batch": "batch"}, {name: ARMS[name] for name in ("sgd", "sam_0.05")}
GRID = {"sgd": ((0.01,), (0.0,)), "sam": ((0.01,), (0.05,))}
"""
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("\n\n\n@functools.cache", small + "\n\n@functools.cache", 1), encoding="utf-8")
    assert re.search(r"end +2\n", make(course, "images"))
    path.write_text(whole, encoding="utf-8")
    assert (course / "results" / "images" / "image_study.parquet").stat().st_size > 0


def clean(course):
    make(course, "clean")
    assert not (course / ".venv").exists() and not (course / "_site").exists()


def bare(course):
    said = make(course)
    targets = re.findall(r"^make (\w+)", said, re.MULTILINE)
    assert " ".join(targets) == "lectures lab site slides test check bench study images record clean"


MAKE = {  # in this order, in one folder, from nothing
    "make": bare,
    "make lectures": lectures,
    "make lab": lab,
    "make site": site,
    "make test": run_tests,
    "make slides": slides,
    "make check": check,
    "make bench": bench,
    "make study": study,
    "make images": images,
    "make record": recorded,
    "make clean": clean,
}


NIGHTLY = {"make test", "make study", "make images", "make slides"}  # the first is what CI itself does


@pytest.mark.slow
@pytest.mark.when_changed(*CODE, "README.md")
@needs_make
@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=[pytest.mark.nightly] * (name in NIGHTLY)) for name in MAKE]
)
def test_make_from_nothing(command, course):
    MAKE[command](course)


# ---- conda


CONDA = ["conda env create -f environment.yml", "conda activate sam-course", "jupyter lab lectures"]
IN_CONDA = "python tools/record.py --run --site _site"


def test_conda_is_told_to_install_what_make_installs():
    spec = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, section = spec["dependencies"]
    assert (spec["name"], python, pip) == ("sam-course", "python=3.11", "pip")
    assert spec["variables"] == {"GOMP_SPINCOUNT": "1000"}
    (line,) = (line for line in (ROOT / "tools" / "venv.sh").read_text().splitlines() if " -m pip install " in line)
    assert line.replace("$extras", "course").replace('"', "").endswith(" ".join(section["pip"]))


@pytest.mark.slow
@pytest.mark.when_changed(*ROUTES)
def test_conda_from_nothing(tmp_path):
    """A new environment filled as conda fills it: pip installs the pip section, as a file beside environment.yml."""
    course = copy_of_the_course(tmp_path / "conda")
    *_, section = yaml.safe_load((course / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (course / "condaenv.requirements.txt").write_text("\n".join(section["pip"]) + "\n")
    assert sh(course, sys.executable, "-m", "venv", tmp_path / "env").returncode == 0
    inside = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    done = sh(course, inside / "python", "-m", "pip", "install", "-q", "-U", "-r", "condaenv.requirements.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    done = sh(course, inside / "python", "-m", "pip", "check")
    assert done.returncode == 0, done.stdout
    done = sh(course, inside / "python", *IN_CONDA.split()[1:])
    assert done.returncode == 0 and "as recorded" in done.stdout, done.stdout + done.stderr
    shown, kernels = served(course, inside / "jupyter", *CONDA[2].split()[1:], *LAB.split())
    assert "one.ipynb" in shown and kernels["default"] == "python3"


@pytest.mark.slow
@pytest.mark.when_changed(*CODE, "lectures/00_start_here.ipynb")
def test_a_lecture_runs_without_network_on_one_core_and_no_library_warns(tmp_path):
    alone = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec taskset -c 0 "$0" "$@"']
    if not all(map(shutil.which, ("unshare", "ip", "taskset"))) or sh(tmp_path, *alone, "true").returncode:
        pytest.skip("needs Linux with iproute2, and the right to make a network namespace")
    course = copy_of_the_course(tmp_path / "Kurs Zürich")
    shutil.copy(ROOT / "lectures" / "00_start_here.ipynb", course / "lectures")
    more = {"PYTHONWARNINGS": "error", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = sh(course, *alone, sys.executable, "tools/record.py", "--check", "lectures/00_start_here.ipynb", **more)
    assert done.returncode == 0 and "as recorded" in done.stdout, done.stdout + done.stderr
    fetch = "import urllib.request as u\nu.urlopen('https://example.org', timeout=5)"  # is the network really gone?
    assert "URLError" in sh(course, *alone, sys.executable, "-c", fetch).stderr


@pytest.mark.slow
@pytest.mark.when_changed(*ROUTES, "tools/record.py")
@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")
def test_the_first_cell_of_a_notebook_fetches_the_course_once(tmp_path):
    """As on Colab: a Python with IPython where the notebook came alone. What sam_lite itself needs is there on Colab."""
    course = copy_of_the_course(tmp_path / "course")
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "safe.directory=*"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "All"]):
        assert sh(course, *git, *step).returncode == 0
    assert sh(tmp_path, sys.executable, "-m", "venv", tmp_path / "env").returncode == 0
    inside = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pinned = ("-c", course / "constraints.txt")
    assert sh(tmp_path, inside, "-m", "pip", "install", "-q", *pinned, "ipython", "hatchling").returncode == 0
    (tmp_path / "cell.ipy").write_text(
        notebooks.install_source("", "") + '\nprint("here:", find_spec("sam_lite") is not None)\n'
    )

    def run(typed: str) -> str:
        command = [inside, "-m", "IPython", "--colors=NoColor", "cell.ipy"]
        env = environment(PIP_NO_DEPS="1", PIP_NO_BUILD_ISOLATION="0", IPYTHONDIR=str(tmp_path / "ipython"))
        done = subprocess.run(command, cwd=tmp_path, env=env, input=typed, capture_output=True, text=True, timeout=300)
        return done.stdout + done.stderr

    assert "here: True" in (said := run(f"file://{course}\n")) and "Address" in said, said
    assert "here: True" in (said := run("")) and "Address" not in said, said


@pytest.mark.slow
@pytest.mark.when_changed("pyproject.toml", "sam_lite/__init__.py")
def test_a_wheel_and_a_source_archive_hold_the_package_and_work_where_nothing_else_is(tmp_path):
    """Built in a fresh environment; installed in another, which has only what this one has, and not this course."""
    course = tmp_path / "course"
    shutil.copytree(ROOT, course, ignore=shutil.ignore_patterns(".*", "_s*", "__pycache__", "solutions", "results"))
    assert sh(tmp_path, sys.executable, "-m", "venv", tmp_path / "env").returncode == 0
    inside = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    required = re.search(r'requires = \["(hatchling==[\d.]+)"\]', (ROOT / "pyproject.toml").read_text())[1]
    assert sh(tmp_path, inside, "-m", "pip", "install", "-q", required).returncode == 0
    done = sh(course, inside, "-m", "hatchling", "build", "-d", tmp_path / "dist")
    assert done.returncode == 0, done.stdout + done.stderr
    archive, wheel = sorted((tmp_path / "dist").iterdir(), key=lambda path: path.suffix)
    assert {archive.suffix, wheel.suffix} == {".gz", ".whl"} and f"-{sam_lite.__version__}" in wheel.name
    for built in (wheel, archive):
        extra = ["--no-build-isolation"] if built == archive else []
        done = sh(tmp_path, inside, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", *extra, built)
        assert done.returncode == 0, done.stderr
        code = (
            f"import sys; sys.path.append({sysconfig.get_path('purelib')!r}); import sam_lite, torch; "
            "from sam_lite import contest_images, grids, measures; assert 'env' in sam_lite.__file__, sam_lite.__file__; "
            "tables = measures.load_study(), contest_images.recorded()[1], grids.recorded(); "
            "print(sam_lite.__version__, *map(len, tables))"
        )
        done = sh(tmp_path, inside, "-c", code)
        assert done.returncode == 0 and done.stdout.split()[:3] == [sam_lite.__version__, "10935", "130"], (
            done.stdout + done.stderr
        )


def test_every_command_that_the_readme_and_the_docs_show_is_executed_here():
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = [
        line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.split("#")[0].strip()
    ]
    assert set(shown) <= {*MAKE, *CONDA, IN_CONDA, GRADING}, "a command that is shown and that no test executes"
    assert {"make lectures", "make lab", "make test", *CONDA} <= set(shown)


# ---- the pins


def test_constraints_are_exact_and_hold_for_what_is_installed_here():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100 and all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()  # noqa: E731
    pins = {plain(name): pin for name, pin in (line.split("==") for line in lines)}
    assert pins["torch"] == "2.13.0"
    # of this folder alone: setuptools brings copies of some packages and may put them on the path
    installed = list(distributions(path=[sysconfig.get_path("purelib")]))
    here = {plain(d.name): d.version.split("+")[0] for d in installed}
    different = {name: here[name] for name in pins.keys() & here.keys() if here[name] != pins[name]}
    assert pins.keys() & here.keys() >= {"torch", "numpy", "jupyterlab"}
    assert not different, f"constraints.txt says otherwise; installed are {different}"
    wants = {d.name: d.metadata.get("Requires-Python") or "" for d in installed}
    newer = {name: rule for name, rule in wants.items() if not SpecifierSet(rule).contains("3.11.0")}
    assert not newer, f"Debian 12 has Python 3.11.2, and we promise 3.11; a newer one is asked for by {newer}"


# ---- tools/venv.sh, with a pretended Python: seconds instead of minutes

PRETEND = """#!/bin/sh
case "$*" in
    *"-m venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo venv >>log ;;
    *"pip install"*) echo "pip $*" >>log; [ ! -e slow ] || sleep 60; [ ! -e fail ] ;;
    *version_info*) [ ! -e old ] ;;
    *ensurepip*) [ ! -e bare ] ;;
    -V) echo "Python 3.9.2" ;;
esac
"""


@pytest.fixture
def pretended(tmp_path):
    folder = tmp_path / "Kurs Zürich"
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "venv.sh", folder / "tools")
    for name in ("constraints.txt", "pyproject.toml"):
        (folder / name).write_text("one\n")
    (folder / "my python").write_text(PRETEND)
    (folder / "my python").chmod(0o755)
    return folder


def venv(folder: Path, part: str = "course", python: str | None = None) -> subprocess.CompletedProcess:
    return sh(folder, "sh", "tools/venv.sh", part, PYTHON=python or str(folder / "my python"), timeout=50)


def log(folder: Path) -> list[str]:
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [line if line == "venv" else re.search(r"\[([\w,]+)\]", line)[1] for line in lines]


posix = pytest.mark.skipif(os.name == "nt", reason="a shell script")


@posix
def test_the_second_call_does_nothing(pretended):
    assert venv(pretended).returncode == 0
    done = venv(pretended)
    assert (done.returncode, done.stdout, log(pretended)) == (0, "", ["venv", "course"])


@posix
def test_all_adds_to_course_and_holds_it(pretended):
    for part in ("course", "all", "course", "all"):
        assert venv(pretended, part).returncode == 0
    assert log(pretended) == ["venv", "course", "course,dev,instructor,cluster,bench"]


@posix
@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_other_versions_build_it_anew(pretended, name):
    venv(pretended)
    (pretended / name).write_text("two\n")
    assert venv(pretended).returncode == 0
    assert log(pretended) == ["venv", "course"] * 2


@posix
def test_a_moved_folder_builds_it_anew(pretended):
    venv(pretended)
    moved = pretended.rename(pretended.with_name("moved"))
    assert venv(moved).returncode == 0
    assert log(moved) == ["venv", "course"] * 2


@posix
def test_a_failed_build_is_not_taken_for_a_finished_one(pretended):
    (pretended / "fail").touch()
    assert venv(pretended).returncode != 0
    (pretended / "fail").unlink()
    assert venv(pretended).returncode == 0
    assert log(pretended) == ["venv", "course"] * 2


@posix
@pytest.mark.parametrize("part", ["course", "all"])
def test_an_interrupted_build_is_not_taken_for_a_finished_one(pretended, part):
    if part == "all":
        venv(pretended)  # what was ready is not trusted either: pip may have been stopped halfway
    (pretended / "slow").touch()
    before = len(log(pretended))
    command = ["sh", "tools/venv.sh", part]
    env = environment(PYTHON=str(pretended / "my python"))
    build = subprocess.Popen(command, cwd=pretended, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    for _ in range(300):
        if (
            len(log(pretended)) > before
            and "," in log(pretended)[-1]
            or log(pretended)[-1:] == ["course"]
            and part == "course"
        ):
            break
        time.sleep(0.05)
    os.killpg(build.pid, signal.SIGINT)
    assert build.wait(timeout=30) != 0
    (pretended / "slow").unlink()
    assert venv(pretended).returncode == 0
    assert log(pretended)[-2:] == ["venv", "course"]


@posix
@pytest.mark.parametrize(
    ("fault", "said"),
    [("old", "Python is too old: .* is Python 3.9.2, 3.11 or newer is needed"), ("bare", "apt install python3-venv")],
)
def test_an_unfit_python_is_named_with_the_remedy(pretended, fault, said):
    (pretended / fault).touch()
    done = venv(pretended)
    assert done.returncode != 0 and re.search(said, done.stderr)
    assert not (pretended / ".venv").exists()


@posix
def test_a_missing_python_is_named_with_the_remedy(pretended):
    done = venv(pretended, python="no-such-python")
    assert done.returncode != 0 and "no 'no-such-python' here" in done.stderr and "make PYTHON=" in done.stderr


@posix
def test_a_wrong_part_is_named(pretended):
    done = venv(pretended, "everything")
    assert done.returncode == 2 and "course|all" in done.stderr


def test_ci_calls_the_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.startswith("#!/bin/bash\n") and "set -euo pipefail" in script
    assert script.rstrip().splitlines()[-1] == "make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_ci_looks_back_far_enough_and_the_night_runs_all_tests_and_all_lectures():
    def jobs(name):
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
        return {name: (job, [step.get("run") for step in job["steps"]]) for name, job in workflow["jobs"].items()}

    test, runs = jobs("ci")["test"]
    assert test["steps"][0]["with"] == {"fetch-depth": 0} and runs[-1] == ".ci/run"
    _, runs = jobs("ci")["bare"]
    assert runs[-2:] == ["make course", f".venv/bin/{IN_CONDA} lectures/00_start_here.ipynb"]
    test, runs = jobs("nightly")["test"]
    assert test["env"] == {ALL: "1"} and runs[-1] == ".ci/run"
    assert "make lectures" in jobs("nightly")["lectures"][1]
