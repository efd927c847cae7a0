# The commands of the README. Everything is installed into .venv (and tests/clients/node_modules, where npm is there).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install served run free-port test soak stores screenshots check fix bench upstream clean
.DELETE_ON_ERROR:

install: .venv/installed tests/clients/node_modules/installed

define into_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "Installing into .venv, which takes a minute or two."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '$(1)'
	@touch $@
endef

.venv/installed: pyproject.toml constraints.txt
	$(call into_venv,.[dev])

# What serving takes is a third of that, and all that `make run` waits for.
.venv/served: pyproject.toml constraints.txt
	$(call into_venv,.)

served: $(if $(wildcard .venv/installed),.venv/installed,.venv/served)
	@:

# The official SDK, for the tests that drive the service with it; without npm they are reported as skipped.
tests/clients/node_modules/installed: tests/clients/package.json tests/clients/package-lock.json
	@if command -v npm >/dev/null; then cd tests/clients && npm ci --silent --no-audit --no-fund; fi
	@mkdir -p $(@D) && touch $@

quoted = '$(subst ','\'',$(1))'

run: free-port ## Serve the demo library on the embedded store; PORT=9411 and DATA=FOLDER where it is to be another
	@$(MAKE) --no-print-directory served
	$(BIN)/syncledger demo $(if $(PORT),--port $(call quoted,$(PORT))) $(if $(DATA),--data-dir $(call quoted,$(DATA)))

# Before anything is installed. What is no port, and what cannot be bound for another reason, the service tells.
define FREE_PORT
import os, socket, sys
host = os.environ.get("LEDGER_HOST") or "127.0.0.1"
try:
    port = int(sys.argv[1] or os.environ.get("LEDGER_PORT") or 2283)
    socket.create_connection((host, port), 1).close()
except (OSError, OverflowError, ValueError):
    sys.exit()
sys.exit("Port %d is in use, by a demo that still runs? Take another one: make run PORT=%d" % (port, port + 1))
endef
export FREE_PORT

free-port:
	@$(PYTHON) -c "$$FREE_PORT" $(call quoted,$(PORT))

test: install ## Run every test, the long ones briefly
	$(BIN)/pytest

# Hypothesis marks its tests `hypothesis` by itself; they run with the examples of the profile `soak`.
soak: install ## Run what is long at its full length, and tell each test as it ends
	$(BIN)/pytest -v --durations=20 -m "soak or hypothesis" --hypothesis-profile=soak

# SERVERS="PROGRAM …": redis-server or valkey-server programs to run on, beside the wheel's Valkey and the machine's Redis 7.
stores: install ## Run the contract suite on each store as people run it, and print the table of ops/docs/stores.md
	@$(BIN)/python -m tests.support.stores.runs $(SERVERS)

# INTO=FOLDER takes them there, else into a new temporary folder, whose name is printed.
screenshots: .venv/installed ## Take pictures of every page of the console, by day, by night and on a phone
	@$(BIN)/python -m tests.support.console.screenshots $(call quoted,$(INTO))

check: .venv/installed ## Lint, types, layers; never writes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/installed ## Mend what can be mended by a program
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed ## Measure against floors of the same run
	$(BIN)/syncledger bench

# SDK=FOLDER takes an unpacked package instead, SYNC_SERVICE=FILE upstream's sync.service.ts, which tells the order.
upstream: .venv/installed ## Compare the types and payloads of the newest @immich/sdk with ours; exits 2 where npm has no registry
	@$(BIN)/python -m tests.clients.upstream $(if $(SDK),--sdk $(call quoted,$(SDK))) $(if $(SYNC_SERVICE),--sync-service $(call quoted,$(SYNC_SERVICE)))

clean: ## Remove what was installed and built, but no data
	rm -rf .venv tests/clients/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
