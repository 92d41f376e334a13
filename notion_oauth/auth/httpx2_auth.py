"""BearerAuth for httpx2, which the MCP Python SDK uses; it works like `notion_oauth.BearerAuth`, which is for httpx."""

from __future__ import annotations

from notion_oauth.auth.flow import BearerAuthBase
from notion_oauth.errors import ConfigurationError
from notion_oauth.files.installation import install_hint

try:
    import httpx2
except ImportError:
    raise ConfigurationError(
        "notion_oauth.auth.httpx2_auth needs httpx2, which is not installed.", hint=install_hint("httpx2", "httpx2")
    ) from None


class BearerAuth(BearerAuthBase, httpx2.Auth):
    """For `httpx2.Client` and `httpx2.AsyncClient`, and so for `mcp.client.streamable_http.streamable_http_client`.

    A request raises NotSignedIn, SignInRequired, StepUpRequired, TransientError, StorageError or another error of
    `TokenSource.token` if no token can be sent.
    """

    replayable_body = httpx2.ByteStream
