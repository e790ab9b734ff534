"""Read tenants from a file, and find the tenant of a token."""

from __future__ import annotations

import hashlib
import json

import pytest

from langchain_sift.errors import ArgumentError
from langchain_sift.serving import Tenant, Tenants

A, B, M = "a-token-of-tenant-a", "a-token-of-tenant-b", "a-token-for-metrics"


def sha256(token):
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="tenants.toml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


TOML = f"""
[tenants.acme]
token = "{A}"
filter = {{ tenant = "acme" }}
max_requests = 2

[tenants.globex]
token_sha256 = "{sha256(B).upper()}"
collection = "globex"

[metrics]
token = "{M}"
"""


def test_a_token_belongs_to_one_tenant(write):
    tenants = Tenants.load(write(TOML))
    acme, globex = Tenant("acme", {"tenant": "acme"}, None, 2), Tenant("globex", None, "globex")
    assert tenants.members == (acme, globex)
    assert tenants.owner_of(A) == acme
    assert tenants.owner_of(B) == globex
    for other in (None, "", M, A[:-1], A + "x", A.upper(), sha256(A), sha256(B), "é", "\udc80"):
        assert tenants.owner_of(other) is None
    assert tenants.need_tokens


def test_only_the_token_of_the_metrics_reads_them(write):
    tenants = Tenants.load(write(TOML))
    assert tenants.may_read_metrics(M)
    assert not any(map(tenants.may_read_metrics, (None, "", A, B, sha256(M))))
    without = Tenants.load(write(TOML.partition("[metrics]")[0]))
    assert not any(map(without.may_read_metrics, (None, "", A, B, M, "None")))


def test_json_files_equal_toml_files(write):
    content = {
        "tenants": {
            "acme": {"token": A, "filter": {"tenant": "acme"}, "max_requests": 2},
            "globex": {"token_sha256": sha256(B), "collection": "globex"},
        },
        "metrics": {"token": M},
    }
    assert Tenants.load(write(content, "tenants.json")) == Tenants.load(write(TOML))


def test_tokens_are_not_stored(write):
    text = repr(Tenants.load(write(TOML)))
    assert A not in text
    assert M not in text


def test_one_key_sees_all_documents_and_anybody_needs_no_token():
    one = Tenants.of_one_key(A)
    assert one.owner_of(A) is not None
    assert one.owner_of(None) is None
    assert one.may_read_metrics(A)
    assert not one.may_read_metrics(None)
    anybody = Tenants.anybody()
    assert anybody.owner_of(None) == anybody.owner_of("sk-whatever") == anybody.members[0]
    assert anybody.may_read_metrics(None)
    assert not anybody.need_tokens
    with pytest.raises(ArgumentError, match="at least 16 characters, got 3"):
        Tenants.of_one_key("abc")


def test_white_space_around_the_key_is_removed():
    one = Tenants.of_one_key(f" {A}\r\n")
    assert one == Tenants.of_one_key(A)
    assert one.owner_of(A) is not None
    with pytest.raises(ArgumentError, match="at least 16 characters, got 3"):
        Tenants.of_one_key(f"abc{' ' * 20}")


NOT_SENDABLE = [f" {A}", f"{A}\n", f"{A[:5]}\n{A[5:]}", f"{A}é", f"{A}\x7f", f"\u2003{A}"]


@pytest.mark.parametrize("token", NOT_SENDABLE, ids=ascii)
def test_a_token_that_no_request_can_send_is_rejected(token, write):
    path = write({"tenants": {"a": {"token": token}}}, "tenants.json")
    with pytest.raises(ArgumentError, match=r"tenants\.a\.token.*no request can send") as raised:
        Tenants.load(path)
    assert A[6:] not in str(raised.value)
    if token.strip() != A:
        with pytest.raises(ArgumentError, match="no request can send") as raised:
            Tenants.of_one_key(token)
        assert A[6:] not in str(raised.value)


def test_a_repeated_name_in_json_is_rejected(write):
    first, second = f'{{"token": "{A}", "filter": {{"t": 1}}}}', f'{{"token": "{B}"}}'
    path = write(f'{{"tenants": {{"a": {first}, "a": {second}}}}}', "tenants.json")
    with pytest.raises(ArgumentError, match=r"tenants\.json: 'a' appears twice") as raised:
        Tenants.load(path)
    assert B not in str(raised.value)


BAD = {
    "missing file": (None, "No such file"),
    "invalid TOML": ("tenants = [", "tenants.toml: "),
    "missing tenants": ("", "tenants: Field required"),
    "an empty table": ("[tenants]", "tenants: "),
    "missing token": ("[tenants.a]\nfilter = {t = 1}", "either token or token_sha256"),
    "a token and a digest": (
        f'[tenants.a]\ntoken = "{A}"\ntoken_sha256 = "{sha256(A)}"',
        "either token or",
    ),
    "a short token": ('[tenants.a]\ntoken = "short"', "at least 16 characters"),
    "an invalid digest": ('[tenants.a]\ntoken_sha256 = "abc"', "tenants.a.token_sha256"),
    "a misspelt key": (f'[tenants.a]\ntoken = "{A}"\nfiltre = {{t = 1}}', "tenants.a.filtre"),
    "a limit of 0": (f'[tenants.a]\ntoken = "{A}"\nmax_requests = 0', "max_requests"),
    "the same token": (
        f'[tenants.a]\ntoken = "{A}"\nfilter = {{t = 1}}\n'
        f'[tenants.b]\ntoken_sha256 = "{sha256(A)}"\nfilter = {{t = 2}}',
        "'a' and 'b' have the same token",
    ),
    "a tenant that sees all documents": (
        f'[tenants.a]\ntoken = "{A}"\nfilter = {{t = 1}}\n[tenants.b]\ntoken = "{B}"',
        "'b' has neither filter nor collection",
    ),
    "an empty filter": (
        f'[tenants.a]\ntoken = "{A}"\nfilter = {{t = 1}}\n'
        f'[tenants.b]\ntoken = "{B}"\nfilter = {{}}',
        "'b' has neither filter nor collection",
    ),
    "a tenant's token for the metrics": (
        f'[tenants.a]\ntoken = "{A}"\n[metrics]\ntoken = "{A}"',
        "has a tenant's token",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_file_is_reported_without_its_tokens(case, write, tmp_path):
    content, message = BAD[case]
    path = tmp_path / "tenants.toml" if content is None else write(content)
    with pytest.raises(ArgumentError) as raised:
        Tenants.load(path)
    assert message in str(raised.value)
    assert A not in str(raised.value)
    assert "short" not in str(raised.value).replace("shorter", "")
