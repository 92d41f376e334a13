"""Whether it was our own page that sent a request, and what a small form holds."""

from __future__ import annotations

from urllib.parse import parse_qs

import anyio
from fastapi import Request

from notion_oauth.errors import RequestForbidden
from notion_oauth.web.sessions import state

MAX_FORM = 8 * 1024  # bytes; ours hold one or two short fields
PATIENCE = 10.0  # seconds in which all of it must have come


async def require_own_page(request: Request, browser: state.Session, base_url: str) -> dict[str, str]:
    """The fields of a form on our own page, sent by the browser that was given the form. Raises RequestForbidden.

    The token in the form is what proves it. Where the browser says which site sent it, that must be ours too;
    an `Origin: null` says nothing, for it is what a page without referrer sends.
    """
    site, origin = request.headers.get("sec-fetch-site", "same-origin"), request.headers.get("origin", "null")
    foreign = site != "same-origin" or origin not in ("null", base_url)
    # Who was given no form needs no reading of what may come slowly, or never end
    fields = {} if foreign or not state.has_csrf(browser) else await _fields(request)
    if foreign or not state.csrf_valid(browser, fields.get("csrf_token")):
        raise RequestForbidden("This did not come from this service's own page, or the page is too old.")
    return fields


async def _fields(request: Request) -> dict[str, str]:
    """What a small form holds, each field once; nothing where the body is larger than any form of ours."""
    body = b""
    with anyio.move_on_after(PATIENCE) as patience:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                return {}
    if patience.cancelled_caught:
        return {}
    found = parse_qs(body.decode("ascii", "replace"))
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def require_visit(request: Request) -> None:
    """Raise RequestForbidden where a browser says that this is no person's visit of the page, but part of another.

    An image, a frame or a script of some site asks for it then, and shows nobody what comes of it.
    """
    part = request.headers.get("sec-fetch-dest", "document") != "document"
    if part and (request.method == "GET" or sent_by_another_site(request)):
        raise RequestForbidden("This address is for visiting, and not for being part of another page.")


def sent_by_another_site(request: Request) -> bool:
    """Whether the browser says that a page of somebody else's has led here."""
    return request.headers.get("sec-fetch-site") == "cross-site"
