# Everything runs in .venv, which the first target that needs it sets up. Needed: make and Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
SEEDS ?= 100000
SOAK_STATE ?= .soak.jsonl
KILLS ?= 2000
S3_KILLS ?= 200
KILLS_STATE ?= .kills.jsonl

MAKEFLAGS += --no-print-directory
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export NO_MKDOCS_2_WARNING := 1

# A Python without ensurepip (as Debian splits it) makes an environment without pip; then its own pip brings one.
PIP = if $(BIN)/python -m pip --version >/dev/null 2>&1; then $(BIN)/python -m pip "$$@"; \
	else $(PYTHON) -m pip --python $(BIN)/python "$$@"; fi
# Dependency groups need pip 25.1.
NEW_PIP = set -- install -qq --upgrade 'pip>=25.1'; $(PIP)

.DEFAULT_GOAL := help
.PHONY: help setup bench test test-pythons test-long soak kills planted check coverage lint docs benchmarks clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with everything development needs

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "setting up $(VENV) ..." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)
	@$(NEW_PIP)
	@$(BIN)/python -m pip install -qq --editable . --group dev
	@touch $(STAMP)

bench: $(STAMP) ## Measure this machine and a storage; options in ARGS="--storage memory://"
	@$(BIN)/python -m opendata_log.bench $(ARGS)

test: $(STAMP) ## Run the tests, those against real S3 server processes included
	@$(BIN)/python -m pytest -q -n 4 --dist worksteal -m "not slow" $(ARGS)

test-pythons: $(STAMP) ## Run the tests on each Python from 3.11 to 3.14 that is found; options in ARGS
	@$(BIN)/python -m tests.pythons -n 4 --dist worksteal -m "not slow" $(ARGS)

test-long: $(STAMP) ## Run the slow tests, too
	@$(BIN)/python -m pytest -q -n 2 $(ARGS)

soak: $(STAMP) ## Simulate deployments for hours; goes on where it stopped. SEEDS=100000, options in ARGS
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --state $(SOAK_STATE) $(ARGS)

kills: $(STAMP) ## Kill writers on files and S3 for hours; goes on where it stopped. KILLS=2000 S3_KILLS=200
	@$(BIN)/python -m tests.crashes.long_run --kills $(KILLS) --s3-kills $(S3_KILLS) --state $(KILLS_STATE) $(ARGS)

planted: $(STAMP) ## Plant known bugs in copies of the tree, and see which tests catch them
	@$(BIN)/python -m tests.planted $(ARGS)

check: lint ## Lint, then the tests that start no server
	@$(BIN)/python -m pytest -q -n 2 -m "not s3 and not slow" $(ARGS)

coverage: $(STAMP) ## Branch coverage of the tests without S3 and of some seeds of the simulation
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest -q -n 2 -m "not slow and not s3" --timeout 600 \
		--ignore tests/simulation/test_simulation.py $(ARGS)
	@$(BIN)/python -m coverage run -m tests.simulation --seeds 30 --once
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

lint: $(STAMP) ## Style, formatting and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary

docs: $(STAMP) ## Build the documentation into build/site, warnings as errors
	@$(BIN)/python -m mkdocs build --quiet --strict

benchmarks: $(STAMP) ## Compare with other engines on this machine; options in ARGS="--rounds 1"
	@$(BIN)/python -c 'import lmdb, matplotlib, rocksdict, slatedb' 2>/dev/null \
		|| $(BIN)/python -m pip install -qq --group bench
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove .venv, caches and build results; logs that you wrote stay
	@rm -rf $(VENV) .pythons .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .coverage .coverage.* build dist *.egg-info
	@find lsm opendata_log tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
