"""Return parents of chosen chunks, as LangChain's `ParentDocumentRetriever` stores them."""

from __future__ import annotations

import asyncio
import threading
import warnings

import numpy as np
import pytest
from langchain_classic.retrievers import MultiVectorRetriever, ParentDocumentRetriever
from langchain_classic.retrievers.multi_vector import SearchType
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.stores import InMemoryByteStore, InMemoryStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import CharacterTextSplitter
from pydantic import ValidationError
from reference import retrieval
from unit_tests.stores.real_stores import (
    KINDS,
    QUERY,
    CountingEmbeddings,
    condition,
    make_chroma,
    make_store,
    texts_of,
    unit,
)

from langchain_sift import SIFTRetriever
from langchain_sift.errors import ArgumentError, StoreError, StoreTimeout

pytestmark = pytest.mark.slow

PARENTS = [
    Document(
        page_content="\n\n".join(f"chunk {part} of {number}" for part in range(number % 4 + 1)),
        metadata={"number": number, "source": f"file {number % 3}", "trust": 1 / (1 + number % 5)},
    )
    for number in range(12)
]
IDS = [f"parent-{number}" for number in range(len(PARENTS))]
SPLITTER = CharacterTextSplitter(separator="\n\n", chunk_size=15, chunk_overlap=0)
LINEAR = {"kernel": "linear", "noise_variance": 0.3}


@pytest.fixture
def embeddings():
    return CountingEmbeddings()


def filled(store, **settings):
    settings.setdefault("docstore", InMemoryStore())
    retriever = ParentDocumentRetriever(vectorstore=store, child_splitter=SPLITTER, **settings)
    retriever.add_documents(PARENTS, ids=IDS)
    return retriever


@pytest.fixture(params=KINDS)
def theirs(request, embeddings, tmp_path):
    """Return LangChain's retriever of parents."""
    return filled(make_store(request.param, embeddings, tmp_path))


@pytest.fixture
def in_memory(embeddings):
    return filled(InMemoryVectorStore(embeddings))


def choice_by_hand(embeddings, *, k, query=QUERY, parents=range(12)):
    """Choose among the nearest chunk of each parent; return the parents' numbers."""
    vector = unit(embeddings.vector(query))
    best = []
    for number in parents:
        chunks = unit(embeddings.vectors(PARENTS[number].page_content.split("\n\n")))
        best.append(chunks[np.argmax(chunks @ vector)])
    noise_variance = LINEAR["noise_variance"]
    chosen, _ = retrieval(vector[None], np.array(best), k=k, noise_variance=noise_variance)
    return [list(parents)[row] for row in chosen]


def numbers(documents):
    return [document.metadata["number"] for document in documents]


@pytest.mark.parametrize("k", [1, 4, 12, 30])
async def test_k_different_parents_come_in_the_order_of_choice(theirs, embeddings, k):
    retriever = SIFTRetriever.from_parent_retriever(theirs, k=k, **LINEAR)
    expected = choice_by_hand(embeddings, k=min(k, 12))
    found = retriever.invoke(QUERY)
    assert numbers(found) == expected
    assert texts_of(found) == [PARENTS[number].page_content for number in expected]
    assert [document.id for document in found] == [IDS[number] for number in expected]
    assert await retriever.ainvoke(QUERY) == found
    assert retriever.batch([QUERY, "why?"])[0] == found
    both = await retriever.abatch([QUERY, "why?"])
    assert both[0] == found
    assert numbers(both[1]) == choice_by_hand(embeddings, k=min(k, 12), query="why?")


