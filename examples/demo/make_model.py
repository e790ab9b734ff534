"""Train the language model of the demo and its tokenizer from scratch.

The model has the role of the paper's base models: it was trained on English, but not on the domains
of the demo's store. Its training data are seven other domains of a small multi-domain corpus
(`TRAINING_DOMAINS`; memory split only). The ids and sources of all training documents are written
to `trained_on.json.gz`, so that a test can prove that none of them is in the store.

    python examples/demo/make_model.py --data DIR_WITH_JSONL_GZ --out examples/demo/model

Other domains and sizes give the base models of `examples/evidence`:

    python examples/demo/make_model.py --data DIR --domains nih_grants,github --layers 4 --out DIR

Takes about an hour and a half on two CPU cores with AMX bfloat16. Runs are reproducible on the
same machine and build of PyTorch. Muon trains the hidden weight matrices, AdamW all other weights.
Weights and activations are bfloat16, with float32 master weights.
"""

import argparse
import gzip
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TRAINING_DOMAINS = (
    "wikipedia",
    "web_us_gov",
    "latex_science",
    "pubmed_central",
    "stack_exchange",
    "dev_discussion",
    "freelaw",
)
END = "<|endoftext|>"
VOCABULARY = 4096
# The split of Llama 3: words, single digits up to three, punctuation, runs of white space.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# (fraction of the tokens, tokens per row, rows per step): short rows first, because they are
# faster; the last stage trains the context length that retrieval-augmented prompts need.
STAGES = ((0.8, 512, 8), (0.2, 2048, 2))
MUON_LEARNING_RATE = 3e-3
ADAMW_LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
DECAY_SHARE = 0.35  # last fraction of training, in which the learning rate falls to zero


def read_documents(data: Path, domains: Sequence[str], split: str) -> list[dict[str, str]]:
    """Return the documents of a split of the domains."""
    documents = []
    for domain in domains:
        with gzip.open(data / f"{domain}.jsonl.gz", "rt", encoding="utf-8") as lines:
            documents += [row for row in map(json.loads, lines) if row["split"] == split]
    return documents


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    # As with Llama's tokenizers, a document starts with the token that ends the previous one.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END
    )


def build_model(width: int, layers: int) -> LlamaForCausalLM:
    """Return a Llama with random weights; width 256 and 6 layers give 5.9 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=width * 11 // 4,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def token_stream(
    documents: list[dict[str, str]], tokenizer: PreTrainedTokenizerFast, seed: int
) -> Iterator[np.ndarray]:
    """Yield the tokens of each source without end, in a new random order for each epoch.

    The documents of a source stay in order, so that a long row contains related text and the model
    is trained to use its context.
    """
    by_source: dict[str, list[np.ndarray]] = {}
    for document in documents:
        tokens = np.array(tokenizer(document["text"])["input_ids"], dtype=np.int64)
        by_source.setdefault(document["source"], []).append(tokens)
    sources = [np.concatenate(parts) for parts in by_source.values()]
    rng = np.random.default_rng(seed)
    while True:
        for index in rng.permutation(len(sources)):
            yield sources[index]


def rows(stream: Iterator[np.ndarray], length: int, count: int) -> Iterator[torch.Tensor]:
    """Cut the stream into batches of `count` rows of `length + 1` tokens."""
    buffer = np.empty(0, dtype=np.int64)
    wanted = count * length + 1
    while True:
        parts = [buffer]
        size = len(buffer)
        while size < wanted:
            parts.append(next(stream))
            size += len(parts[-1])
        buffer = np.concatenate(parts)
        batch, buffer = buffer[:wanted], buffer[wanted - 1 :]
        starts = np.arange(count)[:, None] * length + np.arange(length + 1)
        yield torch.from_numpy(batch[starts])


def loss_of(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean loss, in nats per token."""
    hidden = model.model(batch[:, :-1]).last_hidden_state
    logits = hidden.reshape(-1, hidden.shape[-1]) @ model.lm_head.weight.T
    return F.cross_entropy(logits.float(), batch[:, 1:].reshape(-1))


