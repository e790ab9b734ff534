"""Ask which serves these prompts: the base model, RAG or test-time fine-tuning.

    python examples/03_compare.py

The same as `langchain-sift compare`, from Python, on three prompts and a smaller store.
"""

from pathlib import Path
from tempfile import mkdtemp

from langchain_sift import FineTuneConfig, compare
from langchain_sift.comparison import read_prompts
from langchain_sift.indexing import index_documents, read_corpus
from langchain_sift.ttft import load_language_model

DEMO = Path(__file__).parent / "demo"
OUT = Path(mkdtemp())

model = load_language_model(str(DEMO / "model"))
store = index_documents(read_corpus(DEMO / "corpus" / "nih_grants.jsonl.gz"), model, OUT / "chroma")
report = compare(
    read_prompts(DEMO / "prompts.jsonl")[:3],
    ("base", "rag:sift", "ttft:nearest", "ttft:sift"),
    model=model,
    vectorstore=store,
    noise_variance=0.1,
    finetune=FineTuneConfig(lora_rank=16, lora_alpha=16, learning_rate=4e-3, max_length=512),
    on_row=lambda row: print(
        f"{row.prompt}  {row.method:<13} {row.bits / row.bytes:.3f} bits/byte"
    ),
)
for method, summary in report.summary("document").items():
    print(f"{method:<13} {summary.percent_of_base:5.1f} % of base")
