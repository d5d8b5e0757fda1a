# make help lists the targets; `make demo` and `make test` need nothing but Python 3.11-3.13.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TESTS  := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
HERE   := not gpu and not network and not pretended

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-whole test-gpu rehearsal fuzz lint tables figures plan claims landscape notebooks doctor doctor-cuda bench bench-gpu clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[demo,dev,launchers,search]'
	@touch $@

setup: $(STAMP)  ## Create .venv with the pinned dependencies (a few minutes once, then instant)

demo: setup  ## Train a real 6-layer model in three ways on generated sentences, compare, keep one (under 5 minutes)
	@$(BIN)/python scripts/demo.py

test: setup  ## Run all tests that need neither a GPU nor a network (under 10 minutes)
	$(TESTS)

test-fast: setup  ## Run the tests of `make test` that take less than five seconds each (a few minutes)
	$(TESTS) -m "not slow and $(HERE) and not whole"

test-whole: setup  ## Run what make test leaves out: all methods, models and launchers in every test of some
	$(TESTS) -m "whole and $(HERE)"

test-gpu: setup  ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu

rehearsal: setup  ## Run every method in all ways on a pretended CUDA device (needs g++)
	PYTHONPATH=tests $(BIN)/python -m pytest -q -p pretend_cuda -m "gpu or pretended" tests/pretended tests/test_gpu_fast.py

fuzz: setup  ## Try thousands of inputs that nobody would write, from a fixed seed (ARGS='data --cases 100')
	$(BIN)/python -m tests.fuzz $(ARGS)

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the words of run.py: MODEL, LM, TRAIN, GRID, PROTOCOL, READOUT, and SET="train.epochs=3 ..." for every other
RUNS  = $(foreach key,MODEL LM TRAIN GRID PROTOCOL,$(if $($(key)),$(call lower,$(key))='$($(key))')) $(SET)
SHOWN = $(RUNS) $(if $(READOUT),readout='$(READOUT)') $(if $(COMPARE),compare='$(COMPARE)')
lower = $(shell echo $(1) | tr A-Z a-z)
REPORT = @set -f; $(BIN)/python scripts/report.py
OWN    = $(if $(CONFIG_DIR),--config-dir '$(CONFIG_DIR)')

# make tables MODEL=gte_small SET=train.epochs=3; COMPARE=roberta or READOUT=last,best: side by side; STRICT=1: fail on a gap
# CONFIG_DIR=mine: methods of your own, here and in plan, claims and figures
tables: setup  ## Write Tables 1-10 of MODEL (default bert) and results/tables/index.html from the records (seconds)
	$(REPORT) tables $(OWN) $(SHOWN) $(if $(filter 1,$(STRICT)),--strict)

# DEVICE=EPYC: hours of a recorded device. The output is a shell script
plan: setup  ## List what is still to be run, of TABLE=1 or of all: commands, hours, memory, longest first (seconds)
	$(REPORT) plan $(OWN) $(if $(TABLE),table='$(TABLE)') $(RUNS) $(if $(DEVICE),--device '$(DEVICE)')

# JSON=1: all numbers, tests and run ids
claims: setup  ## Judge the paper's claims on its own tables and on the records (seconds)
	$(REPORT) claims $(OWN) $(SHOWN) $(if $(filter 1,$(JSON)),--json)

figures: setup  ## Draw the figures of MODEL (default bert) into results/figures/<MODEL> from the records (a minute)
	$(REPORT) figures $(OWN) $(SHOWN)

landscape: setup  ## Place every rule of choice among all sets of layers: results/landscapes/index.html (seconds)
	$(REPORT) landscape $(OWN)

notebooks: setup  ## Run the notebooks and store them with their outputs (a minute)
	@$(BIN)/python scripts/notebooks.py

# make bench MODEL_PATH=<folder of gte_small> DATA_DIR=<folder of data sets>: also end to end on real TREC
bench: setup  ## Measure speed and memory beside Trainer, LoRA and hand-frozen layers (under 20 minutes on 2 idle cores)
	@$(BIN)/python -m scripts.benchmark cpu $(if $(MODEL_PATH),--model-path "$(MODEL_PATH)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(ARGS)

bench-gpu: setup  ## The same on a CUDA device, and step times, kernels and many runs at once
	@$(BIN)/python -m scripts.benchmark cuda $(if $(MODEL_PATH),--model-path "$(MODEL_PATH)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(ARGS)

doctor: setup  ## Say what this machine can run: device, versions, hub, Java
	@$(BIN)/python scripts/doctor.py

doctor-cuda: setup  ## Take steps on the GPU, captured and not, in fp32 and bf16; say which settings to give (30 seconds)
	@$(BIN)/python scripts/doctor.py cuda

clean:  ## Remove .venv and scratch outputs; results stay
	rm -rf $(VENV) outputs multirun build *.egg-info src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
