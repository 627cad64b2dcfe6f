# Every target sets up what it needs by itself, in folders of this checkout.
PYTHON ?= python3
VENV := .venv
MINISTACK_VENV := .venv-ministack
SERVERS_VENV := .venv-servers
NODE_SERVERS := .node-servers
JAVA_SERVERS := .java-servers
BENCH_VENV := .venv-bench
DOCS_VENV := .venv-docs
CHECKOV_VENV := .venv-checkov
AWSCLI_VENV := .venv-awscli
BIN := $(VENV)/bin
PIP_FLAGS := --disable-pip-version-check --no-input --quiet
CODE := config enclave local protocol workers tests

.PHONY: help setup setup-dev check test test-servers test-image vm-tools vm-test demo docs reference bench fuzz soak chaos lock format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.runtime: requirements.lock pyproject.toml
	@echo "setting up $(VENV) (about half a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --require-hashes -r requirements-build.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --require-hashes --no-build-isolation -r requirements.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@touch $@

$(MINISTACK_VENV)/.installed: requirements-ministack.lock
	@echo "setting up $(MINISTACK_VENV) (about a quarter of a minute)"
	@test -x $(MINISTACK_VENV)/bin/python || $(PYTHON) -m venv $(MINISTACK_VENV)
	@$(MINISTACK_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --require-hashes -r requirements-ministack.lock
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "adding the developer tools to $(VENV) (about half a minute)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --require-hashes --no-build-isolation -r requirements-dev.lock
	@touch $@

setup: $(VENV)/.runtime $(MINISTACK_VENV)/.installed ## what `make demo` needs
setup-dev: setup $(VENV)/.dev ## what `make check test` need

demo: setup ## a key is born and signs, on this machine, with real cryptography
	@$(BIN)/nitro-local demo

check: setup-dev ## format, lint, import rules, types, reference pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/pyright
	$(BIN)/python -m reference --check

reference: setup-dev ## write the reference pages of docs/ from the code
	$(BIN)/python -m reference

$(CHECKOV_VENV)/.installed: requirements-checkov.lock
	@echo "setting up $(CHECKOV_VENV) (a minute)"
	@test -x $(CHECKOV_VENV)/bin/python || $(PYTHON) -m venv $(CHECKOV_VENV)
	@$(CHECKOV_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-compile --no-deps --require-hashes -r requirements-checkov.lock
	@touch $@

$(AWSCLI_VENV)/.installed: requirements-awscli.lock
	@echo "setting up $(AWSCLI_VENV) (about a quarter of a minute)"
	@test -x $(AWSCLI_VENV)/bin/python || $(PYTHON) -m venv $(AWSCLI_VENV)
	@$(AWSCLI_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-compile --only-binary :all: --no-deps --require-hashes -r requirements-awscli.lock
	@touch $@

test: setup-dev $(CHECKOV_VENV)/.installed $(AWSCLI_VENV)/.installed ## all tests, with coverage, which must not fall below what is promised
	$(BIN)/pytest --cov --cov-report=term
	$(BIN)/python -m tests.coverage_gate

$(VENV)/.fuzz: $(VENV)/.dev requirements-fuzz.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --only-binary :all: --no-deps --require-hashes -r requirements-fuzz.lock \
		|| echo "no atheris for this Python: fuzzing by plain mutation"
	@touch $@

$(BENCH_VENV)/.installed: requirements-bench.lock
	@echo "setting up $(BENCH_VENV) (about half a minute)"
	@test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install $(PIP_FLAGS) --only-binary :all: --no-deps --require-hashes -r requirements-bench.lock
	@touch $@

bench: setup $(BENCH_VENV)/.installed ## measure the service beside other queue workers; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks

$(DOCS_VENV)/.installed: requirements-docs.lock
	@echo "setting up $(DOCS_VENV) (about half a minute)"
	@test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install $(PIP_FLAGS) --only-binary :all: --no-deps --require-hashes -r requirements-docs.lock
	@touch $@

docs: $(DOCS_VENV)/.installed ## build the pages of docs/ into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "open build/site/index.html; to search in it: python -m http.server --bind 127.0.0.1 --directory build/site"

MINUTES ?= 10
fuzz: setup-dev $(VENV)/.fuzz ## fuzz the parsers of hostile input for MINUTES minutes, guided by coverage where atheris is installed
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

REQUESTS ?= 100000
soak: setup ## sign REQUESTS times through one enclave, with the key cache and without, and watch its memory
	$(BIN)/python -m benchmarks.soak --requests $(REQUESTS)
	$(BIN)/python -m benchmarks.soak --requests $(REQUESTS) --no-cache

chaos: setup-dev ## break the service for MINUTES minutes and check it; SEED=… repeats a plan, JOBS=… says how many
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS))

$(SERVERS_VENV)/.installed: requirements-servers.lock
	@echo "setting up $(SERVERS_VENV) (about half a minute)"
	@test -x $(SERVERS_VENV)/bin/python || $(PYTHON) -m venv $(SERVERS_VENV)
	@$(SERVERS_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --require-hashes -r requirements-servers.lock
	@touch $@

$(NODE_SERVERS)/.installed: tests/servers/package.json tests/servers/package-lock.json
	@mkdir -p $(NODE_SERVERS) && cp $^ $(NODE_SERVERS)/
	@if command -v npm >/dev/null; then cd $(NODE_SERVERS) && npm ci --ignore-scripts --no-audit --no-fund --silent && touch .installed; \
	else echo "NO npm: fauxqs and dynalite are SKIPPED"; fi

$(JAVA_SERVERS)/.installed: tests/servers/pom.xml
	@mkdir -p $(JAVA_SERVERS)
	@if command -v java >/dev/null && command -v mvn >/dev/null; then \
		mvn --quiet --batch-mode --strict-checksums -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(JAVA_SERVERS) && touch $@; \
	else echo "NO java or mvn: ElasticMQ is SKIPPED"; fi

test-servers: setup-dev $(SERVERS_VENV)/.installed $(NODE_SERVERS)/.installed $(JAVA_SERVERS)/.installed ## the whole service on moto, on fauxqs and dynalite, and on ElasticMQ; the stacks on moto; says what was skipped
	$(BIN)/pytest tests/servers tests/deploy/test_deploy_moto.py -v --durations=0
	@echo "NOT TESTED: DynamoDB Local (its licence is not an open one)"

test-image: setup-dev ## make the contents of an enclave image twice, and compare them
	TEST_IMAGE=1 $(BIN)/pytest tests/deploy/test_deploy_contents.py -v

vm-tools: setup-dev ## fetch and build what the virtual machine needs, once, into a cache outside this folder; says what and how long
	@$(BIN)/python -m tests.vm.tools

vm-test: setup-dev ## the enclave images in virtual machines with /dev/nsm and AF_VSOCK; needs `make vm-tools`
	$(BIN)/pytest tests/vm/booted -m vm -v --durations=0 -p no:randomly

format: setup-dev ## put the code in its one form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## renew the lock files from pyproject.toml (needs uv)
	uv pip compile $(LOCK_FLAGS) -o requirements.lock pyproject.toml
	uv pip compile $(LOCK_FLAGS) -c requirements.lock -o requirements-dev.lock pyproject.toml --group dev
	uv pip compile $(LOCK_FLAGS) -o requirements-fuzz.lock --group fuzz
	uv pip compile $(LOCK_FLAGS) -o requirements-bench.lock --group bench
	uv pip compile $(LOCK_FLAGS) -o requirements-awscli.lock --group awscli
	uv pip compile $(LOCK_FLAGS) -o requirements-docs.lock --group docs
	uv pip compile $(LOCK_FLAGS) -o requirements-ministack.lock --group ministack
	uv pip compile $(LOCK_FLAGS) -o requirements-checkov.lock --group checkov
	uv pip compile $(LOCK_FLAGS) -o requirements-build.lock requirements-build.in
	uv pip compile $(LOCK_FLAGS) -o requirements-servers.lock requirements-servers.in
	uv pip compile $(LOCK_FLAGS) -o requirements-qemu.lock --group qemu

LOCK_FLAGS := --quiet --generate-hashes --universal --no-emit-index-url --no-header --no-annotate --python-version 3.11 --upgrade

clean: ## remove what the other targets made
	rm -rf $(VENV) $(MINISTACK_VENV) $(SERVERS_VENV) $(NODE_SERVERS) $(JAVA_SERVERS) $(BENCH_VENV) $(DOCS_VENV) $(CHECKOV_VENV) $(AWSCLI_VENV) .mypy_cache .ruff_cache .pytest_cache .coverage .hypothesis .fuzz .import_linter_cache build *.egg-info
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
