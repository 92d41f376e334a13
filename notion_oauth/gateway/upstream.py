"""The MCP server: one HTTP request with a valid token, whose response is read as it arrives."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import httpcore
from pydantic import SecretStr

from notion_oauth.errors import NotionOAuthError, TransientError
from notion_oauth.gateway.server_sent_events import Event, EventParser, EventTooLarge
from notion_oauth.protocol import messages
from notion_oauth.protocol.challenge import BearerChallenge, bearer_challenge, step_up_required
from notion_oauth.protocol.urls import origin, url_problem
from notion_oauth.service import NotionOAuth
from notion_oauth.transport.client import USER_AGENT
from notion_oauth.transport.connections import CONNECTION_ERRORS, ConnectionPool, http_request

MAX_BODY = 64 * 1024 * 1024  # bytes of a response that is not a stream of events
MAX_REDIRECTS = 3
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_MANY_REQUESTS = 401, 403, 404, 429
NOT_PROCESSED = (TOO_MANY_REQUESTS, 503)
PERHAPS_PROCESSED = (502, 504)
REDIRECTS = (307, 308)  # those that keep the method
CONNECT_TIMEOUT = 10.0  # seconds

_NOT_SENT = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout)


class Failure(Exception):
    """A request without a usable response. `processed`: the server may have processed it.

    `retry_after` is in seconds, if the server sent it. `hint` says what to do if the same request cannot succeed later.
    """

    def __init__(
        self, text: str, *, processed: bool = False, retry_after: float | None = None, hint: str | None = None
    ) -> None:
        super().__init__(text)
        self.text, self.processed, self.retry_after, self.hint = text, processed, retry_after, hint

    @property
    def explanation(self) -> str:
        """What has happened, and what to do."""
        if self.hint is not None:
            return f"{self.text} {self.hint}"
        if self.processed:
            return f"{self.text} It may have been done: check before you repeat it."
        seconds = math.ceil(self.retry_after or 0)
        wait = f"Try again in {seconds} second{'s' * (seconds > 1)}." if seconds else "Try again later."
        return f"{self.text} {wait}"


class SessionLost(Failure):
    """The server does not know the session any more."""


class Response:
    """The response to a request. Use it as a context manager, which closes it."""

    def __init__(self, response: httpcore.Response, host: str) -> None:
        self._response, self._host = response, host
        self._body: bytes | None = None
        self.status = response.status
        values = [value.decode("latin-1") for name, value in response.headers if name.lower() == b"www-authenticate"]
        self.challenges = tuple(values)
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._response.aclose()

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of events."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"

    async def read(self) -> bytes:
        """Return the whole body. Raises Failure."""
        if self._body is not None:
            return self._body
        parts, size = [], 0
        async for part in self._parts():
            parts.append(part)
            size += len(part)
            if size > MAX_BODY:
                raise Failure(f"{self._host} sent more than {MAX_BODY // 1024 // 1024} MiB.", processed=True)
        self._body = b"".join(parts)
        return self._body

    async def events(self) -> AsyncGenerator[Event]:
        """Yield the events as they arrive. Raises Failure if the connection breaks."""
        parser = EventParser()
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                try:
                    events = parser.feed(part)
                except EventTooLarge as error:
                    raise Failure(str(error), processed=True) from None
                for event in events:
                    yield event

    async def _parts(self) -> AsyncGenerator[bytes]:
        try:
            async for part in self._response.aiter_stream():
                yield part
        except CONNECTION_ERRORS:
            raise broken(self._host) from None


class Upstream:
    """Sends requests to the MCP server of a login, each with a valid token."""

    def __init__(self, oauth: NotionOAuth, pool: ConnectionPool) -> None:
        self._tokens, self._pool = oauth.tokens, pool
        self.url = oauth.settings.server_url
        self.host = messages.host_of(self.url)
        self._origin = origin(urlsplit(self.url))

    async def send(self, method: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
        """Return the response when its headers have arrived: never 401, 429, 502, 503 or 504.

        Raises Failure; NotSignedIn, SignInRequired, StepUpRequired, and other errors of `TokenSource.token`.
        """
        token = self._tokens.get_fresh() or await self._token()
        response = await self._send(method, headers, body, token)
        if response.status == UNAUTHORIZED and not _challenge(response, token).requires_step_up:
            async with response:
                pass
            token = await self._token(rejected=token)
            response = await self._send(method, headers, body, token)
        if response.status in (UNAUTHORIZED, FORBIDDEN):
            await self._check_refusal(response, token)
        if response.status in (*NOT_PROCESSED, *PERHAPS_PROCESSED):
            async with response:
                answer = messages.Response(response.status, self.url, response.headers)
                raise Failure(
                    f"{self.host} answered with HTTP {response.status}.",
                    processed=response.status in PERHAPS_PROCESSED,
                    retry_after=messages.retry_after(answer),
                )
        self._tokens.record_accepted(token)
        return response

    async def check_login(self) -> None:
        """Raise the error of `TokenSource.token`, or Failure, unless there is a valid token."""
        await self._token()

    async def _token(self, rejected: SecretStr | None = None) -> SecretStr:
        try:
            return await self._tokens.token(rejected=rejected)
        except TransientError as error:
            raise Failure(str(error)) from None

    async def _check_refusal(self, response: Response, token: SecretStr) -> None:
        """Raise StepUpRequired if the server requires more; Failure for a 401 after a refresh."""
        challenge = _challenge(response, token)
        if not challenge.requires_step_up and response.status == FORBIDDEN:
            return  # the message is not allowed, whatever the token
        async with response:
            if challenge.requires_step_up:
                raise self._tokens.with_profile_hint(step_up_required(challenge, self.host))
            raise Failure(f"{self.host} refused a token that had just been refreshed.")

    async def _send(self, method: str, headers: Mapping[str, str], body: bytes | None, token: SecretStr) -> Response:
        url = self.url
        for _ in range(MAX_REDIRECTS):
            response = await self._send_to(url, method, headers, body, token)
            if not 300 <= response.status < 400:
                return response
            async with response:
                target = urljoin(url, response.headers.get("location", ""))
            if response.status not in REDIRECTS or url_problem(target) or origin(urlsplit(target)) != self._origin:
                raise Failure(f"{self.host} sent a redirect, which is not followed.")
            url = target
        raise Failure(f"{self.host} sent more than {MAX_REDIRECTS} redirects.")

    async def _send_to(
        self, url: str, method: str, headers: Mapping[str, str], body: bytes | None, token: SecretStr
    ) -> Response:
        lines = {"User-Agent": USER_AGENT, "Authorization": f"Bearer {token.get_secret_value()}", **headers}
        try:
            request = http_request(method, url, lines, body)
            request.extensions = {"timeout": {"connect": CONNECT_TIMEOUT}}
            return Response(await self._pool.send(request), self.host)
        except _NOT_SENT:
            raise Failure(f"{self.host} could not be reached.") from None
        except NotionOAuthError as error:  # of a proxy, or an address that is not allowed
            raise Failure(str(error)) from None
        except CONNECTION_ERRORS:
            raise broken(self.host) from None


def broken(host: str) -> Failure:
    """The failure of a request whose connection broke."""
    return Failure(f"The connection to {host} broke before the response was complete.", processed=True)


def _challenge(response: Response, token: SecretStr) -> BearerChallenge:
    return bearer_challenge(response.challenges, secrets=frozenset({token.get_secret_value()})) or BearerChallenge()
