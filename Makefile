PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format clean

# The whole environment: a virtual one, with every version as pinned in constraints.txt.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed  ## the main job on the embedded sandbox
	$(BIN)/python jobs/evaluate.py

check: .venv/installed  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check  ## everything that works offline on two cores
	$(BIN)/pytest

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv results build *.egg-info
