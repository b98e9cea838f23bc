# Every target works on a fresh machine: it first creates .venv and installs what it needs.
PYTHON ?= python3
# Options of pytest in the test targets, and how many processes test side by side.
ARGS ?=
WORKERS ?= auto
# More options of pip's installs.
PIP_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
export SEGLOSS_BUILD ?= auto
NATIVE := $(shell find csrc -type f) setup.py pyproject.toml constraints.txt segloss_fast/_version.py
CXX_SOURCES := git ls-files --cached --others --exclude-standard '*.cpp' '*.cu' '*.cuh' '*.h' '*.inc'
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_OPTIONS)

PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# Two installs at once into one environment break it.
.NOTPARALLEL:
.PHONY: demo lesions test quick test-all test-durations test-faults sanitize fuzz huge install-matrix check bench docs \
  build wheel wheel-check format clean

demo: $(VENV)/.demo $(VENV)/.built-$(SEGLOSS_BUILD)
	$(BIN)/python examples/brain_mri.py

# No part of the demo: lesions found and missed, by size.
lesions: $(VENV)/.demo $(VENV)/.built-$(SEGLOSS_BUILD)
	$(BIN)/python examples/small_lesions.py

# A newcomer's proof that the build here is right; WORKERS=0 runs it in one process.
test: $(VENV)/.test $(VENV)/.built-$(SEGLOSS_BUILD)
	$(PYTEST) --tier=test $(ARGS)

# For the loop of somebody at work.
quick: $(VENV)/.test $(VENV)/.built-$(SEGLOSS_BUILD)
	$(PYTEST) --tier=quick $(ARGS)

# All that a change must pass: natively, under Triton's interpreter, and without native kernels.
test-all: $(VENV)/.test $(VENV)/.recipes $(VENV)/.built-$(SEGLOSS_BUILD)
	BIN=$(abspath $(BIN)) WORKERS=$(WORKERS) scripts/test_all.sh

# Where the time of the last make test-all went.
test-durations: $(VENV)/.test
	test -f build/durations.jsonl || $(MAKE) test-all
	$(BIN)/python scripts/test_durations.py build/durations.jsonl

# Plants faults in copies of the source tree, and names the tests that catch them.
test-faults: $(VENV)/.test $(VENV)/.built-$(SEGLOSS_BUILD)
	$(BIN)/python -m tests.faults $(ARGS)

# The native code under the sanitizers: its fuzzers, CUDA C++ on the CPU, and without
# torch under that of threads. Longer than make test-all has time for.
sanitize: $(VENV)/.test $(VENV)/.built-$(SEGLOSS_BUILD)
	$(PYTEST) --tier=hand -m sanitizers $(ARGS)

# Random calls of all that is public, and of the raw operators, each with a time limit.
fuzz: $(VENV)/.test $(VENV)/.built-$(SEGLOSS_BUILD)
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(ARGS)

# Tensors of 2^31 elements and more, one at a time, within 12 GiB.
huge: $(VENV)/.test $(VENV)/.built-$(SEGLOSS_BUILD)
	$(BIN)/python -m pytest --tier=hand -m huge $(ARGS)

# Installs under other Pythons, torches and compilers, each with its quick tests: downloads gigabytes.
install-matrix: $(VENV)/.test $(VENV)/.built-$(SEGLOSS_BUILD)
	$(BIN)/python -m tests.install_matrix $(ARGS)

# Form first: it fails within seconds.
check: $(VENV)/.test $(VENV)/.check
	$(BIN)/python scripts/check_form.py
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(CXX_SOURCES) | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/mypy

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(CXX_SOURCES) | xargs $(BIN)/clang-format -i

bench: $(VENV)/.bench $(VENV)/.built-$(SEGLOSS_BUILD)
	$(BIN)/python benchmarks/run.py

# What __all__ names; beside it the packages whose docstrings hold the keywords and the formulas.
docs: $(VENV)/.docs $(VENV)/.built-$(SEGLOSS_BUILD)
	$(BIN)/pdoc --docformat google --output-directory build/docs \
		segloss_fast segloss_fast.losses $(addprefix segloss_fast.ops.,region_sums lovasz distance_transform \
		soft_skeleton structural_error connected_components component_sums)
	@echo "API reference: build/docs/index.html"

build: $(VENV)/.built-$(SEGLOSS_BUILD)

# A wheel with native kernels, in dist/, or an error.
wheel: $(VENV)/.base
	$(PIP) build
	rm -rf dist build/lib* build/bdist*
	SEGLOSS_BUILD=require $(BIN)/python -m build --no-isolation --wheel --outdir dist .

# Runs the tests of make test on that wheel, in an environment of its own.
wheel-check: wheel
	PYTHON=$(PYTHON) scripts/check_wheel.sh "$(ARGS)"

$(VENV)/.base: constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), f"Python 3.10 or later is needed, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip "setuptools>=77" wheel
	$(PIP) torch numpy pybind11 ninja
	touch $@

# One install at a time is current: native, or pure Python under SEGLOSS_BUILD=skip.
$(VENV)/.built-$(SEGLOSS_BUILD): $(VENV)/.base $(NATIVE)
	rm -f $(VENV)/.built-* segloss_fast/*.so
	$(PIP) --no-build-isolation --editable .
	$(BIN)/python -m segloss_fast
	touch $@

# The models of segmentation-models-pytorch need torchvision and timm; its losses, peers, torch only.
$(VENV)/.test $(VENV)/.recipes $(VENV)/.check $(VENV)/.demo $(VENV)/.bench $(VENV)/.docs: $(VENV)/.%: $(VENV)/.base pyproject.toml
	$(PIP) $$($(BIN)/python scripts/extra.py $*)
	$(if $(filter test bench,$*),$(PIP) --no-deps segmentation-models-pytorch==0.6.0)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info segloss_fast/*.so
