# Every target makes .venv on first use, and again when requirements.lock or pyproject.toml has changed.
# PYTHON names the interpreter for a new .venv: PYTHON=python3.12 make run

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# The tests of a file share fixtures, so they stay in one process; in the order of names, the longest do not come last.
PARALLEL := --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

.PHONY: help run test lab miniature lock
.NOTPARALLEL:

help:  ## list the targets
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z]*\): .*##\(.*\)/  \1\t\2/p' $(MAKEFILE_LIST)

run: $(READY)  ## execute every notebook on the miniature and write them as HTML under build/
	@echo "== running every notebook: about a quarter of an hour on two CPU cores; then open build/index.html"
	PYTHONPATH=notebooks $(BIN)/python -m workbook.notebook_runner

test: $(READY)  ## lint, types, unit tests, notebooks at smoke scale, browser tests
	@echo "== lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "== types"
	$(BIN)/mypy
	@echo "== tests, one process per core"
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL)

lab: $(READY)  ## open the notebooks in JupyterLab, on this machine only
	@echo "== opening the notebooks in JupyterLab, on this machine only; Ctrl+C ends it"
	$(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

miniature: $(READY)  ## train the miniature from scratch in build/ (RECIPE=cpu takes hours, RECIPE=smoke a minute)
	$(BIN)/python -m tools.miniature build --recipe $(or $(RECIPE),cpu)

lock: $(READY)  ## pin the versions anew in requirements.lock, within pyproject.toml's limits
	@$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --quiet
	@echo "requirements.lock is written; the next make installs it."

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; $(PYTHON) is not. Name one: PYTHON=python3.12 make ..."; exit 1; }
	@test -x $(BIN)/pip || { echo "== making .venv with $(PYTHON)"; $(PYTHON) -m venv --clear .venv; } || \
		{ rm -rf .venv; echo "No .venv could be made. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "== installing requirements.lock into .venv (2 GB on disk, 6 GB with CUDA; takes minutes)"
	@$(BIN)/pip install --disable-pip-version-check -r requirements.lock
	@echo "== installing nitro_lab into .venv"
	@$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@
