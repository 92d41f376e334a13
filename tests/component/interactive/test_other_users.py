"""On Linux, the redirect is taken only from programs of the own user and of root."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from rich.console import Console

from notion_oauth.errors import StateMismatch
from notion_oauth.interactive.browser import Environment
from notion_oauth.interactive.loopback import Receiver, bind_redirect_uri, serve
from notion_oauth.interactive.peers import is_own, owner_of_connection
from notion_oauth.interactive.sign_in import sign_in
from notion_oauth.models import AuthorizationResponse
from notion_oauth.service import NotionOAuth

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the sockets")]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch to another user")

NOBODY = 65534
UNSHARE = shutil.which("unshare")
STATE = "canary-state"
# Sends a request as another user; with "leave", it does not wait for the answer
STRANGER = """
import encodings.idna, os, socket, sys
port, query, leave = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with socket.create_connection(("127.0.0.1", port)) as connection:
    request = f"GET /callback?{query} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nConnection: close\\r\\n"
    connection.sendall(f"{request}X-Forwarded-For: 127.0.0.1\\r\\n\\r\\n".encode())
    while not leave and (part := connection.recv(65536)):
        sys.stdout.write(part.decode())
"""


class Login:
    """Receives redirects. The code of the one that has completed the sign-in is the result."""

    def __init__(self, listener: socket.socket, redirect_uri: str) -> None:
        self.listener, self.redirect_uri = listener, redirect_uri
        self.port: int = listener.getsockname()[1]
        self.receiver = Receiver(self._complete)

    async def _complete(self, response: AuthorizationResponse) -> str:
        if response.state is None or response.state.get_secret_value() != STATE:
            raise StateMismatch("Another state.")
        assert response.code is not None
        return response.code.get_secret_value()

    def url(self, code: str) -> str:
        return f"{self.redirect_uri}?code={code}&state={STATE}"

    def stranger(self, *arguments: str) -> str:
        return stranger(self.port, f"code=stranger&state={STATE}", *arguments)


def stranger(port: int, query: str, *arguments: str) -> str:
    command = [sys.executable, "-I", "-c", STRANGER, str(port), query, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


@pytest.fixture
async def login() -> AsyncIterator[Login]:
    with bind_redirect_uri(()) as (listeners, redirect_uri):
        started = Login(listeners[0], redirect_uri)
        async with serve(started.receiver, listeners, own_user=True):
            yield started


async def visit(login: Login, code: str = "own") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as browser:
        return await browser.get(login.url(code))


@root_only
async def test_another_user_cannot_complete_the_sign_in(login: Login) -> None:
    page = await anyio.to_thread.run_sync(login.stranger)
    head, _, body = page.partition("\n\n")
    assert head.startswith("HTTP/1.1 403 ")
    assert "Another user of this machine sent this request" in body
    assert "canary" not in page
    assert "stranger" not in page
    assert "You are signed in" in (await visit(login)).text
    assert login.receiver.result() == "own"


@pytest.mark.slow
@root_only
async def test_another_user_who_leaves_is_not_taken_for_root(login: Login) -> None:
    """Older kernels list a socket that its program has closed with uid 0."""
    login.stranger("leave")  # blocks the event loop: the request is read after the program has ended
    await anyio.sleep(0.3)
    assert (await visit(login)).status_code == 200
    assert login.receiver.result() == "own"


@root_only
async def test_sign_in_takes_no_redirect_of_another_user(oauth: NotionOAuth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the URL in the browser's arguments knows the state, and can consent as somebody else."""
    here = Environment({}, platform="linux")
    monkeypatch.setattr("notion_oauth.interactive.sign_in.detect_environment", lambda: here)
    output = io.StringIO()
    async with anyio.create_task_group() as tasks, httpx.AsyncClient(trust_env=False) as browser:
        tasks.start_soon(partial(sign_in, oauth, console=Console(file=output), no_browser=True))
        with anyio.fail_after(10):
            while "Waiting for your consent" not in output.getvalue():
                await anyio.sleep(0.01)
        url = httpx.URL(next(line for line in output.getvalue().splitlines() if line.startswith("http")))
        port = httpx.URL(url.params["redirect_uri"]).port
        assert port is not None
        strangers = httpx.URL((await browser.get(url)).headers["location"])
        page = await anyio.to_thread.run_sync(stranger, port, strangers.query.decode())
        assert page.startswith("HTTP/1.1 403 ")
        assert (await oauth.status()).status == "unauthenticated"
        assert "You are signed in" in (await browser.get(url, follow_redirects=True)).text
    assert (await oauth.status()).status == "authenticated"


