# Everything is installed into .venv from the versions and hashes in deploy/requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
READY := $(VENV)/.ready
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1
MINUTES ?= 5
JOBS ?= 2
PACKAGES := visionpipe workers models
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml
export UV_NO_PROGRESS := 1
# The system may trust a certificate that uv does not know, behind a company proxy for example.
export UV_SYSTEM_CERTS ?= 1
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compiling torch's Python anew in every process costs each worker seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test slow faults soak fuzz audit bench bench-parity check format lock clean gpu-wheels gpu-check
.DELETE_ON_ERROR:

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## install everything into .venv

demo: $(READY) ## run 1,838 real files through a real queue and show the results (ARGS=... adds options)
	@$(BIN)/visionpipe demo $(ARGS)

test: $(READY) ## run all but the slow tests, in two processes (JOBS=2; ARGS=... adds options)
	@$(BIN)/python -P -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

faults: $(READY) ## run all tests that kill, cut and wait, also the slow ones (ARGS=... adds options)
	@FAULTS_JSON=faults-out/faults.json $(BIN)/python -P -m pytest -s -m "not (bench or soak)" tests/faults tests/acceptance $(ARGS)

slow: $(READY) ## run the slow tests (ARGS=... adds options)
	@$(BIN)/python -P -m pytest -m slow $(ARGS)

soak: $(READY) ## random faults under random load (MINUTES=5, SEED=..., else one at random)
	@FAULTS_JSON=faults-out/soak.json $(BIN)/python -P -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

fuzz: $(READY) ## damaged pictures, drawn requests, a hostile client (ARGS="--minutes 60", --cases, --seed)
	@$(BIN)/python -P -m tests.fuzz $(ARGS)

audit: $(READY) ## look for insecure code of ours, and for known holes in the locked packages
	$(BIN)/ruff check --select S --ignore S101,S311,S603 visionpipe workers models deploy
	$(UV) tool run pip-audit==$(PIP_AUDIT_VERSION) --strict --disable-pip --no-deps --requirement deploy/requirements.lock

bench: $(READY) ## measure latency, overhead, folder runs against the ideal pipeline, memory
	@for part in latency explanations overhead throughput growth; do $(BIN)/python -P -m tests.bench.$$part || exit 1; done

gpu-wheels: $(READY) ## gather what gpu-check needs on a machine without network (ARGS="--python 3.12")
	@$(BIN)/python deploy/gpu_check/prepare.py $(ARGS)

gpu-check: ## test and measure on a GPU, with this system's torch and what gpu-wheels gathered (ARGS=... adds options)
	@$(PYTHON) deploy/gpu_check/check.py $(ARGS)

bench-parity: $(READY) ## hold what bf16, folding, compiling and scaled decoding answer against exact fp32
	@$(BIN)/python -P -m tests.bench.parity $(ARGS)

check: $(READY) ## lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -P -m pytest -q tests/test_imports.py

format: $(READY) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(UV) ## resolve the lock files in deploy/ anew
	$(COMPILE) --all-extras --upgrade --output-file deploy/requirements.lock
	$(COMPILE) --extra worker --constraint deploy/requirements.lock --output-file deploy/requirements-worker.lock
	$(COMPILE) --constraint deploy/requirements.lock --output-file deploy/requirements-client.lock

clean: ## remove .venv, caches and outputs
	rm -rf $(VENV) dist build demo-out bench-out faults-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's python3 may come without ensurepip; then the system's own pip fills the environment.
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "VisionPipe needs Python 3.11 or newer, got: $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet "uv==$(UV_VERSION)"; \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install --quiet "uv==$(UV_VERSION)"; \
	else \
	  echo "$(PYTHON) can neither make a virtual environment (ensurepip) nor run pip. On Debian or Ubuntu: apt install python3-venv"; exit 1; \
	fi

$(READY): $(UV) pyproject.toml deploy/requirements.lock
	@echo "Installing the locked packages into $(VENV)"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes deploy/requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --offline --editable .
	@touch $@
