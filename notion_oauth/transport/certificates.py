"""Which certificate authorities are trusted: the system's, or those that the environment names, and one's own."""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from notion_oauth.errors import ConfigurationError

CA_FILE = "NOTION_OAUTH_CA_FILE"
# Where Linux and BSD keep the system's authorities, for a Python that was built elsewhere and looks in the wrong place
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_HASHED = re.compile(r"[0-9a-fA-F]{8}\.[0-9]+")  # the names under which OpenSSL finds certificates in a folder


@dataclass(frozen=True, slots=True)
class TrustedAuthorities:
    """Which authorities are trusted: those of `file` and `folder`, of the operating system where both are None,
    and those of `extra` beside them. `source` names where they come from."""

    source: str
    file: str | None = None
    folder: str | None = None
    extra: Path | None = None

    def __str__(self) -> str:
        return self.source if self.extra is None else f"{self.source}, and {CA_FILE} ({self.extra})"


def find_trusted_authorities(extra: Path | None = None) -> TrustedAuthorities:
    """What SSL_CERT_FILE and SSL_CERT_DIR name, or the system's authorities, or certifi's where it has none.

    The authorities in `extra` are trusted too: a company that signs for its own hosts need not sign for the rest.
    """
    file, folder = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    if file or folder:
        named = [f"{name} ({value})" for name, value in (("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folder)) if value]
        return TrustedAuthorities(" and ".join(named), file, folder, extra)
    if sys.platform in ("darwin", "win32"):
        return TrustedAuthorities("the operating system's authorities", extra=extra)
    paths = ssl.get_default_verify_paths()
    folder = paths.capath if paths.capath and _holds_certificates(paths.capath) else None
    file = paths.cafile or next((bundle for bundle in _BUNDLES if Path(bundle).is_file()), None)
    if file or folder:
        return TrustedAuthorities(f"the system's authorities ({file or folder})", file, folder, extra)
    import certifi  # noqa: PLC0415 - slow to import, and seldom needed

    return TrustedAuthorities("certifi's authorities, as the system has none", certifi.where(), None, extra)


@cache
def ssl_context(trust: TrustedAuthorities) -> ssl.SSLContext:
    """The context of connections that trust these authorities; made once, for a hundred certificates take long to read.

    Raises ConfigurationError where a variable names what cannot be used.
    """
    if trust.file is None and trust.folder is None:
        import truststore  # noqa: PLC0415 - for the systems whose store no file holds; installed there alone

        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        if trust.file is None:
            _check_folders(trust.folder or "")
        with _naming("SSL_CERT_FILE"):
            context = ssl.create_default_context(cafile=trust.file, capath=trust.folder)
    if trust.extra is not None:
        with _naming(CA_FILE):
            context.load_verify_locations(trust.extra)
    return context


@contextmanager
def _naming(variable: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        message = f"The file that {variable} names cannot be used: {reason}."
        raise ConfigurationError(message, hint=f"Set {variable} to a PEM file, or unset it.") from None


def _check_folders(folders: str) -> None:
    """OpenSSL looks into a folder at each handshake, and finds nothing wrong with one that is not there."""
    if any(map(_holds_certificates, folders.split(os.pathsep))):
        return
    message = "The folder that SSL_CERT_DIR names holds no certificate under the name that OpenSSL looks for."
    raise ConfigurationError(message, hint="Run: openssl rehash FOLDER, or unset SSL_CERT_DIR.")


def _holds_certificates(folder: str) -> bool:
    try:
        return any(_HASHED.fullmatch(name) for name in os.listdir(folder))  # noqa: PTH208 - names are all it takes
    except OSError:
        return False
