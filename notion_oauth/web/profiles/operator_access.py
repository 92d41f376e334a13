"""The operator's secret: a browser session that has sent it may use the service's one login."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

from fastapi import Request
from pydantic import SecretStr

from notion_oauth.errors import OperatorRequired, WrongOperatorSecret
from notion_oauth.service import NotionOAuth
from notion_oauth.web.sessions.keys import session_keys
from notion_oauth.web.sessions.values import KEY_PREFIX, Session, clear_session, session_of

UNLOCKED_FOR = timedelta(hours=8)  # after the secret was sent; using the session does not extend it
_UNLOCKED_AT = f"{KEY_PREFIX}operator_since"  # a name in cookies that browsers hold: it stays
_PROOF = f"{KEY_PREFIX}operator_proof"


class OperatorAccess:
    """Gives the operator's browser sessions access. The proof in a session is a MAC over the secret and the time.

    A new secret, or a new session key, ends all such sessions.
    """

    def __init__(self, secret: SecretStr, oauth: NotionOAuth) -> None:
        self._secret = secret.get_secret_value().encode()
        self._keys = [key.get_secret_value().encode() for key in session_keys(oauth.settings)]
        self._audit = oauth.audit
        self._clock = oauth.clock

    def require(self, request: Request) -> None:
        """Raise OperatorRequired unless the session is the operator's."""
        if not self._is_unlocked(session_of(request)):
            raise OperatorRequired("Only the operator can use this service.")

    def unlock(self, session: Session, sent: str, *, client: str) -> None:
        """Start a new session for the operator. Raises WrongOperatorSecret if the secret is wrong.

        The audit log records both outcomes, with the address of the `client`.
        """
        with self._audit.attempt("operator_unlock", client=client) as attempt:
            if not hmac.compare_digest(sent.encode(), self._secret):
                raise WrongOperatorSecret("The operator's secret is wrong.")
            unlocked_at = int(self._clock().timestamp())
            clear_session(session)
            session[_UNLOCKED_AT], session[_PROOF] = unlocked_at, self._proof(self._keys[0], unlocked_at)
            attempt.succeeded()

    def lock(self, session: Session, *, client: str) -> None:
        """End the operator's session in this browser. The login does not change."""
        if self._is_unlocked(session):
            self._audit.succeeded("operator_lock", client=client)
        clear_session(session)

    def proof(self, session: Session) -> str:
        """Return the proof in the session, valid or not; empty if there is none."""
        return str(session.get(_PROOF, ""))

    def _is_unlocked(self, session: Session) -> bool:
        unlocked_at, proof = session.get(_UNLOCKED_AT), session.get(_PROOF)
        if not isinstance(unlocked_at, int) or not isinstance(proof, str):
            return False
        if not timedelta() <= self._clock() - datetime.fromtimestamp(unlocked_at, UTC) < UNLOCKED_FOR:
            return False
        return any(hmac.compare_digest(proof, self._proof(key, unlocked_at)) for key in self._keys)

    def _proof(self, key: bytes, unlocked_at: int) -> str:
        message = b"notion-oauth operator %d " % unlocked_at + self._secret
        return hmac.new(key, message, hashlib.sha256).hexdigest()
