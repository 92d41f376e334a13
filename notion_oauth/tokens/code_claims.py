"""Among all workers that share a store, one sends an authorization code, and the others wait for its outcome.

A server that sees a code a second time revokes the tokens of its first use (RFC 6749 §4.1.2). A browser repeats its
redirect, and a proxy sends a request again to another worker, so each worker claims a code before it sends it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import anyio

from notion_oauth.errors import (
    SIGN_IN_AGAIN,
    AuthorizationResponseError,
    Hint,
    NotionOAuthError,
    StorageError,
)
from notion_oauth.models import PENDING_LIFETIME, AuthorizationResponse, TokenSet
from notion_oauth.storage import OUTCOME_POLL, TokenStore


class CodeAlreadySent(NotionOAuthError):
    """Another caller has claimed the code. It is not sent again; the claim has the outcome."""


@dataclass(frozen=True)
class SignInOutcome:
    """How a sign-in ended: the profile of its login and when it was signed in (milliseconds since 1970), or why not."""

    profile: str | None = None
    signed_in_at: int = 0
    error: NotionOAuthError | None = None


class CodeClaim:
    """The right to send the code of one redirect. `request_timeout` limits one request to the server."""

    def __init__(
        self,
        store: TokenStore,
        response: AuthorizationResponse,
        *,
        request_timeout: timedelta,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._key = json.dumps([each and each.get_secret_value() for each in (response.state, response.code)])
        self._wait = 2 * request_timeout  # for the response, and to store the tokens
        self._now = now
        self._unsettled = False
        self.sent = False  # whether this caller has had the right to send the code

    async def take(self) -> None:
        """Take the right to send the code. Raises CodeAlreadySent if another caller has had it, StorageError."""
        if self.sent:
            return
        if not await self._store.claim(self._key, PENDING_LIFETIME):
            raise CodeAlreadySent("Another request has sent the code of this sign-in.")
        self.sent = self._unsettled = True

    async def extend(self, seconds: float) -> None:
        """Let the others wait for that much longer: the server did not process the request, which is sent again."""
        with suppress(StorageError):  # the others then say that the sign-in was interrupted
            await self._store.settle(self._key, _encode({"until": self._now() + seconds + self._wait.total_seconds()}))

    async def succeeded(self, profile: str, tokens: TokenSet) -> None:
        """Store that the sign-in is complete. A failure to store that changes nothing: the tokens are stored."""
        await self._settle({"profile": profile, "signed_in_at": signed_in_at(tokens)})

    @asynccontextmanager
    async def settled(self) -> AsyncIterator[None]:
        """Store the error that leaves the block as the outcome, if this caller has the claim."""
        try:
            yield
        except BaseException as error:
            known = error if isinstance(error, NotionOAuthError) else interrupted()
            with anyio.CancelScope(shield=True):
                await self._settle({"error": _error_document(known)})
            raise

    async def _settle(self, document: dict[str, Any]) -> None:
        if self._unsettled:
            self._unsettled = False
            with suppress(StorageError):  # the others then wait until their time is over
                await self._store.settle(self._key, _encode(document))

    async def outcome(self) -> SignInOutcome:
        """Wait for the outcome of the caller that has the claim. If it has died, the outcome is an error.

        The error is stored: a proxy may have less time than this wait, and repeat the request. Raises StorageError.
        """
        until = self._now() + self._wait.total_seconds()
        while True:
            stored = await self._store.outcome(self._key)
            document = {} if stored is None else json.loads(stored)
            if "until" not in document and document:
                return _outcome(document)
            until = max(until, document.get("until", 0))
            if self._now() >= until:
                error = interrupted()
                with suppress(StorageError):
                    await self._store.settle(self._key, _encode({"error": _error_document(error)}))
                return SignInOutcome(error=error)
            await anyio.sleep(OUTCOME_POLL.total_seconds())


def interrupted() -> AuthorizationResponseError:
    """The error of a sign-in whose code was sent by a caller that has died."""
    return AuthorizationResponseError("This sign-in was interrupted before it was complete.", hint=SIGN_IN_AGAIN)


def signed_in_at(tokens: TokenSet) -> int:
    """When the person signed in, in milliseconds since 1970."""
    return 0 if tokens.authorized_at is None else round(tokens.authorized_at.timestamp() * 1000)


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _outcome(document: dict[str, Any]) -> SignInOutcome:
    if (failed := document.get("error")) is not None:
        return SignInOutcome(error=_error(failed))
    return SignInOutcome(document["profile"], document["signed_in_at"])


def _error_document(error: NotionOAuthError) -> dict[str, Any]:
    """The error as JSON: neither its message nor its attributes hold a secret."""
    fields = {name: value for name, value in vars(error).items() if isinstance(value, str | int | float | None)}
    return {"class": type(error).__name__, "hint": asdict(error.hint), "fields": fields}


def _error(document: dict[str, Any]) -> NotionOAuthError:
    kind = next((kind for kind in _kinds(NotionOAuthError) if kind.__name__ == document["class"]), NotionOAuthError)
    error = kind.__new__(kind, document["fields"]["message"])
    hint = document["hint"]
    vars(error).update(document["fields"], hint=Hint(**{**hint, "arguments": tuple(hint.get("arguments", ()))}))
    return error


def _kinds(kind: type[NotionOAuthError]) -> list[type[NotionOAuthError]]:
    return [kind, *(each for subclass in kind.__subclasses__() for each in _kinds(subclass))]
