"""What the checks of one run share: the settings, the stored files, and one exchange with the servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpcore

from notion_oauth import profile_names
from notion_oauth.cli.doctor.findings import Finding, SharedResult
from notion_oauth.clock import Clock
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.files import atomic, moved, token_file_format
from notion_oauth.files.encryption import Encryption
from notion_oauth.files.token_file_format import StoredFile
from notion_oauth.models import Discovery, EndedLogin, Registration, TokenSet
from notion_oauth.protocol import discovery
from notion_oauth.protocol.messages import Response
from notion_oauth.settings import Settings
from notion_oauth.storage import Kind, bound_to
from notion_oauth.stores import schema
from notion_oauth.stores.factory import create_store, database_for, encryption_for
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Sender, Transport

T = TypeVar("T")

REQUEST_TIMEOUT = timedelta(seconds=5)  # two time-outs leave time for the checks that depend on them


@dataclass(frozen=True)
class Exchange:
    """When a request was sent and its response head arrived, and the server's certificate (DER)."""

    url: str
    sent_at: datetime
    received_at: datetime
    certificate: bytes | None


class RecordingTransport(Transport):
    """Records the times and the certificate of each exchange."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        super().__init__(
            timeout=min(settings.timeout_delta, REQUEST_TIMEOUT),
            server_url=settings.server_url,
            allow_private=settings.allow_private_addresses,
            ca_file=settings.ca_file,
        )
        self.exchanges: list[Exchange] = []
        self._clock = clock

    def _sender(self, url: str) -> Sender:
        send = super()._sender(url)

        async def recorded(request: httpcore.Request) -> httpcore.Response:
            sent_at = self._clock()
            response = await send(request)
            secure = response.extensions["network_stream"].get_extra_info("ssl_object")
            certificate = secure.getpeercert(binary_form=True) if secure is not None else None
            self.exchanges.append(Exchange(url, sent_at, self._clock(), certificate))
            return response

        return recorded


class CheckContext:
    """Reads the stored files and contacts the servers, once each. Each check awaits the results that it needs."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.token_file = profile_names.profile_file(settings.token_file, settings.profile)
        self.transport = RecordingTransport(settings, clock)
        self.encryption: SharedResult[Encryption | None] = SharedResult("kept")
        self.file_size: SharedResult[int | None] = SharedResult("file" if settings.database is None else "database")
        self.login: SharedResult[StoredFile[TokenSet | EndedLogin] | None] = SharedResult("login")
        self.registrations: SharedResult[StoredFile[tuple[Registration, ...]] | None] = SharedResult("registrations")
        self.response: SharedResult[Response] = SharedResult("server")
        self.discovery: SharedResult[Discovery] = SharedResult("metadata")

    async def read_files(self) -> None:
        """Read the stored files. This may read a key from the system keyring, which takes a few seconds at most."""
        checked = self._check_file if self.settings.database is None else self._check_database
        await self.file_size.run(run_in_daemon_thread(checked))
        await self.encryption.run(run_in_daemon_thread(partial(encryption_for, self.settings)))
        await self.login.run(self._read("", "login", token_file_format.decode_login))
        decode = token_file_format.decode_registrations
        await self.registrations.run(self._read(".clients", "registrations", decode))

    def sibling(self, suffix: str) -> Path:
        """The file next to the token file with this suffix, such as its lock."""
        return profile_names.add_suffix(self.token_file, suffix)

    def _check_file(self) -> int | None:
        """Return the size of the token file, if it exists. Raises StorageError if it must not be used."""
        moved.check_not_moved(self.token_file, self.settings.token_file)
        return atomic.read_file(self.token_file, len, fix=False)

    def _check_database(self) -> None:
        """Raise an error unless this version can use the database."""
        if (database := database_for(self.settings)) is not None:
            database.run(partial(schema.check, database))

    async def _read(self, suffix: str, kind: Kind, decode: Callable[[bytes, str], T]) -> StoredFile[T] | None:
        encryption, binding = await self.encryption.get(), bound_to(self.settings.profile, kind)
        await self.file_size.get_or_skip()
        if self.settings.database is not None:
            documents = create_store(self.settings).documents
            name = documents.name(self.settings.profile, kind)
            decoded = partial(token_file_format.decode_stored, name, decode, encryption, binding)
            return await documents.read(self.settings.profile, kind, decoded, slow=True)
        path = self.sibling(suffix)
        read = partial(token_file_format.read_stored, path, decode, encryption, bound_to=binding, fix=False)
        return await run_in_daemon_thread(read)

    async def contact_server(self) -> None:
        """Request the MCP server's challenge, then discover its authorization server, as a sign-in does."""
        server_url = self.settings.server_url
        await self.response.run(self.transport.send(discovery.challenge_probe_request(server_url)))
        await self.discovery.run(self._discover())

    async def _discover(self) -> Discovery:
        issuer, compat = self.settings.issuer, self.settings.compat_words
        client = OAuthClient(self.transport, clock=self.clock, issuer=issuer, compat=compat)
        try:
            challenge = discovery.challenge_of(await self.response.get())
        except Exception:  # the well-known URLs may work all the same
            challenge = None
        return await client.discover(
            self.settings.server_url, challenge=challenge, check_server=discovery.require_any_grant
        )


Check = Callable[[CheckContext], Awaitable[Sequence[Finding]]]


def in_thread(check: Callable[[CheckContext], Sequence[Finding]]) -> Check:
    """An async check from one that blocks on files; it runs in a thread."""

    async def run(context: CheckContext) -> Sequence[Finding]:
        return await run_in_daemon_thread(partial(check, context))

    return run
