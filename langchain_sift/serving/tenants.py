"""Define tenants: their bearer tokens, and the documents that each may see."""

from __future__ import annotations

import hashlib
import hmac
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from langchain_sift.errors import ArgumentError

_MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Tenant:
    """A client whose requests see only its documents."""

    name: str

    filter: Mapping[str, object] | None = None
    """Filter that the tenant's documents match; a request can only narrow it. None means all
    documents of the collection."""

    collection: str | None = None
    """Name of the collection. None means that of the server."""

    max_requests: int | None = None
    """Maximum number of requests at once, and of answers that one request generates at once.
    Further requests are rejected, further answers wait. None means no limit but the engine's."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """The tenants of a server, by the digests of their tokens; tokens are not stored."""

    by_digest: Mapping[str, Tenant]
    """Tenants by the SHA-256 of their tokens, in hexadecimal digits. Empty means that requests
    need no token."""

    metrics_digest: str | None = None
    """SHA-256 of the token that may read the metrics. None means that no token may."""

    @property
    def members(self) -> tuple[Tenant, ...]:
        """All tenants."""
        return tuple(self.by_digest.values()) or (ANYBODY,)

    @property
    def need_tokens(self) -> bool:
        """True if requests without a token are rejected."""
        return bool(self.by_digest)

    def owner_of(self, token: str | None) -> Tenant | None:
        """Return the tenant of a token, or None, in a time that does not depend on other tokens."""
        if not self.by_digest:
            return ANYBODY
        digest = digest_of(token or "")
        owner = None
        for known, tenant in self.by_digest.items():
            if hmac.compare_digest(known, digest):
                owner = tenant
        return owner

    def may_read_metrics(self, token: str | None) -> bool:
        """Return True if a token, or None for no token, may read the metrics of all tenants."""
        if not self.by_digest:
            return True
        return self.metrics_digest is not None and hmac.compare_digest(
            self.metrics_digest, digest_of(token or "")
        )

    @classmethod
    def anybody(cls) -> Self:
        """Return a single tenant that needs no token and sees all documents."""
        return cls({})

    @classmethod
    def of_one_key(cls, key: str) -> Self:
        """Return a single tenant that sees all documents and the metrics.

        Args:
            key: The token; white space around it is removed, such as the newline of a file.

        Raises:
            ArgumentError: If the key is too short, or no request can send it.
        """
        key = _sendable(key.strip())
        if len(key) < _MIN_TOKEN_LENGTH:
            raise ArgumentError(
                f"an API key needs at least {_MIN_TOKEN_LENGTH} characters, got {len(key)}"
            )
        return cls({digest_of(key): ANYBODY}, digest_of(key))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a TOML or JSON file.

        ```toml
        [tenants.acme]
        token_sha256 = "..."           # or token = "..."
        filter = { tenant = "acme" }   # or collection = "acme", or both

        [metrics]                      # without this table no token may read /metrics
        token_sha256 = "..."
        ```

        Raises:
            ArgumentError: If the file cannot be read or is invalid, if two tenants have the same
                name or token, if one of several tenants sees all documents, or if no request can
                send a token.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            is_json = Path(path).suffix == ".json"
            if is_json:
                content = json.loads(text, object_pairs_hook=_unique)
            else:
                content = tomllib.loads(text)
            return cls._from_file(_File.model_validate(content))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
                for problem in error.errors(include_input=False, include_url=False)
            )
            # Without the cause: its text contains tokens.
            raise ArgumentError(f"{path}: {problems}") from None
        except (OSError, ValueError) as error:
            raise ArgumentError(f"{path}: {error}") from error

    @classmethod
    def _from_file(cls, file: _File) -> Self:
        by_digest: dict[str, Tenant] = {}
        for name, entry in file.tenants.items():
            if len(file.tenants) > 1 and not (entry.filter or entry.collection):
                raise ArgumentError(
                    f"tenant {name!r} has neither filter nor collection: add one of them, or the "
                    "tenant would see all documents"
                )
            if entry.digest in by_digest:
                raise ArgumentError(
                    f"tenants {by_digest[entry.digest].name!r} and {name!r} have the same token: "
                    "choose another for one of them"
                )
            by_digest[entry.digest] = Tenant(
                name, entry.filter or None, entry.collection, entry.max_requests
            )
        metrics = None if file.metrics is None else file.metrics.digest
        if metrics in by_digest:
            raise ArgumentError(
                "[metrics] has a tenant's token, and would show that tenant the metrics of the "
                "others: choose another token"
            )
        return cls(by_digest, metrics)


ANYBODY = Tenant("anybody")


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token, 64 hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _sendable(token: str) -> str:
    """Return the token if a header can carry it; headers lose white space around a value."""
    if not (token.isascii() and token.isprintable() and token == token.strip()):
        raise ArgumentError(
            "no request can send this token: use printable ASCII characters without white space "
            "around them"
        )
    return token


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object, and reject a repeated name; TOML rejects them by itself."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"{repeated!r} appears twice: keep one of them")
    return unique


class _Secret(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(min_length=_MIN_TOKEN_LENGTH), AfterValidator(_sendable)] | None = (
        None
    )
    token_sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.token is None) == (self.token_sha256 is None):
            raise ValueError("set either token or token_sha256")
        return self

    @property
    def digest(self) -> str:
        return digest_of(self.token) if self.token else str(self.token_sha256).lower()


class _Entry(_Secret):
    filter: dict[str, object] | None = None
    collection: str | None = None
    max_requests: Annotated[int, Field(ge=1)] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tenants: Annotated[dict[str, _Entry], Field(min_length=1)]
    metrics: _Secret | None = None
