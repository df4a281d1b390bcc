# Every verb makes what it needs. All of it lives in .venv, installed by plain pip from the hash-pinned lock.
#   make install PYTHON=python3.13    another Python
#   make test ARGS="-k ledger"        arguments for the command behind a verb

PYTHON ?= python3
ARGS ?=

VENV := .venv
LOCK := requirements/development.txt
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python -m
PIP := $(RUN) pip --quiet --disable-pip-version-check --no-input

# The stamp says which Python .venv was made by, and where. Where that is no longer so, where another
# Python is asked for, or where an installation was cut short (no stamp), .venv is made anew.
IDENTITY := import os, sys; print(*sys.version_info[:3], os.path.realpath(sys.base_prefix), os.path.realpath("$(VENV)"))
ASKED := $(if $(filter file,$(origin PYTHON)),$(VENV)/bin/python,$(PYTHON))
STALE := $(if $(filter-out 0,$(shell $(ASKED) -c '$(IDENTITY)' 2>/dev/null | cmp -s - $(STAMP); echo $$?)),new-venv)

.PHONY: help
help: ## this list
	@echo 'Goodsyard runs the jobs behind an order, each exactly once.'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: install
install: $(STAMP) ## make .venv, with .venv/bin/goodsyard, from the lock

$(STAMP): $(LOCK) pyproject.toml $(STALE)
	@rm -f $@
	@echo "Installing $$(grep -c '^[a-z0-9].*==' $(LOCK)) packages, as locked in $(LOCK), into $(VENV): about a minute ..."
	@$(PIP) install --require-hashes --requirement $(LOCK)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(VENV)/bin/python -c '$(IDENTITY)' > $@
	@echo "Installed: $(VENV)/bin/goodsyard"

.PHONY: new-venv
new-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Goodsyard needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1)." >&2; \
	  echo "Name one that is: make install PYTHON=python3.13" >&2; \
	  exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); \
	  echo "$(PYTHON) could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }

.PHONY: demo
demo: install ## start everything, send 6,919 real orders through it, check the books, stop
	@$(RUN) ops.demo $(ARGS)

.PHONY: up
up: install ## start everything and stay: API, workers, relay, Flower, on embedded servers
	@$(VENV)/bin/goodsyard up $(ARGS)

# pytest keeps what it made of each module, and every process started finds it, also where the
# environment says otherwise: to make it anew costs each pytest process seconds.
test faults fuzz fuzz-api: export PYTHONDONTWRITEBYTECODE =

# A hanging test ends its process. One that took its place would be given nothing to do, and the run
# would go on for ever; so the other process finishes, and the run names the test.
.PHONY: test
test: install ## the test suite, against servers it starts itself; ten minutes at the most
	@$(RUN) pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 -m "not long" $(ARGS)

.PHONY: test-live
test-live: install ## the tests of the API once more, over TCP to a server as it is shipped
	@$(RUN) pytest tests/integration/test_api_*.py --live $(ARGS)

.PHONY: faults
faults: install ## every row of the fault matrix, those that take their time included
	@$(RUN) pytest tests/faults -o faulthandler_timeout=900 --junit-xml=.faults.xml $(ARGS)
	@$(RUN) tests.matrix .faults.xml > docs/proof/faults.md

.PHONY: soak
soak: MINUTES ?= 30
soak: install ## everything that can go wrong, at random, for MINUTES=30; ARGS='--seed …' repeats a run
	@$(RUN) tests.soak --minutes $(MINUTES) $(ARGS)

.PHONY: faults-mutants
faults-mutants: install ## switch off one guard at a time and see the fault matrix fail; ARGS names some
	@$(RUN) tests.mutants $(ARGS)

.PHONY: bench
bench: install ## measure Goodsyard, its peers and the limits of this machine, in turn: an hour, alone on it
	@$(RUN) benchmarks $(ARGS)

.PHONY: bench-quick
bench-quick: install ## the same of Goodsyard and the limits alone, in three minutes
	@$(RUN) benchmarks --quick $(ARGS)

