"""The sessions of HTTP clients. Their ids hold what another process needs to continue them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

from pydantic import SecretStr

from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.gateway import Gateway
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.server_session import ServerSession
from notion_oauth.gateway.session import Session

MAX_SESSIONS = 1000  # in memory; others are continued from their id
MAX_STATE = 64 * 1024  # bytes that an id is expanded to
MAX_ID = 3 * 1024  # bytes
_MAC = 16  # bytes


class HttpSessions:
    """Sessions by their id, which is valid for one profile. `keys` authenticate ids; the first makes new ones."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._keys = [key.get_secret_value().encode() for key in keys]
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def add(self, profile: str, session: Session) -> str:
        """Return the id of a session that has just begun."""
        initialize = {} if session.server.initialize is None else session.server.initialize.document
        # With nobody signed in, clients of one kind begin alike: only the last value makes their ids different
        state = [initialize, session.server.upstream_id, session.server.revision, secrets.token_hex(8)]
        written = json.dumps(state).encode()
        packed = zlib.compress(written)
        content = _mac(self._keys[0], profile, packed) + packed
        if len(content) > MAX_ID or len(written) > MAX_STATE:
            content = secrets.token_bytes(_MAC)  # some clients limit headers: this session ends with the process
        identifier = base64.urlsafe_b64encode(content).decode().rstrip("=")
        self._keep(profile, identifier, session)
        return identifier

    def find(self, profile: str, identifier: str, gateway: Callable[[], Gateway]) -> Session | None:
        """Return the session of this profile with this id; None if there is none, or it was ended here."""
        session = self._sessions.get(f"{profile} {identifier}")
        if session is None and f"{profile} {identifier}" not in self._ended:
            session = self._continued(profile, identifier, gateway)
        if session is not None:
            self._keep(profile, identifier, session)
        return session

    def remove(self, profile: str, identifier: str) -> None:
        """Forget a session that the client has ended."""
        self._sessions.pop(f"{profile} {identifier}", None)
        self._ended[f"{profile} {identifier}"] = None
        if len(self._ended) > MAX_SESSIONS:
            self._ended.popitem(last=False)

    def _keep(self, profile: str, identifier: str, session: Session) -> None:
        key = f"{profile} {identifier}"
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _continued(self, profile: str, identifier: str, gateway: Callable[[], Gateway]) -> Session | None:
        try:
            content = base64.urlsafe_b64decode(identifier + "=" * (-len(identifier) % 4))
        except (ValueError, binascii.Error):
            return None
        mac, packed = content[:_MAC], content[_MAC:]
        if not any(hmac.compare_digest(mac, _mac(key, profile, packed)) for key in self._keys):
            return None
        initialize, upstream_id, revision, _ = json.loads(zlib.decompressobj().decompress(packed, MAX_STATE))
        message = Message(jsonrpc.dumps(initialize), initialize)
        found = gateway()
        return Session(found, ServerSession(found, initialize=message, upstream_id=upstream_id, revision=revision))


def _mac(key: bytes, profile: str, packed: bytes) -> bytes:
    return hmac.new(key, f"notion-oauth mcp session {profile}\n".encode() + packed, hashlib.sha256).digest()[:_MAC]
