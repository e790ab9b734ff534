"""The template tells which tokens end an answer."""

from __future__ import annotations

import pytest
from unit_tests.small_tokenizers import END, small_tokenizer
from unit_tests.templates import (
    CHATML,
    DEEPSEEK_R1,
    GEMMA,
    GPT_OSS,
    LLAMA,
    MISTRAL,
    PHI,
    QWEN,
    QWEN_3,
    SILENT,
    SMOLLM_3,
)

from langchain_sift.ttft.model.turn_ends import turn_ends

CHATML_ENDS = {"<|im_end|>", "<|im_start|>"}


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, CHATML_ENDS),
        (QWEN, CHATML_ENDS),
        (QWEN_3, CHATML_ENDS),
        (SMOLLM_3, CHATML_ENDS),
        (DEEPSEEK_R1, {"<｜end▁of▁sentence｜>", "<｜User｜>"}),
        (LLAMA, {"<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"}),
        (MISTRAL, {END, "[INST]"}),
        (GEMMA, {"<end_of_turn>", "<start_of_turn>"}),
        (PHI, {"<|end|>", "<|user|>"}),
        (GPT_OSS, set()),  # the same tokens end its reasoning
    ],
    ids=["chatml", "qwen", "qwen3", "smollm3", "r1", "llama", "mistral", "gemma", "phi", "gpt-oss"],
)
def test_tokens_after_an_answer_end_it(template: str, ends: set[str]) -> None:
    tokenizer = small_tokenizer("byte-level", template)
    found = turn_ends(tokenizer)
    assert set(tokenizer.convert_ids_to_tokens(found.token_ids)) == ends
    assert found.strings == ()


def test_markers_that_are_no_tokens_are_strings() -> None:
    tokenizer = small_tokenizer("byte-level", CHATML.replace("im_", "turn_"))
    assert turn_ends(tokenizer).strings == ("<|turn_end|>",)
    alpaca = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}### assistant:\n"
    )
    assert turn_ends(small_tokenizer("byte-level", alpaca)).strings == ("\n### user:",)
    # Only at the start of a line: "Open the Super User: Bob" goes on.
    plain = "{% for m in messages %}{{ m.role | title }}: {{ m.content }}\n{% endfor %}Assistant:"
    assert turn_ends(small_tokenizer("byte-level", plain)).strings == ("\nUser:",)


@pytest.mark.parametrize("template", [None, SILENT, "{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
def test_a_template_may_tell_nothing(template: str | None) -> None:
    found = turn_ends(small_tokenizer("byte-level", template))
    assert found.token_ids == frozenset()
    assert found.strings == ()
