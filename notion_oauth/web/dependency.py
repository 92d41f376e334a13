"""A FastAPI dependency that gives endpoints a valid token, or answers where to sign in."""

from __future__ import annotations

from fastapi import HTTPException, Request
from pydantic import SecretStr
from starlette.routing import NoMatchFound

from notion_oauth.errors import NotionOAuthError, NotSignedIn, ResourceMismatch, SignInRequired, TransientError
from notion_oauth.service import NotionOAuth
from notion_oauth.web import responses
from notion_oauth.web.profiles.resolver import ProfileFromRequest, create_resolver
from notion_oauth.web.trusted_hosts import HOST_CHECKED, TrustedHosts


class ValidToken:
    """`Annotated[SecretStr, Depends(ValidToken())]`: a valid access token. Many endpoints can share one instance.

    If the user must sign in, the response is 401, and its `detail.login` is the path of the router's login, or null if
    the application does not include the router. Temporary failures are 503, with `Retry-After` if the server sent one.
    `detail` always has `error`, `message` and `next`.

    `profile` is the same function as create_router's: pass it to both. Without it, requests with
    another host name than localhost, or from another machine, are refused, as the router does.
    """

    def __init__(self, oauth: NotionOAuth | None = None, *, profile: ProfileFromRequest | None = None) -> None:
        self._resolver = create_resolver(oauth or NotionOAuth(), profile)
        # An application that names the profile has checked the request; otherwise it gets this machine's login
        self._hosts = TrustedHosts(self._resolver.oauth.settings) if profile is None else None

    async def __call__(self, request: Request) -> SecretStr:
        try:
            if self._hosts is not None and HOST_CHECKED not in request.scope:
                self._hosts.check(request.scope)
            oauth = await self._resolver.for_request(request)
            if oauth is None:
                raise NotSignedIn("Not signed in.")
            return await oauth.tokens.token()
        except NotionOAuthError as error:
            public = self._hosts is None or self._hosts.public
            login = _login_path(request)
            detail = responses.problem(responses.public_error(error) if public else error, login=login or "")
            sign_in = isinstance(error, NotSignedIn | SignInRequired) and not isinstance(error, ResourceMismatch)
            if sign_in:
                detail["login"] = login
            headers = {**responses.retry_after(error), "Cache-Control": "no-store"}
            status = 503 if isinstance(error, TransientError) else responses.status_code(error)
            if status == 401:
                headers["WWW-Authenticate"] = 'Session realm="notion-oauth"'  # RFC 9110 §15.5.2 requires a challenge
            raise HTTPException(status, detail, headers) from None


def _login_path(request: Request) -> str | None:
    """Return the path of the sign-in as browsers see it; None if this application has no such route."""
    try:
        return request.url_for("notion_oauth_login").path
    except NoMatchFound:
        return None
