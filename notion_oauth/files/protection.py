"""How a stored login is protected on the disk. Imports only the standard library, because the fast path imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from notion_oauth.errors import WarningWithHint, escape


@dataclass(frozen=True, kw_only=True)
class Protection:
    """How a stored login is protected. `weaknesses` lists what is weaker than configured, each with a hint."""

    format: Literal["encrypted", "plain"] | None  # None: no login is stored
    mode: int | None = None  # of the file; None on a system without file modes
    key_id: str | None = None
    key_source: str | None = None  # the setting, or the system keyring
    weaknesses: tuple[WarningWithHint, ...] = ()

    def describe(self) -> str | None:
        """`encrypted with key 1a2b3c4d from NOTION_OAUTH_ENCRYPTION_KEY`, or `plain, mode 0600`."""
        if self.format is None:
            return None
        if self.format == "encrypted":
            return escape(f"encrypted with key {self.key_id} from {self.key_source}")
        return "plain" if self.mode is None else f"plain, mode {self.mode:04o}"
