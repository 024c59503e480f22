# The two commands of a new user: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
# On Linux, PyPI's torch is the CUDA build (several GB), which runs on CPUs as well. For the CPU build, point
# PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at one; see docs/installation.md.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# Two environments are made side by side.
MAKEFLAGS += --jobs=2

.PHONY: demo test test-all test-containers test-kernels check up clean synchronous screenshots

demo: $(VENV)/service synchronous
	$(BIN)/latentry demo

up: $(VENV)/service synchronous
	$(BIN)/latentry up

# Two groups at the same time: unit tests in as many processes as there are cores, and tests that start whole services, which
# mostly wait for them. Both always run, so a failure in one does not hide the other's result.
SERVICES := tests/integration
PYTEST := $(BIN)/python -m pytest
test: $(VENV)/test
	@$(PYTEST) -n logical --dist worksteal --ignore=$(SERVICES) & unit=$$!; \
	$(PYTEST) -n 2 --dist loadfile $(SERVICES); status=$$?; \
	wait $$unit || status=1; \
	exit $$status

# And the slow tests: long soaks, fault injection and trainings, more hostile files, experiments of benchmarks/.
test-all: $(VENV)/test
	@status=0; \
	$(MAKE) test || status=1; \
	$(PYTEST) -n 2 --dist loadfile -m slow || status=1; \
	exit $$status

# Builds and runs the images of docker/, where Podman is installed; says why it skips where it cannot.
test-containers: $(VENV)/test
	$(PYTEST) -n 0 -s -m containers tests/docker

# The kernels for GPUs by Triton's interpreter and compilers, without a GPU. Triton takes 1 GB.
test-kernels: $(VENV)/test
	$(BIN)/python -m pip install --quiet --editable ".[kernels]"
	$(PYTEST) -n logical -m "slow or not slow" tests/models/test_kernels.py

check: $(VENV)/test synchronous
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

# Pictures of every view of the page, with Chromium: apt-get install chromium.
screenshots: $(VENV)/test
	$(BIN)/python -m tests.web.screenshots build/screenshots

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
