"""Any document and any prompt gives a documented result or a typed error, and harms nothing."""

from __future__ import annotations

import base64
import copy
import functools
import json
import math
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from langchain_sift import ChatTestTimeFineTuned, TestTimeFineTunedLLM
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError, SIFTError
from langchain_sift.ttft.model.tokens import tokenize_documents
from langchain_sift.ttft.texts import well_formed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CANARY = "kumquat-7713"
QUESTION = "The river carries"
GOOD = Document("Every comet follows the harbour at sea, 17 times.", id="good")
END = "<|endoftext|>"

TEXTS = {
    "empty": "",
    "a space": " ",
    "whitespace": " \t \n  \r\n ",
    "newlines": "\n" * 50,
    "tabs": "\t" * 50,
    "one character": "x",
    "one token": " the",
    "two tokens": "xy",
    "a null byte": f"{CANARY}\x00 and \x00\x00 more",
    "only null bytes": "\x00" * 20,
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "a lone high surrogate": f"{CANARY} \ud83d here",
    "a lone low surrogate": f"{CANARY} \ude00 here",
    "surrogates in the wrong order": f"{CANARY} \ude00\ud83d here",
    "a pair of surrogates": f"{CANARY} \ud83d\ude00 here",
    "only surrogates": "\ud800" * 30,
    "a byte that was no utf-8": b"caf\xe9 kumquat-7713".decode("utf-8", "surrogateescape"),
    "right to left": "שלום עולם، مرحبا بالعالم",
    "marks of direction": f"\u202e{CANARY}\u202c \u2066x\u2069 \u200f",
    "zero width": "\u200b\u200c\u200d\u2060" * 20,
    "a byte order mark": f"\ufeff{CANARY}",
    "a byte order mark the wrong way round": f"\ufffe{CANARY}",
    "combining marks": "Z" + "\u0351\u0352\u0353" * 60,
    "emoji with joiners": "👩‍👩‍👧‍👦🏳️‍🌈👨🏽‍🚀" * 10,
    "flags": "🇨🇭🇩🇪🇫" * 10,
    "noncharacters": "\uffff\U0001ffff\ufdd0" * 9,
    "private use": "\ue000\U000f0000\U0010ffff" * 9,
    "replacement characters": "\ufffd" * 30,
    "not normalized": "e\u0301 \u00e9 ﬁ ﷺ Ⅷ",
    "other line ends": "one\r\ntwo\rthree\n\rfour\u2028five\u2029six\x85seven",
    "a special token": END,
    "two special tokens": END * 2,
    "thousands of special tokens": END * 3000,
    "a special token within": f"one {END} two {END}{CANARY}",
    "a broken special token": "<|endoftext <|endoftext|",
    "other models' special tokens": "<s></s>[INST]<|im_start|>system<|im_end|><pad><unk>",
    "one character repeated": "a" * 100_000,
    "a word of a megabyte": "abcdefghij" * 100_000,
    "a million tokens": "The river carries 7 maps. " * 150_000,
    "a megabyte of emoji": "👩‍👩‍👧" * 50_000,
    "html": f"<html><body onload='x()'><p>{CANARY}</p><script>alert(1)</script></body></html>",
    "json": json.dumps({"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {}}),
    "base64": base64.b64encode(bytes(range(256)) * 8).decode(),
    "a template": "{{ ''.__class__ }} {% for x in y %} {0} {name} %s %d",
    "a number": "9" * 500,
    "other alphabets": "Ελληνικά Кириллица ひらがな 汉字 한국어 ไทย",
}


def answers(chat: ChatTestTimeFineTuned) -> list[object]:
    """Return the answers of the base model and of the fine-tuned model."""
    return [chat.invoke(QUESTION, documents=documents).content for documents in ([], [GOOD] * 2)]


@pytest.fixture(scope="module")
def one_chat(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> ChatTestTimeFineTuned:
    return ChatTestTimeFineTuned(
        model=tiny_model,
        tokenizer=tiny_tokenizer,
        finetune=FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=3e-2, max_length=64),
        max_tokens=6,
        timeout=60,
    )


@pytest.fixture(scope="module")
def expected(one_chat: ChatTestTimeFineTuned) -> list[object]:
    before = answers(one_chat)
    assert before[0] != before[1]
    return before


@pytest.fixture
def chat(
    one_chat: ChatTestTimeFineTuned, expected: list[object]
) -> Iterator[ChatTestTimeFineTuned]:
    """Check after each test that the model answers as before all tests, and is at rest."""
    yield one_chat
    assert answers(one_chat) == expected
    status = one_chat.engine.status()
    assert (status.admitted, status.admitted_tokens, status.waiting) == (0, 0, 0)
    assert status.quarantined == 0


@pytest.fixture
def llm(chat: ChatTestTimeFineTuned) -> TestTimeFineTunedLLM:
    return TestTimeFineTunedLLM(
        model=chat.model, tokenizer=chat.tokenizer, finetune=chat.finetune, max_tokens=6, timeout=60
    )


@functools.cache
def token_ids_of(tokenizer: PreTrainedTokenizerFast, name: str) -> list[int]:
    """Return the tokens of a whole text, names of special tokens as text; some take seconds."""
    token_ids: list[int] = tokenizer(joined(TEXTS[name]), split_special_tokens=True)["input_ids"]
    return token_ids


def record_of(chat: ChatTestTimeFineTuned, documents: Any, **settings: Any) -> Any:
    message = chat.invoke(QUESTION, documents=documents, **settings)
    return message.response_metadata["ttft"]


def joined(text: str) -> str:
    """Join pairs of surrogates and replace lone ones, in another way than the package does."""
    characters = []
    rest = iter(text)
    following = next(rest, None)
    while (character := following) is not None:
        following = next(rest, None)
        if "\ud800" <= character <= "\udbff" and "\udc00" <= (following or "") <= "\udfff":
            high, low = ord(character) - 0xD800, ord(following or "") - 0xDC00
            character, following = chr(0x10000 + (high << 10) + low), next(rest, None)
        elif "\ud800" <= character <= "\udfff":
            character = "\ufffd"
        characters.append(character)
    return "".join(characters)


def check_error(error: BaseException, *texts: str) -> None:
    """Check that neither an error nor its causes contain any text."""
    chain: BaseException | None = error
    while chain is not None:
        message = f"{chain!s} {chain!r}"
        assert CANARY not in message
        assert not any(text in message for text in texts if len(text) > 8)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


class Reader(PreTrainedTokenizerFast):
    """A tokenizer that counts the characters that it reads."""

    characters = 0

    def __call__(self, text: str, **settings: Any) -> Any:
        self.characters += len(text)
        return super().__call__(text, **settings)


def reader_of(tokenizer: PreTrainedTokenizerFast) -> Reader:
    reader = copy.deepcopy(tokenizer)
    reader.__class__ = Reader
    return reader  # type: ignore[return-value]


# --- documents --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_a_document_is_trained_on_or_skipped(
    chat: ChatTestTimeFineTuned, tiny_tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    """A document of at least two tokens is trained on, and so is the one after it."""
    expected = token_ids_of(tiny_tokenizer, name)
    record = record_of(chat, [Document(TEXTS[name], id="odd"), GOOD])
    is_long = len(expected) >= 2
    assert record["documents"] == (["odd", "good"] if is_long else ["good"])
    assert record["skipped"] == ([] if is_long else ["odd"])
    assert record["truncated"] == (["odd"] if len(expected) > 64 else [])
    assert record["tokens"] == (min(64, len(expected)) if is_long else 0) + len(
        tiny_tokenizer(GOOD.page_content)["input_ids"]
    )
    assert all(math.isfinite(loss) for loss in record["losses"])
    assert record["fallback"] is None
    json.dumps(record)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_a_long_text_is_cut_after_its_first_tokens(
    tiny_tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    """A very long one is not tokenized to its end."""
    text = TEXTS[name] if len(TEXTS[name]) > 500 else TEXTS[name] * 200
    is_long = text is TEXTS[name]
    whole = (
        token_ids_of(tiny_tokenizer, name)
        if is_long
        else tiny_tokenizer(joined(text), split_special_tokens=True)["input_ids"]
    )
    for length in (2, 9, 64):
        reader = reader_of(tiny_tokenizer)
        documents = tokenize_documents(reader, [text], max_length=length)
        # With so many tokens per character, the first part of the text has enough of them.
        if len(whole) > len(text) / 8:
            # Two more are a probe for the tokens that begin every text.
            assert reader.characters <= 32 * length + 2
        if len(whole) < 2:
            assert not documents
            continue
        assert list(documents[0].token_ids) == whole[:length]
        assert documents[0].truncated == (len(whole) > length)


def test_a_text_of_long_tokens_is_read_to_its_end() -> None:
    words = [letter * 100 for letter in "abcdefgh"]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=words[0]))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    for length in (2, 3, 7, 8):
        (document,) = tokenize_documents(tokenizer, [" ".join(words)], max_length=length)
        assert document.token_ids == tuple(range(length))
        assert document.truncated == (length < 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_only_surrogates_of_a_text_change(name: str) -> None:
    assert well_formed(TEXTS[name]) == joined(TEXTS[name])


@pytest.mark.slow
def test_a_surrogate_is_trained_on_as_a_replacement_character(chat: ChatTestTimeFineTuned) -> None:
    broken = [Document("The \ud83d river \udc80 carries")] * 8
    mended = [Document("The \ufffd river \ufffd carries")] * 8
    assert record_of(chat, broken)["losses"] == record_of(chat, mended)["losses"]


@pytest.mark.slow
def test_the_same_document_a_hundred_times(chat: ChatTestTimeFineTuned) -> None:
    record = record_of(chat, [GOOD] * 100)
    assert record["documents"] == ["good"] * 100
    assert record["losses"][-1] < record["losses"][0]


@pytest.mark.slow
def test_ten_thousand_documents(chat: ChatTestTimeFineTuned) -> None:
    documents = [
        Document(f"The river, {number} times.", id=str(number)) for number in range(10_000)
    ]
    assert record_of(chat, documents, max_documents=3)["documents"] == ["0", "1", "2"]
    record = record_of(chat, documents, max_train_seconds=0.2)
    assert record["steps"] == len(record["documents"]) >= 1
    assert "0.2 s" in record["ended"]


def test_only_texts_that_are_too_short(chat: ChatTestTimeFineTuned) -> None:
    record = record_of(chat, [Document(text, id=text) for text in ("", " ", "x")])
    assert record["skipped"] == ["", " ", "x"]
    assert record["fallback"] == "no document to train on"


METADATA: dict[str, Any] = {
    "none": {},
    "huge": {"text": CANARY * 100_000},
    "as of a constructor": {"lc": 1, "type": "constructor", "id": ["x"], "kwargs": {"a": 1}},
    "as of a secret": {"lc": 1, "type": "secret", "id": ["HOME"]},
    "no JSON": {"object": object(), "bytes": b"\xff", "nan": float("nan"), "self": ...},
    "nested": {"a": {"b": [{"c": [[[]]]}]}},
    "our own key": {"langchain_sift_gain": "much"},
    "odd keys": {"": 1, "\x00": 2, "\ud800": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METADATA)
def test_metadata_do_not_change_the_training(chat: ChatTestTimeFineTuned, name: str) -> None:
    plain = record_of(chat, [GOOD])
    record = record_of(chat, [Document(GOOD.page_content, id="good", metadata=METADATA[name])])
    for key in ("documents", "losses", "gains"):
        assert record[key] == plain[key]
    json.dumps(record)


def test_ids_may_be_missing_or_repeated_or_odd(chat: ChatTestTimeFineTuned) -> None:
    ids = [None, "a", "a", "", "\x00", "x" * 10_000]
    record = record_of(chat, [Document(GOOD.page_content, id=each) for each in ids])
    assert record["documents"] == ids


def test_documents_may_come_in_any_iterable(chat: ChatTestTimeFineTuned) -> None:
    pair = [GOOD, Document("A baker paints seven maps.", id="b")]
    expected = record_of(chat, pair)
    assert expected["documents"] == ["good", "b"]
    iterables = (
        tuple(pair),
        iter(pair),
        (document for document in pair),
        {each.id: each for each in pair}.values(),
    )
    for documents in iterables:
        record = record_of(chat, documents)
        assert (record["documents"], record["losses"]) == (
            expected["documents"],
            expected["losses"],
        )


@pytest.mark.slow
@pytest.mark.parametrize("documents", [None, [], (), iter(())], ids=["None", "[]", "()", "iter"])
def test_without_documents_the_base_model_answers(
    chat: ChatTestTimeFineTuned, documents: Any
) -> None:
    record = record_of(chat, documents)
    assert (record["steps"], record["fallback"]) == (0, "no document to train on")


def changed(value: Any) -> Document:
    """Return a document whose text was replaced after its validation."""
    document = Document(CANARY)
    document.page_content = value
    return document


NOT_DOCUMENTS: dict[str, tuple[Any, str]] = {
    "a text": (CANARY, "got one str"),
    "a document": (Document(CANARY), "got one Document"),
    "a number": (7, "got one int"),
    "a number among them": ([GOOD, 7], "int at index 1"),
    "a text among them": ([GOOD, GOOD, CANARY], "str at index 2"),
    "None among them": ([None], "NoneType at index 0"),
    "a list among them": ([[GOOD]], "list at index 0"),
    "a dictionary": ({CANARY: GOOD}, "str at index 0"),
    "something alike": ([types.SimpleNamespace(page_content=CANARY, id=None)], "SimpleNamespace"),
    "a message": ([HumanMessage(CANARY)], "HumanMessage at index 0"),
    "no text": ([GOOD, changed(None)], "index 1"),
    "bytes for a text": ([changed(CANARY.encode())], "bytes at index 0"),
    "a number for a text": ([changed(7)], "int at index 0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_DOCUMENTS)
@pytest.mark.parametrize("retrieved", [False, True])
def test_an_error_names_the_type_and_index_of_a_wrong_document(
    chat: ChatTestTimeFineTuned, name: str, *, retrieved: bool
) -> None:
    documents, message = NOT_DOCUMENTS[name]
    retriever = RunnableLambda(lambda _: documents)
    settings = {"retriever": retriever} if retrieved else {"documents": documents}
    with pytest.raises(ArgumentError, match=message) as caught:
        chat.invoke(QUESTION, **settings)
    check_error(caught.value)
    assert ("retriever" in str(caught.value)) == retrieved


def test_a_retriever_that_returns_none(chat: ChatTestTimeFineTuned) -> None:
    with pytest.raises(ArgumentError, match=r"retriever.*NoneType"):
        chat.invoke(QUESTION, retriever=RunnableLambda(lambda _: None))


def test_an_error_of_an_iterable_is_raised_unchanged(chat: ChatTestTimeFineTuned) -> None:
    def broken() -> Iterator[Document]:
        yield GOOD
        raise LookupError

    with pytest.raises(LookupError):
        chat.invoke(QUESTION, documents=broken())


@pytest.mark.parametrize("text", [None, 7, b"x", ["x"]], ids=str)
def test_langchain_rejects_documents_without_a_text(text: Any) -> None:
    if isinstance(text, bytes):
        assert Document(text).page_content == "x"  # pydantic's way with bytes
        return
    with pytest.raises(ValidationError, match="page_content"):
        Document(text)


# --- prompts ----------------------------------------------------------------------------------

# The chat model's prompts go through its template: see its own tests.
SURROGATES = [name for name in TEXTS if joined(TEXTS[name]) != TEXTS[name]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("llm" if name in SURROGATES else "chat", name) for name in TEXTS],
)
def test_a_prompt_is_answered_or_refused_for_its_length(
    request: pytest.FixtureRequest,
    tiny_tokenizer: PreTrainedTokenizerFast,
    kind: str,
    name: str,
) -> None:
    model = request.getfixturevalue(kind)
    tokens = len(token_ids_of(tiny_tokenizer, name))
    if 0 < tokens < 256:
        first, second = (model.invoke(TEXTS[name], documents=[GOOD]) for _ in range(2))
        assert getattr(first, "content", first) == getattr(second, "content", second)
    else:
        # Only the beginning of a very long one is tokenized.
        count = rf"({tokens}|more than 512)$"
        with pytest.raises(ArgumentError, match=f"from 1 to 255 tokens, got {count}") as caught:
            model.invoke(TEXTS[name], documents=[GOOD])
        check_error(caught.value, TEXTS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SURROGATES)
def test_a_retriever_gets_a_query_that_can_be_encoded(llm: TestTimeFineTunedLLM, name: str) -> None:
    asked: list[str] = []
    llm.invoke(TEXTS[name], retriever=RunnableLambda(lambda query: asked.append(query) or []))
    assert asked == [joined(TEXTS[name])]
    asked[0].encode()


MESSAGES: dict[str, tuple[Any, str | None]] = {
    "no messages": ([], "at least one message"),
    "an empty message": ([HumanMessage("")], "got 0"),
    "hardly any text": ([SystemMessage(""), HumanMessage(" "), AIMessage("")], None),
    "only a system message": ([SystemMessage(CANARY)], None),
    "only an answer": ([AIMessage(CANARY)], None),
    "a picture": (
        [HumanMessage([{"type": "image_url", "image_url": {"url": f"https://x/{CANARY}"}}])],
        "text",
    ),
    "None": (None, "Invalid input type"),
    "a number": (7, "Invalid input type"),
    "bytes": (CANARY.encode(), "Unsupported message type"),
    "a dictionary": ({"text": CANARY}, "Invalid input type"),
    "a list of numbers": ([1, 2], "message"),
    "a thousand messages": ([HumanMessage("x")] * 1000, "from 1 to 255 tokens"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MESSAGES)
def test_a_conversation_is_answered_or_refused(chat: ChatTestTimeFineTuned, name: str) -> None:
    refusal = MESSAGES[name][1]
    if refusal is None:
        answer = chat.invoke(MESSAGES[name][0], documents=[GOOD])
        assert answer.usage_metadata["output_tokens"] > 0
        return
    with pytest.raises((ValueError, NotImplementedError), match=refusal) as caught:
        chat.invoke(MESSAGES[name][0], documents=[GOOD])
    if isinstance(caught.value, SIFTError):  # LangChain's errors quote the wrong message
        check_error(caught.value)


@pytest.mark.parametrize("seed", ["one", 1.5, 2**70, -(2**70)], ids=str)
def test_a_wrong_seed_is_refused_and_harms_nothing(chat: ChatTestTimeFineTuned, seed: Any) -> None:
    with pytest.raises((SIFTError, TypeError, ValueError, RuntimeError)):
        chat.invoke(QUESTION, temperature=1.0, seed=seed, documents=[GOOD])
