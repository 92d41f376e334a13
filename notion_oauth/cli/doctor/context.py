"""What the checks of one run share: the settings, what is kept, and one conversation with the servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx

from notion_oauth import profile_names
from notion_oauth.cli.doctor.findings import Finding, Outcome
from notion_oauth.clock import Clock
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.files import atomic, token_file
from notion_oauth.files.encryption import Encryption
from notion_oauth.files.token_file import StoredFile
from notion_oauth.models import Discovery, EndedLogin, Registration, TokenSet
from notion_oauth.protocol import discovery
from notion_oauth.protocol.messages import Request, Response
from notion_oauth.settings import Settings
from notion_oauth.stores.factory import encryption_for
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport

T = TypeVar("T")

REQUEST_PATIENCE = timedelta(seconds=5)  # two that are not answered leave time for all that follows from them


@dataclass(frozen=True)
class Exchange:
    """When an answer was asked for and its head arrived, and the certificate (DER) that came with it."""

    url: str
    sent_at: datetime
    answered_at: datetime
    certificate: bytes | None


class RecordingTransport(Transport):
    """Remembers of each answer when it came and with which certificate."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        super().__init__(
            timeout=min(settings.timeout_delta, REQUEST_PATIENCE),
            server_url=settings.server_url,
            allow_private=settings.allow_private_addresses,
            ca_file=settings.ca_file,
        )
        self.exchanges: list[Exchange] = []
        self._clock = clock

    def _checked(self, request: Request) -> httpx.AsyncBaseTransport:
        return _Noting(super()._checked(request), self.exchanges, self._clock)


class _Noting(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport, exchanges: list[Exchange], clock: Clock) -> None:
        self._inner, self._exchanges, self._clock = inner, exchanges, clock

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent_at = self._clock()
        answer = await self._inner.handle_async_request(request)
        stream = answer.extensions.get("network_stream")
        secure = stream.get_extra_info("ssl_object") if stream is not None else None
        certificate = secure.getpeercert(binary_form=True) if secure is not None else None
        self._exchanges.append(Exchange(str(request.url), sent_at, self._clock(), certificate))
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


class CheckContext:
    """Reads what is kept and talks to the servers, once each. The checks wait for what concerns them."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.token_file = profile_names.profile_file(settings.token_file, settings.profile)
        self.transport = RecordingTransport(settings, clock)
        self.encryption: Outcome[Encryption | None] = Outcome()
        self.readable: Outcome[int | None] = Outcome()
        self.login: Outcome[StoredFile[TokenSet | EndedLogin] | None] = Outcome()
        self.registrations: Outcome[StoredFile[tuple[Registration, ...]] | None] = Outcome()
        self.answer: Outcome[Response] = Outcome()
        self.discovery: Outcome[Discovery] = Outcome()

    async def read(self) -> None:
        """Read what is kept. The keyring may be asked for a key, which takes seconds at most."""
        await self.readable.of(run_in_daemon_thread(partial(atomic.read_file, self.token_file, len, fix=False)))
        await self.encryption.of(run_in_daemon_thread(partial(encryption_for, self.settings)))
        await self.login.of(self._read(self.token_file, token_file.decode_login))
        await self.registrations.of(self._read(self.beside(".clients"), token_file.decode_registrations))

    def beside(self, suffix: str) -> Path:
        """A file that belongs to the token file."""
        return profile_names.add_suffix(self.token_file, suffix)

    async def _read(self, path: Path, decode: Callable[[bytes, Path], T]) -> StoredFile[T] | None:
        encryption = await self.encryption.get()
        return await run_in_daemon_thread(partial(token_file.read_stored, path, decode, encryption, fix=False))

    async def converse(self) -> None:
        """Ask the MCP server for its challenge, and from there for its authorization server, as a sign-in does."""
        server_url = self.settings.server_url
        await self.answer.of(self.transport.send(discovery.probe_request(server_url)))
        await self.discovery.of(self._discover())

    async def _discover(self) -> Discovery:
        client = OAuthClient(self.transport, clock=self.clock, issuer=self.settings.issuer)
        try:
            challenge = discovery.challenge_of(await self.answer.get())
        except Exception:  # what it would have said may stand at the well-known URLs, too
            challenge = None
        return await client.discover(self.settings.server_url, challenge=challenge, usable=discovery.require_any_grant)


Check = Callable[[CheckContext], Awaitable[Sequence[Finding]]]


def in_thread(look: Callable[[CheckContext], Sequence[Finding]]) -> Check:
    """A check that waits for files, in a thread of its own."""

    async def run(case: CheckContext) -> Sequence[Finding]:
        return await run_in_daemon_thread(partial(look, case))

    return run
