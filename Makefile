# make duel: the whole product in small, on built-in data.   make test: linters, types, tests.
# Both set up .venv by themselves; all they need is python3.11 or later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUDGET ?= 50s

.PHONY: setup duel test lint types unit docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

duel: setup
	@$(BIN)/diptych duel digits --budget $(BUDGET) --ticks 8 --at-most latency_ms=50 --out duel/digits

test: lint types unit

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-dev
	$(BIN)/mypy

unit: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

clean:
	rm -rf $(VENV) duel .pytest_cache .mypy_cache .ruff_cache
