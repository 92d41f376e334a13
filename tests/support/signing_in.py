"""Sign in without a browser: the practice server consents by itself."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import httpx

from notion_oauth.models import PendingAuthorization, TokenSet
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.service import NotionOAuth

REDIRECT_URI = "http://127.0.0.1:4321/callback"


async def begin(
    oauth: NotionOAuth, redirect_uri: str = REDIRECT_URI, *, challenge: BearerChallenge | None = None
) -> tuple[PendingAuthorization, httpx.QueryParams]:
    """Start a sign-in. Returns it with the query of the redirect."""
    started = await oauth.begin_authorization(redirect_uri, challenge=challenge)
    async with httpx.AsyncClient(trust_env=False) as browser:
        response = await browser.get(started.url.get_secret_value())
    location = httpx.URL(response.headers["location"])
    assert str(location).startswith(redirect_uri)
    return started.pending, location.params


async def sign_in(
    oauth: NotionOAuth, redirect_uri: str = REDIRECT_URI, *, challenge: BearerChallenge | None = None
) -> TokenSet:
    """Sign in. Returns the login, which is stored."""
    pending, query = await begin(oauth, redirect_uri, challenge=challenge)
    return await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))


def age(file: Path, **span: float) -> None:
    """Make the login in a token file older by that span, for every process that reads it."""
    document = json.loads(file.read_text())
    for name in ("updated_at", "expires_at", "authorized_at", "refreshed_at"):
        if document[name] is not None:
            document[name] -= round(timedelta(**span).total_seconds() * 1000)
    file.write_text(json.dumps(document))
