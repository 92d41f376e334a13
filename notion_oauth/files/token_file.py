"""The token file's format: seven fields that other programs know, and ours beside them.

`access_token`, `token_type`, `expires_in`, `refresh_token`, `client_id`, `client_secret` and `updated_at` (milliseconds
since 1970) are enough to be read. The others keep what would else have to be asked of the server again; all
times are milliseconds since 1970. In the place of a login that the server has ended lies its tombstone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import SecretStr, ValidationError

from notion_oauth.errors import StoreDamaged
from notion_oauth.files import atomic
from notion_oauth.files.encryption import Encryption, Key, decrypt, encryption_key_id, encryption_weakness
from notion_oauth.files.protection import Weakness
from notion_oauth.models import ClientInformation, EndedLogin, Registration, TokenSet
from notion_oauth.protocol import lifetime
from notion_oauth.protocol.messages import parse_json

T = TypeVar("T")


@dataclass(frozen=True)
class StoredFile(Generic[T]):
    """What is in a file, the key that opens it, and in which way it is sealed worse than it could be."""

    content: T
    key: Key | None
    weakness: Weakness | None


def read_stored(
    path: Path, decode: Callable[[bytes, Path], T], encryption: Encryption | None, *, fix: bool = True
) -> StoredFile[T] | None:
    """What `decode` makes of the unsealed content; None where there is no such file.

    Raises as files.read_file and sealing.unseal do.
    """

    def read(content: bytes) -> StoredFile[T]:
        key_id = encryption_key_id(content)
        key = None if key_id is None or encryption is None else encryption.key(key_id)
        decoded = decode(decrypt(content, path, encryption), path)
        return StoredFile(decoded, key, encryption_weakness(content, encryption, path.name))

    return atomic.read_file(path, read, fix=fix)


def encode_tokens(tokens: TokenSet) -> bytes:
    """The file's bytes: JSON, indented, for a person may look at it."""
    client = tokens.client
    document = {
        "access_token": tokens.access_token.get_secret_value(),
        "token_type": tokens.token_type,
        "expires_in": tokens.expires_in,
        "refresh_token": _revealed(tokens.refresh_token),
        "client_id": client.client_id if client else None,
        "client_secret": _revealed(client.client_secret) if client else None,
        "updated_at": _milliseconds(tokens.updated_at),
        "expires_at": _milliseconds(tokens.expires_at),
        "authorized_at": _milliseconds(tokens.authorized_at),
        "refreshed_at": _milliseconds(tokens.refreshed_at),
        "scope": tokens.scope,
        "requested_scope": tokens.requested_scope,
        "issuer": tokens.issuer,
        "resource": tokens.resource,
        "token_endpoint": tokens.token_endpoint,
        "revocation_endpoint": tokens.revocation_endpoint,
        "introspection_endpoint": tokens.introspection_endpoint,
        "token_endpoint_auth_method": client.token_endpoint_auth_method if client else None,
        "token_endpoint_auth_methods_supported": list(tokens.token_endpoint_auth_methods_supported),
        **{name: getattr(tokens, name) for name in _OF_OTHER_ENDPOINTS},
        "client_secret_expires_at": client.client_secret_expires_at if client else 0,
    }
    return _encode(document)


def encode_ended_login(ended: EndedLogin) -> bytes:
    """The bytes that take a login's place."""
    times = {name: _milliseconds(getattr(ended, name)) for name in _ENDED_LOGIN_TIMES}
    return _encode({**ended.model_dump(mode="json"), **times})


_ENDED_LOGIN_TIMES = ("ended_at", "authorized_at", "refreshed_at")


