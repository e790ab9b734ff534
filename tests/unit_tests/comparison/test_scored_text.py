"""The scored text is the same for every method, and fits into the context of the model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from unit_tests.small_tokenizers import KINDS, small_tokenizer
from unit_tests.templates import DEEPSEEK_R1, TEMPLATES

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.scored_text import ScoredText
from langchain_sift.comparison.tasks import Task, question_task
from langchain_sift.errors import ArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WINDOW = 64


def test_the_scored_tokens_are_the_text_and_their_bytes(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    scored = ScoredText.of(Task("q", "The river", " carries ümläuts"), tiny_tokenizer, 256)
    assert tiny_tokenizer.decode(scored.context) == "The river"
    assert tiny_tokenizer.decode(scored.target) == " carries ümläuts"
    assert scored.target_bytes == len(" carries ümläuts".encode())
    assert list(scored.start) == [tiny_tokenizer.bos_token_id]


def test_a_long_text_leaves_room_for_documents(
    tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    long = " ".join(texts)
    scored = ScoredText.of(Task(long, long, long), tiny_tokenizer, WINDOW)
    assert len(scored.target) == WINDOW // 2
    assert len(scored.context) == WINDOW // 4
    assert long.startswith(tiny_tokenizer.decode(scored.target))
    assert long.endswith(tiny_tokenizer.decode(scored.context))
    assert scored.target_bytes == len(tiny_tokenizer.decode(scored.target).encode())


def test_documents_that_fit_are_put_before_the_context(
    tiny_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    scored = ScoredText.of(Task("q", "The river", " carries"), tiny_tokenizer, WINDOW)
    given_texts = ["A baker.", " ".join(texts[:20]), "The engine."]
    fitted = scored.with_documents(given_texts, tiny_tokenizer, window=WINDOW, max_length=1000)
    assert (fitted.used, fitted.left_out, fitted.cut) == ((0, 2), (1,), ())
    decoded = tiny_tokenizer.decode(fitted.token_ids, skip_special_tokens=True)
    assert decoded == "The engine.\n\nA baker.\n\nThe river"
    assert len(fitted.token_ids) + len(scored.target) <= WINDOW
    fitted = scored.with_documents(given_texts, tiny_tokenizer, window=WINDOW, max_length=10)
    assert (fitted.used, fitted.cut) == ((0, 1, 2), (1,))


def test_a_prompt_without_tokens_is_an_error(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(ArgumentError, match="no token to score"):
        ScoredText.of(Task("q", "", ""), tiny_tokenizer, WINDOW)


def test_a_question_has_an_answer_to_score(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = Prompt("p", "Who bakes?", answers=("a baker", "she"), choices=("yes", "no"))
    task = question_task(prompt)
    assert task.query == "Who bakes?"
    scored = ScoredText.of(task, tiny_tokenizer, 256, answer=10)
    assert tiny_tokenizer.decode(scored.context) == "Question: Who bakes?\nAnswer:"
    assert tiny_tokenizer.decode(scored.target) == " a baker"
    assert [tiny_tokenizer.decode(choice) for choice in scored.choices] == [" yes", " no"]
    pairs = scored.pairs([1, 2])
    assert [target for _, target in pairs] == [scored.target, *scored.choices]
    unanswered = ScoredText.of(question_task(Prompt("p", "Who?")), tiny_tokenizer, 256)
    assert unanswered.pairs([1]) == []
    for answer, cause in ((10, "the question is too long"), (20, "max_tokens is too large")):
        with pytest.raises(ArgumentError, match=f"{cause}: the .* more than half"):
            ScoredText.of(task, tiny_tokenizer, 32 if answer == 10 else 48, answer=answer)


def test_a_choice_that_is_cut_counts_with_the_length_of_its_part(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    long, half = "the river " * 100, "the river " * 50
    task = question_task(Prompt("p", "Who?", choices=(long, half, "yes", "")))
    scored = ScoredText.of(task, tiny_tokenizer, 64)
    assert len(scored.choices[0]) == len(scored.choices[1]) == 16
    first, second, *others = scored.choice_lengths
    assert first == pytest.approx(len(tiny_tokenizer.decode(scored.choices[0])), rel=0.1)
    assert first == pytest.approx(second, abs=1)
    assert others == [3, 1]
    assert all(scored.choices)  # a choice without a token would be certain


def test_the_template_of_a_chat_model_wraps_the_question(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}|{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    task = question_task(Prompt("p", "Who bakes?", answers=("a baker",)))
    scored = ScoredText.of(task, tokenizer, 256)
    assert tokenizer.decode(scored.target) == "a baker"
    assert tokenizer.decode(scored.without_documents()) == "<user>Who bakes?|<assistant>"
    fitted = scored.with_documents(["A baker."], tokenizer, window=256, max_length=50)
    assert fitted.used == (0,)
    decoded = tokenizer.decode(fitted.token_ids, skip_special_tokens=False)
    assert decoded == ("<user>Use these documents to answer.\n\nA baker.\n\nWho bakes?|<assistant>")


def test_a_choice_counts_with_the_characters_that_are_scored(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    task = question_task(Prompt("p", "Who?", choices=("the river", "  the river", "a baker ")))
    tokenizer = copy.deepcopy(tiny_tokenizer)
    for template, before in ((None, " "), ("<user>{{ messages[0].content }}|<assistant>", "")):
        tokenizer.chat_template = template
        scored = ScoredText.of(task, tokenizer, 256)
        texts = [str(tokenizer.decode(choice)).removeprefix(before) for choice in scored.choices]
        assert list(scored.choice_lengths) == [len(text) for text in texts]


# As Llama 2 and Mistral, whose templates write a space before an answer.
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [*TEMPLATES, "inst"])
def test_an_answer_is_tokenized_as_in_a_conversation_of_the_template(template: str) -> None:
    for kind in KINDS:
        tokenizer: Any = small_tokenizer(kind, TEMPLATES.get(template, INST))
        task = question_task(Prompt("p", "Who bakes?", answers=("Bread is",), choices=("Rice",)))
        scored = ScoredText.of(task, tokenizer, 1024)
        for text, target in (("Bread is", scored.target), ("Rice", scored.choices[0])):
            turns = [{"role": "user", "content": "Who bakes?"}]
            turns += [{"role": "assistant", "content": text}]
            rendered = tokenizer.apply_chat_template(turns, tokenize=False)
            token_ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            whole = [*scored.context, *target]
            assert token_ids[: len(whole)] == whole, (kind, text)


def test_reasoning_that_the_prompt_begins_is_closed_before_what_is_scored() -> None:
    tokenizer: Any = small_tokenizer("byte-level", DEEPSEEK_R1)
    task = question_task(Prompt("p", "Who bakes?", answers=("a baker " * 20,)))
    scored = ScoredText.of(task, tokenizer, 256)
    texts = [f"tea {n}" for n in range(60)]
    fitted = scored.with_documents(texts, tokenizer, window=256, max_length=50)
    ((context, target),) = scored.pairs(fitted.token_ids)
    text = str(tokenizer.decode([*context, *target]))
    assert text.endswith("<think>\n</think>\n\n" + "a baker " * 20)
    assert 240 < len(context) + len(target) <= 256
