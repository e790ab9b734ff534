"""Parse folders and URLs of stores, and keep their credentials out of every text."""

# ruff: noqa: S106 - the passwords are made up

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_sift.config import STORE_HEADERS_VARIABLE, STORE_TOKEN_VARIABLE
from langchain_sift.errors import ArgumentError
from langchain_sift.stores.location import ChromaLocation, is_url

VARIABLES = (
    STORE_TOKEN_VARIABLE,
    STORE_HEADERS_VARIABLE,
    "CHROMA_API_KEY",
    "CHROMA_TENANT",
    "CHROMA_DATABASE",
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "server", "text", "tenant", "database"),
    [
        ("http://host", "http://host:8000", "http://host", None, None),
        ("https://host", "https://host:443", "https://host", None, None),
        ("http://host:9000/", "http://host:9000", "http://host:9000", None, None),
        ("https://h:1/a/b/", "https://h:1/a/b", "https://h:1/a/b", None, None),
        ("HTTP://Host", "http://host:8000", "http://host", None, None),
        ("http://[::1]:8000", "http://[::1]:8000", "http://[::1]:8000", None, None),
        ("http://h?tenant=t", "http://h:8000", "http://h?tenant=t", "t", None),
        (
            "https://user:password@h:8443/chroma?tenant=a%20b&database=d",
            "https://h:8443/chroma",
            "https://h:8443/chroma?tenant=a+b&database=d",
            "a b",
            "d",
        ),
    ],
)
def test_a_url_keeps_its_path_tenant_and_database(url, server, text, tenant, database):
    location = ChromaLocation.of(url)
    assert (location.url, str(location)) == (server, text)
    assert (location.tenant, location.database) == (tenant, database)
    assert ChromaLocation.of(location) is location
    assert is_url(url)
    assert is_url(location)


@pytest.mark.parametrize("folder", ["store", "/a/b", "C:\\data", "a@b", Path("x/y")])
def test_a_folder_is_a_folder(folder, monkeypatch):
    monkeypatch.setenv(STORE_TOKEN_VARIABLE, "secret")
    location = ChromaLocation.of(folder)
    assert location == ChromaLocation(str(folder))
    assert location.headers == ()
    assert not is_url(folder)


@given(st.text(min_size=1), st.text())
def test_user_and_password_are_sent_and_never_shown(user, password):
    from urllib.parse import quote  # noqa: PLC0415

    url = f"https://{quote(user, safe='')}:{quote(password, safe='')}@host.example/x"
    location = ChromaLocation.of(url)
    ((name, value),) = location.headers
    assert name == "Authorization"
    assert base64.b64decode(value.removeprefix("Basic ")).decode() == f"{user}:{password}"
    assert str(location) == "https://host.example/x"
    assert value not in repr(location)


def test_options_precede_the_url_and_the_url_precedes_the_environment(monkeypatch):
    url = "https://user:password@host"
    monkeypatch.setenv(STORE_TOKEN_VARIABLE, "from-environment")
    monkeypatch.setenv(STORE_HEADERS_VARIABLE, "X-Team: a b\nAuthorization: Env env\n\n")
    plain = dict(ChromaLocation.of("https://host").headers)
    assert plain == {"X-Team": "a b", "Authorization": "Env env"}
    assert dict(ChromaLocation.of(url).headers)["Authorization"].startswith("Basic ")
    by_token = dict(ChromaLocation.of(url, token="option").headers)
    assert by_token == {"X-Team": "a b", "Authorization": "Bearer option"}
    by_header = ChromaLocation.of(url, token="option", headers=["authorization: Own x", "x-team:c"])
    assert dict(by_header.headers) == {"authorization": "Own x", "x-team": "c"}


def test_chroma_cloud_takes_its_own_variables_which_no_other_server_gets(monkeypatch):
    monkeypatch.setenv("CHROMA_API_KEY", "key")
    monkeypatch.setenv("CHROMA_TENANT", "t")
    monkeypatch.setenv("CHROMA_DATABASE", "d")
    cloud = ChromaLocation.of("https://api.trychroma.com?database=other")
    assert dict(cloud.headers) == {"X-Chroma-Token": "key"}
    assert (cloud.tenant, cloud.database, cloud.is_cloud) == ("t", "other", True)
    assert dict(ChromaLocation.of("https://api.trychroma.com", token="x").headers) == {
        "X-Chroma-Token": "x"
    }
    for url in ("https://host", "https://trychroma.com.example", "https://nottrychroma.com"):
        other = ChromaLocation.of(url)
        assert (other.headers, other.tenant, other.is_cloud) == ((), None, False)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2/x@host",  # "/" is not encoded
        "https://user:12/hunter2@host",
        "https://user:hunter2@host:port",
        "https://user:hunter2@",
        "https://user:hunter2@host:0",
        "https://user:hunter2@host?tenant=",
        "https://user:hunter2@host?Tenant=x",
        "https://user:hunter2@host#x",
        "https://[user:hunter2@host",
        "ftp://user:hunter2@host",
    ],
)
def test_a_malformed_url_is_an_error_that_shows_no_password(url):
    with pytest.raises(ArgumentError) as raised:
        ChromaLocation.of(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "header", ["hunter2", "X-Token hunter2", "X: a\r\nY: hunter2", "X: hunter2é"]
)
def test_a_malformed_header_is_an_error_that_shows_no_value(header):
    with pytest.raises(ArgumentError, match="NAME: VALUE") as raised:
        ChromaLocation.of("http://host", headers=[header])
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ArgumentError, match="NAME: VALUE"):
        ChromaLocation.of("http://host", token=f"hunter2\n{header}")


def test_a_folder_needs_no_credentials():
    for given_ in ({"token": "x"}, {"headers": ["A: b"]}):
        with pytest.raises(ArgumentError, match="folder, which needs neither"):
            ChromaLocation.of("store", **given_)


def test_secrets_are_removed_from_messages():
    location = ChromaLocation.of("https://host", token="hunter2", headers=["X-Key: abc def"])
    message = location.without_secrets("got Bearer hunter2, hunter2 and abc def")
    assert "hunter2" not in message
    assert "def" not in message
