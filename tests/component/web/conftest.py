"""The service asks in the background who has signed in. Here it does not, so that tests can count requests."""

from __future__ import annotations

import pytest

from notion_oauth.models import Identity
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.web import status_page


@pytest.fixture(autouse=True)
def _nobody_is_asked_who_signed_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "identified" in request.fixturenames:
        return

    async def identify(*_: object) -> Identity:
        return Identity()

    monkeypatch.setattr(OAuthClient, "identify", identify)
    monkeypatch.setattr(status_page, "NAMES_WITHIN", 0.0)


@pytest.fixture
def identified() -> None:
    """For tests that are about it."""
