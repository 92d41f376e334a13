"""Builds the OAuth client and the audit log, with OpenTelemetry if `telemetry` is on."""

from __future__ import annotations

from functools import partial
from types import ModuleType

from notion_oauth.clock import Clock
from notion_oauth.errors import ConfigurationError
from notion_oauth.files.installation import install_hint
from notion_oauth.observability.audit import Audit
from notion_oauth.settings import Settings
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport


def build_client(settings: Settings, clock: Clock) -> OAuthClient:
    """Return the client that sends the requests. Raises ConfigurationError if telemetry is on without OpenTelemetry."""
    build = partial(OAuthClient, clock=clock, issuer=settings.issuer, compat=settings.compat_words)
    if not settings.telemetry:
        return build(Transport.from_settings(settings))
    telemetry = _telemetry()
    return build(telemetry.TracedTransport.from_settings(settings), span=telemetry.span)


def build_audit(settings: Settings, profile: str) -> Audit:
    """Return the log of sign-ins and refreshes. Raises ConfigurationError if telemetry is on without OpenTelemetry."""
    audit: Audit = _telemetry().CountedAudit(profile) if settings.telemetry else Audit(profile)
    return audit


def _telemetry() -> ModuleType:
    try:
        from notion_oauth.tokens import telemetry
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise ConfigurationError(
            "NOTION_OAUTH_TELEMETRY is on, but OpenTelemetry is not installed.",
            hint=install_hint("otel", "opentelemetry-api", "Unset NOTION_OAUTH_TELEMETRY, or install it"),
        ) from None
    return telemetry
