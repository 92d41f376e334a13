"""Pending sign-ins, encrypted in the session.

The session cookie is signed, so that it cannot be changed, but its holder can read it. A code verifier must stay
secret (RFC 7636 §7.1), so each pending sign-in is encrypted. Any worker, also one that started later, can complete a
sign-in that another one started. Each worker remembers the sign-ins that it has completed, and refuses to complete
them again from a copy of an old cookie. Across workers the server prevents that: it accepts a code once
(RFC 6749 §4.1.2).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from notion_oauth.errors import MetadataError, StateMismatch
from notion_oauth.models import PendingAuthorization
from notion_oauth.web.sessions.values import KEY_PREFIX, Session

MAX_ENCRYPTED = 2600  # characters of all pending sign-ins; the cookie is a third larger, and browsers drop it at 4096
MAX_COMPLETED = 4096  # sign-ins that are remembered as completed; only those of the last ten minutes matter
_PENDING = f"{KEY_PREFIX}pending"


class PendingAuthorizations:
    """The pending sign-ins of a browser: several at a time, each valid for ten minutes and only once."""

    def __init__(self, keys: Sequence[SecretStr], *, max_completed: int = MAX_COMPLETED) -> None:
        self._fernet = MultiFernet([_fernet(key) for key in keys])
        self._max_completed = max_completed
        self._completed: OrderedDict[str, None] = OrderedDict()

    def save(self, session: Session, pending: PendingAuthorization, profile: str) -> None:
        """Encrypt a sign-in and its profile into the session.

        The oldest ones are removed if the cookie would be too large for browsers.
        Raises MetadataError if this one alone is too large.
        """
        encrypted = self._encrypt(pending, profile)
        if len(encrypted) > MAX_ENCRYPTED:
            raise MetadataError(f"The metadata of {pending.issuer} is too long for a cookie.")
        stored = {**session.get(_PENDING, {}), _name(pending.state): encrypted}
        while sum(map(len, stored.values())) > MAX_ENCRYPTED:
            del stored[next(iter(stored))]
        session[_PENDING] = stored

    def pop(self, session: Session, state: SecretStr | None) -> tuple[PendingAuthorization, str]:
        """Remove and return the sign-in that was started with this state, and its profile.

        Raises StateMismatch if this browser has not started it, or has completed it. The caller checks its age.
        """
        stored = dict(session.get(_PENDING, {}))
        name = _name(state) if state is not None else ""
        encrypted = stored.pop(name, None)
        if encrypted is None or state is None or name in self._completed:
            raise StateMismatch("This browser has not started this sign-in, or has completed it already.")
        session[_PENDING] = stored
        try:
            content = self._fernet.decrypt(encrypted)
        except InvalidToken:
            raise StateMismatch("This sign-in was started with another session key.") from None
        self._completed[name] = None
        if len(self._completed) > self._max_completed:
            self._completed.popitem(last=False)
        fields = json.loads(zlib.decompress(content))
        profile: str = fields.pop("profile")
        return PendingAuthorization.model_validate({**fields, "state": state}), profile

    def _encrypt(self, pending: PendingAuthorization, profile: str) -> str:
        fields = pending.model_dump(mode="json", exclude_defaults=True, exclude={"state"})
        fields["profile"] = profile
        fields["code_verifier"] = pending.code_verifier.get_secret_value()
        if pending.client.client_secret is not None:
            fields["client"]["client_secret"] = pending.client.client_secret.get_secret_value()
        content = json.dumps(fields, separators=(",", ":")).encode()
        return self._fernet.encrypt(zlib.compress(content)).decode()


def _fernet(key: SecretStr) -> Fernet:
    derived = HKDF(SHA256(), 32, salt=None, info=b"notion-oauth pending authorization")
    return Fernet(urlsafe_b64encode(derived.derive(key.get_secret_value().encode())))


def _name(state: SecretStr) -> str:
    """Return the key of a pending sign-in in the session: 128 bits of a hash, so that names cannot collide."""
    return hashlib.sha256(state.get_secret_value().encode(errors="surrogatepass")).hexdigest()[:32]
