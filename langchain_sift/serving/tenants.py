"""Who may ask: bearer tokens, the tenants that they belong to, and what each may see."""

from __future__ import annotations

import hashlib
import hmac
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from langchain_sift.errors import ArgumentError

_SHORTEST_TOKEN = 16  # characters


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody whose requests see some documents and no others."""

    name: str

    filter: Mapping[str, Any] | None = None
    """What the store's documents must match; a request can only narrow it. None: all of them."""

    collection: str | None = None
    """None: that of the server."""

    max_requests: int | None = None
    """Requests at once; one more is refused. None: as many as the engine admits."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """All who may ask, by their tokens; the tokens themselves are not kept."""

    by_digest: Mapping[str, Tenant]
    """SHA-256 of a token in hexadecimal digits, and whose it is; empty: nobody needs a token."""

    metrics_digest: str | None = None
    """The same, of the token that may read the metrics."""

    @property
    def members(self) -> tuple[Tenant, ...]:
        """Each tenant once."""
        return tuple(self.by_digest.values()) or (ANYBODY,)

    @property
    def need_tokens(self) -> bool:
        """Whether a request without a token is refused."""
        return bool(self.by_digest)

    def owner_of(self, token: str | None) -> Tenant | None:
        """Return whose token this is, in a time that tells nothing of the others."""
        if not self.by_digest:
            return ANYBODY
        digest = digest_of(token or "")
        owner = None
        for known, tenant in self.by_digest.items():
            if hmac.compare_digest(known, digest):
                owner = tenant
        return owner

    def may_read_metrics(self, token: str | None) -> bool:
        """Return whether this token, or none, may see what all tenants do together."""
        if not self.by_digest:
            return True
        return self.metrics_digest is not None and hmac.compare_digest(
            self.metrics_digest, digest_of(token or "")
        )

    @classmethod
    def anybody(cls) -> Self:
        """Return nobody in particular: no token is needed, and all documents are seen."""
        return cls({})

    @classmethod
    def of_one_key(cls, key: str) -> Self:
        """Return one tenant that sees all documents, and the metrics.

        White space around it, as the end of a file that it is read from, is no part of it.

        Raises:
            ArgumentError: If the key is too short to be a secret, or no request can present it.
        """
        key = _presentable(key.strip())
        if len(key) < _SHORTEST_TOKEN:
            raise ArgumentError(
                f"an API key needs at least {_SHORTEST_TOKEN} characters, got {len(key)}"
            )
        return cls({digest_of(key): ANYBODY}, digest_of(key))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a TOML or JSON file.

        ```toml
        [tenants.acme]
        token_sha256 = "..."           # or token = "..."
        filter = { tenant = "acme" }   # or collection = "acme", or both

        [metrics]                      # who may read /metrics; nobody without it
        token_sha256 = "..."
        ```

        Raises:
            ArgumentError: If the file cannot be read, says something else, or two tenants have
                the same name or token, or one of several sees all documents, or there is a token
                that no request can present.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            is_json = Path(path).suffix == ".json"
            found = json.loads(text, object_pairs_hook=_once) if is_json else tomllib.loads(text)
            return cls._of(_File.model_validate(found))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}"
                for one in error.errors(include_input=False, include_url=False)
            )
            raise ArgumentError(f"{path}: {problems}") from None  # its text holds tokens
        except (OSError, ValueError) as error:
            raise ArgumentError(f"{path}: {error}") from error

    @classmethod
    def _of(cls, file: _File) -> Self:
        by_digest: dict[str, Tenant] = {}
        for name, entry in file.tenants.items():
            if len(file.tenants) > 1 and not (entry.filter or entry.collection):
                raise ArgumentError(
                    f"tenant {name!r} has neither filter nor collection: it would see everything"
                )
            if entry.digest in by_digest:
                raise ArgumentError(
                    f"tenants {by_digest[entry.digest].name!r} and {name!r} have the same token"
                )
            by_digest[entry.digest] = Tenant(
                name, entry.filter or None, entry.collection, entry.max_requests
            )
        metrics = None if file.metrics is None else file.metrics.digest
        if metrics in by_digest:
            raise ArgumentError(
                "[metrics] has a tenant's token: it would show that tenant what the others do"
            )
        return cls(by_digest, metrics)


ANYBODY = Tenant("anybody")


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token, 64 hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _presentable(token: str) -> str:
    """Return a token that a header can carry; headers lose the white space around it."""
    if not (token.isascii() and token.isprintable() and token == token.strip()):
        raise ArgumentError(
            "no request can present this token: take printable ASCII characters, "
            "without white space around them"
        )
    return token


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON that says nothing twice; TOML forbids it itself."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"{twice!r} is given twice: keep one of them")
    return found


class _Secret(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: (
        Annotated[str, Field(min_length=_SHORTEST_TOKEN), AfterValidator(_presentable)] | None
    ) = None
    token_sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.token is None) == (self.token_sha256 is None):
            raise ValueError("give either token or token_sha256")
        return self

    @property
    def digest(self) -> str:
        return digest_of(self.token) if self.token else str(self.token_sha256).lower()


class _Entry(_Secret):
    filter: dict[str, Any] | None = None
    collection: str | None = None
    max_requests: Annotated[int, Field(ge=1)] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tenants: Annotated[dict[str, _Entry], Field(min_length=1)]
    metrics: _Secret | None = None
