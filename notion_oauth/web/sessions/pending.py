"""Pending sign-ins, each in an encrypted cookie of its own, and the sign-ins that this browser has completed.

A code verifier must stay secret (RFC 7636 §7.1), so each pending sign-in is encrypted. Any worker, also one that
started later, can complete a sign-in that another one started. Once its code was sent, a small cookie replaces that of
the pending sign-in for ten minutes: it lets the same browser repeat its redirect, and names the login.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.fernet import InvalidToken
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from notion_oauth.errors import MetadataError, StateMismatch
from notion_oauth.models import PENDING_LIFETIME, AuthorizationResponse, PendingAuthorization
from notion_oauth.web.sessions import encryption, values
from notion_oauth.web.sessions.browser_cookies import HOST_ONLY, BrowserCookies

MAX_PENDING = 8
MAX_TOGETHER = 6 * 1024  # bytes in the Cookie header: web servers refuse one of more than 8 KiB
OVERHEAD = len(f"{HOST_ONLY}=; ")  # bytes for each cookie
MAX_ENCRYPTED = 2600  # characters of one pending sign-in; browsers drop a cookie at 4096
LIFETIME = int(PENDING_LIFETIME.total_seconds())
_PENDING = "notion_oauth_pending_"
_COMPLETED = "notion_oauth_completed_"
_TIME = slice(1, 9)  # of a Fernet token, decoded: when it was made


@dataclass(frozen=True)
class CompletedSignIn:
    """A sign-in of the last ten minutes: its profile, or None if it has failed after its code was sent.

    `signed_in_at` is in milliseconds since 1970.
    """

    profile: str | None
    signed_in_at: int


class SignInCookies:
    """The pending sign-ins of a browser: several at a time, each valid for ten minutes and for one code."""

    def __init__(self, keys: Sequence[SecretStr], cookies: BrowserCookies) -> None:
        self._pending = encryption.cookie_encryption(keys, encryption.PENDING)
        self._completed = encryption.cookie_encryption(keys, encryption.COMPLETED)
        self._cookies = cookies

    def save(self, request: HTTPConnection, pending: PendingAuthorization, profile: str) -> None:
        """Set the cookie of a sign-in and its profile.

        The oldest ones are deleted if there are too many, or together they are too large.
        Raises MetadataError if this one alone is too large.
        """
        encrypted = self._encrypt(pending, profile)
        if len(encrypted) > MAX_ENCRYPTED:
            raise MetadataError(f"The metadata of {pending.issuer} is too long for a cookie.")
        self._cookies.set(request, _PENDING + _name(pending.state), encrypted, max_age=LIFETIME)
        self._delete_oldest(request, {_PENDING + _name(pending.state)})

    def find(self, request: HTTPConnection, state: SecretStr | None) -> tuple[PendingAuthorization, str]:
        """Return the sign-in that was started with this state, and its profile.

        Raises StateMismatch if this browser has not started it, or it has ended. The caller checks its age.
        """
        name = _name(state) if state is not None else ""
        encrypted = self._cookies.get(request, _PENDING + name) or _of_old_session(request, name)
        if encrypted is None or state is None:
            raise StateMismatch("This browser has not started this sign-in, or it has ended.")
        try:
            content = self._pending.decrypt(encrypted)
        except InvalidToken:
            raise StateMismatch("This sign-in was started with another session key.") from None
        fields = json.loads(zlib.decompress(content))
        profile: str = fields.pop("profile")
        return PendingAuthorization.model_validate({**fields, "state": state}), profile

    def delete(self, request: HTTPConnection, state: SecretStr | None) -> None:
        """Delete the cookie of a sign-in that has ended."""
        if state is not None:
            self._cookies.delete(request, _PENDING + _name(state))
            values.remove_old_pending(values.session_of(request), _name(state))

    def complete(self, request: HTTPConnection, response: AuthorizationResponse, completed: CompletedSignIn) -> None:
        """Replace the cookie of a sign-in whose code was sent."""
        if response.state is None:
            return
        self.delete(request, response.state)
        fields = {"response": _fingerprint(response), "profile": completed.profile, "at": completed.signed_in_at}
        encrypted = self._completed.encrypt(json.dumps(fields, separators=(",", ":")).encode()).decode()
        name = _COMPLETED + _name(response.state)
        self._cookies.set(request, name, encrypted, max_age=LIFETIME)
        self._delete_oldest(request, {name})

    def find_completed(self, request: HTTPConnection, response: AuthorizationResponse) -> CompletedSignIn | None:
        """Return the sign-in if this browser has completed it; None if it has not.

        Raises StateMismatch if it was completed with another code.
        """
        name = "" if response.state is None else _name(response.state)
        encrypted = self._cookies.get(request, _COMPLETED + name)
        fields = None if encrypted is None else self._decrypt_completed(encrypted)
        if fields is None:
            return None
        if fields["response"] != _fingerprint(response):
            raise StateMismatch("This browser has completed this sign-in already.")
        return CompletedSignIn(fields["profile"], fields["at"])

    def all_completed(self, request: HTTPConnection) -> Iterator[CompletedSignIn]:
        """The sign-ins that this browser has completed in the last ten minutes, and not ended by a sign-out."""
        for encrypted in self._cookies.starting_with(request, _COMPLETED).values():
            if (fields := self._decrypt_completed(encrypted)) is not None:
                yield CompletedSignIn(fields["profile"], fields["at"])

    def forget_completed(self, request: HTTPConnection) -> None:
        """Delete the cookies of completed sign-ins: after a sign-out, a repeated redirect signs nobody in."""
        for name in self._cookies.starting_with(request, _COMPLETED):
            self._cookies.delete(request, name)

    def forget_all(self, request: HTTPConnection) -> None:
        self.forget_completed(request)
        for name in self._cookies.starting_with(request, _PENDING):
            self._cookies.delete(request, name)

    def _decrypt_completed(self, encrypted: str) -> dict[str, Any] | None:
        try:
            fields: dict[str, Any] = json.loads(self._completed.decrypt(encrypted, ttl=LIFETIME))
        except InvalidToken:
            return None
        return fields

    def _delete_oldest(self, request: HTTPConnection, new: set[str]) -> None:
        """Completed sign-ins go first: the browser has their session."""
        pending, completed = (self._by_age(request, prefix) for prefix in (_PENDING, _COMPLETED))
        found = completed | pending
        sizes = {name: OVERHEAD + len(name) + len(value) for name, value in found.items()}
        size = sum(sizes.values())
        number = len(pending)
        for name in [*completed, *pending]:
            if name not in new and (size > MAX_TOGETHER or (name in pending and number > MAX_PENDING)):
                self._cookies.delete(request, name)
                size -= sizes[name]
                number -= name in pending

    def _by_age(self, request: HTTPConnection, prefix: str) -> dict[str, str]:
        found = self._cookies.starting_with(request, prefix)
        return dict(sorted(found.items(), key=lambda cookie: _made_at(cookie[1])))

    def _encrypt(self, pending: PendingAuthorization, profile: str) -> str:
        fields = pending.model_dump(mode="json", exclude_defaults=True, exclude={"state"})
        fields["profile"] = profile
        fields["code_verifier"] = pending.code_verifier.get_secret_value()
        if pending.client.client_secret is not None:
            fields["client"]["client_secret"] = pending.client.client_secret.get_secret_value()
        content = json.dumps(fields, separators=(",", ":")).encode()
        return self._pending.encrypt(zlib.compress(content)).decode()


def _of_old_session(request: HTTPConnection, name: str) -> str | None:
    """A sign-in that an earlier version has stored in the session."""
    return values.old_pending(values.session_of(request), name)


def _made_at(encrypted: str) -> bytes:
    """When a cookie was made, also if another key has encrypted it. Not authentic: of use to sort cookies."""
    try:
        return urlsafe_b64decode(encrypted[:12])[_TIME]
    except ValueError:
        return b""


def _name(state: SecretStr) -> str:
    """Return the end of a cookie's name: 128 bits of a hash, so that names cannot collide."""
    return hashlib.sha256(state.get_secret_value().encode(errors="surrogatepass")).hexdigest()[:32]


def _fingerprint(response: AuthorizationResponse) -> str:
    code = "" if response.code is None else response.code.get_secret_value()
    return hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()[:32]
