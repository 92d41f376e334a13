"""Options of `login`: scopes, strength and age of the sign-in, or an assertion from a file."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from pathlib import Path

from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError
from notion_oauth.protocol.challenge import BearerChallenge, parse_scope_tokens, requested_challenge

_INVALID_VALUE = "{name} must contain values separated by spaces, without quotes or backslashes (RFC 6749 §3.3)."
MAX_ASSERTION = 64 * 1024  # characters
_JWT = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")  # RFC 7515 §7.1


def parse_sign_in_options(
    scope: str | None = None, acr_values: str | None = None, max_age: int | None = None
) -> BearerChallenge | None:
    """Return the options as a resource's challenge; None without options. Raises ConfigurationError."""
    for name, value in (("--scope", scope), ("--acr-values", acr_values)):
        if value is not None and parse_scope_tokens(value) is None:
            raise ConfigurationError(
                _INVALID_VALUE.format(name=name), hint="Correct the option and run the command again."
            )
    return requested_challenge(scope, acr_values, max_age)


def read_assertion(path: Path) -> SecretStr:
    """Return the assertion (a JWT) in a file, or on standard input if the path is `-`. Raises ConfigurationError."""
    try:
        # No check of owner and mode, as for the token file: the issuer of the assertion sets them
        content = sys.stdin.read(MAX_ASSERTION) if str(path) == "-" else _read(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"There is no file {path}.", hint="Check the path after --assertion-file.") from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path after --assertion-file."
        ) from None
    except UnicodeDecodeError:
        content = ""
    if not _JWT.fullmatch(content.strip()):
        where = "Standard input" if str(path) == "-" else f"{path}"
        raise ConfigurationError(
            f"{where} contains no assertion: a JWT is one line of three parts, separated by dots.",
            hint="Request an assertion for this server from your identity provider, and sign in before it expires.",
        )
    return SecretStr(content.strip())


def _read(path: Path) -> bytes:
    # O_NONBLOCK, because opening a pipe would wait for its writer. Without a writer, the pipe is at its end
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no Path
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind):
            os.set_blocking(descriptor, True)
        elif not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is neither a file nor a pipe")
        return file.read(MAX_ASSERTION)
