"""Extract the corpus and the prompts of the demo from a larger multi-domain corpus.

    python examples/demo/make_corpus.py --data DIR_WITH_JSONL_GZ

Documents: the memory split of three domains that the demo's model was not trained on. Prompts: from
the validation split, each from a different source, drawn with a seed. As many prompts from other
sources are for tuning, so that no setting is chosen on the prompts of the demo.
"""

import argparse
import gzip
import json
from pathlib import Path

import numpy as np

DOMAINS = ("nih_grants", "us_patents", "github")
PROMPTS_PER_DOMAIN = 6
HERE = Path(__file__).parent


def read(data: Path, domain: str) -> list[dict[str, str]]:
    """Return the documents of a domain, without those under the GNU General Public License."""
    with gzip.open(data / f"{domain}.jsonl.gz", "rt", encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    return [d for d in documents if "GNU General Public License" not in d["text"]]


def write_lines(path: Path, documents: list[dict[str, str]]) -> None:
    """Write documents as lines of JSON, compressed if the name ends in .gz; reproducible bytes."""
    keys = ("id", "domain", "source", "text")
    rows = [{key: document[key] for key in keys} for document in documents]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
            file.write(content)
    else:
        path.write_bytes(content)


def draw(documents: list[dict[str, str]], seed: int) -> list[dict[str, str]]:
    """Return `2 * PROMPTS_PER_DOMAIN` documents of different sources, in random order."""
    order = np.random.default_rng(seed).permutation(len(documents))
    by_source = {documents[i]["source"]: documents[i] for i in order}
    return list(by_source.values())[: 2 * PROMPTS_PER_DOMAIN]


def main() -> None:
    """Write corpus, prompts and tuning prompts into the folder of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of DOMAIN.jsonl.gz files")
    data = parser.parse_args().data
    prompts, tuning = [], []
    (HERE / "corpus").mkdir(exist_ok=True)
    for seed, domain in enumerate(DOMAINS):
        documents = read(data, domain)
        memory = [document for document in documents if document["split"] == "memory"]
        validation = [document for document in documents if document["split"] == "validation"]
        write_lines(HERE / "corpus" / f"{domain}.jsonl.gz", memory)
        drawn = draw(validation, seed)
        prompts += drawn[:PROMPTS_PER_DOMAIN]
        tuning += drawn[PROMPTS_PER_DOMAIN:]
        print(f"{domain}: {len(memory)} documents, {len(drawn)} prompts")
    write_lines(HERE / "prompts.jsonl", prompts)
    write_lines(HERE / "tuning_prompts.jsonl", tuning)


if __name__ == "__main__":
    main()
