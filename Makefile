# Every target sets up what it needs in .venv, and is quick when nothing changed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# PyTorch first: pip then keeps the build that the machine's own pip settings prefer (see CONTRIBUTING.md).
TORCH := $(shell grep '^torch==' constraints.txt)
# What builds the kernels comes into .venv too, so that a change of one C++ file compiles only that file.
BUILD := $(shell grep -iE '^(scikit.build.core|nanobind)==' constraints.txt)
KERNELS := CMakeLists.txt $(wildcard src/prunus/kernels/native/*)
# Kernels that do not build are an error here, unless there is no compiler at all: PyTorch then does their work.
export PRUNUS_REQUIRE_NATIVE := $(if $(shell command -v $(CXX)),1,0)
NATIVE := .venv/.native-$(PRUNUS_REQUIRE_NATIVE)

.PHONY: demo test lint format native docs bench clean help setup

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(NATIVE) ## find winning tickets on the embedded data and draw the figure
	@$(BIN)/prunus run lottery-ticket --out results

test: .venv/.dev $(NATIVE) lint ## every check: lint, format, types, tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

lint: .venv/.dev ## ruff and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: .venv/.dev ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

native: $(NATIVE) ## the C++ kernels, where their sources changed

docs: .venv/.dev ## the documentation as a site, in site/
	$(BIN)/zensical build --clean

bench: .venv/.dev $(NATIVE) ## the ratios behind every claim of speed
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

setup: .venv/.dev $(NATIVE) ## only set up

clean: ## remove what the other targets made (results stay)
	rm -rf .venv site build dist .pytest_cache .ruff_cache .hypothesis
	rm -f src/prunus/kernels/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(f"Prunus needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up .venv (once; PyTorch is large)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.study: .venv/.python pyproject.toml constraints.txt
	@$(PIP) $(TORCH)
	@$(PIP) $(BUILD)
	@# CMake and Ninja, where the machine has none that will do.
	@$(PIP) $$($(BIN)/python -m scikit_build_core.build requires --mode editable | tr -d '[],"')
	@$(PIP) --no-build-isolation -e '.[study]'
	@touch $@

$(NATIVE): .venv/.study $(KERNELS)
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

.venv/.dev: .venv/.study | $(NATIVE)
	@$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@
