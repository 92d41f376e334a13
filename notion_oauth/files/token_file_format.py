"""The format of the token file: seven fields that other programs also use, and additional fields.

`files/documents.py` reads and writes the file.

The seven are `access_token`, `token_type`, `expires_in`, `refresh_token`, `client_id`, `client_secret` and
`updated_at`; a file with only these can be read. The additional fields save requests to the server. All times are
milliseconds since 1970. When the server has ended a login, the file records that instead of the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from pydantic import SecretStr, ValidationError

from notion_oauth.errors import StoreDamaged, WarningWithHint, escape
from notion_oauth.files import atomic
from notion_oauth.files.encryption import Encryption, Key, decrypt, encryption_key_id, encryption_weakness
from notion_oauth.models import (
    AuthMethod,
    ClientInformation,
    EndedLogin,
    Identity,
    Registration,
    TokenSet,
    bare_token,
    scope_text,
)
from notion_oauth.protocol import lifetime
from notion_oauth.protocol.messages import is_sendable, parse_json, safe_name
from notion_oauth.protocol.urls import url_problem

T = TypeVar("T")


@dataclass(frozen=True)
class StoredFile(Generic[T]):
    """The decoded content of a file, the key that decrypts it, and the weakness of its encryption."""

    content: T
    key: Key | None
    weakness: WarningWithHint | None


def read_stored(
    path: Path,
    decode: Callable[[bytes, str], T],
    encryption: Encryption | None,
    *,
    bound_to: str,
    fix: bool = True,
) -> StoredFile[T] | None:
    """Read, decrypt and decode a file; None if it does not exist.

    Raises as `atomic.read_file` and `encryption.decrypt` do.
    """

    decoded = partial(decode_stored, str(path), decode, encryption, bound_to)
    return atomic.read_file(path, decoded, fix=fix)


def decode_stored(
    name: str, decode: Callable[[bytes, str], T], encryption: Encryption | None, bound_to: str, content: bytes
) -> StoredFile[T]:
    """Decrypt and decode the content of a file, or of what has this name in another store."""
    key_id = encryption_key_id(content)
    key = None if key_id is None or encryption is None else encryption.key(key_id)
    decoded = decode(decrypt(content, name, encryption, bound_to=bound_to), name)
    return StoredFile(decoded, key, encryption_weakness(content, encryption, Path(name).name))


def encode_tokens(tokens: TokenSet) -> bytes:
    """Return the content of the token file: indented JSON, so that people can read it."""
    client = tokens.client
    document = {
        "access_token": tokens.access_token.get_secret_value(),
        "token_type": tokens.token_type,
        "expires_in": tokens.expires_in,
        "refresh_token": _secret_value(tokens.refresh_token),
        "client_id": client.client_id if client else None,
        "client_secret": _secret_value(client.client_secret) if client else None,
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
        **{name: getattr(tokens, name) for name in _AUTH_METHOD_FIELDS},
        "client_secret_expires_at": client.client_secret_expires_at if client else 0,
    }
    document |= {name: value for name, value in tokens.identity().items() if value is not None}
    if tokens.compat:
        document["compat"] = list(tokens.compat)
    if tokens.previous_refresh_token is not None:
        document["previous_refresh_token"] = _secret_value(tokens.previous_refresh_token)
    return _to_json(document)


def encode_ended_login(ended: EndedLogin) -> bytes:
    """Return the content of the token file after the server has ended the login."""
    times = {name: _milliseconds(getattr(ended, name)) for name in _ENDED_LOGIN_TIMES}
    return _to_json({**ended.model_dump(mode="json"), **times})


_ENDED_LOGIN_TIMES = ("ended_at", "authorized_at", "refreshed_at")


def decode_login(content: bytes, path: str) -> TokenSet | EndedLogin:
    """Decode a token file. Raises StoreDamaged if it is not one; the message contains nothing of the file."""
    document = _from_json(content, path)
    if isinstance(document, dict) and "ended_at" in document and "access_token" not in document:
        times = {name: lifetime.parse_time(document.get(name)) for name in _ENDED_LOGIN_TIMES}
        try:
            return EndedLogin.model_validate({**_escaped(document, *EndedLogin.model_fields), **times})
        except ValidationError:
            raise _damaged(path, "it records an ended login without the time or the reason") from None
    access_token = bare_token(document.get("access_token")) if isinstance(document, dict) else None
    if not isinstance(access_token, str) or not access_token:
        raise _damaged(path, "it has no access_token")
    if not is_sendable(access_token):
        raise _damaged(path, "its access_token contains a character that no token has")
    texts = {name: _stripped(document.get(name)) for name in _TOKEN_FIELDS}
    if broken := [name for name, value in texts.items() if isinstance(value, str) and not value.isprintable()]:
        raise _damaged(path, f"its {broken[0]} contains a character that no token has")
    document |= {name: scope_text(document.get(name)) for name in ("scope", "requested_scope")}
    document = _escaped(document, "token_type", "scope", "requested_scope", "issuer", "resource")
    expires_in = lifetime.parse_lifetime(document.get("expires_in"))
    updated_at = lifetime.parse_time(document.get("updated_at"))
    expires_at = lifetime.parse_time(document.get("expires_at"))
    if updated_at is None:
        updated_at = datetime.fromtimestamp(0, UTC)
        expires_in = None  # a lifetime is meaningless without its start
    try:
        return TokenSet(
            access_token=access_token,
            issuer=document.get("issuer"),
            resource=document.get("resource"),
            scope=document["scope"],
            requested_scope=document["requested_scope"],
            **{name: _usable_url(document.get(name)) for name in _ENDPOINT_FIELDS},
            **{name: document.get(name) for name in _AUTH_METHOD_FIELDS},
            token_type=document.get("token_type") or "Bearer",
            expires_in=expires_in,
            expires_at=expires_at or lifetime.expires_at(expires_in, requested_at=updated_at),
            refresh_token=texts["refresh_token"] or None,
            previous_refresh_token=texts["previous_refresh_token"] or None,
            client=_decode_client({**document, **texts}),
            compat=document.get("compat") or (),
            token_endpoint_auth_methods_supported=document.get("token_endpoint_auth_methods_supported") or (),
            authorized_at=lifetime.parse_time(document.get("authorized_at")),
            refreshed_at=lifetime.parse_time(document.get("refreshed_at")),
            updated_at=updated_at,
            **{name: safe_name(document.get(name)) for name in Identity.model_fields},
        )
    except ValidationError as error:
        fields = ", ".join(sorted({str(detail["loc"][0]) for detail in error.errors(include_input=False)}))
        raise _damaged(path, f"these fields are invalid: {fields}") from None


def _escaped(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the document with control characters escaped in these texts: somebody else may have written the file."""
    return {
        name: escape(value) if name in names and isinstance(value, str) else value for name, value in document.items()
    }


