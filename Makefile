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

# The newest Python that is here, on the path or of pyenv: what the wheel is tried on.
NEWEST      ?= $(firstword $(foreach version,3.13 3.12 3.11,$(wildcard $(HOME)/.pyenv/versions/$(version).*/bin/python) $(shell python$(version) -c 'import sys; print(sys.executable)' 2>/dev/null)))
WHEEL       := build/wheel

.PHONY: demo demo-verify test test-all bench lint types docs wheel clean

demo: $(VENV)/.ready  ## train and compare on drawn images, print the table
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

wheel:  ## the wheel alone on the newest Python: built, installed without the checkout, doctor and a run
	rm -rf $(WHEEL)
	$(NEWEST) -m venv $(WHEEL)/env
	$(MAKE) --no-print-directory BIN=$(WHEEL)/env/bin $(WHEEL)/installed
	cd $(WHEEL) && env/bin/harness doctor && env/bin/harness run --methods vitpcm,cam --backbones timm:test_vit --limit 4 \
	  --set '*.epochs=1' --set '*.image_size=64' --set '*.inference_size=64' --refine none,crf:vitpcm && env/bin/harness report

$(WHEEL)/installed:
	$(CRF)
	$(INSTALL) build
	$(BIN)/python -m build --wheel --outdir $(WHEEL) .
	$(INSTALL) "$$(echo $(WHEEL)/*.whl)[all]"
	touch $@

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import sys; sys.exit(sys.version_info >= (3, 12))" || { $(CRF); }
	$(INSTALL) -e ".[all,bench,dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
