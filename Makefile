# Thin verbs; `make` alone says what there is. Everything lives in .venv, nothing outside this folder is touched
# (save by test-host, which installs Debian packages).

VENV := .venv
BIN := $(VENV)/bin
# Which Python makes .venv: `make setup PYTHON=/path/to/python3`; by default the first one that is new enough.
PYTHON ?=
UV ?= uv

# One lock would do for pip, but production wants no servers and a demo no test tools.
READY_RUN := $(VENV)/.ready-run
READY_TEST := $(VENV)/.ready-test
# The packages under the names by which they are imported, for mypy and editors (MYPYPATH=$(ROOMS)).
ROOMS := $(VENV)/rooms
PACKAGES = $(shell sed -n 's/^"ulak\.\([a-z]*\)" = "[a-z]*"$$/\1/p' pyproject.toml)
# dlt, which `make bench` measures Ulak beside, shares no package with us.
BENCH_VENV := .venv-bench
READY_BENCH := $(BENCH_VENV)/.ready
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --no-input install -qq --progress-bar off
# Tests make their own servers: settings of the shell they are started from must not reach them.
CLEAN := env $(addprefix -u ,$(filter-out ULAK_TEST_% ULAK_CHAOS_%,$(shell env | sed -n 's/^\(ULAK_[A-Z_]*\)=.*/\1/p')))
PYTEST := $(CLEAN) $(BIN)/python -m pytest
IS_QUICK := not host and not slow and not long
# The longest first: while they wait for a sandbox, the others use the processors.
QUICK := tests/end_to_end tests/chaos tests/integration tests/laws tests/contract tests/unit
POSTGRES_15 := /usr/lib/postgresql/15/bin
ON_POSTGRES_15 := tests/laws/test_upsert_laws.py tests/integration
JOBS ?= 3

.DEFAULT_GOAL := help
.PHONY: help run setup test style types imports site quick test-host chaos bench sbom fix lock
.NOTPARALLEL:
.DELETE_ON_ERROR:

help: ## say what there is
	@echo "Ulak collects delivery reports into one table. Verbs:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

run: $(READY_RUN) ## set up .venv, then start everything: `ulak up` (Ctrl-C stops it)
	@echo "==> ulak up"
	@exec $(BIN)/ulak up

setup: $(READY_RUN) ## only set up .venv
	@echo "==> $(VENV) is ready: $(BIN)/ulak --help"

test: $(READY_TEST) ## set up .venv with the test tools; style, types, import direction, quick tests
	@$(MAKE) --no-print-directory --keep-going style types imports site quick
	@echo "==> everything passed"

style: $(READY_TEST)
	@echo "==> style: ruff check, ruff format --check"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: $(READY_TEST)
	@echo "==> types: mypy --strict"
	@$(BIN)/mypy

imports: $(READY_TEST)
	@echo "==> import direction: import-linter"
	@$(BIN)/lint-imports --no-logo

# The links work as they do in the repository, so the site has the same folders. Of deploy/ only what is linked to:
# it may hold secrets.
SITE := build/site-source

site: $(READY_TEST) ## build the documents as a site with search in build/site; fails on a dead link
	@echo "==> documents: zensical build --strict"
	@rm -rf $(SITE) && mkdir -p $(SITE)/deploy/dbt && cp -r *.md docs $(SITE)
	@cp api/pages/static/ulak.svg $(SITE)/docs && cp deploy/env.example $(SITE)/deploy
	@cp deploy/dbt/ulak_sources.yml $(SITE)/deploy/dbt
	@$(BIN)/zensical build --strict --clean >build/site.log 2>&1 || { cat build/site.log >&2; exit 1; }

quick: $(READY_TEST)
	@echo "==> quick tests, $(JOBS) at a time"
	@$(PYTEST) -q -n $(JOBS) --dist worksteal -m "$(IS_QUICK)" $(QUICK)

test-host: $(READY_TEST) ## the long tests, and those that need Debian packages: installs them with apt, as root
	@.ci/install-host-packages
	@echo "==> the database's tests on PostgreSQL 15"
	@ULAK_TEST_POSTGRES_BIN=$(POSTGRES_15) $(PYTEST) -q -n $(JOBS) --dist worksteal -m "$(IS_QUICK)" $(ON_POSTGRES_15)
	@echo "==> long tests of whole processes, $(JOBS) at a time"
	@$(PYTEST) -q -n $(JOBS) --dist worksteal -m "long and not host and not slow" $(QUICK)
	@echo "==> tests on the host's programs: PostgreSQL, Redis, faketime"
	@$(PYTEST) -q -m host tests

