"""Loaded once, from where it was said, and never run."""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import os
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
import torch
from accelerate import dispatch_model
from accelerate.big_modeling import cpu_offload
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, T5Config

from langchain_sift.errors import ArgumentError, MissingExtraError, ModelLoadError
from langchain_sift.ttft import LanguageModel, fastest_dtype, load_language_model
from langchain_sift.ttft.model import loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Fingerprint = Callable[[torch.nn.Module], str]
WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tiny_model_path: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder that a test may spoil."""
    return Path(shutil.copytree(tiny_model_path, tmp_path / "spoilt"))


@pytest.fixture
def hub(
    tiny_model_path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A hub's cache that has two revisions of "org/tiny", and may be asked nothing else.

    Of "main" it has the tiny model; of "b" * 40 the same, but that one weight is zero.
    """
    cache = tmp_path / "hub"
    repository = cache / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(tiny_model_path, repository / "snapshots" / ("a" * 40))
    edit_weights(folder, lambda weights: weights | {WEIGHT: torch.zeros_like(weights[WEIGHT])})
    shutil.copytree(folder, repository / "snapshots" / ("b" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path, {"format": "pt"})


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_one_name_is_loaded_once_while_it_is_in_use(
    tiny_model_path: Path, weight_loads: list[str]
) -> None:
    before = len(weight_loads)
    first = load_language_model(str(tiny_model_path), dtype="float32")
    again = load_language_model(str(tiny_model_path), dtype=torch.float32)
    assert again.model is first.model
    assert again.tokenizer is first.tokenizer
    assert len(weight_loads) == before + 1
    other = load_language_model(str(tiny_model_path), dtype="bfloat16")
    assert other.model is not first.model
    assert other.model.dtype == torch.bfloat16
    assert len(weight_loads) == before + 2


def test_the_weights_go_with_their_last_user(tiny_model_path: Path) -> None:
    first = load_language_model(tiny_model_path, dtype="float32")
    second = load_language_model(tiny_model_path, dtype="float32")
    gone = weakref.ref(first.model), weakref.ref(first.tokenizer)
    del first
    gc.collect()
    assert all(part() is not None for part in gone)
    del second
    gc.collect()
    assert all(part() is None for part in gone)


def test_many_threads_wait_for_one_load(tiny_model_path: Path, weight_loads: list[str]) -> None:
    before, together = len(weight_loads), threading.Barrier(16)

    def load(_: int) -> LanguageModel:
        together.wait(timeout=60)
        return load_language_model(tiny_model_path, dtype="float32")

    with ThreadPoolExecutor(16) as pool:
        loaded = list(pool.map(load, range(16)))
    assert len(weight_loads) == before + 1
    assert len({id(one.model) for one in loaded}) == 1
    assert len({id(one.tokenizer) for one in loaded}) == 1


def test_a_load_that_waits_lets_others_pass(
    tiny_model_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, weight_loads: list[str]
) -> None:
    assert hub.is_dir()
    begun, go_on = threading.Event(), threading.Event()

    def slow_download(*args: Any, **options: Any) -> str:
        begun.set()
        assert go_on.wait(timeout=60)
        return huggingface_hub.snapshot_download(*args, **options)

    monkeypatch.setattr(loading, "snapshot_download", slow_download)
    before = len(weight_loads)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(load_language_model, "org/tiny", dtype="float32") for _ in range(2)]
        assert begun.wait(timeout=60)
        try:
            load_language_model(tiny_model_path, dtype="float32")
            assert len(weight_loads) == before + 1
            assert not any(one.done() for one in slow)
        finally:
            go_on.set()
        first, second = (one.result(timeout=60) for one in slow)
    assert first.model is second.model
    assert len(weight_loads) == before + 2


def test_models_loaded_side_by_side_do_not_mix(
    tiny_model: PreTrainedModel, tiny_model_path: Path, tmp_path: Path
) -> None:
    # transformers replaces these for the process while it builds a model; two at once used to
    # leave the replacements behind, and models in each other's dtype.
    untouched = PreTrainedModel.tie_weights, torch.linspace, torch.get_default_dtype()
    folders = [Path(shutil.copytree(tiny_model_path, tmp_path / str(i))) for i in range(12)]
    dtypes = [torch.float32, torch.bfloat16, torch.float16] * 4
    with ThreadPoolExecutor(12) as pool:
        loaded = list(
            pool.map(lambda f, d: load_language_model(f, dtype=d), folders, dtypes, timeout=120)
        )
    assert untouched == (PreTrainedModel.tie_weights, torch.linspace, torch.get_default_dtype())
    expected = tiny_model.state_dict()
    for one, dtype in zip(loaded, dtypes, strict=True):
        for name, weights in one.model.state_dict().items():
            assert torch.equal(weights, expected[name].to(dtype))


