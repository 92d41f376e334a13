"""The NotionOAuth objects of many profiles, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from notion_oauth.service import NotionOAuth

MAX_LOGINS = 1024  # in memory; the least recently used is dropped, and created again on demand
TRIES = 2  # to drop one, each time


class Logins:
    """One NotionOAuth for each profile; `on_drop` is called with the profile of one that is dropped."""

    def __init__(
        self, oauth: NotionOAuth, *, max_logins: int = MAX_LOGINS, on_drop: Callable[[str], object] = lambda _: None
    ) -> None:
        self._oauth = oauth
        self._max_logins = max_logins
        self._on_drop = on_drop
        self._logins: OrderedDict[str, NotionOAuth] = OrderedDict()

    @property
    def profiles(self) -> Sequence[str]:
        return tuple(self._logins)

    def for_profile(self, profile: str) -> NotionOAuth:
        """Return the NotionOAuth of that profile. Repeated calls return the same object."""
        if profile == self._oauth.profile:
            return self._oauth
        oauth = self._logins.pop(profile, None) or self._oauth.for_profile(profile)
        self._logins[profile] = oauth
        for _ in range(TRIES):
            if len(self._logins) > self._max_logins:
                self._drop_oldest()
        return oauth

    def _drop_oldest(self) -> None:
        """Drop the least recently used login, unless it has tokens that only this process has. Those stay longer."""
        profile, oldest = self._logins.popitem(last=False)
        if oldest.tokens.is_busy:
            self._logins[profile] = oldest
        else:
            self._on_drop(profile)

    def drop(self, profile: str) -> None:
        if self._logins.pop(profile, None) is not None:
            self._on_drop(profile)

    async def wait_until_idle(self) -> None:
        """Wait for the refreshes in progress."""
        for oauth in (self._oauth, *self._logins.values()):
            await oauth.tokens.wait_until_idle()
