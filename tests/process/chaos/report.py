"""The table at the end of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.process.chaos.analysis import UNEXPECTED, Loss


@dataclass(frozen=True)
class Report:
    """The results of a run in numbers. The run has failed if `failures` is not empty."""

    seconds: float
    expiries: int
    refreshes: int
    kills: int
    faults: Counter[str]
    received: int
    refused: Counter[str]
    transient: Counter[str]
    reads: int
    torn: int
    losses: list[Loss]
    errors: list[str]

    @property
    def failures(self) -> list[str]:
        """Everything that must not happen."""
        found = [f"a login was lost: {loss.cause}" for loss in self.losses if not loss.unavoidable]
        found += [f"tokens refused, {reason}: {self.refused[reason]}" for reason in UNEXPECTED if self.refused[reason]]
        found += [f"torn files: {self.torn}"] if self.torn else []
        return found + self.errors

    def __str__(self) -> str:
        causes = Counter(loss.cause for loss in self.losses)
        avoidable = sum(not loss.unavoidable for loss in self.losses)
        rows: list[tuple[str, object]] = [
            ("seconds", f"{self.seconds:.0f}"),
            ("expiries", self.expiries),
            ("refreshes (token responses)", self.refreshes),
            ("workers killed", self.kills),
            ("faults", self.faults.total()),
            *((f"    {kind}", count) for kind, count in sorted(self.faults.items())),
            ("tokens received", self.received),
            ("tokens received that were refused", self.refused.total()),
            *((f"    {reason}", count) for reason, count in sorted(self.refused.items())),
            ("refused within lifetime, not replaced", sum(self.refused[reason] for reason in UNEXPECTED)),
            ("transient errors in workers", self.transient.total()),
            ("reads of the token files", self.reads),
            ("torn files", self.torn),
            ("logins lost", len(self.losses)),
            *((f"    {cause}", count) for cause, count in sorted(causes.items())),
            ("avoidable losses", avoidable),
        ]
        width = max(len(name) for name, _ in rows)
        table = "\n".join(f"{name:<{width}}  {value:>8}" for name, value in rows)
        return "\n".join([table, *(f"FAILED: {failure}" for failure in self.failures)])
