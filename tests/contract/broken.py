"""Stores that break one rule each: what the rules have to find."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from notion_oauth.clock import utc_now
from notion_oauth.storage import Cooldown, DocumentHold, Kind, Reservation
from notion_oauth.stores.memory import MemoryDocuments

T = TypeVar("T")


class Broken(Exception):
    """Raised by a broken store where a right one works."""


class _Documents(MemoryDocuments):
    def __init__(self) -> None:
        super().__init__(lock_wait=timedelta(seconds=60), clock=utc_now)


class _Hold:
    """Passes on to a right hold; a subclass breaks one method."""

    def __init__(self, hold: DocumentHold) -> None:
        self.hold = hold

    async def reserve(self, marker: bytes, size: int) -> None:
        await self.hold.reserve(marker, size)

    async def read(self, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        return await self.hold.read(kind, decode, slow=slow)

    async def reserved(self) -> Sequence[Reservation]:
        return await self.hold.reserved()

    async def release(self) -> None:
        await self.hold.release()

    async def write(
        self, kind: Kind, content: bytes, *, expires_at: datetime | None = None, last: bool = False
    ) -> None:
        await self.hold.write(kind, content, expires_at=expires_at, last=last)

    async def set_aside(self, content: bytes) -> None:
        await self.reserve(content, len(content))

    async def delete(self, kind: Kind) -> bool:
        return await self.hold.delete(kind)

    @property
    def cooldown(self) -> Cooldown | None:
        return self.hold.cooldown

    async def record_failure(self, failure: bytes, *, pause_all: float) -> None:
        await self.hold.record_failure(failure, pause_all=pause_all)


def _with(hold: type[_Hold]) -> Callable[[], _Documents]:
    class WithHold(_Documents):
        @asynccontextmanager
        async def exclusive(self, profile: str) -> AsyncIterator[DocumentHold]:  # type: ignore[override]
            async with super().exclusive(profile) as right:
                yield hold(right)

    return WithHold


class InventsAProfile(_Documents):
    async def profiles(self, *, after: str, limit: int, registered: bool) -> Sequence[str]:
        return ["default"]


class TruncatesDocuments(_Hold):
    async def write(
        self, kind: Kind, content: bytes, *, expires_at: datetime | None = None, last: bool = False
    ) -> None:
        await self.hold.write(kind, content[:-3], expires_at=expires_at, last=last)


class IgnoresEnds(_Hold):
    async def write(
        self, kind: Kind, content: bytes, *, expires_at: datetime | None = None, last: bool = False
    ) -> None:
        if b"ended_at" not in content:
            await self.hold.write(kind, content, expires_at=expires_at, last=last)


class AlwaysDeleted(_Hold):
    async def delete(self, kind: Kind) -> bool:
        await self.hold.delete(kind)
        return True


class OneProfile(_Documents):
    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        return await super().read("default", kind, decode, slow=slow)

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[DocumentHold]:  # type: ignore[override]
        async with super().exclusive("default") as hold:
            yield hold


class HidesForeignDocuments(_Documents):
    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        try:
            return await super().read(profile, kind, decode, slow=slow)
        except Exception:
            return None


class ConstantVersion(_Documents):
    def version(self, profile: str) -> object | None:
        return 1


class RestlessVersion(_Documents):
    numbers = itertools.count()

    def version(self, profile: str) -> object | None:
        return next(self.numbers)


class WithoutLock(_Documents):
    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[DocumentHold]:  # type: ignore[override]
        self._locks.clear()
        async with super().exclusive(profile) as hold:
            self._locks.clear()
            yield hold


class OneLock(_Documents):
    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[DocumentHold]:  # type: ignore[override]
        self._lock_wait = timedelta(seconds=0.05)
        async with super().exclusive("all") as hold:
            yield hold


class KeepsTheLockAfterAnError(_Documents):
    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[DocumentHold]:  # type: ignore[override]
        self._lock_wait = timedelta(seconds=0.05)
        try:
            async with super().exclusive(profile) as hold:
                yield hold
        except BaseException:
            self._locks[profile].acquire(blocking=False)
            raise


class ReadsOnce(_Documents):
    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, Kind], object] = {}

    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        if (profile, kind) not in self._seen:
            self._seen[profile, kind] = await super().read(profile, kind, decode, slow=slow)
        return self._seen[profile, kind]  # type: ignore[return-value]


class KeepsReservations(_Hold):
    async def release(self) -> None:
        pass


class ForgetsReservations(_Hold):
    async def reserve(self, marker: bytes, size: int) -> None:
        pass


class DeletesNothingReserved(_Hold):
    async def delete(self, kind: Kind) -> bool:
        left = await self.hold.reserved()
        deleted = await self.hold.delete(kind)
        await self.hold.reserve(left[0][0], 1)
        return deleted


class InventsOldTokens(_Documents):
    """Gives back what was reserved as if it had been saved."""

    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        found = self._profiles.get(profile)
        if kind == "login" and found is not None and found.reserved is not None:
            return decode(found.reserved)
        return await super().read(profile, kind, decode, slow=slow)


class DeletesRegistrationsToo(_Hold):
    async def delete(self, kind: Kind) -> bool:
        await self.hold.delete("registrations")
        return await self.hold.delete(kind)


class ForgetsClaimedRegistrations(_Hold):
    async def write(
        self, kind: Kind, content: bytes, *, expires_at: datetime | None = None, last: bool = False
    ) -> None:
        await self.hold.write(
            kind, content.replace(b'"taken": true', b'"taken": false'), expires_at=expires_at, last=last
        )


class EmptiesRegistrations(_Hold):
    async def write(
        self, kind: Kind, content: bytes, *, expires_at: datetime | None = None, last: bool = False
    ) -> None:
        content = b'{"registrations": []}' if kind == "registrations" else content
        await self.hold.write(kind, content, expires_at=expires_at, last=last)


class IgnoresPages(_Documents):
    async def profiles(self, *, after: str, limit: int, registered: bool) -> Sequence[str]:
        found = await super().profiles(after="", limit=10**6, registered=registered)
        return [] if after == "user-4" else found


class ForgetsHalf(_Documents):
    async def forget(self, profile: str) -> None:
        self._profiles[profile].documents.pop("login", None)


class KnowsNoTimes(_Documents):
    async def last_changed(self, *, after: str, limit: int, before: datetime) -> Mapping[str, datetime]:
        return {name: datetime(1970, 1, 1, tzinfo=UTC) for name in sorted(self._profiles)}


class ClaimsEverything(_Documents):
    async def claim(self, key: str, lifetime: timedelta) -> bool:
        await super().claim(key, lifetime)
        return True


class LosesOutcomes(_Documents):
    async def settle(self, key: str, outcome: bytes) -> None:
        self._claims.pop(key, None)


class ClaimsForEver(_Documents):
    async def claim(self, key: str, lifetime: timedelta) -> bool:
        return await super().claim(key, timedelta(days=1))


class RefusesClaims(_Documents):
    async def claim(self, key: str, lifetime: timedelta) -> bool:
        raise Broken


class UsesHoldsLater(_Documents):
    """Has a lock that is over at once, so that what is done on the hold is refused."""

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[DocumentHold]:  # type: ignore[override]
        async with super().exclusive(profile) as hold:
            yield hold
        await hold.write("login", b'{"changed": "after the end"}')


BROKEN: dict[str, Callable[[], MemoryDocuments]] = {
    "an_empty_store_has_no_login": InventsAProfile,
    "a_saved_login_is_loaded": _with(TruncatesDocuments),
    "the_end_of_a_login_replaces_it": _with(IgnoresEnds),
    "deleting_says_whether_there_was_a_login": _with(AlwaysDeleted),
    "profiles_are_separate": OneProfile,
    "a_foreign_document_is_neither_overwritten_nor_deleted": HidesForeignDocuments,
    "the_version_changes_with_the_login": ConstantVersion,
    "the_version_stays_without_a_change": RestlessVersion,
    "one_holder_at_a_time": WithoutLock,
    "threads_exclude_each_other": WithoutLock,
    "profiles_do_not_wait_for_each_other": OneLock,
    "an_error_releases_the_lock": KeepsTheLockAfterAnError,
    "a_cancelled_holder_and_a_cancelled_waiter_release_the_lock": KeepsTheLockAfterAnError,
    "a_hold_that_is_over_changes_nothing": UsesHoldsLater,
    "a_hold_reads_what_others_have_stored": ReadsOnce,
    "a_reservation_is_released_with_its_hold": _with(KeepsReservations),
    "an_unfinished_attempt_is_seen_by_the_next_holder": _with(ForgetsReservations),
    "tokens_that_were_set_aside_are_found_by_the_next_holder": _with(ForgetsReservations),
    "older_tokens_that_were_set_aside_replace_nothing": InventsOldTokens,
    "nothing_is_left_of_a_login_that_is_deleted": _with(DeletesNothingReserved),
    "registrations_outlive_the_login": _with(DeletesRegistrationsToo),
    "all_fields_of_a_registration_are_stored": _with(ForgetsClaimedRegistrations),
    "a_registration_replaces_only_the_one_with_the_same_key": _with(EmptiesRegistrations),
    "old_registrations_are_dropped_but_not_preregistered_ones": _with(EmptiesRegistrations),
    "profiles_are_listed_in_pages": IgnoresPages,
    "forgetting_leaves_nothing_of_a_profile": ForgetsHalf,
    "the_last_change_of_each_profile_is_known": KnowsNoTimes,
    "due_are_the_profiles_whose_token_expires_before_a_time": ConstantVersion,
    "one_of_many_claims_succeeds": ClaimsEverything,
    "others_wait_for_the_outcome_of_a_claim": LosesOutcomes,
    "a_claim_ends_after_its_lifetime": ClaimsForEver,
    "a_claim_is_stored_under_a_hash": RefusesClaims,
}
