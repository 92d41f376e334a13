"""What the workers met, read from their journals while they write them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Handed:
    """A token that a worker was given. It had asked for one at `asked`, and sent it at `at`."""

    asked: float
    at: float
    token: str


@dataclass
class Journals:
    """All journals of a folder. `read` takes in what is new and returns the reports of lost logins."""

    folder: Path
    handed: dict[str, Handed] = field(default_factory=dict)  # by asker
    answered: dict[str, float] = field(default_factory=dict)
    unanswered: dict[str, float] = field(default_factory=dict)
    passing: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)
    _offsets: dict[Path, int] = field(default_factory=dict)

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        """The name of the worker and its report of a lost login, for each that is new."""
        lost = []
        for path in self.folder.glob("*.journal"):
            for event in self._new(path):
                self._take(path.stem, event)
                if event["what"] == "lost":
                    lost.append((path.stem, event))
        return lost

    def _new(self, path: Path) -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]  # the rest may still be written, or never
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        for line in whole.splitlines():
            yield json.loads(line)

    def _take(self, worker: str, event: dict[str, Any]) -> None:
        what, at = event["what"], event["at"]
        if what == "handed":
            self.handed[event["asker"]] = Handed(event["asked"], at, event["token"])
        elif what == "answered":
            self.answered[event["asker"]] = at
        elif what == "unanswered":
            self.unanswered[event["asker"]] = at
        elif what == "passing":
            self.passing[event["error"]] += 1
        elif what == "wrong":
            self.wrong.append(f"worker {worker}: {event['message']}")
        elif what == "ready":
            self.ready.add(worker)
