"""PEFT and this package load a saved adapter, and a folder has the whole adapter or nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
from likelihood import negative_log_likelihood
from transformers import GPT2Config, GPT2LMHeadModel

from langchain_sift.config import GenerationConfig
from langchain_sift.errors import ArgumentError, TrainingError
from langchain_sift.ttft import Engine, GenerationTask, LanguageModel, Outcome, TrainedAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROMPT = [5, 9, 40, 41]
TARGET = [7, 8, 100, 21]
TOKENS = torch.tensor([PROMPT + TARGET])
FILES = {"adapter_config.json", "adapter_model.safetensors", "langchain_sift.json"}


def answer(engine: Engine, texts: Sequence[str] | TrainedAdapter) -> tuple[str, Outcome]:
    config = GenerationConfig(max_tokens=16, keep_special_tokens=True)
    *events, outcome = engine.submit(engine.request(texts, GenerationTask(PROMPT, config)))
    return "".join(event for event in events if isinstance(event, str)), outcome


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def adapter(engine: Engine, texts: list[str]) -> TrainedAdapter:
    return engine.finetune([texts[3], texts[20], texts[3], texts[7]])


@pytest.fixture
def saved(adapter: TrainedAdapter, tmp_path: Path) -> Path:
    return adapter.save(tmp_path / "saved")


@pytest.fixture(scope="module")
def tiny_gpt2(tiny_tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Make a GPT-2, whose layers are no `nn.Linear`; no test may change it."""
    end = tiny_tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer),
        n_positions=256,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


# --- round trips ----------------------------------------------------------------------------


def test_a_loaded_adapter_equals_the_saved_one(adapter: TrainedAdapter, saved: Path) -> None:
    loaded = TrainedAdapter.load(saved)
    assert torch.equal(loaded.weights, adapter.weights)
    assert loaded.weights.dtype == torch.float32
    for field in ("layers", "shapes", "config", "training", "base", "transposed"):
        assert getattr(loaded, field) == getattr(adapter, field)
    assert hash(loaded.config) == hash(adapter.config)


def test_a_loaded_config_and_record_equal_the_saved_ones(
    engine: Engine, texts: list[str], tmp_path: Path
) -> None:
    """Tuples stay tuples, None stays None, and numbers are equal to the last bit."""
    config = replace(
        engine.config,
        learning_rate=1e-2 / 3,
        max_gradient_norm=None,
        max_train_tokens=500,
        drift_texts=("one", "two \N{SNOWMAN}"),
        max_drift=50.0,
    )
    trained = engine.finetune([*texts[:2], "a", " ".join(texts)], config=config)
    loaded = TrainedAdapter.load(trained.save(tmp_path / "adapter"))
    assert asdict(loaded.config) == asdict(trained.config)
    assert loaded.training == trained.training
    assert loaded.training.skipped == (2,)
    assert loaded.training.truncated == (3,)
    assert loaded.training.drift is not None


@pytest.mark.slow
def test_a_loaded_adapter_answers_as_the_request_that_trained_it(
    engine: Engine, texts: list[str], tmp_path: Path
) -> None:
    chosen = [texts[3], texts[20], texts[3], texts[7]]
    expected, first = answer(engine, chosen)
    nats = negative_log_likelihood(engine, PROMPT, TARGET, texts=chosen)
    base, _ = answer(engine, [])
    assert base != expected
    loaded = TrainedAdapter.load(engine.finetune(chosen).save(tmp_path / "adapter"))
    other = Engine(engine.language_model, engine.config)
    for one in (engine, other):
        answer(one, texts[40:43])
        text, outcome = answer(one, loaded)
        assert (text, outcome.tokens) == (expected, first.tokens)
        assert outcome.training.fallback is None
        assert negative_log_likelihood(one, PROMPT, TARGET, texts=loaded) == nats
        assert answer(one, [])[0] == base


def test_an_adapter_saved_before_experts_had_adapters_is_read(
    adapter: TrainedAdapter, saved: Path
) -> None:
    edit("langchain_sift.json", lambda own: own.pop("shapes"))(saved)
    loaded = TrainedAdapter.load(saved)
    assert loaded.shapes == adapter.shapes
    assert torch.equal(loaded.weights, adapter.weights)


