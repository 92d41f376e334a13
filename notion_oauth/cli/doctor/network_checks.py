"""The way to the servers, what they answer, and the clocks on both sides."""

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
from notion_oauth.protocol.messages import Response, host_of, http_date
from notion_oauth.tokens.registrations import RegistrationMethod, registration_method
from notion_oauth.transport.certificates import find_trusted_authorities, ssl_context
from notion_oauth.transport.proxies import describe_connection

LOOK_UP_TIMEOUT = timedelta(seconds=5)
SKEW_WARNING = timedelta(seconds=30)
SKEW_FAILURE = timedelta(minutes=5)
CERTIFICATE_WARNING = timedelta(days=14)
_RESOLUTION = timedelta(seconds=1)  # of a Date header (RFC 9110 §5.6.7)
_CHECK_URL = MetadataError.default_hint


async def route(case: CheckContext) -> Sequence[Finding]:
    """How the MCP server is reached."""
    return await _route(case, case.settings.server_url)


async def issuer_route(case: CheckContext) -> Sequence[Finding]:
    """How the authorization server is reached, where it is another host."""
    endpoint = (await case.discovery.there()).server.token_endpoint
    if host_of(endpoint) == host_of(case.settings.server_url):
        return [ok(f"{host_of(endpoint)} is the MCP server's own host")]
    return await _route(case, endpoint)


async def _route(case: CheckContext, url: str) -> list[Finding]:
    found = await describe_connection(url, ca_file=case.settings.ca_file, time_limit=LOOK_UP_TIMEOUT)
    if found.proxy is not None:
        return [ok(f"{found.host} through the proxy {found.proxy}")]
    if not found.addresses:
        hint = "Check the network and its name server; where a proxy is needed, set HTTPS_PROXY."
        return [failure(f"{found.host} leads to no address.", hint)]
    shown = ", ".join(f"{address} ({kind.value})" for address, kind in found.addresses[:4])
    return [ok(f"{found.host} directly, at {shown}")]


async def trust(case: CheckContext) -> Sequence[Finding]:
    """Whose signatures are trusted, and whether they can be read."""
    found = find_trusted_authorities(case.settings.ca_file)
    await run_in_daemon_thread(lambda: ssl_context(found))  # raises for what cannot be used
    return [ok(str(found))]


async def server(case: CheckContext) -> Sequence[Finding]:
    """Whether the MCP server answers a request without a token as it should (RFC 6750 §3, RFC 9728 §5.1)."""
    answer = await case.answer.get()
    host = host_of(answer.url)
    if answer.status in (401, 403):
        return [_challenged(answer, host)]
    if answer.status == 429 or answer.status >= 500:
        return [failure(f"{host} answers HTTP {answer.status}.", TRY_LATER)]
    if answer.ok:
        return [warning(f"{host} lets everybody in without a token.", _CHECK_URL)]
    return [failure(f"{host} has no MCP server at that address (HTTP {answer.status}).", _CHECK_URL)]


def _challenged(answer: Response, host: str) -> Finding:
    challenge = discovery.challenge_of(answer)
    if challenge is None:
        message = f"{host} answers HTTP {answer.status} without a Bearer challenge (RFC 6750 §3)."
        return warning(message, "Its metadata is looked for at the well-known addresses. Tell its operator.")
    names = "names" if challenge.resource_metadata else "does not name"
    return ok(f"{host} answers HTTP {answer.status} with a challenge, which {names} its metadata")


async def certificate(case: CheckContext) -> Sequence[Finding]:
    """How long the certificates of the servers are good. That they are trusted is settled by then."""
    await case.answer.there()
    if urlsplit(case.settings.server_url).scheme != "https":
        return [ok("none: plain http, which does not leave this machine")]
    found = {host_of(each.url): each.certificate for each in case.transport.exchanges if each.certificate}
    return [_good_for(case, host, content) for host, content in found.items()]


