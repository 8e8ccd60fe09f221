# Two commands: `make quickstart` shows what Tamis does, `make test` proves it.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: install quickstart test lint peers peers-models bench quality

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

# Peers live in an environment of their own: their versions never meet the project's.
peers: .venv-peers/.installed

peers-models: .venv-peers/.models

.venv-peers/.models: .venv-peers/.installed benchmarks/peers-models.txt
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary -r benchmarks/peers.txt -r benchmarks/peers-models.txt
	touch $@

.venv-peers/.installed: benchmarks/peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary -r benchmarks/peers.txt
	touch $@

bench: $(VENV)/.tested peers-models
	$(VENV)/bin/python -m benchmarks --write docs/benchmarks.md

quality: $(VENV)/.tested peers-models
	$(VENV)/bin/python -m benchmarks --quality --write docs/quality.md
