# Every target sets up what it needs by itself, in folders of this checkout.
PYTHON ?= python3
VENV := .venv
MINISTACK_VENV := .venv-ministack
BIN := $(VENV)/bin
PIP_FLAGS := --disable-pip-version-check --no-input --quiet
CODE := config enclave local protocol workers tests

.PHONY: help setup setup-dev check test demo bench fuzz chaos lock format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.runtime: requirements.lock pyproject.toml
	@echo "setting up $(VENV) (about half a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r requirements-build.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes --no-build-isolation -r requirements.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@touch $@

$(MINISTACK_VENV)/.installed: requirements-ministack.lock
	@echo "setting up $(MINISTACK_VENV) (about a quarter of a minute)"
	@test -x $(MINISTACK_VENV)/bin/python || $(PYTHON) -m venv $(MINISTACK_VENV)
	@$(MINISTACK_VENV)/bin/python -m pip install $(PIP_FLAGS) --require-hashes -r requirements-ministack.lock
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "adding the developer tools to $(VENV) (about half a minute)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes --no-build-isolation -r requirements-dev.lock
	@touch $@

setup: $(VENV)/.runtime $(MINISTACK_VENV)/.installed ## what `make demo` needs
setup-dev: setup $(VENV)/.dev ## what `make check test` need

demo: setup ## a key is born and signs, on this machine, with real cryptography
	@$(BIN)/nitro-local demo

check: setup-dev ## format, lint, import rules, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/pyright

test: setup-dev ## all tests, with coverage
	$(BIN)/pytest --cov --cov-report=term

$(VENV)/.fuzz: $(VENV)/.dev requirements-fuzz.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --only-binary :all: --require-hashes -r requirements-fuzz.lock \
		|| echo "no atheris for this Python: fuzzing by plain mutation"
	@touch $@

MINUTES ?= 10
fuzz: setup-dev $(VENV)/.fuzz ## fuzz the parsers of hostile input for MINUTES minutes, guided by coverage where atheris is installed
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

chaos: setup-dev ## break the service for MINUTES minutes and check it; SEED=… repeats a plan, JOBS=… says how many
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS))

format: setup-dev ## put the code in its one form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## renew the lock files from pyproject.toml (needs uv)
	uv pip compile $(LOCK_FLAGS) -o requirements.lock pyproject.toml
	uv pip compile $(LOCK_FLAGS) -c requirements.lock -o requirements-dev.lock pyproject.toml --group dev
	uv pip compile $(LOCK_FLAGS) -o requirements-fuzz.lock --group fuzz
	uv pip compile $(LOCK_FLAGS) -o requirements-ministack.lock --group ministack
	uv pip compile $(LOCK_FLAGS) -o requirements-build.lock requirements-build.in

LOCK_FLAGS := --quiet --generate-hashes --universal --no-emit-index-url --no-header --no-annotate --python-version 3.11 --upgrade

clean: ## remove what the other targets made
	rm -rf $(VENV) $(MINISTACK_VENV) .mypy_cache .ruff_cache .pytest_cache .coverage .hypothesis .fuzz .import_linter_cache build *.egg-info
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
