"""How long to wait between retries after a transient failure: exponential backoff with jitter, and Retry-After.

`source.py` retries refreshes with it, and `service.py` retries the exchange of a code.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta

from notion_oauth.clock import uptime
from notion_oauth.errors import NotionOAuthError, ServerUnavailable

FIRST_DELAY = 1.0  # seconds; a server whose response was lost may still be processing the request
MAX_DELAY = 8.0  # seconds between two attempts while a caller waits
MAX_COOLDOWN = 60.0  # seconds between two attempts in the background
MAX_RETRY_AFTER = 600.0  # seconds; a longer Retry-After counts as this
_RANDOM = secrets.SystemRandom()


class Backoff:
    """Counts the failures of one token source since its last success. `retry_for` limits how long a caller waits.

    Times are in seconds of `uptime`. Jitter spreads the retries of processes that fail at the same time.
    """

    def __init__(
        self,
        retry_for: timedelta,
        *,
        uptime: Callable[[], float] = uptime,
        random: Callable[[], float] = _RANDOM.random,
    ) -> None:
        self._retry_for = retry_for.total_seconds()
        self._uptime = uptime
        self._random = random
        self._error: NotionOAuthError | None = None
        self.record_success()

    def record_success(self) -> None:
        self._failures, self._retry_at, self._server_delay = 0, 0.0, False

    def record_failure(self, error: NotionOAuthError) -> None:
        """Double the delay before the next attempt, or take the server's Retry-After if that is longer."""
        delay = min(MAX_COOLDOWN, FIRST_DELAY * 2**self._failures) * (0.5 + self._random() / 2)
        retry_after = error.retry_after if isinstance(error, ServerUnavailable) else None
        self._failures = min(self._failures + 1, 10)
        self._server_delay = retry_after is not None and retry_after > delay
        if retry_after is not None and self._server_delay:
            delay = min(retry_after, MAX_RETRY_AFTER)
        self._retry_at = self._uptime() + delay
        self._error = error

    @property
    def in_cooldown(self) -> bool:
        """Whether it is too early for another attempt in the background."""
        return self._uptime() < self._retry_at

    def new_deadline(self) -> float:
        """Return when a caller that starts to wait now stops waiting."""
        return self._uptime() + self._retry_for

    def exhausted(self, deadline: float) -> bool:
        """Return whether no further attempt is possible before the deadline."""
        return self._uptime() >= deadline or (self._server_delay and self._retry_at > deadline)

    def next_delay(self, deadline: float) -> float:
        """How long to wait before the next attempt. Raises the last error if its Retry-After ends after `deadline`."""
        left = self._retry_at - self._uptime()
        if self._server_delay and left > 0:
            if self._error is not None and self._retry_at > deadline:
                raise self._error
            return left
        return max(0.0, min(left, MAX_DELAY, deadline - self._uptime()))
