# Each target does all the set-up on a fresh machine: Python 3.11 to 3.13 with venv, and g++ for the dense CRF, are enough.
PYTHON      ?= $(shell command -v python3.11 || command -v python3)
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
PIP_ARGS    ?=
RESULTS     ?= results
BENCH       ?=
BIN         := $(VENV)/bin
INSTALL     := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) $(PIP_ARGS)
# pydensecrf2 asks for a Cython whose code Python 3.12 does not compile; with a later one it builds, and computes the same.
CRF         := $(INSTALL) 'cython>=3' setuptools wheel numpy && $(INSTALL) --no-build-isolation pydensecrf2==1.1

.PHONY: demo demo-verify test test-all bench lint types docs clean

demo: $(VENV)/.ready  ## train and compare on drawn pictures, print the table
	$(BIN)/harness run --experiment demo --results $(RESULTS)
	$(BIN)/harness report demo --results $(RESULTS)
	@echo "look at $(RESULTS)/report/gallery-toy-strict.png, and open $(RESULTS)/report/report.html in a browser"

demo-verify: $(VENV)/.ready  ## train a small DeepLabV2 on pseudo-masks and on the ground truth, print the table
	$(BIN)/harness run --experiment demo-verify --results $(RESULTS)
	$(BIN)/harness report demo-verify --results $(RESULTS)

test: $(VENV)/.ready  ## the tests of every commit, two at a time: half of theirs is waiting for processes
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup

test-all: $(VENV)/.ready  ## all tests, the long ones too
	$(BIN)/python -m pytest

bench: $(VENV)/.ready  ## side by side with what people use today; BENCH names rows and options
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

docs: $(VENV)/.ready  ## docs/ as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/methods/index.html"

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import sys; sys.exit(sys.version_info >= (3, 12))" || { $(CRF); }
	$(INSTALL) -e ".[all,bench,dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
