"""Whatever a server answers, from discovery to sign-out, ends in a value or in our own error."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import httpx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from notion_oauth.errors import NotionOAuthError
from notion_oauth.models import AuthorizationResponse
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.support.memory_store import MemoryStore
from tests.support.signing_in import REDIRECT_URI

HOST = "https://h.example"
WHOLE: dict[str, dict[str, Any]] = {
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
ODD = [
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
    st.sampled_from(ODD) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
CHANGES = st.lists(
    st.sampled_from([(path, name) for path, document in WHOLE.items() for name in document]).flatmap(
        lambda place: VALUES.map(lambda value: (*place, value))
    ),
    max_size=3,
)
STATUS = st.dictionaries(
    st.sampled_from(sorted(WHOLE)), st.sampled_from([201, 204, 301, 400, 401, 404, 429, 500]), max_size=1
)


class OddServer(httpx.AsyncBaseTransport):
    """Answers what a sound server would, apart from what was changed."""

    def __init__(self, changes: list[tuple[str, str, Any]], status: dict[str, int]) -> None:
        self._documents = {path: dict(document) for path, document in WHOLE.items()}
        self._status = status
        for path, name, value in changes:
            self._documents[path][name] = value

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path not in self._documents:
            return httpx.Response(404)
        return httpx.Response(self._status.get(path, 200), content=json.dumps(self._documents[path]).encode())


async def live_with(network: httpx.AsyncBaseTransport) -> None:
    """Sign in, use, refresh and sign out, each as far as the server lets it."""
    oauth = NotionOAuth(
        Settings(server_url=f"{HOST}/mcp", retry_for=0),
        store=MemoryStore(),
        client=OAuthClient(Transport(timeout=timedelta(seconds=5), network=network)),
    )
    for _ in range(2):  # the second time with a registration that is kept
        begun = await oauth.begin_authorization(REDIRECT_URI)
        assert begun.url.get_secret_value().startswith("https://")
        answer = AuthorizationResponse(state=begun.pending.state, code=SecretStr("c"), iss=begun.pending.issuer)
        await oauth.complete_authorization(begun.pending, answer)
    (await oauth.status()).as_json()
    await oauth.tokens.token()
    await oauth.refresh()
    await oauth.sign_out()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(changes=[("/token", "refresh_token", "\ud800")], status={})
@example(changes=[("/register", "client_id", "\ud800")], status={})
@example(changes=[("/.well-known/oauth-protected-resource/mcp", "scopes_supported", ["\ud800"])], status={})
@given(changes=CHANGES, status=STATUS)
def test_any_server_response_gives_a_value_or_our_error(
    changes: list[tuple[str, str, Any]], status: dict[str, int]
) -> None:
    async def lives() -> None:
        with suppress(NotionOAuthError):
            await live_with(OddServer(changes, status))

    anyio.run(lives)


def test_valid_server_works() -> None:
    """Else the test above would prove nothing."""
    anyio.run(live_with, OddServer([], {}))
