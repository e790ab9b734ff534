"""Read mail."""

from __future__ import annotations

from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage, MIMEPart
from email.policy import default
from pathlib import Path

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats.cells import fields_of
from langchain_sift.indexing.formats.encodings import read_bytes
from langchain_sift.indexing.formats.records import Reading, Record
from langchain_sift.indexing.formats.web_pages import text_of_html

_PEOPLE = ("from", "to", "cc")


def read_mail(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the subject and the body of an `.eml` file; its plain text if it has several forms."""
    del reading
    message = message_from_bytes(read_bytes(path), policy=default)
    if not message.keys() or not isinstance(message, EmailMessage):
        raise CorpusError(f"{path}: not a mail: it has no header")
    try:
        yield Record("\n\n".join(filter(None, _texts(message))), _fields(message))
    except (LookupError, ValueError, AttributeError) as error:  # headers that break their parser
        raise CorpusError(
            f"{path}: not a mail that can be read ({type(error).__name__}): save it again"
        ) from error


def _texts(message: EmailMessage) -> Iterator[str]:
    yield str(message["subject"] or "")
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        text = _content(body)
        yield text_of_html(text) if body.get_content_subtype() == "html" else text


def _content(body: MIMEPart) -> str:
    """Return the text; as UTF-8 if there is no encoding of the name that it declares."""
    try:
        return str(body.get_content())
    except LookupError:
        payload = body.get_payload(decode=True)
        return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


def _fields(message: EmailMessage) -> dict[str, object]:
    fields: dict[str, object] = {key: str(message[key]) for key in _PEOPLE if message[key]}
    fields["subject"] = str(message["subject"] or "") or None
    fields["date"] = getattr(message["date"], "datetime", None)
    names = [name for part in message.iter_attachments() if (name := part.get_filename())]
    return {**fields_of(fields), **({"attachments": names} if names else {})}
