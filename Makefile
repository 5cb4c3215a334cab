# Every target makes or reuses .venv by itself (tools/venv.sh); needed beforehand: Python 3.11 or newer, and make.
PYTHON    ?= python3
NOTEBOOKS ?= lectures
JOBS      ?= 2
LAB       ?=
RUN       := .venv/bin/python
PYTEST    := OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(RUN) -m pytest
unexport PYTHONPATH PYTHONHOME
export JUPYTER_PREFER_ENV_PATH = 1

.PHONY: help lectures lab test check bench record clean nbval course all

help:
	@echo "make lectures   run every lecture, print what it verified, write pages to read to _site/"
	@echo "make lab        open the lectures in JupyterLab"
	@echo "make test       all tests, and every notebook cell against its stored output"
	@echo "make check      the quick part: style, and the tests that take seconds"
	@echo "make bench      speed against other tools, as ratios"
	@echo "make record     run the lectures and store what they say (the only way to change an output)"
	@echo "make clean      remove all that these made, .venv included"

lectures: course
	@$(RUN) tools/record.py --check --site _site

lab: course
	$(RUN) -m jupyterlab $(LAB) lectures

test: all
	$(PYTEST) -n $(JOBS) --dist loadfile tests
	$(MAKE) nbval

nbval: all
	$(PYTEST) @tools/nbval.txt $(NOTEBOOKS)

check: all
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(PYTEST) -n $(JOBS) --dist loadfile -m "not slow" tests

bench: all
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(RUN) $$script; done

record: all
	$(RUN) tools/record.py

clean:
	rm -rf .venv _site build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

course all:
	@PYTHON="$(PYTHON)" sh tools/venv.sh $@
