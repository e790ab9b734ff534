"""A model is loaded once, from the named source, and no code of its folder ever runs."""

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
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, T5Config

from langchain_sift.errors import ArgumentError, MissingExtraError, ModelLoadError
from langchain_sift.ttft import LanguageModel, load_language_model
from langchain_sift.ttft.model import files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Fingerprint = Callable[[torch.nn.Module], str]
WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tiny_model_path: Path, tmp_path: Path) -> Path:
    """Copy the model's folder for a test that damages it."""
    return Path(shutil.copytree(tiny_model_path, tmp_path / "copy"))


@pytest.fixture
def hub(
    tiny_model_path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Make a hub's cache with two revisions of "org/tiny", and go offline.

    Revision "main" is the tiny model; revision "b" * 40 is the same with one weight set to zero.
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


def test_a_name_is_loaded_once_while_it_is_in_use(
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


@pytest.mark.slow
def test_the_weights_are_freed_with_their_last_user(tiny_model_path: Path, tmp_path: Path) -> None:
    own = shutil.copytree(tiny_model_path, tmp_path / "own")  # other tests may use the other
    first = load_language_model(own, dtype="float32")
    second = load_language_model(own, dtype="float32")
    gone = weakref.ref(first.model), weakref.ref(first.tokenizer)
    del first
    gc.collect()
    assert all(part() is not None for part in gone)
    del second
    gc.collect()
    assert all(part() is None for part in gone)


def test_threads_that_load_the_same_model_wait_for_one_load(
    tiny_model_path: Path, weight_loads: list[str]
) -> None:
    before, together = len(weight_loads), threading.Barrier(16)

    def load(_: int) -> LanguageModel:
        together.wait(timeout=60)
        return load_language_model(tiny_model_path, dtype="float32")

    with ThreadPoolExecutor(16) as pool:
        loaded = list(pool.map(load, range(16)))
    assert len(weight_loads) == before + 1
    assert len({id(result.model) for result in loaded}) == 1
    assert len({id(result.tokenizer) for result in loaded}) == 1


def test_a_slow_download_does_not_block_other_loads(
    tiny_model_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, weight_loads: list[str]
) -> None:
    assert hub.is_dir()
    started, proceed = threading.Event(), threading.Event()

    def slow_download(*args: Any, **options: Any) -> str:
        started.set()
        assert proceed.wait(timeout=60)
        return huggingface_hub.snapshot_download(*args, **options)

    monkeypatch.setattr(files, "snapshot_download", slow_download)
    before = len(weight_loads)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(load_language_model, "org/tiny", dtype="float32") for _ in range(2)]
        assert started.wait(timeout=60)
        try:
            load_language_model(tiny_model_path, dtype="float32")
            assert len(weight_loads) == before + 1
            assert not any(load.done() for load in slow)
        finally:
            proceed.set()
        first, second = (load.result(timeout=60) for load in slow)
    assert first.model is second.model
    assert len(weight_loads) == before + 2


def test_models_loaded_at_the_same_time_keep_their_dtypes(
    tiny_model: PreTrainedModel, tiny_model_path: Path, tmp_path: Path
) -> None:
    # transformers replaces these for the process while it builds a model; two at once would
    # leave the replacements behind, and give models each other's dtype.
    untouched = PreTrainedModel.tie_weights, torch.linspace, torch.get_default_dtype()
    folders = [Path(shutil.copytree(tiny_model_path, tmp_path / str(i))) for i in range(12)]
    dtypes = [torch.float32, torch.bfloat16, torch.float16] * 4
    with ThreadPoolExecutor(12) as pool:
        loaded = list(
            pool.map(lambda f, d: load_language_model(f, dtype=d), folders, dtypes, timeout=120)
        )
    assert untouched == (PreTrainedModel.tie_weights, torch.linspace, torch.get_default_dtype())
    expected = tiny_model.state_dict()
    for result, dtype in zip(loaded, dtypes, strict=True):
        for name, weights in result.model.state_dict().items():
            assert torch.equal(weights, expected[name].to(dtype))


def test_a_failed_load_can_be_repeated(
    folder: Path, tiny_model_path: Path, weight_loads: list[str]
) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    before = len(weight_loads)
    with ThreadPoolExecutor(4) as pool:
        failed = [pool.submit(load_language_model, folder) for _ in range(4)]
    assert all(isinstance(load.exception(), ModelLoadError) for load in failed)
    assert len(weight_loads) == before
    shutil.copy(tiny_model_path / "model.safetensors", folder)
    assert load_language_model(folder).model.device.type == "cpu"
    assert len(weight_loads) == before + 1


def test_a_load_with_a_tokenizer_shares_the_weights(
    tiny_model_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, weight_loads: list[str]
) -> None:
    first = load_language_model(tiny_model_path, dtype="float32")
    before = len(weight_loads)
    other = load_language_model(tiny_model_path, tiny_tokenizer, dtype="float32")
    assert other.model is first.model
    assert other.tokenizer is tiny_tokenizer
    assert first.tokenizer is not tiny_tokenizer
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
def test_each_revision_is_another_model(tiny_model: PreTrainedModel) -> None:
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
def test_a_name_that_does_not_exist_is_named_in_the_error(name: str) -> None:
    message = f"cannot load the model '{name}': there is no such folder here"
    with pytest.raises(ModelLoadError, match=message):
        load_language_model(name)


@pytest.mark.parametrize("name", ["a/folder/elsewhere", "not a name"])
def test_a_name_that_the_hub_does_not_allow_is_reported_as_a_missing_folder(name: str) -> None:
    with pytest.raises(ModelLoadError, match="no such folder here, and no model on the hub"):
        load_language_model(name)


def test_only_safe_files_are_downloaded(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        request.update(options, name=name)
        return str(tiny_model_path)

    monkeypatch.setattr(files, "snapshot_download", download)
    load_language_model("org/model", revision="v1")
    assert (request["name"], request["revision"]) == ("org/model", "v1")
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
        names, allow_patterns=request["allow_patterns"]
    )
    assert list(wanted) == names[:8]


def test_the_loaded_weights_equal_the_saved_ones(
    tiny_model: PreTrainedModel, tiny_model_path: Path
) -> None:
    loaded = load_language_model(str(tiny_model_path), dtype="float32").model
    assert not loaded.training
    for name, weights in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights)