def test_a_failed_training_returns_no_adapter(engine: Engine, texts: list[str]) -> None:
    with pytest.raises(TrainingError, match="finite"):
        engine.finetune(texts[:4], config=replace(engine.config, learning_rate=1e30))
    with pytest.raises(TrainingError, match="no document"):
        engine.finetune([])


# --- folders --------------------------------------------------------------------------------


def test_only_the_owner_has_access_to_the_folder_of_three_files(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in saved.iterdir()} == FILES
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_parent_folders_are_created(adapter: TrainedAdapter, tmp_path: Path) -> None:
    folder = adapter.save(str(tmp_path / "a" / "b" / "adapter"))
    assert folder == tmp_path / "a" / "b" / "adapter"
    assert TrainedAdapter.load(str(folder)).layers == adapter.layers


def make_full(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    "make",
    [
        make_full,
        Path.mkdir,
        lambda path: path.write_text("mine"),
        lambda path: path.symlink_to(path.parent / "nowhere"),
    ],
    ids=["full folder", "empty folder", "file", "dangling link"],
)
def test_an_existing_path_is_not_changed(
    make: Callable[[Path], object], adapter: TrainedAdapter, tmp_path: Path
) -> None:
    path = tmp_path / "adapter"
    make(path)
    before = path.lstat()
    with pytest.raises(FileExistsError, match="exists already"):
        adapter.save(path)
    assert path.lstat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    if path.is_dir():
        assert contents(path) in ({}, {"notes.txt": b"mine"})


