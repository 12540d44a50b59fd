# make demo   train on the sample, compress it, score it, and print one table
# make test   every test, in an environment of its own
# make check  ruff and mypy

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test check format clean

demo: $(VENV)/installed-bench
	$(BIN)/python examples/demo.py demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy compressor plugins cli.py examples/demo.py examples/detectors.py benchmarks

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[train,bench]'
	touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) demo build dist *.egg-info
