"""Running coroutines from synchronous code: a hanging name server delays neither the caller nor the exit."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from typer.testing import CliRunner

from notion_oauth import concurrency
from notion_oauth.cli.main import app
from notion_oauth.errors import NetworkError
from notion_oauth.protocol.messages import Request
from notion_oauth.sandbox import Sandbox
from notion_oauth.transport.client import Transport


@pytest.fixture
def silent_name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A name server that answers only after the test. The event is set if a caller waited for its answer."""
    test_done, waited_for = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def delayed_getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host in ("slow.example", b"slow.example"):
            test_done.wait(30)
            waited_for.set()
            raise socket.gaierror("unknown host")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", delayed_getaddrinfo)
    yield waited_for
    test_done.set()


def get(url: str, timeout: float) -> int:
    transport = Transport(timeout=timedelta(seconds=timeout), server_url=url)
    return concurrency.run(partial(transport.send, Request("GET", url))).status


def test_silent_name_server_is_abandoned(silent_name_server: threading.Event) -> None:
    with pytest.raises(NetworkError, match=r"slow\.example sent no complete response within 0\.3 seconds"):
        get("https://slow.example/", 0.3)
    assert not silent_name_server.is_set(), "the DNS query is still running"


@pytest.mark.slow
def test_command_abandons_a_silent_name_server(silent_name_server: threading.Event) -> None:
    arguments = ["login", "--server-url", "https://slow.example/mcp"]
    result = CliRunner().invoke(app, arguments, env={"NOTION_OAUTH_TIMEOUT": "0.3"})
    assert result.exit_code == 5
    assert "within 0.3 seconds" in result.stderr
    assert not silent_name_server.is_set(), "the DNS query is still running"


def test_host_names_are_resolved(sandbox: Sandbox) -> None:
    assert get(sandbox.base_url.replace("127.0.0.1", "localhost"), 5) == 200
    with pytest.raises(NetworkError, match=r"nobody\.invalid"):
        get("https://nobody.invalid/", 5)
