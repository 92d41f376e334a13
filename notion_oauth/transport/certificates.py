"""Which certificate authorities are trusted: the system's or those of the environment, and those of CA_FILE."""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from notion_oauth.errors import ConfigurationError, Hint

CA_FILE = "NOTION_OAUTH_CA_FILE"
# Locations on Linux and BSD, for a Python that was built on another system and has the wrong default
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_HASHED = re.compile(r"[0-9a-fA-F]{8}\.[0-9]+")  # the file names by which OpenSSL finds certificates in a directory


@dataclass(frozen=True, slots=True)
class TrustedAuthorities:
    """The trusted authorities: those of `file` and `directory`, or of the operating system if both are None.

    The authorities in `extra` are trusted in addition. `source` describes where the others come from.
    """

    source: str
    file: str | None = None
    directory: str | None = None
    extra: Path | None = None

    def __str__(self) -> str:
        return self.source if self.extra is None else f"{self.source}, and {CA_FILE} ({self.extra})"


def find_trusted_authorities(extra: Path | None = None, *, bundles: tuple[str, ...] = BUNDLES) -> TrustedAuthorities:
    """Return the authorities of SSL_CERT_FILE and SSL_CERT_DIR, else the system's, else certifi's.

    The authorities in `extra` are added, and replace no others: a company's authority signs for its hosts only.
    """
    file, directory = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    if file or directory:
        variables = (("SSL_CERT_FILE", file), ("SSL_CERT_DIR", directory))
        source = " and ".join(f"{name} ({value})" for name, value in variables if value)
        return TrustedAuthorities(source, file, directory, extra)
    if sys.platform in ("darwin", "win32"):
        return TrustedAuthorities("the operating system's authorities", extra=extra)
    paths = ssl.get_default_verify_paths()
    directory = paths.capath if paths.capath and _has_certificates(paths.capath) else None
    file = paths.cafile or next((bundle for bundle in bundles if Path(bundle).is_file()), None)
    if file or directory:
        return TrustedAuthorities(f"the system's authorities ({file or directory})", file, directory, extra)
    import certifi  # noqa: PLC0415 - slow to import, and rarely needed

    return TrustedAuthorities("certifi's authorities, as the system has none", certifi.where(), None, extra)


@cache
def ssl_context(trusted: TrustedAuthorities) -> ssl.SSLContext:
    """Return a context that trusts these authorities; cached, because reading a hundred certificates is slow.

    Raises ConfigurationError if an environment variable or setting names an unusable file or directory.
    """
    if trusted.file is None and trusted.directory is None:
        import truststore  # noqa: PLC0415 - installed only on systems that keep their authorities in no file

        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        if trusted.file is None:
            _check_directories(trusted.directory or "")
        from_environment = trusted.file == os.environ.get("SSL_CERT_FILE")
        with _as_configuration_error("SSL_CERT_FILE" if from_environment else "the system", "SSL_CERT_FILE"):
            _check_is_file(trusted.file)
            context = ssl.create_default_context(cafile=trusted.file, capath=trusted.directory)
    if trusted.extra is not None:
        with _as_configuration_error(CA_FILE, CA_FILE):
            _check_is_file(trusted.extra)
            context.load_verify_locations(trusted.extra)
    return context


@contextmanager
def _as_configuration_error(source: str, variable: str) -> Iterator[None]:
    """Raise an OSError of the block as a ConfigurationError, without a path. `variable` selects another source."""
    try:
        yield
    except OSError as error:  # includes ssl.SSLError
        reason = "it contains no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        message = f"No certificates can be loaded from {source}: {reason}."
        raise ConfigurationError(message, hint=f"Set {variable} to a PEM file, or unset it.") from None


def _check_is_file(path: Path | str | None) -> None:
    """Raise OSError for a pipe or a device: OpenSSL would wait for it forever."""
    if path is not None and not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - may be a str
        raise OSError(errno.EINVAL, "it is not a regular file")


def _check_directories(directories: str) -> None:
    """OpenSSL reads a directory at each handshake, and reports no error if it does not exist."""
    if any(map(_has_certificates, directories.split(os.pathsep))):
        return
    message = "The directory that SSL_CERT_DIR names contains no certificate under a name that OpenSSL looks for."
    raise ConfigurationError(
        message, hint=Hint("Unset SSL_CERT_DIR, or create these names", other_command="openssl rehash DIRECTORY")
    )


def _has_certificates(directory: str) -> bool:
    try:
        return any(_HASHED.fullmatch(name) for name in os.listdir(directory))  # noqa: PTH208 - only names are needed
    except OSError:
        return False
