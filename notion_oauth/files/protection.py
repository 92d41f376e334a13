"""How a login is kept at rest, in words. Needs the standard library alone, as a quick command does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class Weakness(str):
    """What is weaker than it should be, and its cure, as one text; and as two in `what` and `hint`."""

    what: str
    hint: str

    def __new__(cls, what: str, hint: str) -> Weakness:
        made = super().__new__(cls, f"{what} {hint}")
        made.what, made.hint = what, hint
        return made


@dataclass(frozen=True, kw_only=True)
class Protection:
    """How a stored login is kept; `weaker` tells what is weaker than it is set up to be, each with its cure."""

    kept: Literal["sealed", "plain"] | None  # None: no login is kept
    mode: int | None = None  # of the file, where there is one and the system has modes
    key_id: str | None = None
    key_source: str | None = None  # the setting, or the system keychain
    weaker: tuple[str, ...] = ()

    def in_words(self) -> str | None:
        """`sealed with key 1a2b3c4d from NOTION_OAUTH_ENCRYPTION_KEY`, or `plain, mode 0600`."""
        if self.kept is None:
            return None
        if self.kept == "sealed":
            return f"sealed with key {self.key_id} from {self.key_source}"
        return "plain" if self.mode is None else f"plain, mode {self.mode:04o}"

    def warning(self) -> str | None:
        return " ".join(self.weaker) or None
