"""Make the documents of the demo from the handbook of 18F and its sister teams.

Clone https://github.com/18F/handbook, and run: python make_documents.py CLONE
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCUMENTS = Path(__file__).parent / "documents"
TRAVEL, START, POLICIES = "travel-and-leave", "getting-started", "general-information-and-resources"
EDITIONS = (
    # commit, folder of the pages, folder of the documents, sections
    ("1e495563", "pages", DOCUMENTS, (TRAVEL, START, POLICIES)),  # 27 February 2025
    ("e0fe334d", "_pages", DOCUMENTS / "2022", (TRAVEL, START)),  # 31 May 2022
)


def main(clone: str) -> None:
    """Write the documents of all editions."""
    for commit, pages, folder, sections in EDITIONS:
        names = _git(clone, "ls-tree", "-r", "--name-only", commit, pages).splitlines()
        for name in names:
            page = name.removeprefix(f"{pages}/")
            if page.startswith(sections) and page.endswith(".md"):
                file = folder / page
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(plain(_git(clone, "show", f"{commit}:{name}")), encoding="utf-8")


def plain(page: str) -> str:
    """Return a page without front matter, template tags, HTML and the targets of links."""
    front = re.match(r"---\n.*?\n---\n", page, re.DOTALL)
    title = re.search(r"^title: *(.+)$", front[0], re.MULTILINE) if front else None
    text = page[front.end() :] if front else page
    for pattern, kept in (
        (r"\]\((?:[^()]|\([^()]*\))*\)", "]"),  # targets of links and images
        (r"!\[[^\]]*\]", ""),
        (r"\[([^\[\]]*)\]", r"\1"),
        (r"(?s)\{%.*?%\}|\{\{.*?\}\}|\{:.*?\}|<!--.*?-->", ""),
        (r"</?[a-zA-Z][^<>]*>", ""),
        (r"\\([-+=.])", r"\1"),
        (r"\n{3,}", "\n\n"),
    ):
        text = re.sub(pattern, kept, text)
    heading = "# " + title[1].strip('"') + "\n\n" if title else ""
    return heading + text.strip() + "\n"


def _git(clone: str, *arguments: str) -> str:
    command = ["git", "-C", clone, *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout  # noqa: S603


if __name__ == "__main__":
    main(sys.argv[1])