def test_scores_belong_to_the_parents_and_name_the_chunks(theirs, embeddings):
    retriever = SIFTRetriever.from_parent_retriever(theirs, k=4, gain_key="gain", **LINEAR)
    retrieval = retriever.retrieve_with_scores(QUERY)
    assert retrieval.candidates == 12
    assert retrieval.missing_parents == ()
    vector = unit(embeddings.vector(QUERY))
    for choice in retrieval.choices:
        assert choice.document.metadata == PARENTS[choice.document.metadata["number"]].metadata
        assert choice.id == choice.document.id == choice.chunk.metadata["doc_id"]
        assert choice.chunk.page_content in choice.document.page_content
        cosine = vector @ unit(embeddings.vector(choice.chunk.page_content))
        assert choice.similarity == pytest.approx(cosine, abs=1e-6)
    gains = [document.metadata["gain"] for document in retriever.invoke(QUERY)]
    assert gains == pytest.approx([choice.gain for choice in retrieval.choices])
    assert all("gain" not in parent.metadata for _, parent in stored(theirs))


def stored(theirs):
    return [(id_, theirs.docstore.mget([id_])[0]) for id_ in IDS]


def test_the_documents_are_copies(in_memory):
    retriever = SIFTRetriever.from_parent_retriever(in_memory)
    retriever.invoke(QUERY)[0].metadata["number"] = "changed"
    assert "changed" not in numbers(retriever.invoke(QUERY))


