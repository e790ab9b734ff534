"""The estimate of a batch's memory is one to two and a half times what PyTorch allocates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from architectures import make_model, make_tokenizer, random_words
from torch.profiler import ProfilerActivity, profile

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Request, ScoringTask
from langchain_sift.ttft.memory.budget import load_of
from langchain_sift.ttft.memory.estimate import Footprint, Load, batch_bytes
from langchain_sift.ttft.tickets import Ticket

CONFIG = FineTuneConfig(lora_rank=2, max_length=48)
# One of each kind: attention by kernel and in matrices, with and without a window, scaled logits,
# experts, and rows that are run one by one.
ARCHITECTURES = ["deepseek_v3", "falcon", "gemma2", "gpt2", "gpt_oss", "llama", "opt"]


def allocated_at_most(engine: Engine, requests: Sequence[Request]) -> int:
    """Run requests in one batch; return the most bytes that it had allocated at a time."""
    worker = engine._worker
    tickets = [Ticket(request, engine.admission.admit(0)) for request in requests]
    # PyTorch reports the allocations of the thread that profiles.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        worker.run(tickets)
    for ticket in tickets:
        list(ticket)
    events = profiler.profiler.kineto_results.events()
    changes = sorted(
        ((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
        key=lambda change: change[0],
    )
    total = peak = 0
    for _, size in changes:
        total += size
        peak = max(peak, total)
    worker._trainer.release_slots()
    return peak


def requests_of(engine: Engine, kind: str) -> list[Request]:
    rng = random.Random(3)
    settings = GenerationConfig(max_tokens=8)
    requests = []
    for length in (48, 20, 40, 48):
        documents = [random_words(rng, length) for _ in range(2)]
        prompt = [rng.randrange(4, 60) for _ in range(44)]
        pairs = [(prompt, [5, 6, 7, 8]), (prompt, [9, 5])]
        task = {
            "train": None,
            "answer": GenerationTask(prompt, settings, pairs),
            "score": ScoringTask(pairs),
            "all": GenerationTask(prompt, settings, pairs),
        }[kind]
        requests.append(engine.request(documents if kind in {"train", "all"} else (), task))
    return requests


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_estimate_is_close_to_the_allocations_of_a_batch(architecture: str) -> None:
    model = LanguageModel("tiny", make_model(architecture), make_tokenizer())
    engine = Engine(model, CONFIG)
    is_batchable = engine._worker._trainer.batchable
    footprint = engine.memory.watch()
    for kind in ("train", "answer", "score", "all"):
        requests = requests_of(engine, kind)
        allocated_at_most(engine, requests[:1])  # what a first use allocates is not of the batch
        loads = [load_of(request) for request in requests]
        estimate = batch_bytes(footprint, loads if is_batchable else loads[:1])
        # Texts with the same context may share it, which the estimate does not count on.
        most = 5.0 if kind == "score" else 2.5
        assert 1.0 <= estimate / allocated_at_most(engine, requests) <= most, kind


def test_a_prompt_beyond_the_switch_is_counted_as_one_pass() -> None:
    footprint = Footprint(0, 4, layers=2, token=80.0, pair=0.0, cache=1.0, logits=0, block=None)
    switched = replace(footprint, switch=5000)
    for prompt, at_once in ((4000, 4096), (4999, 4096), (5000, 5001), (9000, 9000)):
        load = [Load(prompt=prompt, answer=1)]
        more = batch_bytes(switched, load) - batch_bytes(footprint, load)
        # Of these tokens, 1.25 times the activations of a layer: 40 bytes for each.
        assert more == 50 * (at_once - 4096)
