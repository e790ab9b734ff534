"""Read the relevant documents of queries from qrels, of TREC or of BEIR."""

from __future__ import annotations

from pathlib import Path

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats import Location, read_lines


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read the grades of the judged documents of each query.

    Args:
        path: A file with the lines "query iteration document grade" of TREC, or "query document
            grade" of BEIR, separated by tabs, or by spaces. A first line of headings is skipped,
            and so are blank lines. It may be packed (.gz).

    Returns:
        The grade of each document by query; 0 and less mean not relevant. If a document has several
        grades, the highest counts.

    Raises:
        CorpusError: If the file cannot be read, or a line is no such line.
    """
    grades: dict[str, dict[str, int]] = {}
    lines = [(n, line) for n, line in enumerate(read_lines(path), start=1) if line.strip()]
    for index, (number, line) in enumerate(lines):
        fields = [part.strip() for part in (line.split("\t") if "\t" in line else line.split())]
        grade = _grade(fields)
        if grade is None and index == 0:  # headings
            continue
        if grade is None:
            raise CorpusError(
                f"{Location(str(path), 'line', number)}: not a line of qrels: expected a query, "
                'an iteration, a document and a grade (TREC), or "query-id", "corpus-id" and '
                '"score" with tabs between them (BEIR)'
            )
        of_query = grades.setdefault(fields[0], {})
        of_query[fields[-2]] = max(grade, of_query.get(fields[-2], grade))
    if not grades:
        raise CorpusError(f"{path}: no judgment in it")
    return grades


def _grade(fields: list[str]) -> int | None:
    """Return the last field as a number; None if these are not the fields of a judgment."""
    if len(fields) not in {3, 4} or not all(fields):
        return None
    try:
        return int(fields[-1])
    except ValueError:
        return None
