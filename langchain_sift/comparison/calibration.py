"""Which λ', learning rate and number of documents suit these documents and this model?

Documents of the store are held out and predicted after fine-tuning on others. Which λ' are worth
a fine-tuning is decided first, without any, by a Gaussian process; among those, and the learning
rates, successive halving decides.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_sift.comparison.prompts import Prompt
from langchain_sift.comparison.protocols import PROTOCOLS, ScoredText
from langchain_sift.comparison.saved_settings import CalibratedSettings
from langchain_sift.config import FineTuneConfig
from langchain_sift.errors import ArgumentError, CorpusError, StoreError
from langchain_sift.selection import select
from langchain_sift.stores import StoreAdapter, embed_query, fetch_candidates
from langchain_sift.stores.adapter import Page, Rows, adapter_for
from langchain_sift.stores.calls import run
from langchain_sift.stores.candidates import unit_vector
from langchain_sift.ttft import (
    Engine,
    LanguageModel,
    Outcome,
    Request,
    Scoring,
    load_language_model,
    shared_engine,
)
from langchain_sift.ttft.tokens import plain_tokens

Array = npt.NDArray[np.float64]

NOISE_VARIANCES = tuple(float(f"{value:.3g}") for value in np.geomspace(1e-3, 1e1, 9))
LEARNING_RATES = (2.5e-4, 1e-3, 4e-3)
CALIBRATION_PROTOCOLS = ("document", "continuation")
"""Those that need nothing but a text."""

FEWEST_DOCUMENTS = 10
_PAGE_SIZE = 300
# For each prompt that is needed, so many texts are looked at: some are too short.
_SPARE = 4
# Handed in together, so that the engine trains several at once.
_TRIALS_AT_ONCE = 32
# Of a text, for the surrogate.
_SURROGATE_TOKENS = 512


# --- what was found -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """How well some settings did."""

    percent_of_base: float
    """Bits of the held-out texts in percent of the base model's, mean over prompts."""

    standard_error: float
    """Over prompts; NaN for a single one."""

    difference: float
    """Points more than the settings that were chosen, on the same prompts."""

    standard_error_of_difference: float
    prompts: int


@dataclass(frozen=True, slots=True)
class NoisePoint:
    """One λ'."""

    noise_variance: float
    surrogate: float
    """Log likelihood of what the texts say, given their embeddings, in nats per number."""

    distinct_documents: float
    """How many different documents it chooses, mean over prompts."""

    measured: Estimate | None
    """At the chosen learning rate; None where the surrogate spoke against it."""


@dataclass(frozen=True, slots=True)
class RatePoint:
    """One learning rate, with the chosen λ'."""

    learning_rate: float
    measured: Estimate


