"""Protection against requests that other sites trigger."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from urllib.parse import parse_qs, urlsplit

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from notion_oauth.errors import BadRequest, RequestForbidden
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.sessions import encryption
from notion_oauth.web.sessions.browser_cookies import BrowserCookies
from notion_oauth.web.sessions.keys import session_keys

COOKIE = "notion_oauth_csrf"
MAX_FORM = 8 * 1024  # bytes; the forms have one or two short fields
BODY_TIMEOUT = 10.0  # seconds, for the whole body


class Forms:
    """The forms on the service's own pages.

    A form's token is a MAC over a random value in a cookie, and what identifies the session: a planted cookie alone
    is of no use, and a new login or unlock makes earlier forms invalid.
    """

    def __init__(self, resolver: ProfileResolver) -> None:
        settings = resolver.oauth.settings
        self._resolver = resolver
        self._public_url = settings.public_url
        self._cookies = BrowserCookies(public=settings.is_public)
        self._keys = [encryption.derive_key(key, encryption.FORM) for key in session_keys(settings)]

    def token(self, request: Request) -> str:
        """Return the token for a form on the page that answers the request."""
        value = self._cookies.get(request, COOKIE)
        if value is None:
            value = secrets.token_urlsafe(32)
            self._cookies.set(request, COOKIE, value)
        return self._mac(self._keys[0], request, value)

    def check_sender(self, request: Request) -> None:
        """Raise RequestForbidden unless the browser sends a form of this service, as far as the headers show.

        If the browser names the site that sent the form, that must be this service. `Origin: null` is allowed, because
        pages with `Referrer-Policy: no-referrer` send it.
        """
        site, origin = request.headers.get("sec-fetch-site", "same-origin"), request.headers.get("origin", "null")
        if site != "same-origin" or (origin != "null" and origin != base_url(request, self._public_url)):
            raise _not_own_form()

    async def read(self, request: Request, *, body_timeout: float = BODY_TIMEOUT) -> dict[str, str]:
        """Read a form that this browser sent from the service's own page, and return its fields.

        Raises RequestForbidden for any other form, and for one that is larger than MAX_FORM or takes too long;
        BadRequest if the body is incomplete.
        """
        self.check_sender(request)
        value = self._cookies.get(request, COOKIE)
        if value is None:  # it cannot be valid, so do not read its body, which may be slow or endless
            raise _not_own_form()
        fields = await _form_fields(request, body_timeout)
        if not self._is_valid(request, value, fields.get("csrf_token", "")):
            raise _not_own_form()
        return fields

    def _is_valid(self, request: Request, value: str, sent: str) -> bool:
        return any(hmac.compare_digest(self._mac(key, request, value).encode(), sent.encode()) for key in self._keys)

    def _mac(self, key: bytes, request: Request, value: str) -> str:
        message = json.dumps([value, self._resolver.session_identity(request)]).encode()
        return hmac.new(key, message, hashlib.sha256).hexdigest()


def _not_own_form() -> RequestForbidden:
    return RequestForbidden("The form did not come from this service's page, or is out of date or incomplete.")


def base_url(request: Request, public_url: str | None) -> str:
    """Scheme, host and port as browsers see them: of the public URL, otherwise of the request on loopback."""
    public = urlsplit(public_url or "")
    return f"{public.scheme}://{public.netloc}" if public.netloc else f"{request.url.scheme}://{request.url.netloc}"


async def _form_fields(request: Request, seconds: float) -> dict[str, str]:
    """Return the fields that occur once; none if the body is larger than MAX_FORM or takes longer."""
    body = b""
    with anyio.move_on_after(seconds) as deadline:
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_FORM:
                    return {}
        except ClientDisconnect:  # also from a server that cannot parse the body
            raise BadRequest("The body of the request is invalid or incomplete.", hint="Send the form again.") from None
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
