"""Sign in with a user at a terminal: open a browser, receive the redirect on loopback or as a paste."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import anyio
from rich.console import Console

from notion_oauth.errors import (
    AuthorizationExpired,
    AuthorizationResponseError,
    Hint,
    OAuthError,
    StateMismatch,
    escape,
)
from notion_oauth.interactive import loopback
from notion_oauth.interactive.browser import Browser, Environment, detect_environment, open_in_thread
from notion_oauth.interactive.loopback import Receiver
from notion_oauth.interactive.terminal import LineReader, open_standard_input
from notion_oauth.models import PENDING_LIFETIME, TokenSet
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.protocol.registration import UNKNOWN_CLIENT, is_about_redirect_uri
from notion_oauth.protocol.urls import is_loopback, origin
from notion_oauth.service import NotionOAuth

ADVICE_AFTER = 10.0  # seconds in which a browser usually comes back
_POLL = 0.05  # seconds
_WAITING = "Waiting for your consent in the browser … (Ctrl-C to stop)"
_PROMPT = "URL: "
_COPY = "Copy the address from the browser's address bar"
_UNREACHABLE = "The browser then shows that the page cannot be reached: that is expected."
_ADDRESS = "Correct the address after @ if you connected with another name:"
_WITH_TERMINAL = (
    "To paste it, run this command with a terminal ({option}), or with --no-browser and the address on standard input."
)
_QUOTES = "\"'`<>"  # which mail, chat programs and shells put around a URL

T = TypeVar("T")


async def sign_in(
    oauth: NotionOAuth,
    challenge: BearerChallenge | None = None,
    *,
    console: Console | None = None,
    no_browser: bool = False,
    port: int | None = None,
    callback_host: str | None = None,
    new_client: bool = False,
) -> TokenSet:
    """Sign in a user at a terminal; returns once the tokens are stored and the browser shows the result.

        await sign_in(NotionOAuth())
        BearerAuth(oauth, authorize=partial(sign_in, oauth))

    Opens a browser if one can be shown here. Prints the URL to open if it does not come back within seconds, or at once
    if there is no browser, no terminal, or with `no_browser`. The redirect arrives on `port` of 127.0.0.1 (default: a
    registered or free one), or the user pastes it; the first valid one completes the sign-in. `challenge` is the
    resource's request for more scope or a newer sign-in.
    Writes to `console` (default: stderr).

    `callback_host` is the host of the redirect URI: 127.0.0.1 or localhost. By default, it is 127.0.0.1, or the one
    that is registered, and the other is tried once if the server refuses the redirect URI. With `new_client`, a new
    client is registered although a registration is stored; that is also tried once if the server refuses the stored
    one.

    Raises what `NotionOAuth.begin_authorization` and `complete_authorization` raise, AuthorizationExpired if no
    redirect arrives within ten minutes, ConfigurationError if `port` cannot be bound.
    """
    console = console or Console(stderr=True)
    registered = await oauth.registered_redirect_uris()
    host = callback_host or loopback.registered_host(registered)
    attempt = partial(_sign_in_once, oauth, challenge, registered, console=console, no_browser=no_browser, port=port)
    try:
        return await attempt(host, new_client=new_client)
    except OAuthError as refused:
        if callback_host is None and is_about_redirect_uri(refused):
            host = loopback.LOCALHOST if host == loopback.HOST else loopback.HOST
        elif new_client or not registered or refused.error not in UNKNOWN_CLIENT or oauth.settings.client_id:
            raise
        else:
            new_client = True
        error = refused
    what = "a new client" if new_client else f"the redirect URI of {host}"
    console.print(f"{error.message} Trying again with {what}.", markup=False, highlight=False)
    return await attempt(host, new_client=new_client)


async def _sign_in_once(
    oauth: NotionOAuth,
    challenge: BearerChallenge | None,
    registered: Sequence[str],
    host: str,
    *,
    console: Console,
    no_browser: bool,
    port: int | None,
    new_client: bool,
) -> TokenSet:
    environment = detect_environment()
    browser = "" if no_browser else environment.browser()
    with loopback.bind_redirect_uri(registered, port, host) as (listeners, redirect_uri):
        started = await oauth.begin_authorization(redirect_uri, challenge=challenge, new_client=new_client)
        receiver = Receiver(partial(oauth.complete_authorization, started.pending))
        async with loopback.serve(receiver, listeners, own_user=environment.tells_users_apart):
            url = started.url.get_secret_value()
            with open_standard_input(pipes=no_browser) or nullcontext() as source:
                terminal = source is not None and source.is_terminal
                port = listeners[0].getsockname()[1]
                remote = environment.ssh or environment.container
                advise = partial(_print_remote_steps, console, environment, url, port, terminal=terminal)
                prompt = _PastePrompt(console, source, redirect_uri, explained=remote)
                guide = partial(_guide, console, browser, url, advise if remote else None, prompt, receiver)
                await _wait_for_redirect(receiver, guide)
    try:
        return receiver.result()
    except AuthorizationExpired as error:
        error.hint = no_redirect_hint(oauth)
        raise oauth.tokens.with_profile_hint(error) from None


def no_redirect_hint(oauth: NotionOAuth) -> Hint:
    """Return what to do if the browser showed an error of the server and was not redirected."""
    if oauth.settings.client_id is None:
        return Hint("If the browser showed an error, sign in with a new client", "login", {"new_client": None})
    options = {"callback_host": loopback.LOCALHOST}
    return Hint("If the browser showed an error about the redirect URI, sign in", "login", options)


async def _guide(
    console: Console,
    browser: Browser | str,
    url: str,
    advise: Callable[[], None] | None,
    prompt: _PastePrompt,
    receiver: Receiver[T],
) -> None:
    """Open the browser. If it does not come back soon, or cannot be opened, print the URL and what else may help.

    `advise` prints the URL and the steps of a sign-in with a browser on another machine.
    """
    known = False
    if isinstance(browser, Browser):
        known = not console.is_terminal  # a log has no spinner, and whoever reads it may need the URL at once
        if known:
            _print_url(console, "Opening the browser. If no page appears, open this URL:", url)
        browser = await _wait_for_browser(console, browser, url)
    if advise is not None:
        if browser:
            _print(console, f"{browser}\n")
        advise()
    elif not known:
        _print_url(console, f"{browser} Open this URL in a browser:".lstrip(), url)
    elif browser:
        _print(console, f"{browser}\n")
    _print(console, _WAITING)
    await prompt.run(receiver)


async def _wait_for_browser(console: Console, browser: Browser, url: str) -> str:
    """Open the browser and wait for a while. Return why the user should now get advice."""
    failed = threading.Event()
    open_in_thread(browser, url, failed.set)
    animated = console.is_terminal and not console.is_dumb_terminal
    if console.is_terminal and not animated:
        console.print(_WAITING, markup=False, highlight=False)
    with console.status(_WAITING) if animated else nullcontext(), anyio.move_on_after(ADVICE_AFTER):
        while not failed.is_set():  # noqa: ASYNC110 - a thread sets it
            await anyio.sleep(_POLL)
    return "No browser could be opened." if failed.is_set() else "The browser has not come back yet."


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _print_url(console: Console, text: str, url: str) -> None:
    _print(console, f"{text}\n")
    _print_to_copy(console, url)


def _print_to_copy(console: Console, text: str) -> None:
    """Print the text on one line, however narrow the terminal is."""
    console.print(escape(text), markup=False, highlight=False, soft_wrap=True)
    console.print()


def _print_remote_steps(console: Console, environment: Environment, url: str, port: int, *, terminal: bool) -> None:
    """Explain how to sign in with a browser on another machine than this receiver."""
    redirect = f"{loopback.HOST}:{port}"
    _, host, server_port = origin(urlsplit(url))
    if is_loopback(host):  # the practice server
        server = f"{f'[{host}]' if ':' in host else host}:{server_port}"
        if (tunnel := environment.ssh_tunnel_command(server, redirect)) is not None:
            _print(console, f"1. Run this command on your computer, because {server} is on this machine. {_ADDRESS}\n")
            _print_to_copy(console, f"  {tunnel}")
            _print_url(console, "2. Open this URL on your computer and agree:", url)
            return
        if environment.container:
            shares = "if the container shares the network of your computer (--network host)"
            _print(console, f"{server} is in this container. The browser can open its page only {shares}.\n")
    _print_url(console, "1. Open this URL on your computer and agree:", url)
    option = "ssh -t" if environment.ssh else "-it"
    paste = f"{_COPY} and paste it here." if terminal else f"{_COPY}. {_WITH_TERMINAL.format(option=option)}"
    _print(console, f"2. {_UNREACHABLE} {paste}\n")
    if (tunnel := environment.ssh_tunnel_command(redirect)) is not None:
        _print(console, f"To avoid step 2, first run this command on your computer. {_ADDRESS}\n")
        _print_to_copy(console, f"  {tunnel}")
    elif environment.container:
        share = "if this container shares the network of your computer (--network host)"
        _print(console, f"The browser can reach port {port} {share}: step 2 is then not needed.\n")


async def _wait_for_redirect(receiver: Receiver[T], guide: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait until the browser or a paste ends the sign-in, or it expires, while `guide` runs."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guide)
        with anyio.move_on_after(PENDING_LIFETIME.total_seconds()):
            await receiver.wait_until_done()
        tasks.cancel_scope.cancel()


class _PastePrompt:
    """Reads the redirect URL from standard input, if there is one. Never prints it: it holds the code."""

    def __init__(
        self, console: Console, source: LineReader | None, redirect_uri: str, *, explained: bool = False
    ) -> None:
        self._console, self._source, self._redirect_uri = console, source, redirect_uri
        self._instruction = f"{_COPY} and paste it here. It starts with {redirect_uri}"
        self._explained = explained  # already
        self._prompting = False

    def print(self, text: str) -> None:
        """Print the text on a line of its own, then repeat the prompt."""
        if self._prompting:
            self._console.print()
        self._console.print(text, markup=False, highlight=False)
        if self._prompting:
            self._console.print(_PROMPT, end="")

    async def run(self, receiver: Receiver[T]) -> None:
        """Read lines until one is the redirect, or the input ends."""
        if self._source is None:
            return
        if self._source.is_terminal and not self._explained:
            self.print(f"If the browser shows an error page instead: {self._instruction}")
        while (line := await self._read_line(self._source)) is not None:
            try:
                if line.strip():
                    await receiver.receive_pasted(pasted_parameters(line, self._redirect_uri))
                    return
            except StateMismatch:
                self.print(f"That URL belongs to another sign-in. {self._instruction}")
            except AuthorizationResponseError as error:
                self.print(f"{error.message} {self._instruction}")

    async def _read_line(self, source: LineReader) -> str | None:
        if not source.is_terminal:
            return await source.read_line()
        self._console.print(_PROMPT, end="")
        self._prompting = True
        try:
            return await source.read_line()
        except anyio.get_cancelled_exc_class():
            self._console.print()  # start a new line for the next message
            raise
        finally:
            self._prompting = False


def pasted_parameters(text: str, redirect_uri: str) -> list[tuple[str, str]]:
    """Return the redirect's query parameters, as the loopback receiver would have got them from the browser.

    Checks only that `state` and a `code` or `error` are present; the values are checked as for any redirect. Raises
    AuthorizationResponseError, whose message contains nothing of the text: it may hold a code.
    """
    url = "".join(text.split()).strip(_QUOTES)  # a URL has no space, but a copy from a terminal may
    parameters = parse_qsl(_query(url, redirect_uri).partition("#")[0], keep_blank_values=True)
    present = {name for name, value in parameters if value}
    if "state" not in present or not present & {"code", "error"}:
        raise AuthorizationResponseError("That URL is incomplete: its code or its state is missing.")
    return parameters


def _query(url: str, redirect_uri: str) -> str:
    if "code_challenge=" in url:
        raise AuthorizationResponseError("That is the URL to open, not the one to which the browser is redirected.")
    start, _, query = url.partition("?")
    if start in ("", redirect_uri, redirect_uri.removeprefix("http://")):  # browsers hide the scheme
        return query
    if "=" in start and "://" not in start:
        return url
    raise AuthorizationResponseError("That is not the URL to which the browser is redirected.")
