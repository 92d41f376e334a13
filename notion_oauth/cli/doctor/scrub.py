"""Remove private data from a report that may be posted in public: secrets, e-mail addresses, host and home names.

No check shows a secret. This is a second line of defence, for values that are part of a path or an address.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from notion_oauth.cli.doctor.environment_checks import secret_settings
from notion_oauth.observability.redaction import HIDDEN, redact

MIN_LENGTH = 4  # characters; shorter values also occur inside other words, and are too short for a secret
_E_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")


def scrub(environment: Mapping[str, str], *urls: str | None) -> Callable[[str], str]:
    """Return a function that removes secrets, e-mail addresses, host names and home directories from a text.

    `urls` are further URLs whose user and query are private.
    """
    secrets = sorted({*_of_settings(environment), *_of_urls([*_proxies(environment), *filter(None, urls)])}, key=len)
    name = socket.gethostname()
    hosts = [each for each in dict.fromkeys((name, name.partition(".")[0])) if len(each) > 1 and each != "localhost"]
    homes = sorted({str(path) for path in _homes(environment)}, key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in reversed(secrets):  # the longest first, as one may contain another
            text = text.replace(secret, HIDDEN)
        for home in homes:
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
        for host in hosts:
            text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "HOST", text)
        return redact(_E_MAIL.sub("[e-mail]", text))

    return clean


def _of_settings(environment: Mapping[str, str]) -> set[str]:
    """Return the values of secret settings, whole and in parts: a setting may hold several keys."""
    values = [value for name, value in environment.items() if name.upper() in secret_settings()]
    parts = [part for value in values for part in re.split(r"[,\s]+", value)]
    return {each for each in (*values, *parts) if len(each) >= MIN_LENGTH and each != "keyring"}


def _of_urls(values: Iterable[str]) -> set[str]:
    """Return the users, passwords and queries of URLs, such as those of proxies."""
    found: set[str] = set()
    for value in values:
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            private = [parts.username or "", parts.password or "", parts.query]
        except ValueError:
            continue
        if "@" in parts.netloc or ("://" in value and parts.query):
            found |= {form for each in private for form in (each, unquote(each)) if len(form) >= MIN_LENGTH}
    return found


def _proxies(environment: Mapping[str, str]) -> list[str]:
    return [value for name, value in environment.items() if name.lower().endswith("_proxy") or "://" in value]


def _homes(environment: Mapping[str, str]) -> set[Path]:
    named = {Path(value) for name in ("HOME", "USERPROFILE") if (value := environment.get(name))}
    with contextlib.suppress(RuntimeError):
        named.add(Path.home())
    every = named | {Path(os.path.realpath(each)) for each in named}
    return {each for each in every if len(each.parts) > 1}