.PHONY: bench-flow
bench-flow: install ## measure limits, fairness and priorities through faults, and draw them: eight minutes
	@$(RUN) benchmarks.flow $(ARGS)

.PHONY: fuzz
fuzz: EXAMPLES ?= 20000
fuzz: SEED ?= $(shell od -An -N4 -tu4 /dev/urandom)
fuzz: install ## tell EXAMPLES=20000 more stories of failure to the whole flow; SEED=… repeats a run
	@seed=$(strip $(SEED)); echo "Seed: $$seed, examples: $(EXAMPLES)"; \
	  EXAMPLES=$(EXAMPLES) $(RUN) pytest tests/property/test_state_machine.py \
	  --hypothesis-seed=$$seed -o faulthandler_timeout=0 $(ARGS)

.PHONY: docs-api
docs-api: install ## ask a running system each call of the API, and write docs/api
	@$(RUN) tests.api_docs

.PHONY: fuzz-api
fuzz-api: EXAMPLES ?= 50
fuzz-api: MINUTES ?= 10
fuzz-api: SEED ?= $(shell od -An -N4 -tu4 /dev/urandom)
fuzz-api: install ## ask the API whatever its document allows, EXAMPLES=50 a call, MINUTES=10; SEED=… repeats a run
	@seed=$(strip $(SEED)); echo "Seed: $$seed, examples: $(EXAMPLES), minutes: $(MINUTES)"; \
	  FUZZ_API_SEED=$$seed FUZZ_API_EXAMPLES=$(EXAMPLES) FUZZ_API_MINUTES=$(MINUTES) \
	  $(RUN) pytest tests/fuzz -s -o faulthandler_timeout=0 $(ARGS)

.PHONY: check
check: install ## format, lint, types, import rules
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(VENV)/bin/deptry .

.PHONY: audit
audit: install ## look for secrets in what git tracks, then ask for known vulnerabilities in what is locked
	@$(MAKE) --no-print-directory secrets
	@$(VENV)/bin/pip-audit --strict --progress-spinner off --require-hashes --disable-pip --requirement $(LOCK) || { \
	  echo "No word that what is locked is sound: it has known vulnerabilities, or nobody could be asked; see above." >&2; \
	  exit 1; }

# Status 3 says that what is known has moved within its file, which the baseline has followed by itself.
# What isn't a secret: detect-secrets scan --baseline .secrets.baseline; detect-secrets audit .secrets.baseline
.PHONY: secrets
secrets: install ## look for keys and passwords in what git tracks; FILES names others
	@files=$$($(if $(FILES),echo $(FILES),git ls-files)) && \
	  { $(VENV)/bin/detect-secrets-hook --baseline .secrets.baseline $$files || [ $$? -eq 3 ]; } && \
	  echo "No secret that isn't known, in $$(echo $$files | wc -w) files."

# Its warning is that a requirements file doesn't say what needs what.
.PHONY: sbom
sbom: install ## write the bill of what the image installs, dist/sbom.cdx.json (CycloneDX)
	@mkdir -p dist
	@$(VENV)/bin/python -W ignore::UserWarning -m cyclonedx_py requirements --pyproject pyproject.toml \
	  --output-reproducible --output-file dist/sbom.cdx.json requirements/production.txt
	@echo "Written: dist/sbom.cdx.json"

# --system-certs: the certificates this machine trusts, as pip and the browser do.
COMPILE = $(VENV)/bin/uv pip compile --quiet --system-certs --universal --python-version 3.11 \
  --fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'make lock'

.PHONY: lock
lock: install ## lock again after a change in pyproject.toml; ARGS=--upgrade takes newer versions
	@$(COMPILE) $(ARGS) pyproject.toml --output-file requirements/production.txt
	@$(COMPILE) $(ARGS) pyproject.toml --extra embedded --group dev --constraint requirements/production.txt --output-file $(LOCK)
	@$(COMPILE) --group build --constraint $(LOCK) --output-file requirements/build.txt

.PHONY: clean
clean: ## remove what make made; the data of `make up` stays
	@rm -rf $(VENV) .api-docs .bench .demo .faults.xml .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
