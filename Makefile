# make demo   a model of handwritten digits, from nothing to pictures
# make test   everything that must hold, from nothing to green
# make check  style, types, the shape of the source tree, the examples in docstrings
# make docs   the documentation as a site, in site/index.html

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/digits
# Compiled programs are kept between runs of the tests, in the checkout.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: demo test check style types layers examples docs clean

demo: $(VENV)/.installed
	rm -rf $(RUN) $(RUN).partial
	mkdir -p $(dir $(RUN))
	$(BIN)/tightbound fit digits --out $(RUN)

# Tests that compile much and compute little run without XLA's optimiser and newer emitters, sooner; the second core has tests of its own.
QUICK := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1 \
	--xla_cpu_use_fusion_emitters=false

test:
	$(MAKE) --jobs=2 check
	@# An XLA that does not know one of the flags ends the process: then the tests run without them.
	quick="$(QUICK)"; XLA_FLAGS="$$quick" $(BIN)/python -c 'import jax; jax.devices()' 2>/dev/null || quick=; \
		XLA_FLAGS="$(XLA_FLAGS) $$quick" $(BIN)/python -m pytest -n 2 -m compiling
	$(BIN)/python -m pytest -n 2 -m "not compiling"

check: style types layers examples

style: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/mypy

layers: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/test_architecture.py

examples: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --doctest-modules -o doctest_optionflags="ELLIPSIS NORMALIZE_WHITESPACE" src/tightbound

# A link that leads nowhere ends it. The reference is read from the sources as they are: nothing of the last build is kept.
docs: $(VENV)/.installed-docs
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=tools $(BIN)/zensical build --clean --strict
	@echo "the documentation is at $(CURDIR)/site/index.html; its search needs a server: $(BIN)/python -m http.server -d site"

clean:
	rm -rf $(VENV) .jax_cache .pytest_cache .mypy_cache .ruff_cache .cache site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "tightbound needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
			"name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# All installations are editable, so that neither leaves an old copy of the sources for the other.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@ $(VENV)/.installed
