# make demo       a grid of nine pictures in demo/
# make test       the tests, but the slow ones
# make test-slow  the slow ones: real browser, killed processes, networks that are trained
# make test-long  cascades trained until they draw what captions say, for minutes
# make check      ruff and mypy
# make resolve    whether all extras together can be installed with the versions in constraints.txt
# make dist-check builds wheel and sdist, installs the wheel by itself, draws a picture with it, measures it
#
# All of them work in .venv, which they make with PYTHON (3.10 or newer) and the versions in constraints.txt.
# On Linux, PyPI's torch brings several gigabytes of CUDA libraries: README.md, "Installing", says how to
# do without them.

PYTHON ?= python3
VENV ?= .venv
MODEL ?= builtin
PYTEST_ARGS ?= -n 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
# None of this needs the hub, so none of it asks there.
OFFLINE := HF_HUB_OFFLINE=1

.PHONY: demo test test-slow test-long check resolve dist-check constraints clean
.DELETE_ON_ERROR:

demo: $(VENV)/.core
	$(OFFLINE) $(BIN)/satcascade sample --captions examples/nine_captions.txt --out demo --model $(MODEL)
	@echo "$(CURDIR)/demo/_grid.png"

# One thread a process: the processes of pytest-xdist share the cores already.
test: $(VENV)/.test
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow test-long: test-%: $(VENV)/.test
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m $* $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What there is a solution for all of has one for each of them. Nothing is installed.
resolve: $(VENV)/.dev
	$(PIP) --quiet --dry-run '.[train,geo,eval,web,test,dev,docs]'

# In folders of its own, which it removes.
dist-check: $(VENV)/.dev
	$(BIN)/python benchmarks/distribution.py

# The stamps tell what is installed; each is made again when the requirements change.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $(VENV)/.core $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $(VENV)/.core $(VENV)/.test $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "$(PYTHON) is older than Python 3.10: run make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

# Pins that stand in the file stay as they are, unless UV_ARGS=--upgrade. The libraries of PyTorch's CUDA
# builds are left out: torch itself asks for their exact versions, and CPU builds do without.
constraints:
	uv pip compile --universal --no-python-downloads --python-version 3.10 --all-extras $(UV_ARGS) \
		--no-annotate --no-header --no-emit-package setuptools pyproject.toml -o constraints.txt
	@{ echo '# The versions that satcascade is tested with, for pip install -c; made by: make constraints'; \
		grep -vE '^(#|cuda-|nvidia-|triton=)' constraints.txt; } > .constraints.part
	@mv .constraints.part constraints.txt

clean:
	rm -rf $(VENV) demo build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
