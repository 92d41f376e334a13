"""Collect every secret that is created, sent or received, and find it in any encoding."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from notion_oauth.protocol.registration import PROBE_CODE
from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import PREFIX, Settings

SENT = {"code", "code_verifier", "refresh_token", "token", "client_secret"}
RECEIVED = {"access_token", "refresh_token", "client_secret"}
MIN_LENGTH = 16  # characters; shorter ones are words such as "refresh_token"


def forms(secret: str) -> set[str]:
    """The secret as is, percent-encoded, in hexadecimal, and in base64 at each offset in the encoded data."""
    raw = secret.encode()
    found = {secret, quote(secret, safe=""), raw.hex(), raw.hex().upper(), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    for before, cut in ((0, 0), (1, 2), (2, 3)):  # characters that contain bits of the preceding data
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"x" * before + raw).decode().rstrip("=")[cut:-1])
    return found


def settings_that_are_secret() -> dict[str, str]:
    """A value for each secret setting, as environment variables; the server creates the client secret."""
    names = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    names.remove("client_secret")
    names.remove("database_url")  # tests/component/stores follow this one
    names.remove("operator_secret")  # tests/component/web/test_profiles.py follows this one
    hidden = {PREFIX + name.upper(): base64.urlsafe_b64encode(os.urandom(32)).decode() for name in names}
    storage = f"{PREFIX}RATE_LIMIT_STORAGE"
    return {**hidden, storage: f"redis://:{hidden[storage]}@127.0.0.1:9/0"}  # no server: the error is logged too


class Canaries:
    """Collects the secrets in the exchanges with a practice server, by kind."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._known: dict[str, str] = {}
        sandbox.observe(on_answer=self._answered)

    def _answered(self, request: Any, status: int, body: bytes) -> None:
        try:
            document = json.loads(body)
        except ValueError:
            return
        if isinstance(document, dict):
            self.add(**{name: value for name, value in document.items() if name in RECEIVED})

    def add(self, **secrets: Any) -> None:
        self._known |= {value: name for name, value in secrets.items() if isinstance(value, str)}

    def known(self) -> dict[str, str]:
        """Each secret and its kind."""
        for request in self._sandbox.requests:
            self.add(**{name: value for name, value in request.form.items() if name in SENT})
            self.add(**{name: value for name, value in request.query.items() if name == "state"})
            scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
            self.add(**{f"authorization_{scheme}": credentials})
            if scheme == "Basic":
                self.add(client_secret=unquote(base64.b64decode(credentials).decode().partition(":")[2]))
        return {value: kind for value, kind in self._known.items() if len(value) >= MIN_LENGTH and value != PROBE_CODE}

    def seen_in(self, text: str, *, but: frozenset[str] = frozenset()) -> list[str]:
        """The kinds of secrets in a text, each with its context. Kinds in `but` are expected and ignored."""
        return [
            f"{kind} in …{text[max(0, text.index(form) - 60) : text.index(form)]}"
            for secret, kind in self.known().items()
            for form in forms(secret)
            if kind not in but and form in text
        ]


def written_beside(store: Path) -> Iterator[tuple[Path, str]]:
    """All files of a directory but those that store secrets: the tokens, the registrations, the session key."""
    theirs = {store.name, f"{store.name}.clients", f"{store.name}.session-key"}
    for file in store.parent.rglob("*"):
        if file.is_file() and file.name not in theirs and "__pycache__" not in file.parts:
            yield file, file.read_bytes().decode("utf-8", "replace")
