# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test integration_tests lint format type bench clean

help:  ## Show this help
	@grep -E '^[a-z_]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: .venv/.demo  ## Compare base, RAG and test-time fine-tuning on the bundled corpus
	$(BIN)/langchain-sift compare \
		--corpus examples/demo/corpus --prompts examples/demo/prompts.jsonl \
		--model examples/demo/model --protocol document,continuation \
		--k 16 --noise-variance 0.1 --learning-rate 4e-3 --lora-rank 16 --max-length 512 \
		--out build/demo --overwrite

# The tests' models are so small that a second thread costs more than it does.
test integration_tests: export OMP_NUM_THREADS ?= 1

test: .venv/.dev  ## Run the unit tests; no network
	$(BIN)/python -m pytest

integration_tests: .venv/.dev  ## Run the tests that start a Chroma server, and Ray
	$(BIN)/python -m pytest tests/integration_tests

lint: .venv/.dev  ## Check style, import rules and declared dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/deptry langchain_sift

format: .venv/.dev  ## Mend style where a tool can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

type: .venv/.dev  ## Check types
	$(BIN)/mypy

bench: .venv/.dev  ## Measure speed against the peers, side by side
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	$(BIN)/python -m pytest tests/benchmarks --benchmark-json build/benchmarks.json

clean:  ## Remove the environment and everything built
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

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