def test_a_load_that_fails_can_be_tried_again(
    folder: Path, tiny_model_path: Path, weight_loads: list[str]
) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    before = len(weight_loads)
    with ThreadPoolExecutor(4) as pool:
        failed = [pool.submit(load_language_model, folder) for _ in range(4)]
    assert all(isinstance(one.exception(), ModelLoadError) for one in failed)
    assert len(weight_loads) == before
    shutil.copy(tiny_model_path / "model.safetensors", folder)
    assert load_language_model(folder).model.device.type == "cpu"
    assert len(weight_loads) == before + 1


def test_a_tokenizer_of_ones_own_shares_the_weights(
    tiny_model_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, weight_loads: list[str]
) -> None:
    theirs = load_language_model(tiny_model_path, dtype="float32")
    before = len(weight_loads)
    own = load_language_model(tiny_model_path, tiny_tokenizer, dtype="float32")
    assert own.model is theirs.model
    assert own.tokenizer is tiny_tokenizer
    assert theirs.tokenizer is not tiny_tokenizer
    assert len(weight_loads) == before


def test_every_spelling_of_a_folder_is_the_same_model(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight_loads: list[str]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tiny_model_path, target_is_directory=True)
    monkeypatch.chdir(tiny_model_path.parent)
    first = load_language_model(str(tiny_model_path), dtype="float32")
    before = len(weight_loads)
    name = tiny_model_path.name
    for spelling in (
        tiny_model_path,
        name,
        f"./{name}",
        f"{tiny_model_path}/",
        f"{tiny_model_path}/../{name}",
        str(link),
        os.path.relpath(link),
    ):
        loaded = load_language_model(spelling, dtype="float32", device="cpu:0")
        assert loaded.model is first.model, spelling
        assert loaded.tokenizer is first.tokenizer, spelling
        assert loaded.name == os.fspath(spelling)
    assert len(weight_loads) == before


@pytest.mark.usefixtures("hub")
def test_revisions_are_models_of_their_own(tiny_model: PreTrainedModel) -> None:
    expected = tiny_model.state_dict()[WEIGHT]
    main = load_language_model("org/tiny", dtype="float32")
    other = load_language_model("org/tiny", dtype="float32", revision="b" * 40)
    assert torch.equal(main.model.state_dict()[WEIGHT], expected)
    assert not other.model.state_dict()[WEIGHT].any()
    assert main.name == other.name == "org/tiny"
    again = load_language_model("org/tiny", dtype="float32", revision="b" * 40)
    assert again.model is other.model
    with pytest.raises(ModelLoadError, match=r"'org/tiny'.*revision"):
        load_language_model("org/tiny", revision="c" * 40)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["org/other", "other", "a/b/c", "not a name"])
def test_a_name_that_cannot_be_had_is_named(name: str) -> None:
    message = f"cannot load the model '{name}': there is no such folder here"
    with pytest.raises(ModelLoadError, match=message):
        load_language_model(name)


@pytest.mark.parametrize("name", ["a/folder/elsewhere", "not a name"])
def test_a_name_that_only_a_folder_can_have_is_told_to_be_none(name: str) -> None:
    with pytest.raises(ModelLoadError, match="no such folder here, and no model on the hub"):
        load_language_model(name)


def test_only_what_is_safe_is_downloaded(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tiny_model_path)

    monkeypatch.setattr(loading, "snapshot_download", download)
    load_language_model("org/model", revision="v1")
    assert (asked["name"], asked["revision"]) == ("org/model", "v1")
    names = [
        "config.json",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "modeling_own.py",
        "consolidated.safetensors",
        "original/consolidated.00.pth",
        "model.fp16.safetensors",
    ]
    wanted = huggingface_hub.utils.filter_repo_objects(
        names, allow_patterns=asked["allow_patterns"]
    )
    assert list(wanted) == names[:8]


def test_the_weights_are_those_that_were_saved(
    tiny_model: PreTrainedModel, tiny_model_path: Path
) -> None:
    loaded = load_language_model(str(tiny_model_path), dtype="float32").model
    assert not loaded.training
    for name, weights in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights)


