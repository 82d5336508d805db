# Every verb. `make run` and `make test` are all a newcomer needs; both set up what is missing.

SHELL := /bin/bash
PY := .venv/bin/python
SETUP := bash scripts/setup.sh

.DEFAULT_GOAL := help
.PHONY: help run serve doctor setup dev lock fmt lint types layers check test contract functional chain chain-test \
	security chaos native docs spec bench wheel ci clean

help: ## list the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: setup ## install what is missing, then start the gateway in the foreground
	@exec .venv/bin/faas serve

serve: run

doctor: setup ## try each runtime on this machine
	@.venv/bin/faas doctor

setup: ## what running needs: Python packages and the native program
	@$(SETUP) run

dev: ## what developing and testing needs besides
	@$(SETUP) dev

lock: ## choose versions anew and pin them by hash
	@bash scripts/lock.sh

fmt: ## format
	@$(PY) -m ruff format src tests scripts benchmarks

lint: ## ruff
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check src tests scripts

types: ## basedpyright, strict
	@.venv/bin/basedpyright

layers: ## who may import whom
	@.venv/bin/lint-imports

check: lint types layers ## all that looks at the text of the code

test: ## set up, check, run every ring; `make test path=tests/unit` runs one
	@bash scripts/test.sh $(path)

contract functional security chaos chain: dev ## one ring of the tests
	@bash scripts/test.sh tests/$@

chain-test: chain

native: ## compile the agent and launcher
	@$(PY) scripts/build_native.py

docs: ## write the generated pages anew
	@$(PY) scripts/generate_docs.py

spec: ## write the generated specifications anew
	@$(PY) scripts/generate_spec.py

bench: setup ## measure, side by side with others
	@eval "$$(bash scripts/bench_setup.sh)" && $(PY) -m benchmarks $(name)

wheel: ## build the wheel for this platform
	@$(PY) -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

ci: ## all that CI does, in CI's order
	@.ci/run

clean: ## take away what was built
	@rm -rf .venv dist build .pytest_cache .ruff_cache .hypothesis src/faas/_native native/build
