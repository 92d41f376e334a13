"""Which MCP server a stored login belongs to. Its tokens are sent to no other."""

from __future__ import annotations

from pathlib import Path

from notion_oauth.errors import Hint, NotSignedIn, ResourceMismatch
from notion_oauth.files.locations import CLONE_TOKEN_FILE
from notion_oauth.models import TokenSet
from notion_oauth.protocol.urls import resource_covers


def server_of(tokens: TokenSet, server_url: str, *, unbound: str) -> str:
    """Return the URL of the login's MCP server: the configured `server_url`, or another.

    A login that names no resource belongs to the server at `unbound`.
    """
    server = tokens.resource or unbound
    return server_url if server == server_url or resource_covers(server, server_url) else server


def mismatch(tokens: TokenSet, server_url: str, *, unbound: str) -> ResourceMismatch | None:
    """Return the error for a login of another server; None if the login may be used with `server_url`."""
    server = server_of(tokens, server_url, unbound=unbound)
    if server == server_url:
        return None
    if tokens.resource is None:
        return ResourceMismatch(
            f"The stored login names no server, so it is for {server}. An env file names {server_url} instead.",
            hint="Nothing was sent there. If the login is for that server, name it with --server-url, or set "
            "NOTION_OAUTH_SERVER_URL in the environment.",
        )
    return ResourceMismatch(
        f"The stored login is for {server}, not for {server_url}.",
        hint=Hint(
            f"To use it, set NOTION_OAUTH_SERVER_URL={server}. "
            "To keep it and sign in here too, set NOTION_OAUTH_TOKEN_FILE to another file. To end it, sign out",
            "logout",
            {"server_url": server},
        ),
    )


def not_signed_in(other_token_file: Path | None) -> NotSignedIn:
    """Return the error without a login. `other_token_file` has one, but is not in use."""
    if other_token_file is None:
        return NotSignedIn("Not signed in.")
    # The messages are also for web pages, and so name no file
    if other_token_file.name != CLONE_TOKEN_FILE:
        return NotSignedIn(
            "Not signed in here. The user's data directory has a login in a token file that is not used.",
            hint=Hint("To use it, name its file, for example", "status", {"token_file": str(other_token_file)}),
        )
    return NotSignedIn(
        "Not signed in. The working directory has a login in a token file that is not used.",
        hint=Hint("If that login is yours, move it to the one in use", "adopt", arguments=(str(other_token_file),)),
    )
