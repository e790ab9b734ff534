"""The training of one request reaches no other request, no later one, and not the base model."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from architectures import ARCHITECTURES, SIZES, make_model, make_tokenizer, random_words
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Request, ScoringTask
from langchain_sift.ttft.training.tasks import TrainingTask
from tests.conftest import make_sentence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPT = [5, 9, 40, 41]


@dataclass(frozen=True)
class Reply:
    """The answer of a request, and the numbers of its training."""

    text: str
    tokens: int
    losses: tuple[float, ...]
    update_norm: float


def answer(
    engine: Engine, texts: Sequence[str], prompt: Sequence[int] = PROMPT, **generation: object
) -> Reply:
    config = GenerationConfig(**{"max_tokens": 4, "keep_special_tokens": True, **generation})
    *events, outcome = engine.submit(engine.request(texts, GenerationTask(prompt, config)))
    text = "".join(event for event in events if isinstance(event, str))
    training = outcome.training
    return Reply(text, outcome.tokens, training.losses, training.update_norm)


def answer_together(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
    """Return the replies to requests of one batch."""
    reservations = [engine.admission.admit(1) for _ in requests]
    tickets = [
        engine.submit(r, reservation=reserved)
        for r, reserved in zip(requests, reservations, strict=True)
    ]
    replies = []
    for ticket in tickets:
        *events, outcome = ticket
        text = "".join(event for event in events if isinstance(event, str))
        training = outcome.training
        replies.append(Reply(text, outcome.tokens, training.losses, training.update_norm))
    return replies


def make_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    **limits: object,
) -> Engine:
    return Engine(LanguageModel("tiny", model, tokenizer), finetune_config, Limits(**limits))


@contextmanager
def batches_of(engine: Engine) -> Iterator[list[list[TrainingTask]]]:
    """Record the tasks of each batch that the engine trains, in the order of slots."""
    seen: list[list[TrainingTask]] = []
    trainer = engine._worker._trainer
    with pytest.MonkeyPatch.context() as patch:
        train = trainer.train
        patch.setattr(trainer, "train", lambda ls: seen.append(list(ls)) or train(ls))
        yield seen


# --- many requests at once ------------------------------------------------------------------

THREADS, REQUESTS = 8, 400


@pytest.fixture(scope="module")
def many(tiny_tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[str], list[int]]]:
    """Two documents and a prompt for each request, all different."""
    rng = random.Random(11)
    sentences: dict[str, None] = {}
    while len(sentences) < 2 * REQUESTS:
        sentences[make_sentence(rng)] = None
    texts = list(sentences)
    pairs = [texts[i : i + 2] for i in range(0, len(texts), 2)]
    prompts = [
        tiny_tokenizer(make_sentence(rng))["input_ids"][: 2 + i % 5] for i in range(REQUESTS)
    ]
    return list(zip(pairs, prompts, strict=True))


@pytest.fixture(scope="module")
def alone(
    one_layer_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    many: list[tuple[list[str], list[int]]],
) -> list[Reply]:
    """The replies to the same requests, one after another in one thread."""
    finetune_config = FineTuneConfig(lora_rank=4, lora_alpha=8.0, learning_rate=1e-2, max_length=64)
    engine = make_engine(one_layer_model, tiny_tokenizer, finetune_config, max_batch_size=1)
    replies = [answer(engine, *request) for request in many]
    assert len({reply.losses for reply in replies}) == len(many)
    assert len({reply.text for reply in replies}) > len(many) / 4
    return replies


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 8])
def test_hundreds_of_requests_of_eight_threads_answer_as_alone(
    *,
    size: int,
    one_layer_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    many: list[tuple[list[str], list[int]]],
    alone: list[Reply],
) -> None:
    """Bit for bit in batches of one; in larger ones to rounding, with equal texts."""
    engine = make_engine(one_layer_model, tiny_tokenizer, finetune_config, max_batch_size=size)
    start = threading.Barrier(THREADS)

    def ask(thread: int) -> list[Reply]:
        start.wait()
        return [answer(engine, *request) for request in many[thread::THREADS]]

    with batches_of(engine) as batches, ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(ask, range(THREADS)))
    replies = [parts[number % THREADS][number // THREADS] for number in range(len(many))]
    if size == 1:
        assert replies == alone
        return
    assert len(batches) < len(many)
    assert [(r.text, r.tokens) for r in replies] == [(r.text, r.tokens) for r in alone]
    for reply, expected in zip(replies, alone, strict=True):
        assert reply.losses == pytest.approx(expected.losses, abs=1e-5)
        assert reply.update_norm == pytest.approx(expected.update_norm, rel=1e-4)


# --- secrets --------------------------------------------------------------------------------


def pristine_nats(
    model: PreTrainedModel, pairs: Sequence[tuple[list[int], list[int]]]
) -> list[float]:
    """Return the targets' negative log-likelihoods, computed without the engine."""
    nats = []
    for context, target in pairs:
        ids = torch.tensor([*context, *target])
        with torch.inference_mode():
            logits = model(input_ids=ids[None]).logits[0, len(context) - 1 : -1]
        nats.append(float(F.cross_entropy(logits, ids[len(context) :], reduction="sum")))
    return nats


