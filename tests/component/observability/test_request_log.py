"""Each request to the service has an id and a log line."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from notion_oauth.app import create_app
from notion_oauth.cli.background_server import served
from notion_oauth.observability.context import REQUEST_ID
from notion_oauth.service import NotionOAuth
from tests.support.visiting import PUBLIC

GENERATED = re.compile(r"[0-9a-f]{16}")


@pytest.fixture
def app(oauth: NotionOAuth) -> FastAPI:
    app = create_app(oauth=oauth)

    @app.get("/crash")
    async def crash() -> None:
        raise RuntimeError("a mistake of ours")

    @app.get("/halfway")
    async def halfway() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"started"
            raise RuntimeError("a mistake of ours")

        return StreamingResponse(parts())

    return app


class Visitor:
    """A client of the ASGI application: when a response has arrived, its line is logged."""

    def __init__(self, app: FastAPI, *, peer: str = "127.0.0.1") -> None:
        self._network = httpx.ASGITransport(app, raise_app_exceptions=False, client=(peer, 50000))

    def request(self, method: str, path: str, headers: Any = None) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._network, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, headers=headers)

        return anyio.run(send)

    def get(self, path: str, headers: Any = None) -> httpx.Response:
        return self.request("GET", path, headers)


@pytest.fixture
def client(app: FastAPI) -> Visitor:
    return Visitor(app)


def lines(log_output: io.StringIO) -> list[str]:
    return [line for line in log_output.getvalue().splitlines() if " notion_oauth.request " in line]


def test_work_in_the_background_is_after_the_line(app: FastAPI, client: Visitor, log_output: io.StringIO) -> None:
    """Its time is not that of the request."""
    logged: list[int] = []

    @app.get("/background")
    async def background() -> Response:
        return Response(background=BackgroundTask(lambda: logged.append(len(lines(log_output)))))

    client.get("/background")
    assert logged == [1]
    assert len(lines(log_output)) == 1


@pytest.mark.parametrize("sent", ["from-the-proxy", "7f6c_A.b-0", "x" * 64])
def test_the_request_id_of_a_local_proxy_is_used(client: Visitor, log_output: io.StringIO, sent: str) -> None:
    assert client.get("/auth/status", headers={"X-Request-ID": sent}).headers["x-request-id"] == sent
    [line] = lines(log_output)
    assert "request method=GET path=/auth/status status=200 milliseconds=" in line
    assert line.endswith(f"client=127.0.0.1 request_id={sent}")


@pytest.mark.parametrize(("peer", "believed"), [("10.0.0.1", True), ("203.0.113.9", False), ("10.0.0.2", False)])
def test_only_a_trusted_proxy_may_choose_the_request_id(
    oauth: NotionOAuth, log_output: io.StringIO, peer: str, believed: bool
) -> None:
    """Otherwise a client could use the id of another request."""
    settings = oauth.settings.model_copy(update={"public_url": PUBLIC, "trusted_proxies": "10.0.0.1"})
    visitor = Visitor(create_app(settings), peer=peer)
    headers = {"Host": "notion.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1"}
    for path in ("/auth/status", "/healthz"):
        answer = visitor.get(path, {**headers, "X-Request-ID": "chosen"})
        assert (answer.headers["x-request-id"] == "chosen") is believed
    assert ("request_id=chosen" in log_output.getvalue()) is believed


@pytest.mark.parametrize("sent", ["", "x" * 65, "two words", 'a"b', "a=b=c", "a\tb", "é", "a\\nb", "<b>"])
def test_an_invalid_request_id_is_replaced(client: Visitor, log_output: io.StringIO, sent: str) -> None:
    answer = client.get("/auth/status", headers=[(b"X-Request-ID", sent.encode())])
    assert GENERATED.fullmatch(answer.headers["x-request-id"])
    assert lines(log_output)[0].endswith(f"request_id={answer.headers['x-request-id']}")


def test_two_request_ids_are_replaced(client: Visitor) -> None:
    answer = client.get("/", headers=[("X-Request-ID", "one"), ("X-Request-ID", "two")])
    assert GENERATED.fullmatch(answer.headers["x-request-id"])


def test_each_request_has_its_id(client: Visitor) -> None:
    assert len({client.get("/").headers["x-request-id"] for _ in range(5)}) == 5


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "path", ["/auth/callback", "/auth/c%61llback", "/AUTH/CALLBACK", "/auth/callback/", "/elsewhere"]
)
def test_a_query_is_not_logged(client: Visitor, log_output: io.StringIO, method: str, path: str) -> None:
    client.request(method, f"{path}?code=canary-code&state=canary-state&c%6Fde=canary-2")
    assert len(lines(log_output)) == 1
    assert "canary" not in log_output.getvalue()


def test_a_path_is_escaped_and_truncated(client: Visitor, log_output: io.StringIO) -> None:
    client.get("/a%0A2026-01-01T00:00:00.000Z%20INFO%20forged/" + "x" * 1000)
    [line] = log_output.getvalue().splitlines()
    assert len(line) < 500


@pytest.mark.parametrize(
    "path", ["/cookie:", "/cookie:x", "/authorization=x", "/auth/callback/set-cookie=x", "/x/code=y"]
)
def test_redacting_a_path_keeps_the_client(client: Visitor, log_output: io.StringIO, path: str) -> None:
    """Text after something like a header is redacted in the path, not in the rest of the line."""
    answer = client.get(path)
    [line] = lines(log_output)
    assert re.search(r" path=\S+ status=404 milliseconds=\d+ client=127\.0\.0\.1 ", line)
    assert line.endswith(f" request_id={answer.headers['x-request-id']}")


def test_a_crash_is_logged_with_the_request_id_of_the_response(
    app: FastAPI, log_output: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    with served(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        answer = client.get("/crash", headers={"X-Request-ID": "unlucky"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "unlucky")
    assert answer.json()["error"] == "Internal Server Error"
    [line] = lines(log_output)
    assert "path=/crash status=500" in line
    [crashed] = [record for record in caplog.records if record.exc_info]
    assert crashed.name == "uvicorn.error"


def test_a_response_that_breaks_off_is_logged_once(app: FastAPI, log_output: io.StringIO) -> None:
    with served(app) as url, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/halfway", trust_env=False)
    assert len(lines(log_output)) == 1


@pytest.mark.anyio
async def test_the_server_logs_a_crash_with_the_request_id(app: FastAPI) -> None:
    """The server logs it after the middleware, in the task of the request."""
    network = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=network, base_url="http://127.0.0.1") as client:
        await client.get("/crash", headers={"X-Request-ID": "unlucky"})
    assert REQUEST_ID.get() == "unlucky"
