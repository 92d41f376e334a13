"""The events of the workers, read from their files while they are written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class ReceivedToken:
    """A token that a worker received. It requested one at `requested`, and sent it at `at`."""

    requested: float
    at: float
    token: str


@dataclass
class Problem:
    """The store of a worker that requested a token at `requested` could not be used until `at`."""

    worker: str
    requested: float
    at: float
    message: str


def new_events(path: Path, offsets: dict[Path, int]) -> Iterator[dict[str, Any]]:
    """Yield the events that were written since the last call, and update how far each file has been read."""
    with path.open("rb") as file:
        file.seek(offsets.get(path, 0))
        content = file.read()
    complete = content[: content.rfind(b"\n") + 1]  # the last line may be incomplete
    offsets[path] = offsets.get(path, 0) + len(complete)
    for line in complete.splitlines():
        yield json.loads(line)


@dataclass
class WorkerEvents:
    """All event files of a directory. `read` adds the new events and returns the reports of lost logins."""

    directory: Path
    received: dict[str, ReceivedToken] = field(default_factory=dict)  # by sender
    started: dict[str, float] = field(default_factory=dict)  # requests for tokens
    answered: dict[str, float] = field(default_factory=dict)
    unanswered: dict[str, float] = field(default_factory=dict)
    transient: Counter[str] = field(default_factory=Counter)
    storage: list[Problem] = field(default_factory=list)
    busy: list[Problem] = field(default_factory=list)  # another process held the lock
    errors: list[str] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)
    _offsets: dict[Path, int] = field(default_factory=dict)

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        """Read the new events. Returns the worker and the report of each lost login among them."""
        lost = []
        for path in self.directory.glob("*.events"):
            for event in new_events(path, self._offsets):
                self._add(path.stem, event)
                if event["kind"] == "lost":
                    lost.append((path.stem, event))
        return lost

    def _add(self, worker: str, event: dict[str, Any]) -> None:
        kind, at = event["kind"], event["at"]
        if kind == "received":
            self.received[event["sender"]] = ReceivedToken(event["requested"], at, event["token"])
        elif kind == "started":
            self.started[event["sender"]] = at
        elif kind == "answered":
            self.answered[event["sender"]] = at
        elif kind == "unanswered":
            self.unanswered[event["sender"]] = at
        elif kind == "transient":
            self.transient[event["error"]] += 1
        elif kind in ("storage", "busy"):
            problems = self.storage if kind == "storage" else self.busy
            problems.append(Problem(worker, event["requested"], at, event["message"]))
        elif kind == "error":
            self.errors.append(f"worker {worker}: {event['message']}")
        elif kind == "ready":
            self.ready.add(worker)
