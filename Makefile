# `make train` trains the default model, `make test` runs the tests; both set up .venv first.
PYTHON ?= python3
# `make train EXTRAS=test,cuda` installs for a GPU, EXTRAS=test,tpu for a TPU
EXTRAS ?= test
WORKDIR ?= runs/default
CONFIG ?= configs/default.py
VENV := .venv
comma := ,
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(subst $(comma),-,$(EXTRAS))

.PHONY: train test lint types format clean

train: $(READY)
	$(BIN)/python train.py --config $(CONFIG) --workdir $(WORKDIR)

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# what was tested is what gets installed: constraints.txt pins every version
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
