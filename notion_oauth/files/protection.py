"""How a stored login is protected on the disk. Imports only the standard library, because the fast path imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class Weakness(str):
    """One weakness of the storage: the text is `message` and `hint` together."""

    message: str
    hint: str

    def __new__(cls, message: str, hint: str) -> Weakness:
        weakness = super().__new__(cls, f"{message} {hint}")
        weakness.message, weakness.hint = message, hint
        return weakness


@dataclass(frozen=True, kw_only=True)
class Protection:
    """How a stored login is protected. `weaknesses` lists what is weaker than configured, each with a hint."""

    format: Literal["encrypted", "plain"] | None  # None: no login is stored
    mode: int | None = None  # of the file; None on a system without file modes
    key_id: str | None = None
    key_source: str | None = None  # the setting, or the system keyring
    weaknesses: tuple[str, ...] = ()

    def describe(self) -> str | None:
        """`encrypted with key 1a2b3c4d from NOTION_OAUTH_ENCRYPTION_KEY`, or `plain, mode 0600`."""
        if self.format is None:
            return None
        if self.format == "encrypted":
            return f"encrypted with key {self.key_id} from {self.key_source}"
        return "plain" if self.mode is None else f"plain, mode {self.mode:04o}"

    def warning(self) -> str | None:
        return " ".join(self.weaknesses) or None
