"""Redaction of the logs: text that looks like a secret is removed from a line.

No secret is logged on purpose. This is a second defence, against libraries that log too much and future mistakes.
"""

from __future__ import annotations

import re

HIDDEN = "[redacted]"
_PARAMETERS = (
    *("access_token", "refresh_token", "id_token", "token", "subject_token", "assertion", "client_assertion"),
    *("code", "state", "code_verifier", "client_secret", "csrf_token", "secret_key", "password"),
)
_QUOTE = r"\\*['\"]"
# name=value, also percent-encoded, "name": "value", (b'name', b'value'), name='value'
_PARAMETER = re.compile(
    rf"(?i)(?:(?<![A-Za-z0-9_])|(?<=%[0-9A-F]{{2}}))((?:{'|'.join(_PARAMETERS)})(?:{_QUOTE}?\s*[:=,]\s*b?{_QUOTE}|=|%3D))"
    r"([^&\s'\"<>;,)\]}\\]+)"
)
_HEADER = re.compile(
    rf"(?i)((?<![A-Za-z0-9_])(?:proxy-)?(?:authorization|(?:set-)?cookie){_QUOTE}?\s*[:,=]\s*b?{_QUOTE}?)([^'\"\r\n\\]+)"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)(\s+|%20|\+)[A-Za-z0-9._~+/:=%-]{12,}")
_SHAPE = re.compile(
    r"(?<![\w-])(?:[\w-]+:[\w-]{16,}:[\w-]{32,}"  # the tokens of the library that Notion's server is built on
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*)"  # JWTs (RFC 7519)
)


# A text that matches a pattern above contains one of these, in lower case. Most lines contain none, and need one check.
_MARKERS = ("authorization", "cookie", "bearer", "basic", "eyj", *_PARAMETERS)
_TOKEN_PART = re.compile(r":[\w-]{16}")


def redact(text: str) -> str:
    """The text without what looks like a secret: OAuth parameters, credentials in headers, tokens by their form."""
    if not may_contain_secret(text):
        return text
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _SCHEME.sub(rf"\1\2{HIDDEN}", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _SHAPE.sub(HIDDEN, text)


def may_contain_secret(text: str) -> bool:
    """Return whether a pattern could match; much faster than applying the patterns."""
    if not text.isascii():  # the patterns ignore case, and some letters outside ASCII fold to ASCII
        return True
    lowered = text.lower()
    for marker in _MARKERS:
        if marker in lowered:
            return True
    return _TOKEN_PART.search(text) is not None
