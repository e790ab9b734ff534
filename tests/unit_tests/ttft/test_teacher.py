"""The base model with documents in its context teaches the model without them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.documents import Document
from transformers import LlamaForCausalLM
from unit_tests.small_tokenizers import small_tokenizer
from unit_tests.templates import CHATML, THINKING

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, TestTimeFineTunedLLM
from langchain_sift.errors import ArgumentError, RequestCancelled
from langchain_sift.language_models.objectives.teaching import DocumentTeaching
from langchain_sift.ttft import AdapterCache, Request, Ticket
from langchain_sift.ttft import teacher as teacher_module
from langchain_sift.ttft.memory.budget import load_of
from langchain_sift.ttft.model.reasoning_markers import before_content
from langchain_sift.ttft.model.tokens import TokenizedDocument
from langchain_sift.ttft.training.lessons import ANSWER_TOKENS, Lesson
from langchain_sift.ttft.training.tasks import BUDGET_SPENT, plan
from langchain_sift.ttft.training.top_logits import COUNT

PROMPT = "Where does rice grow?"
FINETUNE = FineTuneConfig(lora_rank=4, learning_rate=1e-2, objective="distill")


def made(context: int, template: str | None = CHATML) -> dict[str, Any]:
    """Return a random model with a context of this length, and its tokenizer."""
    tokenizer = small_tokenizer("byte-level", template)
    config = LlamaForCausalLM.config_class(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=context,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.float32).eval()
    return {"model": model, "tokenizer": tokenizer}


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return made(1024)


@pytest.fixture
def chat(parts: dict[str, Any]) -> ChatTestTimeFineTuned:
    return ChatTestTimeFineTuned(**parts, finetune=FINETUNE, max_tokens=4, temperature=0.0)


@pytest.fixture
def documents(texts: list[str]) -> list[Document]:
    chosen = [*texts[:3], texts[0]]
    return [Document(text, id=str(number)) for number, text in enumerate(chosen)]


def request_of(chat: ChatTestTimeFineTuned, documents: list[Document]) -> Request:
    """Return the request of a call, without the call."""
    from langchain_sift.language_models.answer import Answer  # noqa: PLC0415

    settings = chat._call_settings({"documents": documents}, stop=None, run=None)
    from langchain_core.messages import HumanMessage  # noqa: PLC0415

    from langchain_sift.language_models.chat_templates.rendering import render  # noqa: PLC0415
    from langchain_sift.language_models.context import add_context  # noqa: PLC0415

    def render_with(model: Any, context: str) -> list[int]:
        return render(model.tokenizer, add_context([HumanMessage(PROMPT)], context))

    return Answer(chat.engine, render_with, PROMPT, settings)._request(chat.engine)


def question_and_text(lesson: Lesson, row: TokenizedDocument) -> tuple[list[int], list[int]]:
    """Return the question and the text in the row that a lesson became."""
    count = len(row.counted or ())
    prompt, text = list(row.token_ids[:-count]), list(row.token_ids[-count:])
    before, after = lesson.student.before, lesson.student.after
    assert tuple(prompt[: len(before)]) == before
    question = prompt[len(before) : len(prompt) - len(after)]
    assert (*before, *question, *after) == tuple(prompt)
    return question, text


def divergence_by_transformers(
    model: Any, taught: list[int], learned: list[int], count: int
) -> float:
    """Return the mean divergence over the last tokens, from all logits in float64."""
    with torch.no_grad():
        teacher, student = (
            model(input_ids=torch.tensor([ids])).logits[0, -count - 1 : -1].double().softmax(-1)
            for ids in (taught, learned)
        )
    kept = teacher.topk(COUNT).indices
    p, q = (
        torch.cat(
            [probabilities.gather(1, kept), 1 - probabilities.gather(1, kept).sum(1, keepdim=True)],
            1,
        )
        for probabilities in (teacher, student)
    )
    return float((p * (p.log() - q.log())).sum(1).mean())


@pytest.mark.slow
def test_losses_are_the_divergence_from_the_base_with_the_documents(
    chat: ChatTestTimeFineTuned, documents: list[Document]
) -> None:
    engine = chat.engine
    request = request_of(chat, documents)
    taught = engine._worker._teacher.teach(request.lessons, request.config, lambda: False)
    rows = list(dict.fromkeys(taught.documents))
    assert [row.index for row in rows] == [lesson.document for lesson in request.lessons]
    assert [lesson.repeats for lesson in request.lessons] == [*[1] * 6, 8, 1]
    # Three different texts with a question each, the repeat of the first, and the prompt.
    assert [bool(lesson.ask) for lesson in request.lessons] == [0, 1, 0, 1, 0, 1, 0, 0]
    expected = []
    for lesson, row in zip(request.lessons, rows, strict=True):
        question, text = question_and_text(lesson, row)
        taught = [*lesson.teacher.around(question), *text]
        loss = divergence_by_transformers(chat.model, taught, list(row.token_ids), len(text))
        expected += [loss] * lesson.repeats
        if not lesson.text:
            written = chat.model.generate(
                input_ids=torch.tensor([lesson.teacher.around(question)]),
                attention_mask=torch.ones(1, len(taught) - len(text), dtype=torch.long),
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
            decode = chat.tokenizer.decode
            whole = decode(written[0, len(taught) - len(text) :], skip_special_tokens=True)
            assert whole.startswith(decode(text, skip_special_tokens=True).rstrip())
    record = chat.invoke(PROMPT, documents=documents, learning_rate=0.0).response_metadata["ttft"]
    assert record["losses"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert record["documents"] == ["0", "1", "2", "3"]
    assert record["seconds"]["teaching"] > 0


@pytest.mark.slow
def test_a_prompt_alone_learns_as_in_a_batch_and_the_base_stays(
    chat: ChatTestTimeFineTuned, documents: list[Document], fingerprint: Callable[[Any], str]
) -> None:
    before = fingerprint(chat.model)
    alone = chat.invoke(PROMPT, documents=documents[:2]).response_metadata["ttft"]
    together = chat.batch([PROMPT, "When?", PROMPT], documents=documents[:2])
    for message in (together[0], together[2]):
        losses = message.response_metadata["ttft"]["losses"]
        assert losses == pytest.approx(alone["losses"], rel=1e-4, abs=1e-6)
    assert fingerprint(chat.model) == before
    chat.engine.outcome(chat.engine.request([], None))  # the engine is done with the others
    assert all(
        chat.engine._worker.slots.is_at_rest(n) for n in range(chat.engine._worker.slots.count)
    )


def test_steps_bring_the_student_nearer_to_the_teacher(
    chat: ChatTestTimeFineTuned, documents: list[Document]
) -> None:
    with chat.learn(documents[:1], steps_per_document=6) as session:
        assert session.adapter is not None
        losses = session.adapter.training.losses
    assert len(losses) == 12  # a session has no prompt
    assert losses[5] < losses[0]
    assert losses[11] < losses[6]


@pytest.mark.slow
def test_cancellation_ends_the_teacher(
    chat: ChatTestTimeFineTuned, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, submitted = chat.engine, threading.Event()
    calls = []

    def generate(*arguments: Any) -> None:
        submitted.wait()
        ticket.cancel()
        calls.append(arguments)
        usual(*arguments)

    usual = teacher_module.generate
    monkeypatch.setattr(teacher_module, "generate", generate)
    ticket = engine.submit(request_of(chat, documents))
    submitted.set()
    with pytest.raises(RequestCancelled):
        list(ticket)
    engine.outcome(engine.request([], None))  # the engine is done with the first
    assert len(calls) == 1
    monkeypatch.undo()
    assert chat.invoke(PROMPT, documents=documents[:1]).response_metadata["ttft"]["steps"] == 10


@pytest.fixture
def texts_at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of texts that the teacher writes, each time it does."""

    def generate(model: Any, tokenizer: Any, continuations: Sequence[Any]) -> None:
        counts.append(len(continuations))
        usual(model, tokenizer, continuations)

    counts: list[int] = []
    usual = teacher_module.generate
    monkeypatch.setattr(teacher_module, "generate", generate)
    return counts


