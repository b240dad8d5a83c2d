# Needs python3 (3.11 or newer) and make; everything else goes into .venv.
PYTHON ?= python3
EXTRAS ?= dev
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: setup demo bench test test-all shapes lint types docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
	  || { echo "spot-jax needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP)
	$(BIN)/spot demo

# Ours beside PEFT; needs the extra: make setup EXTRAS=dev,reference
bench: $(STAMP)
	$(BIN)/python -m bench.peers

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ''

# The default suite with the shapes and dtypes in all signatures checked by beartype
shapes: $(STAMP)
	CHECK_SHAPES=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_language.py

types: $(STAMP)
	$(BIN)/mypy

# site/; needs the extra: make setup EXTRAS=dev,docs; search wants a server: python -m http.server -d site
docs: $(STAMP)
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