@pytest.mark.parametrize(
    "settings",
    [
        {"child_metadata_fields": ["source"]},
        {"id_key": "belongs_to"},
        {"docstore": None, "byte_store": InMemoryByteStore()},
        {
            "parent_splitter": CharacterTextSplitter(
                separator="\n\n", chunk_size=31, chunk_overlap=0
            )
        },
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_form_of_langchains_retriever_is_taken(embeddings, settings):
    theirs = ParentDocumentRetriever(
        vectorstore=make_chroma(embeddings),
        child_splitter=SPLITTER,
        search_kwargs={"k": 100},
        **{"docstore": InMemoryStore(), **settings},
    )
    theirs.add_documents(PARENTS)
    ours = SIFTRetriever.from_parent_retriever(theirs)
    assert sorted(texts_of(ours.invoke(QUERY))) == sorted(texts_of(theirs.invoke(QUERY)))


def test_k_counts_parents_where_langchains_counts_chunks(in_memory):
    theirs = in_memory.model_copy(update={"search_kwargs": {"k": 12}})
    ours = SIFTRetriever.from_parent_retriever(theirs)
    assert len(ours.invoke(QUERY)) == 12 > len(theirs.invoke(QUERY))


def test_settings_and_thresholds_are_inherited(embeddings):
    theirs = filled(
        make_chroma(embeddings, space="cosine"),
        search_type="similarity_score_threshold",
        search_kwargs={"k": 3, "score_threshold": 0.6},
        tags=["theirs"],
    )
    ours = SIFTRetriever.from_parent_retriever(theirs)
    assert ours.min_similarity == pytest.approx(0.6)
    assert (ours.search_kwargs, ours.tags) == ({"k": 3}, ["theirs"])
    similar = theirs.model_copy(update={"search_type": SearchType.similarity})
    with pytest.raises(
        ArgumentError, match=r"score_threshold 0\.6, for search_type 'similarity': "
    ):
        SIFTRetriever.from_parent_retriever(similar)


def test_chunks_of_several_vectors_have_parents_too(embeddings):
    theirs = MultiVectorRetriever(
        vectorstore=InMemoryVectorStore(embeddings), docstore=InMemoryStore(), id_key="of"
    )
    summaries = [Document(page_content=f"summary {n}", metadata={"of": IDS[n]}) for n in (1, 2)]
    theirs.vectorstore.add_documents(summaries)
    theirs.docstore.mset([(IDS[n], PARENTS[n]) for n in (1, 2)])
    found = SIFTRetriever.from_parent_retriever(theirs).invoke(QUERY)
    assert sorted(numbers(found)) == [1, 2]


def test_a_chunk_without_a_parent_stands_for_itself(in_memory):
    in_memory.vectorstore.add_texts(["loner"], [{"number": 99}], ids=["loner"])
    retriever = SIFTRetriever.from_parent_retriever(in_memory, k=13)
    retrieval = retriever.retrieve_with_scores(QUERY)
    (loner,) = [choice for choice in retrieval.choices if choice.id == "loner"]
    assert loner.document == loner.chunk
    assert retrieval.missing_parents == ()


@pytest.mark.parametrize("settings", [{}, {"max_tokens": 10_000}])
async def test_the_chunk_of_a_missing_parent_is_returned_and_reported(in_memory, settings):
    in_memory.docstore.mdelete([IDS[3], IDS[5]])
    retriever = SIFTRetriever.from_parent_retriever(in_memory, k=12, **settings)
    with pytest.warns(UserWarning, match="lacks the parents of 2 chosen chunks"):
        retrieval = retriever.retrieve_with_scores(QUERY)
    assert set(retrieval.missing_parents) == {IDS[3], IDS[5]}
    orphans = [c for c in retrieval.choices if c.chunk.metadata["doc_id"] in {IDS[3], IDS[5]}]
    assert [choice.document for choice in orphans] == [choice.chunk for choice in orphans]
    assert len(retrieval.choices) == 12
    with pytest.warns(UserWarning, match="lacks"):
        events = [
            event["data"]
            async for event in retriever.astream_events(QUERY, version="v2")
            if event["name"] == "sift_selection"
        ]
    assert set(events[0]["missing_parents"]) == {IDS[3], IDS[5]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        present = [number for number in range(12) if number not in {3, 5}]
        (one,) = retriever.invoke(QUERY, k=1, filter=lambda d: d.metadata["number"] in present)
    assert one.metadata["number"] in present


def test_the_budget_counts_the_tokens_of_the_parents(theirs):
    def words(text):
        return len(text.split())

    retriever = SIFTRetriever.from_parent_retriever(
        theirs, max_tokens=30, token_counter=words, **LINEAR
    )
    found = retriever.invoke(QUERY)
    spent = sum(words(document.page_content) for document in found)
    left = 30 - spent
    assert left >= 0
    chosen = set(numbers(found))
    rest = [p for p in PARENTS if p.metadata["number"] not in chosen]
    assert all(words(parent.page_content) > left for parent in rest)


def test_sources_and_scores_are_those_of_the_parents(embeddings):
    theirs = filled(make_chroma(embeddings), child_metadata_fields=[])
    retriever = SIFTRetriever.from_parent_retriever(theirs, k=12)
    sources = [d.metadata["source"] for d in retriever.invoke(QUERY, max_per_source=2)]
    assert sorted(sources) == [f"file {number}" for number in (0, 0, 1, 1, 2, 2)]
    by_trust = retriever.invoke(QUERY, score_key="trust", noise_variance=1e6)
    assert len(by_trust) == 12
    assert numbers(by_trust) != numbers(retriever.invoke(QUERY, noise_variance=1e6))


def test_filters_floors_repeats_and_other_searches_work_with_parents(embeddings, tmp_path):
    for kind in KINDS:
        theirs = filled(make_store(kind, embeddings, tmp_path / kind))
        retriever = SIFTRetriever.from_parent_retriever(theirs, k=12)
        some = retriever.invoke(QUERY, filter=condition(kind, "source", "file 1"))
        assert sorted(numbers(some)) == [1, 4, 7, 10]
        assert retriever.invoke(QUERY, min_similarity=0.999) == []
        repeated = retriever.invoke(QUERY, replace=True, k=20)
        assert len(repeated) == 20
        everything = retriever.invoke(QUERY, candidate_search="exhaustive")
        assert sorted(numbers(everything)) == list(range(12))
        for search_type in ("similarity", "mmr", "uncertainty_sampling"):
            other = SIFTRetriever.from_parent_retriever(theirs, k=5, search_type=search_type)
            assert len(set(numbers(other.invoke(QUERY)))) == 5


def test_a_second_retriever_finds_chunks_of_parents(in_memory):
    last = Document(page_content="chunk 3 of 11")
    retriever = SIFTRetriever.from_parent_retriever(
        in_memory, k=3, fetch_k=3, second_retriever=RunnableLambda(lambda _: [last] * 2)
    )
    assert 11 in numbers(retriever.invoke(QUERY, noise_variance=1e-6, k=12, fetch_k=40))


def test_several_vectors_of_a_query_share_the_best_chunks(in_memory, embeddings):
    retriever = SIFTRetriever.from_parent_retriever(in_memory, k=5)
    vectors = embeddings.vectors([QUERY, "why?"]).tolist()
    found = retriever.retrieve_by_vectors(vectors)
    assert len({choice.id for choice in found.choices}) == 5


# Faults


class Broken(InMemoryStore):
    """A docstore that fails."""

    error: Exception = LookupError("secret text")

    def mget(self, keys):
        del keys
        raise self.error


def test_a_failing_docstore_is_named(in_memory):
    retriever = SIFTRetriever(vectorstore=in_memory.vectorstore, docstore=Broken())
    with pytest.raises(StoreError, match="docstore Broken: reading failed: LookupError") as raised:
        retriever.invoke(QUERY)
    assert "secret" not in str(raised.value)


@pytest.mark.slow
async def test_a_slow_docstore_ends_at_the_timeout(in_memory):
    ended = threading.Event()

    class Slow(InMemoryStore):
        def mget(self, keys):
            ended.wait(60)
            return super().mget(keys)

        async def amget(self, keys):
            await asyncio.sleep(60)
            return self.mget(keys)

    # Enough for the store also on a busy machine.
    retriever = SIFTRetriever(vectorstore=in_memory.vectorstore, docstore=Slow(), timeout=2.0)
    with pytest.raises(StoreTimeout, match="docstore Slow: no answer"):
        retriever.invoke(QUERY)
    with pytest.raises(StoreTimeout, match="docstore Slow: no answer"):
        await retriever.ainvoke(QUERY)
    ended.set()


def test_a_docstore_of_bytes_is_refused_with_the_cure(in_memory):
    docstore = InMemoryStore()
    docstore.mset([(id_, b"bytes") for id_ in IDS])
    retriever = SIFTRetriever(vectorstore=in_memory.vectorstore, docstore=docstore)
    with pytest.raises(StoreError, match=r"holds a bytes.*create_kv_docstore"):
        retriever.invoke(QUERY)


def test_bad_settings_are_refused(in_memory):
    store = in_memory.vectorstore
    with pytest.raises(ValidationError, match="takes no docstore"):
        SIFTRetriever(
            vectorstore=store,
            docstore=InMemoryStore(),
            candidate_search="residual",
            kernel="linear",
        )
    with pytest.raises(ValidationError, match="parent_id_key must be a key"):
        SIFTRetriever(vectorstore=store, docstore=InMemoryStore(), parent_id_key="")
    with pytest.raises(ArgumentError, match="must be a ParentDocumentRetriever"):
        SIFTRetriever.from_parent_retriever(store.as_retriever())
    store.add_texts(["odd"], [{"doc_id": ["a", "list"]}])
    with pytest.raises(ArgumentError, match="must be a string, got a list"):
        SIFTRetriever.from_parent_retriever(in_memory).invoke(QUERY)


async def test_a_batch_reads_the_docstore_once(in_memory):
    calls = []

    class Counting(InMemoryStore):
        def mget(self, keys):
            calls.append(list(keys))
            return super().mget(keys)

    docstore = Counting()
    docstore.mset(list(zip(IDS, PARENTS, strict=True)))
    retriever = SIFTRetriever(vectorstore=in_memory.vectorstore, docstore=docstore, k=2)
    lists = retriever.batch([QUERY, "why?", "when?"])
    assert len(calls) == 1
    assert set(calls[0]) == {document.id for each in lists for document in each}
    assert await retriever.abatch([QUERY, "why?", "when?"]) == lists
    assert len(calls) == 2
