# manifestry - `make` prints this list
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
LOCKS := hack/requirements
UV_VERSION := $(shell sed -n 's/^uv==\([^ ]*\).*/\1/p' $(LOCKS)/dev.txt)
PYTEST := $(BIN)/python -m pytest
KIND := python3 hack/kind
IMAGE ?= localhost/manifestry:dev
TEST_CLUSTER ?= manifestry-test
# Each in a process of its own, cheapest first: what one leaves behind cannot colour the next. A failing level
# does not hide the next one.
LEVELS := unit component,faults cluster,seaweed e2e

.PHONY: help
help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): $(LOCKS)/dev.txt pyproject.toml
	@echo "== Python environment in $(VENV)"
	@python3 hack/environment.py $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes $(LOCKS)/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: venv
venv: $(STAMP) ## make or refresh the Python environment

.PHONY: lint
lint: $(STAMP) ## ruff, formatting, import contracts, rooms
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python hack/rooms.py

.PHONY: format
format: $(STAMP) ## rewrite the sources as ruff wants them
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

.PHONY: type
type: $(STAMP) ## mypy, strict
	@$(BIN)/mypy
	@MYPYPATH=hack/kind $(BIN)/mypy --strict hack/kind/__main__.py tests

.PHONY: test-unit
test-unit: $(STAMP) ## pure functions: seconds
	@$(PYTEST) tests/unit

.PHONY: test-component
test-component: $(STAMP) ## one process against real local parts (SeaweedFS, files, HTTP)
	@$(PYTEST) tests/component

# A run of SOAK_RUNS=10 takes about an hour of one core; each run has a seed of its own.
SOAK_RUNS ?= 10
SOAK_LIMIT ?= 600
.PHONY: soak-store
soak-store: $(STAMP) ## cut the power of the local store in many more states (SOAK_RUNS, SOAK_LIMIT)
	@for run in $$(seq $(SOAK_RUNS)); do seed=$$RANDOM$$RANDOM; echo "== run $$run of $(SOAK_RUNS), seed $$seed"; \
	  MANIFESTRY_CRASH_SEED=$$seed MANIFESTRY_CRASH_LIMIT=$(SOAK_LIMIT) \
	    $(PYTEST) -rA --timeout=3600 tests/component/crash/test_states.py; \
	done

.PHONY: test-clouds
test-clouds: $(STAMP) ## the store's promises on Azurite and on Cloud Storage's API (8 min; needs Node.js and Go)
	@$(PYTEST) tests/clouds

.PHONY: test-cluster
test-cluster: $(STAMP) ## a real kube-apiserver without nodes (needs Go, or a kind node)
	@$(PYTEST) tests/cluster

.PHONY: test-e2e
test-e2e: $(STAMP) up ## real pods on the kind cluster
	@eval "$$($(KIND) env)" && $(PYTEST) tests/e2e

.PHONY: test
test: export MANIFESTRY_CLUSTER := $(TEST_CLUSTER)
test: check disks $(STAMP) ## everything, from nothing (a cluster of its own): unit, component, cluster, e2e
	@$(KIND) down && $(KIND) up
	@eval "$$($(KIND) env)" && bash hack/install.sh && \
	  failed=; for level in $(LEVELS); do \
	    $(PYTEST) $$(printf 'tests/%s ' $${level//,/ }) || failed="$$failed $$level"; done; \
	  $(KIND) down; test -z "$$failed" || { echo "== failed:$$failed"; exit 1; }

.PHONY: disks
disks: ## file systems for the store's tests, installed by root on Debian (else those tests are skipped)
	@PATH="$$PATH:/usr/sbin:/sbin"; \
	  if ! { command -v mkfs.ext4 && command -v mkfs.xfs && command -v losetup; } >/dev/null && \
	    [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -q -y update >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends e2fsprogs xfsprogs mount; fi

.PHONY: check
check: ## list everything that has to be installed by hand
	@$(KIND) check

.PHONY: cluster-up
cluster-up: ## the development cluster alone
	@$(KIND) up

.PHONY: cluster-down
cluster-down: down ## same as down

.PHONY: image
image: ## build the container image
	@$(KIND) build-image --tag $(IMAGE)

.PHONY: up
up: check cluster-up ## cluster, image and chart installed
	@eval "$$($(KIND) env)" && bash hack/install.sh

.PHONY: demo
demo: check $(STAMP) up ## the main job, shown step by step
	@eval "$$($(KIND) env)" && bash hack/demo.sh

.PHONY: down
down: ## leave no process, container, mount, network or file outside the cache
	@$(KIND) down

.PHONY: lock
lock: $(STAMP) ## resolve the dependencies anew, with hashes
	@for set in runtime dev; do \
	  $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-header \
	    --python-version 3.11 --python-platform linux $$([ $$set = dev ] && echo "--extra dev -c $(LOCKS)/runtime.txt") \
	    pyproject.toml -o $(LOCKS)/$$set.txt; \
	done

.PHONY: bench-artifacts
bench-artifacts: $(STAMP) ## artifacts in and out beside nginx and distribution (needs Go and nginx)
	@$(BIN)/python -m tests.bench.artifacts $(BENCH)

.PHONY: verify
verify: $(STAMP) ## regenerate what is generated and fail on a difference
	@$(BIN)/python hack/generate.py
	@git diff --exit-code -- charts docs