@dataclass(frozen=True, slots=True)
class CountPoint:
    """One number of documents, with the chosen λ' and learning rate."""

    k: int
    measured: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """The settings that were chosen, and what speaks for them."""

    settings: CalibratedSettings
    noise_variances: tuple[NoisePoint, ...]
    learning_rates: tuple[RatePoint, ...]
    counts: tuple[CountPoint, ...]
    held_out: int
    """Prompts that there were."""

    steps: int
    """Gradient steps that were taken."""

    grid_steps: int
    """Gradient steps of fine-tuning for every prompt with every λ' and learning rate."""

    notes: tuple[str, ...]
    """What to be aware of."""

    @property
    def chosen(self) -> Estimate:
        """How well the chosen settings did."""
        return next(p.measured for p in self.counts if p.k == self.settings.k)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, NaN as None."""
        found = {**asdict(self), "settings": self.settings.to_json()}
        plain: dict[str, Any] = _plain(found)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# --- finding it ---------------------------------------------------------------------------------


def calibrate(
    vectorstore: VectorStore,
    *,
    model: Any,
    tokenizer: Any = None,
    prompts: int = 24,
    k: int = 32,
    noise_variances: Sequence[float] = NOISE_VARIANCES,
    learning_rates: Sequence[float] = LEARNING_RATES,
    protocol: str = "document",
    fetch_k: int = 200,
    finetune: FineTuneConfig | None = None,
    share: float = 0.1,
    seed: int = 0,
    timeout: float = 300.0,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Calibration:
    """Choose λ', learning rate and number of documents on documents held out of the store.

    Each held-out text is a prompt. Neither it nor, where the metadata name a `source`, anything
    of the same source is learned from. The store is only read.

    Args:
        vectorstore: Any that `SIFTRetriever` takes and that can be read through, with embeddings.
        model: A name on the Hugging Face hub, a folder, or a loaded `PreTrainedModel`.
        tokenizer: Required with a loaded model.
        prompts: Documents held out.
        k: The most documents to learn from; the fewer ones on the way are measured as well.
        noise_variances: What λ' is chosen from.
        learning_rates: What the learning rate is chosen from.
        protocol: "document" asks with the text and predicts the same text; "continuation" asks
            with its first half and predicts the second.
        fetch_k: Candidates for a prompt.
        finetune: The rest of the recipe.
        share: Of the gradient steps of a full grid, how many may be taken; a fine-tuning that has
            begun is finished, and each round has at least one prompt.
        seed: Which documents are held out, and the adapter's initial weights.
        timeout: Seconds in which the store must have been read through.
        on_progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        ArgumentError: If a number is out of range, or the protocol is another.
        CorpusError: If the store has too few documents, or none that can be held out.
        ModelLoadError: If there is no such model.
        StoreError: If the store cannot answer, or cannot be read through.
    """
    noise_variances = _checked("noise_variances", noise_variances)
    learning_rates = _checked("learning_rates", learning_rates)
    _check_numbers(prompts=prompts, k=k, fetch_k=fetch_k, share=share, seed=seed)
    if protocol not in CALIBRATION_PROTOCOLS:
        msg = f"protocol must be one of {', '.join(CALIBRATION_PROTOCOLS)}, got {protocol!r}"
        raise ArgumentError(msg)
    recipe = replace(finetune or FineTuneConfig(), seed=seed)
    language_model = (
        model if isinstance(model, LanguageModel) else load_language_model(model, tokenizer)
    )
    held = hold_out(
        vectorstore,
        language_model,
        prompts=prompts,
        protocol=protocol,
        fetch_k=fetch_k,
        seed=seed,
        timeout=timeout,
        on_prompt=lambda done: on_progress("holding out", done, prompts),
    )
    surrogate = surrogate_likelihoods(held, noise_variances, language_model)
    engine = shared_engine(language_model, recipe)
    trials = Trials(engine, recipe, held, documents_counts(k))
    grid_steps = len(noise_variances) * len(learning_rates) * len(held) * k
    budget = math.floor(share * grid_steps)
    trials.on_trial = lambda: on_progress("fine-tuning", min(trials.steps, budget), budget)
    kept = promising(noise_variances, surrogate)
    chosen = halve(trials, kept, learning_rates, k=k, budget=budget)
    return _report(
        trials,
        chosen,
        noise_variances,
        surrogate,
        kept,
        learning_rates,
        fetch_k=fetch_k,
        protocol=protocol,
        grid_steps=grid_steps,
    )


def documents_counts(k: int) -> tuple[int, ...]:
    """Return the powers of two below k, and k: after so many documents it is measured."""
    return (*(1 << power for power in range((k - 1).bit_length())), k)


def promising(noise_variances: Sequence[float], likelihoods: Sequence[float]) -> tuple[float, ...]:
    """Return the half of the λ' that is likeliest, ascending; of two or three, all."""
    count = max(min(3, len(noise_variances)), (len(noise_variances) + 1) // 2)
    order = np.argsort(-np.array(likelihoods), kind="stable")[:count]
    return tuple(noise_variances[place] for place in sorted(order.tolist()))


def _checked(name: str, values: Sequence[float]) -> tuple[float, ...]:
    found = tuple(sorted({float(value) for value in values}))
    if not found or not all(math.isfinite(value) and value > 0 for value in found):
        msg = f"{name} must be some positive, finite numbers, got {tuple(values)}"
        raise ArgumentError(msg)
    return found


def _check_numbers(*, share: float, seed: int, **counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            msg = f"{name} must be an integer of at least 1, got {value!r}"
            raise ArgumentError(msg)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        msg = f"seed must be an integer of at least 0, got {seed!r}"
        raise ArgumentError(msg)
    if not 0 < share <= 1:
        msg = f"share must be above 0 and at most 1, got {share!r}"
        raise ArgumentError(msg)


# --- held-out documents -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A text to be predicted, and what may be learned for it."""

    text: str
    tokens: ScoredText
    query: Array
    """The unit vector that is asked with, shape (d,)."""

    texts: tuple[str, ...]
    """The candidates, nearest first."""

    embeddings: Array
    """Theirs, shape (n, d)."""

    def choose(self, k: int, noise_variance: float) -> tuple[int, ...]:
        """Return SIFT's choice for fine-tuning: places of candidates, repeats included."""
        chosen = select(
            self.query, self.embeddings, k=k, noise_variance=noise_variance, replace=True
        )
        return tuple(chosen.indices.tolist())


def hold_out(
    vectorstore: VectorStore,
    language_model: LanguageModel,
    *,
    prompts: int,
    protocol: str,
    fetch_k: int,
    seed: int,
    timeout: float = 300.0,
    on_prompt: Callable[[int], None] = lambda _: None,
) -> list[HeldOut]:
    """Return documents of the store as prompts; see `calibrate` for the arguments and errors."""
    adapter = adapter_for(vectorstore)
    if not isinstance(adapter, StoreAdapter):
        msg = f"{adapter.label} is asked by coroutines alone: open it for threads to calibrate"
        raise StoreError(msg)
    wanted = max(_SPARE * prompts, FEWEST_DOCUMENTS)
    found = run(sampled(wanted, seed), adapter, timeout=timeout, arguments={})
    if len(found) < FEWEST_DOCUMENTS:
        msg = (
            f"the store has {len(found)} different texts, and calibration needs at least "
            f"{FEWEST_DOCUMENTS}: index more documents, or open the collection that has them"
        )
        raise CorpusError(msg)
    held: list[HeldOut] = []
    for document in found:
        if len(held) == prompts:
            break
        try:
            one = held_out(
                vectorstore, document, language_model, protocol=protocol, fetch_k=fetch_k
            )
        except ArgumentError:  # too short to be predicted
            continue
        if one.texts:
            held.append(one)
            on_prompt(len(held))
    if not held:
        msg = (
            f"none of {len(found)} documents can be held out: they are too short, or all have the "
            "same source in their metadata, so that nothing is left to learn from"
        )
        raise CorpusError(msg)
    return held


def sampled(count: int, seed: int) -> Generator[Page, tuple[Rows, Any], list[Document]]:
    """Read the store through, and return documents of different texts, drawn at random.

    Those with the smallest hashes of seed and text: the same ones however the store orders its
    rows, a text no likelier for having copies, and never more than `count` in memory.
    """
    smallest: list[tuple[int, str, Document]] = []  # a heap, the largest hash first
    texts: set[str] = set()
    cursor = None
    while True:
        rows, cursor = yield Page(cursor, _PAGE_SIZE)
        for document in rows.documents:
            text = document.page_content
            entry = (-_hash(seed, text), text, document)
            if text in texts or (len(smallest) == count and entry[:2] < smallest[0][:2]):
                continue
            texts.add(text)
            if len(smallest) < count:
                heapq.heappush(smallest, entry)
            else:
                texts.discard(heapq.heappushpop(smallest, entry)[1])
        if cursor is None:
            ordered = sorted(smallest, key=lambda entry: (-entry[0], entry[1]))
            return [document for _, _, document in ordered]


def _hash(seed: int, text: str) -> int:
    data = f"{seed}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def held_out(
    vectorstore: VectorStore,
    document: Document,
    language_model: LanguageModel,
    *,
    protocol: str,
    fetch_k: int,
    timeout: float = 30.0,
) -> HeldOut:
    """Return a document as a prompt, with candidates of other texts and other sources.

    Args:
        vectorstore: Where the candidates are.
        document: The prompt, whether or not the store has it.
        language_model: Scores it.
        protocol: One of `CALIBRATION_PROTOCOLS`.
        fetch_k: Candidates.
        timeout: Seconds that the store may take each time it is asked.

    Raises:
        ArgumentError: If there is nothing to score.
        StoreError: If the store cannot answer.
    """
    text = document.page_content
    task = PROTOCOLS[protocol](Prompt(id="", text=text))
    tokens = ScoredText.of(task, language_model.tokenizer, language_model.context_length)
    query = unit_vector(embed_query(vectorstore, task.query))
    asked = fetch_k + 1
    while True:
        found = fetch_candidates(vectorstore, query, fetch_k=asked, timeout=timeout)
        others = [n for n, other in enumerate(found.documents) if not _is_own(document, other)]
        if len(others) >= fetch_k or len(found.documents) < asked:
            break
        asked *= 2
    kept = others[:fetch_k]
    return HeldOut(
        text=text,
        tokens=tokens,
        query=query,
        texts=tuple(found.documents[n].page_content for n in kept),
        embeddings=found.embeddings[kept],
    )


def _is_own(document: Document, other: Document) -> bool:
    source = document.metadata.get("source")
    return other.page_content == document.page_content or (
        source not in {None, ""} and other.metadata.get("source") == source
    )


# --- the surrogate ------------------------------------------------------------------------------


def surrogate_likelihoods(
    prompts: Sequence[HeldOut], noise_variances: Sequence[float], language_model: LanguageModel
) -> tuple[float, ...]:
    """Return for each λ' how likely it makes what the texts say, given their embeddings.

    λ' is the noise of what a text teaches, as against what its embedding tells of it
    (arXiv 2410.08020, section 3). So the words of texts, as frequencies of tokens, are regressed
    on their embeddings by the very Gaussian process that chooses, around each prompt. No step of
    training is taken.

    Returns:
        Of each λ' the leave-one-out log likelihood of `leave_one_out`, mean over prompts.
    """
    frequencies: dict[str, Array] = {}
    size = len(language_model.tokenizer)
    for prompt in prompts:
        for text in (prompt.text, *prompt.texts):
            if text not in frequencies:
                frequencies[text] = _token_frequencies(language_model, text, size)
    # Tokens of no text say nothing, and what all texts share is not to be explained.
    mean = np.mean(list(frequencies.values()), axis=0)
    present = np.flatnonzero(mean)
    rows = [
        leave_one_out(
            np.concatenate([prompt.query[None, :], prompt.embeddings]),
            np.array([frequencies[text][present] for text in (prompt.text, *prompt.texts)])
            - mean[present],
            noise_variances,
        )
        for prompt in prompts
    ]
    found: list[float] = np.mean(rows, axis=0).tolist()
    return tuple(found)


def _token_frequencies(language_model: LanguageModel, text: str, size: int) -> Array:
    """Return the roots of the frequencies: Hellinger's distance tells texts apart by them."""
    token_ids = plain_tokens(language_model.tokenizer, text)[:_SURROGATE_TOKENS]
    counts = np.bincount(np.array(token_ids, dtype=np.int64), minlength=size)
    roots: Array = np.sqrt(counts / max(1, len(token_ids)))
    return roots


def leave_one_out(embeddings: Array, targets: Array, noise_variances: Sequence[float]) -> Array:
    """Return the leave-one-out log likelihood of Gaussian processes, in nats per number.

    Rasmussen & Williams (2006), eq. 5.10 to 5.12, with the kernel s² (φ(x)ᵀφ(x') + λ' δ) for
    every column of the targets, and the scale s² at its likeliest value.

    Args:
        embeddings: Shape (n, d).
        targets: Shape (n, q).
        noise_variances: Values of λ'.
    """
    values, vectors = np.linalg.eigh(embeddings @ embeddings.T)
    rotated = vectors.T @ targets
    found = []
    for noise_variance in noise_variances:
        precisions = 1.0 / (np.clip(values, 0.0, None) + noise_variance)
        own = (vectors**2) @ precisions  # the diagonal of the inverse
        residuals = (vectors @ (precisions[:, None] * rotated)) / own[:, None]
        scale = max(float(np.mean(residuals**2 * own[:, None])), np.finfo(np.float64).tiny)
        found.append(-0.5 * (math.log(2 * math.pi * scale) + 1 - float(np.mean(np.log(own)))))
    return np.array(found)


# --- fine-tunings -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """One fine-tuning. Two λ' that choose the same documents are the same trial."""

    prompt: int
    documents: tuple[int, ...]
    """Places of candidates, in the order of training."""

    learning_rate: float


class Trials:
    """Fine-tunes for prompts, each trial once, and remembers what it led to.

    Attributes:
        steps: Gradient steps so far.
        on_trial: Called after each trial.
    """

    def __init__(
        self,
        engine: Engine,
        recipe: FineTuneConfig,
        prompts: Sequence[HeldOut],
        counts: Sequence[int],
    ) -> None:
        """Take the prompts.

        Args:
            engine: Trains.
            recipe: How, but for the learning rate. The engine may be shared by others with
                another one.
            prompts: What is predicted.
            counts: Numbers of documents after which it is measured, ascending.
        """
        self.engine = engine
        self.recipe = recipe
        self.prompts = prompts
        self.counts = tuple(counts)
        self.steps = 0
        self.on_trial: Callable[[], None] = lambda: None
        self._choices: dict[tuple[int, float], tuple[int, ...]] = {}
        self._base: dict[int, float] = {}
        self._percents: dict[Trial, Array] = {}

    def of(self, prompt: int, noise_variance: float, learning_rate: float) -> Trial:
        """Return the trial of some settings on a prompt."""
        key = (prompt, noise_variance)
        if key not in self._choices:
            self._choices[key] = self.prompts[prompt].choose(self.counts[-1], noise_variance)
        return Trial(prompt, self._choices[key], learning_rate)

    def run(self, wanted: Iterable[Trial]) -> None:
        """Do the trials that were not done before."""
        new = [trial for trial in dict.fromkeys(wanted) if trial not in self._percents]
        for prompt in sorted({trial.prompt for trial in new} - self._base.keys()):
            request = self.engine.request([], self._scoring(prompt))
            self._base[prompt] = self.engine.outcome(request).nats[0]
        for start in range(0, len(new), _TRIALS_AT_ONCE):
            some = new[start : start + _TRIALS_AT_ONCE]
            tickets = [self.engine.submit(self._request(trial)) for trial in some]
            for trial, ticket in zip(some, tickets, strict=True):
                *_, outcome = ticket
                assert isinstance(outcome, Outcome)  # noqa: S101 - a ticket ends with it, or raises
                self._note(trial, outcome)

    def is_done(self, trial: Trial) -> bool:
        """Return whether it was run."""
        return trial in self._percents

    def percents(self, trial: Trial) -> Array:
        """Return the bits in percent of the base model's, after each count of documents."""
        return self._percents[trial]

    def _scoring(self, prompt: int, after: Sequence[int] = ()) -> Scoring:
        tokens = self.prompts[prompt].tokens
        return Scoring([(tokens.without_documents(), tokens.target)], after=after)

    def _request(self, trial: Trial) -> Request:
        texts = self.prompts[trial.prompt].texts
        return self.engine.request(
            [texts[place] for place in trial.documents],
            self._scoring(trial.prompt, self.counts),
            config=replace(self.recipe, learning_rate=trial.learning_rate),
        )

    def _note(self, trial: Trial, outcome: Outcome) -> None:
        # Where training broke down the base model answers, whatever was measured on the way.
        reached = {milestone.documents: milestone.nats[0] for milestone in outcome.milestones}
        nats = [reached.get(count, outcome.nats[0]) for count in self.counts[:-1]]
        self._percents[trial] = 100 * np.array([*nats, outcome.nats[0]]) / self._base[trial.prompt]
        self.steps += len(outcome.training.losses)
        self.on_trial()


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the fine-tunings spoke for."""

    noise_variance: float
    learning_rate: float
    prompts: int
    """Those that it was measured on, the first ones."""


def halve(
    trials: Trials,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
    *,
    k: int,
    budget: int,
) -> Chosen:
    """Choose by successive halving, Jamieson & Talwalkar (2016), over the pairs of both.

    Each round has the same share of the budget and measures all pairs that are left on more
    prompts; then the better half of the learning rates is kept, by their mean over the λ' that
    are left, and the better half of the λ', by their mean over these rates: what one of them
    does depends little on the other, and means of several pairs are surer than each.

    Args:
        trials: Of the held-out prompts.
        noise_variances: At least one.
        learning_rates: At least one.
        k: Documents of a fine-tuning.
        budget: Gradient steps for all.
    """
    rounds = max(1, *(math.ceil(math.log2(len(v))) for v in (noise_variances, learning_rates)))
    measured = 0
    for number in range(rounds):
        pairs = len(noise_variances) * len(learning_rates)
        room = (budget - trials.steps) // (rounds - number) // (pairs * k)
        # What was chosen must have been measured, whatever it costs.
        more = max(room, 0 if measured else 1)
        measured = min(measured + more, len(trials.prompts))
        trials.run(
            trials.of(prompt, noise_variance, rate)
            for prompt in range(measured)
            for noise_variance in noise_variances
            for rate in learning_rates
        )
        means = np.array(
            [
                [_percents(trials, v, r, measured)[:, -1].mean() for r in learning_rates]
                for v in noise_variances
            ]
        )
        rates = _better_half(means.mean(axis=0))
        kept = _better_half(means[:, rates].mean(axis=1))
        learning_rates = [learning_rates[place] for place in rates]
        noise_variances = [noise_variances[place] for place in kept]
    return Chosen(noise_variances[0], learning_rates[0], measured)


def _better_half(means: Array) -> list[int]:
    """Return the places of the lower half, ascending; of equal ones, the first."""
    order = np.argsort(means, kind="stable")[: (len(means) + 1) // 2]
    return sorted(order.tolist())


def _percents(trials: Trials, noise_variance: float, learning_rate: float, prompts: int) -> Array:
    """Return the percents of the first prompts, as far as there are some, shape (n, counts)."""
    own = [trials.of(prompt, noise_variance, learning_rate) for prompt in range(prompts)]
    done = [trials.percents(trial) for trial in own if trials.is_done(trial)]
    return np.array(done).reshape(-1, len(trials.counts))


# --- the report ---------------------------------------------------------------------------------


def _report(  # noqa: PLR0917 - what `calibrate` has at hand
    trials: Trials,
    chosen: Chosen,
    noise_variances: Sequence[float],
    surrogate: Sequence[float],
    kept: Sequence[float],
    learning_rates: Sequence[float],
    *,
    fetch_k: int,
    protocol: str,
    grid_steps: int,
) -> Calibration:
    best = _percents(trials, chosen.noise_variance, chosen.learning_rate, chosen.prompts)
    place = fewest_documents(best)

    def measured(noise_variance: float, rate: float) -> Estimate:
        own = _percents(trials, noise_variance, rate, chosen.prompts)
        return estimate(own[:, -1], best[: len(own), -1])

    recipe = trials.recipe
    settings = CalibratedSettings(
        noise_variance=chosen.noise_variance,
        learning_rate=chosen.learning_rate,
        k=trials.counts[place],
        fetch_k=max(fetch_k, trials.counts[place]),
        lora_rank=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        max_length=recipe.max_length,
        model=trials.engine.language_model.name,
        protocol=protocol,
        seed=recipe.seed,
    )
    return Calibration(
        settings=settings,
        noise_variances=tuple(
            NoisePoint(
                noise_variance=value,
                surrogate=likelihood,
                distinct_documents=_distinct(trials, value),
                measured=measured(value, chosen.learning_rate) if value in kept else None,
            )
            for value, likelihood in zip(noise_variances, surrogate, strict=True)
        ),
        learning_rates=tuple(
            RatePoint(rate, measured(chosen.noise_variance, rate)) for rate in learning_rates
        ),
        counts=tuple(
            CountPoint(count, estimate(best[:, n], best[:, place]))
            for n, count in enumerate(trials.counts)
        ),
        held_out=len(trials.prompts),
        steps=trials.steps,
        grid_steps=grid_steps,
        notes=_notes(chosen, float(best[:, place].mean()), noise_variances, learning_rates),
    )


def estimate(percents: Array, chosen: Array) -> Estimate:
    """Return what was measured, and the differences prompt by prompt, both of shape (n,)."""
    differences = percents - chosen
    return Estimate(
        percent_of_base=float(percents.mean()),
        standard_error=_standard_error(percents),
        difference=float(differences.mean()),
        standard_error_of_difference=_standard_error(differences),
        prompts=len(percents),
    )


def fewest_documents(percents: Array) -> int:
    """Return which count of documents to take: the first that is as good as the best.

    As good means: no worse by more than the standard error of the difference, prompt by prompt
    (the rule of one standard error; Breiman et al., 1984, section 3.4.3).

    Args:
        percents: Shape (prompts, counts), counts ascending.
    """
    best = int(np.argmin(percents.mean(axis=0)))
    for place in range(best):
        worse = percents[:, place] - percents[:, best]
        if worse.mean() <= _standard_error(worse):  # false for a single prompt
            return place
    return best


def _standard_error(values: Array) -> float:
    if len(values) < 2:  # noqa: PLR2004
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _distinct(trials: Trials, noise_variance: float) -> float:
    choices = [trials.of(n, noise_variance, 1.0).documents for n in range(len(trials.prompts))]
    return float(np.mean([len(set(choice)) for choice in choices]))


def _notes(
    chosen: Chosen,
    percent: float,
    noise_variances: Sequence[float],
    learning_rates: Sequence[float],
) -> tuple[str, ...]:
    notes = []
    for name, value, values in (
        ("learning rate", chosen.learning_rate, learning_rates),
        ("λ'", chosen.noise_variance, noise_variances),
    ):
        for end, word in ((values[0], "smaller"), (values[-1], "larger")):
            if len(values) > 1 and value == end:
                notes.append(
                    f"the best {name} is the {word[:-1]}st tried, {value:g}: try {word} ones"
                )
    if percent >= 100:  # noqa: PLR2004
        notes.append("fine-tuning made no held-out text likelier on average: do not use it here")
    return tuple(notes)
