"""What `sign_in` says if the browser runs on another machine, as over SSH and in a container."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import anyio
import pytest
from pydantic import SecretStr
from rich.console import Console

from notion_oauth.interactive.browser import Environment
from notion_oauth.interactive.sign_in import sign_in
from notion_oauth.models import AuthorizationRequest
from notion_oauth.service import NotionOAuth

pytestmark = pytest.mark.anyio

REMOTE = "https://issuer.example/authorize?state=1"
SSH = {"SSH_CONNECTION": "198.51.100.9 50123 192.0.2.7 22", "LOGNAME": "ada"}


@pytest.fixture
def remote(oauth: NotionOAuth, monkeypatch: pytest.MonkeyPatch) -> NotionOAuth:
    """A service whose authorization server is on another machine."""
    begin = oauth.begin_authorization

    async def begin_there(*arguments: Any, **options: Any) -> AuthorizationRequest:
        return (await begin(*arguments, **options)).model_copy(update={"url": SecretStr(REMOTE)})

    monkeypatch.setattr(oauth, "begin_authorization", begin_there)
    return oauth


async def printed(oauth: NotionOAuth, here: Environment, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `sign_in` prints in this environment until it waits."""
    monkeypatch.setattr("notion_oauth.interactive.sign_in.detect_environment", lambda: here)
    monkeypatch.setenv("LOGNAME", "ada")
    output = io.StringIO()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(sign_in, oauth, console=Console(file=output, width=1000)))
        with anyio.fail_after(10):
            while "Waiting for your consent" not in output.getvalue():
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    return output.getvalue()


async def test_steps_over_ssh_are_in_order(remote: NotionOAuth, monkeypatch: pytest.MonkeyPatch) -> None:
    text = await printed(remote, Environment(SSH), monkeypatch)
    steps = (
        "1. Open this URL on your computer and agree:",
        REMOTE,
        "2. The browser then shows that the page cannot be reached: that is expected.",
        "Copy the address from the browser's address bar.",
        "To avoid step 2, first run this command on your computer.",
        "the address after @",
        "  ssh -L ",
    )
    assert [text.find(step) for step in steps] == sorted(text.find(step) for step in steps)
    assert -1 not in [text.find(step) for step in steps]


@pytest.mark.parametrize(
    ("here", "option"),
    [(Environment(SSH), "ssh -t"), (Environment({}, container=True), "-it")],
    ids=["SSH", "container"],
)
async def test_without_a_terminal_it_says_how_to_paste(
    remote: NotionOAuth, monkeypatch: pytest.MonkeyPatch, here: Environment, option: str
) -> None:
    text = await printed(remote, here, monkeypatch)
    assert f"with a terminal ({option}), or with --no-browser and the address on standard input." in text


async def test_ssh_without_an_address_still_has_the_steps(remote: NotionOAuth, monkeypatch: pytest.MonkeyPatch) -> None:
    text = await printed(remote, Environment({"SSH_TTY": "/dev/pts/0"}), monkeypatch)
    assert "2. The browser then shows that the page cannot be reached" in text
    assert "ssh -L" not in text


async def test_server_on_this_machine_needs_a_tunnel_of_its_own(
    oauth: NotionOAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await printed(oauth, Environment(SSH), monkeypatch)
    assert "1. Run this command on your computer, because 127.0.0.1:" in text
    assert text.count(" -L ") == 2
    assert text.index("ssh -L") < text.index("2. Open this URL on your computer and agree:")


async def test_server_in_this_container_needs_a_shared_network(
    oauth: NotionOAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await printed(oauth, Environment({}, container=True), monkeypatch)
    assert "is in this container. The browser can open its page only if the container shares the network" in text
