# `make quickstart` and `make test` work on a fresh machine; both go through `make setup`.
PYTHON ?= python3
BIN := .venv/bin
# Threads that spin while they wait slow each other down by a factor of ten on small machines.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup quickstart test test-all lint format types docs build release-check clean
.DEFAULT_GOAL := test

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[drpose,rewards,ocr,digits,metrics,report,paper,modular,video,mesh,docs,dev]"
	touch $@
	@echo 'rewardft is installed in .venv; to have it as a command: . .venv/bin/activate'

quickstart: setup
	$(BIN)/rewardft drpose quickstart

# One thread per process: the processes are what runs side by side.
test test-all: export OMP_NUM_THREADS := 1

test: setup
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-all: setup
	$(BIN)/python -m pytest -m "slow or not slow" --numprocesses auto --dist loadfile

lint: setup
	$(BIN)/ruff check rewardft plugins recipes tests docs
	$(BIN)/ruff format --check rewardft plugins recipes tests docs
	$(BIN)/lint-imports
	$(BIN)/python docs/draw_architecture.py --check

# The plugins are checked under the name that they are imported by, which their folder has not.
types: setup
	mkdir -p .mypy_cache/path
	ln -sfn $(CURDIR)/plugins .mypy_cache/path/rewardft_plugins
	MYPYPATH=.mypy_cache/path $(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix rewardft plugins recipes tests docs
	$(BIN)/ruff format rewardft plugins recipes tests docs

docs: setup
	$(BIN)/mkdocs build --strict --quiet

build: setup
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --quiet --wheel-dir dist .

# What must hold before a tag: everything that CI asks, and a wheel that works in an empty environment.
release-check: lint types docs build test-all
	$(BIN)/python -m pytest tests/package -q

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
