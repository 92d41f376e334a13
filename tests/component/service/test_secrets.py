"""No secret appears in a log, a repr, an error or a traceback; no bytes in a token file cause a crash."""

from __future__ import annotations

import http.client
import json
import logging
import tempfile
import traceback
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from notion_oauth import models
from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.errors import NotionOAuthError, StoreDamaged
from notion_oauth.files.token_file_format import encode_tokens
from notion_oauth.models import ClientInformation
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.challenge import bearer_challenge
from notion_oauth.protocol.messages import Request, Response
from notion_oauth.protocol.token import code_request, parse_token_response, refresh_request
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.unit.protocol.builders import DISCOVERY, ISSUER, PUBLIC, pending, tokens

SECRET_FIELDS = {"code", "code_verifier", "refresh_token", "token", "client_secret"}


def redirected_to(url: str) -> list[tuple[str, str]]:
    """The query of the redirect, requested with a library that logs nothing."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request("GET", f"{parts.path}?{parts.query}")
    response = connection.getresponse()
    response.read()
    connection.close()
    return parse_qsl(urlsplit(response.headers["location"]).query)


@pytest.mark.spec("MCP §Refresh Tokens", "Keep refresh tokens confidential in transit and in storage")
@pytest.mark.anyio
async def test_library_logs_hold_no_secret(
    settings: Settings, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """httpx logs each URL at INFO, httpcore each step at DEBUG."""
    caplog.set_level(logging.DEBUG)
    oauth = NotionOAuth(settings)
    started = await oauth.begin_authorization("http://127.0.0.1:4321/callback")
    query = await anyio.to_thread.run_sync(redirected_to, started.url.get_secret_value())
    login = await oauth.complete_authorization(started.pending, parse_authorization_response(query))
    async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
        await client.post(sandbox.mcp_url, json={})
    renewed = await oauth.refresh()
    await oauth.begin_authorization("http://127.0.0.1:4321/callback")  # checks whether the client is still registered
    await oauth.sign_out()
    secrets = {value for request in sandbox.requests for name, value in request.form.items() if name in SECRET_FIELDS}
    secrets |= {each.access_token.get_secret_value() for each in (login, renewed)}
    secrets |= {started.pending.state.get_secret_value(), started.pending.code_verifier.get_secret_value()}
    assert len(secrets) >= 7
    ours = [record for record in caplog.records if record.name != "uvicorn.access"]  # of the practice server
    logged = [record.getMessage() + repr(record.args) for record in ours]
    assert any(record.name == "httpx" for record in caplog.records), "the logs of libraries are captured"
    assert not [text for text in logged if any(secret in text for secret in secrets)]
    assert any(record.name == "notion_oauth.audit" for record in caplog.records), "our own logs are captured"


CANARY = "canary-secret-of-some-length"
HELD: list[Any] = [
    tokens(access_token=SecretStr(CANARY), refresh_token=SecretStr(CANARY)),
    pending(state=SecretStr(CANARY), code_verifier=SecretStr(CANARY)),
    ClientInformation(client_id="c", client_secret=SecretStr(CANARY)),
    models.Registration(
        issuer=ISSUER, redirect_uri="http://127.0.0.1/", client=ClientInformation(client_id="c", client_secret=CANARY)
    ),
    models.AssertionRequest.for_discovery(DISCOVERY, PUBLIC, None, assertion=SecretStr(CANARY)),
    models.AuthorizationRequest(url=SecretStr(f"{ISSUER}/authorize?state={CANARY}"), pending=pending()),
    models.AuthorizationResponse(state=SecretStr(CANARY), code=SecretStr(CANARY)),
    models.TokenResponse(access_token=CANARY, token_type="bearer", refresh_token=CANARY),
    refresh_request(tokens(refresh_token=SecretStr(CANARY))),
    refresh_request(
        tokens(client=ClientInformation(client_id="c", client_secret=CANARY), refresh_token=SecretStr(CANARY))
    ),
    code_request(pending(code_verifier=SecretStr(CANARY)), SecretStr(CANARY)),
    Request("POST", ISSUER, headers={"Authorization": CANARY}, json={"a": CANARY}),
    Response(200, ISSUER, {"set-cookie": CANARY}, CANARY.encode()),
    Settings(secret_key=SecretStr(CANARY + CANARY), client_id="c", client_secret=SecretStr(CANARY)),
]


@pytest.mark.spec("MCP §Refresh Tokens", "Keep refresh tokens confidential in transit and in storage")
@pytest.mark.parametrize("thing", HELD, ids=lambda thing: type(thing).__name__)
def test_repr_hides_secrets(thing: Any) -> None:
    for shown in (repr(thing), str(thing), f"{thing}", f"{thing!a}"):
        assert CANARY not in shown
    if isinstance(thing, BaseModel):
        assert CANARY not in thing.model_dump_json()


def test_every_model_with_a_secret_is_tested() -> None:
    kinds = {kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, BaseModel)}
    with_secrets = {kind for kind in kinds if "SecretStr" in str(kind.model_fields)}
    assert with_secrets <= {type(thing) for thing in HELD}


@pytest.mark.parametrize("name", ["access_token", "refresh_token", "client_id", "client_secret", "issuer"])
def test_error_for_an_invalid_file_hides_its_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"access_token": CANARY, "client_id": "c", "updated_at": 1, name: [CANARY]}))
    oauth = NotionOAuth(Settings(token_file=path))
    with pytest.raises(StoreDamaged) as caught:
        anyio.run(oauth.status)
    for shown in (repr(caught.value), str(caught.value), *traceback.format_exception(caught.value)):
        assert CANARY not in shown


class NoNetwork(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no server")


WHOLE: dict[str, Any] = json.loads(encode_tokens(tokens()))
ANYTHING = st.recursive(
    st.sampled_from(
        [
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
            "https://[::1",
            "https://h:99999/",
            "http://127.0.0.1:9/t",
            "https://mcp.notion.com/mcp",
            "client_secret_basic",
        ]
    )
    | st.integers()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
FILES = (
    st.dictionaries(st.sampled_from(sorted(WHOLE)), ANYTHING, min_size=1, max_size=3).map(
        lambda changes: json.dumps({**WHOLE, **changes}).encode()
    )
    | st.binary(max_size=40)
    | st.just(b"[" * 100_000)
)


@pytest.mark.slow
@hypothesis_settings(deadline=None)
@example(content=json.dumps({**WHOLE, "updated_at": 10**400}).encode(), hours=0)
@example(content=json.dumps({**WHOLE, "resource": "https://[::1"}).encode(), hours=0)
@given(content=FILES, hours=st.sampled_from([-(10**4), 0, 10**5]))
def test_any_token_file_gives_a_value_or_our_error(content: bytes, hours: int) -> None:
    """In every operation: status, token, refresh, sign-out."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tokens.json"
        client = OAuthClient(Transport(timeout=timedelta(seconds=5), httpx_transport=NoNetwork()))
        clock = partial(_moved, timedelta(hours=hours))
        oauth = NotionOAuth(Settings(token_file=path, retry_for=0), client=client, clock=clock)

        async def try_all() -> None:
            for attempt in (oauth.status, oauth.tokens.token, oauth.refresh, oauth.sign_out):
                path.write_bytes(content)
                try:
                    await attempt()
                except NotionOAuthError:
                    assert path.read_bytes() == content, "an error leaves the file unchanged"
                await oauth.tokens.wait_until_idle()

        anyio.run(try_all)


