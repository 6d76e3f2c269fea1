# Every target sets up what it needs: a virtual environment in .venv, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Options for the command of a target: make serve ARGS="--port 9000"
ARGS ?=
# Lock file that `make lock` writes.
LOCK ?= requirements.lock
# CamVid, for `make train` and for the slow tests that measure on it.
CAMVID ?=

.DEFAULT_GOAL := help
.PHONY: help serve up test test-slow docker-test lock train evaluate variants lint format clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /|/' | column -t -s '|'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "installing the service into $(VENV): torch is large, this takes a minute or more"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing the service and the test tools into $(VENV): torch is large, this takes a minute or more"
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.runtime

serve: $(VENV)/.runtime ## Serve the default checkpoint on http://localhost:8000
	$(BIN)/python -m app.serve $(ARGS)

up: ## Serve with Docker, on the GPU if Docker has one; waits until it is ready
	@deploy/compose-file.sh
	FCN_REVISION=$$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null || echo unknown) \
	  docker compose up --build --detach --wait $(ARGS)

test: $(VENV)/.dev ## Run the tests, all but the slow ones and those that need Docker
	$(BIN)/python -m pytest -m "not slow and not docker" -n auto --dist loadgroup $(ARGS)

test-slow: $(VENV)/.dev ## Run the tests that take minutes; CAMVID=DIR adds those on CamVid
	FCN_TEST_CAMVID=$(CAMVID) $(BIN)/python -m pytest -m slow $(ARGS)

docker-test: $(VENV)/.dev ## Build the image and prove it: serve, train, reload, stop; 20 GB, many minutes
	tests/docker/with-engine.sh $(BIN)/python -m pytest -m docker --capture=no $(ARGS) tests/docker

lock: $(VENV)/.dev ## Write requirements.lock; ARGS=--upgrade takes the newest versions
	$(BIN)/uv pip compile pyproject.toml --extra tensorboard --python-version 3.12 --universal \
	  --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' --quiet \
	  --output-file $(LOCK) $(ARGS)

train: $(VENV)/.runtime ## Train the default checkpoint's recipe: make train CAMVID=DIR
	@test -n "$(CAMVID)" || { echo "say where CamVid is: make train CAMVID=DIR"; exit 2; }
	$(BIN)/python -m app.train --dataset camvid --data $(CAMVID) --out runs/street $(ARGS)

evaluate: $(VENV)/.runtime ## Measure the default checkpoint: make evaluate CAMVID=DIR
	@test -n "$(CAMVID)" || { echo "say where CamVid is: make evaluate CAMVID=DIR"; exit 2; }
	$(BIN)/python -m app.evaluate --dataset camvid --data $(CAMVID) $(ARGS)

variants: $(VENV)/.runtime ## Train FCN-32s, 16s and 8s on drawings, measure them, draw docs/images
	for variant in fcn32s fcn16s fcn8s; do \
	  $(BIN)/python -m app.train --dataset shapes --variant $$variant --out runs/$$variant $(ARGS) && \
	  $(BIN)/python -m app.evaluate --checkpoint runs/$$variant/best.safetensors \
	    --dataset shapes --split test --json runs/$$variant.json || exit; \
	done
	$(BIN)/python docs/figures.py runs

lint: $(VENV)/.dev ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
