"""Reading lines from standard input, their echo, and parsing a pasted redirect."""

from __future__ import annotations

import os
import pty
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notion_oauth.errors import AuthorizationResponseError, NotionOAuthError
from notion_oauth.interactive.loopback import Receiver
from notion_oauth.interactive.sign_in import pasted_parameters
from notion_oauth.interactive.terminal import MAX_LINE, LineEditor, LineReader
from notion_oauth.models import AuthorizationResponse

REDIRECT_URI = "http://127.0.0.1:4321/callback"
CODE = "a-code-that-is-never-shown"
QUERY = f"code={CODE}&state=a+state&iss=https%3A%2F%2Fissuer.example%2F"
PARAMETERS = [("code", CODE), ("state", "a state"), ("iss", "https://issuer.example/")]


@pytest.mark.parametrize(
    "pasted",
    [
        f"{REDIRECT_URI}?{QUERY}",
        f"{REDIRECT_URI}?{QUERY}#",
        f"127.0.0.1:4321/callback?{QUERY}",
        f"?{QUERY}",
        QUERY,
        f"  \t'{REDIRECT_URI}?{QUERY}'\r\n",
        f"\n<{REDIRECT_URI}?{QUERY}>\n",
        f'"{REDIRECT_URI}?{QUERY}" ',
        f"{REDIRECT_URI}?code={CODE}\r\n   &state=a+state\n&iss=https%3A%2F%2Fissuer.example%2F",
    ],
)
def test_redirect_is_parsed_from_a_paste(pasted: str) -> None:
    assert pasted_parameters(pasted, REDIRECT_URI) == PARAMETERS


@pytest.mark.parametrize(
    ("pasted", "said"),
    [
        ("hello", "not the URL"),
        (CODE, "not the URL"),
        (REDIRECT_URI, "incomplete"),
        (f"https://127.0.0.1:4321/callback?{QUERY}", "not the URL"),
        (f"http://127.0.0.1:4322/callback?{QUERY}", "not the URL"),
        (f"http://127.0.0.1:4321/callback/?{QUERY}", "not the URL"),
        (f"http://evil.example/callback?{QUERY}", "not the URL"),
        (f"http://127.0.0.1:4321@evil.example/callback?{QUERY}", "not the URL"),
        ("https://issuer.example/authorize?state=s&code_challenge=c&response_type=code", "the URL to open"),
        (f"{REDIRECT_URI}?", "incomplete"),
        (f"{REDIRECT_URI}?code={CODE}", "incomplete"),
        (f"{REDIRECT_URI}?code={CODE}&state=", "incomplete"),
        (f"{REDIRECT_URI}?state=s", "incomplete"),
        (f"{REDIRECT_URI}?#{QUERY}", "incomplete"),
    ],
)
def test_paste_that_is_not_the_redirect_is_rejected(pasted: str, said: str) -> None:
    with pytest.raises(AuthorizationResponseError, match=said) as caught:
        pasted_parameters(pasted, REDIRECT_URI)
    assert CODE not in str(caught.value)


@given(text=st.text() | st.text().map(lambda end: f"{REDIRECT_URI}?code={CODE}{end}"))
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    said = ""
    try:
        assert {"state"} < {name for name, _ in pasted_parameters(text, REDIRECT_URI)}
    except AuthorizationResponseError as refused:
        said = str(refused)
    assert CODE not in said


def typed(text: str) -> tuple[str, str]:
    """The resulting line, and its echo."""
    line = LineEditor()
    shown = "".join(map(line.feed, text))
    return line.text, shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{REDIRECT_URI}?{QUERY}", f"{REDIRECT_URI}?{QUERY}".replace(CODE, "*" * len(CODE))),
        (f"?state=s&code={CODE}", f"?state=s&code={'*' * len(CODE)}"),
        (f"code={CODE}", f"code={'*' * len(CODE)}"),
        (f"'code={CODE}", f"'code={'*' * len(CODE)}"),
        ("?code_challenge=c&error_code=e", "?code_challenge=c&error_code=e"),
    ],
)
def test_only_the_code_is_masked(text: str, shown: str) -> None:
    assert typed(text) == (text, shown)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("abx\x7fc", "abc"),
        ("abx\bc", "abc"),
        ("\x7fabc", "abc"),
        ("wrong\x15abc", "abc"),
        ("a\x1b[Db\x1b[1;5Cc\x1bOA", "abc"),
        ("\x1b[200~abc\x1b[201~", "abc"),
        ("a\x1bxbc", "abc"),
        ("a\tb\x00c", "abc"),
        ("a" * (MAX_LINE + 5), "a" * MAX_LINE),
    ],
)
def test_editing_keys(keys: str, line: str) -> None:
    assert typed(keys)[0] == line


