# One word for each thing a person does here. `make` alone lists them and says what this machine lacks.
# Options: ARGS="..." is passed on; TORCH=cpu|default chooses the build of torch; PYTHON=... the interpreter.

.DEFAULT_GOAL := help
.PHONY: help setup demo app test faults check format bench screenshots clean

ARGS ?=
TORCH ?= auto

# The first interpreter that is new enough; set-up explains itself if there is none.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; done)
ANY_PYTHON = $(or $(PYTHON),$(shell command -v python3 || command -v python))

VENV := $(CURDIR)/.venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# Holds Qt's system libraries if set-up had to bring them (packaging/qt_libraries.py); no harm if it does not exist.
RUN = LD_LIBRARY_PATH="$(VENV)/qt-libraries$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}"

help:
	@echo "make setup        make .venv with everything (the other words do this first)"
	@echo "make demo         the whole way on the sample teacher: elicit, train, export, answer"
	@echo "make app          open the window"
	@echo "make test         the tests            make faults   the long ones: kills, full disks, hostile files"
	@echo "make check        ruff, mypy, import contracts, file length        make format   ruff's own formatting"
	@echo "make bench        measure              make screenshots   every page, light and dark"
	@echo "make clean        remove caches and build products (not .venv)"
	@echo
	@$(or $(ANY_PYTHON),$(MAKE) -s no-python) $(if $(ANY_PYTHON),packaging/requirements_check.py) || true

.PHONY: no-python
no-python:
	@echo "Missing: Python 3.11 or newer"
	@echo "    Debian, Ubuntu: sudo apt install python3 python3-venv"
	@echo "    Fedora:         sudo dnf install python3.11"
	@echo "    macOS:          brew install python@3.11"
	@echo "    Windows:        winget install Python.Python.3.11"
	@false

setup:
ifeq ($(ANY_PYTHON),)
	@$(MAKE) -s no-python
else
	@$(ANY_PYTHON) packaging/setup_environment.py --torch $(TORCH)
endif

demo: setup
	@$(RUN) $(BIN)/kdstudio demo $(ARGS)

app: setup
	@$(RUN) $(BIN)/kdstudio $(ARGS)

test: setup
	@$(RUN) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

faults: setup
	@$(RUN) $(BIN)/python -m pytest -m "slow or faults" $(ARGS)

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports
	@$(BIN)/python packaging/file_length.py
	@$(BIN)/python packaging/make_sample.py --check

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup
	@$(RUN) $(BIN)/python -m tests.benchmarks $(ARGS)

screenshots: setup
	@$(RUN) QT_QPA_PLATFORM=offscreen $(BIN)/python packaging/screenshots.py $(ARGS)

clean:
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find kdstudio tests packaging -name __pycache__ -type d -exec rm -rf {} +
