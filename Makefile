# Everything a newcomer types. `make sweep` and `make test` start from nothing: they create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MADE := $(VENV)/.made
READY := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
TOOLS := $(VENV)/.tools
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# MB of disk: what is installed stays here; pip has the downloads in the folder for temporary files until it is done,
# and keeps them in its cache. FREE_MB=N says that so much is free in each place, whatever df says.
INSTALLED_MB := 6600
DOWNLOAD_MB := 3300
FREE_MB ?=
IS_FIT := import sys; raise SystemExit(sys.version_info < (3, 11))
AGAIN := PYTHON=python3.11 make $(MAKECMDGOALS)

.PHONY: sweep test ci long check lint types schemas screens install clean

sweep: $(READY)
	$(BIN)/selmix launch sweeps/fashion_min_recall.yaml
	@$(BIN)/selmix show fashion_min_recall

test: $(DEV)
	$(BIN)/python -m pytest

# Everything but what needs minutes each, in one session.
ci: $(DEV)
	$(BIN)/python -m pytest -m 'not long' --durations=25

long: $(DEV)
	$(BIN)/python -m pytest -n 0 -m long

check: lint types

# Needs a linter and pytest only, so that it answers before torch is installed.
lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 0 -q tests/test_architecture.py

types: $(DEV)
	$(BIN)/mypy

# What is generated and kept: the JSON Schemas of all documents, and the golden screens of the tests.
schemas: $(DEV)
	$(BIN)/python schemas/generate.py

screens: $(DEV)
	$(BIN)/python -m pytest -n 0 -q tests/screens --update-screens

install: $(READY)

# A venv that is there and works is kept, whoever made it; one that was left half made, or by an older Python, is not.
$(MADE):
	@$(BIN)/python -c 'import pip; $(IS_FIT)' 2>/dev/null || { \
	  command -v $(PYTHON) >/dev/null || { \
	    echo "selmix needs Python 3.11 or newer; there is no $(PYTHON) here; name yours: $(AGAIN)" >&2; exit 1; }; \
	  $(PYTHON) -c '$(IS_FIT)' 2>/dev/null || { \
	    echo "selmix needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: $(AGAIN)" >&2; \
	    exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) must have the module venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

# By file system: the three places may be one. A cache that has the files already makes the check too careful.
define CHECK_DISK
@test -e $(READY) || test -e $(DEV) || { \
  cache="$${PIP_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME}}"; test -d "$$cache" || cache="$$HOME"; test -d "$$cache" || cache=/; \
  df -Pm . "$${TMPDIR:-/tmp}" "$$cache" | awk -v fed="$(FREE_MB)" ' \
    NR > 1 { fs = $$1; need[fs] += NR == 2 ? $(INSTALLED_MB) : $(DOWNLOAD_MB); free[fs] = fed == "" ? $$4 : fed; at[fs] = $$6 } \
    END { for (fs in need) if (free[fs] + 0 < need[fs]) { bad = 1; \
      printf "selmix needs %d MB of disk for its installation below %s, %d MB are free; make room", need[fs], at[fs], free[fs]; \
      print ", or point TMPDIR and PIP_CACHE_DIR to another disk, or take the CPU build (README.md)" } exit bad }' >&2; }
endef

$(TOOLS): constraints.txt | $(MADE)
	$(PIP) ruff pytest pytest-xdist pytest-timeout
	@touch $@

$(READY): pyproject.toml constraints.txt | $(MADE)
	$(CHECK_DISK)
	$(PIP) --editable .
	@touch $@

# What tests need comes on top.
$(DEV): pyproject.toml constraints.txt | $(MADE)
	$(CHECK_DISK)
	$(PIP) --editable '.[dev]'
	@touch $(READY) $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
