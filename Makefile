# Every target sets up what it needs in .venv, and is quick when nothing changed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# PyTorch first: pip then keeps the build that the machine's own pip settings prefer (see CONTRIBUTING.md).
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test lint format docs bench clean help setup

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: .venv/.study ## find winning tickets on the embedded data and draw the figure
	@$(BIN)/prunus run lottery-ticket --out results

test: .venv/.dev lint ## every check: lint, format, types, tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

lint: .venv/.dev ## ruff and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: .venv/.dev ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.dev ## the documentation as a site, in site/
	$(BIN)/zensical build --clean

bench: .venv/.dev ## the ratios behind every claim of speed
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

setup: .venv/.dev ## only set up

clean: ## remove what the other targets made (results stay)
	rm -rf .venv site build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(f"Prunus needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv (once; PyTorch is large)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.study: .venv/.python pyproject.toml constraints.txt
	@$(PIP) $(TORCH)
	@$(PIP) -e '.[study]'
	@touch $@

.venv/.dev: .venv/.study
	@$(PIP) -e '.[dev]'
	@touch $@