@pytest.mark.slow
def test_none_of_hundreds_of_secrets_stays_in_the_model(
    one_layer_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    texts: list[str],
) -> None:
    rng = random.Random(13)
    words = [rng.randbytes(6).hex() for _ in range(400)]
    documents = [f"The password is {word}." for word in words]
    context = tiny_tokenizer("The password is")["input_ids"]
    pairs = [(context, tiny_tokenizer(" " + word)["input_ids"]) for word in words]
    finetune_config = replace(finetune_config, steps_per_document=2, learning_rate=3e-2)
    engine = make_engine(one_layer_model, tiny_tokenizer, finetune_config)

    def nats(engine: Engine, documents: Sequence[str] = ()) -> tuple[float, ...]:
        return engine.outcome(engine.request(documents, ScoringTask(pairs))).nats

    pristine = nats(engine)
    innocent = nats(engine, texts[:2])
    assert pristine == pytest.approx(pristine_nats(one_layer_model, pairs), rel=1e-5)

    def train_on(number: int) -> float:
        request = engine.request([documents[number]], ScoringTask([pairs[number]]))
        return engine.outcome(request).nats[0]

    with ThreadPoolExecutor(THREADS) as pool:
        trained = list(pool.map(train_on, range(len(words))))
    # Each secret did reach the model, so it could have stayed there.
    assert all(after < before - 0.5 for after, before in zip(trained, pristine, strict=True))
    assert nats(engine) == pristine
    # Nor in the slots: training on other documents gives the result of a first request.
    assert nats(engine, texts[:2]) == innocent
    fresh = make_engine(one_layer_model, tiny_tokenizer, finetune_config)
    assert nats(fresh) == pristine
    assert nats(fresh, texts[:2]) == innocent


# --- repeatability --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 17}])
def test_a_request_has_the_same_answer_in_every_place_of_a_batch(
    sampling: dict[str, object],
    one_layer_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    texts: list[str],
) -> None:
    engine = make_engine(one_layer_model, tiny_tokenizer, finetune_config, gather_seconds=60.0)
    rng = random.Random(5)

    def other(steps: int) -> Request:
        config = GenerationConfig(max_tokens=rng.randint(2, 10))
        documents = rng.choices(texts, k=steps)
        return engine.request(documents, GenerationTask(PROMPT * 2, config))

    config = GenerationConfig(max_tokens=16, keep_special_tokens=True, **sampling)
    chosen = engine.request([texts[3], texts[20], texts[3]], GenerationTask(PROMPT, config))
    (expected,) = answer_together(engine, [chosen])
    places = [(slot, size) for size in range(1, 9) for slot in range(size)]
    with batches_of(engine) as batches:
        for slot, size in places:
            # The requests with most steps come first.
            before = [other(rng.randint(4, 5)) for _ in range(slot)]
            after = [other(rng.randint(1, 2)) for _ in range(size - slot - 1)]
            requests = [*before, chosen, *after]
            reply = answer_together(engine, requests)[slot]
            assert (reply.text, reply.tokens) == (expected.text, expected.tokens)
            assert reply.losses == pytest.approx(expected.losses, abs=1e-5)
            assert batches[-1][slot].documents == chosen.documents
    assert [len(batch) for batch in batches] == [size for _, size in places]


