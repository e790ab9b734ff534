"""A GGUF file gives the model, the tokenizer and the settings in it, or an error that names why."""

from __future__ import annotations

import copy
import importlib.util
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from gguf_files import write_gguf
from langchain_core.documents import Document
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.integrations.gguf.kernels import get_gguf_kernel
from transformers.integrations.gguf.utils import GgufLinear

from langchain_sift import ChatTestTimeFineTuned, HiddenStateEmbeddings, TestTimeFineTunedLLM
from langchain_sift.errors import ArgumentError, MissingExtraError, ModelLoadError
from langchain_sift.ttft import load_language_model
from langchain_sift.ttft.model.load_settings import LoadSettings
from langchain_sift.ttft.training.target_layers import find_target_layers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
TEXT = "The river carries 7 maps."
DOCUMENTS = [Document("A baker measures warm bread in winter, 12 times.")]


@pytest.fixture(scope="module")
def file(
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Write the tiny model to a GGUF file in float32, which no test may change."""
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(folder / "tiny.gguf", tiny_model, tiny_tokenizer, template=TEMPLATE)


def test_the_model_and_the_tokenizer_are_those_that_were_written(
    file: Path, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    loaded = load_language_model(file, dtype="float32")
    assert loaded.name == str(file)
    token_ids = tiny_tokenizer(TEXT, return_tensors="pt").input_ids
    assert loaded.tokenizer(TEXT).input_ids == token_ids[0].tolist()
    assert loaded.tokenizer.chat_template == TEMPLATE
    assert torch.equal(loaded.model(token_ids).logits, tiny_model(token_ids).logits)
    assert load_language_model(file, dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q5_0])
def test_quantized_weights_are_unpacked(
    kind: gguf.GGMLQuantizationType,
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    path = write_gguf(tmp_path / "small.gguf", tiny_model, None, quantization=kind)
    loaded = load_language_model(path, tiny_tokenizer, dtype="float32")
    weights = tiny_model.lm_head.weight.detach().numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind)
    assert np.array_equal(loaded.model.lm_head.weight.detach().numpy(), expected)


def test_a_file_is_named_by_its_folder_or_the_hub_too(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / ("a" * 40)
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "sub" / "tiny.gguf").write_bytes(file.read_bytes())
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    first = load_language_model(file, dtype="float32")
    assert load_language_model(file.parent, dtype="float32").model is first.model
    with_file = load_language_model(file.parent, gguf_file=file.name, dtype="float32")
    assert with_file.model is first.model
    on_the_hub = load_language_model("org/tiny", gguf_file="sub/tiny.gguf", dtype="float32")
    assert on_the_hub.name == "org/tiny/sub/tiny.gguf"
    assert on_the_hub.fingerprint == first.fingerprint
    again = load_language_model("org/tiny/sub/tiny.gguf", dtype="float32")
    assert again.model is on_the_hub.model
    assert again.tokenizer is on_the_hub.tokenizer
    with pytest.raises(ModelLoadError, match=r"no file 'other.gguf' in 'org/tiny'"):
        load_language_model("org/tiny/other.gguf")


def test_both_models_and_the_embeddings_take_a_file(file: Path) -> None:
    chat = ChatTestTimeFineTuned(model=str(file), dtype="float32", max_tokens=4)
    llm = TestTimeFineTunedLLM(
        model=str(file.parent), gguf_file=file.name, dtype="float32", max_tokens=4
    )
    assert chat.profile is not None
    assert chat.profile["max_input_tokens"] == chat.engine.language_model.context_length
    assert chat.engine is llm.engine
    before = chat.engine.language_model.fingerprint
    assert chat.invoke(TEXT, documents=DOCUMENTS).response_metadata["ttft"]["steps"] == 1
    assert isinstance(llm.invoke(TEXT, documents=DOCUMENTS), str)
    del chat.engine.language_model.__dict__["fingerprint"]
    assert chat.engine.language_model.fingerprint == before
    embeddings = HiddenStateEmbeddings(file.parent, gguf_file=file.name)
    assert embeddings.model_name == str(file)


def test_ends_of_answers_and_the_recommended_sampling_come_from_the_file(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_eot_token_id(5)
        writer.add_float32("general.sampling.temp", 0.5)
        writer.add_int32("general.sampling.top_k", 20)

    path = write_gguf(tmp_path / "tiny.gguf", tiny_model, tiny_tokenizer, add=add)
    settings = load_language_model(path).model.generation_config
    assert settings.eos_token_id == [0, 5]
    assert (settings.do_sample, settings.temperature, settings.top_k) == (True, 0.5, 20)


def test_without_a_template_both_models_continue_the_text(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = str(write_gguf(tmp_path / "tiny.gguf", tiny_model, tiny_tokenizer))
    llm = TestTimeFineTunedLLM(model=path, dtype="float32", max_tokens=4)
    chat = ChatTestTimeFineTuned(model=path, dtype="float32", max_tokens=4)
    answer = llm.invoke(TEXT, documents=DOCUMENTS)
    assert answer
    assert chat.invoke(TEXT, documents=DOCUMENTS).content == answer


def test_a_file_without_a_tokenizer_needs_one(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model, None)
    with pytest.raises(ModelLoadError, match="the GGUF file holds none: pass tokenizer="):
        load_language_model(path)
    assert load_language_model(path, tiny_tokenizer).tokenizer is tiny_tokenizer


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.01, 0.2, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(part: float, file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(part * len(data))])
    with pytest.raises(ModelLoadError, match=r"cut.gguf': .*(damaged|cut off)"):
        load_language_model(tmp_path / "cut.gguf")


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_refused_or_loads_whole(seed: int, file: Path, tmp_path: Path) -> None:
    rng, data = np.random.default_rng(seed), bytearray(file.read_bytes())
    for position in rng.integers(0, 1500, size=8):
        data[position] = rng.integers(256)
    (tmp_path / "bad.gguf").write_bytes(bytes(data))
    with suppress(ModelLoadError):
        load_language_model(tmp_path / "bad.gguf")


def test_an_unsupported_architecture_is_named(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "new.gguf", tiny_model, None, architecture="rwkv9")
    with pytest.raises(ModelLoadError, match="the architecture 'rwkv9'"):
        load_language_model(path)


@pytest.mark.parametrize(("number", "name"), [(99, "99"), (24, "I8"), (9, "Q8_1")])
def test_an_unsupported_type_of_tensor_is_named(
    number: int, name: str, file: Path, tmp_path: Path
) -> None:
    data = bytearray(file.read_bytes())
    place = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    data[place : place + 4] = struct.pack("<I", number)
    (tmp_path / "new.gguf").write_bytes(bytes(data))
    with pytest.raises(ModelLoadError, match=f"tensors of the type {name}, which is not supported"):
        load_language_model(tmp_path / "new.gguf")


@pytest.mark.parametrize(
    ("add", "reason"),
    [
        (lambda writer: writer.add_type("adapter"), "no model, but a part of one: 'adapter'"),
        (lambda writer: writer.add_uint16("split.count", 3), "one of 3 parts"),
    ],
)
def test_a_part_of_a_model_is_refused(
    add: Callable[[gguf.GGUFWriter], None],
    reason: str,
    tiny_model: LlamaForCausalLM,
    tmp_path: Path,
) -> None:
    path = write_gguf(tmp_path / "part.gguf", tiny_model, None, add=add)
    with pytest.raises(ModelLoadError, match=reason):
        load_language_model(path)


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_the_extra_is_named_where_a_package_is_missing(
    package: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'langchain-sift\[gguf\]'"):
        load_language_model(file, dtype="float16")


def test_packed_weights_and_a_second_quantization_are_refused(file: Path) -> None:
    with pytest.raises(ArgumentError, match=r"otherwise it unpacks them\. Leave quantization out"):
        load_language_model(file, quantization="gguf")
    with pytest.raises(ArgumentError, match=r"otherwise it unpacks them\. Leave quantization out"):
        LoadSettings(quantization="gguf")
    with pytest.raises(ArgumentError, match="quantized already"):
        load_language_model(file, quantization="8bit")


def test_transformers_keeps_no_packed_weights_without_code_from_the_hub(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """The reason for the refusal: if this fails, packed weights may be supported."""
    kind = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf(tmp_path / "small.gguf", tiny_model, None, quantization=kind)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, quantization_config=GgufConfig(), dtype=torch.float32
    )
    ours = load_language_model(path, tiny_tokenizer, dtype="float32").model.state_dict()
    assert all(torch.equal(weights, ours[name]) for name, weights in loaded.state_dict().items())
    assert not get_gguf_kernel()


def test_a_loaded_model_with_packed_weights_answers_and_is_not_trained(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    packed, unpacked = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, layer in list(packed.model.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            blocks = gguf.quants.quantize(layer.weight.detach().numpy(), q8)
            ours = GgufLinear(layer.in_features, layer.out_features, q8.value)
            ours.weight.data.copy_(torch.from_numpy(blocks))
            packed.model.set_submodule(name, ours)
            weights = torch.from_numpy(gguf.quants.dequantize(blocks, q8))
            unpacked.model.get_submodule(name).weight.data.copy_(weights)
    language_model = load_language_model(packed, tiny_tokenizer)
    token_ids = torch.arange(1, 21)[None]  # products of at most eight tokens need code of the hub
    torch.testing.assert_close(packed(token_ids).logits, unpacked(token_ids).logits)
    with pytest.raises(ArgumentError, match=r"no layer that can get an adapter: .*GgufLinear"):
        find_target_layers(language_model.model, "all-linear")
    layer = packed.model.layers[0].mlp
    layer.up_proj = unpacked.model.layers[0].mlp.up_proj
    targets = find_target_layers(language_model.model, "mlp")
    assert targets.names == ("model.layers.0.mlp.up_proj",)
    assert "model.layers.0.mlp.down_proj.weight" in targets.left_out
