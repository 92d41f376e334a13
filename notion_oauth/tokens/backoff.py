"""How long to wait after a failure, and when to wait no longer: backoff, jitter, and what the server asked for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta

from notion_oauth.clock import uptime
from notion_oauth.errors import NotionOAuthError, ServerUnavailable

FIRST_PAUSE = 1.0  # seconds; a server that has lost its answer needs a moment to be done with it
LONGEST_WAIT = 8.0  # seconds between two tries while somebody waits
LONGEST_REST = 60.0  # seconds between two tries while nobody does
LONGEST_ASKED = 600.0  # seconds of Retry-After that are believed
_RANDOM = secrets.SystemRandom()


class Backoff:
    """The failures of one token source since its last success. `retry_for` bounds how long a caller waits.

    Times are in seconds of `uptime`. Jitter keeps processes that fail together from trying together.
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
        self.succeeded()

    def succeeded(self) -> None:
        self._failures, self._until, self._asked = 0, 0.0, False

    def failed(self, error: NotionOAuthError) -> None:
        """Note a failure: the next try is later than the last, and not before the server's own Retry-After."""
        pause = min(LONGEST_REST, FIRST_PAUSE * 2**self._failures) * (0.5 + self._random() / 2)
        asked = error.retry_after if isinstance(error, ServerUnavailable) else None
        self._failures = min(self._failures + 1, 10)
        self._asked = asked is not None and asked > pause
        self._until = self._uptime() + (min(asked, LONGEST_ASKED) if asked is not None and self._asked else pause)
        self._error = error

    @property
    def in_cooldown(self) -> bool:
        """Whether it is too early for a try that nobody waits for."""
        return self._uptime() < self._until

    def deadline(self) -> float:
        """Until when a caller who begins to wait now is kept waiting."""
        return self._uptime() + self._retry_for

    def exhausted(self, deadline: float) -> bool:
        """Whether no other try is to be waited for until then."""
        return self._uptime() >= deadline or (self._asked and self._until > deadline)

    def next_delay(self, deadline: float) -> float:
        """How long to wait before the next try. Raises the last failure where the server asked for more than that."""
        left = self._until - self._uptime()
        if self._asked and left > 0:
            if self._error is not None and self._until > deadline:
                raise self._error
            return left
        return max(0.0, min(left, LONGEST_WAIT, deadline - self._uptime()))
