"""What the session cookie carries: pending sign-ins, sealed, and the token that proves a form is ours.

The cookie is signed, so nobody can change it, but anybody who holds it can read it. A code verifier must
not be read (RFC 7636 §7.1), so each pending sign-in is encrypted. Any worker, and one that was started later, can
finish what another began. What each keeps is which sign-ins it has finished: a copy of an old cookie begins none of
those again. That another worker does not know so much is left to the server, which takes a code once (RFC 6749 §4.1.2).
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import json
import secrets
import zlib
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from itsdangerous import TimestampSigner
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from notion_oauth import files, places
from notion_oauth.errors import ConfigurationError, MetadataError, StateMismatch, StoreDamaged
from notion_oauth.models import PendingAuthorization
from notion_oauth.settings import MIN_SECRET_KEY, Settings

Session = MutableMapping[str, Any]

MAX_SEALED = 2600  # characters for all pending sign-ins; a cookie grows by a third, and at 4096 browsers drop it
MAX_FINISHED = 4096  # sign-ins that are remembered as finished; those of the last ten minutes count
COOKIE = "notion_oauth_session"
HOST_ONLY = "__Host-"  # such a cookie no other host and no plain http can set (RFC 6265bis §4.1.3.2)
OURS = "notion_oauth."  # begins our keys in a session: it may be that of an application with keys of its own
_PENDING = f"{OURS}pending"
_CSRF = f"{OURS}csrf"
_NOTICE = f"{OURS}notice"
_PROFILE = f"{OURS}profile"
_SEEN = f"{OURS}seen"


def session_of(request: HTTPConnection) -> Session:
    """The session of a browser. Raises ConfigurationError where the application has none."""
    if "session" not in request.scope:
        raise ConfigurationError(
            "The sign-in needs sessions, and this application has none.",
            cure="Add starlette.middleware.sessions.SessionMiddleware to it, or use notion_oauth.app.create_app().",
        )
    return request.session


class Sessions(SessionMiddleware):
    """Starlette's sessions in a signed cookie, with keys that can be rotated: the first signs, all are read."""

    def __init__(self, app: ASGIApp, keys: Sequence[SecretStr], *, lifetime: int, secure: bool) -> None:
        super().__init__(
            app,
            secret_key="",
            session_cookie=f"{HOST_ONLY}{COOKIE}" if secure else COOKIE,
            max_age=lifetime,
            same_site="lax",  # strict would keep the cookie from the redirect that ends a sign-in
            https_only=secure,
        )
        self.signer = TimestampSigner([key.get_secret_value() for key in reversed(keys)])  # the last one signs


def cookie_goes_over_http(app: object) -> bool:
    """Whether an application's sessions are Starlette's own, in a cookie that is not for https alone.

    Of other ways to have sessions nothing is known, and nothing is said.
    """
    own = [each for each in getattr(app, "user_middleware", ()) if each.cls is SessionMiddleware]
    given = [inspect.signature(SessionMiddleware).bind(app, *each.args, **each.kwargs).arguments for each in own]
    return any(not arguments.get("https_only", False) for arguments in given)


def session_keys(settings: Settings) -> tuple[SecretStr, ...]:
    """The keys of sessions: `NOTION_OAUTH_SECRET_KEY`, else one made once and kept beside the tokens.

    Raises StorageError where it can be neither read nor made.
    """
    if settings.secret_keys:
        return settings.secret_keys
    path = key_file(settings)
    decode = partial(_decode_key, path)
    key = files.read_file(path, decode)
    if key is None:
        files.create_file(path, secrets.token_hex(32).encode() + b"\n")
        key = files.read_file(path, decode)  # another worker's, where that one was faster
    return (key or _decode_key(path, b""),)


def _decode_key(path: Path, content: bytes) -> SecretStr:
    key = content.decode(errors="replace").strip()
    if len(key) < MIN_SECRET_KEY:
        raise StoreDamaged(f"{path} holds no session key.", cure="Delete it: a new one is made at the next start.")
    return SecretStr(key)


def keeps_key(settings: Settings, *, mend: bool = True) -> bool:
    """Whether the next worker finds a key where this one has found its own. Raises StorageError."""
    path = key_file(settings)
    return bool(settings.secret_keys) or files.read_file(path, partial(_decode_key, path), mend=mend) is not None


def key_file(settings: Settings) -> Path:
    """Where the key is kept that is made where none is set."""
    return settings.token_file.with_name(f"{settings.token_file.name}.session-key")


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


def csrf_token(session: Session) -> str:
    """This browser's proof that a form came from our own page; made on first use."""
    if not isinstance(session.get(_CSRF), str):
        session[_CSRF] = secrets.token_urlsafe(32)
    token: str = session[_CSRF]
    return token


def has_csrf(session: Session) -> bool:
    """Whether this browser was given a form."""
    return isinstance(session.get(_CSRF), str)


def csrf_valid(session: Session, sent: str | None) -> bool:
    """Whether it was this browser's own page that sent the form."""
    expected = session.get(_CSRF)
    return isinstance(expected, str) and sent is not None and hmac.compare_digest(expected.encode(), sent.encode())


def forget_ours(session: Session) -> None:
    """Begin anew with what is ours in a session; the application's own stays."""
    for name in [name for name in session if name.startswith(OURS)]:
        del session[name]


def renew_csrf(session: Session) -> None:
    """Let forms that were shown before a sign-in count no longer: whoever planted the session has read their proof."""
    session.pop(_CSRF, None)


def own_profile(session: Session) -> str | None:
    """The profile that a browser session has for its own; None for none, and for what we have not put there."""
    name = session.get(_PROFILE)
    return name if isinstance(name, str) and places.OF_A_VISITOR.match(name) else None


def give_profile(session: Session, profile: str) -> None:
    """Let the profile be the browser session's own, after a sign-in."""
    session[_PROFILE] = profile
    renew_csrf(session)


def let_go_of_profile(session: Session) -> None:
    """Let the browser session have no profile any more."""
    session.pop(_PROFILE, None)


def seen_on(session: Session, day: int) -> None:
    """Remember the day, as an ordinal number, so that the cookie is sent anew once a day, and lives as long again."""
    if session.get(_SEEN) != day:
        session[_SEEN] = day


def leave_notice(session: Session, notice: str) -> None:
    """Leave a word for the next page: the name of a notice, never text."""
    session[_NOTICE] = notice


def take_notice(session: Session) -> str | None:
    """The word that was left, once."""
    notice = session.pop(_NOTICE, None)
    return notice if isinstance(notice, str) else None
