"""Answers equal those of transformers, come in pieces, and end where they should."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast
from unit_tests.small_tokenizers import KINDS, sentences, small_tokenizer
from unit_tests.templates import CHATML

from langchain_sift.config import FineTuneConfig, GenerationConfig
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel
from langchain_sift.ttft.answering.reading import reader_of
from langchain_sift.ttft.answering.rows import Continuation
from langchain_sift.ttft.decoding import TextDecoder
from langchain_sift.ttft.generation import generate, split_to_fit
from langchain_sift.ttft.model.language_model import model_settings
from langchain_sift.ttft.stop_strings import StopStrings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

PROMPT = [5, 9, 40, 41]
PROMPTS = [PROMPT, [7], [100, 21, 8, 9, 10, 11, 12, 13, 14], [50, 51]]


@dataclass
class Received:
    """The pieces and the ends of answers."""

    pieces: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def continuation(
        self,
        prompt: Sequence[int] = PROMPT,
        should_stop: Callable[[], bool] = lambda: False,
        **config: object,
    ) -> Continuation:
        def on_text(text: str) -> bool:
            self.pieces.append(text)
            return should_stop()

        return Continuation(prompt, GenerationConfig(**config), on_text, self._end)

    def _end(self, tokens: int, reason: str, *, early: bool, **_: object) -> None:
        assert not early
        self.ends.append(tokens)
        self.reasons.append(reason)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass
class StopAfter:
    """Returns True from the n-th call on."""

    times: int
    count: int = 0

    def __call__(self) -> bool:
        self.count += 1
        return self.count >= self.times


def test_greedy_answers_equal_those_of_transformers_for_each_prompt_alone(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    received = [Received() for _ in PROMPTS]
    lengths = [24, 3, 17, 30]
    asked = zip(received, PROMPTS, lengths, strict=True)
    generate(tiny_model, tiny_tokenizer, [t.continuation(p, max_tokens=n) for t, p, n in asked])
    for answer, prompt, length in zip(received, PROMPTS, lengths, strict=True):
        ids = torch.tensor([prompt])
        tokens = tiny_model.generate(ids, max_new_tokens=length, do_sample=False)[0, len(prompt) :]
        assert answer.text == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
        assert answer.ends == [len(tokens)]
        assert len(answer.pieces) > 1


def with_settings(model: PreTrainedModel, settings: dict[str, object]) -> PreTrainedModel:
    model = copy.deepcopy(model)
    model.generation_config.update(**settings)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 2},
        {"num_beams": 2, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 3},
        {"max_time": 1e-3},
        {"max_length": 8},
        {"stop_strings": ["e", " "]},
        {"token_healing": True},
        {"penalty_alpha": 0.5, "top_k": 4},
        {"dola_layers": "low"},
        {"guidance_scale": 2.0},
        {"do_sample": True, "temperature": 5.0, "top_p": 0.9},
        {"return_dict_in_generate": True, "output_scores": True},
        {"cache_implementation": "quantized"},
    ],
    ids=str,
)
def test_settings_of_the_model_that_choose_a_search_are_ignored(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    settings: dict[str, object],
) -> None:
    model = with_settings(tiny_model, settings)
    engine = Engine(LanguageModel("x", model, tiny_tokenizer), FineTuneConfig(lora_rank=2))
    config = GenerationConfig(max_tokens=24)
    *pieces, outcome = engine.submit(engine.request([], GenerationTask(PROMPT, config)))
    tokens = tiny_model.generate(torch.tensor([PROMPT]), max_new_tokens=24, do_sample=False)[0, 4:]
    assert "".join(pieces) == tiny_tokenizer.decode(tokens, skip_special_tokens=True)
    assert outcome.tokens == len(tokens)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [*range(200)]},
        {"begin_suppress_tokens": [*range(200, 400)]},
        {"bad_words_ids": [[token] for token in range(1, 200)]},
        {"sequence_bias": [[[token], 5.0] for token in range(50)]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_the_model_that_change_probabilities_apply(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    settings: dict[str, object],
) -> None:
    model = with_settings(tiny_model, settings)
    received, plain = [Received() for _ in PROMPTS], []
    for prompt in PROMPTS:
        tokens = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0]
        plain.append(tiny_tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True))
    model.generation_config = model_settings(model)
    asked = zip(received, PROMPTS, strict=True)
    generate(model, tiny_tokenizer, [t.continuation(p, max_tokens=24) for t, p in asked])
    assert [answer.text for answer in received] == plain
    for prompt, text in zip(PROMPTS, plain, strict=True):
        tokens = tiny_model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0]
        if tiny_tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True) != text:
            return
    pytest.fail("the setting changes nothing: the test is void")


def test_a_sample_depends_on_its_seed_and_not_on_other_rows(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    def sample(*seeds: int | None) -> list[str]:
        received = [Received() for _ in seeds]
        generate(
            tiny_model,
            tiny_tokenizer,
            [
                t.continuation(max_tokens=24, temperature=1.0, seed=s)
                for t, s in zip(received, seeds, strict=True)
            ],
        )
        return [t.text for t in received]

    greedy = Received()
    generate(tiny_model, tiny_tokenizer, [greedy.continuation(max_tokens=24)])
    state = torch.random.get_rng_state()
    together = sample(1, 2, 3)
    assert together == [*sample(1), *sample(2), *sample(3)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len({*together, greedy.text}) == 4
    assert sample(None) != sample(None)


def test_samples_are_drawn_from_the_softmax(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.inference_mode():
        logits = tiny_model(input_ids=torch.tensor([PROMPT])).logits[0, -1].float()
    expected = torch.softmax(logits / 0.5, dim=0)
    received = [Received() for _ in range(4000)]
    generate(
        tiny_model,
        tiny_tokenizer,
        [t.continuation(max_tokens=1, temperature=0.5, seed=n) for n, t in enumerate(received)],
    )
    texts = [tiny_tokenizer.decode([token]) for token in range(len(expected))]
    likeliest = int(expected.argmax())
    share = sum(t.text == texts[likeliest] for t in received) / len(received)
    probability = sum(
        p for p, text in zip(expected, texts, strict=True) if text == texts[likeliest]
    )
    error = 4 * (probability * (1 - probability) / len(received)) ** 0.5
    assert abs(share - probability) < error


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-60, 5e-324])
def test_a_tiny_temperature_is_greedy(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    greedy, sampled = Received(), Received()
    continuations = [
        greedy.continuation(max_tokens=12),
        sampled.continuation(max_tokens=12, temperature=temperature, seed=1),
    ]
    generate(tiny_model, tiny_tokenizer, continuations)
    assert sampled.text == greedy.text


@pytest.mark.parametrize("temperature", [1e30, 1e300])
def test_impossible_tokens_never_come_at_any_temperature(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    model = with_settings(tiny_model, {"suppress_tokens": [*range(300)]})
    texts = set()
    for seed in range(5):
        received = Received()
        continuation = received.continuation(max_tokens=1, temperature=temperature, seed=seed)
        generate(model, tiny_tokenizer, [continuation])
        texts.add(received.text)
    assert len(texts) > 1
    assert texts <= {tiny_tokenizer.decode([token]) for token in range(300, 400)}


def test_greedy_and_sampled_rows_share_a_batch(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    alone, other, sampled = Received(), Received(), Received()
    generate(tiny_model, tiny_tokenizer, [alone.continuation(max_tokens=12)])
    continuations = [
        sampled.continuation(max_tokens=12, temperature=2.0, seed=1),
        other.continuation(max_tokens=12),
    ]
    generate(tiny_model, tiny_tokenizer, continuations)
    assert other.text == alone.text != sampled.text


def test_a_stopped_row_ends_at_once_and_the_others_go_on(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    stopped, other = Received(), Received()
    continuations = [
        stopped.continuation(should_stop=StopAfter(5), max_tokens=50),
        other.continuation([7], max_tokens=20),
    ]
    generate(tiny_model, tiny_tokenizer, continuations)
    assert stopped.ends == [5]
    assert other.ends == [20]


def test_an_answer_ends_before_the_end_token(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = torch.tensor([PROMPT])
    tokens = tiny_model.generate(ids, max_new_tokens=12, do_sample=False)[0, len(PROMPT) :]
    end = int(tokens[5])
    first = tokens.tolist().index(end)
    monkeypatch.setattr(tiny_model.generation_config, "eos_token_id", [0, end])
    received = Received()
    generate(tiny_model, tiny_tokenizer, [received.continuation(max_tokens=12)])
    assert received.ends == [first + 1]
    assert received.reasons == ["stop"]
    assert received.text == tiny_tokenizer.decode(tokens[:first], skip_special_tokens=True)
    # The end token is the last that is allowed, or one too many.
    exactly, shorter = Received(), Received()
    generate(tiny_model, tiny_tokenizer, [exactly.continuation(max_tokens=first + 1)])
    generate(tiny_model, tiny_tokenizer, [shorter.continuation(max_tokens=first)])
    assert (exactly.reasons, shorter.reasons) == (["stop"], ["length"])
    stopped = Received()
    generate(
        tiny_model, tiny_tokenizer, [stopped.continuation(stop=[received.text[1:3]], max_tokens=12)]
    )
    assert (stopped.text, stopped.reasons) == (received.text[:1], ["stop"])


@given(
    st.lists(st.tuples(st.integers(1, 29), st.integers(1, 30)), max_size=8).map(
        lambda pairs: [(length, min(new, 30 - length)) for length, new in pairs]
    )
)
def test_rows_of_a_run_fit_the_context_together(pairs: list[tuple[int, int]]) -> None:
    continuations = [Received().continuation([1] * length, max_tokens=new) for length, new in pairs]
    runs = list(split_to_fit(continuations, 30))
    assert [n for first, last in runs for n in range(first, last)] == list(range(len(pairs)))

    def fits(first: int, last: int) -> bool:
        lengths, new = zip(*pairs[first:last], strict=True)
        return max(lengths) + max(new) <= 30

    assert all(fits(first, last) for first, last in runs)
    assert not any(fits(first, last + 1) for first, last in runs[:-1])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((), "one two three"),
        (("two",), "one "),
        (("three", "two"), "one "),
        (("thr", "ee"), "one two "),
        (("four",), "one two three"),
        (("threes",), "one two three"),
        (("o",), ""),
    ],
)
def test_the_text_ends_before_a_stop_string_that_spans_pieces(
    size: int, stop: tuple[str, ...], expected: str
) -> None:
    text = "one two three"
    stop_strings = StopStrings(stop)
    passed = ""
    for start in range(0, len(text), size):
        passed += stop_strings.add(text[start : start + size])
        if stop_strings.reached:
            break
    assert passed + stop_strings.flush() == expected


def test_only_the_possible_start_of_a_stop_string_is_buffered() -> None:
    stop_strings = StopStrings(("\n\nHuman:",))
    assert stop_strings.add("It is so.") == "It is so."
    assert stop_strings.add(" And\n") == " And"
    assert stop_strings.add("\nHum") == ""
    assert stop_strings.add("ble pie") == "\n\nHumble pie"


def test_a_character_of_several_tokens_comes_whole(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "naïve café 🦊🦊 ひらがな و العربية done, and done again, twice."
    token_ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    decoder = TextDecoder(tiny_tokenizer, keep_special_tokens=False)
    pieces = [decoder.add(token_id) for token_id in token_ids]
    assert "".join(pieces) + decoder.flush() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert sum(bool(piece) for piece in pieces) > 20


@pytest.fixture(scope="module")
def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer like Llama 2's, which writes unknown characters byte by byte."""
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    names = [*special.values(), *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghijklm."]
    model = models.BPE({name: n for n, name in enumerate(names)}, [], byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def in_pieces(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> str:
    decoder = TextDecoder(tokenizer, keep_special_tokens=False)
    return "".join(decoder.add(token_id) for token_id in token_ids) + decoder.flush()


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["అన్నము తినుము ఇప్పుడు abc", "한국어한국어한국어한국어 abc", "é🦊 ab " * 20]
)
def test_an_answer_in_bytes_equals_the_decoding_of_all_its_tokens(
    text: str, tiny_model: PreTrainedModel, byte_fallback_tokenizer: PreTrainedTokenizerFast
) -> None:
    token_ids = byte_fallback_tokenizer(text, add_special_tokens=False)["input_ids"]
    model, said = copy.deepcopy(tiny_model), iter([*token_ids, 2])

    def say(_layer: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        likeliest = torch.tensor(next(said)).expand(logits.shape[:-1])
        return torch.nn.functional.one_hot(likeliest, logits.shape[-1]).float()

    assert reader_of(model) is not None  # tried before it says what it should
    model.lm_head.register_forward_hook(say)
    received = Received()
    generate(model, byte_fallback_tokenizer, [received.continuation(max_tokens=250)])
    assert byte_fallback_tokenizer.decode(token_ids) == text
    assert received.text == f" {text}"  # the first token follows the prompt
    assert received.reasons == ["stop"]
    assert len(received.pieces) > 10


@given(st.text(st.sampled_from("ab .é한🦊\N{REPLACEMENT CHARACTER}\u0301"), max_size=60))
def test_the_pieces_of_a_text_equal_the_decoding_of_all_its_tokens(
    tiny_tokenizer: PreTrainedTokenizerFast,
    byte_fallback_tokenizer: PreTrainedTokenizerFast,
    text: str,
) -> None:
    for tokenizer in (tiny_tokenizer, byte_fallback_tokenizer):
        token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert in_pieces(tokenizer, token_ids) == tokenizer.decode(token_ids)


@given(st.lists(st.integers(1, 399), max_size=60))
def test_the_pieces_of_any_bytes_equal_the_decoding_of_all_their_tokens(
    tiny_tokenizer: PreTrainedTokenizerFast, token_ids: list[int]
) -> None:
    assert in_pieces(tiny_tokenizer, token_ids) == tiny_tokenizer.decode(token_ids)


def test_an_incomplete_character_comes_at_the_end(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    token_ids = tiny_tokenizer("ab🦊", add_special_tokens=False)["input_ids"][:-1]
    decoder = TextDecoder(tiny_tokenizer, keep_special_tokens=False)
    assert "".join(decoder.add(token_id) for token_id in token_ids) == "ab"
    assert decoder.flush() == tiny_tokenizer.decode(token_ids)[2:]


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_can_be_appended_to_its_prompt(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    for number, text in enumerate(sentences()[:40]):
        token_ids = tokenizer(f"{text} {text}", add_special_tokens=False)["input_ids"]
        cut = 1 + number % (len(token_ids) - 1)
        prompt, answer = token_ids[:cut], token_ids[cut:]
        decoder = TextDecoder(tokenizer, keep_special_tokens=False, prompt=prompt)
        completion = "".join(map(decoder.add, answer)) + decoder.flush()
        assert tokenizer.decode(prompt) + completion == tokenizer.decode(token_ids)


def test_the_space_before_an_answer_is_kept() -> None:
    tokenizer = small_tokenizer("metaspace")
    said = tokenizer(" The river", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("[/INST]")  # special: decoding skips it
    prompt = [*tokenizer("[INST] Hello")["input_ids"], end]
    decoder = TextDecoder(tokenizer, keep_special_tokens=False, prompt=prompt)
    assert "".join(map(decoder.add, said)) == "  The river".removeprefix(" ")


@pytest.mark.parametrize("end", ["<|im_end|>", "<|im_start|>"])
def test_the_end_of_turn_of_the_template_ends_an_answer(
    tiny_model: PreTrainedModel, end: str
) -> None:
    tokenizer = small_tokenizer("byte-level", CHATML)
    model = copy.deepcopy(tiny_model)
    end_id = tokenizer.convert_tokens_to_ids(end)
    said = iter([[100, 101], [end_id, 102], [103, 104], [105, end_id], [106, 107]])

    def say(_layer: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        likeliest = torch.tensor(next(said)[-len(logits) :])  # the first row ends first
        return torch.nn.functional.one_hot(likeliest, logits.shape[-1]).float()

    assert reader_of(model) is not None  # tried before it says what it should
    model.lm_head.register_forward_hook(say)
    answers = [Received(), Received()]
    asked = zip(answers, ([5, 9], [5, 10]), strict=True)
    generate(model, tokenizer, [a.continuation(prompt, max_tokens=5) for a, prompt in asked])
    texts = [tokenizer.decode([100]), tokenizer.decode([101, 102, 104])]
    assert [answer.text for answer in answers] == texts
    assert [answer.ends for answer in answers] == [[2], [4]]
    assert [answer.reasons for answer in answers] == [["stop"], ["stop"]]
