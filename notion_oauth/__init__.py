"""Sign in to Notion once, and every program has a valid Notion MCP token until Notion itself ends the grant."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notion_oauth.app import create_app
    from notion_oauth.auth import BearerAuth
    from notion_oauth.dependency import ValidToken
    from notion_oauth.errors import NotionOAuthError, NotSignedIn, SignInRequired, TransientError
    from notion_oauth.refresh import TokenSource
    from notion_oauth.router import create_router
    from notion_oauth.sealing import Sealer
    from notion_oauth.service import NotionOAuth
    from notion_oauth.settings import Settings
    from notion_oauth.storage import JsonFileStore, TokenStore

__all__ = [
    "BearerAuth",
    "JsonFileStore",
    "NotSignedIn",
    "NotionOAuth",
    "NotionOAuthError",
    "Sealer",
    "Settings",
    "SignInRequired",
    "TokenSource",
    "TokenStore",
    "TransientError",
    "ValidToken",
    "create_app",
    "create_router",
]

_HOMES = {
    "app": ("create_app",),
    "auth": ("BearerAuth",),
    "dependency": ("ValidToken",),
    "errors": ("NotSignedIn", "NotionOAuthError", "SignInRequired", "TransientError"),
    "refresh": ("TokenSource",),
    "router": ("create_router",),
    "sealing": ("Sealer",),
    "service": ("NotionOAuth",),
    "settings": ("Settings",),
    "storage": ("JsonFileStore", "TokenStore"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a command that prints a token needs no FastAPI."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
