# Every target makes or reuses .venv by itself (tools/venv.sh); needed beforehand: Python 3.11 or newer, and make.
PYTHON    ?= python3
NOTEBOOKS ?= $(wildcard lectures/*.ipynb) $(shell $(RUN) tools/due.py lectures/controls sam_lite constraints.txt) solutions
JOBS      ?= 2
LAB       ?=
RUN       := .venv/bin/python
PYTEST    := $(RUN) -m pytest
TESTS     := OMP_NUM_THREADS=1 $(PYTEST) -n $(JOBS)
unexport PYTHONPATH PYTHONHOME
export JUPYTER_PREFER_ENV_PATH = 1
# PyTorch's threads spin while they wait for one another; where another program uses a core, that takes ten times as long
export GOMP_SPINCOUNT = 1000

.PHONY: help lectures site slides lab test check bench study images record clean nbval course all

help:
	@echo "make lectures   run every lecture, several side by side, and write pages to read to _site/"
	@echo "make lab        open the lectures in JupyterLab"
	@echo "make site       write pages of the lectures and exercises as they are stored, to _site/"
	@echo "make slides     write a deck of slides for each lecture, and its PDF, to _slides/"
	@echo "make test       all tests, and every notebook cell against its stored output"
	@echo "make check      the quick part: style, types, and the tests that take seconds"
	@echo "make bench      speed against other tools, as ratios"
	@echo "make study      make the recorded study of ten thousand models anew, in about two hours"
	@echo "make images     make the recorded study of real images anew, in some hours"
	@echo "make record     run the lectures and store what they say (the only way to change an output)"
	@echo "make clean      remove all that these made, .venv included"

lectures: course
	@$(RUN) tools/record.py --run --site _site

site: course
	@$(RUN) tools/pages.py

slides: all
	@$(RUN) tools/slides.py --pdf

lab: course
	$(RUN) -m jupyterlab $(LAB) lectures

test: all
	$(TESTS) -p no:nbval --dist loadgroup tests
	$(MAKE) nbval

nbval: all
	TQDM_DISABLE=1 $(TESTS) --dist loadfile @tools/nbval.txt $(NOTEBOOKS)

check: all
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(TESTS) -p no:nbval --dist loadgroup -m "not slow" tests

bench: all
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(RUN) $$script; done

study: all
	$(RUN) -m sam_lite.study results/study --workers 2

images: all
	$(RUN) -m sam_lite.image_study results/images --workers 2

record: all
	$(RUN) tools/record.py

clean:
	rm -rf .venv _site _slides build dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

course all:
	@PYTHON="$(PYTHON)" sh tools/venv.sh $@
