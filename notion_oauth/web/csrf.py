"""Protection against requests that other sites trigger."""

from __future__ import annotations

from urllib.parse import parse_qs

import anyio
from fastapi import Request

from notion_oauth.errors import RequestForbidden
from notion_oauth.web.sessions import values

MAX_FORM = 8 * 1024  # bytes; the forms have one or two short fields
BODY_TIMEOUT = 10.0  # seconds, for the whole body


async def read_own_form(
    request: Request, session: values.Session, base_url: str, *, body_timeout: float = BODY_TIMEOUT
) -> dict[str, str]:
    """Read a form that this browser sent from the service's own page, and return its fields.

    Raises RequestForbidden for any other form, and for one that is larger than MAX_FORM or takes too long.

    The token in the form is the proof. If the browser names the site that sent the form, that must be this service.
    `Origin: null` is allowed, because pages with `Referrer-Policy: no-referrer` send it.
    """
    site, origin = request.headers.get("sec-fetch-site", "same-origin"), request.headers.get("origin", "null")
    foreign = site != "same-origin" or origin not in ("null", base_url)
    # A session without a CSRF token cannot pass, so do not read its body, which may be slow or endless
    fields = {} if foreign or not values.has_csrf(session) else await _form_fields(request, body_timeout)
    if foreign or not values.csrf_valid(session, fields.get("csrf_token")):
        raise RequestForbidden("The form did not come from this service's page, or is out of date or incomplete.")
    return fields


async def _form_fields(request: Request, seconds: float) -> dict[str, str]:
    """Return the fields that occur once; none if the body is larger than MAX_FORM or takes longer."""
    body = b""
    with anyio.move_on_after(seconds) as deadline:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                return {}
    if deadline.cancelled_caught:
        return {}
    found = parse_qs(body.decode("ascii", "replace"))
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def require_navigation(request: Request) -> None:
    """Raise RequestForbidden if the browser says that it loads this address as part of another page.

    Another site does that with an image, a frame or a script, and the user sees nothing of it.
    """
    is_embedded = request.headers.get("sec-fetch-dest", "document") != "document"
    if is_embedded and (request.method == "GET" or is_cross_site(request)):
        raise RequestForbidden("This address cannot be embedded in another page.")


def is_cross_site(request: Request) -> bool:
    """Return whether the browser says that a page of another site led to this request."""
    return request.headers.get("sec-fetch-site") == "cross-site"
