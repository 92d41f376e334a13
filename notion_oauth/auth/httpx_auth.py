"""BearerAuth: an httpx.Auth that attaches a valid token."""

from __future__ import annotations

import httpx

from notion_oauth.auth.flow import BearerFlows


class BearerAuth(BearerFlows, httpx.Auth):
    """For `httpx.Client` and `httpx.AsyncClient`: a valid token on requests to the MCP server's own origin.

    Raises into the request what `TokenSource.token` raises: NotSignedIn, SignInRequired, TransientError, StorageError.
    """

    whole_body = httpx.ByteStream
