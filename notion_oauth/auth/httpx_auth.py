"""BearerAuth: an httpx.Auth that attaches a valid token."""

from __future__ import annotations

import httpx

from notion_oauth.auth.flow import BearerAuthBase


class BearerAuth(BearerAuthBase, httpx.Auth):
    """For `httpx.Client` and `httpx.AsyncClient`: a valid token on requests to the MCP server's own origin.

    Raises into the request what `TokenSource.token` raises: NotSignedIn, SignInRequired, TransientError, StorageError.
    """

    replayable_body = httpx.ByteStream
