"""Checks of the connection to the servers, their responses, their metadata and their clocks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from cryptography import x509

from notion_oauth.cli.doctor.context import CheckContext
from notion_oauth.cli.doctor.findings import Finding, failure, ok, warning
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.errors import TRY_LATER, MetadataError
from notion_oauth.protocol import discovery
from notion_oauth.protocol.compat import COMPAT, UNLISTED_PKCE
from notion_oauth.protocol.messages import Response, host_of, http_date
from notion_oauth.tokens.registrations import RegistrationMethod, registration_method
from notion_oauth.transport.certificates import find_trusted_authorities, ssl_context
from notion_oauth.transport.proxies import describe_connection

LOOKUP_TIMEOUT = timedelta(seconds=5)
SKEW_WARNING = timedelta(seconds=30)
SKEW_FAILURE = timedelta(minutes=5)
CERTIFICATE_WARNING = timedelta(days=14)
_RESOLUTION = timedelta(seconds=1)  # of a Date header (RFC 9110 §5.6.7)
_CHECK_URL = MetadataError.default_hint


async def route(context: CheckContext) -> Sequence[Finding]:
    """How the MCP server is reached: through a proxy, or at which addresses."""
    return await _route(context, context.settings.server_url)


async def issuer_route(context: CheckContext) -> Sequence[Finding]:
    """How the authorization server is reached, if it is on another host."""
    endpoint = (await context.discovery.get_or_skip()).server.token_endpoint
    if host_of(endpoint) == host_of(context.settings.server_url):
        return [ok(f"{host_of(endpoint)} is also the MCP server's host")]
    return await _route(context, endpoint)


async def _route(context: CheckContext, url: str) -> list[Finding]:
    found = await describe_connection(url, ca_file=context.settings.ca_file, time_limit=LOOKUP_TIMEOUT)
    if found.proxy is not None:
        return [ok(f"{found.host} through the proxy {found.proxy}")]
    if not found.addresses:
        hint = "Check the network connection and DNS. If you need a proxy, set HTTPS_PROXY."
        # As the transport says it, because findings with the same message are shown as one
        return [failure(f"{found.host} could not be reached: its name does not resolve.", hint)]
    shown = ", ".join(f"{address} ({kind.value})" for address, kind in found.addresses[:4])
    return [ok(f"{found.host} directly, at {shown}")]


async def trust(context: CheckContext) -> Sequence[Finding]:
    """Which certificate authorities are trusted, and whether they can be loaded."""
    found = find_trusted_authorities(context.settings.ca_file)
    await run_in_daemon_thread(lambda: ssl_context(found))  # raises if they cannot be used
    return [ok(str(found))]


async def server(context: CheckContext) -> Sequence[Finding]:
    """Whether the MCP server answers a request without a token as required (RFC 6750 §3, RFC 9728 §5.1)."""
    response = await context.response.get()
    host = host_of(response.url)
    if response.status in (401, 403):
        return [_challenged(response, host)]
    if response.status == 429 or response.status >= 500:
        return [failure(f"{host} answers HTTP {response.status}.", TRY_LATER)]
    if response.ok:
        return [warning(f"{host} accepts requests without a token.", _CHECK_URL)]
    return [failure(f"{host} has no MCP server at this URL (HTTP {response.status}).", _CHECK_URL)]


def _challenged(response: Response, host: str) -> Finding:
    challenge = discovery.challenge_of(response)
    if challenge is None:
        message = f"{host} answers HTTP {response.status} without a Bearer challenge (RFC 6750 §3)."
        return warning(message, "Its metadata is requested from well-known URLs instead. Report this to its operator.")
    names = "names" if challenge.resource_metadata else "does not name"
    return ok(f"{host} answers HTTP {response.status} with a challenge that {names} its metadata")


async def certificate(context: CheckContext) -> Sequence[Finding]:
    """How long the servers' certificates are valid. They are trusted, as a response was received."""
    await context.response.get_or_skip()
    if urlsplit(context.settings.server_url).scheme != "https":
        return [ok("none needed: the MCP server is on this machine, and uses plain http")]
    found = {host_of(each.url): each.certificate for each in context.transport.exchanges if each.certificate}
    return [_validity(context, host, content) for host, content in found.items()]


