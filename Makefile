# Everything runs in .venv, which is made on first use and renewed only when
# pyproject.toml or constraints.txt changes.

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 test` chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
# One stamp for each set of extras: the demo needs no developer's tools.
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
# What checks and releases the package stands apart from what it runs with.
TOOLS := build/tools/.installed
TOOLS_BIN := build/tools/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint types docs names coverage mutants soak test-versions audit release clean

help: ## say what can be made (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO) ## edit the embedded model with the built-in data: a report in runs/demo
	$(BIN)/dposcope edit gemma-3-270m --out runs/demo

test: $(DEV) ## run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 3

lint: $(DEV) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## check types, strictly in src
	$(BIN)/pyright

names: $(DEV) ## write anew the list of public names that a test compares
	PYTHONPATH=tests $(BIN)/python -m helpers.public_names

coverage: $(DEV) ## run every test and measure branches of src: 95 % at least; pages in build/coverage/html
	rm -rf build/coverage
	$(BIN)/python -m coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage html --quiet --fail-under=0
	$(BIN)/python -m coverage report --fail-under=95

mutants: $(DEV) ## change the numeric code in small ways, one at a time: do the tests notice? An hour; goes on where it stopped
	nice -n 15 $(BIN)/python benchmarks/mutants.py

soak: $(DEV) ## 200 edits in one process, and 50 kills of commands: is nothing left, is nothing lost? Minutes
	$(BIN)/python benchmarks/soak.py
	$(BIN)/python benchmarks/kills.py

docs: $(DEV) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-versions: $(TOOLS) ## run every test with the lowest and the newest packages, on Python 3.11 to 3.13; takes hours
	$(TOOLS_BIN)/python tools/versions.py --uv $(TOOLS_BIN)/uv $(if $(PYTHONS),--python $(PYTHONS)) \
		$(if $(CHOICE),--choice $(CHOICE)) $(if $(TESTS),--tests "$(TESTS)")

audit: $(DEV) $(TOOLS) ## list licences and known vulnerabilities of all packages, and write build/bom.json
	$(BIN)/python tools/audit.py --tools $(TOOLS_BIN) --bill build/bom.json

release: $(TOOLS) ## build wheel and sdist into dist/, check them, and use the wheel in a new environment
	$(TOOLS_BIN)/python tools/release.py --uv $(TOOLS_BIN)/uv

clean: ## remove the environment, caches and built documentation; keep runs/
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@"$(or $(PYTHON),false)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "dposcope needs Python 3.11 or newer$(if $(PYTHON),; $(PYTHON) is not,, and none is on the path);" \
			"install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[demo]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[demo,dev]'
	@touch $@

$(TOOLS): tools/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv --clear build/tools
	$(TOOLS_BIN)/python -m pip install --quiet --only-binary :all: -r tools/requirements.txt
	@touch $@
