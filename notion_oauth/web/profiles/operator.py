"""The operator's secret: whoever knows it has the service's one login, for one browser session."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

from fastapi import Request
from pydantic import SecretStr

from notion_oauth.errors import OperatorRequired, RequestForbidden
from notion_oauth.service import NotionOAuth
from notion_oauth.web.sessions.keys import session_keys
from notion_oauth.web.sessions.state import KEY_PREFIX, Session, clear_session, session_of

GOOD_FOR = timedelta(hours=8)  # after the secret was given, however often the session is used
_SINCE = f"{KEY_PREFIX}operator_since"
_PROOF = f"{KEY_PREFIX}operator_proof"


class OperatorAccess:
    """Lets the operator through. What a session then holds proves it: a MAC over the secret and the time.

    Another secret, or another session key, ends all such sessions.
    """

    def __init__(self, secret: SecretStr, oauth: NotionOAuth) -> None:
        self._secret = secret.get_secret_value().encode()
        self._keys = [key.get_secret_value().encode() for key in session_keys(oauth.settings)]
        self._profile = oauth.profile
        self._audit = oauth.audit
        self._clock = oauth.clock

    def profile(self, request: Request) -> str:
        """The service's one profile, for its operator. Raises OperatorRequired for anybody else."""
        if not self._is_unlocked(session_of(request)):
            raise OperatorRequired("This service is for its operator.")
        return self._profile

    def unlock(self, browser: Session, sent: str, *, client: str) -> None:
        """Begin the operator's session, a new one. Raises RequestForbidden for another secret than the operator's.

        The audit log tells of both, and of the address that the `client` has.
        """
        with self._audit.attempt("operator_unlock", client=client) as attempt:
            if not hmac.compare_digest(sent.encode(), self._secret):
                raise RequestForbidden("That is not the operator's secret.", hint="Try again.")
            since = int(self._clock().timestamp())
            clear_session(browser)
            browser[_SINCE], browser[_PROOF] = since, self._proof(self._keys[0], since)
            attempt.succeeded()

    def lock(self, browser: Session, *, client: str) -> None:
        """End the operator's session in this browser. The login stays as it is."""
        if self._is_unlocked(browser):
            self._audit.succeeded("operator_lock", client=client)
        clear_session(browser)

    def _is_unlocked(self, browser: Session) -> bool:
        since, proof = browser.get(_SINCE), browser.get(_PROOF)
        if not isinstance(since, int) or not isinstance(proof, str):
            return False
        if not timedelta() <= self._clock() - datetime.fromtimestamp(since, UTC) < GOOD_FOR:
            return False
        return any(hmac.compare_digest(proof, self._proof(key, since)) for key in self._keys)

    def _proof(self, key: bytes, since: int) -> str:
        return hmac.new(key, b"notion-oauth operator %d " % since + self._secret, hashlib.sha256).hexdigest()
