"""A PEFT adapter is merged into its base model, as peft merges it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import peft
import pytest
import torch
from gguf_files import write_gguf
from langchain_core.documents import Document
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from langchain_sift import FineTuneConfig, HiddenStateEmbeddings, TestTimeFineTunedLLM
from langchain_sift.errors import ArgumentError, MissingExtraError, ModelLoadError
from langchain_sift.ttft import LanguageModel, TrainedAdapter, load_language_model
from langchain_sift.ttft.model import adapters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXT = "The river carries 7 maps."
DOCUMENTS = [Document("A baker measures warm bread in winter, 12 times.")]
TOKENS = torch.arange(1, 30)[None]
LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")


def save_adapter(
    base: Path, folder: Path, config: peft.PeftConfig, seed: int = 0, scale: float = 0.1
) -> Path:
    """Save an adapter with random weights."""
    adapted: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights.add_(scale * torch.randn(weights.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a LoRA adapter, which no test may change."""
    return save_adapter(tiny_model_path, tmp_path_factory.mktemp("adapter") / "lora", LORA)


@pytest.fixture
def folder(adapter: Path, tmp_path: Path) -> Path:
    """Copy the adapter for a test that damages it."""
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "config",
    [
        LORA,
        LoraConfig(r=4, use_dora=True, use_rslora=True, modules_to_save=["lm_head"]),
        peft.LoHaConfig(r=2, target_modules=["v_proj"]),
        peft.IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["lora", "dora", "loha", "ia3"],
)
def test_the_weights_are_those_that_peft_merges(
    config: peft.PeftConfig, tiny_model_path: Path, tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    folder = save_adapter(tiny_model_path, tmp_path / "adapter", config)
    loaded = load_language_model(folder, dtype="float32")
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    merged: Any = PeftModel.from_pretrained(base, folder).merge_and_unload()
    assert type(loaded.model) is LlamaForCausalLM
    state = loaded.model.state_dict()
    assert state.keys() == merged.state_dict().keys()
    assert all(torch.equal(state[name], part) for name, part in merged.state_dict().items())
    assert not torch.allclose(loaded.model(TOKENS).logits, tiny_model(TOKENS).logits)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize(
    ("target", "saved", "added"),
    [
        (["lm_head"], None, 0),
        (["embed_tokens"], None, 0),
        (["q_proj"], None, 2),
        (["q_proj"], ["lm_head", "embed_tokens"], 2),
    ],
)
def test_adapters_of_tied_layers_and_added_tokens_compute_as_in_peft(
    target: list[str], saved: list[str] | None, added: int, tiny_model_path: Path, tmp_path: Path
) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    config = type(base.config)(**{**base.config.to_dict(), "tie_word_embeddings": True})
    base = LlamaForCausalLM(config)
    base.save_pretrained(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(base.config.vocab_size + added)
    lora = LoraConfig(
        r=4,
        target_modules=target,
        modules_to_save=saved,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    adapted: Any = get_peft_model(base, lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_language_model(
        tmp_path / "adapter", AutoTokenizer.from_pretrained(tiny_model_path), dtype="float32"
    )
    torch.testing.assert_close(loaded.model(TOKENS).logits, adapted(TOKENS).logits)


def test_adapters_that_name_each_other_are_refused(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    edit(folder, base_model_name_or_path=str(other))
    edit(other, base_model_name_or_path=str(folder))
    with pytest.raises(ModelLoadError, match="or one that needs it as its base"):
        load_language_model(folder)


def test_base_and_adapter_are_different_models(adapter: Path, tiny_model_path: Path) -> None:
    base = load_language_model(tiny_model_path, dtype="float32")
    before = base.fingerprint
    merged = load_language_model(adapter, dtype="float32")
    assert merged.fingerprint != before
    assert load_language_model(adapter, dtype="float32").model is merged.model
    again = load_language_model(tiny_model_path, dtype="float32")
    assert again.model is base.model
    assert LanguageModel("again", again.model, again.tokenizer).fingerprint == before


def test_fine_tuning_starts_from_the_merged_model(adapter: Path) -> None:
    llm = TestTimeFineTunedLLM(model=str(adapter), dtype="float32", max_tokens=8)
    before = llm.invoke(TEXT, documents=[])
    assert llm.invoke(TEXT, documents=DOCUMENTS)
    assert llm.invoke(TEXT, documents=[]) == before
    expected = load_language_model(adapter, dtype="float32").model.generate(
        llm.engine.language_model.tokenizer(TEXT, return_tensors="pt").input_ids,
        max_new_tokens=8,
        do_sample=False,
    )
    decoded = llm.engine.language_model.tokenizer.decode(expected[0], skip_special_tokens=True)
    assert decoded.strip().endswith(before.strip())


def test_an_exported_adapter_is_loaded_with_its_base_a_gguf_file_too(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_model, tiny_tokenizer)
    llm = TestTimeFineTunedLLM(
        model=str(file),
        dtype="float32",
        max_tokens=8,
        finetune=FineTuneConfig(lora_rank=4, learning_rate=0.05),
    )
    folder = llm.engine.finetune([DOCUMENTS[0].page_content]).save(tmp_path / "exported")
    merged = load_language_model(folder, dtype="float32")
    assert merged.tokenizer(TEXT).input_ids == tiny_tokenizer(TEXT).input_ids
    base = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    expected: Any = PeftModel.from_pretrained(base, folder)
    assert torch.allclose(merged.model(TOKENS).logits, expected(TOKENS).logits, atol=1e-5)
    assert not torch.allclose(merged.model(TOKENS).logits, tiny_model(TOKENS).logits, atol=1e-2)


def test_a_damaged_adapter_of_ours_is_refused(tiny_model_path: Path, tmp_path: Path) -> None:
    llm = TestTimeFineTunedLLM(model=str(tiny_model_path), finetune=FineTuneConfig(lora_rank=2))
    folder = llm.engine.finetune([DOCUMENTS[0].page_content]).save(tmp_path / "exported")
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x10
    weights.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"checksum .* remove langchain_sift\.json"):
        load_language_model(folder, dtype="float32")
    (folder / "langchain_sift.json").unlink()
    load_language_model(folder, dtype="float32")


def test_an_adapter_names_its_base_from_any_folder(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny_model_path.parent / "work").mkdir()
    monkeypatch.chdir(tiny_model_path.parent / "work")
    engine = TestTimeFineTunedLLM(
        model=f"../{tiny_model_path.name}", finetune=FineTuneConfig(lora_rank=2, learning_rate=0.05)
    ).engine
    adapter = engine.finetune([DOCUMENTS[0].page_content])
    monkeypatch.chdir(tmp_path)
    (tiny_model_path.parent / "work").rmdir()
    load_language_model(adapter.save(tmp_path / "saved"), dtype="float32")


def test_peft_is_named_where_it_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "peft" else find(name)
    )
    with pytest.raises(MissingExtraError, match=r"peft is required: .*langchain-sift\[ttft\]"):
        load_language_model(folder)


def test_the_tokenizer_is_the_adapters_or_that_of_the_base(
    folder: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert load_language_model(folder).tokenizer(TEXT) == tiny_tokenizer(TEXT)
    tiny_tokenizer.save_pretrained(folder)
    edit(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "own"}))
    moved = folder.rename(folder.with_name("moved"))
    assert load_language_model(moved).tokenizer.chat_template == "own"


def test_adapter_and_base_may_be_on_the_hub(
    adapter: Path, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, files in (("base", tiny_model_path), ("adapter", adapter)):
        repository = tmp_path / f"models--org--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("a" * 40)
        shutil.copytree(files, repository / "snapshots" / ("a" * 40))
    edit(tmp_path / "models--org--adapter" / "snapshots" / ("a" * 40), revision="main",
         base_model_name_or_path="org/base")  # fmt: skip
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    from_hub = load_language_model("org/adapter", dtype="float32")
    assert from_hub.fingerprint == load_language_model(adapter, dtype="float32").fingerprint


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_model_name_or_path": "/nowhere"}, "base model '/nowhere': there is no such folder"),
        ({"base_model_name_or_path": "org/none"}, "base model 'org/none': .* the download"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"peft_type": "PROMPT_TUNING"}, "type 'PROMPT_TUNING' cannot be merged"),
        ({"peft_type": "NEW"}, "does not know adapters of the type 'NEW'"),
        ({"task_type": "SEQ_CLS"}, "for the task 'SEQ_CLS'"),
        (
            {"target_modules": ["no_proj"]},
            "does not fit the base model '.*' that it names: Target modules",
        ),
        (
            {"target_modules": ["q_proj"]},
            "does not fit the base model '.*' that it names: 4 weights",
        ),
        ({"r": 5}, "does not fit the base model"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(
    changes: dict[str, object], reason: str, folder: Path
) -> None:
    edit(folder, **changes)
    with pytest.raises(ModelLoadError, match=f"{folder}.*{reason}"):
        load_language_model(folder)


def test_an_adapter_of_another_base_is_refused_and_both_are_named(
    folder: Path, tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    other = LlamaForCausalLM(type(tiny_model.config)(**{
        **tiny_model.config.to_dict(), "hidden_size": 64, "head_dim": 16
    }))  # fmt: skip
    other.save_pretrained(tmp_path / "other")
    edit(folder, base_model_name_or_path=str(tmp_path / "other"))
    reason = f"'{folder}'.* does not fit the base model '{tmp_path / 'other'}'"
    with pytest.raises(ModelLoadError, match=reason):
        load_language_model(folder)


def test_damaged_adapters_pickles_and_circles_are_refused(folder: Path) -> None:
    edit(folder, base_model_name_or_path=str(folder))
    with pytest.raises(ModelLoadError, match="this is the adapter itself"):
        load_language_model(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match="a pickle is never read"):
        load_language_model(folder)
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(ModelLoadError, match=r"adapter_config.json of the adapter is damaged"):
        load_language_model(folder)


def test_an_adapter_that_peft_cannot_merge_is_refused(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    config = peft.PolyConfig(r=2, n_skills=2, target_modules=["q_proj"])
    folder = save_adapter(tiny_model_path, tmp_path / "poly", config)
    with pytest.raises(ModelLoadError, match="cannot be merged into weights"):
        load_language_model(folder)


def test_an_adapter_that_the_rounding_of_weights_swallows_is_refused_with_the_cure(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "_ROUNDINGS", 0.0)  # those of a small model hide the effect
    folder = save_adapter(tiny_model_path, tmp_path / "small", LORA, scale=1e-3)
    assert load_language_model(folder, dtype="float32").model.dtype == torch.float32
    with pytest.raises(ModelLoadError, match=r"too little for weights in bfloat16: load it in flo"):
        load_language_model(folder, dtype="bfloat16")


def test_an_adapter_that_weights_in_bfloat16_hold_inexactly_is_merged(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapters of `learn` change weights by a few of their roundings."""
    monkeypatch.setattr(adapters, "_ROUNDINGS", 0.0)
    folder = save_adapter(tiny_model_path, tmp_path / "small", LORA, scale=0.1)
    loaded = load_language_model(folder, dtype="bfloat16").model(TOKENS).logits.float()
    exact = load_language_model(folder, dtype="float32").model(TOKENS).logits
    base = load_language_model(tiny_model_path, dtype="float32").model(TOKENS).logits
    assert (loaded - exact).norm() < 0.5 * (base - exact).norm()


def test_an_adapter_is_not_merged_into_quantized_weights(adapter: Path) -> None:
    with pytest.raises(ArgumentError, match="leave quantization='4bit' out, or merge"):
        load_language_model(adapter, quantization="4bit")


@pytest.mark.slow
def test_an_adapter_of_a_stored_quantized_base_is_refused(
    folder: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    quantized = load_language_model(tiny_model_path, quantization="4bit").model
    quantized.save_pretrained(tmp_path / "quantized")
    edit(folder, base_model_name_or_path=str(tmp_path / "quantized"))
    with pytest.raises(ModelLoadError, match="not merged into the quantized base model"):
        load_language_model(folder)


def test_a_model_with_an_adapter_is_refused_with_the_two_ways_to_use_it(
    tiny_model_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, adapter: Path
) -> None:
    adapted: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model_path), adapter
    )
    cure = r"got a PeftModelForCausalLM: .*merge_and_unload\(\).* folder of the saved adapter"
    for use in (
        load_language_model,
        HiddenStateEmbeddings,
        lambda model, tokenizer: TestTimeFineTunedLLM(model=model, tokenizer=tokenizer),
    ):
        with pytest.raises(ValueError, match=cure):  # pydantic has its own
            use(adapted, tiny_tokenizer)
        with pytest.raises(ValueError, match="PreTrainedModel of transformers, got a int"):
            use(3, tiny_tokenizer)  # type: ignore[arg-type]
    merged = adapted.merge_and_unload()
    from_folder = load_language_model(adapter, tiny_tokenizer, device="cpu", dtype="float32")
    with torch.inference_mode():
        logits = load_language_model(merged, tiny_tokenizer).model(TOKENS).logits
        torch.testing.assert_close(from_folder.model(TOKENS).logits, logits, rtol=1e-4, atol=1e-4)


def test_a_folder_of_peft_is_no_trained_adapter_and_the_error_names_its_use(adapter: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"no langchain_sift\.json\. .*PEFT.* model='"
    ) as raised:
        TrainedAdapter.load(adapter)
    assert f"model={str(adapter)!r}" in str(raised.value)
