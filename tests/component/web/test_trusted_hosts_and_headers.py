"""The checks of host, sender and scheme, and the security headers of every response."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware
from starlette.websockets import WebSocket, WebSocketDisconnect

from notion_oauth import ValidToken
from notion_oauth.app import create_app
from notion_oauth.cli.background_server import served
from notion_oauth.errors import RequestForbidden
from notion_oauth.router import create_router
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.web.csrf import Forms
from notion_oauth.web.profiles.resolver import create_resolver
from notion_oauth.web.trusted_hosts import TrustedHosts
from tests.support.signing_in import sign_in
from tests.support.visiting import PUBLIC, Visitor

ROUTES = ("/", "/auth/login", "/auth/callback?state=x", "/auth/status", "/nowhere", "/openapi.json")
HARDENED = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    """Without an authorization server: a request that reaches it gets a 502."""
    return Settings(server_url="http://127.0.0.1:9/mcp", token_file=tmp_path / "tokens.json", timeout=1.0)


@pytest.fixture
def public(local: Settings) -> Settings:
    return local.model_copy(update={"public_url": PUBLIC})


@pytest.fixture
def live(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC})


def failing(settings: Settings) -> FastAPI:
    """The service with a route that fails, and one with a numeric parameter."""
    app = create_app(settings)

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("canary-detail")

    @app.get("/numbers/{number}")
    async def numbers(number: int) -> None: ...

    return app


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.1.20:8000", "localhost.", "[::2]"])
def test_dns_rebinding_is_refused_on_loopback(local: Settings, host: str, path: str) -> None:
    answer = Visitor(create_app(local), "http://localhost", client="127.0.0.1").get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "NOTION_OAUTH_PUBLIC_URL" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]"]
)
def test_loopback_names_are_accepted_on_any_port(local: Settings, host: str) -> None:
    visitor = Visitor(create_app(local), "http://localhost", client="::1")
    assert visitor.get("/auth/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost",
        "127.0.0.1",
        "notion.example:8443",
        "notion.example.evil.example",
        "x@notion.example",
    ],
)
def test_public_service_answers_only_its_host(public: Settings, host: str, path: str) -> None:
    answer = Visitor(create_app(public)).get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "evil" not in answer.text


@pytest.mark.parametrize("host", ["notion.example", "notion.example:443", "NOTION.example"])
def test_public_service_answers_all_spellings_of_its_host(public: Settings, host: str) -> None:
    assert Visitor(create_app(public)).get("/auth/status", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"evil.example"], [b"localhost", b"localhost"], [b"l" * 300]])
def test_request_must_have_one_host(local: Settings, hosts: list[bytes]) -> None:
    scope = {
        "type": "http",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", host) for host in hosts],
    }
    with pytest.raises(Exception, match="one Host header"):
        TrustedHosts(local).check(scope)


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"])
def test_all_spellings_of_loopback_are_local(local: Settings, client: str) -> None:
    assert Visitor(create_app(local), "http://localhost", client=client).get("/auth/status").status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_local_service_refuses_other_machines(local: Settings, path: str) -> None:
    """The server listens on every interface by mistake, and another machine sends `Host: localhost`."""
    answer = Visitor(create_app(local), "http://localhost").get(path)
    assert answer.status_code == 403
    assert "NOTION_OAUTH_PUBLIC_URL" in answer.text


@pytest.mark.parametrize(
    "header",
    [
        *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "Forwarded", "Via"),
        *("X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP"),
    ],
)
def test_tunnel_to_loopback_is_refused(local: Settings, header: str) -> None:
    visitor = Visitor(create_app(local), "http://localhost", client="127.0.0.1")
    assert visitor.get("/auth/status", headers={header: "x"}).status_code == 403


@pytest.mark.parametrize("path", ROUTES)
def test_public_service_requires_https(public: Settings, path: str) -> None:
    """Directly over plain http, and with a forged X-Forwarded-Proto."""
    for headers in ({}, {"X-Forwarded-Proto": "https"}):
        answer = Visitor(create_app(public), "http://notion.example").get(path, headers=headers)
        assert answer.status_code == 403
        assert "NOTION_OAUTH_TRUSTED_PROXIES" in answer.text


@pytest.mark.parametrize("proxy", ["10.1.2.3", "::ffff:10.1.2.3", "::ffff:a01:203", "fd00::7"])
def test_trusted_proxy_reports_https(live: Settings, proxy: str) -> None:
    named = live.model_copy(update={"trusted_proxies": "10.1.0.0/16, fd00::/8"})
    visitor = Visitor(create_app(named), "http://notion.example", client=proxy)
    started = visitor.get("/auth/login", headers={"X-Forwarded-Proto": "https"})
    assert started.status_code == 303
    assert "; secure" in started.headers["set-cookie"].lower()
    assert visitor.get("/auth/status", headers={"X-Forwarded-Proto": "http"}).status_code == 403
    assert visitor.get("/auth/status", headers={"X-Forwarded-Proto": "https, http"}).status_code == 403
    assert visitor.get("/auth/status").status_code == 403


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not from a trusted proxy
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "spoofed, 127.0.0.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3", "10.0.0.3"),
    ],
)
def test_client_is_the_nearest_untrusted_hop(public: Settings, peer: str, forwarded_for: str, client: str) -> None:
    hosts = TrustedHosts(public.model_copy(update={"trusted_proxies": "10.0.0.0/8"}))
    scope = {"client": (peer, 1), "headers": [(b"x-forwarded-for", forwarded_for.encode())]}
    assert hosts.client(scope) == client


def test_unix_socket_is_trusted_if_configured(public: Settings) -> None:
    scope = {
        "client": None,
        "scheme": "http",
        "headers": [(b"host", b"notion.example"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-for", b"192.0.2.1")],
    }
    TrustedHosts(public.model_copy(update={"trusted_proxies": "unix"})).check(scope)
    assert TrustedHosts(public.model_copy(update={"trusted_proxies": "unix"})).client(scope) == "192.0.2.1"
    with pytest.raises(Exception, match="requires https"):
        TrustedHosts(public).check(scope)


def test_server_ignores_proxy_headers_of_untrusted_proxies(public: Settings) -> None:
    """By default, uvicorn trusts proxy headers from 127.0.0.1."""
    claims = {"Host": "notion.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7"}
    for proxies, status in ((None, 403), ("127.0.0.1", 200)):
        with served(create_app(public.model_copy(update={"trusted_proxies": proxies}))) as url:
            assert httpx.get(f"{url}/auth/status", headers=claims, trust_env=False).status_code == status


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/auth/status", 200),
        ("GET", "/auth/login", 502),
        ("GET", "/auth/callback", 400),
        ("GET", "/auth/logout", 405),
        ("POST", "/auth/logout", 403),
        ("GET", "/nowhere", 404),
        ("GET", "/numbers/x", 422),
        ("GET", "/fails", 500),
        ("GET", "/openapi.json", 404),
    ],
)
def test_every_response_has_security_headers(
    public: Settings, method: str, path: str, status: int, accept: str
) -> None:
    answer = Visitor(failing(public)).request(method, path, headers={"Accept": accept})
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in HARDENED} == HARDENED
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    if accept != "text/html":
        assert "script-src" not in policy
    assert "unsafe" not in policy
    assert "camera=()" in answer.headers["permissions-policy"]
    assert answer.headers["strict-transport-security"].startswith("max-age=31536000")
    assert all(len(answer.headers.get_list(name)) == 1 for name in (*HARDENED, "content-security-policy"))
    assert "canary" not in answer.text


@pytest.mark.parametrize("host", ["evil.example", "localhost"])
def test_refusals_have_security_headers(local: Settings, host: str) -> None:
    answer = Visitor(create_app(local), f"http://{host}").get("/")
    assert answer.status_code in (403, 421)
    assert {name: answer.headers.get(name) for name in HARDENED} == HARDENED
    assert "strict-transport-security" not in answer.headers, "HSTS is not valid over plain http"


def test_unexpected_error_is_raised_for_the_log(local: Settings) -> None:
    with pytest.raises(RuntimeError, match="canary-detail"):
        TestClient(failing(local), base_url="http://localhost").get("/fails")


@pytest.mark.parametrize("path", ["/auth/status/", "//evil.example/", "//evil.example/auth/login", "/%2F/evil.example"])
def test_no_path_redirects_to_another_site(public: Settings, path: str) -> None:
    answer = Visitor(create_app(public)).get(f"{PUBLIC}{path}")
    assert (answer.status_code, answer.headers.get("location")) == (404, None)


@pytest.mark.parametrize("name", ["next", "redirect_uri", "return_to", "url", "continue", "state"])
def test_no_parameter_redirects_to_another_site(live: Settings, sandbox: Sandbox, name: str) -> None:
    visitor = Visitor(create_app(live))
    started = visitor.get("/auth/login", params={name: "https://evil.example/"})
    assert started.headers["location"].startswith(f"{sandbox.base_url}/")
    assert "evil" not in started.headers["location"]
    done = visitor.get(visitor.consent() + (f"&{name}=https://evil.example/" if name != "state" else ""))
    assert done.headers["location"] == "/auth/status"


def test_router_checks_the_host_in_another_application(local: Settings) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="k" * 32)
    app.include_router(create_router(NotionOAuth(local)))

    @app.get("/theirs")
    async def theirs(request: Request) -> str:
        return request.headers["host"]

    visitor = Visitor(app, "http://localhost", client="127.0.0.1")
    assert visitor.get("/auth/status", headers={"Host": "evil.example"}).status_code == 421
    assert visitor.get("/theirs", headers={"Host": "evil.example"}).status_code == 200, "other routes are not checked"
    assert visitor.get("/auth/status").headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("request_", [("http://rebound.example", "127.0.0.1"), ("http://localhost", "203.0.113.9")])
def test_valid_token_checks_the_host(settings: Settings, request_: tuple[str, str]) -> None:
    """With DNS rebinding, or from another machine, an endpoint with the local user's token cannot be reached."""
    anyio.run(sign_in, NotionOAuth(settings))
    app = FastAPI()
    valid = Depends(ValidToken(NotionOAuth(settings)))

    @app.get("/pages")
    async def pages(token: SecretStr = valid) -> str:
        return "the workspace"

    base_url, client = request_
    assert Visitor(app, "http://localhost", client="127.0.0.1").get("/pages").json() == "the workspace"
    refused = Visitor(app, base_url, client=client).get("/pages")
    assert refused.status_code in (403, 421)
    assert "workspace" not in refused.text


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_public_errors_hide_paths_and_settings(public: Settings, accept: str) -> None:
    public.token_file.with_name(public.token_file.name + ".web-.profile").mkdir()
    answer = Visitor(create_app(public)).get("/auth/login", headers={"Accept": accept})
    assert answer.status_code == 500
    assert "cannot store logins" in answer.text
    for private in (str(public.token_file.parent), ".profile", "NOTION_OAUTH", "notion-oauth login"):
        assert private not in answer.text


