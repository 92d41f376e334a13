"""What the session cookie carries: pending sign-ins, sealed, and the token that proves a form is ours.

The cookie is signed, so nobody can change it, but anybody who holds it can read it. A code verifier must
not be read (RFC 7636 §7.1), so each pending sign-in is encrypted. No worker keeps anything: any of them, and
one that was started later, can finish what another began.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import zlib
from base64 import urlsafe_b64encode
from collections.abc import MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from notion_oauth import files
from notion_oauth.errors import MetadataError, StateMismatch, StoreDamaged
from notion_oauth.models import PendingAuthorization
from notion_oauth.settings import MIN_SECRET_KEY, Settings

Session = MutableMapping[str, Any]

MAX_SEALED = 2600  # characters for all pending sign-ins; a cookie grows by a third, and at 4096 browsers drop it
_PENDING = "pending"
_CSRF = "csrf"
_NOTICE = "notice"


def session_key(settings: Settings) -> SecretStr:
    """The key that signs and seals sessions: `NOTION_OAUTH_SECRET_KEY`, else one made once and kept beside the tokens.

    Raises StorageError where it can be neither read nor made.
    """
    if settings.secret_key is not None:
        return settings.secret_key
    path = settings.token_file.with_name(f"{settings.token_file.name}.session-key")
    decode = partial(_decode_key, path)
    key = files.read_file(path, decode)
    if key is None:
        files.create_file(path, secrets.token_hex(32).encode() + b"\n")
        key = files.read_file(path, decode)  # another worker's, where that one was faster
    return key or _decode_key(path, b"")


def _decode_key(path: Path, content: bytes) -> SecretStr:
    key = content.decode(errors="replace").strip()
    if len(key) < MIN_SECRET_KEY:
        raise StoreDamaged(f"{path} holds no session key.", cure="Delete it: a new one is made at the next start.")
    return SecretStr(key)


class PendingAuthorizations:
    """The pending sign-ins of one browser: several at once, ten minutes, and each of them once."""

    def __init__(self, key: SecretStr) -> None:
        derived = HKDF(SHA256(), 32, salt=None, info=b"notion-oauth pending authorization")
        self._fernet = Fernet(urlsafe_b64encode(derived.derive(key.get_secret_value().encode())))

    def remember(self, session: Session, pending: PendingAuthorization) -> None:
        """Seal it into the session. The oldest give way where the cookie would grow too large for a browser.

        Raises MetadataError where this one alone is too large.
        """
        sealed = self._seal(pending)
        if len(sealed) > MAX_SEALED:
            raise MetadataError(f"What {pending.issuer} says of itself is too long for a cookie.")
        kept = {**session.get(_PENDING, {}), _name(pending.state): sealed}
        while sum(map(len, kept.values())) > MAX_SEALED:
            del kept[next(iter(kept))]
        session[_PENDING] = kept

    def take(self, session: Session, state: SecretStr | None) -> PendingAuthorization:
        """Remove and return the sign-in that was begun with this state.

        Raises StateMismatch where this browser began none, or it is over. Its age is left to whoever completes it.
        """
        kept = dict(session.get(_PENDING, {}))
        sealed = kept.pop(_name(state), None) if state is not None else None
        if sealed is None:
            raise StateMismatch("This browser began no such sign-in, or has finished it already.")
        session[_PENDING] = kept
        try:
            content = self._fernet.decrypt(sealed)
        except InvalidToken:
            raise StateMismatch("This sign-in was begun with another session key.") from None
        fields = json.loads(zlib.decompress(content))
        return PendingAuthorization.model_validate({**fields, "state": state})

    def _seal(self, pending: PendingAuthorization) -> str:
        fields = pending.model_dump(mode="json", exclude_defaults=True, exclude={"state"})
        fields["code_verifier"] = pending.code_verifier.get_secret_value()
        if pending.client.client_secret is not None:
            fields["client"]["client_secret"] = pending.client.client_secret.get_secret_value()
        content = json.dumps(fields, separators=(",", ":")).encode()
        return self._fernet.encrypt(zlib.compress(content)).decode()


def _name(state: SecretStr) -> str:
    """What a pending sign-in is found by: 128 bits of a hash, which no other state shares."""
    return hashlib.sha256(state.get_secret_value().encode(errors="surrogatepass")).hexdigest()[:32]


def csrf_token(session: Session) -> str:
    """This browser's proof that a form came from our own page; made on first use."""
    if not isinstance(session.get(_CSRF), str):
        session[_CSRF] = secrets.token_urlsafe(32)
    token: str = session[_CSRF]
    return token


def csrf_valid(session: Session, sent: str | None) -> bool:
    """Whether it was this browser's own page that sent the form."""
    expected = session.get(_CSRF)
    return isinstance(expected, str) and sent is not None and hmac.compare_digest(expected.encode(), sent.encode())


def leave_notice(session: Session, notice: str) -> None:
    """Leave a word for the next page: the name of a notice, never text."""
    session[_NOTICE] = notice


def take_notice(session: Session) -> str | None:
    """The word that was left, once."""
    notice = session.pop(_NOTICE, None)
    return notice if isinstance(notice, str) else None
