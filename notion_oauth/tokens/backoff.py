"""How long to wait between retries after a transient failure: exponential backoff with jitter, and Retry-After.

`source.py` retries refreshes with it, and `service.py` retries the exchange of a code.
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Callable
from datetime import timedelta

from notion_oauth.clock import uptime
from notion_oauth.errors import NetworkError, NotionOAuthError, ServerUnavailable, TransientError, UnexpectedRedirect

FIRST_DELAY = 1.0  # seconds; a server whose response was lost may still be processing the request
MAX_DELAY = 8.0  # seconds between two attempts while a caller waits
MAX_FAILURES = 10  # that are counted
MAX_COOLDOWN = 60.0  # seconds between two attempts in the background
MAX_RETRY_AFTER = 600.0  # seconds; a longer Retry-After counts as this
MAX_PAUSE = 60.0  # seconds in which no other login is refreshed: the server may limit the requests of one login alone
TOLERANCE = 0.1  # seconds between the same moment in the process and in the store
_RECORDED: dict[str, type[TransientError]] = {
    each.code: each for each in (NetworkError, ServerUnavailable, UnexpectedRedirect)
}
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
        self._failures, self._retry_at, self._server_delay, self._delay = 0, 0.0, False, 0.0
        self._has_paused_all = False

    def record_failure(self, error: NotionOAuthError) -> None:
        """Double the delay before the next attempt, or take the server's Retry-After if that is longer."""
        delay = min(MAX_COOLDOWN, FIRST_DELAY * 2**self._failures) * (0.5 + self._random() / 2)
        retry_after = error.retry_after if isinstance(error, ServerUnavailable) else None
        self._failures = min(self._failures + 1, MAX_FAILURES)
        server_delay = retry_after is not None and retry_after > delay
        if retry_after is not None and server_delay:
            delay = min(retry_after, MAX_RETRY_AFTER)
        self._wait(delay, error, server_delay=server_delay)

    def has_recorded(self, error: NotionOAuthError) -> bool:
        """Return whether this very error was recorded, by `record_failure` or as that of another instance."""
        return error is self._error

    def _wait(self, delay: float, error: NotionOAuthError, *, server_delay: bool, left: float | None = None) -> None:
        self._delay, self._error, self._server_delay = delay, error, server_delay
        self._retry_at = self._uptime() + (delay if left is None else left)

    def as_record(self) -> bytes:
        """Return the last failure for other instances: see `check_record`."""
        error = self._error
        record = {
            "failures": self._failures,
            "delay": self._delay,
            "from_server": self._server_delay,
            "error": None if error is None else error.code,
            "message": None if error is None else error.message,
            "paused_all": self._has_paused_all or self.pause_of_all > 0,
        }
        return json.dumps(record).encode()

    @property
    def pause_of_all(self) -> float:
        """For how long other logins must not be refreshed either, because the server has too many requests.

        Once until the next success: the server may refuse the requests of this login alone.
        """
        refused = isinstance(self._error, ServerUnavailable) and self._error.not_processed and not self._has_paused_all
        return min(self._delay, MAX_PAUSE) if refused else 0.0

    def check_record(self, record: bytes, age: float, *, waits: bool) -> None:
        """Raise the error of another instance that failed `age` seconds ago, if it is too early for another attempt.

        `waits`: a caller waits for the attempt, so that it is made soon unless the server has named a time.
        """
        try:
            found = json.loads(record)
            failures, delay = int(found["failures"]), min(float(found["delay"]), MAX_RETRY_AFTER)
            from_server, code, message = bool(found["from_server"]), str(found["error"]), str(found["message"])
        except (ValueError, KeyError, TypeError, OverflowError):
            return  # of another version
        self._has_paused_all = self._has_paused_all or bool(found.get("paused_all"))
        if age < -MAX_COOLDOWN:
            return  # the store's clock was set back since
        self._failures = max(self._failures, min(failures, MAX_FAILURES))
        left = (min(delay, MAX_DELAY) if waits and not from_server else delay) - age
        if left <= TOLERANCE:
            return
        error = _RECORDED.get(code, ServerUnavailable)(message)
        if isinstance(error, ServerUnavailable):
            error.retry_after = left if from_server else None
        self._wait(delay, error, server_delay=from_server, left=delay - age)
        raise error

    def check_pause(self, left: float) -> None:
        """Raise ServerUnavailable if another login has been told to wait, and all wait for `left` seconds."""
        if TOLERANCE < left <= 2 * MAX_PAUSE:  # if it is longer, the store's clock was set back since
            message = "The server has too many requests, as it responded to that of another login."
            error = ServerUnavailable(message, retry_after=left, not_processed=True)
            self._wait(left, error, server_delay=True)
            raise error

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
                self._error = copy.copy(self._error)
                if isinstance(self._error, ServerUnavailable):
                    self._error.retry_after = left
                raise self._error
            return left
        return max(0.0, min(left, MAX_DELAY, deadline - self._uptime()))
