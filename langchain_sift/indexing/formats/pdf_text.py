"""Undo what typesetting does to the text of a PDF."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}
_NOTHING = {0: None, 0xFEFF: None}
_SOFT_HYPHEN_AT_END = re.compile(r"\u00ad[ \t]*\n[ \t]*")
_SOFT_HYPHEN = "\u00ad"
# A word that a hyphen divides between two lines; the second part is in lower case.
_DIVIDED = re.compile(r"(\w+)[-\u2010][ \t]*\n[ \t]*(\w+)")
_NUMBER = re.compile(r"[0-9]{1,9}")
_PAGE = re.compile(
    r"[-–|(\[ ]*"
    r"(?:(?:p|pp|pg|page|pages|seite|s|página|pagina|pág|pag|sida|strona|страница|стр)(?:\.| ) *)?"
    r"[0-9]+(?: *(?:of|von|de|di|sur|av|z|из|/) *[0-9]+)?[-–|)\]. ]*"
    r"|[-–| ]*第 *[0-9]+ *[页頁ペ]ー?ジ?(?:[,， ]*共 *[0-9]+ *[页頁])?[-–| ]*",
    re.IGNORECASE,
)
"""A line that is the number of a page, alone or with a word for it, and with that of all pages."""

_PAGE_NUMBER = "\0"  # stands for the number of the page
_MOST_LINES = 3  # of a header or a footer
_FEWEST_PAGES = 3
_FEWEST_LINES = 4  # of a page: a shorter one may be all content


def cleaned_pages(texts: Sequence[str]) -> list[str]:
    """Return the texts of pages as they were before typesetting.

    Ligatures become letters, soft hyphens and NULs go, words that are divided at the end of a line
    become one, and of a header or a footer that most pages repeat only the first stays. A hyphen
    stays if the word occurs with it elsewhere, and if the second part begins with a capital or a
    digit.
    """
    plain = [text.translate({**_LIGATURES, **_NOTHING}) for text in texts]
    plain = [_SOFT_HYPHEN_AT_END.sub("", text).replace(_SOFT_HYPHEN, "") for text in plain]
    pages = _without_margins(plain)
    words = set(re.findall(r"\w+[-\u2010]\w+", " ".join(pages).replace("\u2010", "-").lower()))
    return [_DIVIDED.sub(lambda match: _joined(match, words), page) for page in pages]


def _joined(match: re.Match[str], hyphenated: set[str]) -> str:
    first, second = match.groups()
    if not second[0].islower() or not first[-1].isalpha():
        return match[0]
    keeps = f"{first}-{second}".lower() in hyphenated
    return f"{first}-{second}" if keeps else first + second


def _without_margins(pages: Sequence[str]) -> list[str]:
    """Return pages without the lines at their ends that more than half of them have.

    The first page with such a line keeps it: it may be the name of a table's columns. The number of
    the page goes everywhere: a number that grows by one from page to page, alone or with a word for
    a page. Beside other words it may be a year or the number of a chapter, and Roman numbers stay.
    """
    lines = [page.split("\n") for page in pages]
    # The numbers of the lines with text, without the headers and footers that were found.
    inner = [[row for row, line in enumerate(page) if line.strip()] for page in lines]
    gone: set[tuple[int, int]] = set()
    for end in (0, -1):
        for _ in range(_MOST_LINES):
            forms = {
                number: _forms(lines[number][rows[end]].strip(), number)
                for number, rows in enumerate(inner)
                if len(rows) >= _FEWEST_LINES
            }
            counts = Counter(form for each in forms.values() for form in each)
            form, count = counts.most_common(1)[0] if counts else ("", 0)
            if count < _FEWEST_PAGES or count <= len(forms) / 2:
                break
            repeated = [
                (number, inner[number].pop(end)) for number, each in forms.items() if form in each
            ]
            gone.update(repeated if _PAGE_NUMBER in form else repeated[1:])
    return [
        "\n".join(line for row, line in enumerate(page) if (number, row) not in gone)
        for number, page in enumerate(lines)
    ]


def _forms(line: str, page: int) -> set[str]:
    """Return a line as it is, and if it numbers pages, with a number less that of the page."""
    if not _PAGE.fullmatch(line) or (line.isdecimal() and 1900 <= int(line) <= 2100):
        return {line}
    numbers = [*_NUMBER.finditer(line)]
    ends = {match.span(): int(match[0]) - page for match in (*numbers[:1], *numbers[-1:])}
    relative = {
        f"{line[:start]}{_PAGE_NUMBER}{value}{line[end:]}" for (start, end), value in ends.items()
    }
    return {line, *relative}
