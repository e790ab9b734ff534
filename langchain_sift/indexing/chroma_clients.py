"""Connect to a Chroma store: a folder, or a server with its path, tenant and credentials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import chromadb
import httpx
from chromadb.api import AsyncClientAPI, ClientAPI
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings
from chromadb.errors import ChromaError

from langchain_sift.errors import ArgumentError, SIFTError, StoreError, StoreUnavailable
from langchain_sift.stores.adapters.chroma_errors import typed
from langchain_sift.stores.location import CREDENTIALS, ChromaLocation
from langchain_sift.stores.locking import DATABASE, holds_database

_DIAGNOSIS_SECONDS = 10.0
_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def connect(where: str | ChromaLocation, *, create: bool = False) -> ClientAPI:
    """Return a client of Chroma for a folder or a server.

    Args:
        where: The folder, or the URL; see `ChromaLocation.of`.
        create: If True, make the folder if it does not exist.

    Raises:
        ArgumentError: If the folder holds no store and `create` is False.
        StoreError: If the folder cannot be looked at, or the server refuses the credentials, the
            tenant or the database.
        StoreUnavailable: If the server cannot be reached.
    """
    location = ChromaLocation.of(where)
    if location.url is None:
        # Chroma would make a folder for a misspelt name.
        if not create and not holds_database(Path(location.text)):
            raise ArgumentError(
                f"{location} is no folder of Chroma's: there is no {DATABASE} in it; name "
                "the folder of a store, or fill one: langchain-sift index FOLDER --store "
                f"{location}"
            )
        return chromadb.PersistentClient(location.text)
    try:
        return chromadb.HttpClient(**_arguments(location))
    except (ChromaError, ValueError) as error:
        raise _connection_error(location, error) from error


async def aconnect(where: str | ChromaLocation, tenant: str, database: str) -> AsyncClientAPI:
    """Return a client whose connections the caller opens, for the server of `connect`.

    Args:
        where: The URL of the server.
        tenant: The tenant of the client that `connect` returned.
        database: The database of that client.
    """
    arguments = _arguments(ChromaLocation.of(where)) | {"tenant": tenant, "database": database}
    client = await chromadb.AsyncHttpClient(**arguments)
    # The connections belong to this event loop, which may end; `AsyncChroma` has its own in each.
    await client._server._cleanup()  # type: ignore[attr-defined]
    return client


def _arguments(location: ChromaLocation) -> dict[str, Any]:
    """Return the arguments of Chroma's clients for a server."""
    settings = Settings()
    if settings.chroma_server_ssl_verify is None:
        settings.chroma_server_ssl_verify = True  # the asynchronous client's default is False
    if location.is_cloud and location.tenant is None:
        # A token of Chroma Cloud belongs to one tenant, which the server names.
        settings.chroma_overwrite_singleton_tenant_database_access_from_auth = True
    return {
        "host": location.url,  # Chroma takes scheme, port and path from it
        "port": settings.chroma_server_http_port or 8000,
        "ssl": str(location.url).startswith("https"),
        "headers": dict(location.headers),
        "settings": settings,
        "tenant": location.tenant or DEFAULT_TENANT,
        "database": location.database or DEFAULT_DATABASE,
    }


def _connection_error(location: ChromaLocation, error: Exception) -> StoreError:
    """Return the error of a client that could not be made; it names the cause and the cure."""
    try:
        response = httpx.get(
            f"{location.url}/api/v2/auth/identity",
            headers=dict(location.headers),
            timeout=_DIAGNOSIS_SECONDS,
        )
    except httpx.HTTPError:
        response = None
    if response is not None and response.status_code in _REFUSALS:
        return StoreError(
            f"the server at {location} refused the request with status {response.status_code}: "
            f"give {CREDENTIALS}"
        )
    reason = location.without_secrets(str(error)).partition("\n")[0]
    if response is not None and response.is_success:  # a tenant or database that does not exist
        return StoreError(f"the Chroma server at {location}: {reason}")
    return StoreUnavailable(f"there is no Chroma server at {location}: {reason}")


@contextmanager
def typed_errors(where: str | ChromaLocation | None, name: str | None) -> Iterator[None]:
    """Raise the errors of Chroma and of its connection as this package's errors.

    Args:
        where: The store, for messages. None means that it is not known.
        name: The collection, for messages. None means no certain one.
    """
    store = None if where is None else ChromaLocation.of(where)
    label = f"Chroma store {store}"
    if name is not None:
        label = f"Chroma collection {name!r}" + (f" of {store}" if store is not None else "")
    try:
        yield
    except SIFTError:
        raise
    except httpx.TransportError as error:
        raise StoreUnavailable(
            f"{label}: {type(error).__name__}: documents already written are kept: run it again "
            "to add the rest"
        ) from error
    except (ChromaError, ValueError, TypeError) as error:
        raise typed(error, label) from error
