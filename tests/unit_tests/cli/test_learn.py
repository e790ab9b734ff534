"""`learn` trains one adapter on questions, each with its documents and its answer."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result
from unit_tests.templates import CHATML
from unit_tests.word_embeddings import WordEmbeddings

from langchain_sift import ChatTestTimeFineTuned, FineTuneConfig, SIFTRetriever
from langchain_sift.cli import app
from langchain_sift.cli.learn import FEW
from langchain_sift.comparison import example_documents
from langchain_sift.comparison.prompts import Prompt
from langchain_sift.errors import ArgumentError
from langchain_sift.questions.learned_examples import LearnedExamples
from langchain_sift.ttft import Step, TrainedAdapter, load_language_model
from langchain_sift.ttft.tickets import Ticket

pytestmark = pytest.mark.slow

EMBEDDINGS = ("--embeddings", "unit_tests.word_embeddings:WordEmbeddings")


@pytest.fixture
def store(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "store"
    Chroma("facts", WordEmbeddings(), persist_directory=str(path)).add_texts(texts)
    return path


@pytest.fixture
def examples(tmp_path: Path, texts: list[str]) -> Path:
    file = tmp_path / "examples.jsonl"
    rows = [{"question": text[:20], "answer": text.split()[-1]} for text in texts[:6]]
    rows.append({"question": "Which has no answer?"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def model(
    tmp_path: Path,
    tiny_model: LlamaForCausalLM,
    templated: Callable[[str | None], PreTrainedTokenizerFast],
) -> Path:
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder)
    templated(CHATML).save_pretrained(folder)
    return folder


def learn(store: Path, examples: Path, model: Path, out: Path, *more: object) -> Result:
    command = ["learn", "--store", store, "--examples", examples, "--model", model, "--out", out]
    return CliRunner().invoke(app, [*map(str, command), *EMBEDDINGS, *map(str, more)])


def test_the_adapter_is_that_of_a_session_on_the_same_documents(
    store: Path, examples: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)  # the adapter names its model by a path from any folder
    out = tmp_path / "new" / "adapter"
    options = ("--k", 2, "--max-length", 200, "--lora-rank", 4, "--learning-rate", 1e-2)
    options += ("--epochs", 1)
    result = learn(store, examples, Path(model.name), out, "--dtype", "float32", *options)
    assert result.exit_code == 0, result.output
    assert "questions without an answer, left out: 1" in result.stdout
    assert f"adapter: {out}; answer with --model {out} --k 2" in result.stdout
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (printed["examples"], printed["learned"]) == (6, 6)
    monkeypatch.chdir(tmp_path)

    retriever = SIFTRetriever(
        vectorstore=Chroma("facts", WordEmbeddings(), persist_directory=str(store)), k=2
    )
    rows = [json.loads(line) for line in examples.read_text().splitlines()[:6]]
    documents, in_documents = [], 0
    for row in random.Random(0).sample(rows, 6):
        found = [document.page_content for document in retriever.invoke(row["question"])]
        prompt = "\n\n".join(["Use these documents to answer.", *found[::-1], row["question"]])
        turns = [{"role": "user", "content": prompt}]
        turns += [{"role": "assistant", "content": row["answer"]}]
        documents.append(Document("", metadata={"messages": turns}))
        in_documents += any(row["answer"] in text.split() for text in found)
    assert f"examples whose documents contain the answer: {in_documents}\n" in result.stdout
    config = FineTuneConfig(
        objective="answer", max_length=200, lora_rank=4, lora_alpha=4.0, learning_rate=1e-2
    )
    chat = ChatTestTimeFineTuned(model=str(model), dtype="float32", finetune=config)
    expected = chat.learn(documents).adapter
    assert expected is not None
    adapter = TrainedAdapter.load(out)
    assert adapter.weights.tolist() == pytest.approx(expected.weights.tolist(), abs=1e-6)
    assert printed["losses"] == pytest.approx(list(expected.training.losses), rel=1e-5)
    assert load_language_model(str(out), dtype="float32").tokenizer.chat_template == CHATML


def test_a_time_limit_ends_the_training(
    store: Path, examples: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    result = learn(store, examples, model, out, "--minutes", 1e-9)
    assert result.exit_code == 0, result.output
    assert "took 1 of 12 steps (2 on each of 6 examples)" in result.stdout
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (printed["learned"], printed["steps"]) == (1, 1)
    assert "the training ended early: the 1e-09 minutes were over (--minutes)" in result.stdout
    assert len(TrainedAdapter.load(out).training.losses) == 1
    result = learn(store, examples, model, tmp_path / "other", "--minutes", 0)
    assert "--minutes must be" in result.stderr


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_keeps_what_was_learned(
    store: Path, examples: Path, model: Path, tmp_path: Path, times: int
) -> None:
    report, end, ended = Ticket.report_step, Ticket.end_training, threading.Event()

    def interrupting(ticket: Ticket, step: Step) -> bool:
        if step.number == 2:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                assert ended.wait(60)
        return report(ticket, step)

    def ending(ticket: Ticket) -> None:
        end(ticket)
        ended.set()

    out = tmp_path / "adapter"
    with (
        mock.patch.object(Ticket, "report_step", interrupting),
        mock.patch.object(Ticket, "end_training", ending),
    ):
        result = learn(store, examples, model, out, "--epochs", 1)
    assert result.exit_code == 130, result.output
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if times == 2:
        assert "interrupted; nothing was written" in result.stderr
        assert not out.exists()
        return
    assert "the training ended early: Ctrl-C; the adapter keeps what was learned" in result.stdout
    printed = json.loads(result.stdout.splitlines()[-1])
    steps = printed["steps"]
    assert 2 <= steps < 6
    adapter = TrainedAdapter.load(out)
    assert list(adapter.training.losses) == printed["losses"]
    whole = learn(store, examples, model, tmp_path / "whole", "--epochs", 1)
    losses = json.loads(whole.stdout.splitlines()[-1])["losses"]
    assert printed["losses"] == pytest.approx(losses[:steps], rel=1e-5)


def test_an_example_has_its_documents_and_its_answer(store: Path) -> None:
    retriever = SIFTRetriever(
        vectorstore=Chroma("facts", WordEmbeddings(), persist_directory=str(store)), k=3
    )
    prompts = [
        Prompt("1", "river", answers=("a bank", "a bed")),
        Prompt("2", "mountain", choices=("low", "high"), correct=1),
    ]
    examples = {each.page_content: each.metadata for each in example_documents(prompts, retriever)}
    assert {text: fields["answer"] for text, fields in examples.items()} == {
        "river": "a bank",
        "mountain": "high",
    }
    for text, fields in examples.items():
        found = [document.page_content for document in retriever.invoke(text)]
        assert fields["context"] == found[::-1]  # the most informative is last, as in RAG
        assert len(fields["context"]) == 3
    with pytest.raises(ArgumentError, match="'3' has no answer: leave it out"):
        example_documents([*prompts, Prompt("3", "sea")], retriever)
    with pytest.raises(ArgumentError, match="epochs must be an integer of at least 1"):
        example_documents(prompts, retriever, epochs=0)
    with pytest.raises(
        ArgumentError, match=r"prompts must be a sequence of Prompt, got str at .*0"
    ):
        example_documents(["river"], retriever)
    for result in (None, "a text", ["a text"]):
        with pytest.raises(ArgumentError, match="the retriever's result must be a sequence of Doc"):
            example_documents(prompts, RunnableLambda(lambda _, result=result: result))
    made = example_documents((prompt for prompt in prompts), retriever)
    assert made == example_documents(prompts, retriever)


def test_each_epoch_has_all_examples_in_another_order(store: Path) -> None:
    retriever = SIFTRetriever(
        vectorstore=Chroma("facts", WordEmbeddings(), persist_directory=str(store)), k=1
    )
    prompts = [Prompt(str(n), f"river {n}", answers=("a bank",)) for n in range(9)]
    documents = example_documents(prompts, retriever, epochs=3)
    orders = [[document.id for document in documents[start : start + 9]] for start in (0, 9, 18)]
    assert orders[0] == [prompt.id for prompt in prompts]
    assert all(sorted(order) == orders[0] for order in orders)
    assert len({*map(tuple, orders)}) == 3
    assert example_documents(prompts, retriever, epochs=3) == documents


def test_examples_are_learned_as_often_as_asked(
    store: Path, examples: Path, model: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many.jsonl"
    many.write_text("".join((examples.read_text().splitlines(keepends=True)[:6] * 9)[:FEW]))
    below = tmp_path / "below.jsonl"
    below.write_text("".join(many.read_text().splitlines(keepends=True)[1:]))
    for name, given, option, epochs in (
        ("few", below, (), 2),
        ("thrice", examples, ("--epochs", 3), 3),
        ("many", many, (), 1),
    ):
        result = learn(store, given, model, tmp_path / name, "--k", 2, *option)
        assert result.exit_code == 0, result.output
        printed = json.loads(result.stdout.splitlines()[-1])
        count = {"few": FEW - 1, "many": FEW}.get(name, 6)
        assert (printed["examples"], printed["epochs"]) == (count, epochs)
        assert (printed["learned"], printed["steps"]) == (count, count * epochs)
        assert len(TrainedAdapter.load(tmp_path / name).training.losses) == count * epochs
        steps = count * epochs
        times = f"took {steps} of {steps} steps ({epochs} on each of {count} examples) in"
        assert (times if epochs > 1 else f"learned {FEW} of {FEW} examples in") in result.stdout
    result = learn(store, examples, model, tmp_path / "never", "--epochs", 0)
    assert result.exit_code == 2
    assert "--epochs must be an integer of at least 1, got 0" in result.stderr


def test_mistakes_are_named_before_anything_is_written(
    store: Path, examples: Path, model: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    out, none = tmp_path / "adapter", tmp_path / "none.jsonl"
    none.write_text('{"question": "What?"}\n')
    result = learn(store, none, model, out)
    assert result.exit_code == 2
    assert "none.jsonl has no question with an answer" in result.stderr
    result = learn(store, examples, tiny_model_path, out)
    assert result.exit_code == 2
    assert "has no chat template" in result.stderr
    for option, value in (("--k", 0), ("--fetch-k", 0), ("--kernel", "cosine")):
        result = learn(store, examples, model, out, option, value)
        assert result.exit_code == 2
        assert option[2:].replace("-", "_") in result.stderr
        assert "Traceback" not in result.output
    result = learn(store, examples, model, out, "--max-length", 0)
    assert result.exit_code == 2
    assert "max_length" in result.stderr
    quantized = mock.patch.object(LlamaForCausalLM, "quantization_method", "int8", create=True)
    with quantized:
        result = learn(store, examples, model, out)
    assert result.exit_code == 2
    assert "is quantized, and no command could load an adapter of it" in result.stderr
    file = tmp_path / "file"
    file.touch()
    result = learn(store, examples, model, file / "adapter")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert not out.exists()
    out.symlink_to(tmp_path / "nowhere")
    result = learn(store, examples, model, out)
    assert result.exit_code == 2
    assert "already exists: name another folder" in result.stderr


def test_mistakes_are_named_before_pytorch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text('{"question": "What?"}\n')
    command = [
        "learn",
        "--store",
        "store",
        "--examples",
        "none.jsonl",
        "--model",
        "m",
        "--out",
        "adapter",
    ]
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from langchain_sift.cli import app\n"
        f"result = CliRunner().invoke(app, {command})\n"
        "assert 'has no question with an answer' in result.stderr, result.output\n"
        "sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_the_other_commands_know_what_an_adapter_learned(
    store: Path, examples: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    assert learn(store, examples, model, out, "--k", 3, "--lora-rank", 2).exit_code == 0
    file = tmp_path / "asked.jsonl"
    known = json.loads(examples.read_text().splitlines()[0])
    changed = {**known, "id": "known", "question": known["question"].upper() + " ?"}
    new = {"id": "new", "question": "Who sings in the rain?", "answer": "Ann"}
    file.write_text(json.dumps(changed) + "\n" + json.dumps(new) + "\n")
    command = ["compare", "--store", store, "--prompts", file, "--protocol", "qa"]
    command += ["--model", out, "--methods", "rag:sift", "--max-tokens", 2]
    report = tmp_path / "report"
    result = CliRunner().invoke(app, [*map(str, command), "--out", str(report), *EMBEDDINGS])
    assert result.exit_code == 0, result.output
    results = json.loads((report / "results.json").read_text())
    assert results["leaks"] == {"known": "the model has learned this question"}
    rows = [json.loads(line) for line in (report / "results.jsonl").read_text().splitlines()]
    assert {row["k"] for row in rows if row["method"] == "rag:sift"} == {3}
    assert "the model has learned the questions of 1 of 2 prompts." in result.output
    assert known["question"] not in (out / "learned_examples.json").read_text()

    again = tmp_path / "again"
    file.write_text(json.dumps(new) + "\n")
    result = learn(store, file, out, again, "--k", 2, "--lora-rank", 2)
    assert result.exit_code == 0, result.output
    record = LearnedExamples.read(str(again))
    assert record is not None
    assert record.k == 2
    asked = {"old": known["question"], "new": new["question"], "other": "Who?"}
    assert record.leaks(asked).keys() == {"old", "new"}


def test_a_damaged_record_of_what_was_learned_is_named(tmp_path: Path) -> None:
    assert LearnedExamples.read(str(tmp_path)) is None
    assert LearnedExamples.read(None) is None
    file = tmp_path / "learned_examples.json"
    for text in (
        *("{", "[]", '{"k": "many", "digests": []}', '{"k": 2}'),
        *('{"k": 0, "digests": []}', '{"k": 2, "digests": "abc"}'),
    ):
        file.write_text(text)
        with pytest.raises(ArgumentError, match=r"learned_examples\.json is damaged: learn"):
            LearnedExamples.read(str(tmp_path))


def test_a_chat_template_is_kept_with_the_adapter(
    store: Path, examples: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(CHATML)
    out = tmp_path / "adapter"
    options = ("--lora-rank", 2, "--chat-template", template)
    result = learn(store, examples, tiny_model_path, out, *options)
    assert result.exit_code == 0, result.output
    adapted = load_language_model(str(out))
    assert adapted.tokenizer.chat_template == CHATML
    assert not load_language_model(str(tiny_model_path)).tokenizer.chat_template
    # The adapter can be learned from, and its adapter takes the template from it.
    again = tmp_path / "again"
    assert learn(store, examples, out, again, "--lora-rank", 2).exit_code == 0
    assert load_language_model(str(again)).tokenizer.chat_template == CHATML


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("  ", "is empty"),
        ("{% for %}", "chat template refuses the conversation"),
        ("Question:", "does not write the content of the messages"),
    ],
)
def test_a_wrong_chat_template_is_named(
    content: str | None, message: str, store: Path, examples: Path, tiny_model_path: Path
) -> None:
    tmp_path = examples.parent
    template = tmp_path / "template.jinja"
    if content is not None:
        template.write_text(content)
    out = tmp_path / "adapter"
    result = learn(store, examples, tiny_model_path, out, "--chat-template", template)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not out.exists()
