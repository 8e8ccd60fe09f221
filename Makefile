# Two commands: `make quickstart` shows what Tamis does, `make test` proves it.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: install quickstart test lint

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Tamis needs Python 3.11 or newer")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary -c constraints.txt "torch==2.13.0"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary -c constraints.txt -e .
	touch $(STAMP)

quickstart: install
	$(VENV)/bin/tamis run manifests/quickstart.yaml

$(VENV)/.tested: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary -c constraints.txt -e ".[test]"
	touch $@

lint: $(VENV)/.tested
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy pipeline stages trainer

test: lint
	$(VENV)/bin/python -m pytest
