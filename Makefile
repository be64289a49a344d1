# Everything starts from a bare machine with Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One more than two cores: tests of servers and clusters wait much of their time.
WORKERS ?= 3

.PHONY: help setup demo test test-all check format bench peers build clean

help:  ## Say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tokenmill needs Python 3.11 or newer; make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY)  ## Make the virtual environment and install everything

demo: $(READY)  ## Tokenize the sample corpus end to end and show what came of it
	@$(BIN)/python -m tokenmill_pipelines.demo

test: check  ## Lint, type-check and run the test suite
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadgroup

test-all: check  ## The test suite with its slow tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: $(READY)  ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Measure, beside the peers that are installed; writes benchmarks/results.md
	$(BIN)/python -m benchmarks.run

peers: .venv-peers/.ready  ## Install the loaders that bench compares the feed with, in .venv-peers

.venv-peers/.ready: benchmarks/peers.txt
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps mosaicml-streaming==0.13.0
	@touch $@

build: $(READY)  ## Build the sdist and the wheel
	$(BIN)/python -m hatchling build

clean:  ## Remove what demo, tests and tools made
	rm -rf stores .prefect dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
