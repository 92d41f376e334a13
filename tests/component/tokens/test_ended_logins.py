"""When a login ends, when it does not, and which tokens are served meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest
import trio
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from trio.testing import MockClock, wait_all_tasks_blocked

from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.cli.background_server import served
from notion_oauth.clock import utc_now
from notion_oauth.errors import (
    NotSignedIn,
    ResourceMismatch,
    SignInRequired,
    StorageError,
    StoreBusy,
    StoreDamaged,
    TokenRefused,
)
from notion_oauth.files.token_file_format import encode_tokens
from notion_oauth.models import TokenSet
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import LOCK_WAIT, TokenStore
from notion_oauth.stores.memory import MemoryDocuments
from notion_oauth.tokens.revocation import SignOut
from tests.conftest import Posted
from tests.support.paths import ROOT
from tests.support.signing_in import begin, sign_in
from tests.support.stores import HookedDocuments, load_login

pytestmark = pytest.mark.anyio

TERMINAL = ["invalid_grant", "invalid_client", "unauthorized_client"]


def ahead(**span: float) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + timedelta(**span)


@pytest.mark.parametrize("error", TERMINAL)
async def test_ended_login_is_recorded_without_its_tokens(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, error: str
) -> None:
    """Dead tokens are useless secrets, and would be sent again at every call."""
    login = await sign_in(oauth)
    sandbox.fail_next("/token", times=2, error=error, description="Grant not found")
    with pytest.raises(SignInRequired, match="Grant not found") as ended:
        await oauth.refresh()
    assert ended.value.error == error
    assert "notion-oauth login" in str(ended.value.hint)
    assert login.refresh_token is not None
    content = settings.token_file.read_text()
    for token in (login.access_token, login.refresh_token):
        assert token.get_secret_value() not in content
    assert (await oauth.status()).status == "unauthenticated"
    requests = len(sandbox.requests)
    for another in (oauth, NotionOAuth(settings)):  # this process and the next
        with pytest.raises(SignInRequired) as caught:
            await another.tokens.token()
        assert caught.value.error == error
        assert "notion-oauth login" in str(caught.value.hint)
        with pytest.raises(SignInRequired):
            await another.refresh()
    assert len(sandbox.requests) == requests
    assert await oauth.registered_redirect_uris(), "the client registration stays"


WHY: list[tuple[dict[str, str], dict[str, float], str]] = [
    ({"error": "invalid_grant", "description": "Refresh token reuse detected"}, {}, "reused"),
    ({"error": "invalid_grant", "description": "OAuth grant revoked"}, {"days": 200}, "revoked"),
    ({"error": "invalid_grant", "description": "Grant not found"}, {}, "ended"),
    ({"error": "invalid_grant", "description": "Grant not found"}, {"days": 31}, "idle"),
    ({"error": "invalid_grant", "description": "Refresh token has expired"}, {"days": 181}, "too_old"),
    ({"error": "invalid_grant", "description": "Refresh token has expired"}, {}, "expired"),
    ({"error": "invalid_grant"}, {"days": 31}, "idle"),
    ({"error": "invalid_grant", "description": "Client ID mismatch"}, {}, "client_refused"),
    ({"error": "invalid_client", "description": "Client not found"}, {"days": 181}, "client_forgotten"),
    ({"error": "unauthorized_client"}, {}, "client_refused"),
]


@pytest.mark.parametrize(("refusal", "age", "reason"), WHY)
async def test_reason_of_the_end_is_reported(
    settings: Settings, sandbox: Sandbox, refusal: dict[str, str], age: dict[str, float], reason: str
) -> None:
    await sign_in(NotionOAuth(settings))
    oauth = NotionOAuth(settings, clock=ahead(hours=2, **age))
    sandbox.fail_next("/token", times=2, **refusal)  # type: ignore[arg-type]
    with pytest.raises(SignInRequired) as caught:
        await oauth.tokens.token()
    assert caught.value.reason == reason
    status = await NotionOAuth(settings).status()
    assert (status.status, status.ended_reason) == ("unauthenticated", reason)
    assert status.ended_at is not None
    assert status.message
    assert status.message in str(caught.value)
    assert set(status.as_json()) == {"status", "ended_at", "ended_reason", "message"}


async def test_hint_names_the_profile(settings: Settings, sandbox: Sandbox) -> None:
    """Otherwise a user who follows the hint signs in to another profile."""
    work = NotionOAuth(settings, profile="work")
    with pytest.raises(NotSignedIn) as signed_out:
        await work.tokens.token()
    assert str(signed_out.value.hint) == "Sign in with: notion-oauth login --profile work"
    await sign_in(work)
    sandbox.fail_next("/token", error="invalid_scope")
    with pytest.raises(TokenRefused) as refused:
        await work.refresh()
    elsewhere = NotionOAuth(settings.model_copy(update={"server_url": "https://other.example/mcp"}), profile="work")
    with pytest.raises(ResourceMismatch) as other:
        await elsewhere.tokens.token()
    command = f"notion-oauth logout --profile work --server-url {settings.server_url}"
    assert str(other.value.hint).endswith(command)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired) as ended:
        await work.refresh()
    with pytest.raises(SignInRequired) as known:
        await NotionOAuth(settings, profile="work").tokens.token()
    sandbox.options.token_response_overrides = {"refresh_token": None}
    await sign_in(work)
    with pytest.raises(SignInRequired) as unrefreshable:
        await work.refresh()
    for caught in (refused, ended, known, unrefreshable):
        assert str(caught.value.hint) == "Sign in again with: notion-oauth login --profile work"


async def test_sign_in_replaces_an_ended_login(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    sandbox.forget_clients()
    with pytest.raises(SignInRequired):
        await oauth.refresh()
    login = await sign_in(oauth)
    assert await oauth.tokens.token() == login.access_token
    assert (await oauth.refresh()).refresh_token != login.refresh_token


async def test_sign_out_deletes_the_record_of_an_ended_login(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        await oauth.refresh()
    assert await oauth.sign_out() is SignOut.NOT_SIGNED_IN
    assert not settings.token_file.exists()
    with pytest.raises(NotSignedIn):
        await oauth.tokens.token()


async def test_other_refusal_keeps_the_login(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    login = await sign_in(oauth)
    sandbox.fail_next("/token", error="invalid_target")
    with pytest.raises(TokenRefused, match="invalid_target"):
        await oauth.refresh()
    assert await load_login(oauth.store, "default") == login


async def test_newer_login_of_another_program_is_adopted(settings: Settings, sandbox: Sandbox) -> None:
    """A program that ignores the lock stores a newer login while ours is refreshed."""
    newer: list[TokenSet] = []
    memory = MemoryDocuments(lock_wait=timedelta(seconds=60), clock=utc_now)

    def overwrite(operation: str, profile: str, content: bytes | None) -> None:
        if operation == "reserve" and newer:
            login = encode_tokens(newer.pop())
            memory.change(profile, lambda stored: stored.documents.update({"login": login}))

    oauth = NotionOAuth(settings, store=TokenStore(HookedDocuments(overwrite, memory)))
    login = await sign_in(oauth)
    adopted = login.model_copy(update={"access_token": SecretStr("newer"), "refresh_token": SecretStr("newer")})
    newer.append(adopted)
    sandbox.fail_next("/token", times=2, error="invalid_grant", description="Refresh token reuse detected")
    assert await oauth.refresh() == adopted
    assert await load_login(oauth.store, "default") == adopted


def refusing(*refused: str) -> TokenStore:
    """A store in memory that cannot record the end of a login, nor do the other refused operations."""

    def refuse(operation: str, profile: str, content: bytes | None) -> None:
        if operation in refused or (operation == "write" and b"ended_at" in (content or b"")):
            raise StorageError("Nothing can be written here.")

    return TokenStore(HookedDocuments(refuse))


async def test_dead_tokens_are_deleted_if_the_end_cannot_be_recorded(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings, store=refusing())
    await sign_in(oauth)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired, match="revoked"):
        await oauth.refresh()
    assert await load_login(oauth.store, "default") is None


async def test_dead_token_that_cannot_be_deleted_is_not_sent_again(
    settings: Settings, sandbox: Sandbox, grants_asked: Posted
) -> None:
    oauth = NotionOAuth(settings, store=refusing("delete"))
    await sign_in(oauth)
    sandbox.fail_next("/token", times=2, error="invalid_grant", description="Grant not found")
    for _ in range(2):
        with pytest.raises(SignInRequired, match="Grant not found"):
            await oauth.refresh()
    assert grants_asked() == ["authorization_code", "refresh_token", "refresh_token"]


@pytest.mark.parametrize("problem", [StorageError("The disk is full."), StoreBusy("Busy.")])
async def test_valid_token_is_served_from_an_unwritable_store(
    settings: Settings, sandbox: Sandbox, problem: StorageError
) -> None:
    problems: list[StorageError] = []

    def fail(operation: str, profile: str, content: bytes | None) -> None:
        if operation == "reserve" and problems:
            raise problems[0]

    store = TokenStore(HookedDocuments(fail))
    login = await sign_in(NotionOAuth(settings, store=store))
    problems.append(problem)
    requests = len(sandbox.requests)
    assert await NotionOAuth(settings, store=store, clock=ahead(minutes=57)).tokens.token() == login.access_token
    with pytest.raises(type(problem)):
        await NotionOAuth(settings, store=store, clock=ahead(minutes=61)).tokens.token()
    with pytest.raises(type(problem)):
        await NotionOAuth(settings, store=store).tokens.token(rejected=login.access_token)
    assert len(sandbox.requests) == requests, "no tokens were requested that could not be stored"


async def test_valid_token_is_served_after_an_unexpected_refusal(settings: Settings, sandbox: Sandbox) -> None:
    login = await sign_in(NotionOAuth(settings))
    sandbox.fail_next("/token", error="invalid_target")
    assert await NotionOAuth(settings, clock=ahead(minutes=57)).tokens.token() == login.access_token


async def test_valid_token_of_an_ended_login_is_not_served(settings: Settings, sandbox: Sandbox) -> None:
    """A grant that has ended has no valid tokens, even before their expiry."""
    await sign_in(NotionOAuth(settings))
    sandbox.revoke_grants()
    oauth = NotionOAuth(settings, clock=ahead(minutes=57))
    await oauth.tokens.token()  # still valid by its lifetime; a background refresh starts
    await oauth.tokens.wait_until_idle()
    with pytest.raises(SignInRequired, match="revoked"):
        await oauth.tokens.token()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"name": "package"}', b"\x7fELF\0", b"null", b"7"])
async def test_foreign_file_is_never_changed(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, content: bytes
) -> None:
    pending, query = await begin(oauth)
    requests = len(sandbox.requests)
    settings.token_file.write_bytes(content)

    async def complete_sign_in() -> None:
        await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))

    for attempt in (
        lambda: begin(oauth),
        complete_sign_in,
        oauth.tokens.token,
        oauth.refresh,
        oauth.status,
        oauth.sign_out,
    ):
        with pytest.raises(StoreDamaged, match="is damaged or not a file of notion-oauth") as caught:
            await attempt()
        assert "Move the file away" in str(caught.value.hint)
    assert settings.token_file.read_bytes() == content
    assert len(sandbox.requests) == requests, "the user is not asked to consent to a login that cannot be stored"


ON_A_FULL_DISK = """
import resource, signal, sys
sys.dont_write_bytecode = True  # it would be cut at the limit
import anyio
from datetime import UTC, datetime, timedelta
from notion_oauth.service import NotionOAuth
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
oauth = NotionOAuth(clock=lambda: datetime.now(UTC) + timedelta(hours=2))
what = {"login": lambda: oauth.begin_authorization("http://127.0.0.1:5555/callback"),
        "refresh": oauth.tokens.token, "logout": oauth.sign_out}[sys.argv[1]]
