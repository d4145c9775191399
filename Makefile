# `make demo` and `make test` need Python 3.11+ with pip, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= auto
PG15 ?= /usr/lib/postgresql/15/bin

.PHONY: demo demo-stop example test test-all lint types imports suite faults suite-pg15 suite-litellm \
  bench bench-quick bench-memory bench-durability bench-replay bench-asgi bench-tuning \
  chaos format clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

# A gateway under the official clients, then a day's traffic.
demo: example
	$(BIN)/rwriter demo

example: $(READY)
	$(BIN)/python -m examples.gateway

demo-stop: $(READY)
	$(BIN)/rwriter demo --stop

test: lint types imports suite faults suite-pg15 suite-litellm

# The same with every test of the store in both schemas, not only a sample. The faults at length are `make chaos`.
test-all: SCHEMAS := --every-schema
test-all: test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

# Everything but the faults below, on the embedded PostgreSQL 18; tests/migrate holds the drift check. Coverage starts
# before pytest does, as pytest itself imports the plugin.
suite: $(READY)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n $(JOBS) --dist worksteal --ignore=tests/chaos $(SCHEMAS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Killed processes, cut lines, full disks, a promoted standby: each once. `make chaos` does it at length.
faults: $(READY)
	$(BIN)/python -m pytest tests/chaos

# The same statements on the oldest server in wide use, where it is installed. It is the only one here with lz4.
suite-pg15: $(READY)
	@if [ -x $(PG15)/initdb ]; then \
	  RWRITER_TEST_POSTGRES_BIN_DIR=$(PG15) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal \
	    -m "db and not chaos" --ignore=tests/asgi --ignore=tests/gateway --ignore=tests/demo $(SCHEMAS); \
	else \
	  echo "PostgreSQL 15 is not installed in $(PG15): its half of the tests did not run" >&2; \
	  if [ -n "$$CI" ]; then exit 1; fi; \
	fi

# LiteLLM pins packages that the other tests have later versions of: an environment of its own.
LITELLM_VENV ?= .venv-litellm
$(LITELLM_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LITELLM_VENV)
	$(LITELLM_VENV)/bin/python -m pip install --quiet 'litellm[proxy]' --editable '.[test]' pytest-asyncio blockbuster
	touch $@

suite-litellm: $(LITELLM_VENV)/.ready
	$(LITELLM_VENV)/bin/python -m pytest tests/integrations

bench: $(READY)
	$(BIN)/python -m bench

bench-quick: $(READY)
	$(BIN)/python -m bench --quick

bench-memory: $(READY)
	$(BIN)/python -m bench.memory

bench-durability: $(READY)
	$(BIN)/python -m bench.durability

# Live traffic beside the replay of a large spool.
bench-replay: $(READY)
	$(BIN)/python -m bench.replay

# The capture middleware off, on, journaling, and with the database down.
bench-asgi: $(READY)
	$(BIN)/python -m bench.asgi

# What each idea brings, or would; lz4 where PostgreSQL 15 is installed.
bench-tuning: $(READY)
	$(BIN)/python -m bench.tuning
	@if [ -x $(PG15)/initdb ]; then $(BIN)/python -m bench.tuning --only compression --bin-dir $(PG15); fi

# The faults of docs/guarantees.md at length, with a table; up to twenty minutes.
chaos: $(READY)
	$(BIN)/python -m tests.chaos

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LITELLM_VENV) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
