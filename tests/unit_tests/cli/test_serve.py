"""A mistake in the options of `serve` is one line, before anything is served."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from langchain_core.documents import Document
from typer.testing import CliRunner, Result

from langchain_sift import FineTuneConfig
from langchain_sift.auto_mode import ModeBin, ModeFigures, ModeTable, TableSettings
from langchain_sift.calibrated_settings import (
    CalibratedFineTuning,
    CalibratedSelection,
    CalibratedSettings,
)
from langchain_sift.cli import app
from langchain_sift.questions.learned_examples import LearnedExamples
from langchain_sift.serving import ServingSettings, Tenants, on_ray
from langchain_sift.stores.locking import locked

PUBLIC = "0.0.0.0"  # noqa: S104 - the test expects a rejection
KEY = "a-key-that-is-long-enough"


@pytest.fixture
def folder(texts, tiny_model_path, tmp_path) -> Path:
    docs = tmp_path / "docs.jsonl"
    docs.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:6]))
    arguments = ["index", docs, "--store", tmp_path / "store", "--embeddings", tiny_model_path]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return tmp_path / "store"


def run(model: Path, store: Path | str, *more: object, env: dict[str, str] | None = None) -> Result:
    arguments = ["serve", "--model", model, "--store", store, "--port", 0, *more]
    return CliRunner(env=env).invoke(app, [str(argument) for argument in arguments])


def served(model: Path, store: Path | str, *more: object, env: dict[str, str] | None = None):
    """Return the settings and the address that would be served."""
    with mock.patch("langchain_sift.serving.serve") as serve:
        result = run(model, store, *more, env=env)
    assert result.exit_code == 0, result.output
    (settings,), where = serve.call_args
    return settings, where


def check(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert "error:" in result.stderr
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_options_for_clients(tiny_model_path, folder):
    options = "--cors-origin https://a.example --cors-origin * --ceiling k=50 --ceiling timeout=9"
    options += f" --api-key {'k' * 16} --fetch-k 90 --context-k 4"
    settings, _ = served(tiny_model_path, folder, *options.split(), "--retrieval-query", "turns")
    assert settings.cors_origins == ("https://a.example", "*")
    assert settings.ceilings == {"k": 50, "timeout": 9}
    assert settings.fetch_k == 90
    assert settings.retrieval_query == "turns"
    assert settings.context_k == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--collection", "facts"), "no collection 'facts': choose one of ['documents']"),
        (("--host", PUBLIC), "requests need no token"),
        (("--host", "::"), "requests need no token"),
        (("--host", "192.168.1.2"), "requests need no token"),
        (("--host", "example.com"), "requests need no token"),
        (("--host", "127.0.0.300"), "requests need no token"),
        (("--mode", "best"), "mode must be one of"),
        (("--k", "0"), "k must be an integer of at least 1"),
        (("--context-k", "0"), "context_k must be an integer of at least 1, or None"),
        (("--context-k", "9", "--ceiling", "context_k=5"), "context_k is 9, above its ceiling 5"),
        (("--lora-rank", "0"), "lora_rank must be"),
        (("--max-tokens", "0"), "max_tokens must be"),
        (("--timeout", "0"), "timeout must be"),
        (("--max-requests", "0"), "max_requests must be"),
        (("--max-memory-gb", "-1"), "max_memory_gb must be"),
        (("--api-key", "short"), "at least 16 characters"),
        (("--tenants", "nothing.toml"), "nothing.toml"),
        (("--settings", "nothing.json"), "nothing.json"),
        (("--embeddings", "no_such_module:Name"), "no_such_module"),
        (("--cors-origin", "https://app.example/page"), "an origin is a scheme and a host"),
        (("--ceiling", "k"), "--ceiling must be NAME=N, as in k=50"),
        (("--ceiling", "kk=5"), "no ceiling for 'kk'"),
        (("--retrieval-query", "turn"), "did you mean 'turns'?"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_exit_code_two(more, message, tiny_model_path, folder):
    check(run(tiny_model_path, folder, *more), message)


def test_a_model_or_store_that_does_not_exist_is_named(tiny_model_path, folder, tmp_path):
    check(run(tmp_path / "nothing", folder), "nothing")
    check(run(tiny_model_path, tmp_path / "nothing"), "no folder of Chroma's")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    # The store is checked first, because a model takes long to load.
    check(run(tmp_path / "nothing", url), f"no Chroma server at {url}")
    check(run(tmp_path / "nothing", folder, "--collection", "facts"), "no collection 'facts'")


def test_a_port_that_is_taken(tiny_model_path, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check(run(tiny_model_path, folder, "--port", port), f"cannot listen on 127.0.0.1:{port}")


@pytest.mark.slow
def test_bad_filters_and_collections_of_tenants_are_named(tiny_model_path, folder, tmp_path):
    tenants = tmp_path / "tenants.toml"
    for entry, message in (
        ('filter = {tenant = {"$ne" = "b"}}', "must name the allowed values"),
        ('filter = {"$or" = []}', "the filter of tenant 'a'"),
        ('collection = "other"', "no collection 'other'"),
    ):
        tenants.write_text(f'[tenants.a]\ntoken = "{KEY}"\n{entry}')
        check(run(tiny_model_path, folder, "--tenants", tenants), message)
    check(
        run(tiny_model_path, folder, "--tenants", tenants, "--api-key", KEY),
        "either --tenants or an API key",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--port", "0", "--model", "MODEL"],
        ["explain", "a question"],
        ["index", "DOCS", "--embeddings", "MODEL"],
        ["calibrate", "--model", "MODEL", "--out", "OUT"],
        ["compare", "--model", "MODEL", "--prompts", "DOCS", "--out", "OUT"],
    ],
    ids=lambda command: command[0],
)
def test_a_store_that_a_server_has_locked_is_rejected(command, tiny_model_path, folder, tmp_path):
    names = {
        "MODEL": tiny_model_path,
        "DOCS": tmp_path / "docs.jsonl",
        "OUT": tmp_path / "out",
    }
    arguments = [str(names.get(part, part)) for part in command]
    with locked(folder, exclusive=True):
        result = CliRunner().invoke(app, [*arguments, "--store", str(folder)])
    assert result.exit_code == 2, result.output
    assert "is open in another process" in " ".join(result.stderr.split())


def test_options_take_precedence_over_calibrated_settings(tiny_model_path, folder, tmp_path):
    tuned = CalibratedFineTuning(
        selection=CalibratedSelection(noise_variance=0.3, k=7, fetch_k=50),
        learning_rate=2e-3,
        lora_rank=4,
        lora_alpha=8.0,
        max_length=48,
        model="tiny",
        protocol="document",
        seed=5,
    )
    rag = CalibratedSelection(0.1, k=3, fetch_k=60, kernel="rbf", length_scale=0.4)
    saved = CalibratedSettings(retrieval=rag, fine_tuning=tuned)
    saved.save(tmp_path / "settings.json")
    file = ("--settings", tmp_path / "settings.json")
    settings, _ = served(tiny_model_path, folder, *file)
    assert (settings.k, settings.fetch_k, settings.noise_variance) == (3, 60, 0.1)
    assert (settings.kernel, settings.length_scale) == ("rbf", 0.4)
    assert (settings.mode, settings.training_selection) == ("rag", tuned.selection)
    for mode in ("ttft", "both"):
        saved = replace(saved, fine_tuning=replace(tuned, mode=mode))
        saved.save(tmp_path / "settings.json", overwrite=True)
        assert served(tiny_model_path, folder, *file)[0].mode == mode
    settings, _ = served(tiny_model_path, folder, *file, "--mode", "rag")
    assert settings.mode == "rag"
    assert (settings.k, settings.training_selection.k) == (3, 7)
    assert settings.finetune == saved.finetune_config()
    settings, _ = served(tiny_model_path, folder, *file, "--k", 2, "--learning-rate", 0.5)
    assert (settings.k, settings.training_selection.k, settings.finetune.learning_rate) == (
        2,
        2,
        0.5,
    )
    assert settings.finetune.lora_alpha == 8.0
    settings, _ = served(tiny_model_path, folder, *file, "--lora-rank", 32)
    assert (settings.finetune.lora_rank, settings.finetune.lora_alpha) == (32, 32.0)
    settings, _ = served(tiny_model_path, folder)
    assert (settings.mode, settings.finetune) == ("rag", FineTuneConfig())
    CalibratedSettings(retrieval=rag).save(tmp_path / "settings.json", overwrite=True)
    assert served(tiny_model_path, folder, *file)[0].mode == "rag"
    table = ModeTable(
        (ModeBin(1.0, 5, {"base": ModeFigures(0.0, 1.0)}),), TableSettings(4, 0.1, "rbf", 0.4)
    )
    CalibratedSettings(retrieval=rag, modes=table).save(tmp_path / "settings.json", overwrite=True)
    for options, difference in (
        (("--k", 4), None),
        (("--k", 2), "k = 4, and the settings here are k = 2"),
        (("--k", 4, "--context-k", 3), "no context_k, and the settings here are context_k = 3"),
        (("--k", 4, "--ceiling", "context_k=3"), "the settings here are context_k = 3"),
    ):
        with mock.patch("langchain_sift.serving.serve") as serve:
            result = run(tiny_model_path, folder, *file, *options)
        assert serve.call_args[0][0].modes == table
        notes = " ".join(result.stderr.split())
        assert ("the table of modes was measured" in notes) is (difference is not None)
        assert (difference or "") in notes
    for text, modules in (("last-1", "last-1"), ("q_proj, v_proj", ("q_proj", "v_proj"))):
        settings, _ = served(tiny_model_path, folder, "--target-modules", text)
        assert settings.finetune == FineTuneConfig(target_modules=modules)
    settings, _ = served(tiny_model_path, folder, "--lora-rank", 8, "--max-memory-gb", 6.5)
    assert settings.finetune == FineTuneConfig(lora_rank=8, lora_alpha=8.0)
    assert settings.limits.max_memory_gb == 6.5


def test_k_is_by_default_that_of_the_learned_examples(folder, tmp_path):
    shown = Document("", metadata={"question": "Who?", "context": ["She.", "He."]})
    LearnedExamples.of([shown], None).save(tmp_path)
    assert served(tmp_path, folder)[0].k == 2
    assert served(tmp_path, folder, "--k", 4)[0].k == 4
    for k in ({}, {"k": None}, {"k": 4}):
        args = {"model": str(tmp_path), "store": "http://chroma:8000", **k}
        expected = k.get("k") or 2
        assert ServingSettings(**args).k == expected
        assert on_ray.settings_of(args, Tenants.anybody()).k == expected
    assert ServingSettings("org/name", "store").k == 20


def test_a_key_comes_from_the_environment(tiny_model_path, folder):
    settings, where = served(
        tiny_model_path,
        folder,
        "--host",
        PUBLIC,
        env={"LANGCHAIN_SIFT_API_KEY": KEY},
    )
    assert settings.tenants.owner_of(KEY) is not None
    assert settings.tenants.owner_of("another") is None
    assert where["host"] == PUBLIC
    empty = run(tiny_model_path, folder, env={"LANGCHAIN_SIFT_API_KEY": ""})
    check(empty, "at least 16 characters, got 0")
    check(run(tiny_model_path, folder, "--api-key", ""), "at least 16 characters, got 0")
    settings, where = served(tiny_model_path, folder)
    assert not settings.tenants.need_tokens
    assert where["host"] == "127.0.0.1"


@pytest.mark.slow
def test_the_help_loads_nothing_that_is_slow():
    program = (
        "import sys; from typer.testing import CliRunner; from langchain_sift.cli import app\n"
        "assert CliRunner().invoke(app, ['serve', '--help']).exit_code == 0\n"
        "slow = {'torch', 'transformers', 'chromadb', 'fastapi', 'uvicorn'} & {*sys.modules}\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


@pytest.mark.slow
def test_mistakes_are_named_before_pytorch_is_loaded(tmp_path: Path) -> None:
    command = ["serve", "--model", "m", "--store", "store"]
    mistakes = {
        "none.toml": ["--tenants", "none.toml"],
        "none.json": ["--settings", "none.json"],
        "the ceiling of k": ["--ceiling", "k=0"],
        "mode must be": ["--mode", "best"],
    }
    program = (
        "import sys; from typer.testing import CliRunner; from langchain_sift.cli import app\n"
        f"for message, mistake in {mistakes}.items():\n"
        f"    result = CliRunner().invoke(app, {command} + mistake)\n"
        "    assert message in ' '.join(result.stderr.split()), result.output\n"
        "slow = {'torch', 'transformers', 'fastapi'} & {*sys.modules}\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named_with_the_command_to_install_it(missing, tiny_model_path, folder):
    program = (
        "import sys; sys.modules[sys.argv.pop(1)] = None\n"
        "from langchain_sift.__main__ import main; main()"
    )
    command = ["serve", "--model", tiny_model_path, "--store", folder]
    done = subprocess.run(
        [sys.executable, "-c", program, missing, *command],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'langchain-sift[serve]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_serving_needs_no_package_of_the_comparison(tiny_model_path, folder):
    program = """if True:
        import sys
        for name in ("matplotlib", "pypdf", "langchain_text_splitters"):
            sys.modules[name] = None
        from langchain_sift.serving import ServingSettings, create_app, open_service
        with open_service(ServingSettings(sys.argv[1], sys.argv[2])) as service:
            create_app(service)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, tiny_model_path, folder],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder)
