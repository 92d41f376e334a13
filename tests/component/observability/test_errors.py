"""Errors hold no secret: in their text, pickle, causes, and the local variables that error reporters send."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

import notion_oauth
from notion_oauth import BearerAuth, JsonFileStore, ValidToken, create_app, create_router
from notion_oauth.errors import NotionOAuthError
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.process.test_canaries import confidential_client
from tests.support.canaries import Canaries
from tests.support.signing_in import REDIRECT_URI, begin, sign_in

pytestmark = pytest.mark.anyio

PACKAGE = str(Path(notion_oauth.__file__).parent)
ISSUED = "canary-token-of-some-length"  # in unusable responses
Break = Callable[[Sandbox], None]


def answer(status: int, document: dict[str, Any] | str, *, times: int = 1) -> Break:
    body = document if isinstance(document, str) else json.dumps(document)
    headers = {"Content-Type": "application/json"}
    return lambda sandbox: sandbox.fail_next("/token", status=status, body=body, headers=headers, times=times)


BREAKS: dict[str, Break] = {
    "lost": lambda sandbox: sandbox.misbehave_next("/token", "drop"),
    "never": lambda sandbox: sandbox.misbehave_next("/token", "hang"),
    "a redirect": lambda sandbox: sandbox.misbehave_next("/token", "redirect"),
    "too much": lambda sandbox: sandbox.misbehave_next("/token", "oversize"),
    "a page": answer(200, f"<html>{ISSUED}"),
    "refused": answer(400, {"error": "invalid_request", "error_description": "no"}),
    "ended": answer(400, {"error": "invalid_grant"}, times=2),
    "busy": answer(503, {"error": "temporarily_unavailable", "access_token": ISSUED}),
    "damaged": answer(200, {"access_token": [ISSUED], "token_type": "bearer"}),
    "no bearer": answer(200, {"access_token": ISSUED, "token_type": "mac"}),
    "no token": answer(200, {"refresh_token": ISSUED}),
}


@pytest.fixture
async def oauth(settings: Settings, sandbox: Sandbox) -> NotionOAuth:
    """With a client that has a secret, which is sent as HTTP Basic."""
    registered = confidential_client(sandbox, REDIRECT_URI)
    sandbox.fail_next("/register", status=201, body=registered, content_type="application/json")
    return NotionOAuth(settings.model_copy(update={"timeout": 0.5}))


async def raised(call: Callable[[], Awaitable[Any]]) -> NotionOAuthError:
    with pytest.raises(NotionOAuthError) as caught:
        await call()
    return caught.value


def frames(error: BaseException) -> Iterator[FrameType]:
    """The frames of this package; those of other libraries are not our concern."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(PACKAGE):
            yield frame


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shown_by(error: NotionOAuthError) -> str:
    """All that a log, a process pool or an error reporter could output."""
    parts = [str(error), repr(error), repr(vars(error)), pickle.dumps(error).decode("latin-1")]
    parts += traceback.format_exception(error)
    for each in causes(error):
        parts += [str(each), repr(each)]
        parts += [f"{frame.f_code.co_name}: {frame.f_locals!r}" for frame in frames(each)]
    return "\n".join(parts)


@pytest.mark.slow
@pytest.mark.parametrize("broken", BREAKS)
async def test_errors_and_their_frames_hold_no_secret(oauth: NotionOAuth, sandbox: Sandbox, broken: str) -> None:
    canaries = Canaries(sandbox)
    canaries.add(access_token=ISSUED)
    await sign_in(oauth)
    pending, query = await begin(oauth)
    response = parse_authorization_response(query.multi_items())
    BREAKS[broken](sandbox)
    errors = [await raised(partial(oauth.complete_authorization, pending, response))]
    login = await oauth.tokens.stored()
    BREAKS[broken](sandbox)
    errors.append(await raised(partial(oauth.client.refresh, login)))
    BREAKS[broken](sandbox)
    errors.append(await raised(oauth.refresh))
    assert "authorization_Basic" in canaries.known().values()
    for error in errors:
        assert canaries.seen_in(shown_by(error)) == []
        assert not [each for each in causes(error) if isinstance(each, httpx.RequestError)], "it holds the request"


async def test_the_repr_of_objects_shows_no_secret(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    canaries = Canaries(sandbox)
    login = await sign_in(oauth)
    await oauth.refresh()
    app = create_app(oauth=oauth)
    things = [
        *(oauth, oauth.tokens, oauth.client, oauth.registrations, oauth.store, oauth.audit, oauth.settings, login),
        *(BearerAuth(oauth), ValidToken(oauth), JsonFileStore(oauth.settings.token_file), create_router(oauth), app),
        *(app.user_middleware, app.routes, await oauth.status(), sandbox, sandbox.requests),
    ]
    for thing in things:
        assert canaries.seen_in(f"{thing!r} {thing} {thing!s:>3}") == []
        assert canaries.seen_in(repr(getattr(thing, "__dict__", ""))) == []


def test_a_secret_on_an_error_would_be_found(sandbox: Sandbox) -> None:
    canaries = Canaries(sandbox)
    canaries.add(access_token=ISSUED)

    def fail(text: str) -> NotionOAuthError:
        return NotionOAuthError(text)

    assert canaries.seen_in(shown_by(fail(f"It was {ISSUED}.")))
    hidden = fail("It was that.")
    hidden.__context__ = ValueError(ISSUED)
    assert canaries.seen_in(shown_by(hidden))
    assert not canaries.seen_in(shown_by(fail(f"It was {SecretStr(ISSUED)}.")))
