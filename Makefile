# Everything a user or a maintainer does. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
STORE ?= store
# Left out when empty: `make run` then builds the built-in corpus.
AUDIO ?=
# `key=value` overrides of the run configuration, separated by blanks.
SET ?=
# Of images: podman or docker (options may follow), what both build and run need here, and what a build needs, such as mounts.
CONTAINER_TOOL ?= podman
CONTAINER_ARGS ?=
BUILD_ARGS ?=
PYTHON_IMAGE ?= python:3.11-slim-bookworm
CPU_IMAGE := $(shell sed -n 's/^IMAGE = "\(.*\)"/\1/p' components/image.py)

VENV := .venv
BIN := $(VENV)/bin
SOURCES := fakesound components pipelines tests benchmarks images

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# Stamps: installed once (byte-compiled, or the first run would pay for it), and again when a lock or the package's metadata changes.
$(VENV)/.uv: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "error: $(PYTHON) must be Python 3.11 or 3.12; choose one with: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt
	@touch $@

$(VENV)/.runtime: $(VENV)/.uv requirements/runtime.txt pyproject.toml
	@echo "Installing the locked packages into $(VENV)/ (torch among them: several GB)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/runtime.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -c "import fakesound.models.scan.cpu_kernels" # compiles the scan once, for all processes
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/.runtime ## install what a run needs into .venv/

.PHONY: run
run: $(VENV)/.runtime ## the whole road on this machine; AUDIO=folder for your own recordings
	$(BIN)/python -m pipelines.local --store "$(STORE)" $(if $(AUDIO),--recordings "$(AUDIO)") $(foreach s,$(SET),--set '$(s)')

.PHONY: test
test: lint ## linters, types, contracts and all tests but the slow ones
	$(BIN)/pytest -m "not slow and not gpu and not multihost"

.PHONY: test-slow
test-slow: $(VENV)/.dev ## the tests that take minutes
	$(BIN)/pytest -m slow

.PHONY: test-gpu
test-gpu: $(VENV)/.dev ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu

.PHONY: test-multihost
test-multihost: $(VENV)/.dev ## training on two hosts (network namespaces: root and the command ip)
	$(BIN)/pytest -m multihost -rs

.PHONY: lint
lint: images-lint ## ruff, pyright, import contracts, hadolint
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright
	$(BIN)/lint-imports

.PHONY: images-lint
images-lint: $(VENV)/.dev ## hadolint over the Dockerfiles
	$(BIN)/hadolint images/Dockerfile.cpu images/Dockerfile.cuda

.PHONY: images-check
images-check: ## build the CPU image; doctor and a detection in it, locked down (images/README.md)
	$(CONTAINER_TOOL) build $(CONTAINER_ARGS) $(BUILD_ARGS) --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) \
	  -f images/Dockerfile.cpu -t $(CPU_IMAGE) .
	$(CONTAINER_TOOL) run --rm --interactive --read-only --tmpfs /tmp --network none --cap-drop ALL \
	  --security-opt no-new-privileges $(CONTAINER_ARGS) $(CPU_IMAGE) python - < images/check_inside.py

.PHONY: format
format: $(VENV)/.dev ## let ruff lay the code out
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: pipeline
pipeline: $(VENV)/.runtime ## recompile pipelines/unseen_attack.yaml
	$(BIN)/kfp dsl compile --py pipelines/unseen_attack.py --output pipelines/unseen_attack.yaml

.PHONY: lock
lock: $(VENV)/.uv ## resolve the locks anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --output-file requirements/runtime.txt pyproject.toml requirements/pins.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra dev --constraint requirements/runtime.txt --output-file requirements/dev.txt pyproject.toml requirements/pins.in
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["cuda"], sep="\n")' \
	  | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --constraint requirements/runtime.txt --output-file requirements/cuda.txt -

.PHONY: clean
clean: ## remove the environment (never the store)
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
