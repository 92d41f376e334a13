"""The sign-in of the command line: a browser, a receiver on loopback, a prompt, and a person who is told of it all."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TypeVar
from urllib.parse import parse_qsl

import anyio
from rich.console import Console

from notion_oauth.errors import AuthorizationResponseError, StateMismatch
from notion_oauth.interactive import loopback
from notion_oauth.interactive.browser import Browser, Environment, here, open_once
from notion_oauth.interactive.loopback import Receiver
from notion_oauth.interactive.terminal import StandardInput, standard_input
from notion_oauth.models import PENDING_LIFETIME, TokenSet
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.service import NotionOAuth

_ASK = "Address: "
_CONTAINER = (
    "This is a container: a browser outside of it cannot reach port {port} in it, unless they share a network "
    "(--network host). Without that, the address that it ends up at can be pasted here."
)
_NO_TERMINAL = "For that, give this command a terminal (-it), or the address on its standard input with --no-browser."

_AROUND = "\"'`<>"  # what mail, chat and shells put around an address

T = TypeVar("T")


async def sign_in(
    oauth: NotionOAuth,
    console: Console,
    challenge: BearerChallenge | None = None,
    *,
    no_browser: bool = False,
    port: int | None = None,
) -> TokenSet:
    """Sign in through a browser, here or elsewhere; returns once the tokens are stored and the browser shows it.

    The redirect comes to the receiver on `port`, else on a port of its own choice, or is pasted; the first that is
    right counts. `challenge` is what the resource asks for, where it has said so. Talks on `console`. Raises what
    NotionOAuth.begin_authorization and complete_authorization raise, PendingExpired where neither has come within ten
    minutes, ConfigurationError where `port` cannot be had.
    """
    around = here()
    browser = "" if no_browser else around.browser()
    with loopback.bound(await oauth.registered_redirect_uris(), port) as (listener, redirect_uri):
        begun = await oauth.begin_authorization(redirect_uri, challenge=challenge)
        receiver = Receiver(partial(oauth.complete_authorization, begun.pending))
        async with loopback.serving(receiver, listener):
            url = begun.url.get_secret_value()
            _say_where(console, browser, url)
            with standard_input(pipes=no_browser) or nullcontext() as source:
                terminal = source is not None and source.is_terminal
                _say_how_it_comes_back(console, around, listener.getsockname()[1], terminal=terminal)
                prompt = _Prompt(console, source, redirect_uri)
                if isinstance(browser, Browser):
                    open_once(browser, url, partial(prompt.say, "No browser could be opened here."))
                await _first_of_both(receiver, prompt, console)
    return receiver.result()


def _say_where(console: Console, browser: Browser | str, url: str) -> None:
    if isinstance(browser, Browser):
        what = "Opening the browser. If none appears, open this address:"
    else:
        what = f"{browser} Open this address in a browser:".lstrip()
    console.print(f"{what}\n", markup=False, highlight=False)
    console.print(url, markup=False, highlight=False, soft_wrap=True)
    console.print()


def _say_how_it_comes_back(console: Console, around: Environment, port: int, *, terminal: bool) -> None:
    """Told to those whose browser may be on another machine than this receiver."""
    tunnel = around.tunnel(port)
    if tunnel is not None:
        console.print("If that browser is on your own computer, run this there first:\n")
        console.print(f"  {tunnel}\n", markup=False, highlight=False, soft_wrap=True)
    elif around.container:
        console.print(_CONTAINER.format(port=port), markup=False, highlight=False)
        if not terminal:
            console.print(_NO_TERMINAL, markup=False, highlight=False)
        console.print()


async def _first_of_both(receiver: Receiver[T], prompt: _Prompt, console: Console) -> None:
    """Wait until the browser or a paste has ended the sign-in, or nobody has in time; end the other."""
    console.print("Waiting for you to agree in the browser … (Ctrl-C stops)", markup=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prompt.ask, receiver)
        with anyio.move_on_after(PENDING_LIFETIME.total_seconds()):
            await receiver.over()
        tasks.cancel_scope.cancel()


class _Prompt:
    """Asks for the redirect where there is somebody to ask. What was pasted is never repeated: it holds the code."""

    def __init__(self, console: Console, source: StandardInput | None, redirect_uri: str) -> None:
        self._console, self._source, self._redirect_uri = console, source, redirect_uri
        self._what = f"Paste the whole address that the browser ends up at. It begins with {redirect_uri}"
        self._asking = False

    def say(self, text: str) -> None:
        """Say it on a line of its own, and ask on."""
        if self._asking:
            self._console.print()
        self._console.print(text, markup=False, highlight=False)
        if self._asking:
            self._console.print(_ASK, end="")

    async def ask(self, receiver: Receiver[T]) -> None:
        """Take lines until one is the redirect, or no more come."""
        if self._source is None:
            return
        if self._source.is_terminal:
            self.say(f"Does the browser end up at a page that it cannot show? {self._what}")
        while (line := await self._line(self._source)) is not None:
            try:
                if line.strip():
                    await receiver.paste(pasted_parameters(line, self._redirect_uri))
                    return
            except StateMismatch:
                self.say(f"That address belongs to another sign-in than this one. {self._what}")
            except AuthorizationResponseError as wrong:
                self.say(f"{wrong.message} {self._what}")

    async def _line(self, source: StandardInput) -> str | None:
        if not source.is_terminal:
            return await source.line()
        self._console.print(_ASK, end="")
        self._asking = True
        try:
            return await source.line()
        except anyio.get_cancelled_exc_class():
            self._console.print()  # what is said next begins a line
            raise
        finally:
            self._asking = False


def pasted_parameters(text: str, redirect_uri: str) -> list[tuple[str, str]]:
    """The parameters of the redirect, as the receiver on loopback would have got them from the browser.

    Raises AuthorizationResponseError, which repeats nothing of the text: it may hold a code. What the parameters
    say is left to those who check any redirect.
    """
    address = "".join(text.split()).strip(_AROUND)  # an address holds no space; one copied from a terminal may
    parameters = parse_qsl(_query(address, redirect_uri).partition("#")[0], keep_blank_values=True)
    given = {name for name, value in parameters if value}
    if "state" not in given or not given & {"code", "error"}:
        raise AuthorizationResponseError("That address is not whole: its code or its state is missing.")
    return parameters


def _query(address: str, redirect_uri: str) -> str:
    if "code_challenge=" in address:
        raise AuthorizationResponseError("That is the address to open, not the one that the browser ends up at.")
    start, _, query = address.partition("?")
    if start in ("", redirect_uri, redirect_uri.removeprefix("http://")):  # browsers hide the scheme
        return query
    if "=" in start and "://" not in start:
        return address
    raise AuthorizationResponseError("That is not the address that the browser ends up at.")
