"""Name the faults of a store with their cures, and advise on SIFT."""

from __future__ import annotations

from collections.abc import Mapping

from langchain_sift.calibration.retrieval import MIN_QUERIES
from langchain_sift.calibration.retrieval_calibration import RetrievalCalibration
from langchain_sift.diagnosis.languages import NO_LANGUAGE
from langchain_sift.diagnosis.lengths import Lengths
from langchain_sift.diagnosis.row_counts import RowCounts
from langchain_sift.diagnosis.similarities import Similarities
from langchain_sift.report.counts import counted
from langchain_sift.report.intervals import Interval

_LEAST_SHARE = 0.05  # of the texts in a language
_MIXED_NORMS = 1.01  # longest norm by shortest
_MANY_DUPLICATES = 0.1
_LABELS = "If you have labelled queries, `calibrate --queries` chooses settings more surely."
_LITTLE = 0.05  # a difference from nearest neighbours in the share of sources that are found


def problems_of(
    rows: RowCounts, languages: Mapping[str, float], lengths: Lengths, dimensions: int | None
) -> tuple[str, ...]:
    """Return the faults of a store, each as a sentence with its cure.

    Args:
        rows: The counts of the store's rows.
        languages: Fraction of the texts in each language.
        lengths: The lengths of the texts.
        dimensions: Dimensions of the embeddings' vectors. None means that they are not known.
    """
    problems = []
    if faulty := rows.zero_vectors + rows.non_finite_vectors:
        problems.append(
            f"vectors that are zero, NaN or infinite: {faulty}; retrieval leaves their documents "
            "out: embed those texts again"
        )
    if len(rows.dimensions) > 1:
        listed = " and ".join(map(str, rows.dimensions))
        problems.append(f"the vectors have {listed} dimensions: embed all with the same model")
    elif dimensions is not None and rows.dimensions != (dimensions,):
        problems.append(
            f"the vectors have {counted(rows.dimensions[0], 'dimension')}, and the embeddings make "
            f"{dimensions}: open the store with the embeddings that filled it"
        )
    if rows.longest_norm > _MIXED_NORMS * rows.shortest_norm:
        problems.append(
            f"the norms of the vectors range from {rows.shortest_norm:.3g} to "
            f"{rows.longest_norm:.3g}: SIFT scales them to 1, but a store that compares by "
            "inner product or distance prefers some lengths; index with normalised embeddings, or "
            "compare by cosine"
        )
    if rows.without_text or rows.blank:
        problems.append(
            f"rows without a text: {rows.without_text}, with a blank one: {rows.blank}: delete them"
        )
    if lengths.cut_texts:
        problems.append(
            f"{lengths.cut_texts:.0%} of the texts are longer than the {lengths.limit} tokens that "
            f"the embeddings read, and {lengths.cut_share:.0%} of all tokens cannot be found: "
            "index shorter chunks"
        )
    known = [name for name, share in languages.items() if share >= _LEAST_SHARE]
    spoken = [name for name in known if name not in NO_LANGUAGE]
    if len(spoken) > 1:
        problems.append(
            f"the texts are in {', '.join(spoken)}: use embeddings that were trained on all of "
            "these languages"
        )
    return tuple(problems)


def advice_for(
    rows: RowCounts, similarities: Similarities, calibration: RetrievalCalibration | None
) -> str:
    """Return a short text on what SIFT will bring in a store, and with which settings.

    Args:
        rows: The counts of the store's rows.
        similarities: The cosines of the store's texts.
        calibration: The settings chosen without labels. None means that none could be chosen.
    """
    if similarities.texts < 2:
        return (
            "One text does not show whether SIFT will pay: index more texts, or examine more "
            "(--sample)."
        )
    repeats = f"{similarities.near_duplicates:.0%} of the texts have a near duplicate."
    # The cosines and the gain are those of different texts: they say nothing of copies.
    has_copies = rows.exact_copies >= _MANY_DUPLICATES
    if has_copies:
        repeats = (
            f"{rows.exact_copies:.0%} of the rows repeat the text of another, and SIFT returns "
            f"each text once. {repeats}"
        )
    many = has_copies or similarities.near_duplicates >= _MANY_DUPLICATES
    if calibration is None:
        promise = "SIFT may pay" if many else "SIFT may help with questions of several parts"
        needed = (
            f"at least {MIN_QUERIES} different texts, and {similarities.texts} were examined"
            if similarities.texts < MIN_QUERIES
            else "embeddings that fit the store, and texts that differ"
        )
        return f"{promise}. {repeats} Settings could not be chosen: that needs {needed}."
    promise = _promise(calibration.held_out[-1].gain, many=many, has_copies=has_copies)
    return f"{promise}. {repeats} {_trial(calibration)} Use {_settings(calibration)}. {_LABELS}"


def _trial(calibration: RetrievalCalibration) -> str:
    """Return a sentence on what SIFT and nearest neighbours found for queries of two sentences."""
    scores = calibration.held_out[-1]
    return (
        f"A trial asked for two texts at once, with a sentence of each: of these texts, SIFT found "
        f"{scores.chosen.value:.1%} and nearest neighbours found {scores.nearest.value:.1%}, a "
        f"difference of {100 * scores.gain.value:+.1f} points (95 % interval: "
        f"{100 * scores.gain.low:+.1f} to {100 * scores.gain.high:+.1f})."
    )


def _promise(gain: Interval, *, many: bool, has_copies: bool) -> str:
    """Return the first words of the advice.

    Args:
        gain: The gain over nearest neighbours for queries of two sentences, among different texts.
        many: True if many texts have copies or near duplicates.
        has_copies: True if many have copies.
    """
    if gain.high < 0:
        return "SIFT will not pay" + (", except that it leaves out copies" if has_copies else "")
    if gain.low > 0:
        others = "" if many else " for questions of several parts, and change little for others"
        return f"SIFT will pay{others}"
    if has_copies:
        return "SIFT will pay where the store's own search returns copies"
    if max(-gain.low, gain.high) <= _LITTLE:
        return "SIFT will change little"
    return "The trial does not show whether SIFT will pay"


def _settings(calibration: RetrievalCalibration) -> str:
    chosen = calibration.selection
    length = "" if chosen.length_scale is None else f" length_scale={chosen.length_scale:g}"
    return f"kernel={chosen.kernel}{length} noise_variance={chosen.noise_variance:g}"