def test_without_time_the_teacher_only_rates_the_first_document(
    chat: ChatTestTimeFineTuned, documents: list[Document], texts_at_once: list[int]
) -> None:
    record = chat.invoke(PROMPT, documents=documents, max_train_seconds=1e-9).response_metadata
    assert record["ttft"]["steps"] == 1
    assert record["ttft"]["documents"] == ["0"]
    assert "max_train_seconds" in record["ttft"]["ended"]
    assert texts_at_once == []


def test_a_teacher_that_has_to_stop_keeps_the_texts_that_are_given(
    chat: ChatTestTimeFineTuned, documents: list[Document], texts_at_once: list[int]
) -> None:
    request = request_of(chat, documents)
    teacher = chat.engine._worker._teacher
    taught = teacher.teach(request.lessons, request.config, lambda: bool(texts_at_once))
    given = [one for one in request.lessons if not one.is_written]
    assert [(row.index, row.token_ids) for row in taught.documents] == [
        (one.document, one.student.around(one.text)) for one in given
    ]
    assert len(texts_at_once) == 1
    assert taught.ended is not None


@pytest.mark.slow
def test_the_budget_of_tokens_ends_the_teacher_and_changes_no_step(
    chat: ChatTestTimeFineTuned, documents: list[Document], texts_at_once: list[int]
) -> None:
    request = request_of(chat, documents)
    teacher = chat.engine._worker._teacher
    everything = teacher.teach(request.lessons, request.config, lambda: False).documents
    ends = list(itertools.accumulate(2 * len(row.token_ids) for row in everything))
    texts_at_once.clear()
    for budget in (ends[0] - 1, ends[0], ends[2], ends[-1] - 1, ends[-1]):
        config = replace(FINETUNE, max_train_tokens=budget, steps_per_document=2)
        taught = teacher.teach(request.lessons, config, lambda: False)
        expected, steps = plan(everything, config), plan(taught.documents, config)
        assert [step.token_ids for step in steps] == [step.token_ids for step in expected]
        if budget <= ends[0]:
            assert len(taught.documents) == 1
            assert texts_at_once == []
            assert taught.ended == BUDGET_SPENT
    record = chat.invoke(PROMPT, documents=documents, max_train_tokens=ends[0] // 2)
    assert record.response_metadata["ttft"]["ended"] == BUDGET_SPENT


def test_the_teacher_progresses_with_each_token(
    chat: ChatTestTimeFineTuned, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[float] = []

    def report(self: Ticket) -> bool:
        stopped = usual(self)
        moments.append(self.progressed_at)
        return stopped

    usual = Ticket.report_progress
    monkeypatch.setattr(Ticket, "report_progress", report)
    chat.engine.outcome(request_of(chat, documents[:1]))
    # A question, its answer and that to the prompt, beside ten steps and four tokens.
    assert len(moments) > ANSWER_TOKENS + 14
    assert all(former < later for former, later in itertools.pairwise(moments))


@pytest.mark.slow
def test_documents_that_do_not_fit_together_are_taught_in_turns(texts: list[str]) -> None:
    chat = ChatTestTimeFineTuned(**made(300), finetune=FINETUNE, max_tokens=4, temperature=0.0)
    documents = [Document(text) for text in texts[:6]]
    lessons = request_of(chat, documents).lessons
    about_prompt = [one for one in lessons if not one.text and not one.ask]
    assert len(about_prompt) > 1
    for number, text in enumerate(texts[:6]):
        start = chat.tokenizer(text)["input_ids"][:4]
        contexts = [str(chat.tokenizer.decode(one.teacher.before)) for one in about_prompt]
        assert sum(str(chat.tokenizer.decode(start)) in context for context in contexts) == 1, (
            number
        )
    assert max(len(one.teacher) + one.written for one in lessons) <= 300
    assert chat.invoke(PROMPT, documents=documents).response_metadata["ttft"]["steps"] > 6


@pytest.mark.slow
def test_a_model_without_a_template_learns_from_questions_in_plain_text(texts: list[str]) -> None:
    llm = TestTimeFineTunedLLM(**made(512, None), finetune=FINETUNE, max_tokens=4, temperature=0.0)
    documents = [Document(texts[0])]
    (generation,) = llm.generate([PROMPT], documents=documents).generations[0]
    assert (generation.generation_info or {})["ttft"]["steps"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "r1"])
def test_a_model_that_reasons_teaches_without_reasoning(name: str) -> None:
    chat = ChatTestTimeFineTuned(
        **made(512, THINKING[name]), finetune=FINETUNE, max_tokens=4, temperature=0.0
    )
    record = chat.invoke(PROMPT, documents=[Document("Rice grows in wet fields.")])
    # The document, the answer to a question about it, and eight times the answer to the prompt.
    assert record.response_metadata["ttft"]["steps"] == 10


def test_empty_reasoning_is_that_of_the_template() -> None:
    tokenizer: Any = small_tokenizer("byte-level", THINKING["qwen3"])
    turns = [{"role": "user", "content": PROMPT}]
    open_, closed = (
        list(
            tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_dict=False, enable_thinking=reasons
            )
        )
        for reasons in (True, False)
    )
    assert before_content(tokenizer, open_) == before_content(tokenizer, closed) == closed
    tokenizer = small_tokenizer("byte-level", CHATML)  # it knows the markers, and never writes them
    assert before_content(tokenizer, open_) == open_


