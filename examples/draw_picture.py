"""Draw the picture of the README: the documents that two retrievers choose for a prompt.

    make demo && python examples/draw_picture.py

The prompt is from the demo. Left: LangChain's `store.as_retriever()`. Right: `SIFTRetriever` on
the same store.
"""

import textwrap
from pathlib import Path

from langchain_core.documents import Document
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from langchain_sift import SIFTRetriever
from langchain_sift.comparison import read_prompts
from langchain_sift.indexing import index_documents, read_corpus
from langchain_sift.ttft import load_language_model

HERE = Path(__file__).parent
PROMPT = "nih_grants-00986"
K = 6
NEW, REPEAT, INK = "#dcebf7", "#f6d5c3", "#1f2933"


def opening(text: str) -> str:
    """Return the start of a document, without the heading of its form."""
    text = " ".join(text.split()).removeprefix("DESCRIPTION (provided by applicant): ")
    return "\n".join(textwrap.wrap(text, 58)[:2]) + " …"


def draw(axes: Axes, title: str, documents: list[Document]) -> None:
    """Draw documents as cards in the order of choice; repeated texts have another color."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(-K, 0.0)
    axes.set_title(title, loc="left", fontsize=10, color=INK, family="monospace")
    seen: dict[str, int] = {}
    for index, document in enumerate(documents):
        first = seen.setdefault(document.page_content, index)
        is_repeat = first != index
        box = FancyBboxPatch(
            (0.02, -index - 0.83),
            0.96,
            0.76,
            boxstyle="round,pad=0.0,rounding_size=0.04",
            facecolor=REPEAT if is_repeat else NEW,
            edgecolor="none",
        )
        axes.add_patch(box)
        label = f"{index + 1}" + (f"  the same text as {first + 1}" if is_repeat else "")
        axes.text(0.045, -index - 0.24, label, fontsize=7.5, color=INK, weight="bold", va="center")
        axes.text(
            0.045, -index - 0.55, opening(document.page_content), fontsize=7, color=INK, va="center"
        )


def main() -> None:
    """Retrieve with both retrievers and draw the results."""
    rcParams["svg.hashsalt"] = "langchain-sift"
    model = load_language_model(str(HERE / "demo" / "model"))
    store = index_documents(read_corpus(HERE / "demo" / "corpus"), model, Path("build/demo/chroma"))
    (prompt,) = (p for p in read_prompts(HERE / "demo" / "prompts.jsonl") if p.id == PROMPT)
    figure = Figure(figsize=(8.6, 4.7), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    nearest = store.as_retriever(search_kwargs={"k": K})
    draw(left, f'store.as_retriever(search_kwargs={{"k": {K}}})', nearest.invoke(prompt.text))
    sift = SIFTRetriever(vectorstore=store, k=K)
    draw(right, f"SIFTRetriever(vectorstore=store, k={K})", sift.invoke(prompt.text))
    figure.suptitle(f"Prompt: “{prompt.text.splitlines()[0]}”", fontsize=10.5, color=INK)
    figure.savefig(HERE / "picture.svg", metadata={"Date": None})
    figure.savefig("build/picture.png", dpi=150)


if __name__ == "__main__":
    main()
