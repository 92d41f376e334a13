"""What a user knowingly allows a server that differs from the specifications: the words of NOTION_OAUTH_COMPAT."""

from __future__ import annotations

import re

from notion_oauth.errors import Hint

COMPAT = "NOTION_OAUTH_COMPAT"
UNLISTED_PKCE = "unlisted-pkce"  # S256 is used although the metadata does not list it (Entra ID, Cognito)
NO_RESOURCE = "no-resource"  # no `resource` is sent (Entra ID refuses it together with some scopes)
NO_PROMPT = "no-prompt"  # no `prompt=consent` is sent (Entra ID then asks for an administrator)
REFRESH_SCOPE = "refresh-scope"  # a refresh repeats the scope of the sign-in (Entra ID, if client and API are one app)
WORDS = (UNLISTED_PKCE, NO_RESOURCE, NO_PROMPT, REFRESH_SCOPE)

UNLISTED_PKCE_HINT = Hint(
    f"If you know that it supports PKCE with S256, as Entra ID and Cognito do, set {COMPAT}={UNLISTED_PKCE}."
)
_NO_RESOURCE_HINT = Hint(
    f"If the server does not support the parameter `resource`, set {COMPAT}={NO_RESOURCE}. Then sign in again", "login"
)

_REFRESH_SCOPE_HINT = Hint(f"Set {COMPAT}={REFRESH_SCOPE}.")


def parse_compat(text: str) -> tuple[str, ...]:
    """Return the words in a text, which commas or spaces separate. Raises ValueError for an unknown word."""
    words = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if not set(words) <= set(WORDS):
        raise ValueError(f"it contains another word than {', '.join(WORDS)}")
    return words


def compat_hint(code: str, description: str | None) -> Hint | None:
    """Return the hint for an error that a word of NOTION_OAUTH_COMPAT may prevent; None for another error."""
    if "AADSTS90009" in (description or ""):  # an app requests a token for itself, without a scope
        return _REFRESH_SCOPE_HINT
    about_resource = code == "invalid_request" and re.search(r"\bresource\b", description or "", re.IGNORECASE)
    return _NO_RESOURCE_HINT if about_resource or code in ("invalid_target", "invalid_resource") else None