def test_erased_characters_leave_the_screen() -> None:
    line = LineEditor()
    assert "".join(map(line.feed, "ab\x7f\x7f\x7f")) == "ab" + "\b \b" * 2
    assert "".join(map(line.feed, "ab\x15")) == "ab" + "\b \b" * 2


@contextmanager
def pseudo_terminal() -> Generator[tuple[int, int]]:
    ends = pty.openpty()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.slow
@pytest.mark.anyio
async def test_line_may_be_longer_than_a_terminal_allows() -> None:
    """A terminal that edits lines itself cuts them at 4096 bytes."""
    long = f"{REDIRECT_URI}?{QUERY}&more={'x' * 9000}"
    with pseudo_terminal() as (keyboard, screen), LineReader(screen) as source, anyio.fail_after(60):

        async def paste() -> None:
            rest = f"{long}\r".encode()
            while rest:
                await anyio.wait_writable(keyboard)
                rest = rest[os.write(keyboard, rest[:256]) :]

        async def watch() -> None:  # a program blocks if its terminal's output is not read
            while True:
                await anyio.wait_readable(keyboard)
                os.read(keyboard, 65536)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(paste)
            tasks.start_soon(watch)
            assert await source.read_line() == long
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_cancelled_reader_has_read_nothing() -> None:
    reading, writing = os.pipe()
    with anyio.move_on_after(0.01):
        await LineReader(reading).read_line()
    os.write(writing, b"one\ntwo\n")
    assert await LineReader(reading).read_line() == "one"
    assert os.read(reading, 100) == b"two\n"
    os.close(writing)
    assert await LineReader(reading).read_line() is None
    os.close(reading)


@pytest.mark.anyio
async def test_last_line_of_a_file_needs_no_line_end() -> None:
    with tempfile.TemporaryFile() as file:
        file.write("one\n\ntw\u00f6".encode())
        file.seek(0)
        source = LineReader(file.fileno())
        assert [await source.read_line() for _ in range(4)] == ["one", "", "tw\u00f6", None]
    with Path(os.devnull).open() as nothing:
        assert await LineReader(nothing.fileno()).read_line() is None


@pytest.mark.anyio
async def test_ctrl_d_and_hangup_end_the_input() -> None:
    keyboard, screen = pty.openpty()
    with LineReader(screen) as source:
        os.write(keyboard, b"\x04")
        assert await source.read_line() is None
        os.close(keyboard)
        assert await source.read_line() is None
    os.close(screen)


class Completion:
    """A completion that waits until the test lets it end."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.may_end = anyio.Event()
        self.times = 0

    async def __call__(self, response: AuthorizationResponse) -> str:
        self.times += 1
        self.started.set()
        await self.may_end.wait()
        return "signed in"


@pytest.mark.anyio
async def test_only_one_of_two_concurrent_redirects_is_used() -> None:
    complete = Completion()
    receiver = Receiver(complete)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receiver.receive_pasted, PARAMETERS)
        tasks.start_soon(receiver.receive_pasted, PARAMETERS)
        await complete.started.wait()
        complete.may_end.set()
    await receiver.wait_until_done()
    assert (receiver.result(), complete.times) == ("signed in", 1)


@pytest.mark.anyio
async def test_error_of_the_completion_ends_the_sign_in() -> None:
    error = NotionOAuthError("The server refused.")

    async def complete(response: AuthorizationResponse) -> str:
        raise error

    receiver: Receiver[str] = Receiver(complete)
    await receiver.receive_pasted(PARAMETERS)
    await receiver.wait_until_done()
    with pytest.raises(NotionOAuthError) as caught:
        receiver.result()
    assert caught.value is error
