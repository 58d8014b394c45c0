# Everything sets itself up: `make demo` and `make test` create .venv and install when needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

export FLWR_TELEMETRY_ENABLED := 0
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test lint types check bench gpu-bundle docs clean

demo: $(READY)          ## the main job on embedded data: table, figures, report in results/quickstart
	$(BIN)/fedkd run quickstart --report

test: $(READY)          ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

check: lint types test  ## what .ci/run does

bench: $(READY)         ## every ratio of docs/performance.md: make bench ARGS="--quick --data mnist.npz"
	$(BIN)/python -m benchmarks $(ARGS)

gpu-bundle: $(READY)    ## what a machine with plain PyTorch lacks to run benchmarks/gpu.py, in one folder
	$(BIN)/python -m benchmarks.bundle gpu-bundle

docs: $(READY)          ## pages and figures that are made from the code
	$(BIN)/fedkd list --markdown > docs/catalogue.md
	$(BIN)/python -m docs.gallery

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamp is written last: a killed installation is done again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedkd needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@
