"""The options of the practice server, before and while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

DAY = 24 * 60 * 60.0


@dataclass(kw_only=True)
class SandboxOptions:
    """Apart from `auto_consent`, the defaults follow Notion. Times are in seconds. Options may change while it runs."""

    auto_consent: bool = True  # False shows a consent page
    access_token_lifetime: float = 3600
    refresh_token_lifetime: float = 180 * DAY  # from the sign-in, even if it is refreshed
    refresh_token_idle_lifetime: float = 30 * DAY  # without a successful refresh
    registration_lifetime: float | None = 90 * DAY
    authorization_code_lifetime: float = 600
    reuse: Literal["notion", "strict"] = "notion"  # strict: any replay of a refresh token ends the grant
    access_token_survives_refresh: bool = True
    announce_iss: bool = True
    offer_revocation: bool = True
    offer_introspection: bool = True
    client_metadata_documents: dict[str, Any] = field(
        default_factory=dict
    )  # by the client id, which is the document's URL
    scopes: tuple[str, ...] = ("default",)
    other_resources: tuple[str, ...] = ()  # for which it also issues tokens
    serve_path_metadata: bool = True
    serve_root_metadata: bool = True
    metadata_overrides: dict[str, Any] = field(default_factory=dict)  # None removes the key
    resource_metadata_overrides: dict[str, Any] = field(default_factory=dict)
    token_response_overrides: dict[str, Any] = field(default_factory=dict)


def overridden(document: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the document with the overrides applied; an override of None removes its key."""
    return {
        name: value for name, value in {**document, **overrides}.items() if name not in overrides or value is not None
    }
