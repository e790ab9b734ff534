"""Parse the location of a Chroma store: a folder, or a server with the credentials for it."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from langchain_sift.config import STORE_HEADERS_VARIABLE, STORE_TOKEN_VARIABLE
from langchain_sift.errors import ArgumentError

CREDENTIALS = (
    f"a token (--store-token, {STORE_TOKEN_VARIABLE}), headers (--store-header, "
    f"{STORE_HEADERS_VARIABLE}) or https://USER:PASSWORD@HOST"
)
"""The ways to give credentials, for messages."""

_CLOUD = "trychroma.com"
_PORTS = {"http": 8000, "https": 443}
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~](?:[ -~\t]*[!-~])?)")
_PARAMETERS = ("tenant", "database")

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ChromaLocation:
    """A folder of Chroma, or the address of a server with the credentials for it.

    Its text names no credentials, so that it may stand in messages, reports and files.
    """

    text: str
    """The folder, or the URL without user and password."""

    url: str | None = None
    """Scheme, host, port and path of the server. None means a folder."""

    tenant: str | None = None
    """Tenant of the server. None means Chroma's default."""

    database: str | None = None
    """Database of the tenant. None means Chroma's default."""

    headers: Headers = field(default=(), repr=False)
    """Names and values of the headers of each request."""

    @classmethod
    def of(
        cls,
        store: str | Path | ChromaLocation,
        *,
        token: str | None = None,
        headers: Sequence[str] = (),
    ) -> ChromaLocation:
        """Return the location that a text names.

        The form of a URL is `https://USER:PASSWORD@HOST:PORT/PATH?tenant=T&database=D`, of which
        only scheme and host are required. The default port is 8000 for http and 443 for https.
        User and password are percent-encoded, and sent by Basic authentication.

        The environment variables LANGCHAIN_SIFT_STORE_TOKEN and LANGCHAIN_SIFT_STORE_HEADERS give
        credentials for a server, and for Chroma Cloud (https://api.trychroma.com) also
        CHROMA_API_KEY, CHROMA_TENANT and CHROMA_DATABASE. The URL takes precedence over them, and
        the arguments over the URL.

        Args:
            store: A folder, a URL or a location; a location is returned as it is.
            token: Sent as `Authorization: Bearer`, and to Chroma Cloud as `X-Chroma-Token`.
            headers: Headers of each request, as "NAME: VALUE".

        Raises:
            ArgumentError: If the URL or a header is malformed, or a folder gets credentials. The
                message names no credentials.
        """
        if isinstance(store, ChromaLocation):
            return store
        if not is_url(store):
            return _folder(str(store), has_credentials=token is not None or bool(headers))
        address = _split(str(store))
        location = _address(address)
        environment = _parse_headers(os.environ.get(STORE_HEADERS_VARIABLE, "").splitlines())
        return replace(
            location,
            headers=_merged(
                _token_header(address, _cloud_key(address)),
                _token_header(address, os.environ.get(STORE_TOKEN_VARIABLE)),
                environment,
                _basic(address),
                _token_header(address, token),
                _parse_headers(headers),
            ),
        )

    @property
    def is_cloud(self) -> bool:
        """True if the server is Chroma Cloud."""
        return self.url is not None and _is_cloud(urlsplit(self.url))

    def without_secrets(self, message: str) -> str:
        """Return a message in which each value of a header is replaced by "***"."""
        for _, value in self.headers:
            for secret in (value, value.partition(" ")[2]):
                if secret:
                    message = message.replace(secret, "***")
        return message

    def __str__(self) -> str:
        """Return the folder, or the URL without user and password."""
        return self.text


def is_url(store: str | Path | ChromaLocation) -> bool:
    """Return True if a store is named by the URL of its server, not by its folder."""
    return str(store).partition("://")[0].lower() in _PORTS


def _folder(store: str, *, has_credentials: bool) -> ChromaLocation:
    if not store.strip():
        raise ArgumentError("the store is empty: name a folder, or the URL of a server")
    if "://" in store:
        raise ArgumentError(
            f"the URL of a store begins with http:// or https://, not {store.partition('://')[0]}://"
        )
    if has_credentials:
        raise ArgumentError(
            f"{store} is a folder, which needs neither token nor headers: give them with a URL"
        )
    return ChromaLocation(store)


def _split(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        valid = bool(address.hostname) and address.port != 0 and "@" not in address.path
    except ValueError:  # its message may contain a password
        valid = False
    if not valid:
        raise ArgumentError(
            "the URL of the store must have the form https://USER:PASSWORD@HOST:PORT/PATH, with "
            "user and password percent-encoded, such as %40 for @ and %2F for /"
        )
    return address


def _address(address: SplitResult) -> ChromaLocation:
    given = dict(parse_qsl(address.query, keep_blank_values=True))
    unknown = [name for name in given if name not in _PARAMETERS]
    if unknown or address.fragment or not all(given.values()):
        raise ArgumentError(
            "the URL of a store may end with ?tenant=T&database=D, and with nothing else"
        )
    if _is_cloud(address):
        for name in _PARAMETERS:
            variable = os.environ.get(f"CHROMA_{name.upper()}")
            if name not in given and variable:
                given[name] = variable
    host = f"[{address.hostname}]" if ":" in str(address.hostname) else str(address.hostname)
    path = address.path.rstrip("/")
    port = address.port or _PORTS[address.scheme]
    shown = f"{address.scheme}://{host}{'' if address.port is None else f':{port}'}{path}"
    return ChromaLocation(
        shown + (f"?{urlencode(given)}" if given else ""),
        f"{address.scheme}://{host}:{port}{path}",
        given.get("tenant"),
        given.get("database"),
    )


def _is_cloud(address: SplitResult) -> bool:
    host = str(address.hostname)
    return host == _CLOUD or host.endswith(f".{_CLOUD}")


def _cloud_key(address: SplitResult) -> str | None:
    # Chroma's own variable, which is meant for no other server.
    return os.environ.get("CHROMA_API_KEY") if _is_cloud(address) else None


def _basic(address: SplitResult) -> Headers:
    if address.username is None:
        return ()
    pair = f"{unquote(address.username)}:{unquote(address.password or '')}"
    return (("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"),)


def _token_header(address: SplitResult, token: str | None) -> Headers:
    if not token:
        return ()
    header = f"X-Chroma-Token: {token}" if _is_cloud(address) else f"Authorization: Bearer {token}"
    return _parse_headers([header])


def _parse_headers(lines: Sequence[str]) -> Headers:
    matches = [_HEADER.fullmatch(line.strip()) for line in lines if line.strip()]
    headers = tuple((match[1], match[2]) for match in matches if match is not None)
    if len(headers) < len(matches):
        raise ArgumentError(
            "a header of the store has the form 'NAME: VALUE', in ASCII; its value, like a token, "
            "is not repeated here"
        )
    return headers


def _merged(*groups: Headers) -> Headers:
    """Return each header once; a later group takes precedence."""
    merged = {name.lower(): (name, value) for group in groups for name, value in group}
    return tuple(merged.values())