chaos: $(READY_TEST) ## the long fault tests (about 20 minutes)
	@echo "==> fault tests, about 20 minutes"
	@$(PYTEST) -v -n 2 --dist loadfile --timeout=1200 -m "not host" tests/chaos

bench: $(READY_TEST) ## the benchmarks; with BENCH=pipeline only that one
	@$(MAKE) --no-print-directory $(READY_BENCH) || echo "==> dlt could not be installed: its rows stay empty"
	@echo "==> benchmarks"
	@$(CLEAN) $(BIN)/python tests/bench $(BENCH)

# From an environment that holds what the image holds and nothing else, so that licences and dependencies are those installed.
sbom: $(READY_TEST) requirements/runtime.txt ## the bill of materials (CycloneDX) of what the image holds: build/sbom.json
	@echo "==> build/sbom.json"
	@rm -rf build/sbom && $(BIN)/python -m venv --without-pip build/sbom
	@PIP_PYTHON=build/sbom/bin/python $(INSTALL) --no-deps --require-hashes -r requirements/runtime.txt
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json build/sbom/bin/python
	@rm -rf build/sbom

fix: $(READY_TEST) ## formatters, and the mistakes that ruff can mend
	@echo "==> ruff check --fix, ruff format"
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

COMPILE = $(UV) pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
    --no-emit-index-url --custom-compile-command "make lock"

lock: ## compile requirements/*.txt anew from pyproject.toml (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv (pip install uv)." >&2; exit 1; }
	@echo "==> requirements/{dev,embedded,runtime,parquet,build,bench}.txt"
	@$(COMPILE) --extra embedded --extra parquet --group dev pyproject.toml -o requirements/dev.txt
	@$(COMPILE) --extra embedded -c requirements/dev.txt pyproject.toml -o requirements/embedded.txt
	@$(COMPILE) -c requirements/dev.txt pyproject.toml -o requirements/runtime.txt
	@$(COMPILE) --extra parquet -c requirements/dev.txt pyproject.toml -o requirements/parquet.txt
	@$(COMPILE) requirements/build.in -o requirements/build.txt
	@$(COMPILE) requirements/bench.in -o requirements/bench.txt

# --- .venv ------------------------------------------------------------------------------------------------------

$(READY_RUN): pyproject.toml requirements/embedded.txt requirements/build.txt | $(BIN)/python
	@echo "==> installing what Ulak needs into $(VENV) (hash-locked, about half a minute the first time)"
	@$(INSTALL) --require-hashes -r requirements/build.txt -r requirements/embedded.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(READY_TEST): pyproject.toml requirements/dev.txt requirements/build.txt | $(BIN)/python
	@echo "==> installing Ulak and its test tools into $(VENV) (hash-locked, about half a minute the first time)"
	@$(INSTALL) --require-hashes -r requirements/build.txt -r requirements/dev.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@rm -rf $(ROOMS) && mkdir -p $(ROOMS)/ulak && touch $(ROOMS)/ulak/__init__.py
	@for each in $(PACKAGES); do ln -s ../../../$$each $(ROOMS)/ulak/$$each; done
	@touch $(READY_RUN) $@

$(READY_BENCH): requirements/bench.txt | $(BIN)/python
	@echo "==> installing dlt into $(BENCH_VENV) (hash-locked, for the benchmark alone)"
	@$(BIN)/python -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --no-input install -qq --progress-bar off \
	    --require-hashes -r requirements/bench.txt
	@touch $@

$(BIN)/python:
	@fits() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }; \
	python=; for each in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	    if fits "$$each"; then python="$$each"; break; fi; done; \
	if [ -z "$$python" ]; then \
	    echo "Ulak needs Python 3.11 or newer, and $(or $(PYTHON),python3) is not: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "$$python has no venv module: install it (on Debian: apt install python3-venv), or name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; fi; \
	echo "==> $(VENV): $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV)
