"""Pending sign-ins, encrypted into the session.

The session cookie is signed, so nobody can change it, but anybody who holds it can read it. A code verifier must
not be read (RFC 7636 §7.1), so each pending sign-in is encrypted. Any worker, and one that was started later, can
finish what another began. What each keeps is which sign-ins it has finished: a copy of an old cookie begins none of
those again. That another worker does not know so much is left to the server, which takes a code once (RFC 6749 §4.1.2).
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
from notion_oauth.web.sessions.state import KEY_PREFIX, Session

MAX_SEALED = 2600  # characters for all pending sign-ins; a cookie grows by a third, and at 4096 browsers drop it
MAX_FINISHED = 4096  # sign-ins that are remembered as finished; those of the last ten minutes count
_PENDING = f"{KEY_PREFIX}pending"


class PendingAuthorizations:
    """The pending sign-ins of one browser: several at once, ten minutes, and each of them once."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._fernet = MultiFernet([_sealing(key) for key in keys])
        self._finished: OrderedDict[str, None] = OrderedDict()

    def remember(self, session: Session, pending: PendingAuthorization, profile: str) -> None:
        """Seal it into the session, with the profile that it is for.

        The oldest give way where the cookie would grow too large for a browser.
        Raises MetadataError where this one alone is too large.
        """
        sealed = self._seal(pending, profile)
        if len(sealed) > MAX_SEALED:
            raise MetadataError(f"What {pending.issuer} says of itself is too long for a cookie.")
        kept = {**session.get(_PENDING, {}), _name(pending.state): sealed}
        while sum(map(len, kept.values())) > MAX_SEALED:
            del kept[next(iter(kept))]
        session[_PENDING] = kept

    def take(self, session: Session, state: SecretStr | None) -> tuple[PendingAuthorization, str]:
        """Remove and return the sign-in that was begun with this state, and the profile that it is for.

        Raises StateMismatch where this browser began none, or it is over. Its age is left to whoever completes it.
        """
        kept = dict(session.get(_PENDING, {}))
        name = _name(state) if state is not None else ""
        sealed = kept.pop(name, None)
        if sealed is None or state is None or name in self._finished:
            raise StateMismatch("This browser began no such sign-in, or has finished it already.")
        session[_PENDING] = kept
        try:
            content = self._fernet.decrypt(sealed)
        except InvalidToken:
            raise StateMismatch("This sign-in was begun with another session key.") from None
        self._finished[name] = None
        if len(self._finished) > MAX_FINISHED:
            self._finished.popitem(last=False)
        fields = json.loads(zlib.decompress(content))
        profile: str = fields.pop("profile")
        return PendingAuthorization.model_validate({**fields, "state": state}), profile

    def _seal(self, pending: PendingAuthorization, profile: str) -> str:
        fields = pending.model_dump(mode="json", exclude_defaults=True, exclude={"state"})
        fields["profile"] = profile
        fields["code_verifier"] = pending.code_verifier.get_secret_value()
        if pending.client.client_secret is not None:
            fields["client"]["client_secret"] = pending.client.client_secret.get_secret_value()
        content = json.dumps(fields, separators=(",", ":")).encode()
        return self._fernet.encrypt(zlib.compress(content)).decode()


def _sealing(key: SecretStr) -> Fernet:
    derived = HKDF(SHA256(), 32, salt=None, info=b"notion-oauth pending authorization")
    return Fernet(urlsafe_b64encode(derived.derive(key.get_secret_value().encode())))


def _name(state: SecretStr) -> str:
    """What a pending sign-in is found by: 128 bits of a hash, which no other state shares."""
    return hashlib.sha256(state.get_secret_value().encode(errors="surrogatepass")).hexdigest()[:32]
