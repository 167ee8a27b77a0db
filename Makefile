# Each target is sufficient on its own from a bare clone: it makes .venv, installs and runs.
#
#   make demo                       the demo on scikit-learn's digits, under 3 minutes
#   make test                       everything a change must pass
#   make fuzz FUZZ_RUNS=1000000    wrong inputs of every format, guided by coverage
#   make cluster                    docker-compose.yml, disturbed while it runs; needs an engine
#   make test PIP_ARGS="..."        PIP_ARGS is handed to every pip install

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
PIP_ARGS ?=
FUZZ_RUNS ?= 1000000
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -q
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test lint format unit contract integration doctest examples conformance chaos fuzz bench cluster docs proto clean

demo: $(VENV)/.demo
	$(BIN)/pantheon demo

test: lint unit contract integration doctest examples

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

unit: $(VENV)/.dev
	$(PYTEST) -n 2 tests/unit

contract: $(VENV)/.dev
	$(PYTEST) tests/contract -m "not conformance"

integration: $(VENV)/.dev .venv-mlserver/.installed
	$(BIN)/python -m benchmarks.postgres
	$(PYTEST) tests/integration tests/chaos -m "not conformance and not chaos"

doctest: $(VENV)/.dev
	$(PYTEST) -n 2 --doctest-modules pantheon teacher_server student_client examples

examples: $(VENV)/.dev
	$(PYTEST) tests/examples

conformance: $(VENV)/.dev
	$(PYTEST) tests -m conformance --timeout 600

chaos: $(VENV)/.dev
	$(PYTEST) tests/chaos tests/integration/test_trainers.py --timeout 300

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz $(FUZZ_RUNS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.first_batch
	$(BIN)/python -m benchmarks.stream
	$(BIN)/python -m benchmarks.faults

cluster:
	PIP_ARGS="$(PIP_ARGS)" $(PYTHON) deploy/cluster.py

docs: $(VENV)/.docs
	$(BIN)/python docs/build.py build/docs

proto: $(VENV)/.dev
	$(MAKE) -C proto

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e ".[demo]"
	touch $@

$(VENV)/.dev: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e ".[dev]"
	touch $@ $(VENV)/.demo

$(VENV)/.docs: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e ".[docs]"
	touch $@

$(VENV)/.fuzz: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e ".[fuzz]"
	touch $@

# MLServer, a stock server of the Open Inference Protocol, wants other versions than ours.
.venv-mlserver/.installed: tests/mlserver-constraints.txt
	$(PYTHON) -m venv .venv-mlserver
	.venv-mlserver/bin/pip install --quiet --disable-pip-version-check -c $< $(PIP_ARGS) mlserver
	touch $@
