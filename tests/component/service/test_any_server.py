"""Any response of a server, from discovery to sign-out, gives a value or one of our errors."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from notion_oauth.errors import NotionOAuthError
from notion_oauth.models import AuthorizationResponse
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.stores.memory import MemoryStore
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.support.signing_in import REDIRECT_URI

HOST = "https://h.example"
VALID: dict[str, dict[str, Any]] = {
    "/.well-known/oauth-protected-resource/mcp": {
        "resource": f"{HOST}/mcp",
        "authorization_servers": [HOST],
        "scopes_supported": ["default"],
    },
    "/.well-known/oauth-authorization-server": {
        "issuer": HOST,
        "authorization_endpoint": f"{HOST}/authorize",
        "token_endpoint": f"{HOST}/token",
        "registration_endpoint": f"{HOST}/register",
        "revocation_endpoint": f"{HOST}/revoke",
        "token_endpoint_auth_methods_supported": ["none"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": False,
    },
    "/register": {
        "client_id": "c",
        "client_secret": "s",
        "client_secret_expires_at": 0,
        "token_endpoint_auth_method": "client_secret_basic",
    },
    "/token": {
        "access_token": "a",
        "token_type": "bearer",
        "expires_in": 3600,
        "refresh_token": "r",
        "scope": "default",
        "error": None,
        "error_description": None,
    },
    "/revoke": {"error": None},
}
UNUSUAL = [
    *(
        None,
        True,
        0,
        -1,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "\ud800",
        "ü",
        "a b",
        "\0",
        "-1",
        "1e999",
    ),
    *("https://[::1", "https://h.example:99999/", "http://127.0.0.1/", "https://xn--/", "https://h.example/#", HOST),
    *("invalid_grant", "invalid_client", "none", "client_secret_post", "client_secret_basic"),
]
VALUES = st.recursive(
    st.sampled_from(UNUSUAL) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
CHANGES = st.lists(
    st.sampled_from([(path, name) for path, document in VALID.items() for name in document]).flatmap(
        lambda place: VALUES.map(lambda value: (*place, value))
    ),
    max_size=3,
)
STATUS = st.dictionaries(
    st.sampled_from(sorted(VALID)), st.sampled_from([201, 204, 301, 400, 401, 404, 429, 500]), max_size=1
)


class ChangedServer(httpx.AsyncBaseTransport):
    """Responds as a valid server, apart from the changes."""

    def __init__(self, changes: list[tuple[str, str, Any]], status: dict[str, int]) -> None:
        self._documents = {path: dict(document) for path, document in VALID.items()}
        self._status = status
        for path, name, value in changes:
            self._documents[path][name] = value

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path not in self._documents:
            return httpx.Response(404)
        return httpx.Response(self._status.get(path, 200), content=json.dumps(self._documents[path]).encode())


async def use(network: httpx.AsyncBaseTransport) -> None:
    """Sign in twice, use the token, refresh and sign out."""
    oauth = NotionOAuth(
        Settings(server_url=f"{HOST}/mcp", retry_for=0),
        store=MemoryStore(),
        client=OAuthClient(Transport(timeout=timedelta(seconds=5), httpx_transport=network)),
    )
    for _ in range(2):  # the second time with the stored registration
        started = await oauth.begin_authorization(REDIRECT_URI)
        assert started.url.get_secret_value().startswith("https://")
        response = AuthorizationResponse(state=started.pending.state, code=SecretStr("c"), iss=started.pending.issuer)
        await oauth.complete_authorization(started.pending, response)
    (await oauth.status()).as_json()
    await oauth.tokens.token()
    await oauth.refresh()
    await oauth.sign_out()


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(changes=[("/token", "refresh_token", "\ud800")], status={})
@example(changes=[("/register", "client_id", "\ud800")], status={})
@example(changes=[("/.well-known/oauth-protected-resource/mcp", "scopes_supported", ["\ud800"])], status={})
@given(changes=CHANGES, status=STATUS)
def test_any_server_response_gives_a_value_or_our_error(
    changes: list[tuple[str, str, Any]], status: dict[str, int]
) -> None:
    async def attempt() -> None:
        with suppress(NotionOAuthError):
            await use(ChangedServer(changes, status))

    anyio.run(attempt)


def test_valid_server_works() -> None:
    """Otherwise the test above would prove nothing."""
    anyio.run(use, ChangedServer([], {}))
