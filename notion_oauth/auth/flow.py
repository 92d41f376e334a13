"""The authentication flow behind both BearerAuth classes: which requests get a token, and what follows a 401 or 403."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

from pydantic import SecretStr

from notion_oauth import clock, concurrency
from notion_oauth.errors import NewTokenRejected, NotionOAuthError, NotSignedIn, SignInRequired, TransientError
from notion_oauth.protocol.challenge import BearerChallenge, bearer_challenge, step_up_required
from notion_oauth.protocol.urls import DEFAULT_PORTS, origin
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.single_flight import Abandoned, SharedCall, SingleFlight, reraiser

UNAUTHORIZED = 401
REFUSALS = (UNAUTHORIZED, 403)
MAX_SIGN_INS = 3  # for one request: the first, and two that ask for more
REPEAT_COOLDOWN = 600.0  # seconds before the user is asked again for the same requirement
FAILURE_COOLDOWN = 60.0  # seconds before the user is asked again after a sign-in that failed or was declined

Authorize = Callable[[BearerChallenge | None], Awaitable[object]]
_Steps = Generator[Any, Any, None]
_Requirement = tuple[str | None, frozenset[str], str | None, int | None]
_AUTHORIZING: ContextVar[object] = ContextVar(
    "notion_oauth_authorizing", default=None
)  # the BearerAuth that signs in now


class BearerAuthBase:
    """The sync and async flows of an `Auth` of httpx or httpx2; a subclass names its library's body type.

    Only requests to the MCP server's origin get a token, also after redirects. A token that expires soon is refreshed
    in the background. After a 401 the request is sent once more with another token, unless its body is a stream, which
    cannot be sent twice: the caller then gets the 401. The request raises the errors of `TokenSource.token`, and
    StepUpRequired if the resource requires more than the user has consented to.

    `authorize` is for programs with a user present: a coroutine function that signs in, such as
    `partial(notion_oauth.sign_in, oauth)`, called with the resource's challenge. It runs when there is no login, or
    the resource requires more: once for all requests that wait, in a thread with its own event loop, at most three
    times for one request, and not twice for the same requirement. Without it, no browser is ever opened.

    `uptime` is the monotonic clock in seconds; `sign_ins` holds the sign-in in progress.
    """

    replayable_body: ClassVar[type]  # the type of a request body that can be sent again

    def __init__(
        self,
        oauth: NotionOAuth | None = None,
        *,
        authorize: Authorize | None = None,
        uptime: Callable[[], float] = clock.uptime,
    ) -> None:
        service = oauth or NotionOAuth()
        self.sign_ins: SingleFlight[object] = SingleFlight(own_thread=True)  # `authorize` may block
        self._service = service
        self._tokens = service.tokens
        self._authorize = authorize
        self._uptime = uptime
        self._recent: dict[_Requirement, float] = {}  # uptime of the last answer, or of a sign-in in vain
        self._last_failure: tuple[Callable[[], NoReturn], float] | None = None  # raises its error; when it failed
        scheme, host, port = origin(urlsplit(service.settings.server_url))
        self._origin = (scheme, host.encode("idna") if not host.isascii() else host.encode(), port)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[NotionOAuth]]:
        """Pickle and copy what the constructor needs: no token, and nothing of a sign-in in progress."""
        return partial(type(self), authorize=self._authorize, uptime=self._uptime), (self._service,)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        if not self._is_resource(request.url):
            yield request
            return
        token, response = self._tokens.get_fresh(), None
        if token is not None:
            response = yield _with_token(token, request)
            if response.status_code not in REFUSALS:
                self._tokens.record_accepted(token)
                return  # the common case ends here, at no further cost
        steps = self._negotiate(request, token, response)
        step = _send(steps, None)
        while step is not None:
            if callable(step):
                try:
                    outcome = await step()
                except Exception as error:  # handled by the steps
                    step = _throw(steps, error)
                    continue
            else:
                if response is not None:
                    await response.aread()  # returns the connection to the pool
                outcome = response = yield step
            step = _send(steps, outcome)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        if not self._is_resource(request.url):
            yield request
            return
        token, response = self._tokens.get_fresh(), None
        if token is not None:
            response = yield _with_token(token, request)
            if response.status_code not in REFUSALS:
                self._tokens.record_accepted(token)
                return
        steps = self._negotiate(request, token, response)
        step = _send(steps, None)
        while step is not None:
            if callable(step):
                try:
                    outcome = concurrency.run(step)
                except Exception as error:
                    step = _throw(steps, error)
                    continue
            else:
                if response is not None:
                    response.read()
                outcome = response = yield step
            step = _send(steps, outcome)

    def _negotiate(self, request: Any, token: SecretStr | None, response: Any) -> _Steps:
        """The steps after a refusal, or from the start if no fresh token was cached.

        Yields requests, to be sent for their response, and coroutine functions, to be called for their result.
        """
        if response is None:
            token = yield from self._get_token()
            response = yield _with_token(token, request)
        renewed, sign_ins = False, 0
        while (challenge := self._challenge_in(response)) is not None:
            if not challenge.requires_step_up and token is not None and not renewed:
                another, renewed = (yield from self._get_token(rejected=token)), True
            else:
                another = yield from self._other_token(token)
            while another is None:
                sign_in = None
                if not self._non_interactive and sign_ins < MAX_SIGN_INS:
                    sign_in = self._join_or_start_sign_in(challenge, again=sign_ins > 0)
                if sign_in is not None:
                    another = yield from self._token_after_sign_in(*sign_in, token)
                    sign_ins += sign_in[1] and another is not None
                    continue
                another = yield from self._other_token(token)
                if another is None:
                    if challenge.requires_step_up:
                        raise self._tokens.with_profile_hint(step_up_required(challenge, request.url.host))
                    return  # a new token was refused: the caller gets the 401
            if not isinstance(request.stream, self.replayable_body):
                return
            token = another
            response = yield _with_token(token, request)
        self._tokens.record_accepted(token)

    def _get_token(self, rejected: SecretStr | None = None) -> Generator[Any, Any, SecretStr | None]:
        """A valid token; None if a sign-in is needed and the user can be asked for it, or a refresh does not help."""
        try:
            found: SecretStr = yield partial(self._tokens.token, rejected=rejected)
        except NewTokenRejected:
            return None
        except (NotSignedIn, SignInRequired):
            if self._non_interactive:
                raise
            return None
        return found

    def _other_token(self, refused: SecretStr | None) -> Generator[Any, Any, SecretStr | None]:
        """The current token if it differs from the refused one: another caller has signed in or refreshed."""
        found = yield from self._get_token()
        return None if found == refused else found

    def _token_after_sign_in(
        self, call: SharedCall[object], new: bool, refused: SecretStr | None
    ) -> Generator[Any, Any, SecretStr | None]:
        """The token after a sign-in; None if another request signed in, and the token is still the refused one.

        The sign-in continues while at least one request waits for it. Its error is raised in each of them.
        """
        try:
            yield partial(call.result, counted=new)
        except Abandoned:
            new = False
        except Exception:
            found = None if new else (yield from self._other_token(refused))
            if found is None:
                raise
            return found
        if new:
            token: SecretStr = yield self._tokens.token
            return token
        return (yield from self._other_token(refused))

    @property
    def _non_interactive(self) -> bool:
        """Whether the user cannot be asked: there is no `authorize`, or this request is part of it."""
        return self._authorize is None or _AUTHORIZING.get() is self

    def _may_start_sign_in(self, challenge: BearerChallenge, *, again: bool) -> bool:
        """Whether to ask the user to sign in. The same requirement is asked for once within REPEAT_COOLDOWN.

        A 401 without a requirement may always ask, but not twice for one request (`again`): a sign-in did not help.
        Within FAILURE_COOLDOWN after a failed sign-in, raises its error.
        """
        now = self._uptime()
        if self._last_failure is not None and now - self._last_failure[1] < FAILURE_COOLDOWN:
            self._last_failure[0]()
        self._recent = {requirement: at for requirement, at in self._recent.items() if now - at < REPEAT_COOLDOWN}
        if _requirement(challenge) in self._recent:
            return False
        if again and not challenge.requires_step_up:
            self._recent[_requirement(challenge)] = now
            return False
        return True

    def _join_or_start_sign_in(
        self, challenge: BearerChallenge, *, again: bool
    ) -> tuple[SharedCall[object], bool] | None:
        """The sign-in in progress or a new one, and whether it is new; None if the user may not be asked.

        Its outcome is recorded before it ends, so that a later request finds either the sign-in or the record.
        """

        async def authorize(call: SharedCall[object]) -> object:
            assert self._authorize is not None  # noqa: S101 - _non_interactive has checked it
            _AUTHORIZING.set(self)
            try:
                with call.abandonable():
                    result = await self._authorize(challenge)
                    self._record_answer(challenge)
                    return result
            except Abandoned:
                raise  # the user has not answered
            except Exception as error:
                self._last_failure = (reraiser(error), self._uptime())
                if isinstance(error, NotionOAuthError) and not isinstance(error, TransientError):
                    self._record_answer(challenge)
                raise
            raise AssertionError("abandonable() must have raised")

        return self.sign_ins.join_or_start_if(partial(self._may_start_sign_in, challenge, again=again), authorize)

    def _record_answer(self, challenge: BearerChallenge) -> None:
        """Record that the user consented or declined, so that the same is not requested again during the cooldown."""
        if challenge.requires_step_up:
            self._recent[_requirement(challenge)] = self._uptime()

    def _is_resource(self, url: Any) -> bool:
        """Whether a URL, as parsed by the HTTP library, has the MCP server's origin (RFC 6454 §4)."""
        scheme = url.scheme
        return (scheme, url.raw_host, url.port or DEFAULT_PORTS.get(scheme)) == self._origin

    def _challenge_in(self, response: Any) -> BearerChallenge | None:
        """The challenge of a 401 or a step-up 403 of the resource; None for any other response.

        A 401 or 403 of another origin, reached by a redirect, is returned to the caller unchanged.
        """
        status = response.status_code
        if status not in REFUSALS or not self._is_resource(response.request.url):
            return None
        sent = response.request.headers.get("Authorization", "").partition(" ")[2]
        values = response.headers.get_list("www-authenticate")
        challenge = bearer_challenge(values, secrets=frozenset({sent} - {""})) or BearerChallenge()
        return challenge if status == UNAUTHORIZED or challenge.requires_step_up else None


def _requirement(challenge: BearerChallenge) -> _Requirement:
    """What a challenge requires, without its free text, which a server may vary."""
    scopes = frozenset((challenge.scope or "").split()) if challenge.requires_step_up else frozenset()
    return (challenge.error if challenge.requires_step_up else None, scopes, challenge.acr_values, challenge.max_age)


def _send(steps: _Steps, outcome: Any) -> Any:
    """The next step; None after the last."""
    try:
        return steps.send(outcome)
    except StopIteration:
        return None


def _throw(steps: _Steps, error: Exception) -> Any:
    try:
        return steps.throw(error)
    except StopIteration:
        return None


def _with_token(token: SecretStr | None, request: Any) -> Any:
    if token is not None:
        request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    return request