def schedule(progress: float, step: int) -> float:
    """Return the factor of the learning rate: warm-up, constant, linear decay to zero."""
    return min((step + 1) / WARMUP_STEPS, (1.0 - progress) / DECAY_SHARE, 1.0)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model as bfloat16 safetensors with its tokenizer."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def train(
    model: LlamaForCausalLM,
    stream: Iterator[np.ndarray],
    held_out: torch.Tensor,
    tokens: int,
    checkpoint: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> list[dict[str, float]]:
    """Train the model in place.

    Returns:
        The log: tokens, learning-rate factor, losses and seconds.
    """
    parameters = list(model.parameters())
    masters = [p.detach().float().clone() for p in parameters]
    model.to(torch.bfloat16)
    embedding = id(model.model.embed_tokens.weight)
    hidden = [
        m for p, m in zip(parameters, masters, strict=True) if p.ndim == 2 and id(p) != embedding
    ]
    other = [
        m for p, m in zip(parameters, masters, strict=True) if p.ndim != 2 or id(p) == embedding
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            hidden, lr=MUON_LEARNING_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            other, lr=ADAMW_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]
    peaks = (MUON_LEARNING_RATE, ADAMW_LEARNING_RATE)
    log: list[dict[str, float]] = []
    seen, step, began, recent = 0, 0, time.monotonic(), []
    for share, length, count in STAGES:
        torch.compiler.reset()
        compiled = torch.compile(loss_of)
        batches = rows(stream, length, count)
        stage_end = seen + share * tokens
        while seen < stage_end:
            factor = schedule(seen / tokens, step)
            loss = compiled(model, next(batches))
            loss.backward()
            for parameter, master in zip(parameters, masters, strict=True):
                master.grad = parameter.grad.float()
                parameter.grad = None
            torch.nn.utils.clip_grad_norm_(masters, 1.0)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
                optimizer.step()
            with torch.no_grad():
                for parameter, master in zip(parameters, masters, strict=True):
                    parameter.copy_(master)
            seen += length * count
            step += 1
            recent.append(loss.item())
            if step % 200 == 0:
                with torch.no_grad():
                    held_out_loss = loss_of(model, held_out).item()
                entry = {
                    "tokens": seen,
                    "learning_rate_factor": round(factor, 4),
                    "loss": round(sum(recent) / len(recent), 4),
                    "held_out_loss": round(held_out_loss, 4),
                    "seconds": round(time.monotonic() - began),
                }
                recent = []
                log.append(entry)
                print(json.dumps(entry), flush=True)
            if step % 1000 == 0:
                save(model, tokenizer, checkpoint)
    return log


def main() -> None:
    """Train the tokenizer and the model, and write them with a record of their training data."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of DOMAIN.jsonl.gz files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument(
        "--domains", default=",".join(TRAINING_DOMAINS), help="comma-separated, to train on"
    )
    parser.add_argument("--width", type=int, default=256, help="of the model, a multiple of 64")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=26_000_000, help="tokens to train on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    domains = arguments.domains.split(",")
    documents = read_documents(arguments.data, domains, "memory")
    tokenizer = train_tokenizer([document["text"] for document in documents])
    validation = read_documents(arguments.data, domains, "validation")
    held_out = next(rows(token_stream(validation, tokenizer, 1), 512, 32))
    model = build_model(arguments.width, arguments.layers)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(documents)} documents")
    stream = token_stream(documents, tokenizer, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = train(model, stream, held_out, arguments.tokens, arguments.out, tokenizer)
    save(model, tokenizer, arguments.out)
    record = {
        "ids": sorted(document["id"] for document in documents),
        "sources": sorted({document["source"] for document in documents}),
        "domains": domains,
        "log": log,
    }
    with gzip.GzipFile(arguments.out / "trained_on.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps(record).encode())
    print(
        f"held-out loss {log[-1]['held_out_loss']:.3f} nats per token = "
        f"{log[-1]['held_out_loss'] / math.log(2):.3f} bits per token"
    )


if __name__ == "__main__":
    main()
