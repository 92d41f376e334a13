"""Which OAuth client a profile uses, in MCP's order: preregistered, client ID metadata document, registration."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from functools import partial
from typing import Protocol

from notion_oauth import profile_names
from notion_oauth.clock import Clock
from notion_oauth.errors import (
    PREREGISTER,
    ConfigurationError,
    Hint,
    MetadataError,
    RegistrationRefused,
    StoreEncrypted,
    TooManyRequests,
)
from notion_oauth.models import (
    AuthorizationServerMetadata,
    ClientInformation,
    Discovery,
    PendingAuthorization,
    Registration,
    canonical_issuer,
)
from notion_oauth.observability.audit import Audit
from notion_oauth.protocol import registration, scopes
from notion_oauth.protocol.discovery import require_sign_in
from notion_oauth.settings import Settings
from notion_oauth.storage import Hold, TokenStore
from notion_oauth.tokens.oauth_client import OAuthClient

_UNSET_CLIENT = "Leave out --new-client, or unset NOTION_OAUTH_CLIENT_ID and NOTION_OAUTH_CLIENT_METADATA_URL."
SHARED_PROFILE = profile_names.DEFAULT_PROFILE  # stores the issuers of the preregistered client for all profiles


class RegistrationMethod(Enum):
    """How a client becomes registered with an authorization server, in MCP's order."""

    PREREGISTERED = "preregistered"
    METADATA_DOCUMENT = "client ID metadata document"
    DYNAMIC = "dynamic registration"


def registration_method(settings: Settings, server: AuthorizationServerMetadata) -> RegistrationMethod:
    """Return the method to use with the server. Does not check whether the server offers registration."""
    if settings.client_id is not None:
        return RegistrationMethod.PREREGISTERED
    if settings.client_metadata_url is not None and server.client_id_metadata_document_supported:
        return RegistrationMethod.METADATA_DOCUMENT
    return RegistrationMethod.DYNAMIC


Save = Callable[[Registration], Awaitable[None]]


class StoredRegistrations(Protocol):
    """Where the dynamic registrations of a sign-in are stored."""

    async def load(self) -> Sequence[Registration]:
        """Return the registrations that a sign-in may use, the newest last."""

    async def wait_for_others(self) -> None:
        """Wait while another task of this process registers a client that this sign-in may be able to use."""

    def lock(self, *, extra: bool) -> AbstractAsyncContextManager[Save]:
        """Prevent concurrent registrations; yields the function that stores one.

        `extra` says that a usable registration exists, and only the requested scope requires another one. Raises
        TooManyRequests, StoreBusy, StorageError.
        """


class ProfileRegistrations:
    """The registrations of one profile, in the store."""

    def __init__(self, store: TokenStore, profile: str) -> None:
        self._store = store
        self._profile = profile

    async def load(self) -> Sequence[Registration]:
        try:
            return await self._store.load_registrations(self._profile)
        except StoreEncrypted:
            return ()  # a lost key must not prevent a sign-in: a new client is registered in their place

    async def wait_for_others(self) -> None:
        """Return at once: the lock is free, apart from other sign-ins of the same profile."""

    @asynccontextmanager
    async def lock(self, *, extra: bool) -> AsyncIterator[Save]:  # noqa: ARG002 - one profile's user may register as often as needed
        async with self._store.exclusive(self._profile) as hold:
            yield partial(hold.save_registration, replace_encrypted=True)


