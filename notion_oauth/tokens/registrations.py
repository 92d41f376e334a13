"""Which client a profile is to an authorization server, in the order of MCP: by hand, by document, by registration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from functools import partial

from notion_oauth import profile_names
from notion_oauth.clock import Clock
from notion_oauth.errors import ConfigurationError, MetadataError, RegistrationRefused, TooManyRequests
from notion_oauth.models import (
    AuthorizationServerMetadata,
    ClientInformation,
    Discovery,
    PendingAuthorization,
    Registration,
)
from notion_oauth.observability.audit import Audit
from notion_oauth.protocol import registration, scopes
from notion_oauth.protocol.discovery import require_sign_in
from notion_oauth.settings import Settings
from notion_oauth.storage import TokenStore
from notion_oauth.tokens.oauth_client import OAuthClient

SHARED_PROFILE = (
    profile_names.DEFAULT_PROFILE
)  # where it is kept which issuer a client by hand belongs to, for all profiles


class RegistrationMethod(Enum):
    """How a client comes to be known to an authorization server, in MCP's order."""

    PREREGISTERED = "registered by hand"
    METADATA_DOCUMENT = "by its metadata document"
    DYNAMIC = "registers itself"


def registration_method(settings: Settings, server: AuthorizationServerMetadata) -> RegistrationMethod:
    """The way that is taken there; whether the server registers anybody is not asked."""
    if settings.client_id is not None:
        return RegistrationMethod.PREREGISTERED
    if settings.client_metadata_url is not None and server.client_id_metadata_document_supported:
        return RegistrationMethod.METADATA_DOCUMENT
    return RegistrationMethod.DYNAMIC


