"""Text that counts how often its characters are read: a measure of work that does not depend on the machine."""

from __future__ import annotations


class Counted(str):
    """A string whose `reads` grows by the length of each slice or character that is taken; its slices count too."""

    __slots__ = ("counter",)
    counter: list[int]

    def __getitem__(self, key: object) -> str:
        part = str.__getitem__(self, key)  # type: ignore[index]
        self.counter[0] += len(part)
        return _sharing(part, self.counter) if isinstance(key, slice) else part

    @property
    def reads(self) -> int:
        return self.counter[0]


def counted(text: str) -> Counted:
    return _sharing(text, [0])


def _sharing(text: str, counter: list[int]) -> Counted:
    value = Counted(text)
    value.counter = counter
    return value