def _validity(context: CheckContext, host: str, content: bytes) -> Finding:
    left = x509.load_der_x509_certificate(content).not_valid_after_utc - context.clock()
    if left >= CERTIFICATE_WARNING:
        return ok(f"that of {host} is trusted, and valid for {left.days} days")
    message = f"The certificate of {host} expires in {max(0, left.days)} days."
    return warning(message, "The operator of the server has to renew it.")


async def clock(context: CheckContext) -> Sequence[Finding]:
    """Compare the clock with the server's, from its Date header, which has a resolution of one second."""
    response = await context.response.get_or_skip()
    date = http_date(response.headers.get("date", ""))
    if date is None:
        return [ok(f"{host_of(response.url)} sends no valid Date header")]
    exchange = context.transport.exchanges[0]
    difference = _skew(date, exchange.sent_at, exchange.received_at)
    host, size = host_of(response.url), abs(difference)
    message = f"{size.total_seconds():.1f} s {'ahead of' if difference > timedelta() else 'behind'} {host}"
    if size < SKEW_WARNING:
        return [ok(f"{size.total_seconds():.1f} s difference from {host}")]
    hint = "Correct the clock, and turn on time synchronization (NTP)."
    if size < SKEW_FAILURE:
        return [warning(f"The clock of this machine is {message}.", hint)]
    return [failure(f"The clock of this machine is {message}: tokens appear valid or expired when they are not.", hint)]


def _skew(date: datetime, sent_at: datetime, received_at: datetime) -> timedelta:
    """Return this clock minus the server's, at the midpoints of the request and of the second in the Date header."""
    return sent_at + (received_at - sent_at) / 2 - (date + _RESOLUTION / 2)


async def metadata(context: CheckContext) -> Sequence[Finding]:
    """Whether the metadata describes an authorization server at which a sign-in is safe."""
    found = await context.discovery.get()
    issuer = found.server.issuer
    if found.assumed:
        message = f"{issuer} publishes no metadata (RFC 9728, RFC 8414): assuming the endpoints of MCP 2025-03-26."
        return [warning(message, _CHECK_URL)]
    if found.server.authorization_endpoint is None:
        return [ok(f"issuer {issuer}; assertions only (RFC 7523): no sign-in through a browser")]
    names = "name" if found.server.authorization_response_iss_parameter_supported else "do not name"
    listed = "S256" in found.server.code_challenge_methods_supported
    pkce = "PKCE with S256" if listed else f"PKCE with S256 is not listed ({COMPAT}={UNLISTED_PKCE} allows that)"
    return [ok(f"issuer {issuer}; {pkce}; redirects {names} their issuer (RFC 9207)")]


async def endpoints(context: CheckContext) -> Sequence[Finding]:
    """Which endpoints the authorization server has, and on which hosts."""
    found = (await context.discovery.get_or_skip()).server
    # "authorization" last: followed by a comma, the redaction would take it for a header and hide the rest
    names = ("token", "registration", "revocation", "introspection", "authorization")
    urls = {name: getattr(found, f"{name}_endpoint") for name in names}
    hosts = sorted({host_of(url) for url in urls.values() if url})
    lines = [
        f"{', '.join(name for name in names if urls[name] and host_of(urls[name]) == host)} at {host}" for host in hosts
    ]
    missing = [name for name in names if not urls[name]]
    return [ok("; ".join([*lines, *([f"no {', no '.join(missing)}"] if missing else [])]))]


async def client(context: CheckContext) -> Sequence[Finding]:
    """How a sign-in would obtain its client."""
    found, settings = (await context.discovery.get_or_skip()).server, context.settings
    method = registration_method(settings, found)
    unused = ""
    if settings.client_metadata_url is not None and method is not RegistrationMethod.METADATA_DOCUMENT:
        unused = "; NOTION_OAUTH_CLIENT_METADATA_URL is not used here"
    if method is RegistrationMethod.DYNAMIC and found.registration_endpoint is None:
        message = f"{host_of(found.issuer)} registers no clients, and no client is configured{unused}."
        return [failure(message, "Request a client from its operator, and set NOTION_OAUTH_CLIENT_ID.")]
    return [ok(f"{method.value}{unused}")]
