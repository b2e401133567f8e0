# Everything is installed into .venv from the versions and hashes in deploy/requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
READY := $(VENV)/.ready
UV_VERSION := 0.13.9
export UV_NO_PROGRESS := 1
export UV_PYTHON_DOWNLOADS := never

.PHONY: help setup demo test check format lock clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## install everything into .venv

$(UV):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"

$(READY): $(UV) pyproject.toml deploy/requirements.lock
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes deploy/requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --offline --editable .
	@touch $@

lock: $(UV) ## resolve deploy/requirements.lock anew
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --all-extras --output-file deploy/requirements.lock pyproject.toml