print(anyio.run(what))
"""


def on_a_full_disk(settings: Settings, command: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process whose files cannot grow beyond 100 bytes, as on a full disk."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COV")},
        "NOTION_OAUTH_SERVER_URL": settings.server_url,
        "NOTION_OAUTH_TOKEN_FILE": str(settings.token_file),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["login", "refresh"])
async def test_full_disk_is_detected_before_any_request(settings: Settings, sandbox: Sandbox, command: str) -> None:
    await sign_in(NotionOAuth(settings))
    before, requests = settings.token_file.read_bytes(), len(sandbox.requests)
    done = await anyio.to_thread.run_sync(on_a_full_disk, settings, command)
    assert f"StorageError: {settings.token_file} could not be written: File too large." in done.stderr
    assert settings.token_file.read_bytes() == before
    assert len(sandbox.requests) == requests


@pytest.mark.slow
async def test_sign_out_works_on_a_full_disk(settings: Settings, sandbox: Sandbox) -> None:
    await sign_in(NotionOAuth(settings))
    done = await anyio.to_thread.run_sync(on_a_full_disk, settings, "logout")
    assert done.stdout.strip() == str(SignOut.REVOKED), done.stderr
    assert sandbox.live_grants == 0
    assert not settings.token_file.exists()


async def test_sign_out_through_a_symbolic_link_is_refused(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox
) -> None:
    """Otherwise the grant would end while its tokens stay in the file."""
    await sign_in(oauth)
    moved = settings.token_file.with_name("moved.json")
    settings.token_file.rename(moved)
    settings.token_file.symlink_to(moved)
    with pytest.raises(StorageError, match="symbolic link"):
        await oauth.sign_out()
    assert sandbox.live_grants == 1
    assert moved.exists()


async def test_login_of_seven_fields_is_revoked_at_sign_out(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox
) -> None:
    await sign_in(oauth)
    document = json.loads(settings.token_file.read_text())
    names = ["access_token", "token_type", "expires_in", "refresh_token", "client_id", "client_secret", "updated_at"]
    settings.token_file.write_text(json.dumps({name: document[name] for name in names}))
    assert await oauth.sign_out() is SignOut.REVOKED
    assert sandbox.live_grants == 0


@pytest.mark.parametrize(("timeout", "wait"), [(10.0, 70), (0.1, 60), (300.0, 1810)])
def test_lock_wait_exceeds_the_time_of_a_slow_server(settings: Settings, timeout: float, wait: float) -> None:
    store = NotionOAuth(settings.model_copy(update={"timeout": timeout})).store
    clock = MockClock()
    outcomes: list[str] = []

    async def wait_for_lock() -> None:
        with pytest.raises(StoreBusy):
            async with store.exclusive("default"):
                pass
        outcomes.append("busy")

    async def hold_lock() -> None:
        async with store.exclusive("default"), anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_lock)
            await wait_all_tasks_blocked()
            clock.jump(wait - 1)
            await wait_all_tasks_blocked()
            assert not outcomes, "the lock may still be released"
            clock.jump(2)
            await wait_all_tasks_blocked()
            assert outcomes == ["busy"]

    trio.run(hold_lock, clock=clock)
    assert wait >= LOCK_WAIT.total_seconds()


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another origin, which answers 401 to every request."""

    async def refuse(request: Request) -> Response:
        return PlainTextResponse("no", 401)

    with served(Starlette(routes=[Route("/{path:path}", refuse, methods=["GET", "POST"])])) as url:
        yield url


@pytest.mark.parametrize("sync", [True, False])
async def test_401_of_another_origin_causes_no_refresh(
    oauth: NotionOAuth, sandbox: Sandbox, elsewhere: str, grants_asked: Posted, sync: bool
) -> None:
    await sign_in(oauth)
    sandbox.misbehave_next("/mcp", "redirect", location=elsewhere)
    options: dict[str, Any] = {"auth": BearerAuth(oauth), "trust_env": False, "follow_redirects": True}
    if sync:
        with httpx.Client(**options) as client:
            response = client.post(sandbox.mcp_url, json={})
    else:
        async with httpx.AsyncClient(**options) as client:
            response = await client.post(sandbox.mcp_url, json={})
    assert (response.status_code, response.text) == (401, "no")
    assert grants_asked() == ["authorization_code"]
    assert len(sandbox.requests_to("/mcp")) == 2, "the probe before the sign-in, and this request"
