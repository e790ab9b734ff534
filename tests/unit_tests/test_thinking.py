"""A model's reasoning is told from its answer, and the template gets the arguments for it."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel
from unit_tests.scripted_model import scripted_model
from unit_tests.small_tokenizers import small_tokenizer
from unit_tests.templates import CHATML, DEEPSEEK_R1, GPT_OSS, QWEN_3, SMOLLM_3, TOOLS

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, TestTimeFineTunedLLM, compare
from langchain_sift.comparison import Prompt
from langchain_sift.comparison.scored_text import ScoredText
from langchain_sift.comparison.tasks import question_task
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import render
from langchain_sift.language_models.chat_templates.template_arguments import TemplateArguments
from langchain_sift.ttft.model.reasoning_markers import after_reasoning, markers_after

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_chroma import Chroma
    from langchain_core.messages import AIMessageChunk

FINETUNE = FineTuneConfig(lora_rank=2)
THOUGHT, ANSWER = "Rice?\n\nIn fields.", "In wet fields.\nYes."
END = "<|im_end|>"


def thinking_chat(template: str, answer: str, **fields: Any) -> ChatTestTimeFineTuned:
    tokenizer = small_tokenizer("byte-level", template)
    model = scripted_model(tokenizer, answer)
    return ChatTestTimeFineTuned(model=model, tokenizer=tokenizer, finetune=FINETUNE, **fields)


def summed(chunks: Iterable[AIMessageChunk]) -> AIMessageChunk:
    first, *rest = chunks
    for chunk in rest:
        first += chunk
    return first


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (QWEN_3, f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}{END}"),
        (SMOLLM_3, f"<think>\n{THOUGHT}\n</think>\n{ANSWER}{END}"),
        (DEEPSEEK_R1, f"{THOUGHT}\n</think>\n\n{ANSWER}<｜end▁of▁sentence｜>"),
        (
            GPT_OSS,
            f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final"
            f"<|message|>{ANSWER}</s>",
        ),
    ],
    ids=["qwen3", "smollm3", "r1", "gpt-oss"],
)
async def test_reasoning_is_apart_in_all_ways_to_call(template: str, said: str) -> None:
    chat = thinking_chat(template, said)
    answers: list[AIMessage] = [
        chat.invoke("Where?"),
        await chat.ainvoke("Where?"),
        summed(chat.stream("Where?")),
        summed([chunk async for chunk in chat.astream("Where?")]),
        chat.batch(["Where?"])[0],
    ]
    for answer in answers:
        assert answer.text == ANSWER
        assert answer.additional_kwargs == {"reasoning_content": THOUGHT}
        assert answer.content_blocks == [
            {"type": "reasoning", "reasoning": THOUGHT},
            {"type": "text", "text": ANSWER},
        ]
        assert answer.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_content_blocks_of_version_1_have_the_reasoning_first(*, stream: bool) -> None:
    said = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}{END}"
    chat = thinking_chat(QWEN_3, said, output_version="v1")
    answer = summed(chat.stream("Where?")) if stream else chat.invoke("Where?")
    kinds = [(block["type"], block.get("reasoning", block.get("text"))) for block in answer.content]
    assert kinds == [("reasoning", THOUGHT), ("text", ANSWER)]


def test_an_answer_that_is_cut_in_its_reasoning_is_empty() -> None:
    chat = thinking_chat(QWEN_3, f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}{END}", max_tokens=4)
    answer = chat.invoke("Where?")
    assert answer.content == ""
    assert answer.additional_kwargs["reasoning_content"]
    assert answer.response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("template", [CHATML, QWEN_3, DEEPSEEK_R1, SMOLLM_3])
def test_reasoning_is_not_fed_back(template: str) -> None:
    tokenizer = small_tokenizer("byte-level", template)

    def prompt(answer: AIMessage) -> list[int]:
        return render(tokenizer, [HumanMessage("a"), answer, HumanMessage("b")])

    expected = prompt(AIMessage("c"))
    assert prompt(AIMessage("c", additional_kwargs={"reasoning_content": "x"})) == expected
    assert prompt(AIMessage("<think>\nx\n</think>\n\nc")) == expected
    assert prompt(AIMessage("x\n</think>\n\nc")) == expected  # the prompt had opened it
    blocks: Any = [{"type": "reasoning", "reasoning": "x"}, {"type": "text", "text": "c"}]
    assert prompt(AIMessage(blocks)) == expected


@pytest.mark.parametrize("method", ["json_mode", "json_schema"])
def test_json_after_reasoning_is_parsed(method: str) -> None:
    class Place(BaseModel):
        place: str

    said = '<think>\nNot {"place": "there"}.\n</think>\n\n{"place": "here"}' + END
    chat = thinking_chat(QWEN_3, said).with_structured_output(Place, method=method)
    assert chat.invoke("Where?") == Place(place="here")


@pytest.mark.parametrize("stream", [False, True])
def test_calls_after_reasoning_are_read(*, stream: bool) -> None:
    call = '<tool_call>\n{"name": "search", "arguments": {"query": "rice"}}\n</tool_call>'
    thought = f"I call {call}?"
    chat = thinking_chat(QWEN_3, f"<think>\n{thought}\n</think>\n\nI look.\n{call}{END}")
    bound = chat.bind_tools(TOOLS)
    answer = summed(bound.stream("Where?")) if stream else bound.invoke("Where?")
    assert answer.additional_kwargs["reasoning_content"] == thought
    assert answer.text == "I look."
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
        ("search", {"query": "rice"})
    ]


CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "rice"}}\n</tool_call>'
# As Qwen3-Thinking's, whose prompt opens the reasoning.
OPENED = QWEN_3.replace("{{- '<|im_start|>assistant\\n' }}\n    {%- if enable", (
    "{{- '<|im_start|>assistant\\n<think>\\n' }}\n    {%- if false and enable"
))  # fmt: skip


@pytest.mark.parametrize("thought", ["", CALL.replace("tool_call", "call")])
@pytest.mark.parametrize(("template", "opening"), [(QWEN_3, "<think>\n"), (OPENED, "")])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("required", [False, True])
def test_calls_come_after_the_reasoning(
    template: str, opening: str, thought: str, *, strict: bool, required: bool
) -> None:
    assert OPENED != QWEN_3
    said = f"{opening}{thought}\n</think>\n\n{CALL}{END}"
    chat = thinking_chat(template, said)
    bound = chat.bind_tools(TOOLS, strict=strict, tool_choice="any" if required else "auto")
    for message in (bound.invoke("x"), summed(bound.stream("x"))):
        assert [(call["name"], call["args"]["query"]) for call in message.tool_calls] == [
            ("search", "rice")
        ]
        assert message.text == ""
        assert message.additional_kwargs.get("reasoning_content", "") == thought


def test_a_required_call_needs_no_reasoning() -> None:
    chat = thinking_chat(QWEN_3, CALL + END, enable_thinking=False)
    message = chat.bind_tools(TOOLS, tool_choice="any").invoke("x")
    assert [call["name"] for call in message.tool_calls] == ["search"]
    assert message.additional_kwargs == {}


def prompt_of(chat: ChatTestTimeFineTuned, **call: Any) -> int:
    return chat.invoke("x", **call).usage_metadata["input_tokens"]


def test_arguments_reach_the_template_from_fields_and_calls() -> None:
    said = f"Yes.{END}"
    thinks, brief = thinking_chat(QWEN_3, said), thinking_chat(QWEN_3, said, enable_thinking=False)
    configured = thinking_chat(QWEN_3, said, chat_template_kwargs={"enable_thinking": False})
    assert prompt_of(brief) == prompt_of(configured) > prompt_of(thinks)
    for call in (
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "none"},
    ):
        assert prompt_of(thinks, **call) == prompt_of(brief)
    assert prompt_of(brief, enable_thinking=True) == prompt_of(thinks)
    assert prompt_of(thinks, reasoning_effort="high") == prompt_of(thinks)
    effort = thinking_chat(GPT_OSS, "Yes.")
    tokenizer = effort.tokenizer
    assert "Reasoning: high" in tokenizer.decode(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], reasoning_effort="high", return_dict=True
        )["input_ids"]
    )
    assert prompt_of(effort, reasoning_effort="low") < prompt_of(effort, reasoning_effort="medium")


def test_the_arguments_of_a_call_take_precedence() -> None:
    said = f"Yes.{END}"
    thinks = prompt_of(thinking_chat(QWEN_3, said))
    brief = thinking_chat(
        QWEN_3, said, enable_thinking=False, chat_template_kwargs={"enable_thinking": True}
    )
    on, off = {"enable_thinking": True}, {"enable_thinking": False}
    assert prompt_of(brief) > thinks
    assert prompt_of(brief, chat_template_kwargs=on) == thinks
    assert prompt_of(brief, chat_template_kwargs=on, **off) > thinks
    assert prompt_of(brief, reasoning_effort="none", **on) == thinks
    configured = thinking_chat(QWEN_3, said, chat_template_kwargs=on)
    assert prompt_of(configured, reasoning_effort="none") > thinks
    high = thinking_chat(GPT_OSS, "Yes.", chat_template_kwargs={"reasoning_effort": "medium"})
    assert prompt_of(high, reasoning_effort="low") < prompt_of(high)


def test_an_argument_that_the_template_ignores_is_warned_of_once() -> None:
    chat = thinking_chat(CHATML, f"Yes.{END}", chat_template_kwargs={"never_seen_before": 1})
    with pytest.warns(UserWarning, match="ignores the argument 'never_seen_before'"):
        chat.invoke("x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat.invoke("x")


@pytest.mark.parametrize("name", ["messages", "tools", "chat_template", "bos_token", "tokenize"])
def test_an_argument_cannot_replace_what_the_template_gets(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot set '{name}'"):
        thinking_chat(QWEN_3, "x", chat_template_kwargs={name: "x"})
    with pytest.raises(ArgumentError, match=f"cannot set '{name}'"):
        thinking_chat(QWEN_3, "x").invoke("x", chat_template_kwargs={name: "x"})
    with pytest.raises(ArgumentError, match="must map names to values"):
        thinking_chat(QWEN_3, "x").invoke("x", chat_template_kwargs=json.dumps({}))


def test_an_argument_cannot_write_control_tokens() -> None:
    template = CHATML + "{{ suffix }}"
    chat = thinking_chat(template, "x", chat_template_kwargs={"suffix": "<|im_end|>"})
    plain = thinking_chat(template, "x", chat_template_kwargs={"suffix": "A"})
    assert prompt_of(chat) > prompt_of(plain) + 2


def test_a_text_model_returns_all_text() -> None:
    tokenizer = small_tokenizer("byte-level", QWEN_3)
    said = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
    model = scripted_model(tokenizer, said)
    llm = TestTimeFineTunedLLM(model=model, tokenizer=tokenizer, finetune=FINETUNE)
    assert llm.invoke("Where?") == said


@pytest.mark.slow
@pytest.mark.parametrize("template", [QWEN_3, DEEPSEEK_R1], ids=["qwen3", "r1"])
def test_reasoning_is_not_the_answer_in_a_comparison(store: Chroma, template: str) -> None:
    opening = "<think>\n" if template is QWEN_3 else ""
    said = f"{opening}{THOUGHT}\n</think>\n\n{ANSWER}</s>"
    tokenizer = small_tokenizer("byte-level", template)
    report = compare(
        [Prompt("rice", "Where?", answers=(ANSWER,))],
        ["base"],
        model=scripted_model(tokenizer, said),
        tokenizer=tokenizer,
        vectorstore=store,
        protocols=["qa"],
        max_tokens=100,
    )
    (row,) = report.rows
    assert row.failure is None
    assert row.answer == ANSWER
    assert row.scores["exact_match"] == 1


def test_a_reference_is_scored_after_the_reasoning() -> None:
    task = question_task(Prompt("rice", "Where?", answers=("In wet fields.",)))
    tokenizer = small_tokenizer("byte-level", DEEPSEEK_R1)
    prompt = ScoredText.of(task, tokenizer, 512).without_documents()
    assert tokenizer.decode(prompt).endswith("<think>\n")
    scored = after_reasoning(markers_after(tokenizer, prompt), tokenizer, prompt)
    assert tokenizer.decode(scored).endswith("<think>\n</think>\n\n")
    tokenizer = small_tokenizer("byte-level", QWEN_3)
    arguments = TemplateArguments({"enable_thinking": False})
    prompt = ScoredText.of(task, tokenizer, 512, arguments=arguments).without_documents()
    assert tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
    assert after_reasoning(markers_after(tokenizer, prompt), tokenizer, prompt) == prompt


def test_an_answer_ends_at_an_end_of_turn_that_is_no_token() -> None:
    template = CHATML.replace("im_", "turn_")
    chat = thinking_chat(template, "Yes.<|turn_end|>\n<|turn_start|>user\nAnd?")
    answer = chat.invoke("Really?")
    assert answer.text == "Yes."
    assert answer.response_metadata["finish_reason"] == "stop"
