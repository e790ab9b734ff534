"""Time test-time fine-tuning, and the same training in a plain PEFT loop.

    make bench

The demo's model with documents of 128 tokens. "low-rank floor" is the forward and backward pass of
a step with plain low-rank products, and "frozen floor" the same without any.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from by_hand import peft_loop, with_low_rank_products
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import PreTrainedModel

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Request, load_language_model
from langchain_sift.ttft.generation import Continuation, generate
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.adapted_model import share_weights

MODEL = Path(__file__).parents[2] / "examples" / "demo" / "model"
PROMPTS, DOCUMENTS, LENGTH, ANSWER = 16, 10, 128, 32
CONFIG = FineTuneConfig(lora_rank=16, lora_alpha=16, learning_rate=5e-4)


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def language_model(request: pytest.FixtureRequest) -> LanguageModel:
    """A model whose answers never end early."""
    loaded = load_language_model(str(MODEL), device="cpu", dtype=request.param)
    loaded.model.generation_config.eos_token_id = None
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.eos_token = None
    return LanguageModel(loaded.name, loaded.model, tokenizer)


@pytest.fixture(scope="module")
def documents(language_model: LanguageModel) -> torch.Tensor:
    """Token ids, shape (PROMPTS, DOCUMENTS, LENGTH)."""
    size = language_model.model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, size, (PROMPTS, DOCUMENTS, LENGTH), generator=generator)


def requests(
    documents: torch.Tensor, task: GenerationTask | None = None, count: int = PROMPTS
) -> list[Request]:
    return [
        Request(
            [TokenizedDocument(i, tuple(ids), truncated=False) for i, ids in enumerate(rows)],
            CONFIG,
            task,
        )
        for rows in documents[:count].tolist()
    ]


def run_all(engine: Engine, batch: Sequence[Request]) -> None:
    """Run the requests, in batches as large as the engine allows."""
    reservations = [engine.admission.admit(0) for _ in batch]
    tickets = [
        engine.submit(r, reservation=reservation)
        for r, reservation in zip(batch, reservations, strict=True)
    ]
    for ticket in tickets:
        *_, outcome = ticket
        assert outcome.training.steps == DOCUMENTS


@pytest.mark.parametrize("way", ["peft loop", "one by one", "together"])
def test_training(
    benchmark: BenchmarkFixture, language_model: LanguageModel, documents: torch.Tensor, way: str
) -> None:
    """Train 16 prompts, each on 10 documents of 128 tokens."""
    benchmark.group = f"train 16 prompts on 10 documents each, {language_model.model.dtype}"
    if way == "peft loop":
        work = lambda: peft_loop(language_model.model, documents, CONFIG)  # noqa: E731
    else:
        engine = Engine(
            language_model, CONFIG, Limits(max_batch_size=PROMPTS if way == "together" else 1)
        )
        batch = requests(documents)
        work = lambda: run_all(engine, batch)  # noqa: E731
    benchmark.pedantic(work, rounds=2, warmup_rounds=1)


@pytest.mark.parametrize("way", ["peft loop", "one by one", "together"])
def test_training_and_answering(
    benchmark: BenchmarkFixture,
    language_model: LanguageModel,
    documents: torch.Tensor,
    way: str,
) -> None:
    """Train them, and generate 32 tokens each."""
    benchmark.group = f"train 16 prompts and answer 32 tokens, {language_model.model.dtype}"
    if way == "peft loop":
        work = lambda: peft_loop(  # noqa: E731
            language_model.model, documents, CONFIG, answer=ANSWER
        )
    else:
        engine = Engine(
            language_model, CONFIG, Limits(max_batch_size=PROMPTS if way == "together" else 1)
        )
        task = GenerationTask(documents[0, 0, :16].tolist(), GenerationConfig(max_tokens=ANSWER))
        batch = requests(documents, task)
        work = lambda: run_all(engine, batch)  # noqa: E731
    benchmark.pedantic(work, rounds=2, warmup_rounds=1)


def floor(model: PreTrainedModel, ids: torch.Tensor, *, low_rank: bool) -> Callable[[], None]:
    shared, trained = (
        with_low_rank_products(model, CONFIG.lora_rank) if low_rank else (share_weights(model), [])
    )
    embed = shared.get_input_embeddings()

    def work() -> None:
        for parameter in trained:
            parameter.grad = None
        embedded = embed(ids).detach().requires_grad_(not low_rank)
        shared(inputs_embeds=embedded, labels=ids, use_cache=False).loss.backward()

    return work


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("way", ["frozen floor", "low-rank floor", "step"])
def test_step(
    benchmark: BenchmarkFixture, language_model: LanguageModel, way: str, length: int
) -> None:
    """Take a gradient step on one document; its floor is a forward and a backward pass."""
    benchmark.group = f"a step on {length} tokens, {language_model.model.dtype}"
    ids = torch.randint(5, language_model.model.config.vocab_size, (1, length))
    if way == "step":
        trainer = Engine(language_model, CONFIG)._worker._trainer
        trainer.reserve(1)
        trainer.slots.begin(0, seed=0, learning_rate=1e-4)

        def work() -> None:
            trainer._gradients(0, ids.tolist())
            trainer.slots.step({0: 1.0})

    else:
        work = floor(language_model.model, ids, low_rank=way == "low-rank floor")
    with torch.enable_grad():
        benchmark.pedantic(work, rounds=30, warmup_rounds=3)


@pytest.mark.parametrize("way", ["steps and tokens", "request"])
def test_request(
    benchmark: BenchmarkFixture,
    language_model: LanguageModel,
    documents: torch.Tensor,
    way: str,
) -> None:
    """Run a whole request, or only its ten steps and 32 tokens."""
    benchmark.group = f"a request of 10 steps and 32 tokens, {language_model.model.dtype}"
    engine = Engine(language_model, CONFIG)
    prompt, config = documents[0, 0, :16].tolist(), GenerationConfig(max_tokens=ANSWER)
    (request,) = requests(documents, GenerationTask(prompt, config), count=1)
    if way == "request":
        work = lambda: run_all(engine, [request])  # noqa: E731
    else:
        worker = engine._worker
        trainer = worker._trainer
        trainer.reserve(1)
        trainer.slots.begin(0, seed=0, learning_rate=CONFIG.learning_rate)
        continuation = Continuation(prompt, config, lambda _: False, lambda *_, **__: None)

        def work() -> None:
            with torch.enable_grad():
                for document in request.documents:
                    trainer._gradients(0, [document.token_ids]).tolist()
                    trainer.slots.step({0: CONFIG.max_gradient_norm})
            generate(worker._model, language_model.tokenizer, [continuation])

    benchmark.pedantic(work, rounds=10, warmup_rounds=2)
