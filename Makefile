# Everything lives in .venv; each target sets up what it needs and can be run again.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test check lint bench docs lock clean

help:
	@echo "make demo   train on the bundled characters; a table, an HTML report      (a few minutes)"
	@echo "make test   run the tests"
	@echo "make check  ruff, pyright and the tests"
	@echo "make bench  miner, loss and index throughput against PML and FAISS        (3 minutes)"
	@echo "make docs   build the documentation into site/"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"legolas_metric needs Python >= 3.11, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/.installed-%: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing legolas-metric[$*] into .venv (once; several minutes where torch must be downloaded) ..."
	$(PIP) install -c constraints.txt -e '.[$*]'
	@touch $@

demo: .venv/.installed-train,report
	$(BIN)/legolas-metric demo --out runs/demo

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 1

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

check: lint test

bench: .venv/.installed-dev
	$(BIN)/python -m pytest benchmarks

docs: .venv/.installed-dev
	$(BIN)/zensical build --strict --clean

lock: .venv/.installed-dev
	@sed -n '/^#/p' constraints.txt > constraints.new
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' >> constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf .venv site dist runs .pytest_cache .ruff_cache .benchmarks .hypothesis
