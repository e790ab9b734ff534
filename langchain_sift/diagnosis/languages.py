"""Detect the languages of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from langchain_sift.errors import require

NO_LANGUAGE = ("und", "zxx")
"""The codes of ISO 639-2 for an undetermined language, and for no linguistic content."""

_MIN_CONFIDENCE = 0.5


def languages_of(texts: Sequence[str]) -> Mapping[str, float]:
    """Return the fraction of the texts in each language, the most frequent first.

    A text is counted whole, under the language that py3langid, a naive Bayes classifier of 139
    languages (Lui & Baldwin, 2012), finds likeliest.

    Args:
        texts: At least one text.

    Returns:
        The fractions by ISO 639-1 codes; under "und" the texts for which no language has a
        probability of at least one half, such as code, numbers and short texts.

    Raises:
        MissingExtraError: If py3langid is not installed.
    """
    require("compare", "py3langid")
    from py3langid.langid import (  # type: ignore[import-untyped]  # noqa: PLC0415 - optional
        MODEL_FILE,
        LanguageIdentifier,
    )

    identifier = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True, min_confidence=_MIN_CONFIDENCE
    )
    found = Counter(identifier.classify(text)[0] for text in texts)
    return {language: count / len(texts) for language, count in found.most_common()}