def _moved(by: timedelta) -> datetime:
    return datetime.now(UTC) + by


SHORT = "hunter2"


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("field", ["error", "error_description"])
@pytest.mark.parametrize("said", [f"invalid_grant:{CANARY}", f"bad-secret-{SHORT}"])
def test_error_does_not_repeat_a_sent_secret(said: str, field: str, method: Any) -> None:
    client = ClientInformation(client_id="c", client_secret=SecretStr(SHORT), token_endpoint_auth_method=method)
    request = refresh_request(tokens(client=client, refresh_token=SecretStr(CANARY)))
    body = json.dumps({"error": "invalid_client", field: said}).encode()
    with pytest.raises(NotionOAuthError) as caught:
        parse_token_response(Response(400, request.url, {}, body), request=request)
    for shown in (str(caught.value), repr(vars(caught.value))):
        assert CANARY not in shown
        assert SHORT not in shown


def test_error_repeats_protocol_terms() -> None:
    request = refresh_request(tokens())
    body = b'{"error": "unsupported_grant_type", "error_description": "no refresh_token here"}'
    with pytest.raises(NotionOAuthError, match=r"unsupported_grant_type.*no refresh_token here"):
        parse_token_response(Response(400, request.url, {}, body), request=request)


@pytest.mark.parametrize("name", ["realm", "scope", "error_description", "acr_values", "resource_metadata"])
def test_challenge_does_not_repeat_the_token(name: str) -> None:
    field = f'Bearer error="insufficient_scope", {name}="x {CANARY}"'
    assert CANARY not in str(bearer_challenge([field], secrets=frozenset({CANARY})))
