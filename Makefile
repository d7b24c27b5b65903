# make demo    restore a picture with the command line tool
# make test    run the tests and the doctests
# make check   lint, formatting, types
# make bench   measure speed and memory against PyTorch; hours
# make bench-check   whether the recorded ratios still hold; minutes
# make clean   remove what these made
#
# All of it runs in .venv, made once and brought up to date when pyproject.toml changes.

PYTHON ?= python3
# EXTRA=test leaves out torch (and make check): the tests that need it skip.
EXTRA ?= dev
CHECKPOINT ?=

BIN := .venv/bin
# Files of PyTorch need torch to be read, folders that were converted before do not.
DEMO_SET_UP := .venv/set-up-$(if $(filter %.pth %.pt,$(CHECKPOINT)),dev,demo)
ifeq ($(CHECKPOINT),)
CONVERT := examples/nafnet-random.safetensors build/demo-checkpoint --set 'train_size=[32,32]'
else ifeq ($(wildcard $(CHECKPOINT)/model.json),)
CONVERT := "$(CHECKPOINT)" build/demo-checkpoint
endif

.DELETE_ON_ERROR:
.PHONY: demo test check bench bench-check clean

demo: $(DEMO_SET_UP)
	@mkdir -p build
ifdef CONVERT
	rm -rf build/demo-checkpoint
	$(BIN)/tlc-jax convert $(CONVERT)
endif
	$(BIN)/tlc-jax restore examples/kodim.png --output build/demo.png --overwrite \
	  --checkpoint $(if $(CONVERT),build/demo-checkpoint,"$(CHECKPOINT)")
ifeq ($(CHECKPOINT),)
	@echo "These weights are RANDOM: build/demo.png is no restoration, it only shows that all runs."
	@echo "To restore, name published weights or what was made of them: make demo CHECKPOINT=path"
endif

test: .venv/set-up-$(EXTRA)
	$(BIN)/python -m pytest

check: .venv/set-up-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: .venv/set-up-dev
	$(BIN)/python -m benchmarks

bench-check: .venv/set-up-dev
	$(BIN)/python -m benchmarks check

clean:
	rm -rf .venv build

.venv/set-up-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable . "safetensors>=0.5"
	@touch $@

.venv/set-up-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "tlc-jax needs Python 3.11 or newer: make PYTHON=path/to/python")'
	$(PYTHON) -m venv .venv