class Registrations:
    """The clients of one profile. Each belongs to the issuer that it was registered with, and is sent to no other."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: TokenStore,
        client: OAuthClient,
        stored: StoredRegistrations,
        clock: Clock,
        audit: Audit,
    ) -> None:
        self._settings = settings
        self._store = store
        self._client = client
        self._stored = stored
        self._clock = clock
        self._audit = audit
        self._unchecked: str | None = None  # the client that the last sign-in used without asking the server

    async def mark_used(self, pending: PendingAuthorization) -> None:
        """Record that a sign-in has succeeded: its redirect URI is valid for the preregistered client."""
        self._unchecked = None
        for stored in await self._stored.load():
            if stored.replacement and stored.client.client_id == pending.client.client_id:
                async with self._stored.lock(extra=False) as save:
                    await save(stored.model_copy(update={"replacement": False}))
        configured = self._settings.preregistered
        if configured is not None and configured.client_id == pending.client.client_id:
            async with self._store.exclusive(SHARED_PROFILE) as hold:
                await hold.save_registration(_preregistered_for(configured, pending.issuer, pending.redirect_uri))

    def check_can_sign_in(self, server: AuthorizationServerMetadata) -> None:
        """Raise MetadataError if the server supports no safe sign-in, or no way to register this client."""
        require_sign_in(server)
        if registration_method(self._settings, server) is RegistrationMethod.DYNAMIC:
            registration.require_registration(server)

    async def registered_redirect_uris(self) -> Sequence[str]:
        """Return the redirect URIs of this profile's stored registrations, the newest first."""
        if self._settings.preregistered:
            shared = await self._store.load_registrations(SHARED_PROFILE)
            stored: Sequence[Registration] = [each for each in shared if each.preregistered]
        else:
            stored = await self._stored.load()
        return list(dict.fromkeys(each.redirect_uri for each in reversed(stored) if each.redirect_uri))

    async def own_issuers(self) -> Collection[str]:
        """Return the issuers that the client in the settings has been used with."""
        if (configured := self._settings.preregistered) is None:
            return ()
        return _issuers_of(configured, await self._store.load_registrations(SHARED_PROFILE))

    async def get_or_register(
        self,
        discovery: Discovery,
        redirect_uri: str,
        *,
        scope: str | None,
        minimum_scope: str | None,
        known_client: ClientInformation | None = None,
        new_client: bool = False,
    ) -> tuple[ClientInformation, str | None]:
        """Return the preregistered client, else the one of the metadata document, else a stored or new registration.

        Also returns the scope that this client may request: a server may register it for less than was requested. If
        a limit on registrations (TooManyRequests) prevents a new client for `scope`, the client is for `minimum_scope`.

        A stored registration is used again, unless the server no longer recognises it or it lacks a scope: then a new
        one is made. `known_client` is the client of a login that the resource has just accepted. The authorization
        server is not asked about it, unless the last sign-in that skipped this check did not succeed. With
        `new_client`, no stored registration is used. The one that a new one replaces is kept until `mark_used`. Raises
        ConfigurationError if the preregistered client belongs to another issuer, or there is no new client because one
        is configured, RegistrationRefused, MetadataError if
        the server offers no registration, TooManyRequests, TransientError, StorageError.
        """
        if (configured := await self._client_from_settings(discovery)) is not None:
            if new_client:
                raise ConfigurationError("No new client is registered, because one is configured.", hint=_UNSET_CLIENT)
            return configured, scope
        try:
            found = await self._find_or_register(discovery, redirect_uri, scope, known_client, new_client)
        except TooManyRequests:
            scope = minimum_scope
            found = await self._find_or_register(discovery, redirect_uri, scope, None, new_client)
        return found.client, scopes.limit_scope(scope, found.registered_scope)

    async def _find_or_register(
        self,
        discovery: Discovery,
        redirect_uri: str,
        scope: str | None,
        known_client: ClientInformation | None,
        new_client: bool,
    ) -> Registration:
        checked: set[str] = set()
        replacement = False  # of a registration that may still be of use
        ordinary = scopes.registration_scope(discovery)
        extended_scope = not scopes.includes_scope(ordinary, scope)
        stored = partial(self._matching, discovery, redirect_uri, scope, extended_scope)
        for found in await stored():  # without the lock, because the server may take long to answer
            checked.add(found.client.client_id)
            replacement = replacement or not found.client.expired(self._clock())
            if new_client:
                continue
            if found.client == known_client and found.client.client_id != self._unchecked:
                self._unchecked = found.client.client_id
                return found
            if await self._is_usable(discovery, found):
                return found
        extra = extended_scope and not checked  # a registration that was checked has to be replaced in any case
        if not extra:  # very many sign-ins may wait: they continue together, and need no lock
            await self._stored.wait_for_others()
            for found in await stored():
                if found.client.client_id not in checked:
                    return found
        async with self._stored.lock(extra=extra) as save:
            for found in await stored():
                if found.client.client_id not in checked:
                    return found  # registered meanwhile by another task or process
            registered = await self._register(discovery, redirect_uri, scopes.union(scope, ordinary), extended_scope)
            registered = registered.model_copy(update={"replacement": replacement})
            await save(registered)
        self._audit.succeeded("registration", issuer=registered.issuer, client_id=registered.client.client_id)
        return registered

    async def _matching(
        self, discovery: Discovery, redirect_uri: str, scope: str | None, extended_scope: bool
    ) -> Sequence[Registration]:
        """Return the stored registrations for the issuer, redirect URI and scope.

        One with an extended scope is used only for such a scope: without a `scope` parameter, a server might grant all
        scopes that the client was registered for.
        """
        key = canonical_issuer(discovery.server.issuer), redirect_uri
        stored = (each for each in await self._stored.load() if not each.preregistered)
        matching = (each for each in stored if (canonical_issuer(each.issuer), each.redirect_uri) == key)
        return [each for each in matching if _allows(each, scope) and (extended_scope or not each.extended_scope)]

    async def _register(
        self, discovery: Discovery, redirect_uri: str, scope: str | None, extended_scope: bool
    ) -> Registration:
        """Register a client for `scope`, which includes what later sign-ins may request; without, if it is refused."""
        try:
            client = await self._request_registration(discovery, redirect_uri, scope)
        except RegistrationRefused as refused:
            if scope is None or not registration.is_about_scope(refused):
                raise
            scope = None  # servers that refuse a scope here may grant it to a client without one
            client = await self._request_registration(discovery, redirect_uri, scope)
        return Registration(
            issuer=discovery.server.issuer,
            redirect_uri=redirect_uri,
            client=client.model_copy(update={"scope": None}),
            extended_scope=extended_scope,
            registered_at=self._clock(),
            scope=scope,
            registered_scope=client.scope,
        )

    async def assertion_client(self, discovery: Discovery) -> ClientInformation:
        """Return the client that assertions are issued to: its id must be known to the issuer of the assertion.

        Raises ConfigurationError if no client is configured, StorageError.
        """
        client = await self._client_from_settings(discovery)
        if client is None:
            message = "An assertion is issued to one client, so a dynamically registered client cannot use it."
            raise ConfigurationError(message, hint="Set NOTION_OAUTH_CLIENT_ID to the client that it was issued to.")
        return client

    async def _client_from_settings(self, discovery: Discovery) -> ClientInformation | None:
        """Return the client in the settings, if this server supports it."""
        method = registration_method(self._settings, discovery.server)
        if method is RegistrationMethod.PREREGISTERED and (client := self._settings.preregistered) is not None:
            async with self._store.exclusive(SHARED_PROFILE) as hold:
                return await self._preregistered(client, discovery, hold)
        if method is RegistrationMethod.METADATA_DOCUMENT and (url := self._settings.client_metadata_url) is not None:
            return ClientInformation(client_id=url, token_endpoint_auth_method="none")  # noqa: S106 - a method
        return None

    async def _preregistered(self, client: ClientInformation, discovery: Discovery, hold: Hold) -> ClientInformation:
        """Return the preregistered client, if it may be sent to this issuer.

        Its issuer is stored at its first use, once for all profiles because they share the setting.
        """
        issuer = discovery.server.issuer
        stored = await self._store.load_registrations(SHARED_PROFILE)
        known = {canonical_issuer(each) for each in _issuers_of(client, stored)}
        is_known = canonical_issuer(issuer) in known
        configured = canonical_issuer(self._settings.issuer) == canonical_issuer(issuer)
        if known and not is_known and not configured:
            raise ConfigurationError(
                f"The client in NOTION_OAUTH_CLIENT_ID was registered with {min(known)}, but the MCP server now names "
                f"another authorization server, {issuer}. The client was not sent there.",
                hint="If you trust the new server, register a client there and set its id. Set NOTION_OAUTH_ISSUER to "
                "the new server only if you have registered this same client there, too.",
            )
        if not is_known:
            await hold.save_registration(_preregistered_for(client, issuer, ""))
        return client

    async def _is_usable(self, discovery: Discovery, found: Registration) -> bool:
        if found.client.expired(self._clock()):
            return False
        return await self._client.is_client_registered(discovery.server, found.client, found.redirect_uri)

    async def _request_registration(
        self, discovery: Discovery, redirect_uri: str, scope: str | None
    ) -> ClientInformation:
        server = discovery.server
        metadata = registration.client_metadata(
            client_name=self._settings.client_name,
            redirect_uri=redirect_uri,
            scope=scope,
            methods=server.token_endpoint_auth_methods_supported,
        )
        try:
            return await self._client.register(server, metadata)
        except MetadataError:
            if not discovery.assumed:
                raise
            message = f"{server.issuer} publishes no OAuth metadata (RFC 9728, RFC 8414) and has no /register endpoint."
            raise MetadataError(message) from None
        except RegistrationRefused as refused:
            if registration.is_about_redirect_uri(refused):
                refused.hint = Hint(f"The server does not allow {redirect_uri}. {PREREGISTER}")
            raise


def _preregistered_for(client: ClientInformation, issuer: str, redirect_uri: str) -> Registration:
    public = client.model_copy(update={"client_secret": None})
    return Registration(issuer=issuer, redirect_uri=redirect_uri, client=public, preregistered=True)


def _issuers_of(client: ClientInformation, stored: Collection[Registration]) -> set[str]:
    return {each.issuer for each in stored if each.preregistered and each.client.client_id == client.client_id}


def _allows(registered: Registration, scope: str | None) -> bool:
    """Whether a client may request the scope: servers limit it to the scopes of its registration (RFC 7591 §2)."""
    return registered.scope is None or scopes.includes_scope(registered.scope, scope)
