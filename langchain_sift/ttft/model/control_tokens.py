"""Keep control tokens, which a chat template writes, apart from their names in a text.

A tokenizer reads `<|im_end|>` in a document as the token that ends a turn. Here a text is only
text: its tokens are those of the characters.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import weakref
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer

# JSON and Python's `repr` leave these as they are, and names of tokens are not made of them.
_LETTERS = "0123456789jkqvwxz"
_MARK_LENGTH = 20

# Names in brackets. A template contains words as well, which a user may have added as tokens.
_BRACKETED = re.compile(r"[<\[({|｜].+[>\])}|｜]", re.DOTALL)
_NOTHING = re.compile(r"(?!)")
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # one byte of a character that has no token
_ALWAYS_CONTROL = re.compile(r"<[|｜].+[|｜]>|</?(?:think|tool_call|tool_response)>", re.DOTALL)


def new_mark() -> str:
    """Return a random mark for one rendering, which no text can contain.

    Inside the name of a control token, it says that the name is text.
    """
    return "".join(secrets.choice(_LETTERS) for _ in range(_MARK_LENGTH))


def second_mark(mark: str) -> str:
    """Return a mark that differs from the other in every letter, and so in every piece."""
    return mark.translate(str.maketrans(_LETTERS, _LETTERS[1:] + _LETTERS[0]))


class ControlTokens:
    """The control tokens of a tokenizer.

    These are its special tokens, the added tokens of the form `<|...|>`, those that mark
    reasoning and calls, such as `<think>`, and other added tokens in brackets that its chat
    template writes. Markers that are no tokens, such as Llama 2's `[INST]`, are ordinary text,
    and cannot be told from it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Find the tokens."""
        self._tokenizer = weakref.ref(tokenizer)  # the cache must not keep it alive
        self._backend: Tokenizer | None = None
        self._lock = threading.Lock()
        self._secret = f"\ue000{secrets.token_hex(8)}"  # never part of a prompt
        self.ids = _find(tokenizer)
        """Ids of the tokens, by their names."""
        self.id_set = frozenset(self.ids.values())
        names = sorted(self.ids, key=len, reverse=True)
        self._longest = len(names[0]) if names else 0
        self._prefixes = {name[:end] for name in names for end in range(1, len(name))}
        self._suffixes = {name[start:] for name in names for start in range(1, len(name))}
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._lengths = sorted({len(name) for name in names})
        letters = "|".join(sorted({re.escape(name[0]) for name in names}))
        self._first_letters = re.compile(letters or r"(?!)")

    def mark(self, text: str, mark: str) -> str:
        """Mark the names of control tokens in a text, so that a template can include the text.

        Also marked is the end of a text that a template could complete to such a name.
        """

        def mark_name(first: re.Match[str]) -> str:
            start = first.start()
            begins = any(text[start : start + length] in self.ids for length in self._lengths)
            return first[0] + mark if begins else first[0]

        marked = self._first_letters.sub(mark_name, text)
        lengths = range(1, min(self._longest, len(text) + 1))
        if any(text[:length] in self._suffixes for length in lengths):
            marked = mark + marked
        if any(text[-length:] in self._prefixes for length in lengths):
            marked += mark
        return marked

    def mark_all(self, value: Any, mark: str) -> Any:
        """Mark all texts in a value of JSON, keys included."""
        if isinstance(value, str):
            return self.mark(value, mark)
        if isinstance(value, Mapping):
            pairs = value.items()
            return {self.mark_all(key, mark): self.mark_all(item, mark) for key, item in pairs}
        if isinstance(value, list | tuple):
            return [self.mark_all(item, mark) for item in value]
        return value

    def names_in(self, text: str) -> list[str]:
        """Return the names of control tokens in a marked text, in order; marked ones are text."""
        return self._names.findall(text)

    def encode(self, text: str, mark: str = "") -> list[int]:
        """Return the token ids of a marked text; names without a mark are control tokens."""
        return self._encode(text, mark, self._names)

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of a text in which all names are text."""
        return self._encode(text, "", _NOTHING)

    def _encode(self, text: str, mark: str, names: re.Pattern[str]) -> list[int]:
        tokenizer = self._tokenizer()
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return list(self._encode_in_parts(text, mark, names, tokenizer))
        other = {name: f"{self._secret}{number}\ue001" for name, number in self.ids.items()}
        with self._lock:
            if self._backend is None:
                self._backend = _with_other_names(backend, other)
        text = text.replace(self._secret, "\N{REPLACEMENT CHARACTER}")
        spelled = names.sub(lambda match: other[match[0]], text)
        if mark:
            spelled = spelled.replace(mark, "")
        ids: list[int] = self._backend.encode(spelled, add_special_tokens=False).ids
        return ids

    def _encode_in_parts(
        self, text: str, mark: str, names: re.Pattern[str], tokenizer: Any
    ) -> Iterator[int]:
        """Yield the token ids of a marked text from a tokenizer in Python."""
        done = 0
        for match in [*names.finditer(text), None]:
            part = text[done : match.start() if match else None]
            if mark:
                part = part.replace(mark, "")
            for token in tokenizer.tokenize(part, split_special_tokens=True) if part else ():
                # A tokenizer that splits at white space may know the name as a word.
                pieces = [*token] if token in self.ids else [token]
                yield from tokenizer.convert_tokens_to_ids(pieces)
            if match:
                yield self.ids[match[0]]
                done = match.end()


@once_per_tokenizer
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """Return the control tokens of a tokenizer, which are found once."""
    return ControlTokens(tokenizer)


@once_per_tokenizer
def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, int]:
    """Return the ids of the tokens that decoding skips, by their names."""
    added = tokenizer.added_tokens_decoder.items()
    ids = {token.content: int(token_id) for token_id, token in added if token.special}
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return MappingProxyType({**ids, **dict(named)})


def _find(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    template = str(tokenizer.chat_template or "")
    ids = dict(special_token_ids(tokenizer))
    for token_id, token in tokenizer.added_tokens_decoder.items():
        name = token.content
        is_written = _BRACKETED.fullmatch(name) and name in template
        if is_written or _ALWAYS_CONTROL.fullmatch(name):
            ids[name] = token_id
    return {
        name: int(token_id)
        for name, token_id in ids.items()
        if len(name.strip()) > 1 and not _BYTE.fullmatch(name)
    }


def _with_other_names(backend: Tokenizer, other: Mapping[str, str]) -> Tokenizer:
    """Return a copy of a tokenizer that knows control tokens by names that no text contains."""
    stored: dict[str, Any] = json.loads(backend.to_str())
    stored.update(truncation=None, padding=None, post_processor=None)
    for token in stored["added_tokens"]:
        token["content"] = other.get(token["content"], token["content"])
    model = stored["model"]
    if isinstance(model["vocab"], Mapping):
        model["vocab"] = {other.get(name, name): i for name, i in model["vocab"].items()}
    else:  # Unigram has pairs of a piece and its score
        model["vocab"] = [[other.get(name, name), score] for name, score in model["vocab"]]
    if model.get("unk_token") in other:
        model["unk_token"] = other[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _involves(merge, other)]
    return Tokenizer.from_str(json.dumps(stored))


def _involves(merge: str | list[str], names: Mapping[str, str]) -> bool:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return "".join(parts) in names or any(part in names for part in parts)
