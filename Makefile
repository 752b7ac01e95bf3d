PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format clean browser

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

test: check browser  ## everything that works offline on two cores
	$(BIN)/pytest

# The report is tested in a real browser, which Debian and Ubuntu have; without one, and without the
# right to install it, those tests are skipped and say so.
browser:
	@command -v chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && { apt-get update -qq; DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq chromium chromium-driver >/dev/null 2>&1; }; } \
	  || echo "No chromedriver: the browser tests will be skipped."

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv results build *.egg-info
