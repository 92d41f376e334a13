"""The redirect as a person pastes it: the address that the browser ended up at, or its query alone."""

from __future__ import annotations

from urllib.parse import parse_qsl

from notion_oauth.errors import AuthorizationResponseError

_AROUND = "\"'`<>"  # what mail, chat and shells put around an address


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
