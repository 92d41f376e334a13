"""The practice server's refresh, revocation, /mcp and injected faults."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Awaitable, Iterator
from typing import Any

import anyio
import httpx
import pytest

from notion_oauth.sandbox import RecordedRequest, RunningSandbox, Sandbox, SandboxOptions, serve_sandbox
from tests.support.person import Person, error_of

DAY = 86400


@pytest.fixture
def person(sandbox: Sandbox) -> Iterator[Person]:
    someone = Person(sandbox)
    with someone.http:
        yield someone


def refreshed(person: Person, client_id: str, token: str) -> str:
    answer = person.refresh(client_id, token)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["refresh_token"])


def refusal(person: Person, client_id: str, token: str) -> str | None:
    status, error, description = error_of(person.refresh(client_id, token))
    assert (status, error) == (400, "invalid_grant")
    return description


def test_two_refresh_tokens_are_valid_until_the_newer_is_used(person: Person) -> None:
    client_id = person.client_id()
    first = person.sign_in(client_id)["refresh_token"]
    second = refreshed(person, client_id, first)
    third = refreshed(person, client_id, first)  # as after a lost response
    assert refusal(person, client_id, second) == "Invalid refresh token", "the token issued between is invalid"
    assert refreshed(person, client_id, first), "its use did not end the grant"
    assert refusal(person, client_id, third) == "Invalid refresh token"


def test_delayed_request_is_processed_after_its_sender_has_timed_out(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    first = person.sign_in(client_id)["refresh_token"]
    processed = threading.Semaphore(0)

    def on_arrival(request: RecordedRequest) -> Awaitable[None]:
        sandbox.observe(on_answer=lambda *_: processed.release())
        return anyio.sleep(0.1)

    sandbox.observe(on_arrival=on_arrival)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{sandbox.base_url}/token",
            data={"grant_type": "refresh_token", "refresh_token": first, "client_id": client_id},
            timeout=0.05,
            trust_env=False,
        )
    second = refreshed(person, client_id, first)
    assert processed.acquire(timeout=5), "the second request"
    assert processed.acquire(timeout=5), "the first request"
    assert refusal(person, client_id, second) == "Invalid refresh token", "the delayed request has replaced it"
    assert refreshed(person, client_id, first)


def test_using_the_newer_refresh_token_invalidates_the_older(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    first = person.sign_in(client_id)["refresh_token"]
    second = refreshed(person, client_id, first)
    third = refreshed(person, client_id, second)
    assert refreshed(person, client_id, third)
    assert refusal(person, client_id, first) == "Refresh token reuse detected"
    assert sandbox.live_grants == 0


def test_strict_reuse_ends_the_grant_at_any_replay(person: Person, sandbox: Sandbox) -> None:
    sandbox.options.reuse = "strict"
    client_id = person.client_id()
    first = person.sign_in(client_id)["refresh_token"]
    second = refreshed(person, client_id, first)
    assert refusal(person, client_id, first) == "Refresh token reuse detected"
    assert refusal(person, client_id, second) == "Refresh token reuse detected"


def test_parallel_refreshes_all_succeed(person: Person) -> None:
    client_id = person.client_id()
    first = person.sign_in(client_id)["refresh_token"]
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(person.refresh(client_id, first))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.json()["refresh_token"] for answer in answers}) == 4


@pytest.mark.parametrize(
    ("token", "description"), [("nonsense", "Invalid token format"), ("user:grant:secret", "Invalid refresh token")]
)
def test_an_unknown_refresh_token_is_refused(person: Person, token: str, description: str) -> None:
    assert refusal(person, person.client_id(), token) == description


def test_a_refresh_token_of_another_client_is_refused(person: Person) -> None:
    token = person.sign_in(person.client_id())["refresh_token"]
    assert refusal(person, person.client_id(), token) == "Client ID mismatch"


@pytest.mark.parametrize("steps", [[31 * DAY], [29 * DAY] * 6 + [7 * DAY]])
def test_a_grant_ends_after_30_idle_days_and_after_180_days(
    person: Person, sandbox: Sandbox, steps: list[float]
) -> None:
    sandbox.options.registration_lifetime = None
    client_id = person.client_id()
    token = person.sign_in(client_id)["refresh_token"]
    for step in steps[:-1]:
        sandbox.advance(step)
        token = refreshed(person, client_id, token)
    sandbox.advance(steps[-1])
    assert refusal(person, client_id, token) == "Refresh token has expired"


def test_a_new_sign_in_with_the_same_client_ends_the_earlier_grant(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    earlier = person.sign_in(client_id)
    person.sign_in(person.client_id())
    assert sandbox.live_grants == 2
    person.sign_in(client_id)
    assert sandbox.live_grants == 2
    assert refusal(person, client_id, earlier["refresh_token"]) == "Grant not found"
    assert person.mcp(earlier["access_token"]).status_code == 401


def test_a_refresh_for_another_resource_is_refused(person: Person) -> None:
    client_id = person.client_id()
    token = person.sign_in(client_id)["refresh_token"]
    assert error_of(person.refresh(client_id, token, resource="https://other.example/"))[1] == "invalid_target"
    assert refreshed(person, client_id, token)


@pytest.mark.parametrize("survives", [True, False])
def test_the_access_token_survives_a_refresh_if_the_option_is_set(
    person: Person, sandbox: Sandbox, survives: bool
) -> None:
    sandbox.options.access_token_survives_refresh = survives
    client_id = person.client_id()
    tokens = person.sign_in(client_id)
    refreshed(person, client_id, tokens["refresh_token"])
    assert sandbox.is_access_token_live(tokens["access_token"]) is survives


def revoke(person: Person, client_id: str, token: str) -> httpx.Response:
    return person.http.post("/token", data={"token": token, "client_id": client_id})


def test_revoking_the_refresh_token_ends_the_grant(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    tokens = person.sign_in(client_id)
    assert revoke(person, client_id, "user:unknown:token").status_code == 200
    assert revoke(person, client_id, tokens["refresh_token"]).status_code == 200
    assert not sandbox.is_access_token_live(tokens["access_token"])
    assert refusal(person, client_id, tokens["refresh_token"]) == "OAuth grant revoked"


def test_revoking_an_access_token_keeps_the_grant(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    tokens = person.sign_in(client_id)
    assert revoke(person, client_id, tokens["access_token"]).status_code == 200
    assert not sandbox.is_access_token_live(tokens["access_token"])
    assert refreshed(person, client_id, tokens["refresh_token"])


def test_revocation_can_be_disabled(person: Person, sandbox: Sandbox) -> None:
    sandbox.options.offer_revocation = False
    client_id = person.client_id()
    tokens = person.sign_in(client_id)
    assert revoke(person, client_id, tokens["refresh_token"]).status_code == 400
    assert sandbox.live_grants == 1


def test_revoke_grants_ends_the_grant(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    tokens = person.sign_in(client_id)
    sandbox.revoke_grants()
    assert refusal(person, client_id, tokens["refresh_token"]) == "OAuth grant revoked"


def test_mcp_challenges_requests_without_a_valid_token(person: Person, sandbox: Sandbox) -> None:
    tokens = person.sign_in(person.client_id())
    for token in (None, "wrong", tokens["refresh_token"]):
        answer = person.mcp(token)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == (
            f'Bearer realm="OAuth", resource_metadata="{sandbox.base_url}/.well-known/oauth-protected-resource/mcp", '
            'error="invalid_token"'
        )
    sandbox.advance(3601)
    assert person.mcp(tokens["access_token"]).status_code == 401


def test_mcp_refuses_other_origins(person: Person, sandbox: Sandbox) -> None:
    token = person.sign_in(person.client_id())["access_token"]
    assert person.mcp(token, Origin="https://evil.example").status_code == 403
    assert person.mcp(token, Origin=sandbox.base_url).status_code == 200


def call(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


def test_mcp_speaks_json_rpc(person: Person) -> None:
    token = person.sign_in(person.client_id())["access_token"]
    hello = person.mcp(token, call("initialize", protocolVersion="2025-06-18")).json()
    assert (hello["id"], hello["result"]["protocolVersion"]) == (7, "2025-06-18")
    assert person.mcp(token, call("initialize")).json()["result"]["protocolVersion"] == "2025-11-25"
    assert person.mcp(token, {"jsonrpc": "2.0", "method": "notifications/initialized"}).status_code == 202
    assert person.mcp(token, call("tools/list")).json()["result"]["tools"][0]["name"] == "notion-fetch"
    fetched = person.mcp(token, call("tools/call", name="notion-fetch", arguments={"id": "self"})).json()["result"]
    content = json.loads(fetched["content"][0]["text"])["self"]
    assert set(content) == {"workspace", "user"}
    assert fetched["isError"] is False
    assert person.mcp(token, call("tools/call", name="other")).json()["result"]["isError"] is True
    assert person.mcp(token, call("nonsense")).json()["error"]["code"] == -32601
    assert person.mcp(token, {"jsonrpc": "1.0"}).json()["error"]["code"] == -32600
    assert person.http.get("/mcp").status_code == 405


def test_fail_next_does_not_process_the_request(person: Person, sandbox: Sandbox) -> None:
    sandbox.fail_next("/register", status=429, error="temporarily_unavailable", headers={"Retry-After": "30"}, times=2)
    for _ in range(2):
        refused = person.register()
        assert error_of(refused) == (429, "temporarily_unavailable", None)
        assert refused.headers["retry-after"] == "30"
    assert person.register().status_code == 201
    assert sandbox.registered_clients == 1
    sandbox.fail_next("/register", body="<html>", status=502, method="GET")
    assert person.register().status_code == 201, "a fault for another method stays pending"
    assert [request.status for request in sandbox.requests_to("/register", "POST")] == [429, 429, 201, 201]


def test_lose_response_processes_the_request_and_drop_does_not(person: Person, sandbox: Sandbox) -> None:
    for kind, clients in (("drop", 0), ("lose_response", 1)):
        sandbox.misbehave_next("/register", kind)  # type: ignore[arg-type]
        with pytest.raises(httpx.RemoteProtocolError):
            person.register()
        assert sandbox.registered_clients == clients


def test_responses_can_be_oversized_redirected_or_garbled(person: Person, sandbox: Sandbox) -> None:
    sandbox.misbehave_next("/", "oversize", size=200_000)
    assert len(person.http.get("/").content) > 190_000
    sandbox.misbehave_next("/", "redirect")
    assert person.http.get("/").headers["location"] == f"{sandbox.base_url}/elsewhere"
    sandbox.misbehave_next("/", "garble")
    assert "proxy" in person.http.get("/").text


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_pending_responses_can_be_ended(kind: Any) -> None:
    with serve_sandbox() as sandbox:
        host, port = sandbox.base_url.removeprefix("http://").split(":")
        sandbox.misbehave_next("/", kind, seconds=0.05)
        with socket.create_connection((host, int(port)), timeout=30) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            if kind == "drip":
                assert client.recv(12) == b"HTTP/1.1 200"
            while not sandbox.requests_to("/"):
                time.sleep(0.01)
            sandbox.end_pending_responses()
            while client.recv(65536):
                pass


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        RunningSandbox(port=taken.getsockname()[1])


def test_the_sandbox_is_an_asgi_application_with_an_injected_clock() -> None:
    now = [1000.0]
    sandbox = Sandbox("http://127.0.0.1:9000", SandboxOptions(access_token_lifetime=10), clock=lambda: now[0])
    assert sandbox.mcp_url == "http://127.0.0.1:9000/mcp"
    assert callable(sandbox.app)
    assert sandbox.requests == []
