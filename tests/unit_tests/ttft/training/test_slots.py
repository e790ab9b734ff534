"""Slots exist while prompts need them, and only as many as need one."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
import torch

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Outcome, Request
from langchain_sift.ttft.training.slots import Slots

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ANSWER = GenerationTask([5, 9, 40, 41, 7], GenerationConfig(max_tokens=4))


@pytest.fixture
def engine(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
) -> Engine:
    """An engine that waits for all admitted requests, however busy the machine is."""
    model = LanguageModel("tiny", tiny_model, tiny_tokenizer)
    return Engine(model, finetune_config, Limits(gather_seconds=10.0))


def together(engine: Engine, requests: Sequence[Request]) -> list[tuple[str, Outcome]]:
    """Run requests in one batch; return the texts and outcomes."""
    reservations = [engine.admission.admit(0) for _ in requests]
    tickets = [
        engine.submit(request, reservation=reservation)
        for request, reservation in zip(requests, reservations, strict=True)
    ]
    results = []
    for ticket in tickets:
        *events, outcome = ticket
        assert isinstance(outcome, Outcome)
        results.append(("".join(e for e in events if isinstance(e, str)), outcome))
    return results


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of slots that are allocated, in order."""
    counts: list[int] = []
    reserve = Slots.reserve

    def record(slots: Slots, count: int) -> None:
        counts.append(count)
        reserve(slots, count)

    monkeypatch.setattr(Slots, "reserve", record)
    return counts


def test_a_batch_has_as_many_slots_as_prompts_with_an_adapter(
    engine: Engine, texts: list[str], allocated: list[int]
) -> None:
    """Answer five prompts together as each alone: trained, with an adapter, and base."""
    adapter = engine.finetune(texts[7:9])
    asked: list[object] = [(), texts[:3], adapter, (), texts[3:5]]
    alone = [together(engine, [engine.request(of, ANSWER)])[0] for of in asked]
    assert allocated == [1]
    allocated.clear()
    answers = together(engine, [engine.request(of, ANSWER) for of in asked])
    assert allocated == [3]
    assert [outcome.batch_size for _, outcome in answers] == [5] * 5
    for (text, outcome), (text_alone, outcome_alone) in zip(answers, alone, strict=True):
        assert text == text_alone
        assert outcome.training.losses == pytest.approx(outcome_alone.training.losses, abs=1e-5)
    assert len({text for text, _ in answers}) == 4


def test_prompts_of_the_base_model_need_no_slot(engine: Engine, allocated: list[int]) -> None:
    together(engine, [engine.request((), ANSWER)] * 3)
    assert allocated == []
    assert engine._worker.slots.weights.numel() == 0


def test_far_more_slots_than_a_batch_needs_are_replaced_by_fewer(
    engine: Engine, texts: list[str], allocated: list[int]
) -> None:
    for size in (3, 2, 1, 1):
        together(engine, [engine.request(texts[:1], ANSWER)] * size)
    assert allocated == [3, 1]


def test_slots_are_free_once_the_engine_is_idle(
    engine: Engine, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_sift.ttft.batching._IDLE_SECONDS", 0.0)
    (first,) = together(engine, [engine.request(texts[:2], ANSWER)])
    while engine._batcher._thread is not None:
        time.sleep(0.001)
    assert engine._worker.slots.count == 0
    assert engine._worker.slots.weights.numel() == 0
    (again,) = together(engine, [engine.request(texts[:2], ANSWER)])
    assert (again[0], again[1].training.losses) == (first[0], first[1].training.losses)


def test_gradients_and_moments_exist_while_a_batch_trains(engine: Engine, texts: list[str]) -> None:
    slots, seen = engine._worker.slots, []

    def storage() -> list[int]:
        tensors = (slots.gradients, slots._moments)
        return [tensor.untyped_storage().nbytes() for tensor in tensors]

    ticket = engine.submit(engine.request(texts[:2], ANSWER))
    report = ticket.report_step
    ticket.report_step = lambda step: seen.append(storage()) or report(step)  # type: ignore[method-assign]
    list(ticket)
    assert seen[0] == [4 * slots.size, 8 * slots.size]
    assert storage() == [4, 4]
    with pytest.raises(RuntimeError, match="single memory location"):
        slots.gradients.add_(1.0)
    assert torch.count_nonzero(slots.gradients) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_go_through_any_slots_in_any_order(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    dtype: torch.dtype,
) -> None:
    model = copy.deepcopy(tiny_model).to(dtype)
    worker = Engine(LanguageModel("x", model, tiny_tokenizer), finetune_config)._worker
    slots, adapted = worker.slots, worker._model
    slots.reserve(3)
    for slot in range(3):
        slots.load(slot, torch.randn(slots.size, generator=torch.Generator().manual_seed(slot)))
    tokens = torch.tensor([[5], [9], [40], [41]])
    with torch.inference_mode():
        for rows in ([2, 0, 3, 0], [0, 1, 2, 3], [1, 1, 1, 1], [3, 3, 3, 3], [0, 1, 2], [2, 1]):
            asked = tokens[: len(rows)]
            expected = []
            for row, slot in enumerate(rows):
                slots.use(slot, slot + 1)
                expected.append(adapted(input_ids=asked[row : row + 1]).logits[0])
            for one_token in (False, True):
                slots.use_rows(rows, one_token=one_token)
                found = adapted(input_ids=asked).logits
                within = {} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
                torch.testing.assert_close(found, torch.stack(expected), **within)
