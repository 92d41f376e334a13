"""Complete a sign-in when the browser comes back, once among all workers, however often the browser repeats it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import Request

from notion_oauth.concurrency import run_shielded
from notion_oauth.errors import AuthorizationExpired, AuthorizationRefused, NotionOAuthError, StateMismatch
from notion_oauth.models import AuthorizationResponse, PendingAuthorization
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.code_claims import CodeAlreadySent, CodeClaim, SignInOutcome, signed_in_at
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.sessions.pending import CompletedSignIn, SignInCookies


class Callbacks:
    """Completes sign-ins. A repeated redirect waits for the first one, and has the same outcome."""

    def __init__(self, resolver: ProfileResolver, sign_ins: SignInCookies) -> None:
        self._resolver = resolver
        self._sign_ins = sign_ins

    async def complete(self, request: Request) -> NotionOAuth | None:
        """Check the redirect, exchange the code, store the tokens. Raises what `complete_authorization` raises.

        Return whose sign-in it is; None if it was completed by another request.
        """
        with self._resolver.audit.attempt("sign_in"):
            response = parse_authorization_response(request.query_params.multi_items())
            completed = self._sign_ins.find_completed(request, response)
            if completed is None:
                started, profile = self._sign_ins.find(request, response.state)
                oauth = await self._resolver.complete_sign_in(request, profile)
                exchange: Callable[[], Awaitable[NotionOAuth | None]]
                exchange = partial(self._exchange, request, response, started, oauth)
            else:
                exchange = partial(self._repeat_completed, request, response, completed)
        return await exchange()

    def _claim(self, response: AuthorizationResponse) -> CodeClaim:
        oauth = self._resolver.oauth
        return CodeClaim(oauth.store, response, request_timeout=oauth.settings.timeout_delta)

    async def _exchange(
        self, request: Request, response: AuthorizationResponse, started: PendingAuthorization, oauth: NotionOAuth
    ) -> NotionOAuth | None:
        claim = self._claim(response)

        async def exchange() -> int:
            tokens = await oauth.complete_authorization(started, response, claim=claim)
            return await self._resolver.on_signed_in(request, oauth.profile, started, signed_in_at(tokens))

        try:
            # Shielded: a browser that repeats its redirect closes the connection of the first request
            completed = CompletedSignIn(oauth.profile, await run_shielded(exchange))
        except CodeAlreadySent:
            await self._resolver.discard(oauth.profile)
            outcome = await claim.outcome()
            self._sign_ins.delete(request, response.state)
            if outcome.profile is None:
                self._sign_ins.complete(request, response, CompletedSignIn(None, 0))
            at = await self._repeat(request, outcome)
            self._sign_ins.complete(request, response, CompletedSignIn(outcome.profile, at))
            return None
        except NotionOAuthError as error:
            await self._resolver.discard(oauth.profile)
            if claim.sent:
                self._sign_ins.complete(request, response, CompletedSignIn(None, 0))
            elif isinstance(error, AuthorizationRefused | AuthorizationExpired):
                self._sign_ins.delete(request, response.state)
            raise
        else:
            self._sign_ins.complete(request, response, completed)
            return oauth

    async def _repeat_completed(
        self, request: Request, response: AuthorizationResponse, completed: CompletedSignIn
    ) -> None:
        if completed.profile is None:
            await self._repeat(request, await self._claim(response).outcome())
        else:
            await self._repeat(request, SignInOutcome(completed.profile, completed.signed_in_at))

    async def _repeat(self, request: Request, outcome: SignInOutcome) -> int:
        """Answer as the first request did: with its error, or with the session of its login.

        Return when that was signed in.
        """
        if outcome.profile is None:
            raise outcome.error or AssertionError("an outcome is a login or an error")
        at = await self._resolver.repeat_sign_in(request, outcome.profile, outcome.signed_in_at)
        if at is None:
            raise StateMismatch("This sign-in was completed, and its login has ended since.")
        return at
