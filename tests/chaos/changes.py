"""The changes to the store that a crash may cut short, with what was there before and what is there after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from notion_oauth.models import Registration
from notion_oauth.storage import JsonFileStore
from tests.protocol.builders import ISSUER, PUBLIC, REDIRECT_URI, tokens

NAME = ".notion-tokens.json"
OLD = tokens(access_token=SecretStr("canary-old"), refresh_token=SecretStr("canary-old-refresh"))
NEW = tokens(access_token=SecretStr("canary-new" * 20), refresh_token=SecretStr("canary-new-refresh" * 20))
NEXT = tokens(access_token=SecretStr("canary-next"))
KEPT = Registration(issuer=ISSUER, redirect_uri=REDIRECT_URI, client=PUBLIC)
ADDED = Registration(issuer=ISSUER, redirect_uri="http://127.0.0.1:5555/callback", client=PUBLIC)
FURTHER = Registration(issuer=ISSUER, redirect_uri="http://127.0.0.1:6666/callback", client=PUBLIC)


async def _login(store: JsonFileStore) -> Any:
    return await store.load("default")


async def _registrations(store: JsonFileStore) -> Any:
    return await store.load_registrations("default")


@dataclass(frozen=True)
class Change:
    """`make` turns `before` into `after`, as `read` reads them; `further` is the next save of that file."""

    before: Any
    after: Any
    prepare: Callable[[JsonFileStore], Awaitable[object]] | None
    make: Callable[[JsonFileStore], Awaitable[object]]
    read: Callable[[JsonFileStore], Awaitable[Any]] = _login
    further: Callable[[JsonFileStore], Awaitable[object]] = lambda store: store.save("default", NEXT)
    further_read: Any = NEXT


def _registering(before: tuple[Registration, ...]) -> Change:
    after = (*before, ADDED)
    return Change(
        before,
        after,
        (lambda store: store.save_registration("default", before[0])) if before else None,
        lambda store: store.save_registration("default", ADDED),
        _registrations,
        lambda store: store.save_registration("default", FURTHER),
    )


CHANGES = {
    "first-save": Change(None, NEW, None, lambda store: store.save("default", NEW)),
    "save": Change(OLD, NEW, lambda store: store.save("default", OLD), lambda store: store.save("default", NEW)),
    "first-registration": _registering(()),
    "registration": _registering((KEPT,)),
    "delete": Change(OLD, None, lambda store: store.save("default", OLD), lambda store: store.delete("default")),
}
