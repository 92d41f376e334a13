"""Tables in Markdown, as in benchmarks/README.md, and the formats of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """One measurement's results."""

    title: str
    note: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        self.rows.append(cells)

    def add_failed(self, name: str, reason: str) -> None:
        """Add a row for a subject without a result."""
        self.rows.append((name, f"failed: {reason}", *[""] * (len(self.columns) - 2)))

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", self.note, "", _row(self.columns), _row("---" for _ in self.columns)]
        return "\n".join([*lines, *map(_row, self.rows), ""])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def times(ratio: float) -> str:
    """A ratio: 1.04x."""
    return f"{ratio:.2f}x" if ratio < 100 else f"{ratio:.0f}x"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def microseconds(value: float) -> str:
    return f"{value:.0f} µs"


def listed(values: Sequence[int]) -> str:
    """One number if all rounds are equal, otherwise the number of each round."""
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))
