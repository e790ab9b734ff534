"""Connect to servers safely."""

from __future__ import annotations

import pytest
from chromadb.errors import InternalError

from langchain_sift.errors import QuotaExceeded, StoreError
from langchain_sift.indexing.chroma_clients import _arguments, typed_errors
from langchain_sift.stores.location import ChromaLocation


def test_both_clients_verify_certificates_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    location = ChromaLocation.of("https://host/x?tenant=t")
    assert _arguments(location)["settings"].chroma_server_ssl_verify is True
    monkeypatch.setenv("CHROMA_SERVER_SSL_VERIFY", "/etc/own.pem")
    assert _arguments(location)["settings"].chroma_server_ssl_verify == "/etc/own.pem"
    assert _arguments(location)["tenant"] == "t"
    assert _arguments(location)["database"] == "default_database"


def test_the_tenant_of_a_cloud_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHROMA_TENANT", "CHROMA_DATABASE", "CHROMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    asked = "chroma_overwrite_singleton_tenant_database_access_from_auth"
    for url, expected in (
        ("https://api.trychroma.com", True),
        ("https://api.trychroma.com?tenant=t", False),
        ("https://host", False),
    ):
        settings = _arguments(ChromaLocation.of(url))["settings"]
        assert getattr(settings, asked) is expected


def test_errors_name_the_collection_and_the_quota() -> None:
    message = (
        "Quota exceeded: 'Number of records' exceeded quota limit for action 'Add': "
        "current usage of 787 exceeds limit of 300"
    )
    of_store = r"^Chroma collection 'facts' of store: 'Number"
    with pytest.raises(QuotaExceeded, match=of_store) as raised, typed_errors("store", "facts"):
        raise ValueError(message)
    assert (raised.value.quota, raised.value.limit) == ("Number of records", 300)
    alone = r"^Chroma collection 'facts': '"
    with pytest.raises(StoreError, match=alone), typed_errors(None, "facts"):
        raise ValueError(message)


@pytest.mark.parametrize(
    ("message", "cure"),
    [
        ("error returned from database: (code: 13) database or disk is full", "free space"),
        ("error returned from database: (code: 8) attempt to write a readonly database", "perm"),
        ("error returned from database: (code: 11) database disk image is malformed", "restore"),
        ("Error in compaction: Failed to apply logs to the metadata segment", "free space"),
        ("of the text 'a secret'", "InternalError$"),
    ],
)
def test_a_failure_of_the_disk_is_named_with_its_cure(message: str, cure: str) -> None:
    with pytest.raises(StoreError, match=cure) as raised, typed_errors("store", "facts"):
        raise InternalError(message)
    assert "secret" not in str(raised.value)
