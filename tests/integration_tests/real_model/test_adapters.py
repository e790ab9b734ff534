"""The real model's answers are those of transformers, and its adapters are PEFT's."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import PeftModel

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Outcome

NEW_TOKENS = 6
CONFIG = FineTuneConfig(lora_rank=8, lora_alpha=8.0, learning_rate=2e-3, max_length=64)
SUBJECTS = ("rivers", "bread", "the moon", "bees", "glass")
QUESTIONS = (
    "What is special about {}?",
    "Tell me one fact about {} that most people do not know.",
    "Write a title for an essay about {}.",
    "Is there a good book about {}? Name it, with its author and year, and say why it is good.",
)
DOCUMENTS = [
    "The Zorvane is a river in the north of Almara. It is 412 kilometres long.",
    "Bread of the Zorvane valley is baked with rye, walnuts and salt from Almara's mines.",
]


def prompts_of(language_model: LanguageModel) -> list[list[int]]:
    tokenizer = language_model.tokenizer
    asked = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for text in asked
    ]


def test_twenty_greedy_answers_are_those_of_generate_alone_and_in_batches(
    smollm2: LanguageModel,
) -> None:
    prompts = prompts_of(smollm2)
    assert len(prompts) == 20
    expected = []
    for prompt in prompts:
        with torch.inference_mode():
            (ids,) = smollm2.model.generate(
                torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False
            )
        expected.append(ids[len(prompt) :].tolist())
    for size in (1, 7):
        engine = Engine(smollm2, CONFIG, Limits(max_batch_size=size, gather_seconds=30.0))
        config = GenerationConfig(max_tokens=NEW_TOKENS, keep_special_tokens=True)
        requests = [engine.request([], GenerationTask(prompt, config)) for prompt in prompts]
        reservations = [engine.admission.admit(0) for _ in requests]
        tickets = [
            engine.submit(request, reservation=reservation)
            for request, reservation in zip(requests, reservations, strict=True)
        ]
        for token_ids, ticket in zip(expected, tickets, strict=True):
            *pieces, outcome = ticket
            assert isinstance(outcome, Outcome)
            assert outcome.tokens == len(token_ids)
            ended = token_ids[-1] == smollm2.tokenizer.eos_token_id
            shown = smollm2.tokenizer.decode(token_ids[:-1] if ended else token_ids)
            assert "".join(map(str, pieces)) == shown
            assert (outcome.batch_size > 1) == (size > 1)


def test_training_leaves_the_model_as_it_was_and_peft_loads_its_adapter(
    smollm2: LanguageModel, tmp_path: Path
) -> None:
    def fingerprint() -> str:
        return LanguageModel("SmolLM2", smollm2.model, smollm2.tokenizer).fingerprint

    before = fingerprint()
    engine = Engine(smollm2, CONFIG)
    adapter = engine.finetune(DOCUMENTS * 4)
    assert adapter.training.losses[-1] < adapter.training.losses[1] - 0.5
    assert adapter.training.layers[0] == "model.layers.*.self_attn.q_proj"
    assert len(engine.target_layers.names) == 7 * smollm2.model.config.num_hidden_layers
    assert fingerprint() == before
    peers = PeftModel.from_pretrained(
        copy.deepcopy(smollm2.model), adapter.save(tmp_path / "adapter")
    )
    token_ids = smollm2.tokenizer(DOCUMENTS[0], return_tensors="pt")["input_ids"]
    engine.close()  # its thread resets the slots after the outcome
    worker = engine._worker
    with torch.inference_mode():
        worker.slots.reserve(1)
        worker.slots.load(0, adapter.weights)
        worker.slots.use(0, 1)
        ours = worker._model(input_ids=token_ids).logits
        worker.slots.rest()
        worker.slots.reset(0)
        theirs = peers(input_ids=token_ids).logits
        base = smollm2.model(input_ids=token_ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert (ours - base).abs().max() > 1.0
