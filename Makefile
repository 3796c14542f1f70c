# Everything a newcomer types. `make sweep` and `make test` start from nothing: they create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
TOOLS := $(VENV)/.tools
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: sweep test ci long check lint types schemas screens install clean

sweep: $(READY)
	$(BIN)/selmix launch sweeps/digits_min_recall.yaml
	@$(BIN)/selmix show digits_min_recall

test: $(READY)
	$(BIN)/python -m pytest

# Everything but what needs minutes each, in one session.
ci: $(READY)
	$(BIN)/python -m pytest -m 'not long' --durations=25

long: $(READY)
	$(BIN)/python -m pytest -n 0 -m long

check: lint types

# Needs a linter and pytest only, so that it answers before torch is installed.
lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 0 -q tests/test_architecture.py

types: $(READY)
	$(BIN)/mypy

# What is generated and kept: the JSON Schemas of all documents, and the golden screens of the tests.
schemas: $(READY)
	$(BIN)/python schemas/generate.py

screens: $(READY)
	$(BIN)/python -m pytest -n 0 -q tests/screens --update-screens

install: $(READY)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(TOOLS): constraints.txt | $(VENV)/bin/python
	$(PIP) ruff pytest pytest-xdist pytest-timeout
	@touch $@

$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
