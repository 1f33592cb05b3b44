# `make demo` and `make test` need Python 3.11 to 3.13 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test check lowest matrix style format clean

demo: $(STAMP)
	@echo "== Training three models on generated ratings (about two minutes)"
	$(BIN)/tfmoe demo

test: style
	@echo "== Running the quick tests"
	$(PYTEST) -m "not slow"

check: style
	@echo "== Running all tests"
	$(PYTEST)

matrix: $(STAMP)
	@echo "== Running tests with the lowest and the newest versions, and from a wheel"
	$(BIN)/nox

lowest: $(STAMP)
	@echo "== Running tests with the lowest versions"
	$(BIN)/nox --session lowest

style: $(STAMP)
	@echo "== Checking style with ruff, types with mypy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "tfmoe needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "== Making .venv and installing tfmoe with TensorFlow (about 1 GB, some minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $(STAMP)

clean:
	rm -rf .venv .nox .mypy_cache build *.egg-info
