"""Cut texts of any language into words."""

from __future__ import annotations

import re
import string
import unicodedata

_ZERO_WIDTH_SPACE = "\u200b"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_RUN = re.compile(r"\w+")

# Accents that stand for apostrophes; NFKC would make a space and a combining mark of the first.
_QUOTES = str.maketrans({"\u00b4": "'", "\u02bc": "'", "\u2032": "'"})

# Thai, Lao, Tibetan, Burmese, Khmer, Tai, Balinese, Japanese, Chinese, Yi and Javanese are written
# without spaces between words.
_WITHOUT_SPACES = re.compile(
    "([\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u3005-\u3007"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\ua980-\ua9df\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff])"
)


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation.

    Text is compared in the normal form NFKC. In a script without spaces between words, each
    character is a word.
    """
    if text.isascii():
        return _RUN.findall(text.lower())
    text = _folded(text)
    # `\w` leaves out the marks that are vowels in many scripts.
    kept = "".join(c if c.isalnum() or c == "_" or _is_mark(c) else " " for c in text)
    return _separated(kept).split()


def word_ends(text: str) -> list[int]:
    """Return the indices at which a text can be cut between two words, ascending.

    The white space after a word begins the second part. In a script without spaces between words,
    a text can be cut between any two characters, though not before a mark that belongs to one.
    """
    return [index for index in range(1, len(text)) if _ends_word(text[index - 1], text[index])]


def _ends_word(before: str, after: str) -> bool:
    if before.isspace() or after.isspace():
        return after.isspace() and not before.isspace()
    is_apart = _WITHOUT_SPACES.match(before) or _WITHOUT_SPACES.match(after)
    return is_apart is not None and not _is_mark(after)


def normalized(text: str) -> str:
    """Remove case, punctuation, the articles of English and extra white space from an answer.

    As the evaluation of SQuAD does (Rajpurkar et al., arXiv 1606.05250, section 6.1), with all
    punctuation of Unicode, in the normal form NFKC. In a script without spaces between words,
    there is a space between two characters, as in the evaluation of MLQA (arXiv 1910.07475). A
    text of nothing but articles keeps them, such as the letter "A.", and one of nothing but
    punctuation stays as it is.
    """
    folded = _folded(text)
    bare = "".join(c for c in folded if not _is_punctuation(c))
    words = _separated(_ARTICLES.sub(" ", bare)).split() or bare.split() or folded.split()
    return " ".join(words)


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.translate(_QUOTES)).casefold()
    return text if text.isascii() else "".join(_without_format(c) for c in text)


def _without_format(character: str) -> str:
    """Drop a character that only controls how others are shown, such as a direction mark."""
    if character == _ZERO_WIDTH_SPACE:
        return " "
    return "" if unicodedata.category(character) == "Cf" else character


def _separated(text: str) -> str:
    return text if text.isascii() else _WITHOUT_SPACES.sub(r" \1 ", text)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _is_punctuation(character: str) -> bool:
    # ASCII has signs such as $ and + that Unicode counts as symbols, and SQuAD as punctuation.
    return character in string.punctuation or unicodedata.category(character)[0] == "P"
