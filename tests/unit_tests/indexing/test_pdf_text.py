"""The text of a PDF is what was written, without what typesetting added."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.indexing.formats.pdf_text import cleaned_pages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ﬁnd the ﬂow of eﬀort", "find the flow of effort"),
        ("soft\u00adware and exam\u00ad\n  ples", "software and examples"),
        ("an exam-\nple of it", "an example of it"),
        ("two exam\u2010 \n ples", "two examples"),
        ("a well-\nknown fact, and well-known too", "a well-known fact, and well-known too"),
        ("North-\nSouth and 2019-\n2020", "North-\nSouth and 2019-\n2020"),
        ("a list:\n- one\n- two", "a list:\n- one\n- two"),
        ("a\0b", "ab"),
        ("Straßen-\nverkehr", "Straßenverkehr"),
    ],
)
def test_typesetting_is_undone(text: str, expected: str) -> None:
    assert cleaned_pages([text]) == [expected]


BODIES = [
    "It begins here.\nA second line.\nA third line.",
    "It goes on.\nAnother line.\nOne more.",
    "It ends.\nA last line.\nThe very last.",
    "An appendix.\nWith a line.\nAnd another.",
]


def test_of_headers_and_footers_that_most_pages_repeat_the_first_stays() -> None:
    pages = [
        f"Contract 4711\n\nItem  Price in EUR\n{body}\nCall 44 123 45\nPage {n} of 4"
        for n, body in enumerate(BODIES, 1)
    ]
    first = f"Contract 4711\n\nItem  Price in EUR\n{BODIES[0]}\nCall 44 123 45"
    assert [page.strip() for page in cleaned_pages(pages)] == [first, *BODIES[1:]]
    title = "A title page\nof its own\nand more\nand more of it"
    assert [page.strip() for page in cleaned_pages([title, *pages])] == [title, first, *BODIES[1:]]


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "c", "4711", "", " d "]), max_size=7),
        max_size=8,
    )
)
def test_no_line_of_a_document_is_lost(pages: list[list[str]]) -> None:
    texts = ["\n".join(page) for page in pages]
    cleaned = cleaned_pages(texts)
    assert len(cleaned) == len(texts)
    assert {*"\n".join(cleaned).split("\n")} >= {line for page in pages for line in page if line}


def test_rows_of_numbers_at_the_ends_of_pages_stay() -> None:
    pages = [
        "\n".join(f"{2000 + 10 * page + row} {page * 7 + row} {row * row}" for row in range(6))
        for page in range(5)
    ]
    assert cleaned_pages(pages) == pages
    numbered = [f"{page}\n- {n} -" for n, page in enumerate(pages, start=7)]
    assert cleaned_pages(numbered) == pages


@pytest.mark.parametrize(
    "heading",
    [
        *("Annual report {year}", "{year}", "Day {day}", "Chapter {day}", "Invoice 100{day}"),
        *("{day}.1.{year}", "2.{day}", "§ {day}", "$ {day}.00", "{day} %", "+49 {day}", "S{day}"),
        "{day} 17 33",
    ],
)
def test_a_heading_with_a_number_is_no_number_of_a_page(heading: str) -> None:
    pages = [
        f"{heading.format(year=2019 + n, day=n + 1)}\nRevenue was {n * n} million.\n"
        f"Costs fell by {3 * n}.\nStaff grew to {n + 40}."
        for n in range(4)
    ]
    assert cleaned_pages(pages) == pages


@pytest.mark.parametrize(
    "footer", ["{n}", "- {n} -", "Page {n} of 4", "Seite {n}", "第 {n} 页", "第{n}页共4页", "{n}/4"]
)
def test_the_number_of_a_page_goes(footer: str) -> None:
    bodies = [f"Line {n * n}.\nAnother {n + 3}.\nOne more {2 * n}.\nThe end {n}." for n in range(4)]
    pages = [f"{body}\n{footer.format(n=n)}" for n, body in enumerate(bodies, start=1)]
    assert cleaned_pages(pages) == bodies


def test_short_pages_and_documents_of_few_pages_stay() -> None:
    for pages in (["Rice."] * 5, ["Rice.\nWheat.\nCorn."] * 5, ["a\nb\nc\nd\ne"] * 2, [], [""]):
        assert cleaned_pages(pages) == pages
