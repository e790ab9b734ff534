"""Files for the tests of the readers."""

from __future__ import annotations

from fpdf import FPDF


def pdf(*pages: str, opens_with: str | None = None) -> bytes:
    """Return a PDF with these pages, encrypted if a password is given."""
    made = FPDF()
    if opens_with is not None:
        made.set_encryption("owner", opens_with)
    for page in pages:
        made.add_page()
        made.set_font("helvetica", size=12)
        if page:
            made.multi_cell(0, text=page)
    return bytes(made.output())