class Registrations:
    """The clients of one profile. Each belongs to the issuer that it was made with, and is shown to no other."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: TokenStore,
        client: OAuthClient,
        profile: str,
        clock: Clock,
        audit: Audit,
    ) -> None:
        self._settings = settings
        self._store = store
        self._client = client
        self._profile = profile
        self._clock = clock
        self._audit = audit
        self._believed: str | None = None  # the client with which a sign-in was begun unasked
        # Holds registrations alone, in the store's place; told whether one is made for its scope's sake
        self.registration_lock: Callable[[bool], AbstractAsyncContextManager[None]] | None = None

    async def mark_used(self, pending: PendingAuthorization) -> None:
        """The sign-in that was begun has succeeded: a client by hand may be redirected there again."""
        self._believed = None
        ours = self._settings.preregistered
        if ours is not None and ours.client_id == pending.client.client_id:
            async with self._store.exclusive(SHARED_PROFILE):
                await self._store.save_registration(
                    SHARED_PROFILE, _preregistered_for(ours, pending.issuer, pending.redirect_uri)
                )

    def require_sign_in(self, server: AuthorizationServerMetadata) -> None:
        """Raise MetadataError where people cannot sign in safely, or no client of ours can be known to the server."""
        require_sign_in(server)
        if registration_method(self._settings, server) is RegistrationMethod.DYNAMIC:
            registration.require_registration(server)

    async def registered_redirect_uris(self) -> Sequence[str]:
        """The redirect URIs that this profile's kept registrations are for, the newest first."""
        preregistered = [kept for kept in await self._store.load_registrations(SHARED_PROFILE) if kept.preregistered]
        own = await self._store.load_registrations(self._profile)
        kept = preregistered if self._settings.preregistered else own
        return list(dict.fromkeys(one.redirect_uri for one in reversed(kept) if one.redirect_uri))

    async def own_issuers(self) -> Collection[str]:
        """The issuers that the client in the settings was registered with, as far as it was used."""
        if (ours := self._settings.preregistered) is None:
            return ()
        return _issuers_of(ours, await self._store.load_registrations(SHARED_PROFILE))

    async def get_or_register(
        self,
        discovery: Discovery,
        redirect_uri: str,
        *,
        scope: str | None,
        minimum_scope: str | None,
        in_use: ClientInformation | None = None,
    ) -> tuple[ClientInformation, str | None]:
        """The client that was registered by hand, else the metadata document's, else one that is registered.

        With it, what of the scope it may ask for: a server may have registered it for less than was asked. Where none
        is registered for all of it just now, it is one for the `minimum_scope`.

        A registration is kept and used again, unless the server has forgotten it or it does not cover the scope: then
        another is made. `in_use` is the client of a login that the resource has just looked at: the server knows it,
        and is not asked, unless a sign-in that believed so was begun before and nothing came of it. Raises
        ConfigurationError where the client that was registered by hand belongs to another issuer, RegistrationRefused,
        MetadataError where the server registers nobody, TooManyRequests, TransientError, StorageError.
        """
        if (given := await self._configured(discovery)) is not None:
            return given, scope
        try:
            kept = await self._kept_or_registered(discovery, redirect_uri, scope, in_use)
        except TooManyRequests:
            scope = minimum_scope
            kept = await self._kept_or_registered(discovery, redirect_uri, scope, None)
        return kept.client, scopes.limit_scope(scope, kept.registered_scope)

    async def _kept_or_registered(
        self, discovery: Discovery, redirect_uri: str, scope: str | None, in_use: ClientInformation | None
    ) -> Registration:
        looked_at: set[str] = set()
        ordinary = scopes.registration_scope(discovery)
        extended_scope = not scopes.includes_scope(ordinary, scope)
        kept_for = partial(self._kept_for, discovery, redirect_uri, scope, extended_scope)
        for found in await kept_for():  # whoever waits for a server has no lock
            looked_at.add(found.client.client_id)
            if found.client == in_use and found.client.client_id != self._believed:
                self._believed = found.client.client_id
                return found
            if await self._is_usable(discovery, found):
                return found
        extra = extended_scope and not looked_at  # else the one that there is has to be replaced in any case
        alone = self.registration_lock(extra) if self.registration_lock else self._store.exclusive(self._profile)
        async with alone:
            for found in await kept_for():
                if found.client.client_id not in looked_at:
                    return found  # somebody else has registered it meanwhile
            return await self._registered(discovery, redirect_uri, scopes.union(scope, ordinary), extended_scope)

    async def _kept_for(
        self, discovery: Discovery, redirect_uri: str, scope: str | None, extended_scope: bool
    ) -> Sequence[Registration]:
        """A client that was registered for more could be given more by a server that nobody asks for a scope."""
        place = discovery.server.issuer, redirect_uri
        kept = await self._store.load_registrations(self._profile)
        there = (one for one in kept if (one.issuer, one.redirect_uri) == place and not one.preregistered)
        return [one for one in there if _allows(one, scope) and (extended_scope or not one.extended_scope)]

    async def _registered(
        self, discovery: Discovery, redirect_uri: str, scope: str | None, extended_scope: bool
    ) -> Registration:
        """A new client, which is kept, with all that may be asked for later, too."""
        made = await self._register(discovery, redirect_uri, scope)
        kept = Registration(
            issuer=discovery.server.issuer,
            redirect_uri=redirect_uri,
            client=made.model_copy(update={"scope": None}),
            extended_scope=extended_scope,
            registered_at=self._clock(),
            scope=scope,
            registered_scope=made.scope,
        )
        await self._store.save_registration(self._profile, kept)
        self._audit.succeeded("registration", issuer=kept.issuer, client_id=made.client_id)
        return kept

    async def assertion_client(self, discovery: Discovery) -> ClientInformation:
        """The client that assertions are issued to: one with an id that their issuer knows, too.

        Raises ConfigurationError where none is set, StorageError.
        """
        given = await self._configured(discovery)
        if given is None:
            message = "An assertion is issued to one client, and a client that registers itself is none of those."
            raise ConfigurationError(message, hint="Set NOTION_OAUTH_CLIENT_ID to the client that it was issued to.")
        return given

    async def _configured(self, discovery: Discovery) -> ClientInformation | None:
        """The client that the settings name, where this server takes it."""
        way = registration_method(self._settings, discovery.server)
        if way is RegistrationMethod.PREREGISTERED and (ours := self._settings.preregistered) is not None:
            async with self._store.exclusive(SHARED_PROFILE):
                return await self._preregistered(ours, discovery)
        if way is RegistrationMethod.METADATA_DOCUMENT and (url := self._settings.client_metadata_url) is not None:
            return ClientInformation(client_id=url, token_endpoint_auth_method="none")  # noqa: S106 - a method
        return None

    async def _preregistered(self, ours: ClientInformation, discovery: Discovery) -> ClientInformation:
        """The client that was registered by hand.

        Which issuer that was is remembered from its first use on, once for all profiles: the setting is theirs, too.
        """
        issuer = discovery.server.issuer
        known = _issuers_of(ours, await self._store.load_registrations(SHARED_PROFILE))
        if known and issuer not in known and self._settings.issuer != issuer:
            raise ConfigurationError(
                f"The client in NOTION_OAUTH_CLIENT_ID was registered with {min(known)}, and the server now names "
                f"another, {issuer}. It was not shown to that one.",
                hint="If you trust that one, register a client there and set its id. Only if this very client was "
                "registered there too, by you, name that server in NOTION_OAUTH_ISSUER.",
            )
        if issuer not in known:
            await self._store.save_registration(SHARED_PROFILE, _preregistered_for(ours, issuer, ""))
        return ours

    async def _is_usable(self, discovery: Discovery, kept: Registration) -> bool:
        if kept.client.expired(self._clock()):
            return False
        return await self._client.is_client_registered(discovery.server, kept.client, kept.redirect_uri)

    async def _register(self, discovery: Discovery, redirect_uri: str, scope: str | None) -> ClientInformation:
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
            message = f"{server.issuer} publishes no OAuth metadata (RFC 9728, RFC 8414), and has no /register."
            raise MetadataError(message) from None
        except RegistrationRefused as refused:
            if refused.error == "invalid_redirect_uri":
                own = "Have its operator register a client, and set NOTION_OAUTH_CLIENT_ID."
                refused.hint = f"It does not take {redirect_uri}. {own}"
            raise


def _preregistered_for(client: ClientInformation, issuer: str, redirect_uri: str) -> Registration:
    public = client.model_copy(update={"client_secret": None})
    return Registration(issuer=issuer, redirect_uri=redirect_uri, client=public, preregistered=True)


def _issuers_of(client: ClientInformation, kept: Collection[Registration]) -> set[str]:
    return {one.issuer for one in kept if one.preregistered and one.client.client_id == client.client_id}


def _allows(kept: Registration, scope: str | None) -> bool:
    """Whether a client may ask for the scope: servers hold it to those that it was registered with (RFC 7591 §2)."""
    return kept.scope is None or scopes.includes_scope(kept.scope, scope)
