"""Random draws that leave nothing out."""

from __future__ import annotations

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Deck(Generic[T]):
    """Draws at random, and each value once before any value again."""

    def __init__(self, values: tuple[T, ...], rng: random.Random) -> None:
        self._values, self._rng = values, rng
        self._rest: list[T] = []

    def draw(self) -> T:
        if not self._rest:
            self._rest = self._rng.sample(self._values, len(self._values))
        return self._rest.pop()