def _good_for(case: CheckContext, host: str, content: bytes) -> Finding:
    left = x509.load_der_x509_certificate(content).not_valid_after_utc - case.clock()
    message = f"that of {host} is trusted, and good for {max(0, left.days)} days"
    if left >= CERTIFICATE_WARNING:
        return ok(message)
    return warning(f"{message}.", "Its operator has to renew it.")


async def clock(case: CheckContext) -> Sequence[Finding]:
    """How far our clock is from the server's, as far as its Date tells: in whole seconds."""
    answer = await case.answer.there()
    date = http_date(answer.headers.get("date", ""))
    if date is None:
        return [ok(f"{host_of(answer.url)} tells no time")]
    exchange = case.transport.exchanges[0]
    apart_by = _skew(date, exchange.sent_at, exchange.answered_at)
    host, size = host_of(answer.url), abs(apart_by)
    message = f"{size.total_seconds():.1f} s {'ahead of' if apart_by > timedelta() else 'behind'} {host}"
    if size < SKEW_WARNING:
        return [ok(f"{size.total_seconds():.1f} s apart from {host}")]
    hint = "Set it, and let the system keep it right (NTP)."
    if size < SKEW_FAILURE:
        return [warning(f"The clock of this machine is {message}.", hint)]
    return [failure(f"The clock of this machine is {message}: tokens seem good that are not, or over.", hint)]


def _skew(date: datetime, sent_at: datetime, answered_at: datetime) -> timedelta:
    """Ours minus theirs, both in the middle: of the time that the request took, and of the second that is told."""
    return sent_at + (answered_at - sent_at) / 2 - (date + _RESOLUTION / 2)


async def metadata(case: CheckContext) -> Sequence[Finding]:
    """Whether there is an authorization server that a login can safely begin at."""
    found = await case.discovery.get()
    issuer = found.server.issuer
    if found.assumed:
        message = f"{issuer} publishes none (RFC 9728, RFC 8414): the endpoints of MCP 2025-03-26 are presumed."
        return [warning(message, _CHECK_URL)]
    if found.server.authorization_endpoint is None:
        return [ok(f"issuer {issuer}; for assertions alone (RFC 7523): no browser can sign in")]
    names = "name" if found.server.authorization_response_iss_parameter_supported else "do not name"
    return [ok(f"issuer {issuer}; PKCE with S256; redirects {names} their issuer (RFC 9207)")]


async def endpoints(case: CheckContext) -> Sequence[Finding]:
    """Which endpoints there are, and where."""
    found = (await case.discovery.there()).server
    # "authorization" last: before a comma it would be taken for a header, and what follows be hidden
    names = ("token", "registration", "revocation", "introspection", "authorization")
    urls = {name: getattr(found, f"{name}_endpoint") for name in names}
    hosts = sorted({host_of(url) for url in urls.values() if url})
    lines = [
        f"{', '.join(name for name in names if urls[name] and host_of(urls[name]) == host)} at {host}" for host in hosts
    ]
    missing = [name for name in names if not urls[name]]
    return [ok("; ".join([*lines, *([f"no {', no '.join(missing)}"] if missing else [])]))]


async def client(case: CheckContext) -> Sequence[Finding]:
    """Which client a sign-in would be made with."""
    found, settings = (await case.discovery.there()).server, case.settings
    way = registration_method(settings, found)
    unused = ""
    if settings.client_metadata_url is not None and way is not RegistrationMethod.METADATA_DOCUMENT:
        unused = "; NOTION_OAUTH_CLIENT_METADATA_URL is not used here"
    if way is RegistrationMethod.DYNAMIC and found.registration_endpoint is None:
        message = f"{host_of(found.issuer)} registers no clients, and none is set{unused}."
        return [failure(message, "Ask its operator for one, and set NOTION_OAUTH_CLIENT_ID.")]
    return [ok(f"{way.value}{unused}")]
