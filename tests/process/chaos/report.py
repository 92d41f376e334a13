"""The table at the end of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.process.chaos.analysis import UNEXPECTED, Loss


@dataclass(frozen=True)
class Report:
    """The results of a run in numbers. The run has failed if `failures` is not empty."""

    seconds: float
    started: float
    expiries: int
    refreshes: int
    disruptions: Counter[str]
    skipped: str  # why no disk was filled; empty if that was possible
    faults: Counter[str]
    received: int
    refused: Counter[str]
    transient: Counter[str]
    storage: int
    busy: int
    reads: int
    torn: int
    losses: list[Loss]
    errors: list[str]

    @property
    def failures(self) -> list[str]:
        """Everything that must not happen."""
        found = [self._describe(loss) for loss in self.losses if not loss.unavoidable]
        found += [f"tokens refused, {reason}: {self.refused[reason]}" for reason in UNEXPECTED if self.refused[reason]]
        found += [f"torn files: {self.torn}"] if self.torn else []
        return found + self.errors

    def _describe(self, loss: Loss) -> str:
        """The loss, and the events that led to it, in seconds since the start."""
        events = [f"\n    {at - self.started:8.2f}  {event}" for at, event in loss.record]
        return f"login {loss.login} was lost at {loss.at - self.started:.2f} s: {loss.cause}{''.join(events)}"

    def __str__(self) -> str:
        causes = Counter(loss.cause for loss in self.losses)
        avoidable = sum(not loss.unavoidable for loss in self.losses)
        rows: list[tuple[str, object]] = [
            ("seconds", f"{self.seconds:.0f}"),
            ("expiries", self.expiries),
            ("refreshes (token responses)", self.refreshes),
            ("disruptions", self.disruptions.total()),
            *((f"    {kind}", count) for kind, count in sorted(self.disruptions.items())),
            *([("    disk full", "skipped")] if self.skipped else []),
            ("faults", self.faults.total()),
            *((f"    {kind}", count) for kind, count in sorted(self.faults.items())),
            ("tokens received", self.received),
            ("tokens received that were refused", self.refused.total()),
            *((f"    {reason}", count) for reason, count in sorted(self.refused.items())),
            ("refused within lifetime, not replaced", sum(self.refused[reason] for reason in UNEXPECTED)),
            ("transient errors in workers", self.transient.total()),
            ("errors of a full disk in workers", self.storage),
            ("locks held for too long by a stopped worker", self.busy),
            ("reads of the token files", self.reads),
            ("torn files", self.torn),
            ("logins lost", len(self.losses)),
            *((f"    {cause}", count) for cause, count in sorted(causes.items())),
            ("avoidable losses", avoidable),
        ]
        width = max(len(name) for name, _ in rows)
        table = "\n".join(f"{name:<{width}}  {value:>8}" for name, value in rows)
        skipped = [f"SKIPPED: no disk was filled: {self.skipped}"] if self.skipped else []
        accepted = [f"unavoidable: {self._describe(loss)}" for loss in self.losses if loss.unavoidable]
        return "\n".join([table, *skipped, *accepted, *(f"FAILED: {failure}" for failure in self.failures)])
