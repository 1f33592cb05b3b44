# `make demo` and `make test` need Python 3.11 to 3.13 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
VENV := .venv/.made
DEMO := .venv/.demo
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# In parts, each with workers of its own: TensorFlow keeps something of every graph, and one
# worker for all tests would grow by gigabytes. The last part is all that no other has, notebooks too.
PART_1 := tests/gates tests/objectives
PART_2 := tests/model tests/structures
PART_3 := tests/extraction tests/reports tests/serving
PART_4 := tests/benchmarks tests/golden tests/package
PART_5 := tests/cli tests/compute tests/heads
OTHERS := $(addprefix --ignore=,$(PART_1) $(PART_2) $(PART_3) $(PART_4) $(PART_5))

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test check lowest matrix style format docs clean

demo: $(DEMO)
	@echo "== Learning a made-up shop in 64 markets in five ways (about two minutes)"
	$(BIN)/tfmoe demo

test: style
	@echo "== Running the quick tests"
	$(PYTEST) -m "not slow" $(PART_1)
	$(PYTEST) -m "not slow" $(PART_2)
	$(PYTEST) -m "not slow" $(PART_3)
	$(PYTEST) -m "not slow" $(PART_4)
	$(PYTEST) -m "not slow" $(PART_5)
	$(PYTEST) -m "not slow" $(OTHERS)

# MOST=2: of a test with many slow cases two.
CHECK := $(PYTEST) $(if $(MOST),--most-cases $(MOST))

check: style
	@echo "== Running all tests"
	$(CHECK) $(PART_1)
	$(CHECK) $(PART_2)
	$(CHECK) $(PART_3)
	$(CHECK) $(PART_4)
	$(CHECK) $(PART_5)
	$(CHECK) $(OTHERS)

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

docs: $(STAMP)
	@echo "== Building the documentation into site/"
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "== Open site/index.html"

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "tfmoe needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "== Making .venv"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $(VENV)

# The demo waits for nothing that only tests need.
$(DEMO): setup.py | $(VENV)
	@echo "== Installing tfmoe with TensorFlow (about 1 GB, some minutes)"
	$(BIN)/python -m pip install --quiet --editable '.[plot]'
	@touch $(DEMO)

$(STAMP): setup.py | $(VENV)
	@echo "== Installing tfmoe with TensorFlow (about 1 GB, some minutes) and what its tests need"
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $(DEMO) $(STAMP)

clean:
	rm -rf .venv .nox .mypy_cache build site *.egg-info
