"""BearerAuth for every HTTP library of httpx's shape: when a token goes out, which, and what follows a refusal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import ContextVar
from functools import partial
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

from pydantic import SecretStr

from notion_oauth import concurrency
from notion_oauth.clock import uptime
from notion_oauth.errors import NotionOAuthError, NotSignedIn, SignInRequired, TransientError
from notion_oauth.protocol.challenge import BearerChallenge, bearer_challenge, step_up_required
from notion_oauth.protocol.urls import DEFAULT_PORTS, origin
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.single_flight import Abandoned, SharedCall, SingleFlight, reraiser

UNAUTHORIZED = 401
REFUSALS = (UNAUTHORIZED, 403)
MOST_ASKED = 3  # sign-ins for one request: the first one, and two that ask for more
ASK_AGAIN = 600.0  # seconds after which the same thing may be asked of a person once more
LEAVE_ALONE = 60.0  # seconds after a sign-in that has failed or was declined

Authorize = Callable[[BearerChallenge | None], Awaitable[object]]
_Steps = Generator[Any, Any, None]
_Need = tuple[str | None, frozenset[str], str | None, int | None]
_ASKING: ContextVar[object] = ContextVar("notion_oauth_asking", default=None)  # whose `authorize` is running


class BearerFlows:
    """Both of the flows that an `Auth` of httpx and of its descendants has; a subclass names its library's body type.

    Requests to another origin go out without a token, across redirects too. A token that is soon to expire is
    refreshed in the background. A 401 is answered once with another token, where the body can be sent again: that
    of a stream cannot, and its 401 is the caller's. Raises into the request what `TokenSource.token` raises, and
    StepUpRequired where the resource asks for more than the person has agreed to.

    `authorize` is for programs with a person in front of them: a coroutine function that signs them in, as
    `notion_oauth.login.sign_in` does, given the resource's challenge. It is called where nobody is signed in, or more
    is asked for; once however many requests wait, in a thread with an event loop of its own; at most three times for
    one request, and not twice for the same thing. Without it no browser is ever opened.
    """

    whole_body: ClassVar[type]  # of a request that can be sent again

    def __init__(self, oauth: NotionOAuth | None = None, *, authorize: Authorize | None = None) -> None:
        service = oauth or NotionOAuth()
        self._tokens = service.tokens
        self._authorize = authorize
        self._asking: SingleFlight[object] = SingleFlight()
        self._asked: dict[_Need, float] = {}  # what a person was asked for in vain, or beyond a sign-in, and when
        self._failed: tuple[Callable[[], NoReturn], float] | None = None  # raises what the last one did, and when
        scheme, host, port = origin(urlsplit(service.settings.server_url))
        self._origin = (scheme, host.encode("idna") if not host.isascii() else host.encode(), port)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        if not self._is_ours(request.url):
            yield request
            return
        token, response = self._tokens.get_fresh(), None
        if token is not None:
            response = yield _with(token, request)
            if response.status_code not in REFUSALS:
                return  # by far the most frequent end: it costs nothing more
        steps = self._steps(request, token, response)
        step = _sent(steps, None)
        while step is not None:
            if callable(step):
                try:
                    outcome = await step()
                except Exception as error:  # it is the steps' to judge
                    step = _thrown(steps, error)
                    continue
            else:
                if response is not None:
                    await response.aread()  # the connection is free for the next
                outcome = response = yield step
            step = _sent(steps, outcome)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        if not self._is_ours(request.url):
            yield request
            return
        token, response = self._tokens.get_fresh(), None
        if token is not None:
            response = yield _with(token, request)
            if response.status_code not in REFUSALS:
                return
        steps = self._steps(request, token, response)
        step = _sent(steps, None)
        while step is not None:
            if callable(step):
                try:
                    outcome = concurrency.run(step)
                except Exception as error:
                    step = _thrown(steps, error)
                    continue
            else:
                if response is not None:
                    response.read()
                outcome = response = yield step
            step = _sent(steps, outcome)

    def _steps(self, request: Any, token: SecretStr | None, response: Any) -> _Steps:
        """What follows a refusal, or comes first where no token is at hand.

        Yields requests, to be sent for their response, and coroutine functions, to be called for their result.
        """
        if response is None:
            token = yield from self._token()
            response = yield _with(token, request)
        renewed, asked = False, 0
        while (challenge := self._refused(response)) is not None:
            if not challenge.requires_step_up and token is not None and not renewed:
                another, renewed = (yield from self._token(rejected=token)), True
            else:
                another = yield from self._adopted(token)
            while another is None:
                boarded = None if self._alone or asked == MOST_ASKED else self._boarded(challenge, again=asked > 0)
                if boarded is not None:
                    another = yield from self._signed_in(*boarded, token)
                    asked += boarded[1] and another is not None
                    continue
                another = yield from self._adopted(token)
                if another is None:
                    if challenge.requires_step_up:
                        raise self._tokens.with_profile_hint(step_up_required(challenge, request.url.host))
                    return  # a token that is new, and refused: it is the caller's
            if not isinstance(request.stream, self.whole_body):
                return
            token = another
            response = yield _with(token, request)

    def _token(self, rejected: SecretStr | None = None) -> Generator[Any, Any, SecretStr | None]:
        """A valid token; None where there is none and a person can be asked."""
        try:
            found: SecretStr = yield partial(self._tokens.token, rejected=rejected)
        except (NotSignedIn, SignInRequired):
            if self._alone:
                raise
            return None
        return found

    def _adopted(self, refused: SecretStr | None) -> Generator[Any, Any, SecretStr | None]:
        """Another token than the one refused, where somebody has signed in or refreshed meanwhile."""
        found = yield from self._token()
        return None if found == refused else found

    def _signed_in(
        self, flight: SharedCall[object], new: bool, refused: SecretStr | None
    ) -> Generator[Any, Any, SecretStr | None]:
        """The token after a sign-in; None where it was somebody else's and does not do, or was given up.

        Everybody wants it who waits for it: its browser tab stays open until the last of them has left. Raises what
        it has raised, each time in each of them.
        """
        try:
            yield flight.result
        except Abandoned:
            new = False
        except Exception:
            found = None if new else (yield from self._adopted(refused))
            if found is None:
                raise
            return found
        if new:
            signed_in: SecretStr = yield self._tokens.token
            return signed_in
        return (yield from self._adopted(refused))

    @property
    def _alone(self) -> bool:
        """Whether no person can be asked: there is none, or what runs is itself part of asking them."""
        return self._authorize is None or _ASKING.get() is self

    def _may_ask(self, challenge: BearerChallenge, *, again: bool) -> bool:
        """Whether to ask, once for each need; for a sign-in always, unless one for this very request did not help.

        Raises the error of the last sign-in while the person is to be left alone after it.
        """
        now = uptime()
        if self._failed is not None and now - self._failed[1] < LEAVE_ALONE:
            self._failed[0]()
        self._asked = {known: since for known, since in self._asked.items() if now - since < ASK_AGAIN}
        if _need(challenge) in self._asked:
            return False
        if again and not challenge.requires_step_up:
            self._asked[_need(challenge)] = now
            return False
        return True

    def _boarded(self, challenge: BearerChallenge, *, again: bool) -> tuple[SharedCall[object], bool] | None:
        """The sign-in under way, else a new one; whether it is new. None where a person is not to be asked.

        What came of it is noted before it ends: whoever does not find it under way finds the note.
        """

        async def authorize(flight: SharedCall[object]) -> object:
            assert self._authorize is not None  # noqa: S101 - asked before
            _ASKING.set(self)
            try:
                with flight.abandonable():
                    signed_in = await self._authorize(challenge)
                    self._answered(challenge)
                    return signed_in
            except Abandoned:
                raise  # nobody has answered
            except Exception as error:
                self._failed = (reraiser(error), uptime())
                if isinstance(error, NotionOAuthError) and not isinstance(error, TransientError):
                    self._answered(challenge)
                raise
            raise AssertionError("an interrupted flight has raised")

        return self._asking.join_or_start_if(partial(self._may_ask, challenge, again=again), authorize)

    def _answered(self, challenge: BearerChallenge) -> None:
        """Note what a person has agreed to or declined: it is not asked of them again for a while."""
        if challenge.requires_step_up:
            self._asked[_need(challenge)] = uptime()

    def _is_ours(self, url: Any) -> bool:
        """Whether a URL, as the library has parsed it, has the origin of the MCP server (RFC 6454 §4)."""
        scheme = url.scheme
        return (scheme, url.raw_host, url.port or DEFAULT_PORTS.get(scheme)) == self._origin

    def _refused(self, response: Any) -> BearerChallenge | None:
        """What the resource asks for, where it refuses; None where it is another that refuses, or for another reason.

        It may have redirected to somebody else, whose refusals are the caller's.
        """
        status = response.status_code
        if status not in REFUSALS or not self._is_ours(response.request.url):
            return None
        sent = response.request.headers.get("Authorization", "").partition(" ")[2]
        said = response.headers.get_list("www-authenticate")
        challenge = bearer_challenge(said, secrets=frozenset({sent} - {""})) or BearerChallenge()
        return challenge if status == UNAUTHORIZED or challenge.requires_step_up else None


def _need(challenge: BearerChallenge) -> _Need:
    """What a challenge asks for, without the words that a server makes up each time."""
    wanted = frozenset((challenge.scope or "").split()) if challenge.requires_step_up else frozenset()
    return (challenge.error if challenge.requires_step_up else None, wanted, challenge.acr_values, challenge.max_age)


def _sent(steps: _Steps, outcome: Any) -> Any:
    """The next step; None after the last."""
    try:
        return steps.send(outcome)
    except StopIteration:
        return None


def _thrown(steps: _Steps, error: Exception) -> Any:
    try:
        return steps.throw(error)
    except StopIteration:
        return None


def _with(token: SecretStr | None, request: Any) -> Any:
    if token is not None:
        request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    return request
