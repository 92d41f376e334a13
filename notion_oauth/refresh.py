"""TokenSource: a valid access token, with one refresh at a time across tasks, processes and machines."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from functools import partial

from pydantic import SecretStr

from notion_oauth.errors import (
    NotionOAuthError,
    NotSignedIn,
    OtherResource,
    SignInRequired,
    StorageError,
    TokenRefused,
)
from notion_oauth.finishing import to_the_end
from notion_oauth.models import TokenSet
from notion_oauth.oauth_client import Clock, OAuthClient, utc_now
from notion_oauth.protocol.token import TERMINAL
from notion_oauth.protocol.urls import covers
from notion_oauth.storage import TokenStore

REFRESH_LEEWAY = timedelta(minutes=5)  # Notion asks for five to ten
LEEWAY_SHARE = 3  # never more than a third of the lifetime: short-lived tokens would be refreshed at every use


class TokenSource:
    """Hands out a valid access token of one profile, and refreshes the stored login when that takes it.

    `server_url` is asked for what a login lacks that another program stored.
    """

    def __init__(
        self, store: TokenStore, client: OAuthClient, *, server_url: str, profile: str, clock: Clock = utc_now
    ) -> None:
        self._store = store
        self._client = client
        self._server_url = server_url
        self._profile = profile
        self._clock = clock

    async def token(self, *, rejected: SecretStr | None = None, min_ttl: timedelta = timedelta()) -> SecretStr:
        """A valid access token. `rejected` is one that the resource has just refused: another is then found.

        One that would expire within `min_ttl` is refreshed first; where that fails while it is good, or where the
        server's tokens live shorter than that, what there is has to do. Raises NotSignedIn, SignInRequired where
        the login has ended, TransientError where a refresh is due and not possible now, StorageError.
        """
        tokens = await self.stored()
        if self._good(tokens, rejected, min_ttl):
            return tokens.access_token
        try:
            return (await self._refresh(rejected, min_ttl)).access_token
        except (NotSignedIn, SignInRequired, OtherResource):
            raise
        except NotionOAuthError:
            if tokens.access_token == rejected or tokens.expired(self._clock()):
                raise
            return tokens.access_token  # refreshed early for comfort: it is still good

    async def load(self) -> TokenSet | None:
        """The stored login, None where there is none.

        Raises OtherResource where it is for another server than the one that is set: its token must not go there.
        """
        tokens = await self._store.load(self._profile)
        if tokens is not None and tokens.resource is not None and not covers(tokens.resource, self._server_url):
            raise OtherResource(f"The stored login is for {tokens.resource}, not for {self._server_url}.")
        return tokens

    async def stored(self) -> TokenSet:
        """The stored login. Raises NotSignedIn, OtherResource."""
        tokens = await self.load()
        if tokens is None:
            raise NotSignedIn("Nobody is signed in.")
        return tokens

    async def refresh(self, *, if_older_than: timedelta = timedelta()) -> TokenSet:
        """Refresh now, valid or not, unless another has done so since this call began, or within `if_older_than`.

        Raises as `token` does.
        """
        tokens = await self.stored()
        if self._clock() - tokens.updated_at < if_older_than:
            return tokens
        return await self._refresh(tokens.access_token)

    async def _refresh(self, rejected: SecretStr | None, min_ttl: timedelta = timedelta()) -> TokenSet:
        async with self._store.exclusive(self._profile):
            return await to_the_end(partial(self._refresh_alone, rejected, min_ttl))

    async def _refresh_alone(self, rejected: SecretStr | None, min_ttl: timedelta) -> TokenSet:
        tokens = await self.stored()
        if self._good(tokens, rejected, min_ttl):
            return tokens  # somebody else has refreshed while we waited
        await self._store.ensure_writable(self._profile)  # before the server gives what can't be kept
        try:
            new = await self._client.refresh(await self.complete(tokens))
        except TokenRefused as refused:
            if refused.error not in TERMINAL:
                raise
            return await self._ended(tokens, refused)
        await self._store.save(self._profile, new)  # before any caller sees it
        return new

    async def _ended(self, tokens: TokenSet, refused: TokenRefused) -> TokenSet:
        """Forget a login that the server has ended, unless a program that knows no lock has stored another one."""
        latest = await self._store.load(self._profile)
        if latest is not None and latest.refresh_token != tokens.refresh_token:
            return latest
        with suppress(StorageError):  # what cannot be deleted is refused again at the next use
            await self._store.delete(self._profile)
        raise SignInRequired(f"The login has ended: {refused.message}", error=refused.error) from None

    async def complete(self, tokens: TokenSet) -> TokenSet:
        """Add what a login lacks that another program stored. A complete one costs no request."""
        if tokens.token_endpoint is not None or tokens.refresh_token is None:
            return tokens
        found = await self._client.discover(self._server_url)
        return tokens.model_copy(
            update={
                "issuer": found.server.issuer,
                "resource": found.resource,
                "token_endpoint": found.server.token_endpoint,
                "revocation_endpoint": found.server.revocation_endpoint,
                "token_endpoint_auth_methods_supported": found.server.token_endpoint_auth_methods_supported,
            }
        )

    def _good(self, tokens: TokenSet, rejected: SecretStr | None, min_ttl: timedelta) -> bool:
        refused = rejected is not None and rejected == tokens.access_token
        return not refused and not tokens.expired(self._clock(), leeway=_leeway(tokens, min_ttl))


def _leeway(tokens: TokenSet, min_ttl: timedelta) -> timedelta:
    """How long before its expiry a token is refreshed."""
    if tokens.refresh_token is None:
        return timedelta()  # nothing can be done: it serves to its end
    if tokens.expires_in is None:
        return min_ttl
    return max(min_ttl, min(REFRESH_LEEWAY, timedelta(seconds=tokens.expires_in) / LEEWAY_SHARE))
