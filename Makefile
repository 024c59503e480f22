# The two commands of a new user: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
# On Linux, PyPI's torch is the CUDA build (several GB), which runs on CPUs as well. For the CPU build, point
# PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at one; see docs/installation.md.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# Two environments are made side by side.
MAKEFLAGS += --jobs=2

.PHONY: demo test test-benchmarks check up clean synchronous

demo: $(VENV)/service synchronous
	$(BIN)/latentry demo

up: $(VENV)/service synchronous
	$(BIN)/latentry up

# What starts no service of its own runs in as many processes as there are cores. Of the rest, which mostly waits for its
# services, two files run at a time.
SERVICES := tests/integration tests/benchmarks/test_chaos.py
test: $(VENV)/test
	$(BIN)/python -m pytest -n logical --dist worksteal $(SERVICES:%=--ignore=%)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(SERVICES)

test-benchmarks: $(VENV)/test
	$(BIN)/python -m pytest -n logical -m slow tests/benchmarks

check: $(VENV)/test synchronous
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

# The synchronous client is generated. An installation does that, and this after a change to the asynchronous one; so do the tests.
synchronous: $(BIN)/python
	$(BIN)/python client/generate_synchronous.py

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Latentry needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version`. Use make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/torch: $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	@touch $@

$(VENV)/service: pyproject.toml $(VENV)/torch
	$(BIN)/python -m pip install --quiet --editable ".[xarray]"
	@touch $@

# Its pins don't go with those of the service, so it has an environment of its own. Tests skip without it.
$(VENV)/snakemake: $(BIN)/python
	-$(BIN)/python -m venv $@ && $@/bin/python -m pip install --quiet snakemake==9.27.1

$(VENV)/test: pyproject.toml $(VENV)/torch | $(VENV)/snakemake
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	# The reference of the scores: its pins are years old, so it comes without what it depends on. Tests skip without it.
	-$(BIN)/python -m pip install --quiet --no-deps nlb_tools==0.0.4
	@touch $(VENV)/service $@
