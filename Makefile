# Every target sets up what it needs from a bare clone: Python 3.11 or later with pip is enough.
#   make demo    install the package alone and run its demonstration
#   make test    the tests; ARGS=tests/core for some
#   make test-all    those marked slow as well, which show the same on more models; compiled as for users
#   make check   formatting, lint, types, import layers
#   make bench   side-by-side benchmarks; BENCH=... goes to the benchmark runner
#   make docs    the documentation site, into site/
#   make clean   remove everything made here

VENV ?= .venv
BIN := $(VENV)/bin
MARKS ?= not slow
# Much of the time of the tests is compilation, and most of their programs run a handful of times: in one module each, without
# what only long runs pay back.
COMPILE ?= --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true \
	--xla_cpu_parallel_codegen_split_count=1
ARGS ?=
BENCH ?=

# The first interpreter that runs and is new enough (a version manager's shim may exist and still fail).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Modules are compiled when they are first imported: most of those that are installed never are.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format bench docs clean

help:
	@sed -n '2,7s/^#  *//p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "jensen needs Python 3.11 or later on the PATH; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Stamps: one for each set of extras, remade when pyproject.toml changes.
$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@ $(VENV)/.core

demo: $(VENV)/.core
	@$(BIN)/jensen demo

# Compiled programs are kept between test runs, but for small ones; the tests pass without. Compilation uses one core: two workers, which keep to
# their half of the files and take over from each other at the end.
test: export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/jax
test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.1
test: export XLA_FLAGS := $(COMPILE)
# Where an image turns bytecode off, each of the processes that tests start would compile all that it imports.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.test
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal $(if $(MARKS),-m "$(MARKS)") $(ARGS)

test-all:
	@$(MAKE) --no-print-directory test MARKS= COMPILE=

# All four run, so that one report shows everything.
check: $(VENV)/.test
	@failed=; for tool in 'ruff format --check .' 'ruff check .' 'pyright --pythonpath $(BIN)/python' 'lint-imports'; do \
		echo "== $$tool"; $(BIN)/$$tool || failed="$$failed $${tool%% *}"; \
	done; test -z "$$failed" || { echo "make check failed:$$failed"; exit 1; }

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks $(BENCH)

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf $(VENV) .cache .hypothesis .pytest_cache .ruff_cache .import_linter_cache site build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
