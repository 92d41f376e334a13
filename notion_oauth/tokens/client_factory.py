"""Builds the OAuth client and the audit log, with OpenTelemetry if `telemetry` is on."""

from __future__ import annotations

from notion_oauth.clock import Clock
from notion_oauth.errors import ConfigurationError
from notion_oauth.observability.audit import Audit
from notion_oauth.settings import Settings
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport


def build_client_and_audit(settings: Settings, profile: str, clock: Clock) -> tuple[OAuthClient, Audit]:
    """The client that sends the requests, and the log of their outcomes.

    Raises ConfigurationError if telemetry is on and OpenTelemetry is not installed.
    """
    if not settings.telemetry:
        return OAuthClient(Transport.from_settings(settings), clock=clock, issuer=settings.issuer), Audit(profile)
    try:
        from notion_oauth.tokens import telemetry
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise ConfigurationError(
            "NOTION_OAUTH_TELEMETRY is on, but OpenTelemetry is not installed.",
            hint="Install it with: uv pip install 'notion-oauth[otel]', or unset NOTION_OAUTH_TELEMETRY.",
        ) from None
    transport = telemetry.TracedTransport.from_settings(settings)
    return telemetry.TracedClient(transport, clock=clock, issuer=settings.issuer), telemetry.CountedAudit(profile)
