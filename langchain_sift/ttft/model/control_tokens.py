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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from langchain_sift.ttft.model.per_tokenizer import once_per_tokenizer

# A disguise hides from templates the brackets, and the other characters of the names of control
# tokens, except for the seen ones: templates look for "/think", and JSON escapes some of them.
_BRACKETS, _SEEN = frozenset("<>[](){}|&"), frozenset("/_-.,:;!?*+#\\\"'")
# Blocks of 256 characters in the private use area, without the first, which secret names use.
_BLOCKS = tuple(f"{number:02x}" for number in range(0xE1, 0xF9))

# Names in brackets alone: a template also contains words that a user may have added as tokens.
_BRACKETED = re.compile(r"[<\[({|｜].+[>\])}|｜]", re.DOTALL)
_NOTHING = re.compile(r"(?!)")
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # one byte of a character that has no token
_ALWAYS_CONTROL = re.compile(r"<[|｜].+[|｜]>|</?(?:think|tool_call|tool_response)>", re.DOTALL)


class Disguise:
    """Characters that stand for others in one rendering, one for one.

    A template that gets disguised texts cannot make a control token of them, whatever it does:
    cut, change the case, delete or replace characters, join texts.
    """

    def __init__(self, hidden: re.Pattern[str], characters: Iterable[str], values: object) -> None:
        """Choose characters that the values do not contain.

        Args:
            hidden: Pattern of the characters to replace.
            characters: All that it matches.
            values: The texts, in a value of JSON.
        """
        self._hidden = hidden
        known = json.dumps(values, default=str)
        free = (block for block in _BLOCKS if rf"\u{block}" not in known)
        start = int(f"{next(free, _BLOCKS[0])}00", 16)
        self._others = {char: chr(start + n) for n, char in enumerate(sorted(characters))}
        self._back = {other: char for char, other in self._others.items()}
        # JSON and Python's `repr` may write their codes.
        codes = "|".join(rf"\\u{ord(other):04x}|{other}" for other in self._back)
        self._shown = re.compile(codes or r"(?!)")

    def hide(self, value: Any) -> Any:
        """Disguise all texts in a value of JSON, keys included."""
        if isinstance(value, str):
            if not self._back.keys().isdisjoint(value):  # only if no block was free
                value = self._shown.sub("\N{REPLACEMENT CHARACTER}", value)
            return self._hidden.sub(lambda match: self._others[match[0]], value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value

    def show(self, text: str) -> str:
        """Return a text as it was."""
        return self._shown.sub(lambda match: self._back[_character(match[0])], text)


def _character(found: str) -> str:
    return found if len(found) == 1 else chr(int(found[2:], 16))


class ControlTokens:
    """The control tokens of a tokenizer.

    These are its special tokens, the added tokens of the form `<|...|>`, those that mark
    reasoning and calls, such as `<think>`, and other added tokens in brackets that its chat
    template writes. Markers that are no tokens, such as Llama 2's `[INST]`, are ordinary text,
    and cannot be distinguished from it.
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
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._hidden, self._characters = _hidden(names)

    def disguise(self, values: object) -> Disguise:
        """Return a disguise in which a template can include the texts in a value of JSON."""
        return Disguise(self._hidden, self._characters, values)

    def names_in(self, text: str) -> list[str]:
        """Return the names of control tokens in a text, in order; those in disguise are text."""
        return self._names.findall(text)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text in which all names are control tokens."""
        return self._encode(text, self._names, None)

    def encode_disguised(self, text: str, disguise: Disguise) -> list[int]:
        """Return the token ids of a text in which names in disguise are text."""
        tokenizer = self._tokenizer()
        if tokenizer is not None:
            # Try without the copy of the tokenizer, which may be large.
            encoded: Any = tokenizer(disguise.show(text), add_special_tokens=False, verbose=False)
            token_ids: list[int] = list(encoded["input_ids"])
            unknown = tokenizer.unk_token_id
            found = [token for token in token_ids if token in self.id_set and token != unknown]
            if found == [self.ids[name] for name in self.names_in(text)]:
                return token_ids
        return self._encode(text, self._names, disguise)

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of a text in which all names are text."""
        return self._encode(text, _NOTHING, None)

    def encode_after(self, token_id: int, text: str) -> list[int]:
        """Return the token ids of a text after a control token; all names in it are text.

        Some tokenizers put a space before a text that follows such a token, as at the beginning.
        """
        name = next(name for name, other in self.ids.items() if other == token_id)
        tokenizer = self._tokenizer()
        if tokenizer is None or self.names_in(text):
            token_ids = self._encode(name + text, re.compile(rf"\A{re.escape(name)}"), None)
        else:  # without the copy of the tokenizer, as above
            encoded: Any = tokenizer(name + text, add_special_tokens=False, verbose=False)
            token_ids = list(encoded["input_ids"])
        return token_ids[1:] if token_ids[:1] == [token_id] else self.encode_text(text)

    def _encode(self, text: str, names: re.Pattern[str], disguise: Disguise | None) -> list[int]:
        tokenizer = self._tokenizer()
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return list(self._encode_in_parts(text, names, disguise, tokenizer))
        other = {name: f"{self._secret}{number}\ue001" for name, number in self.ids.items()}
        with self._lock:
            if self._backend is None:
                self._backend = _with_other_names(backend, other)
        text = text.replace(self._secret, "\N{REPLACEMENT CHARACTER}")
        spelled = names.sub(lambda match: other[match[0]], text)
        if disguise is not None:
            spelled = disguise.show(spelled)
        ids: list[int] = self._backend.encode(spelled, add_special_tokens=False).ids
        return ids

    def _encode_in_parts(
        self, text: str, names: re.Pattern[str], disguise: Disguise | None, tokenizer: Any
    ) -> Iterator[int]:
        """Yield the token ids of a text from a tokenizer in Python."""
        done = 0
        for match in [*names.finditer(text), None]:
            part = text[done : match.start() if match else None]
            if disguise is not None:
                part = disguise.show(part)
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


def _hidden(names: Sequence[str]) -> tuple[re.Pattern[str], frozenset[str]]:
    """Return a pattern of the characters to hide from templates, and all that it matches."""
    of_names = {char for name in names for char in name if not (char.isalnum() or char.isspace())}
    always = (_BRACKETS | of_names) - _SEEN
    # Of a name that is a word, only the first letter is hidden, where the word occurs.
    words = [name for name in names if always.isdisjoint(name)]
    patterns = [re.escape(char) for char in sorted(always)]
    patterns += [f"(?i:{re.escape(word[0])}(?={re.escape(word[1:])}))" for word in words]
    letters = {letter for word in words for letter in (word[0].lower(), word[0].upper())}
    return re.compile("|".join(patterns)), frozenset(always | {x for x in letters if len(x) == 1})


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
