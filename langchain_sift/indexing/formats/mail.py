"""Read mail."""

from __future__ import annotations

import codecs
import mimetypes
import re
from collections.abc import Iterator
from contextlib import suppress
from email import message_from_bytes
from email.message import EmailMessage, MIMEPart
from email.policy import default
from pathlib import Path

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats.cells import fields_of
from langchain_sift.indexing.formats.encodings import read_bytes
from langchain_sift.indexing.formats.records import Attachment, Reading, Record
from langchain_sift.indexing.formats.web_pages import text_of_html

_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "iso-8859-1": "cp1252",
    "us-ascii": "ascii",
}
"""Encodings that have the letters of a declared one, and those that programs write under its name:
https://encoding.spec.whatwg.org/#names-and-labels."""

_PEOPLE = ("from", "to", "cc")
_PLAIN, _HTML = "text/plain", "text/html"
_MAIL = "message/rfc822"
_MARKUP = {_HTML, "text/x-amp-html", "text/watch-html"}
_NOT_SHOWN = {"text/rtf", "text/richtext", "text/css", "text/rfc822-headers", "text/javascript"}
"""Types of text that are not for readers as they are; such parts are attachments."""


def read_mail(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the subject and the body of an `.eml` file with its attachments.

    Of a body in several forms it is the plain text. Texts of other types, such as Markdown, belong
    to the body, except for those that are not for readers as they are. Pictures within the body
    are no attachments.
    """
    del reading
    content = read_bytes(path).removeprefix(codecs.BOM_UTF8).lstrip()
    try:
        message = message_from_bytes(content, policy=default)
        if not message.keys() or not isinstance(message, EmailMessage):
            raise CorpusError(f"{path}: not a mail: it has no header")
        text = "\n\n".join([str(message["subject"] or ""), *_texts(message)])
        attachments = tuple(_attachments(message))
        yield Record(text.strip("\n"), _fields(message, attachments), attachments=attachments)
    except CorpusError:
        raise
    # Headers that break their parser, and parts within parts a thousand times.
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorpusError(
            f"{path}: not a mail that can be read ({type(error).__name__}): save it again"
        ) from error


def _texts(part: MIMEPart) -> list[str]:
    """Return the texts of a part that are shown."""
    kind = part.get_content_type()
    if part.is_multipart() and kind != _MAIL:
        forms = [(one.get_content_type(), _texts(one)) for one in _parts(part)]
        filled = [(form, texts) for form, texts in forms if any(map(str.strip, texts))]
        if kind == "multipart/alternative":
            filled = sorted(filled, key=lambda one: _rank(one[0]))[:1]
        return [text for _, texts in filled for text in texts]
    if not _is_text(part):
        return []
    text = _content(part)
    return [text_of_html(text) if kind in _MARKUP else text]


def _rank(kind: str) -> int:
    """Return the rank of a form of a body: plain text, then HTML, then other texts."""
    if kind == _PLAIN:
        return 0
    return 2 if kind.startswith("text/") and kind != _HTML else 1


def _attachments(part: MIMEPart) -> Iterator[Attachment]:
    """Yield the attachments in a part, each with a name whose ending tells its format."""
    kind = part.get_content_type()
    name = part.get_filename() or ("attached.eml" if kind == _MAIL else "attached")
    if not Path(name).suffix:
        name += ".eml" if kind == _MAIL else mimetypes.guess_extension(kind) or ""
    if kind == _MAIL:
        for inner in _parts(part):
            yield Attachment(name, _bytes_of(inner))
    elif part.is_multipart():
        for inner in _parts(part):
            yield from _attachments(inner)
    elif not _is_text(part) and not _is_picture_of_body(part):
        content = part.get_payload(decode=True)
        yield Attachment(name, content if isinstance(content, bytes) else b"")


def _parts(part: MIMEPart) -> list[MIMEPart]:
    inner = part.get_payload()
    return [one for one in inner if isinstance(one, MIMEPart)] if isinstance(inner, list) else []


def _bytes_of(message: MIMEPart) -> bytes:
    try:
        return message.as_bytes()
    except (LookupError, ValueError, TypeError, AttributeError):  # headers that cannot be written
        return b""


def _is_text(part: MIMEPart) -> bool:
    """Return whether a part without parts is shown as text; one that claims to have parts is."""
    is_file = part.get_content_disposition() == "attachment" or part.get_filename()
    is_shown = part.get_content_type() not in _NOT_SHOWN
    return part.get_content_maintype() in ("text", "multipart") and is_shown and not is_file


def _is_picture_of_body(part: MIMEPart) -> bool:
    is_attached = part.get_content_disposition() == "attachment"
    return part.get_content_maintype() == "image" and "content-id" in part and not is_attached


def _content(part: MIMEPart) -> str:
    """Return the text of a part, whose lines end with a line feed."""
    payload = part.get_payload(decode=True)
    return _decoded(part, payload if isinstance(payload, bytes) else b"").replace("\r\n", "\n")


def _decoded(part: MIMEPart, payload: bytes) -> str:
    """Return the text in the encoding that the part declares, if it fits, or else in another.

    If none fits, a letter that the declared one does not have is replaced; and where that leaves
    no other letter, the text is read as mail programs of Western Europe write it.
    """
    name = part.get_content_charset() or ""
    declared = _WIDER.get(name, name)
    of_page = _of_page(payload) if part.get_content_subtype() == "html" else []
    for encoding in (declared, "utf-8", *of_page):
        with suppress(LookupError, ValueError):
            return payload.decode(encoding)
    for encoding in (declared, "utf-8"):
        with suppress(LookupError, ValueError):
            text = payload.decode(encoding, "replace")
            if any(char > "\x7f" and char != "\ufffd" for char in text):
                return text
    return payload.decode("cp1252", "replace")


def _of_page(payload: bytes) -> list[str]:
    """Return the encoding that a page of HTML declares."""
    found = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", payload, re.IGNORECASE)
    return [found[1].decode("ascii", "replace")] if found else []


def _fields(message: EmailMessage, attachments: tuple[Attachment, ...]) -> dict[str, object]:
    fields: dict[str, object] = {key: str(message[key]) for key in _PEOPLE if message[key]}
    fields["subject"] = str(message["subject"] or "") or None
    fields["date"] = getattr(message["date"], "datetime", None)
    names = [one.name for one in attachments if one.name]
    return {**fields_of(fields), **({"attachments": names} if names else {})}