def test_a_loaded_model_is_taken_as_it_is(
    tiny_model: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    fingerprint: Fingerprint,
    weight_loads: list[str],
) -> None:
    before, count = fingerprint(tiny_model), len(weight_loads)
    loaded = load_language_model(tiny_model, tiny_tokenizer)
    assert loaded.model is load_language_model(tiny_model, tiny_tokenizer).model is tiny_model
    assert loaded.name == "LlamaForCausalLM"
    assert loaded.context_length == 256
    assert (fingerprint(tiny_model), len(weight_loads)) == (before, count)
    with pytest.raises(ArgumentError, match="tokenizer="):
        load_language_model(tiny_model)


@pytest.mark.parametrize(
    "setting",
    [{"revision": "v1"}, {"device": "cpu"}, {"dtype": "float32"}, {"quantization": "4bit"}],
)
def test_a_loaded_model_is_not_loaded_otherwise(
    setting: dict[str, Any], tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ArgumentError, match=next(iter(setting))):
        load_language_model(tiny_model, tiny_tokenizer, **setting)


def test_a_dispatched_model_stays_where_it_is(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, fingerprint: Fingerprint
) -> None:
    # One device stands for several: the hooks that carry tensors from layer to layer are there.
    parts = {"model": "cpu", "lm_head": "cpu"}
    model = dispatch_model(copy.deepcopy(tiny_model), parts, force_hooks=True)
    before, hooks = fingerprint(model), [hasattr(m, "_hf_hook") for m in model.modules()]
    assert any(hooks)
    loaded = load_language_model(model, tiny_tokenizer)
    assert loaded.model is model
    assert loaded.device == model.get_input_embeddings().weight.device == torch.device("cpu")
    assert model.hf_device_map == parts
    assert fingerprint(model) == before
    assert hooks == [hasattr(m, "_hf_hook") for m in model.modules()]


def test_token_ids_belong_where_the_embeddings_are(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = copy.deepcopy(tiny_model)
    model.register_parameter("first", torch.nn.Parameter(torch.zeros(1)))
    loaded = load_language_model(model, tiny_tokenizer)
    # The only second device that every machine has; `model.device` is that of `first`.
    model.get_input_embeddings().to("meta")
    assert model.device == torch.device("cpu")
    assert loaded.device == torch.device("meta")


def test_an_offloaded_model_is_refused(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = cpu_offload(copy.deepcopy(tiny_model), execution_device=torch.device("cpu"))
    with pytest.raises(ArgumentError, match="offloaded"):
        load_language_model(model, tiny_tokenizer)


def test_the_default_dtype_is_the_fastest_of_the_device(tiny_model_path: Path) -> None:
    fastest = fastest_dtype(torch.device("cpu"))
    assert fastest in {torch.bfloat16, torch.float32}
    assert load_language_model(str(tiny_model_path), device="cpu").model.dtype == fastest
    assert fastest_dtype(torch.device("cuda")) == torch.bfloat16


def make_empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def shorten(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:5000])

    return edit


def forget_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def drop_weight(folder: Path) -> None:
    edit_weights(folder, lambda w: {name: w[name] for name in w if name != WEIGHT})


def reshape_weight(folder: Path) -> None:
    edit_weights(folder, lambda w: w | {WEIGHT: torch.zeros(3, 3)})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "no such folder"),
        (make_empty, r"config\.json"),
        (shorten("model.safetensors"), "SafetensorError"),
        (lambda f: (f / "config.json").write_text("{nope"), "not a valid JSON"),
        (lambda f: edit_config(f, model_type="nobodys"), "nobodys"),
        (lambda f: T5Config().save_pretrained(f), "AutoModelForCausalLM"),
        (drop_weight, f"1 weights are missing .*{WEIGHT}"),
        (reshape_weight, f"wrong shape.*{WEIGHT}"),
        (pickle_weights, "safetensors.*pickle.*save_pretrained"),
        (forget_tokenizer, "the tokenizer of"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "the tokenizer of"),
        (lambda f: (f / "tokenizer.json").write_text("{nope"), "the tokenizer of"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(
    spoil: Callable[[Path], None], reason: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ModelLoadError, match=reason) as raised:
        load_language_model(folder)
    assert f"'{folder}'" in str(raised.value)


def test_a_folder_without_a_tokenizer_is_loaded_with_ones_own(
    folder: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    forget_tokenizer(folder)
    assert load_language_model(folder, tiny_tokenizer).tokenizer is tiny_tokenizer


def test_code_in_a_folder_is_never_run(folder: Path) -> None:
    trace = folder / "trace"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')")
    edit_config(folder, auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    load_language_model(folder)  # transformers has a model of that type, and uses its own
    edit_config(folder, model_type="own")
    with pytest.raises(ModelLoadError, match="code from its repository, which is never run"):
        load_language_model(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"device": "gpu"}, '"cpu"'),
        ({"device": "meta"}, '"cpu"'),
        ({"device": "cuda:99"}, '"cpu"'),
        ({"device": 2.5}, '"cpu"'),
        ({"dtype": "float1"}, '"bfloat16", "float16", "float32"'),
        ({"dtype": torch.int8}, '"bfloat16", "float16", "float32"'),
        ({"quantization": "2bit"}, 'None or one of "4bit", "8bit"'),
        ({"quantization": 4}, 'None or one of "4bit", "8bit"'),
        ({"revision": "main"}, "is a folder"),
    ],
)
def test_a_wrong_setting_is_told_what_is_right(
    setting: dict[str, Any], allowed: str, tiny_model_path: Path, weight_loads: list[str]
) -> None:
    before = len(weight_loads)
    with pytest.raises(ArgumentError, match=allowed) as raised:
        load_language_model(tiny_model_path, **setting)
    assert all(str(value) in str(raised.value) for value in setting.values())
    assert len(weight_loads) == before


