"""A model learns the answers of documents that are questions or conversations, and no more."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, messages_to_dict
from langchain_core.runnables import RunnableLambda
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase
from unit_tests.small_tokenizers import KINDS, small_tokenizer
from unit_tests.templates import CHATML, QWEN_3, TEMPLATES

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig
from langchain_sift.comparison import Prompt, example_documents
from langchain_sift.errors import ArgumentError
from langchain_sift.language_models.chat_templates.rendering import render
from langchain_sift.language_models.objectives.conversation_documents import conversation_of
from langchain_sift.language_models.objectives.marked_answers import (
    encode_beginning,
    encode_conversation,
)
from langchain_sift.language_models.objectives.training_material import training_material
from langchain_sift.ttft.model.tokens import EncodedText
from langchain_sift.ttft.training.tasks import BUDGET_SPENT

ASKED, ANSWERED = "Where does rice grow?", "In wet fields."
PAIR = [HumanMessage(ASKED), AIMessage(ANSWERED)]
TURNS = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
PASSAGES = ("Rice is a grass. It grows in wet fields.", "Tea grows on hills.")
END = "<|im_end|>"

# The same with the marks from which transformers tells answers.
MARKED = """\
{% for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}
    {%- else %}{{ m.content + '<|im_end|>' }}{% endif %}
    {{- '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


@pytest.mark.parametrize(
    "fields",
    [
        {"question": ASKED, "answer": ANSWERED},
        {"question": ASKED, "answers": [ANSWERED, "elsewhere"]},
        {"question": ASKED, "answers": json.dumps([ANSWERED])},
        {"question": ASKED, "answers": {"text": [ANSWERED], "answer_start": [3]}},
        {"prompt": ASKED, "completion": ANSWERED},
        {"instruction": ASKED, "input": "", "output": ANSWERED},
        {"messages": TURNS},
        {"messages": json.dumps(TURNS)},
        {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]},
        {"conversation": [{"role": "user", "value": ASKED}, {"role": "model", "value": ANSWERED}]},
        {"conversations": [{"from": "User", "value": ASKED}, {"from": "bing", "value": ANSWERED}]},
        {"conversations": [ASKED, ANSWERED], "source": "wikihow"},
        {"inputs": ASKED, "targets": ANSWERED},
        {"user_input": ASKED, "reference": ANSWERED, "response": "elsewhere"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"messages": messages_to_dict(PAIR)},
        {"messages": str(TURNS)},
        {"Query": ASKED, "Response": ANSWERED},
        {"question": ASKED, "choices": ["on hills", ANSWERED], "answer": 1},
        {
            "question": ASKED,
            "choices": {"text": ["x", ANSWERED], "label": ["1", "2"]},
            "answerKey": "2",
        },
        {"goal": ASKED, "sol1": "on hills", "sol2": ANSWERED, "label": 1},
        {"sentence": ASKED, "option1": "on hills", "option2": ANSWERED, "answer": "2"},
        {"question": ASKED, "answer": {"value": ANSWERED, "aliases": ["elsewhere"]}},
        {"question": ASKED, "answers": str({"text": [ANSWERED], "answer_start": [3]})},
        {"question": ASKED, "answers.text": [ANSWERED], "answers.answer_start": [3]},
    ],
    ids=str,
)
def test_common_forms_are_conversations(fields: Mapping[str, object]) -> None:
    for document in (Document("", metadata=dict(fields)), Document(json.dumps(fields))):
        messages = conversation_of(document, 0)
        assert [(m.type, m.text) for m in messages] == [(m.type, m.text) for m in PAIR]
    assert [m.text for m in conversation_of(Document(json.dumps(TURNS)), 0)] == [ASKED, ANSWERED]


@pytest.mark.parametrize(
    "fields",
    [
        {"system": "Be brief.", "messages": TURNS},
        {"system": "Be brief.", "conversations": [{"from": "human", "value": ASKED}, TURNS[1]]},
        {"system": "Be brief.", "instruction": ASKED, "output": ANSWERED},
        {"system_prompt": "Be brief.", "question": ASKED, "response": ANSWERED},
        {"system_prompt": "Be brief.", "prompt": TURNS[:1], "completion": TURNS[1:]},
        {"system": "Be long.", "messages": [{"role": "system", "content": "Be brief."}, *TURNS]},
    ],
    ids=str,
)
def test_a_system_text_in_a_field_of_its_own_comes_first(fields: Mapping[str, object]) -> None:
    for document in (Document("", metadata=dict(fields)), Document(json.dumps(fields))):
        system, *messages = conversation_of(document, 0)
        assert (system.type, system.text) == ("system", "Be brief.")
        assert [(m.type, m.text) for m in messages] == [(m.type, m.text) for m in PAIR]


def test_earlier_turns_of_an_instruction_come_before_it() -> None:
    fields = {"instruction": "When?", "output": "Now.", "history": [[ASKED, ANSWERED]]}
    for history in (fields["history"], json.dumps(fields["history"]), TURNS):
        messages = conversation_of(Document("", metadata={**fields, "history": history}), 0)
        assert [m.text for m in messages] == [ASKED, ANSWERED, "When?", "Now."]
    for other in (None, "none", [], 3, ["In 2020 it was written."], [["only one"]], [3]):
        messages = conversation_of(Document("", metadata={**fields, "history": other}), 0)
        assert [m.text for m in messages] == ["When?", "Now."]
    with pytest.raises(ArgumentError, match="document 0 has messages that cannot be read"):
        conversation_of(Document("", metadata={**fields, "history": [[1, 2]]}), 0)
    other = {"question": ASKED, "answer": ANSWERED, "system": "SAP", "history": "long"}
    assert [m.text for m in conversation_of(Document("", metadata=other), 0)] == [ASKED, ANSWERED]


@pytest.mark.parametrize(("sender", "text"), [("role", "content"), ("from", "value")])
def test_a_message_has_a_content_or_calls(sender: str, text: str) -> None:
    answer = {sender: "assistant", text: ANSWERED}
    other = {"messages": [{sender: "user", "text": ASKED}, answer]}
    with pytest.raises(ArgumentError, match=r"document 2 has .* of the fields content, value"):
        conversation_of(Document("", metadata=other), 2)
    call = {"id": "1", "type": "function", "function": {"name": "grow", "arguments": "{}"}}
    turns = [{sender: "user", text: ASKED}, {sender: "assistant", "tool_calls": [call]}, answer]
    messages = conversation_of(Document("", metadata={"messages": turns}), 0)
    assert messages[1].tool_calls[0]["name"] == "grow"  # type: ignore[union-attr]


def test_texts_in_turn_are_those_of_the_user_and_the_assistant() -> None:
    turns = [ASKED, ANSWERED, "When?", "From May."]
    messages = conversation_of(Document("", metadata={"conversations": turns}), 0)
    assert [message.text for message in messages] == turns
    assert [message.type for message in messages] == ["human", "ai"] * 2


def test_an_unknown_sender_is_named_beside_the_known_ones() -> None:
    turns = [{"from": "function_call", "value": ANSWERED}]
    with pytest.raises(ArgumentError, match="from 'function_call', none of user, human") as caught:
        conversation_of(Document("", metadata={"conversations": turns}), 0)
    assert ANSWERED not in str(caught.value)


def test_the_result_of_a_tool_need_not_name_its_call() -> None:
    """As of Hermes's function calls, which are texts in ShareGPT's form."""
    turns = [("human", ASKED), ("gpt", "<tool_call>{}</tool_call>"), ("tool", "wet fields")]
    turns.append(("gpt", ANSWERED))
    conversation = [{"from": sender, "value": text} for sender, text in turns]
    messages = conversation_of(Document("", metadata={"conversations": conversation}), 0)
    assert [message.text for message in messages] == [text for _, text in turns]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    for template in TEMPLATES.values():
        encoded = encode_conversation(small_tokenizer("byte-level", template), messages)
        assert encoded.counted


def test_an_answer_without_weight_is_read_and_not_learned() -> None:
    tokenizer = small_tokenizer("byte-level", CHATML)
    without = {"role": "assistant", "content": "On hills.", "weight": 0}
    weighted = {"role": "assistant", "content": ANSWERED, "weight": 1}
    turns = [TURNS[0], without, TURNS[0], weighted, TURNS[0], without]
    messages = conversation_of(Document("", metadata={"messages": turns}), 0)
    encoded = encode_conversation(tokenizer, messages)
    text = str(tokenizer.decode(list(encoded.token_ids)))
    counted = str(tokenizer.decode([encoded.token_ids[n] for n in encoded.counted]))
    assert text.count("On hills.") == 1
    assert counted == f"{ANSWERED}{END}"
    with pytest.raises(ArgumentError, match="no answer to learn"):
        conversation_of(Document("", metadata={"messages": turns[:2]}), 0)


@pytest.mark.parametrize(
    "document",
    [
        Document("Rice grows in wet fields."),
        Document("", metadata={"question": ASKED}),
        Document("", metadata={"question": ASKED, "answer": " "}),
        Document("", metadata={"messages": TURNS[:1]}),
        Document("", metadata={"messages": TURNS[1:]}),
        Document("", metadata={"messages": [{"role": "user"}]}),
        Document("", metadata={"question": ASKED, "answer": float("nan")}),
        Document("", metadata={"text": "Rice grows.", "label": 1}),
        Document("", metadata={"question": ASKED, "choices": ["x", "y"], "answer": 2}),
        Document('{"question": 1, "answers": []}'),
        Document("[1, 2]"),
        Document('{"text": "unfinished'),
    ],
    ids=str,
)
def test_another_document_is_refused_by_its_name(document: Document) -> None:
    with pytest.raises(ArgumentError, match=r"document 3\b.*objective='text'") as caught:
        conversation_of(document, 3)
    assert "wet fields" not in str(caught.value)
    with pytest.raises(ArgumentError, match=r"document 3 \('rice'\)"):
        conversation_of(document.model_copy(update={"id": "rice"}), 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_tokens_are_those_of_the_template(kind: str, template: str) -> None:
    tokenizer = small_tokenizer(kind, template)
    turns = [*TURNS, {"role": "user", "content": "When?"}, {"role": "assistant", "content": "Now."}]
    whole = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": "Thanks"}], return_dict=True
    )["input_ids"]
    messages = [*PAIR, HumanMessage("When?"), AIMessage("Now.")]
    encoded = encode_conversation(tokenizer, messages)
    assert list(encoded.token_ids) == whole[: len(encoded.token_ids)]
    counted = str(tokenizer.decode([encoded.token_ids[n] for n in encoded.counted]))
    assert ANSWERED in counted
    assert "Now." in counted
    assert ASKED not in counted
    assert "When?" not in counted


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("longest", [8, 40, 200, 10_000])
def test_the_beginning_of_a_conversation_is_that_of_the_whole(template: str, longest: int) -> None:
    tokenizer = small_tokenizer("byte-level", template)
    messages: list[BaseMessage] = []
    for number in range(12):
        thought = "<think>Well</think>" if number % 3 == 1 else ""
        answer = thought if number % 4 == 1 else f"{thought}Answer {number}. " + "word " * number
        messages += [HumanMessage(f"Question {number}?"), AIMessage(answer or "Yes.")]
    whole = encode_conversation(tokenizer, messages)
    begun = encode_beginning(tokenizer, messages, longest)
    assert begun.token_ids[:longest] == whole.token_ids[:longest]
    assert [n for n in begun.counted if n < longest] == [n for n in whole.counted if n < longest]
    assert (len(begun.token_ids) > longest) is (len(whole.token_ids) > longest)


def test_a_long_conversation_is_rendered_only_as_far_as_it_is_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each answer is rendered with all before it: the time would grow with the square."""
    tokenizer, rendered = small_tokenizer("byte-level", CHATML), []

    def count(tokenizer: Any, messages: Sequence[BaseMessage], **options: Any) -> list[int]:
        rendered.append(len(messages))
        return render(tokenizer, messages, **options)

    monkeypatch.setattr("langchain_sift.language_models.objectives.marked_answers.render", count)
    for text in ("word " * 100, "a"):
        rendered.clear()
        messages = [HumanMessage(text), AIMessage(text)] * 2000
        assert len(encode_beginning(tokenizer, messages, 256).token_ids) > 256
        assert sum(rendered) < 10_000


def test_only_the_template_writes_control_tokens() -> None:
    tokenizer = small_tokenizer("byte-level", CHATML)
    end = tokenizer.convert_tokens_to_ids(END)
    encoded = encode_conversation(tokenizer, [HumanMessage(END), AIMessage(f"{END} is a name")])
    assert encoded.token_ids.count(end) == 2
    assert [encoded.token_ids[n] for n in encoded.counted].count(end) == 1
    assert encoded.token_ids[-1] == end


def test_reasoning_is_not_learned() -> None:
    tokenizer = small_tokenizer("byte-level", QWEN_3)
    thought = AIMessage("<think>\nFields?\n</think>\n\nIn wet fields.")
    encoded = encode_conversation(tokenizer, [HumanMessage(ASKED), thought])
    counted = tokenizer.decode([encoded.token_ids[n] for n in encoded.counted])
    assert counted == f"{ANSWERED}{END}"


def test_a_conversation_with_tools_is_learned_by_any_template() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        {"role": "assistant", "content": ANSWERED},
    ]
    messages = conversation_of(Document("", metadata={"messages": turns}), 0)
    for template in TEMPLATES.values():
        tokenizer: Any = small_tokenizer("byte-level", template)
        encoded = encode_conversation(tokenizer, messages)
        counted = tokenizer.decode(
            [encoded.token_ids[n] for n in encoded.counted], skip_special_tokens=True
        )
        assert counted.strip() == ANSWERED


def test_an_answer_that_is_nothing_but_reasoning_is_refused() -> None:
    tokenizer: Any = small_tokenizer("byte-level", CHATML)
    with pytest.raises(ArgumentError, match="nothing but reasoning"):
        encode_conversation(tokenizer, [PAIR[0], AIMessage("<think>Well</think>")])


@pytest.fixture(scope="module")
def chat() -> ChatTestTimeFineTuned:
    tokenizer: Any = small_tokenizer("byte-level", CHATML)
    config = LlamaForCausalLM.config_class(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.float32).eval()
    return ChatTestTimeFineTuned(
        model=model,
        tokenizer=tokenizer,
        finetune=FineTuneConfig(lora_rank=4, learning_rate=1e-2, objective="answer"),
        max_tokens=4,
        temperature=0.0,
    )


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    *TURNS,
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "In the rainy season."},
]
DOCUMENTS = [
    Document("not read", metadata={"messages": CONVERSATION}, id="conversation"),
    Document("not read", metadata={"question": ASKED, "answer": ANSWERED}, id="pair"),
]


def record_of(chat: ChatTestTimeFineTuned, **call: Any) -> dict[str, Any]:
    record: dict[str, Any] = chat.invoke(ASKED, **call).response_metadata["ttft"]
    return record


def loss_of_transformers(chat: ChatTestTimeFineTuned, turns: list[dict[str, str]]) -> float:
    """Return the loss on what the template marks as answers, by transformers."""
    tokenizer: PreTrainedTokenizerBase = copy.deepcopy(chat.tokenizer)
    tokenizer.chat_template = MARKED
    marked: Any = tokenizer.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    labels = marked["input_ids"].masked_fill(marked["assistant_masks"] == 0, -100)
    with torch.no_grad():
        return float(chat.model(input_ids=marked["input_ids"], labels=labels).loss)


def test_the_loss_is_that_of_transformers_on_the_answers(chat: ChatTestTimeFineTuned) -> None:
    for document, turns in zip(DOCUMENTS, (CONVERSATION, TURNS), strict=True):
        record = record_of(chat, documents=[document])
        assert record["losses"] == pytest.approx([loss_of_transformers(chat, turns)], rel=1e-5)
        assert record["documents"] == [document.id]


@pytest.mark.parametrize(
    "fields",
    [
        {"question": ASKED, "answer": ANSWERED, "context": [*PASSAGES]},
        {"question": ASKED, "answer": ANSWERED, "context": json.dumps(PASSAGES)},
        {"question": ASKED, "answer": ANSWERED, "contexts": [*PASSAGES]},
        {"question": ASKED, "answer": ANSWERED, "context": " ", "passage": [*PASSAGES]},
        {"question": ASKED, "answer": ANSWERED, "context": {"contexts": [*PASSAGES]}},
        {"question": ASKED, "answer": ANSWERED, "context": json.dumps({"contexts": PASSAGES})},
        {"question": ASKED, "answer": ANSWERED, "context": [{"text": text} for text in PASSAGES]},
        {
            "question": ASKED,
            "answer": ANSWERED,
            "context": {"title": ["a", "b"], "sentences": [[text] for text in PASSAGES]},
        },
        {
            "question": ASKED,
            "choices": ["x", ANSWERED],
            "answer": 1,
            "contexts": [*PASSAGES],
        },
        {"Question": ASKED, "Answer": ANSWERED, "Context": [*PASSAGES]},
        {"prompt": ASKED, "completion": ANSWERED, "context": [*PASSAGES]},
        {"question": ASKED, "answer": ANSWERED, "passage": "\n\n".join(PASSAGES)},
        {"instruction": ASKED, "response": ANSWERED, "context": "\n\n".join(PASSAGES)},
    ],
    ids=str,
)
def test_passages_of_a_question_come_before_it_in_their_order(
    chat: ChatTestTimeFineTuned, fields: dict[str, Any]
) -> None:
    asked = f"Use these documents to answer.\n\n{PASSAGES[0]}\n\n{PASSAGES[1]}\n\n{ASKED}"
    turns = [{"role": "user", "content": asked}, TURNS[1]]
    for document in (Document("", metadata=fields), Document(json.dumps(fields))):
        assert learned_text(chat, document).rstrip() == templated(chat, turns).rstrip()
        record = record_of(chat, documents=[document])
        assert record["losses"] == pytest.approx([loss_of_transformers(chat, turns)], rel=1e-5)


def test_the_most_informative_passage_of_an_example_is_last(chat: ChatTestTimeFineTuned) -> None:
    retriever = RunnableLambda(lambda _: [Document(text) for text in PASSAGES])
    (example,) = example_documents([Prompt("1", ASKED, answers=(ANSWERED,))], retriever)
    asked = f"Use these documents to answer.\n\n{PASSAGES[1]}\n\n{PASSAGES[0]}\n\n{ASKED}"
    turns = [{"role": "user", "content": asked}, TURNS[1]]
    assert learned_text(chat, example).rstrip() == templated(chat, turns).rstrip()


def learned_text(chat: ChatTestTimeFineTuned, document: Document) -> str:
    """Return the text that a model learns from a document."""
    config = replace(chat.finetune, objective="answer")
    (text,) = training_material([document], config, chat.engine.language_model).texts
    assert isinstance(text, EncodedText)
    return str(chat.tokenizer.decode(text.token_ids))


def templated(chat: ChatTestTimeFineTuned, turns: list[dict[str, str]]) -> str:
    """Return a conversation as the chat template writes it."""
    text: Any = chat.tokenizer.apply_chat_template(turns, tokenize=False)
    return str(text)


def test_passages_may_be_the_documents_of_a_retriever(chat: ChatTestTimeFineTuned) -> None:
    pair = {"question": ASKED, "answer": ANSWERED}
    texts = Document("", metadata={**pair, "context": [*PASSAGES]})
    documents = Document("", metadata={**pair, "context": [*map(Document, PASSAGES)]})
    losses = [record_of(chat, documents=[each])["losses"] for each in (texts, documents)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("answer", [ANSWERED, " ".join(["rice"] * 120)], ids=["short", "long"])
def test_the_last_passages_that_fit_with_the_answer_come_before_the_question(
    chat: ChatTestTimeFineTuned, answer: str
) -> None:
    short, long = "Rice is a grass.", "water " * 400
    fields = {"question": ASKED, "answer": answer, "context": [PASSAGES[1], long, short]}
    record = record_of(chat, documents=[Document("", metadata=fields)])
    assert record["truncated"] == []  # the answer is whole, and so is its end
    turns = [
        {"role": "user", "content": f"Use these documents to answer.\n\n{short}\n\n{ASKED}"},
        {"role": "assistant", "content": answer},
    ]
    alone = {"question": ASKED, "answer": answer, "context": [short]}
    expected = record_of(chat, documents=[Document("", metadata=alone)])
    assert expected["losses"] == pytest.approx([loss_of_transformers(chat, turns)], rel=1e-5)
    assert record["tokens"] > expected["tokens"]  # a part of the others


def test_a_passage_that_does_not_fit_alone_is_cut(chat: ChatTestTimeFineTuned) -> None:
    fields = {"question": ASKED, "answer": ANSWERED, "context": "water " * 600}
    record = record_of(chat, documents=[Document("", metadata=fields)])
    assert record["truncated"] == []
    assert 480 < record["tokens"] <= 512


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"messages": TURNS}, ASKED),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, ASKED),
        ({"question": ASKED, "answer": ANSWERED, "context": ""}, ASKED),
        ({"question": ASKED, "answer": ANSWERED, "context": {"title": "a title"}}, ASKED),
        (
            {"question": ASKED, "choices": ["on hills", ANSWERED], "answer": 1},
            f"{PASSAGES[0]}\n\n{ASKED}",
        ),
    ],
    ids=str,
)
def test_other_documents_get_no_passage_before_the_question(
    chat: ChatTestTimeFineTuned, fields: dict[str, Any], content: str
) -> None:
    document = Document("", metadata={"context": PASSAGES[0], **fields})
    turns = [{"role": "user", "content": content}, TURNS[1]]
    record = record_of(chat, documents=[document])
    assert record["losses"] == pytest.approx([loss_of_transformers(chat, turns)], rel=1e-5)


def test_a_prompt_alone_learns_as_in_a_batch(chat: ChatTestTimeFineTuned) -> None:
    alone = record_of(chat, documents=DOCUMENTS)
    together = chat.batch([ASKED, "When?", ASKED], documents=DOCUMENTS)
    for message in together:
        losses = message.response_metadata["ttft"]["losses"]
        assert losses == pytest.approx(alone["losses"], rel=1e-5)


def test_a_call_and_a_session_choose_the_objective(chat: ChatTestTimeFineTuned) -> None:
    text = Document("Rice grows in wet fields.")
    assert record_of(chat, documents=[text], objective="text")["steps"] == 1
    with chat.learn(DOCUMENTS) as session:
        assert session.adapter is not None
        assert session.adapter.config.objective == "answer"
        assert session.adapter.training.losses == pytest.approx(
            record_of(chat, documents=DOCUMENTS)["losses"], rel=1e-5
        )
    for refused in (lambda: chat.learn([text]), lambda: chat.invoke(ASKED, documents=[text])):
        with pytest.raises(ArgumentError, match="document 0 is neither"):
            refused()
    with pytest.raises(ArgumentError, match="objective must be one of"):
        chat.invoke(ASKED, objective="all")


def test_documents_beyond_the_budget_are_not_examined(chat: ChatTestTimeFineTuned) -> None:
    another = Document("Rice grows in wet fields.", id="another")
    record = record_of(chat, documents=[*DOCUMENTS, another], max_documents=2)
    expected = record_of(chat, documents=DOCUMENTS)
    assert record["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert record["documents"] == ["conversation", "pair"]
    assert (record["ended"], record["skipped"]) == (BUDGET_SPENT, [])
    assert expected["ended"] is None
    with pytest.raises(ArgumentError, match="document 2 "):
        chat.invoke(ASKED, documents=[*DOCUMENTS, another], max_documents=3)


def test_what_does_not_fit_is_refused(chat: ChatTestTimeFineTuned) -> None:
    late = Document("", metadata={"question": "word " * 600, "answer": "yes"}, id="late")
    with pytest.raises(ArgumentError, match=r"\('late'\) has no answer within its first 512.*sho"):
        chat.invoke(ASKED, documents=[late])
    long = Document("", metadata={"question": ASKED, "answer": "word " * 600}, id="long")
    assert record_of(chat, documents=[long])["truncated"] == ["long"]
    with pytest.raises(ArgumentError, match="more than plain texts"):
        chat.engine.finetune(["a text"])
    plain = copy.deepcopy(chat.tokenizer)
    plain.chat_template = None
    with pytest.raises(ArgumentError, match="no chat template"):
        chat.model_copy(update={"tokenizer": plain}).invoke(ASKED, documents=DOCUMENTS)
