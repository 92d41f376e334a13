"""The sign-in of the command line: a browser, a receiver on loopback, and a person who is told what happens."""

from __future__ import annotations

import webbrowser
from functools import partial

import anyio
from rich.console import Console

from notion_oauth import loopback
from notion_oauth.errors import PendingExpired
from notion_oauth.models import PENDING_LIFETIME, TokenSet
from notion_oauth.service import NotionOAuth


async def sign_in(oauth: NotionOAuth, console: Console) -> TokenSet:
    """Sign in through the browser; returns once the tokens are stored and the browser shows it.

    Talks on `console`. Raises what NotionOAuth.begin_authorization and complete_authorization raise, and
    PendingExpired where nobody comes back from the browser within ten minutes.
    """
    with loopback.bound(await oauth.registered_redirect_uris()) as (listener, redirect_uri):
        begun = await oauth.begin_authorization(redirect_uri)
        receiver = loopback.Receiver(partial(oauth.complete_authorization, begun.pending))
        url = begun.url.get_secret_value()
        async with loopback.serving(receiver, listener):
            console.print("Opening the browser. If none appears, open this address on this machine:\n")
            console.print(url, markup=False, highlight=False, soft_wrap=True)
            console.print()
            loopback.open_browser(url, webbrowser.open, lambda: console.print("No browser could be opened here."))
            waiting = "Waiting for you to agree in the browser … (Ctrl-C stops)"
            if not console.is_terminal:
                console.print(waiting, markup=False)
            with console.status(waiting):
                try:
                    with anyio.fail_after(PENDING_LIFETIME.total_seconds()):
                        return await receiver.result()
                except TimeoutError:
                    raise PendingExpired("Nobody came back from the browser within ten minutes.") from None
