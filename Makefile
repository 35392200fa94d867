# Two commands do all of it:  make demo   trains and shows ALDA
#                             make test   checks the code and runs the tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup

demo: setup
	$(BIN)/alda demo

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto

setup: .venv/installed
	@scripts/ensure_rendering.sh $(BIN)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "alda needs Python 3.11 to 3.13; name one: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@echo 'installing into .venv: 1.3 GB without a GPU, several GB with CUDA'
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,plot,video]'
	touch $@
