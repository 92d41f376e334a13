"""Which certificate authorities are trusted: the system's or those of the environment, and those of CA_FILE."""

from __future__ import annotations

import hashlib
import os
import ssl
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.x509 import Name, NameAttribute

from notion_oauth.errors import ConfigurationError, NetworkError
from notion_oauth.protocol.messages import Request
from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import Settings
from notion_oauth.transport.certificates import TrustedAuthorities, find_trusted_authorities, ssl_context
from notion_oauth.transport.client import Transport
from tests.support.servers import Visitors, secure_server


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Visitors]:
    with secure_server(authority, "localhost") as running:
        yield running


async def get(server: Visitors, ca_file: Path | None = None) -> int:
    url = f"https://localhost:{server.port}/"
    transport = Transport(timeout=timedelta(seconds=10), server_url=url, ca_file=ca_file)
    return (await transport.send(Request("GET", url))).status


@pytest.mark.anyio
async def test_an_unknown_authority_is_not_trusted(server: Visitors) -> None:
    with pytest.raises(NetworkError, match=r"certificate of localhost:.* is not trusted") as caught:
        await get(server)
    assert "NOTION_OAUTH_CA_FILE" in str(caught.value.hint)
    assert server.heads == []


@pytest.mark.anyio
async def test_ca_file_adds_an_authority(
    server: Visitors, ca_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert await get(server, ca_file) == 200
    monkeypatch.setenv("NOTION_OAUTH_CA_FILE", str(ca_file))
    url = f"https://localhost:{server.port}/"
    assert (await Transport.from_settings(Settings(server_url=url)).send(Request("GET", url))).status == 200
    # In addition to those of the environment, not instead of them
    other = trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    assert await get(server, ca_file) == 200
    with secure_server(other, "localhost") as signed_by_other:
        assert await get(signed_by_other, ca_file) == 200


@pytest.mark.anyio
async def test_ca_file_may_be_in_a_kubernetes_config_map(server: Visitors, ca_file: Path, tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "..2026" / "ca.pem").write_bytes(ca_file.read_bytes())
    (tmp_path / "ca.pem").symlink_to("..data/ca.pem")
    assert await get(server, tmp_path / "ca.pem") == 200


@pytest.mark.parametrize("variable", ["NOTION_OAUTH_CA_FILE", "SSL_CERT_FILE"])
def test_a_pipe_as_ca_file_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    pipe = tmp_path / "ca.pem"
    os.mkfifo(pipe)
    if variable == "SSL_CERT_FILE":
        monkeypatch.setenv(variable, str(pipe))
    with pytest.raises(ConfigurationError) as caught:
        ssl_context(find_trusted_authorities(pipe if variable == "NOTION_OAUTH_CA_FILE" else None))
    assert caught.value.message == f"No certificates can be loaded from {variable}: it is not a regular file."


@pytest.mark.anyio
async def test_the_certificate_must_match_the_host(authority: trustme.CA, ca_file: Path) -> None:
    with secure_server(authority, "other.example") as server, pytest.raises(NetworkError, match="Hostname mismatch"):
        await get(server, ca_file)


@pytest.mark.anyio
async def test_ssl_cert_file_replaces_the_system_authorities(
    server: Visitors, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    assert await get(server) == 200
    assert ssl_context(find_trusted_authorities()).cert_store_stats()["x509_ca"] == 1


@pytest.mark.anyio
async def test_ssl_cert_dir_replaces_the_system_authorities(
    server: Visitors, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = tmp_path / "authorities"
    directory.mkdir()
    authority.cert_pem.write_to_path(directory / f"{subject_hash(authority)}.0")
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'nowhere'}:{directory}")
    assert await get(server) == 200


def subject_hash(authority: trustme.CA) -> str:
    """The name by which OpenSSL finds a certificate: a hash of the subject in lower case, without the outer header."""
    subject = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject
    canonical = Name([NameAttribute(each.oid, str(each.value).lower()) for each in subject]).public_bytes()
    return f"{int.from_bytes(hashlib.sha1(canonical[2:]).digest()[:4], 'little'):08x}"  # noqa: S324 - OpenSSL's choice


BAD = {
    "nowhere": (None, "No such file or directory"),
    "empty": ("", "it contains no certificate"),
    "text": ("no certificate", "it contains no certificate"),
    "half": ("-----BEGIN CERTIFICATE-----\nMIIB", "it contains no certificate"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "NOTION_OAUTH_CA_FILE"])
@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
async def test_an_unusable_file_is_reported_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, content: str | None, reason: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(variable, str(file))
    with pytest.raises(ConfigurationError, match=f"loaded from {variable}: {reason}") as caught:
        await Transport.from_settings(Settings()).send(Request("GET", "https://h.invalid/"))
    assert variable in str(caught.value.hint)


def test_a_damaged_bundle_of_the_system_is_not_blamed_on_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("no certificate")
    with pytest.raises(ConfigurationError, match="loaded from the system: it contains no certificate"):
        ssl_context(TrustedAuthorities("the system's authorities", str(bundle)))


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_without_certificates_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exists: bool
) -> None:
    directory = tmp_path / "authorities"
    if exists:
        directory.mkdir()
        (directory / "company.pem").write_text("under a name that OpenSSL does not look for")
    monkeypatch.setenv("SSL_CERT_DIR", str(directory))
    with pytest.raises(ConfigurationError, match="SSL_CERT_DIR") as caught:
        ssl_context(find_trusted_authorities())
    assert "openssl rehash" in str(caught.value.hint)


@pytest.mark.anyio
async def test_plain_http_reads_no_certificates(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    transport = Transport(timeout=timedelta(seconds=10), server_url=sandbox.mcp_url, ca_file=Path("/nowhere"))
    assert (await transport.send(Request("GET", sandbox.base_url))).status == 200


def test_the_ssl_context_is_cached_by_its_authorities(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ssl_context(find_trusted_authorities())
    assert ssl_context(find_trusted_authorities()) is first
    assert ssl_context(find_trusted_authorities(ca_file)) is not first
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    assert ssl_context(find_trusted_authorities()) is not first


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="their authorities are not in files")
def test_certifi_is_the_fallback_for_a_system_without_authorities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = ssl.DefaultVerifyPaths("", str(tmp_path), "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: empty)
    bundle = tmp_path / "bundle.pem"
    monkeypatch.setattr("certifi.where", lambda: str(files("certifi") / "cacert.pem"))  # conftest.py patches it
    find = partial(find_trusted_authorities, bundles=(str(bundle),))
    trusted = find()
    assert "certifi" in str(trusted)
    assert ssl_context(trusted).cert_store_stats()["x509_ca"] > 50
    bundle.touch()
    assert find().file == str(bundle), "a bundle of the system takes precedence"
    (tmp_path / "0a1b2c3d.0").touch()
    assert find().directory == str(tmp_path)
