"""The second line of defence for our own logs: whatever looks like a secret is taken out of a line.

The first is that no secret is ever logged. This one is for libraries that log more than they should, and for the
mistakes of tomorrow.
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


# What there is of each in every text that it could match, in lower case: most lines have none, and are looked at once
_WORDS = ("authorization", "cookie", "bearer", "basic", "eyj", *_PARAMETERS)
_LONG = re.compile(r":[\w-]{16}")


def redact(text: str) -> str:
    """The text without what looks like a secret: parameters of OAuth, credentials in headers, tokens by their shape."""
    if not may_hold_a_secret(text):
        return text
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _SCHEME.sub(rf"\1\2{HIDDEN}", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _SHAPE.sub(HIDDEN, text)


def may_hold_a_secret(text: str) -> bool:
    """Whether there is anything to take out, perhaps: much cheaper than looking for it, and mostly the end of it."""
    if not text.isascii():  # other letters match in spite of their case
        return True
    lowered = text.lower()
    for word in _WORDS:
        if word in lowered:
            return True
    return _LONG.search(text) is not None