def test_what_cannot_be_taught_is_refused(
    chat: ChatTestTimeFineTuned, documents: list[Document]
) -> None:
    with pytest.raises(ArgumentError, match="more than plain texts"):
        chat.engine.finetune(["a text"])
    small = ChatTestTimeFineTuned(**made(128), finetune=FINETUNE, max_tokens=4)
    with pytest.raises(ArgumentError, match="no room for a teacher"):
        small.invoke("Where?", documents=documents)


def test_the_estimate_of_memory_includes_the_teacher(
    chat: ChatTestTimeFineTuned, documents: list[Document]
) -> None:
    request = request_of(chat, documents)
    load = load_of(request)
    assert load.document == max(lesson.tokens for lesson in request.lessons)
    assert max(lesson.scored for lesson in load.lessons) == max(
        len(lesson.teacher) + lesson.written for lesson in request.lessons
    )


@pytest.mark.slow
def test_a_cached_adapter_belongs_to_one_prompt(
    chat: ChatTestTimeFineTuned, documents: list[Document], tmp_path: Path
) -> None:
    cached = chat.model_copy(update={"adapter_cache": AdapterCache(tmp_path, tenant="me")})
    hits = [
        cached.invoke(prompt, documents=documents[:1]).response_metadata["ttft"]["cached"]
        for prompt in (PROMPT, "When?", PROMPT)
    ]
    assert hits == [False, False, True]


def test_lessons_do_not_depend_on_the_names_of_control_tokens(chat: ChatTestTimeFineTuned) -> None:
    text = "<|im_end|> is a name. " * 3
    teaching = DocumentTeaching([text], FINETUNE, chat.engine.language_model)
    document = TokenizedDocument(0, (1, 2, 3), truncated=False)
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for lesson in teaching.lessons([document]):
        if lesson.ask:
            assert lesson.ask.count(end) == 1
            assert (*lesson.teacher.before, *lesson.teacher.after).count(end) == 1
