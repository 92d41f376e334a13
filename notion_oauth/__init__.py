"""Sign in to Notion once, and every program you run has a valid Notion MCP token until Notion ends the grant."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notion_oauth.app import create_app
    from notion_oauth.auth.httpx_auth import BearerAuth
    from notion_oauth.errors import (
        ConfigurationError,
        NotionOAuthError,
        NotSignedIn,
        OAuthError,
        SignInRequired,
        StepUpRequired,
        StorageError,
        TransientError,
    )
    from notion_oauth.files.encryption import Encryption
    from notion_oauth.gateway.application import create_gateway
    from notion_oauth.interactive.sign_in import sign_in
    from notion_oauth.router import create_router
    from notion_oauth.service import NotionOAuth
    from notion_oauth.settings import Settings
    from notion_oauth.storage import JsonFileStore, TokenStore
    from notion_oauth.stores.memory import MemoryStore
    from notion_oauth.tokens.source import TokenSource
    from notion_oauth.tokens.status import LoginStatus
    from notion_oauth.web.dependency import ValidToken

__version__ = "0.1.0"

__all__ = [
    "BearerAuth",
    "ConfigurationError",
    "Encryption",
    "JsonFileStore",
    "LoginStatus",
    "MemoryStore",
    "NotSignedIn",
    "NotionOAuth",
    "NotionOAuthError",
    "OAuthError",
    "Settings",
    "SignInRequired",
    "StepUpRequired",
    "StorageError",
    "TokenSource",
    "TokenStore",
    "TransientError",
    "ValidToken",
    "__version__",
    "create_app",
    "create_gateway",
    "create_router",
    "sign_in",
]

_ERRORS = (
    *("ConfigurationError", "NotSignedIn", "NotionOAuthError", "OAuthError", "SignInRequired", "StepUpRequired"),
    *("StorageError", "TransientError"),
)
_MODULES = {
    **dict.fromkeys(_ERRORS, "errors"),
    "BearerAuth": "auth.httpx_auth",
    "Encryption": "files.encryption",
    "JsonFileStore": "storage",
    "LoginStatus": "tokens.status",
    "MemoryStore": "stores.memory",
    "NotionOAuth": "service",
    "Settings": "settings",
    "TokenSource": "tokens.source",
    "TokenStore": "storage",
    "ValidToken": "web.dependency",
    "create_app": "app",
    "create_gateway": "gateway.application",
    "create_router": "router",
    "sign_in": "interactive.sign_in",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import notion_oauth` loads neither FastAPI nor httpx."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