@root_only
async def test_root_can_complete_the_sign_in_of_a_user(login: Login) -> None:
    with_root_s_socket = await anyio.connect_tcp("127.0.0.1", login.port)
    os.seteuid(NOBODY)
    try:
        async with with_root_s_socket as connection:
            await connection.send(f"GET /callback?code=root&state={STATE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert (await connection.receive()).startswith(b"HTTP/1.1 200 ")
    finally:
        os.seteuid(0)
    assert login.receiver.result() == "root"


@contextmanager
def connected(family: socket.AddressFamily, host: str) -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    """A client's socket, and the address at which it is connected."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(family) as client:
        client.connect((host, listener.getsockname()[1]))
        with listener.accept()[0]:
            yield client, listener.getsockname()


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")], ids=["IPv4", "mapped"]
)
async def test_owner_of_a_connection_is_found(family: socket.AddressFamily, host: str) -> None:
    try:
        with connected(family, host) as (client, server):
            address = ("127.0.0.1", client.getsockname()[1])
            assert owner_of_connection(address, server) == os.geteuid()
            assert await is_own(address, server)
            client.close()
            assert owner_of_connection(address, server) is None
            assert not await is_own(address, server)
    except OSError:
        pytest.skip("this machine has no IPv6")


@root_only
async def test_sudo_user_counts_as_the_own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    os.seteuid(NOBODY)
    client = socket.socket()  # belongs to that user
    os.seteuid(0)
    with socket.create_server(("127.0.0.1", 0)) as listener, client:
        client.connect(listener.getsockname())
        assert not await is_own(client.getsockname(), listener.getsockname())
        monkeypatch.setenv("SUDO_UID", str(NOBODY))
        assert await is_own(client.getsockname(), listener.getsockname())


async def test_system_that_lists_no_sockets_is_supported(tmp_path: Path) -> None:
    assert await is_own(("127.0.0.1", 1), ("127.0.0.1", 2), [tmp_path / "missing", tmp_path / "missing6"])
    (tmp_path / "tcp").write_text("")
    assert not await is_own(("127.0.0.1", 1), ("127.0.0.1", 2), [tmp_path / "tcp", tmp_path / "missing6"])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (Environment({}, platform="linux", kernel="Linux version 6.1.0-18-amd64 (debian)"), True),
        (Environment({}, platform="linux", kernel="Linux version 5.15-microsoft-standard-WSL2"), False),
        (Environment({"WSL_DISTRO_NAME": "Debian"}, platform="linux"), False),
        (Environment({}, platform="linux", container=True), False),
        (Environment({}, platform="linux", namespaced=True), False),
        (Environment({}, platform="darwin"), False),
        (Environment({}, platform="win32"), False),
    ],
)
async def test_users_are_told_apart_on_linux_outside_of_containers(environment: Environment, expected: bool) -> None:
    assert environment.tells_users_apart is expected


@root_only
@pytest.mark.skipif(UNSHARE is None, reason="needs unshare")
async def test_namespaces_are_detected() -> None:
    show = "from notion_oauth.interactive.browser import detect_environment; print(detect_environment().namespaced)"
    command = [str(UNSHARE), "--pid", "--fork", sys.executable, "-c", show]
    unshared = subprocess.run(command, capture_output=True, text=True, check=False)
    if unshared.returncode:
        pytest.skip("no namespace can be created here")
    assert unshared.stdout == "True\n"