@pytest.mark.slow
def test_other_samples_differ(engine: Engine, texts: list[str]) -> None:
    """Otherwise a hundred equal samples would prove nothing."""
    seeds = [{"temperature": 1.0, "seed": seed} for seed in range(5)]
    assert len({answer(engine, texts[:2], max_tokens=16, **seed).text for seed in seeds}) == 5
    unseeded = {answer(engine, texts[:2], max_tokens=16, temperature=1.0).text for _ in range(5)}
    assert len(unseeded) == 5


# --- the user's own model -------------------------------------------------------------------


def make_gpt2(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Make a model like `from_config` does: in training mode, with dropout, not frozen."""
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.1,
        embd_pdrop=0.1,
        attn_pdrop=0.1,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).train()


def state_of(model: PreTrainedModel) -> dict[str, object]:
    """Return all that must not change, except for the weights."""
    hooks = {
        (name, key): len(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key.endswith("hooks") and isinstance(value, dict)
    }
    return {
        "modules": [(name, id(module), type(module)) for name, module in model.named_modules()],
        "modes": {name: module.training for name, module in model.named_modules()},
        "parameters": [(n, id(p), p.data_ptr(), p._version) for n, p in model.named_parameters()],
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "hooks": hooks,
        "use_cache": model.config.use_cache,
        "config": model.config.to_dict(),
        "generation_config": model.generation_config.to_dict(),
    }


@pytest.mark.slow
def test_a_model_in_training_mode_stays_unchanged(
    tiny_tokenizer: PreTrainedTokenizerFast,
    finetune_config: FineTuneConfig,
    texts: list[str],
    fingerprint: Callable[[torch.nn.Module], str],
) -> None:
    model = make_gpt2(tiny_tokenizer)
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert all(p.requires_grad for p in model.parameters())
    before, weights = state_of(model), fingerprint(model)
    randomness = torch.random.get_rng_state()
    engine = make_engine(model, tiny_tokenizer, finetune_config)
    first = answer(engine, texts[:3], max_tokens=16)
    assert first.losses
    for documents in (texts[:3], [], texts[:3]):
        reply = answer(engine, documents, max_tokens=16)
        assert (reply == first) is bool(documents)
    assert (
        answer(make_engine(model, tiny_tokenizer, finetune_config), texts[:3], max_tokens=16)
        == first
    )
    answer(engine, texts[:3], temperature=1.0)
    diverging = replace(finetune_config, learning_rate=1e30)
    assert engine.outcome(engine.request(texts[:3], config=diverging)).training.fallback
    # The texts hardly contain this letter, so training makes it less likely.
    drifting = replace(finetune_config, drift_texts=("zzzzzzzzzz",), max_drift=0.0)
    assert engine.outcome(engine.request(texts[:6], config=drifting)).training.fallback
    checkpointed = replace(finetune_config, gradient_checkpointing=True)
    assert answer(make_engine(model, tiny_tokenizer, checkpointed), texts[:3]).losses
    engine.finetune(texts[:3])
    pieces = iter(engine.submit(engine.request(texts, GenerationTask(PROMPT, GenerationConfig()))))
    next(pieces)
    pieces.close()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda start: answer(engine, texts[start : start + 2]), range(16)))
    engine.close()
    assert torch.equal(torch.random.get_rng_state(), randomness)
    assert state_of(model) == before
    assert fingerprint(model) == weights
    assert model.training


@pytest.mark.slow
def test_two_engines_and_a_user_of_the_model_do_not_affect_each_other(
    tiny_tokenizer: PreTrainedTokenizerFast, finetune_config: FineTuneConfig, texts: list[str]
) -> None:
    """Requests of two engines and passes of the user run at the same time."""
    model = make_gpt2(tiny_tokenizer).eval()
    ids = torch.tensor([PROMPT * 3])
    weight = model.transformer.h[0].attn.c_attn.weight

    def use() -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(input_ids=ids).logits
        (gradient,) = torch.autograd.grad(logits.square().mean(), [weight])
        return logits.detach(), gradient

    logits, gradient = use()
    engines = [
        make_engine(model, tiny_tokenizer, finetune_config, max_batch_size=1),
        make_engine(model, tiny_tokenizer, replace(finetune_config, lora_rank=2), max_batch_size=1),
    ]
    expected = [[answer(engine, texts[i : i + 2]) for i in range(12)] for engine in engines]
    assert expected[0] != expected[1]
    done = threading.Event()
    wrong: list[int] = []
    passes = 0

    def use_until_done() -> None:
        nonlocal passes
        while not done.is_set():
            now = use()
            passes += 1
            if not (torch.equal(now[0], logits) and torch.equal(now[1], gradient)):
                wrong.append(passes)

    def ask(engine: Engine, first: list[Reply]) -> list[Reply]:
        replies = [answer(engine, texts[i : i + 2]) for i in range(12)]
        while passes <= 10 and not user.done():
            assert answer(engine, texts[:2]) == first[0]
        return replies

    with ThreadPoolExecutor(3) as pool:
        user = pool.submit(use_until_done)
        asked = [
            pool.submit(ask, engine, replies)
            for engine, replies in zip(engines, expected, strict=True)
        ]
        try:
            replies = [future.result() for future in asked]
        finally:
            done.set()
        user.result()
    assert replies == expected
    assert passes > 10
    assert not wrong
    assert all(p.grad is None for p in model.parameters())


def test_a_model_unfrozen_later_gets_no_gradients_of_the_engine(
    tiny_tokenizer: PreTrainedTokenizerFast, finetune_config: FineTuneConfig, texts: list[str]
) -> None:
    model = make_gpt2(tiny_tokenizer).requires_grad_(requires_grad=False)
    engine = make_engine(model, tiny_tokenizer, finetune_config)
    expected = answer(engine, texts[:3])
    model.requires_grad_(requires_grad=True)
    assert answer(engine, texts[:3]) == expected
    assert all(p.grad is None for p in model.parameters())


# --- architectures --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def word_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    sorted(
        ARCHITECTURES.keys() - {"qwen2", "phi", "falcon", "gemma3_text", "llava", "deepseek_v3"}
    ),
)
def test_prompts_of_a_batch_answer_as_each_alone(
    architecture: str, word_tokenizer: PreTrainedTokenizerFast, finetune_config: FineTuneConfig
) -> None:
    model = make_model(architecture)
    rng = random.Random(3)
    document_lists = [
        [random_words(rng, n) for n in lengths] for lengths in ([9, 30, 12], [25, 7], [16, 41])
    ]
    prompts = [word_tokenizer(random_words(rng, length))["input_ids"] for length in (11, 3, 20)]

    def requests(engine: Engine) -> list[Request]:
        config = GenerationConfig(max_tokens=12, keep_special_tokens=True)
        asked = zip(document_lists, prompts, strict=True)
        return [engine.request(texts, GenerationTask(prompt, config)) for texts, prompt in asked]

    single = make_engine(model, word_tokenizer, finetune_config, max_batch_size=1)
    expected = [answer_together(single, [request])[0] for request in requests(single)]
    assert len({tuple(reply.losses) for reply in expected}) == 3
    engine = make_engine(model, word_tokenizer, finetune_config, gather_seconds=10.0)
    with batches_of(engine) as batches:
        replies = answer_together(engine, requests(engine))
    assert [len(batch) for batch in batches] == (
        [3] if engine._worker._trainer.batchable else [1, 1, 1]
    )
    for reply, alone_reply in zip(replies, expected, strict=True):
        assert (reply.text, reply.tokens) == (alone_reply.text, alone_reply.tokens)
        assert reply.losses == pytest.approx(alone_reply.losses, abs=1e-5)
        assert reply.update_norm == pytest.approx(alone_reply.update_norm, rel=1e-4)


class Expert(torch.nn.Module):
    """A feed-forward layer with a part that only some tokens reach, like a routed expert."""

    def __init__(self, usual: torch.nn.Module, size: int, tokens: Sequence[int]) -> None:
        super().__init__()
        self.usual = usual
        self.rare = torch.nn.Linear(size, size, bias=False)
        self.tokens = torch.tensor(tokens)
        self.token_ids = torch.empty(0)
        """Tokens of the current pass."""
        self.routes = True
        """If True, only those tokens go through the part. The result is the same."""
        with torch.no_grad():
            self.rare.weight.copy_(torch.eye(size))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.usual(states)
        chosen = torch.isin(self.token_ids, self.tokens)
        if not self.routes:
            return output + self.rare(states) * chosen[..., None]
        if bool(chosen.any()):
            output = output.clone()
            output[chosen] += self.rare(states[chosen])
        return output


class RoutedLlama(LlamaForCausalLM):
    """A Llama in which the words 40, ..., 63 go through one more linear layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        layer = self.model.layers[0]
        layer.mlp = Expert(layer.mlp, config.hidden_size, range(40, 64))
        self.model.register_forward_pre_hook(self._set_tokens, with_kwargs=True)

    @staticmethod
    def _set_tokens(model: torch.nn.Module, _: object, inputs: dict[str, torch.Tensor]) -> None:
        model.layers[0].mlp.token_ids = inputs["input_ids"]


def make_routed(*, routes: bool) -> RoutedLlama:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RoutedLlama(LlamaConfig(**SIZES)).eval()
    model.model.layers[0].mlp.routes = routes
    return model


def test_a_layer_that_a_document_does_not_reach_keeps_no_earlier_gradient(
    word_tokenizer: PreTrainedTokenizerFast, finetune_config: FineTuneConfig
) -> None:
    """Neither of another request, nor of an earlier document of the same request."""
    rng = random.Random(2)
    common, other = [" ".join(f"w{rng.randrange(4, 40)}" for _ in range(12)) for _ in range(2)]
    rare = " ".join(f"w{rng.randrange(40, 64)}" for _ in range(12))
    engine = make_engine(make_routed(routes=True), word_tokenizer, finetune_config)
    oracle = make_engine(make_routed(routes=False), word_tokenizer, finetune_config)
    expected = engine.finetune([common, other]).weights
    for documents in ([rare], [common, other], [rare, common, other], [common, rare, other]):
        weights = engine.finetune(documents).weights
        torch.testing.assert_close(weights, oracle.finetune(documents).weights, rtol=0, atol=1e-4)
    assert torch.equal(engine.finetune([common, other]).weights, expected)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [False, True])
