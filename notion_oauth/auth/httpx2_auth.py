"""BearerAuth for httpx2, which the MCP Python SDK speaks through: a twin of `notion_oauth.BearerAuth`."""

from __future__ import annotations

from notion_oauth.auth.flow import BearerFlows
from notion_oauth.errors import ConfigurationError

try:
    import httpx2
except ImportError:
    _HINT = "Install it with: uv pip install 'notion-oauth[httpx2]'"
    raise ConfigurationError(
        "notion_oauth.auth.httpx2_auth needs httpx2, which is not installed.", hint=_HINT
    ) from None


class BearerAuth(BearerFlows, httpx2.Auth):
    """For `httpx2.Client` and `httpx2.AsyncClient`, and so for `mcp.client.streamable_http.streamable_http_client`.

    Raises into the request what `TokenSource.token` raises: NotSignedIn, SignInRequired, TransientError, StorageError.
    """

    whole_body = httpx2.ByteStream
