"""BearerAuth: an httpx.Auth that attaches a valid token."""

from __future__ import annotations

import httpx

from notion_oauth.auth.flow import BearerAuthBase


class BearerAuth(BearerAuthBase, httpx.Auth):
    """For `httpx.Client` and `httpx.AsyncClient`: a valid token on requests to the MCP server's own origin.

    A request raises NotSignedIn, SignInRequired, StepUpRequired, TransientError, StorageError or another error of
    `TokenSource.token` if no token can be sent.
    """

    replayable_body = httpx.ByteStream
