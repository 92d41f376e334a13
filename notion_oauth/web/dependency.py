"""A FastAPI dependency that hands a valid token to an endpoint, or sends the caller to the sign-in."""

from __future__ import annotations

from fastapi import HTTPException, Request
from pydantic import SecretStr
from starlette.routing import NoMatchFound

from notion_oauth.errors import NotionOAuthError, NotSignedIn, ResourceMismatch, SignInRequired, TransientError
from notion_oauth.service import NotionOAuth
from notion_oauth.web import responses
from notion_oauth.web.profiles.resolver import ProfileFromRequest, ProfileResolver
from notion_oauth.web.trusted_hosts import HOST_CHECKED, TrustedHosts


class ValidToken:
    """`Annotated[SecretStr, Depends(ValidToken())]`: a valid access token, for as many endpoints as there are.

    Where a person has to sign in, the answer is 401, and its body's `detail.login` says where: the path of the
    router's login where it is in the same application. Passing failures are 503 with `Retry-After` where the server
    gave one. A request that reaches this machine under another name, or from elsewhere, is refused as by the router,
    unless `profile` is given. `detail` has `error`, `message` and `next` in every case. `profile` says who is asking,
    as create_router's does: give both the same.
    """

    def __init__(self, oauth: NotionOAuth | None = None, *, profile: ProfileFromRequest | None = None) -> None:
        self._logins = ProfileResolver(oauth or NotionOAuth(), profile)
        # An application that says who is asking has looked at the request; else it means the login of this machine
        self._hosts = TrustedHosts(self._logins.settings) if profile is None else None

    async def __call__(self, request: Request) -> SecretStr:
        try:
            if self._hosts is not None and HOST_CHECKED not in request.scope:
                self._hosts.check(request.scope)
            login = await self._logins.for_request(request)
            if login is None:
                raise NotSignedIn("Not signed in.")
            return await login.tokens.token()
        except NotionOAuthError as error:
            detail = responses.problem(error)
            sign_in = isinstance(error, NotSignedIn | SignInRequired) and not isinstance(error, ResourceMismatch)
            if sign_in:
                detail["login"] = _login(request)
            headers = {**responses.retry_after(error), "Cache-Control": "no-store"}
            status = 503 if isinstance(error, TransientError) else responses.status_code(error)
            if status == 401:
                headers["WWW-Authenticate"] = 'Session realm="notion-oauth"'  # RFC 9110 §15.5.2 asks for a challenge
            raise HTTPException(status, detail, headers) from None


def _login(request: Request) -> str | None:
    """The path of the sign-in as browsers see it; None where this application has no such route."""
    try:
        return request.url_for("notion_oauth_login").path
    except NoMatchFound:
        return None