def test_a_loaded_model_is_used_unchanged(
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
def test_a_setting_for_loading_is_rejected_with_a_loaded_model(
    setting: dict[str, Any], tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ArgumentError, match=next(iter(setting))):
        load_language_model(tiny_model, tiny_tokenizer, **setting)


def test_a_dispatched_model_stays_where_it_is(
    tiny_model: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, fingerprint: Fingerprint
) -> None:
    # One device stands in for several: the hooks that move tensors between layers exist.
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


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def drop_weight(folder: Path) -> None:
    edit_weights(folder, lambda w: {name: w[name] for name in w if name != WEIGHT})


def reshape_weight(folder: Path) -> None:
    edit_weights(folder, lambda w: w | {WEIGHT: torch.zeros(3, 3)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "no such folder"),
        (make_empty, r"config\.json"),
        (shorten("model.safetensors"), "SafetensorError"),
        (lambda f: (f / "config.json").write_text("{nope"), "not a valid JSON"),
        (lambda f: edit_config(f, model_type="unknown-type"), "unknown-type"),
        (lambda f: T5Config().save_pretrained(f), "AutoModelForCausalLM"),
        (drop_weight, f"1 weights are missing .*{WEIGHT}"),
        (reshape_weight, f"wrong shape.*{WEIGHT}"),
        (pickle_weights, "safetensors.*pickle.*save_pretrained"),
        (remove_tokenizer, "the tokenizer of"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "the tokenizer of"),
        (lambda f: (f / "tokenizer.json").write_text("{nope"), "the tokenizer of"),
    ],
)
def test_the_error_names_the_folder_and_what_is_wrong_with_it(
    damage: Callable[[Path], None], reason: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError, match=reason) as raised:
        load_language_model(folder)
    assert f"'{folder}'" in str(raised.value)


def test_a_folder_without_a_tokenizer_needs_one_as_an_argument(
    folder: Path, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    remove_tokenizer(folder)
    assert load_language_model(folder, tiny_tokenizer).tokenizer is tiny_tokenizer


def test_code_in_a_folder_is_never_run(folder: Path) -> None:
    trace = folder / "trace"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')")
    edit_config(folder, auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    load_language_model(folder)  # transformers uses its implementation of this type
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
        ({"quantization": "2bit"}, r"one of \['4bit', '8bit'\], got '2bit'"),
        ({"quantization": 4}, r"one of \['4bit', '8bit'\], got 4"),
        ({"revision": "main"}, "is a folder"),
    ],
)
def test_the_error_of_a_wrong_setting_names_the_allowed_values(
    setting: dict[str, Any], allowed: str, tiny_model_path: Path, weight_loads: list[str]
) -> None:
    before = len(weight_loads)
    with pytest.raises(ArgumentError, match=allowed) as raised:
        load_language_model(tiny_model_path, **setting)
    assert all(str(value) in str(raised.value) for value in setting.values())
    assert len(weight_loads) == before


@pytest.mark.parametrize("model", ["", None, 3, torch.nn.Linear(2, 2)])
def test_anything_but_a_name_a_folder_or_a_model_is_rejected(model: Any) -> None:
    with pytest.raises(ArgumentError, match="a name, a folder or a PreTrainedModel"):
        load_language_model(model)


@pytest.mark.parametrize("missing", ["bitsandbytes", "accelerate"])
def test_quantization_names_the_missing_extra(
    missing: str, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    with pytest.raises(MissingExtraError, match=rf"{missing}.*langchain-sift\[quantized\]"):
        load_language_model(tiny_model_path, quantization="4bit")