@pytest.mark.parametrize("model", ["", None, 3, torch.nn.Linear(2, 2)])
def test_a_model_is_a_name_a_folder_or_a_model(model: Any) -> None:
    with pytest.raises(ArgumentError, match="a name, a folder or a PreTrainedModel"):
        load_language_model(model)


@pytest.mark.parametrize("missing", ["bitsandbytes", "accelerate"])
def test_quantization_names_the_extra_that_it_needs(
    missing: str, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(MissingExtraError, match=rf"{missing}.*langchain-sift\[quantized\]"):
        load_language_model(tiny_model_path, quantization="4bit")


def test_a_tokenizer_that_the_model_cannot_read_is_refused(
    tiny_model: PreTrainedModel, tiny_model_path: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_tokens(["supercalifragilistic"])
    for model in (tiny_model, tiny_model_path):
        with pytest.raises(ArgumentError, match=r"'supercali.*resize_token_embeddings"):
            load_language_model(model, larger)
    resized = copy.deepcopy(tiny_model)
    resized.resize_token_embeddings(len(larger))
    assert load_language_model(resized, larger).tokenizer is larger


def test_a_special_token_that_the_model_lacks_is_refused_where_texts_get_it(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    # Gemma 3's tokenizer has a token for images, which its text-only model lacks.
    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_special_tokens({"extra_special_tokens": ["<image>"]})
    assert len(larger) == tiny_model.get_input_embeddings().num_embeddings + 1
    assert load_language_model(tiny_model, larger).tokenizer is larger
    larger.eos_token = "<image>"  # noqa: S105 - a token, no secret
    with pytest.raises(ArgumentError, match="<image>"):
        load_language_model(tiny_model, larger)


@pytest.mark.parametrize(
    ("architecture", "sizes", "expected"),
    [
        ("llama", {"max_position_embeddings": 48}, 48),
        ("gpt2", {"n_positions": 48}, 48),
        ("mpt", {"max_seq_len": 48}, 48),
        ("bloom", {"seq_length": 48}, 48),
        ("bloom", {}, None),
        ("mamba", {}, None),
    ],
)
def test_the_context_is_as_long_as_the_configuration_says(
    architecture: str,
    sizes: dict[str, int],
    expected: int | None,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    small = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "d_model": 32}
    heads = {"n_layer": 1, "n_layers": 1, "n_head": 2, "n_heads": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        architecture, **({} if architecture == "mamba" else heads), **small, **sizes
    )
    model = LanguageModel("named", AutoModelForCausalLM.from_config(config), tiny_tokenizer)
    assert tiny_tokenizer.model_max_length == 256
    if expected is None:
        with pytest.raises(ArgumentError, match=r"named .*max_position_embeddings"):
            _ = model.context_length
    else:
        assert model.context_length == expected
