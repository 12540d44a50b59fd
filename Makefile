# make demo   train on the sample, compress it, score it, and print one table
# make test   every test, in an environment of its own
# make kills  every verb killed at many random moments, which takes an hour
# make docs   the site, into site/: warnings are errors, links are checked
# make gallery  every picture and number of docs/lecture.md, from trainings, in under half an hour
# make check  ruff, mypy and the rooms
# make attacks  hostile models, archives and data: each has to be refused in a line
# make fuzz   every parser, ten minutes each (SECONDS=60: one)
# make rooms  which room imports which, lowest layer first
# make typed  lets mypy find the package from your own programs; the others do that, too

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
TYPED := $(abspath $(VENV))/typed

.PHONY: demo gallery docs test attacks fuzz kills check rooms typed format clean

demo: $(VENV)/installed-bench typed
	$(BIN)/python examples/demo.py demo

gallery: $(VENV)/installed-bench typed
	$(BIN)/python examples/gallery gallery

docs: $(VENV)/installed-docs
	rm -rf site
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env \
	  --conf-dir docs --doctree-dir build/doctrees . site
	$(BIN)/python docs/check_site.py site

test: $(VENV)/installed-test typed
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

attacks: $(VENV)/installed-test
	$(BIN)/python tests/attacks/attacks.py $(ATTACKS)

fuzz: $(VENV)/installed-test
	$(BIN)/python -W ignore tests/attacks/fuzz.py $(or $(SECONDS),600)

kills: $(VENV)/installed-test
	KILLS=50 $(BIN)/python -m pytest -q tests/test_kills.py

check: $(VENV)/installed-dev typed rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy compressor plugins cli.py examples/demo.py examples/detectors.py \
	  examples/gallery docs/check_site.py docs/plain_docstrings.py benchmarks

rooms: | $(BIN)/python
	$(BIN)/python tests/rooms.py

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[train,bench]'
	touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[docs]'
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $@

# mypy cannot follow the import hook that an editable install is, but it can follow links. A folder
# is one link, whatever is in it; compressor/ itself, where files come and go, is linked anew.
typed: $(TYPED)

$(TYPED): compressor | $(BIN)/python
	@rm -rf $@
	@mkdir -p $@/compressor
	@ln -s $(addprefix $(CURDIR)/,$(filter-out %/__pycache__,$(wildcard compressor/*)) plugins cli.py) \
	  $@/compressor
	@echo $@ > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/compressor_typed.pth"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) demo gallery site build dist *.egg-info
