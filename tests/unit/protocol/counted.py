"""Text that counts how many of its characters are looked at: work, where a clock would measure the machine."""

from __future__ import annotations


class Counted(str):
    """A slice of it counts too, all of its characters at once."""

    __slots__ = ("_seen",)
    _seen: list[int]

    def __getitem__(self, key: object) -> str:
        part = str.__getitem__(self, key)  # type: ignore[index]
        self._seen[0] += len(part)
        return _sharing(part, self._seen) if isinstance(key, slice) else part

    @property
    def seen(self) -> int:
        return self._seen[0]


def counted(text: str) -> Counted:
    return _sharing(text, [0])


def _sharing(text: str, seen: list[int]) -> Counted:
    value = Counted(text)
    value._seen = seen
    return value