_TOKEN_FIELDS = ("refresh_token", "previous_refresh_token", "client_id", "client_secret")
_ENDPOINT_FIELDS = ("token_endpoint", "revocation_endpoint", "introspection_endpoint")
_AUTH_METHOD_FIELDS = (
    *("revocation_endpoint_auth_methods_supported", "introspection_endpoint_auth_methods_supported"),
)
_CLIENT_FIELDS = ("client_id", "client_secret", "client_secret_expires_at", "token_endpoint_auth_method")


def _decode_client(document: dict[str, Any]) -> ClientInformation | None:
    if not document.get("client_id"):
        return None
    client = {name: document.get(name) for name in _CLIENT_FIELDS}
    if client["token_endpoint_auth_method"] not in get_args(AuthMethod):
        client["token_endpoint_auth_method"] = None
    end = lifetime.parse_time(client["client_secret_expires_at"])
    client["client_secret_expires_at"] = int(end.timestamp()) if end else 0
    return ClientInformation.model_validate(client)


def _stripped(value: object) -> object:
    """Return text without white space around it, which an editor or a shell may have added."""
    return value.strip() if isinstance(value, str) else value


def _usable_url(value: object) -> str | None:
    return value if isinstance(value, str) and url_problem(value) is None else None


# Flags of a Registration, and their keys in the file, of which those of version 0.1 stay
_REGISTRATION_KEYS = {
    "preregistered": "by_hand",
    "claimed": "taken",
    "extended_scope": "wide",
    "replacement": "replacement",
}


def encode_registrations(registrations: tuple[Registration, ...]) -> bytes:
    """Return the content of the file of client registrations."""
    return _to_json(
        {
            "registrations": [
                {
                    "issuer": each.issuer,
                    "redirect_uri": each.redirect_uri,
                    **each.client.model_dump(mode="json", exclude={"client_secret", "scope"}),
                    "client_secret": _secret_value(each.client.client_secret),
                    **{key: True for field, key in _REGISTRATION_KEYS.items() if getattr(each, field)},
                    **({"registered_at": _milliseconds(each.registered_at)} if each.registered_at else {}),
                    **({"scope": each.scope} if each.scope else {}),
                    **({"registered_scope": each.registered_scope} if each.registered_scope else {}),
                }
                for each in registrations
            ]
        }
    )


def decode_registrations(content: bytes, path: str) -> tuple[Registration, ...]:
    """Decode client registrations. Raises StoreDamaged."""
    document = _from_json(content, path)
    try:
        return tuple(
            Registration.model_validate(
                {
                    **_escaped(entry, *Registration.model_fields),
                    **{field: entry.get(key, False) for field, key in _REGISTRATION_KEYS.items()},
                    "client": {**entry, "scope": None},
                    "registered_at": lifetime.parse_time(entry.get("registered_at")),
                }
            )
            for entry in document["registrations"]
        )
    except (TypeError, KeyError, AttributeError, ValidationError):
        raise _damaged(path, "it contains no client registrations") from None


def _to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def _from_json(content: bytes, path: str) -> Any:
    try:
        return parse_json(content)
    except ValueError:
        raise _damaged(path, "it is empty" if not content.strip() else "it is not JSON") from None


def _damaged(path: str, reason: str) -> StoreDamaged:
    hint = "Nothing was changed. Move the file away and sign in again, or set NOTION_OAUTH_TOKEN_FILE to another path."
    return StoreDamaged(f"{path} is damaged or not a file of notion-oauth: {reason}.", hint=hint)


def _secret_value(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _milliseconds(time: datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * 1000)
