"""Reasoning is told from the content of an answer, however its text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit_tests.small_tokenizers import small_tokenizer
from unit_tests.templates import CHATML, DEEPSEEK_R1, GPT_OSS, QWEN_3, SMOLLM_3

from langchain_sift.config import GenerationConfig, ReasoningMarkers
from langchain_sift.ttft.decoding import AnswerDecoder
from langchain_sift.ttft.model.reasoning_markers import markers_after, reasoning_markers
from langchain_sift.ttft.reasoning import ReasoningSplitter, ReasoningText

THINK = ReasoningMarkers("<think>", "</think>")
BEGUN = ReasoningMarkers("<think>", "</think>", begun=True)


def split(markers: ReasoningMarkers, pieces: list[str]) -> tuple[str, str]:
    splitter = ReasoningSplitter(markers)
    parts = [*map(splitter.add, pieces), splitter.flush()]
    assert all(isinstance(reasoning, ReasoningText) for reasoning, _ in parts)
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize(
    ("markers", "text", "expected"),
    [
        (THINK, "<think>\nHm.\n\nSo?\n</think>\n\nYes.\n", ("Hm.\n\nSo?", "Yes.\n")),
        (THINK, "\n<think></think> Yes.", ("", "Yes.")),
        (THINK, " Yes.", ("", " Yes.")),
        (THINK, "Yes <think>Hm.</think>", ("", "Yes <think>Hm.</think>")),
        (THINK, "<think>\nHm. </thi", ("Hm. </thi", "")),
        (THINK, "<thin air", ("", "<thin air")),
        (THINK, "<thi", ("", "<thi")),
        (THINK, "", ("", "")),
        (BEGUN, "Hm.\n</think>\n\nYes.", ("Hm.", "Yes.")),
        (BEGUN, "\n<think>\nHm.</think>Yes.", ("Hm.", "Yes.")),
        (BEGUN, " \nHm. \n", ("Hm.", "")),
        (BEGUN, "</think>\n\n", ("", "")),
    ],
)
def test_reasoning_and_content(
    markers: ReasoningMarkers, text: str, expected: tuple[str, str]
) -> None:
    assert split(markers, [text]) == expected
    assert split(markers, list(text)) == expected


@given(
    text=st.text("<think>/ \nab", max_size=40),
    markers=st.sampled_from([THINK, BEGUN]),
    size=st.integers(1, 9),
)
def test_pieces_add_up_to_the_whole(text: str, markers: ReasoningMarkers, size: int) -> None:
    whole = split(markers, ["<think>" + text + "</think>" + text])
    text = "<think>" + text + "</think>" + text
    assert split(markers, [text[n : n + size] for n in range(0, len(text), size)]) == whole


@pytest.mark.parametrize(
    ("template", "opening", "closing"),
    [
        (QWEN_3, "<think>", "</think>"),
        (DEEPSEEK_R1, "<think>", "</think>"),
        (SMOLLM_3, "<think>", "</think>"),
        (CHATML, "<think>", "</think>"),
        (CHATML + "{# [THINK][/THINK] #}", "[THINK]", "[/THINK]"),
        (
            GPT_OSS,
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        (
            "{% for m in messages %}{{ m.role + '\n' }}{% if m.reasoning_content %}"
            "{{ '[R]' + m.reasoning_content + '[/R]' }}{% endif %}{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant\n[R]' }}{% endif %}",
            "[R]",
            "[/R]",
        ),
    ],
    ids=["qwen3", "r1", "smollm3", "chatml", "magistral", "gpt-oss", "own"],
)
def test_markers_are_those_of_the_template(template: str, opening: str, closing: str) -> None:
    tokenizer = small_tokenizer("metaspace", template)
    assert reasoning_markers(tokenizer) == ReasoningMarkers(opening, closing)


@pytest.mark.parametrize(
    ("template", "arguments", "expected"),
    [
        (QWEN_3, {}, THINK),
        (QWEN_3, {"enable_thinking": False}, THINK),
        (SMOLLM_3, {"enable_thinking": False}, THINK),
        (DEEPSEEK_R1, {}, BEGUN),
    ],
)
def test_a_prompt_may_begin_the_reasoning(
    template: str, arguments: dict[str, bool], expected: ReasoningMarkers
) -> None:
    tokenizer = small_tokenizer("byte-level", template)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}],
        add_generation_prompt=True,
        return_dict=True,
        **arguments,
    )["input_ids"]
    assert markers_after(tokenizer, prompt) == expected


def decode(text: str, **config: object) -> tuple[str, str, str | None]:
    tokenizer = small_tokenizer("byte-level", GPT_OSS if "<|channel|>" in text else QWEN_3)
    reasoning = markers_after(tokenizer, [])
    settings = GenerationConfig(reasoning=reasoning, **config)
    end = frozenset([tokenizer.convert_tokens_to_ids("<|im_end|>")])
    decoder = AnswerDecoder(tokenizer, settings, end)
    thought, content = "", ""
    for token_id in tokenizer(text, add_special_tokens=False)["input_ids"]:
        content += decoder.add(token_id)
        thought += decoder.reasoning
        if decoder.finish_reason:
            break
    return thought, content, decoder.finish_reason


def test_stop_strings_end_content_and_not_reasoning() -> None:
    text = "<think>\nOne.\nTwo.\n</think>\n\nYes.\nNo."
    assert decode(text, stop=("\n",)) == ("One.\nTwo.", "Yes.", "stop")
    assert decode(text, stop=("Two",)) == ("One.\nTwo.", "Yes.\nNo.", None)
    assert decode("Yes.\nNo.", stop=("\n",)) == ("", "Yes.", "stop")


def test_an_answer_that_is_cut_in_its_reasoning_has_no_content() -> None:
    thought, content, reason = decode("<think>\nOne. Two. Three. Four.", max_tokens=6)
    assert thought
    assert (content, reason) == ("", "length")
    assert decode("<think>\nOne.<|im_end|>") == ("One.", "", "stop")


def test_special_tokens_may_be_markers() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
    assert decode(f"{text}Yes.<|return|>") == ("Hm.", "Yes.", None)
