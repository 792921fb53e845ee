# `make train` trains the default model, `make test` runs the tests; both set up .venv first.
PYTHON ?= python3
WORKDIR ?= runs/default
CONFIG ?= configs/default.py
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test lint types format clean

train: $(VENV)/ready
	$(BIN)/python train.py --config $(CONFIG) --workdir $(WORKDIR)

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# what was tested is what gets installed: constraints.txt pins every version
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
