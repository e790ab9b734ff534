"""Each architecture loads, answers, trains, stays as it was, and exports its adapter to PEFT."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from architectures import (
    ARCHITECTURES,
    DEEPSEEK,
    EXPERTS,
    SIZES,
    TOKENS,
    WITHOUT_HEAD_SIZE,
    make_model,
    make_tokenizer,
    random_words,
)
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from langchain_sift.config import FineTuneConfig, GenerationConfig, Limits
from langchain_sift.errors import ArgumentError
from langchain_sift.ttft import (
    Engine,
    GenerationTask,
    LanguageModel,
    Outcome,
    Request,
    TrainedAdapter,
    load_language_model,
)
from langchain_sift.ttft.training.target_layers import find_target_layers, patterns

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPT = [5, 9, 40, 41]
TOKEN_IDS = torch.tensor([[*PROMPT, 7, 8, 30, 21]])


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def model(architecture: str) -> PreTrainedModel:
    return make_model(architecture)


@pytest.fixture(scope="module")
def loaded(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp(model.config.model_type)
    model.save_pretrained(folder)
    return load_language_model(folder, make_tokenizer(), device="cpu", dtype="float32")


def documents() -> list[str]:
    rng = random.Random(3)
    return [random_words(rng, length) for length in (20, 9, 30, 12)]


def fingerprint(model: PreTrainedModel) -> str:
    return LanguageModel("model", model, make_tokenizer()).fingerprint


def answer(engine: Engine, texts: Sequence[str]) -> str:
    task = GenerationTask(PROMPT, GenerationConfig(max_tokens=12, keep_special_tokens=True))
    events = engine.submit(engine.request(texts, task))
    return "".join(event for event in events if isinstance(event, str))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
def test_a_model_from_a_folder_trains_is_restored_and_exports_its_adapter(
    model: PreTrainedModel,
    loaded: LanguageModel,
    finetune_config: FineTuneConfig,
    tmp_path: Path,
) -> None:
    before = fingerprint(model)
    assert fingerprint(loaded.model) == before
    engine = Engine(loaded, finetune_config)
    base = answer(engine, [])
    answer(engine, documents())
    trained = engine.finetune(documents())
    assert trained.training.update_norm > 0.01
    assert trained.training.weights == engine._worker.slots.size == len(trained.weights)
    assert trained.training.layers == patterns(engine.target_layers.names)
    assert answer(engine, []) == base
    assert fingerprint(loaded.model) == before
    folder = trained.save(tmp_path / "adapter")
    # PEFT would warn of GPT-2's layers if the config did not say that their weights are transposed.
    peers = PeftModel.from_pretrained(copy.deepcopy(model), folder)
    assert TrainedAdapter.load(folder).transposed == (model.config.model_type == "gpt2")
    assert torch.equal(TrainedAdapter.load(folder).weights, trained.weights)
    engine.close()  # its thread resets the slots after the outcome
    slots, ours = engine._worker.slots, engine._worker._model
    with torch.inference_mode():
        slots.reserve(1)
        slots.load(0, trained.weights)
        slots.use(0, 1)
        logits = ours(input_ids=TOKEN_IDS).logits
        slots.rest()
        slots.reset(0)
        torch.testing.assert_close(logits, peers(input_ids=TOKEN_IDS).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits, model(input_ids=TOKEN_IDS).logits, rtol=1e-2, atol=1e-2)


def answers(engine: Engine, requests: Sequence[Request]) -> list[tuple[list[str], Outcome]]:
    """Answer the requests in batches; return the words and the outcome of each answer."""
    reservations = [engine.admission.admit(0) for _ in requests]
    tickets = [
        engine.submit(request, reservation=reservation)
        for request, reservation in zip(requests, reservations, strict=True)
    ]
    replies = []
    for ticket in tickets:
        *pieces, outcome = ticket
        assert isinstance(outcome, Outcome)
        replies.append(("".join(map(str, pieces)).split(), outcome))
    return replies


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gemma3", "mistral", "gpt2", "falcon", "qwen3_moe", "qwen2_vl"]
)
def test_twenty_greedy_answers_are_those_of_generate_alone_and_in_batches(
    name: str, finetune_config: FineTuneConfig
) -> None:
    """Token for token, with prompts and answers longer than the window of sliding attention."""
    rng = random.Random(5)
    language_model = LanguageModel(name, make_model(name), tokenizer := make_tokenizer())
    lengths = [(rng.randint(1, 40), rng.randint(1, 12)) for _ in range(20)]
    prompts = [tokenizer(random_words(rng, length))["input_ids"] for length, _ in lengths]
    expected = []
    for prompt, (_, new) in zip(prompts, lengths, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([prompt])
            (tokens,) = language_model.model.generate(ids, max_new_tokens=new, do_sample=False)
        expected.append(tokens[len(prompt) :].tolist())
    for size in (1, 6):
        limits = Limits(max_batch_size=size, gather_seconds=10.0)
        engine = Engine(language_model, finetune_config, limits)
        configs = [GenerationConfig(max_tokens=new, keep_special_tokens=True) for _, new in lengths]
        asked = zip(prompts, configs, strict=True)
        requests = [engine.request([], GenerationTask(prompt, config)) for prompt, config in asked]
        for token_ids, (words, outcome) in zip(expected, answers(engine, requests), strict=True):
            ended = token_ids[-1] == tokenizer.eos_token_id
            shown = token_ids[:-1] if ended else token_ids
            assert outcome.tokens == len(token_ids)
            assert words == tokenizer.convert_ids_to_tokens(shown)
            assert outcome.batch_size > 1 or size == 1


# --- the choice of layers -------------------------------------------------------------------

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(
    ("architecture", "targets", "expected"),
    [
        ("llama", "attention", {f"self_attn.{name}" for name in ATTENTION}),
        ("llama", "mlp", {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}),
        ("phi3", "attention", {"self_attn.qkv_proj", "self_attn.o_proj"}),
        ("phi3", "mlp", {"mlp.gate_up_proj", "mlp.down_proj"}),
        ("gpt2", "attention", {"attn.c_attn", "attn.c_proj"}),
        ("gpt2", "mlp", {"mlp.c_fc", "mlp.c_proj"}),
        ("falcon", "attention", {"self_attention.query_key_value", "self_attention.dense"}),
        ("falcon", "mlp", {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"}),
        ("opt", "mlp", {"fc1", "fc2"}),
        ("qwen3_moe", "mlp", {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}),
        ("qwen3_moe", ("experts",), {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"}),
        ("qwen3_moe", ("experts.down_proj",), {"mlp.experts.down_proj"}),
        ("gemma3", "attention", {f"self_attn.{name}" for name in ATTENTION}),
        ("llama", ("self_attn.q_proj", "down_proj"), {"self_attn.q_proj", "mlp.down_proj"}),
        ("llama", ("layers.1.mlp.up_proj",), {"mlp.up_proj"}),
    ],
    ids=lambda value: None if isinstance(value, set) else str(value),  # a set has no fixed order
)
def test_target_modules_choose_these_layers(
    architecture: str, targets: str | tuple[str, ...], expected: set[str]
) -> None:
    found = find_target_layers(make_model(architecture), targets)
    assert {name.partition(".*.")[2] for name in patterns(found.names)} == expected
    assert found.left_out == ()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "qwen3_moe", "gemma3"])
def test_the_last_layers_are_all_linear_layers_in_them(architecture: str) -> None:
    model = make_model(architecture)
    every = find_target_layers(model, "all-linear").names
    last = find_target_layers(model, "last-1").names
    assert last == tuple(name for name in every if ".1." in name)
    inside = tuple(name for name in every if ".0." in name or ".1." in name)
    assert find_target_layers(model, "last-2").names == inside
    with pytest.raises(ArgumentError, match="'last-3', but the model has 2 layers"):
        find_target_layers(model, "last-3")


def test_attention_and_mlp_are_all_layers_of_the_decoder_layers() -> None:
    for architecture in ARCHITECTURES:
        model = make_model(architecture)
        parts = [set(find_target_layers(model, t).names) for t in ("attention", "mlp", "last-2")]
        assert parts[0] | parts[1] == parts[2]
        assert not parts[0] & parts[1]


def test_a_name_of_no_layer_is_refused_with_the_names_there_are() -> None:
    model = make_model("gpt2")
    with pytest.raises(ArgumentError, match=r"did you mean 'c_proj'.*c_attn, c_fc, c_proj"):
        find_target_layers(model, ("o_proj",))
    with pytest.raises(ArgumentError, match="did you mean 'attention'"):
        find_target_layers(model, ("atention",))
    with pytest.warns(UserWarning, match="no layer is named 'q_proj'"):
        found = find_target_layers(model, ("q_proj", "c_fc"))
    assert len(found.names) == 2


STATES = TOKENS | {
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
}
JAMBA = {
    "num_experts": 2,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
}
INDEXER = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 8}
READ_WEIGHTS: dict[str, tuple[dict[str, object], str, str]] = {
    "mamba": (STATES, "mixer.dt_proj", "attention"),
    "falcon_mamba": (STATES, "mixer.dt_proj", "last-1"),
    "jamba": (WITHOUT_HEAD_SIZE | JAMBA, "mamba.dt_proj", "attention"),
    "deepseek_v32": (
        SIZES | EXPERTS | DEEPSEEK | INDEXER,
        "self_attn.indexer.weights_proj",
        "attention",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READ_WEIGHTS))
def test_layers_whose_weights_a_model_reads_are_left_out_or_refused_by_name(name: str) -> None:
    sizes, read, preset = READ_WEIGHTS[name]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes)).eval()
    language_model = LanguageModel(name, model, make_tokenizer())
    before = language_model.fingerprint
    for targets in ("all-linear", preset):
        config = FineTuneConfig(lora_rank=4, lora_alpha=4.0, target_modules=targets)
        with pytest.warns(UserWarning, match=rf"stay as they are.*{re.escape(read)}\.weight"):
            engine = Engine(language_model, config)
        answer(engine, [])
        training = engine.finetune(documents()).training
        assert [name.partition(".*.")[2] for name in training.left_out] == [f"{read}.weight"]
        assert training.layers
        assert not any(name.endswith(read) for name in training.layers)
        assert training.update_norm > 0.0
        engine.close()
    assert LanguageModel(name, model, make_tokenizer()).fingerprint == before
    with pytest.raises(ArgumentError, match=rf"is \('{read}',\).*{re.escape(read)} without"):
        Engine(language_model, FineTuneConfig(lora_rank=4, target_modules=(read,)))


def test_a_router_inside_a_gate_gets_no_adapter() -> None:
    config = AutoConfig.for_model("hunyuan_v1_moe", **SIZES, num_experts=4, moe_topk=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    for targets in ("all-linear", "mlp"):
        found = find_target_layers(model, targets)
        assert "model.layers.0.mlp.shared_mlp.gate_proj" in found.names
        assert not any(name.endswith("gate.wg") for name in found.names)
        assert found.left_out == ()


def test_experts_that_cannot_get_an_adapter_are_named(
    finetune_config: FineTuneConfig,
) -> None:
    config = Llama4TextConfig(**SIZES, num_local_experts=2, intermediate_size_mlp=48)
    language_model = LanguageModel("l4", Llama4ForCausalLM(config).eval(), make_tokenizer())
    with pytest.warns(UserWarning, match=r"stay as they are.*experts\.gate_up_proj"):
        engine = Engine(language_model, finetune_config)
    training = engine.finetune(documents()).training
    prefix = "model.layers.*.feed_forward."
    assert training.left_out == (f"{prefix}experts.gate_up_proj", f"{prefix}experts.down_proj")
    assert f"{prefix}shared_expert.up_proj" in training.layers
    assert not any("router" in name for name in training.layers)


class Twice(LlamaForCausalLM):
    """A Llama whose two layers share one linear layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        first, second = self.model.layers
        second.mlp.up_proj = first.mlp.up_proj


def test_a_layer_in_two_places_gets_one_adapter_in_both(finetune_config: FineTuneConfig) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Twice(LlamaConfig(**SIZES)).eval()
    config = replace(finetune_config, target_modules=("up_proj",))
    engine = Engine(LanguageModel("twice", model, make_tokenizer()), config)
    assert engine.target_layers.names == ("model.layers.0.mlp.up_proj",)
    trained = engine.finetune(documents())
    down, up = torch.split(trained.weights, [4 * 32, 4 * 48])
    engine.close()  # its thread resets the slots after the outcome
    with torch.inference_mode():
        engine._worker.slots.reserve(1)
        engine._worker.slots.load(0, trained.weights)
        engine._worker.slots.use(0, 1)
        ours = engine._worker._model(input_ids=TOKEN_IDS).logits
        merged = copy.deepcopy(model)
        update = up.view(4, 48).T @ down.view(4, 32) * config.lora_alpha / config.lora_rank
        merged.model.layers[0].mlp.up_proj.weight += update
        torch.testing.assert_close(ours, merged(input_ids=TOKEN_IDS).logits, rtol=1e-4, atol=1e-4)
