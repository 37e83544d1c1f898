# make demo and make test need Python 3.11 or newer and make; everything else is installed below .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo up example down status test chaos contract minio mutants test-fast lint bench lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | sort | while IFS="$$(printf '\t')" read -r target text; do printf '  make %-10s %s\n' "$$target" "$$text"; done

demo: $(VENV)/.local-installed  ## the main job on real video, every step checked (VIDEOS=folder for your own)
	@$(BIN)/python -m flows demo $(if $(VIDEOS),--videos "$(VIDEOS)")

up: $(VENV)/.local-installed  ## start PostgreSQL, S3, Prefect and a worker, and keep them running (VIDEOS=folder)
	@$(BIN)/python -m flows up $(if $(VIDEOS),--videos "$(VIDEOS)")

example: up  ## a catalog with a year of history beside your own, and its report: something for analysts to read
	@$(BIN)/python -m flows example

down:  ## stop them; data stays in .local
	@test ! -e $(VENV)/.local-installed || $(BIN)/python -m flows down

status: $(VENV)/.local-installed  ## what runs, and what customers store
	@$(BIN)/python -m flows status || test $$? -eq 3

test: $(VENV)/.dev-installed  ## the tests, against real servers (POSTGRES=folder with the programs of another version)
	@$(if $(POSTGRES),TEST_POSTGRES="$(POSTGRES)" )$(BIN)/python -m $(if $(ARGS),pytest -m "not chaos" $(ARGS),tests.thirds)

chaos: $(VENV)/.dev-installed  ## killed, cut off, asleep at every call; alarms waited for: hours
	@$(BIN)/python -m pytest -m chaos $(ARGS)

contract: $(VENV)/.dev-installed  ## what is asked of an S3 server, alone; ENDPOINT=… BUCKET=… asks one of your own
	@$(if $(ENDPOINT)$(BUCKET),CONTRACT_ENDPOINT="$(ENDPOINT)" CONTRACT_BUCKET="$(BUCKET)" CONTRACT_SECOND_BUCKET="$(SECOND_BUCKET)" )$(BIN)/python -m pytest tests/contract $(ARGS)

minio: $(VENV)/.dev-installed  ## build MinIO, so that the tests ask it too; needs Go 1.24, and seven minutes the first time
	@command -v go >/dev/null || { echo "make minio needs Go 1.24 or newer on the PATH; without MinIO the tests leave it out, and say so"; exit 1; }
	@echo "building MinIO into $(BIN) …"
	@GOTOOLCHAIN=local CGO_ENABLED=0 GOBIN="$(CURDIR)/$(BIN)" go install -trimpath -ldflags "-s -w" github.com/minio/minio@$(MINIO)
# The last state of its repository, which is not maintained any more; it carries no version that Go knows.
MINIO := v0.0.0-20260212201848-7aac2a2c5b7c

mutants: $(VENV)/.dev-installed  ## every protocol broken on purpose: a test must notice each (eight minutes)
	@$(BIN)/python -m tests.chaos.mutants $(ARGS)

test-fast: $(VENV)/.dev-installed  ## the tests that need no Prefect server: for the seconds between two edits
	@$(BIN)/python -m pytest -m "not prefect and not slow and not chaos" -x -q $(ARGS)

lint: $(VENV)/.dev-installed  ## formatting, lint, types, and the direction of imports
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(VENV)/.dev-installed  ## measure against s5cmd and others (ROW=name for one row, JSON=path for a file, README=1 for the README's table)
	@$(BIN)/python -m tests.benchmarks $(if $(ROW),--row $(ROW)) $(if $(JSON),--json "$(JSON)") $(if $(README),--readme) $(if $(PAIRS),--pairs $(PAIRS))

lock: $(VENV)/.dev-installed  ## choose all versions anew, with hashes and without naming an index
	@$(BIN)/uv pip compile $(LOCK) --extra local pyproject.toml -o requirements.lock.txt >/dev/null
	@$(BIN)/uv pip compile $(LOCK) --extra local --extra dask --extra dev -c requirements.lock.txt pyproject.toml -o requirements-dev.lock.txt >/dev/null
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade

clean:  ## stop everything and remove .venv and .local, all data included
	@test ! -e $(VENV)/.local-installed || $(BIN)/python -m flows down
	@rm -rf $(VENV) .local build *.egg-info

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say which one with make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(VENV)

# Exactly what the lock names, each with its hash: it is whole, so that pip has nothing to resolve. And the project itself.
define install
$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(1)
$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef

$(VENV)/.local-installed: requirements.lock.txt pyproject.toml | $(VENV)/bin/pip
	@echo "installing into $(VENV) (some minutes the first time) …"
	@$(call install,requirements.lock.txt)
	@touch $@

# All of the other lock, and the tools of developers: in a new clone, one installation is enough.
$(VENV)/.dev-installed: requirements-dev.lock.txt requirements.lock.txt pyproject.toml | $(VENV)/bin/pip
	@echo "installing into $(VENV), with the tools of developers (some minutes the first time) …"
	@$(call install,requirements-dev.lock.txt)
	@touch $(VENV)/.local-installed $@
