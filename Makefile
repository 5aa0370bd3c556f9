# Every target sets up what it needs, ends what it starts, and can be run again.
# ARGS passes words on: make test ARGS="tests/speech -x"

PYTHON ?=
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.set-up

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cluster test-prometheus test-browser test-fast console screenshots coverage test-servers api lock image sim chaos soak mutants bench lint types types-js docs

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP)  ## Make .venv with everything, from the lock file (with uv, else venv and pip)

$(STAMP): pyproject.toml requirements/dev.txt tools/setup
	@echo "setting up .venv (once)"
	@tools/setup
	@touch $@

# A process that is done takes tests from the others. There are more processes than cores, because
# many tests wait for other processes: on two cores, five need four fifths of the time of three.
# Python keeps what it compiles: each process would compile the same modules anew.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
PARALLEL := -n $$(( 2 * $$(getconf _NPROCESSORS_ONLN) + 1 )) --dist worksteal
FAST := tests/unit tests/projections tests/golden tests/layout tests/docs/test_docs.py \
	tests/docs/test_pages.py tests/docs/test_glossary_and_decisions.py \
	tests/archive/test_merkle.py tests/encryption/test_keystore.py
# Also pure, but they decode and resample minutes of audio.
NOT_FAST := $(addprefix --ignore=tests/unit/,test_containers.py test_wav_channels.py test_wav_headers.py)

test: $(STAMP)  ## Run the tests that need no cluster, on all cores: 7 minutes on two
	@echo "$@: expect about 7 minutes on two cores; the last line shows the time"
	@$(PYTEST) $(PARALLEL) -m "not cluster and not prometheus and not browser" $(ARGS)

test-cluster: $(STAMP)  ## Run the tests that need a cluster: 3 minutes on two cores
	@echo "$@: expect at most 3 minutes on two cores; the last line shows the time"
	@EVENTSCHED_TEST_SERVERS=$${EVENTSCHED_TEST_SERVERS:-cluster} $(PYTEST) $(PARALLEL) -m cluster $(ARGS)

test-prometheus: $(STAMP)  ## Run the alert rules and dashboards on Prometheus, Debian's if there is none: 1 minute
	@EVENTSCHED_TEST_SERVERS=$${EVENTSCHED_TEST_SERVERS:-embedded} $(PYTEST) -m prometheus tests/deploy $(ARGS)

test-browser: $(STAMP) console  ## Run the tests in Chromium, which must be on PATH: 3 minutes
	@$(PYTEST) -m browser tests/js tests/console $(ARGS)

test-fast: $(STAMP)  ## Run the tests of pure code, without a server: 10 seconds
	@EVENTSCHED_TEST_SERVERS=none $(PYTEST) -q -m "not served" $(FAST) $(NOT_FAST) $(ARGS)

coverage: $(STAMP)  ## Measure which lines the tests run, and write docs/coverage.md: 7 minutes
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest $(PARALLEL) -q -m "not cluster and not prometheus and not browser" $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m tools.coverage_table

test-servers: $(STAMP)  ## Run all tests on each kind of server found: wheel, PATH, container
	@EVENTSCHED_TEST_SERVERS=all $(PYTEST) $(PARALLEL) -m "not browser" $(ARGS)

lint: $(STAMP)  ## Check style and formatting (ruff)
	@$(BIN)/ruff check . $(ARGS)
	@$(BIN)/ruff format --check --quiet . || { echo "remedy: $(BIN)/ruff format ." >&2; exit 1; }

console: $(STAMP)  ## Build the console into eventsched/gateway/static (npm of the lock file): 1 minute
	@$(BIN)/python -m tools.console

SHOTS ?= build/screenshots
screenshots: $(STAMP) console  ## Take pictures of the pages of the console in Chromium: SHOTS=DIR; DOCS=docs those of the docs
	@$(BIN)/python -m tests.console.screenshots $(SHOTS) $(DOCS)

types-js: $(STAMP)  ## Check types of the JavaScript client (TypeScript, installed by npm)
	@$(BIN)/python -m tools.types_js

lock: $(STAMP)  ## Write the lock file: requirements/*.txt, with hashes
	@tools/lock

image:  ## Build the container image and test it, with docker or podman
	@tools/image

api: $(STAMP)  ## Record the public names and signatures, and the stub for type checkers
	@$(BIN)/python -m tests.unit.public_api

types: $(STAMP)  ## Check types (mypy, strict)
	@$(BIN)/mypy $(ARGS)

demo: $(STAMP)  ## Run the main job on real speech: server, roles, recognising nodes
	@EVENTSCHED_QUEUE_TIMEOUT_MS=60000 $(BIN)/eventsched demo $(ARGS)

docs: $(STAMP)  ## Write the generated pages and build the site into site/
	@$(BIN)/python -m tools.pages
	@$(BIN)/python -m tools.audit_run
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

SEEDS ?= 100
sim: $(STAMP)  ## Simulate whole clusters under faults: SEEDS=1000, or one with SEED=7
	@$(BIN)/python -m tests.simulation.run $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

SOAK_MINUTES ?= 5
soak: $(STAMP)  ## Measure memory over conversations, then with a dead archiver: SOAK_MINUTES=30, or SESSIONS=2000
	@$(BIN)/python -m tests.soak.run --minutes $(SOAK_MINUTES) $(if $(SESSIONS),--sessions $(SESSIONS))

MINUTES ?= 5
TOPOLOGY ?= standalone
CHAOS_SERVER ?= embedded
chaos: $(STAMP)  ## Run real processes under faults: SEED=7 MINUTES=5 TOPOLOGY=pair|cluster TRACES=DIR
	@$(BIN)/python -m tests.chaos.run --seed $(or $(SEED),1) --minutes $(MINUTES) --topology $(TOPOLOGY) --server $(CHAOS_SERVER) $(if $(TRACES),--traces $(TRACES)) $(ARGS)

mutants: $(STAMP)  ## List changes of the code that no test notices: SEED=2
	@$(BIN)/python -m tests.mutants.run $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(STAMP)  ## Measure this and other schedulers, and write docs/benchmarks.md: TRACES=DIR
	@$(BIN)/python -c "import matplotlib" 2>/dev/null || tools/setup bench
	@$(BIN)/python -m benchmarks.run $(if $(TRACES),--traces $(TRACES)) $(ARGS)
	@$(BIN)/python -m benchmarks.publish --plots
