"""Answer a prompt in a chain, after learning from the documents that inform it.

python examples/02_answer.py
"""

from pathlib import Path

from langchain_chroma import Chroma
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from langchain_sift import (
    FineTuneConfig,
    HiddenStateEmbeddings,
    SIFTRetriever,
    TestTimeFineTunedLLM,
)
from langchain_sift.indexing import read_corpus

DEMO = Path(__file__).parent / "demo"

documents = read_corpus(DEMO / "corpus" / "nih_grants.jsonl.gz")
embeddings = HiddenStateEmbeddings(model=str(DEMO / "model")).fit(
    [document.page_content for document in documents[:256]]
)
store = Chroma.from_documents(
    documents, embeddings, collection_metadata=embeddings.collection_metadata()
)

llm = TestTimeFineTunedLLM(
    model=str(DEMO / "model"),
    retriever=SIFTRetriever(vectorstore=store, k=16, noise_variance=0.1),
    # The recipe for this very small model; the defaults are for models of a billion parameters.
    finetune=FineTuneConfig(lora_rank=16, lora_alpha=16, learning_rate=4e-3, max_length=512),
    max_tokens=40,
)
prompt = PromptTemplate.from_template("DESCRIPTION (provided by applicant): {beginning}")
chain = prompt | llm | StrOutputParser()
question = {"beginning": "The long-term goal of this project is to"}

print("after learning: ", end="", flush=True)
for piece in chain.stream(question):
    print(piece, end="", flush=True)

text = prompt.format(**question)
print(f"\n\nthe base model:{llm.invoke(text, documents=[])}")
record = llm.generate([text]).generations[0][0].generation_info["ttft"]
print(f"\nlearned from {record['steps']} documents in {record['seconds']['training']:.1f} s:")
print(", ".join(record["documents"]))
