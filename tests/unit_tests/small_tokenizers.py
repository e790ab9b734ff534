"""Train small tokenizers of the kinds that published models have, with their control tokens."""

# ruff: noqa: S106 - tokens are no passwords

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from conftest import make_sentence
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

END, BEGIN = "</s>", "<s>"
SPECIAL = (
    *("<unk>", BEGIN, END, "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    *("<start_of_turn>", "<end_of_turn>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    *("<|start|>", "<|message|>", "<|channel|>", "<|return|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
)
"""Special tokens, which decoding skips."""
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Added tokens that are not special, as in Qwen3."""


def sentences() -> list[str]:
    rng = random.Random(2)
    return [*(make_sentence(rng) for _ in range(300)), *map(chr, range(32, 127))]


def _metaspace() -> tuple[Tokenizer, Any]:
    """As of Llama and Mistral: a space before the first word, which decoding removes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip_first()]
    )
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    return tokenizer, trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *alphabet])


def strip_first() -> Any:
    return decoders.Strip(content=" ", left=1)


def _gemma() -> tuple[Tokenizer, Any]:
    """As of Gemma: spaces become ▁, and none is added."""
    tokenizer, trainer = _metaspace()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer, trainer


def _llama_2() -> tuple[Tokenizer, Any]:
    """As of Llama 2: a normalizer puts a space before each piece between control tokens."""
    tokenizer, trainer = _metaspace()
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer, trainer


def _unigram() -> tuple[Tokenizer, Any]:
    """As of T5: the names of control tokens are pieces of the model's vocabulary."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=400, special_tokens=list(SPECIAL), unk_token="<unk>"
    )


def _byte_level() -> tuple[Tokenizer, Any]:
    """As of GPT-2, Qwen and Llama 3; control tokens are in the model's vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL), initial_alphabet=alphabet
    )


KINDS: Mapping[str, Callable[[], tuple[Tokenizer, Any]]] = MappingProxyType(
    {
        "byte-level": _byte_level,
        "metaspace": _metaspace,
        "llama-2": _llama_2,
        "gemma": _gemma,
        "unigram": _unigram,
    }
)


@functools.cache
def _trained(kind: str) -> str:
    tokenizer, trainer = KINDS[kind]()
    texts = sentences()
    if kind == "llama-2":  # without a pre-tokenizer, whole sentences would become tokens
        texts = [word for text in texts for word in text.split()]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in MARKERS])
    stored = json.loads(tokenizer.to_str())
    # The trainer takes bytes for special tokens, but published tokenizers do not.
    stored["added_tokens"] = [t for t in stored["added_tokens"] if t["content"][:3] != "<0x"]
    return json.dumps(stored)


def small_tokenizer(
    kind: str, template: str | None = None, *, add_bos: bool = False, add_eos: bool = False
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one of the `KINDS`."""
    tokenizer = Tokenizer.from_str(_trained(kind))
    if add_bos or add_eos:
        pieces = [*([BEGIN] if add_bos else []), "$A", *([END] if add_eos else [])]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(pieces),
            pair=" ".join([*pieces, "$B"]),
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in (BEGIN, END)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token=BEGIN,
        eos_token=END,
        chat_template=template,
    )


class WordTokenizer(PreTrainedTokenizer):
    """A tokenizer in Python that splits at spaces and knows the letters as well."""

    def __init__(self, **kwargs: Any) -> None:
        words = [*SPECIAL, *map(chr, range(32, 127)), "\n", *sorted(" ".join(sentences()).split())]
        self.words = {word: index for index, word in enumerate(dict.fromkeys(words))}
        super().__init__(unk_token="<unk>", bos_token=BEGIN, eos_token=END, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def get_vocab(self) -> dict[str, int]:
        return {**self.words, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_: object) -> list[str]:
        pieces: list[str] = []
        for word in text.split(" "):
            pieces += [" "] if pieces else []
            pieces += [word] if word in self.words else list(word)
        return pieces

    def _convert_token_to_id(self, token: str) -> int:
        return self.words.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.words)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


def word_tokenizer(template: str | None = None) -> PreTrainedTokenizerBase:
    """Return a tokenizer in Python, with control tokens."""
    tokenizer = WordTokenizer(chat_template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.add_tokens(list(MARKERS))
    return tokenizer