def test_routed_tokens_go_through_the_slot_of_their_own_row(
    *, answers: bool, word_tokenizer: PreTrainedTokenizerFast, finetune_config: FineTuneConfig
) -> None:
    engine = make_engine(
        make_routed(routes=True), word_tokenizer, finetune_config, gather_seconds=10.0
    )
    oracle = make_engine(
        make_routed(routes=False), word_tokenizer, finetune_config, max_batch_size=1
    )
    # The first has three routed words and the other has one: four, as if each row had two.
    document_lists = [["w50 w51 w52 w5 w6 w7 w8"] * 4, ["w60 w9 w10 w11 w12 w13 w14"] * 4]
    config = GenerationConfig(max_tokens=8, keep_special_tokens=True)
    task = GenerationTask([45, 5, 6], config) if answers else None
    expected = [
        answer_together(oracle, [oracle.request(documents, task)])[0]
        for documents in document_lists
    ]
    replies = answer_together(
        engine, [engine.request(documents, task) for documents in document_lists]
    )
    for reply, alone_reply in zip(replies, expected, strict=True):
        assert reply.text == alone_reply.text
        assert reply.losses == pytest.approx(alone_reply.losses, abs=1e-5)
        assert reply.update_norm == pytest.approx(alone_reply.update_norm, rel=1e-4)
