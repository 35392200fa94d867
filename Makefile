# Two commands do all of it:  make demo   trains and shows ALDA
#                             make test   checks the code and runs the tests
# and, for developers, make test-mujoco4 runs the tests of the environments with MuJoCo 4.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-mujoco4 setup

demo: setup
	$(BIN)/alda demo

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --dist loadfile

ENVIRONMENT_TESTS := envs distracting video pool

# In an environment of its own; everything else here is MuJoCo 3.17.
test-mujoco4: BIN := .venv-mujoco4/bin
test-mujoco4: .venv-mujoco4/installed
	@scripts/ensure_rendering.sh $(BIN)
	$(BIN)/pytest --numprocesses auto $(ENVIRONMENT_TESTS:%=tests/test_%.py)

setup: .venv/installed
	@scripts/ensure_rendering.sh $(BIN)

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "alda needs Python 3.11 to 3.13; name one: make demo PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@echo 'installing into .venv: 2 GB without a GPU, several GB with CUDA'
	$(BIN)/python -m pip install --no-compile --constraint constraints.txt --editable '.[dev,plot,video]'
	touch $@

.venv-mujoco4/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-mujoco4
	sed 's/^mujoco==.*/mujoco==4.0.0/' constraints.txt > .venv-mujoco4/constraints.txt
	.venv-mujoco4/bin/python -m pip install --constraint .venv-mujoco4/constraints.txt --editable '.[dev,plot,video]'
	touch $@
