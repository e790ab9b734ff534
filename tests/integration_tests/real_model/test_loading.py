"""A model in a GGUF file is loaded as transformers loads it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from langchain_sift.ttft import LanguageModel, load_language_model

CONVERSATION = [{"role": "user", "content": "What is the capital of France?"}]


def test_logits_and_prompts_equal_those_of_transformers(
    smollm2: LanguageModel, smollm2_file: Path
) -> None:
    folder, name = smollm2_file.parent, smollm2_file.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    prompt = tokenizer.apply_chat_template(CONVERSATION, return_tensors="pt", return_dict=True)
    ours = smollm2.tokenizer.apply_chat_template(CONVERSATION)
    assert ours["input_ids"] == prompt["input_ids"][0].tolist()
    with torch.inference_mode():
        assert torch.equal(smollm2.model(**prompt).logits, model(**prompt).logits)


def test_every_name_of_the_file_shares_the_weights(
    smollm2: LanguageModel, smollm2_file: Path
) -> None:
    folder, name = smollm2_file.parent, smollm2_file.name
    for again in (
        load_language_model(folder, dtype="float32"),
        load_language_model(str(folder), gguf_file=name, dtype=torch.float32),
    ):
        assert again.model is smollm2.model
        assert again.tokenizer is smollm2.tokenizer