@pytest.mark.anyio
async def test_slow_form_is_refused(oauth: NotionOAuth) -> None:
    async def drip() -> dict[str, object]:
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.fail_after(30):
        for cookies in ([], [(b"cookie", b"notion_oauth_csrf=given")]):
            request = Request({"type": "http", "method": "POST", "headers": cookies}, drip)
            with pytest.raises(RequestForbidden):
                await Forms(create_resolver(oauth)).read(request, body_timeout=0.05)


def test_websocket_host_is_checked(local: Settings) -> None:
    app = create_app(local)

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    with TestClient(app).websocket_connect("ws://localhost/socket"):
        pass
    with (
        pytest.raises(WebSocketDisconnect) as caught,
        TestClient(app).websocket_connect("ws://localhost/socket", headers={"Host": "evil.example"}),
    ):
        pass
    assert caught.value.code == 1008


@pytest.mark.parametrize("destination", ["iframe", "image", "script", "empty", "object"])
@pytest.mark.parametrize("path", ["/auth/login", "/auth/callback?state=x&code=y"])
def test_embedded_request_of_another_site_is_refused(local: Settings, path: str, destination: str) -> None:
    visitor = Visitor(create_app(local), "http://localhost", client="127.0.0.1")
    answer = visitor.get(path, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": destination})
    assert answer.status_code == 403


def test_link_from_another_site_requires_a_click(settings: Settings, sandbox: Sandbox) -> None:
    """Forced login: the page is shown, and no sign-in starts."""
    visitor = Visitor(create_app(settings), "http://localhost", client="127.0.0.1")
    led = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    page = visitor.get("/auth/login", headers=led)
    assert page.status_code == 200
    assert "Another site sent you here" in page.text
    assert 'href="/auth/login"' in page.text
    assert sandbox.requests == []
    for own in ("none", "same-origin", "same-site"):
        assert visitor.get("/auth/login", headers={**led, "Sec-Fetch-Site": own}).status_code == 303


def test_page_of_a_404_differs_from_the_page_of_a_405(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    assert "There is no page at this URL." in visitor.get("/nowhere", headers={"Accept": "text/html"}).text
    assert "does not accept GET requests" in visitor.get("/auth/logout", headers={"Accept": "text/html"}).text