def decode_login(content: bytes, path: Path) -> TokenSet | EndedLogin:
    """Read a token file. Raises StoreDamaged where it is not one, without showing what it holds."""
    document = _decode(content, path)
    if isinstance(document, dict) and "ended_at" in document and "access_token" not in document:
        times = {name: lifetime.from_milliseconds(document.get(name)) for name in _ENDED_LOGIN_TIMES}
        try:
            return EndedLogin.model_validate({**document, **times})
        except ValidationError:
            raise _damaged(path, "it tells of a login that has ended, and not when or why") from None
    held = document.get("access_token") if isinstance(document, dict) else None
    if not isinstance(held, str) or not held:
        raise _damaged(path, "it holds no access_token")
    expires_in = lifetime.parse_lifetime(document.get("expires_in"))
    updated_at = lifetime.from_milliseconds(document.get("updated_at"))
    expires_at = lifetime.from_milliseconds(document.get("expires_at"))
    if updated_at is None:
        updated_at = datetime.fromtimestamp(0, UTC)
        expires_in = None  # it says nothing without the moment it counts from
    try:
        return TokenSet(
            **{name: document.get(name) for name in (*_AS_THEY_ARE, *_OF_OTHER_ENDPOINTS)},
            token_type=document.get("token_type") or "Bearer",
            expires_in=expires_in,
            expires_at=expires_at or lifetime.expires_at(expires_in, requested_at=updated_at),
            refresh_token=document.get("refresh_token") or None,
            client=_client(document),
            token_endpoint_auth_methods_supported=document.get("token_endpoint_auth_methods_supported") or (),
            authorized_at=lifetime.from_milliseconds(document.get("authorized_at")),
            refreshed_at=lifetime.from_milliseconds(document.get("refreshed_at")),
            updated_at=updated_at,
        )
    except ValidationError as error:
        fields = ", ".join(sorted({str(detail["loc"][0]) for detail in error.errors(include_input=False)}))
        raise _damaged(path, f"these fields are wrong: {fields}") from None


_AS_THEY_ARE = (
    *("access_token", "scope", "requested_scope", "issuer", "resource"),
    *("token_endpoint", "revocation_endpoint", "introspection_endpoint"),
)
_OF_OTHER_ENDPOINTS = (
    *("revocation_endpoint_auth_methods_supported", "introspection_endpoint_auth_methods_supported"),
)
_OF_THE_CLIENT = ("client_id", "client_secret", "client_secret_expires_at", "token_endpoint_auth_method")


def _client(document: dict[str, Any]) -> ClientInformation | None:
    if not document.get("client_id"):
        return None
    return ClientInformation.model_validate({name: document.get(name) for name in _OF_THE_CLIENT})


# Fields of a Registration that the file keeps under another name
_REGISTRATION_KEYS = {"preregistered": "by_hand", "claimed": "taken", "extended_scope": "wide"}


def encode_registrations(registrations: tuple[Registration, ...]) -> bytes:
    """The bytes of the file that keeps client registrations."""
    return _encode(
        {
            "registrations": [
                {
                    "issuer": kept.issuer,
                    "redirect_uri": kept.redirect_uri,
                    **kept.client.model_dump(mode="json", exclude={"client_secret", "scope"}),
                    "client_secret": _revealed(kept.client.client_secret),
                    **{key: True for field, key in _REGISTRATION_KEYS.items() if getattr(kept, field)},
                    **({"registered_at": _milliseconds(kept.registered_at)} if kept.registered_at else {}),
                    **({"scope": kept.scope} if kept.scope else {}),
                    **({"registered_scope": kept.registered_scope} if kept.registered_scope else {}),
                }
                for kept in registrations
            ]
        }
    )


def decode_registrations(content: bytes, path: Path) -> tuple[Registration, ...]:
    """Read kept registrations. Raises StoreDamaged."""
    document = _decode(content, path)
    try:
        return tuple(
            Registration.model_validate(
                {
                    **entry,
                    **{field: entry.get(key, False) for field, key in _REGISTRATION_KEYS.items()},
                    "client": {**entry, "scope": None},
                    "registered_at": lifetime.from_milliseconds(entry.get("registered_at")),
                }
            )
            for entry in document["registrations"]
        )
    except (TypeError, KeyError, AttributeError, ValidationError):
        raise _damaged(path, "it holds no client registrations") from None


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def _decode(content: bytes, path: Path) -> Any:
    try:
        return parse_json(content)
    except ValueError:
        raise _damaged(path, "it is empty" if not content.strip() else "it is not JSON") from None


def _damaged(path: Path, reason: str) -> StoreDamaged:
    hint = "Nothing was changed. Move it away and sign in again, or set NOTION_OAUTH_TOKEN_FILE to another path."
    return StoreDamaged(f"{path} is damaged or not a file of ours: {reason}.", hint=hint)


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
