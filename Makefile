# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
# One worker for each core. Tests of one module share models and stores, so they stay together.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadscope

.PHONY: help demo test integration_tests lint format type bench clean

help:  ## Show this help
	@grep -E '^[a-z_]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: .venv/.demo  ## Compare base, RAG and test-time fine-tuning on the bundled corpus
	$(BIN)/langchain-sift compare \
		--corpus examples/demo/corpus --prompts examples/demo/prompts.jsonl \
		--model examples/demo/model --protocol document,continuation \
		--k 16 --noise-variance 0.1 --learning-rate 4e-3 --lora-rank 16 --max-length 512 \
		--out build/demo --overwrite

# The models of the tests are small: a second thread per worker costs more than it saves.
test integration_tests: export OMP_NUM_THREADS ?= 1
# PyTorch's threads otherwise spin while they wait, and slow down the other worker.
test integration_tests bench demo: export GOMP_SPINCOUNT ?= 1000

test: .venv/.dev  ## Run the unit tests in parallel, without a network; FAST=1 leaves out the slow ones
	$(PYTEST) $(if $(FAST),-m 'not slow')

integration_tests: .venv/.dev  ## Run the tests that start Chroma servers, browsers and Ray clusters
	$(PYTEST) tests/integration_tests

lint: .venv/.dev  ## Check style, import rules and declared dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/deptry langchain_sift

format: .venv/.dev  ## Apply the automatic fixes of style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

type: .venv/.dev  ## Check types
	$(BIN)/mypy

bench: .venv/.dev  ## Measure speed next to the peers, in one run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python -m pytest tests/benchmarks --benchmark-json build/benchmarks.json

clean:  ## Remove the environment and everything built
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks

.venv/.pip:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	touch $@

.venv/.demo: .venv/.pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[compare,serve]'
	touch $@

.venv/.dev: .venv/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@