@pytest.mark.slow
def test_a_second_save_does_not_change_the_first(adapter: TrainedAdapter, saved: Path) -> None:
    before = contents(saved)
    with pytest.raises(FileExistsError):
        replace(adapter, weights=adapter.weights + 1).save(saved)
    assert contents(saved) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError("no space left"),
        safetensors.SafetensorError("broken"),
        RuntimeError("broken"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("early", [True, False])
def test_a_crash_while_writing_leaves_nothing(
    *,
    error: BaseException,
    early: bool,
    adapter: TrainedAdapter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fail at the first file, or after two of three."""

    def write_half(*args: object, **_: object) -> None:
        for path in args:
            if isinstance(path, Path):
                path.write_bytes(b"half")
        raise error

    if early:
        monkeypatch.setattr(safetensors.torch, "save_file", write_half)
    else:
        monkeypatch.setattr(TrainedAdapter, "_own_config", write_half)
    # safetensors reports a full disk by an error of its own.
    is_foreign = isinstance(error, safetensors.SafetensorError)
    with pytest.raises(OSError if is_foreign else type(error)) as raised:
        adapter.save(tmp_path / "adapter")
    assert (raised.value.__cause__ if is_foreign else raised.value) is error
    assert list(tmp_path.iterdir()) == []


def test_one_of_eight_threads_that_save_to_the_same_folder_succeeds(
    adapter: TrainedAdapter, tmp_path: Path
) -> None:
    for turn in range(10):
        start = threading.Barrier(8)

        def save(number: int, turn: int = turn, start: threading.Barrier = start) -> int | None:
            mine = replace(adapter, weights=adapter.weights + number)
            start.wait()
            try:
                mine.save(tmp_path / f"adapter-{turn}")
            except FileExistsError:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            (winner,) = [number for number in pool.map(save, range(8)) if number is not None]
        loaded = TrainedAdapter.load(tmp_path / f"adapter-{turn}")
        assert torch.equal(loaded.weights, adapter.weights + winner)
    assert len(list(tmp_path.iterdir())) == 10


# --- damage ---------------------------------------------------------------------------------


def edit(file: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    """Return a function that changes a JSON file."""

    def rewrite(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return rewrite


def write(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def cut(file: str, share: float) -> Callable[[Path], object]:
    def truncate(folder: Path) -> None:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[: int(len(whole) * share)])

    return truncate


def flip(at: int) -> Callable[[Path], object]:
    """Return a function that flips a bit in the file of the weights."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[at] ^= 0x10
        (folder / WEIGHTS).write_bytes(content)

    return damage


def flatten_first(folder: Path) -> None:
    """Write the same weights with a one-dimensional shape."""
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    first = min(tensors)
    tensors[first] = tensors[first].flatten()
    safetensors.torch.save_file(tensors, folder / WEIGHTS)


def drop_first(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    del tensors[min(tensors)]
    safetensors.torch.save_file(tensors, folder / WEIGHTS)


OURS, WEIGHTS = "langchain_sift.json", "adapter_model.safetensors"

DAMAGES: dict[str, Callable[[Path], object]] = {
    "no file of ours": lambda folder: (folder / OURS).unlink(),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "weights are a folder": lambda folder: (
        (folder / WEIGHTS).unlink(),
        (folder / WEIGHTS).mkdir(),
    ),
    "empty weights": write(WEIGHTS, b""),
    "weights are text": write(WEIGHTS, b"these are no weights"),
    "a header of any length": write(WEIGHTS, b"\xff" * 64),
    "half of the weights": cut(WEIGHTS, 0.5),
    "most of the weights": cut(WEIGHTS, 0.999),
    "a bit of the header": flip(20),
    "a bit of a weight": flip(-5),
    "a weight of no matrix": flatten_first,
    "a weight less": drop_first,
    "empty JSON": write(OURS, b""),
    "half of the JSON": cut(OURS, 0.5),
    "JSON in no encoding": write(OURS, b'{"base": "\xff"}'),
    "JSON without end": write(OURS, b"[" * 100_000),
    "a list": write(OURS, b"[]"),
    "null": write(OURS, b"null"),
    "no layers": edit(OURS, lambda own: own.pop("layers")),
    "null layers": edit(OURS, lambda own: own.update(layers=None)),
    "empty layers": edit(OURS, lambda own: own.update(layers=[])),
    "other layers": edit(OURS, lambda own: own["layers"].append("model.layers.9.mlp.up_proj")),
    "layers in another order": edit(OURS, lambda own: own["layers"].reverse()),
    "no config": edit(OURS, lambda own: own.pop("config")),
    "null config": edit(OURS, lambda own: own.update(config=None)),
    "an unknown setting": edit(OURS, lambda own: own["config"].update(magic=1)),
    "a setting out of range": edit(OURS, lambda own: own["config"].update(lora_rank=0)),
    "a setting of another type": edit(OURS, lambda own: own["config"].update(lora_alpha="x")),
    "no record": edit(OURS, lambda own: own.pop("training")),
    "an unknown record": edit(OURS, lambda own: own["training"].update(magic=1)),
    "no name": edit(OURS, lambda own: own.pop("base")),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named_in_the_error(damage: str, saved: Path) -> None:
    assert TrainedAdapter.load(saved)
    DAMAGES[damage](saved)
    with pytest.raises(ArgumentError, match="has no adapter") as raised:
        TrainedAdapter.load(saved)
    assert str(saved) in str(raised.value)


@pytest.mark.parametrize("path", ["nowhere", "file"])
def test_a_path_without_an_adapter_is_named_in_the_error(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=path):
        TrainedAdapter.load(tmp_path / path)


def test_an_adapter_of_other_rank_layers_or_model_is_refused(
    engine: Engine,
    adapter: TrainedAdapter,
    tiny_gpt2: GPT2LMHeadModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
) -> None:
    other_rank = replace(engine.config, lora_rank=3)
    other_layers = replace(engine.config, target_modules=("q_proj", "v_proj"))
    gpt2 = LanguageModel("gpt2", tiny_gpt2, tiny_tokenizer)
    before = answer(engine, texts[:2])[0]
    for other in (
        Engine(engine.language_model, other_rank),
        Engine(engine.language_model, other_layers),
        Engine(gpt2, engine.config),
    ):
        message = "does not fit another model, rank or choice of layers"
        with pytest.raises(ArgumentError, match=message):
            other.request(adapter)
        with pytest.raises(ArgumentError, match="'tiny'"):
            engine.request(replace(other.finetune(texts[:1]), base="tiny"))
        assert other.status().admitted == 0
    other_scale = Engine(engine.language_model, replace(engine.config, lora_alpha=1.0))
    with pytest.raises(ArgumentError, match=r"was trained with lora_alpha .* the model has 1:"):
        other_scale.request(adapter)
    with pytest.raises(ArgumentError, match=r"weights must have the shape .* got \(9,\)"):
        engine.request(replace(adapter, weights=adapter.weights[:9]))
    assert answer(engine, texts[:2])[0] == before
