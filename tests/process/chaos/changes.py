"""The changes to the store that a crash may interrupt, with the content before and after each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from notion_oauth.files.encryption import Encryption
from notion_oauth.models import ClientInformation, Registration
from notion_oauth.storage import Hold, JsonFileStore
from tests.support.stores import load_login, save_login, save_registration
from tests.unit.protocol.builders import ISSUER, PUBLIC, REDIRECT_URI, tokens

NAME = ".notion-tokens.json"
OLD = tokens(access_token=SecretStr("canary-old"), refresh_token=SecretStr("canary-old-refresh"))
NEW = tokens(access_token=SecretStr("canary-new" * 20), refresh_token=SecretStr("canary-new-refresh" * 20))
NEXT = tokens(access_token=SecretStr("canary-next"))
STORED = Registration(issuer=ISSUER, redirect_uri=REDIRECT_URI, client=PUBLIC)
ADDED = Registration(issuer=ISSUER, redirect_uri="http://127.0.0.1:5555/callback", client=PUBLIC)
CONFIDENTIAL = Registration(
    issuer=ISSUER,
    redirect_uri=REDIRECT_URI,
    client=ClientInformation(client_id="c", client_secret=SecretStr("canary-client-secret")),
)
FURTHER = Registration(issuer=ISSUER, redirect_uri="http://127.0.0.1:6666/callback", client=PUBLIC)


OLD_KEY, NEW_KEY = "o" * 43 + "=", "n" * 43 + "="


Prepare = Callable[[JsonFileStore], Awaitable[object]]
Make = Callable[[Hold], Awaitable[object]]


async def _login(store: JsonFileStore) -> Any:
    return await load_login(store, "default")


async def _registrations(store: JsonFileStore) -> Any:
    return await store.load_registrations("default")


@dataclass(frozen=True)
class Change:
    """`make` turns `before` into `after`, as `read` returns them; `further` is the next save of that file."""

    before: Any
    after: Any
    prepare: Prepare | None
    make: Make
    read: Callable[[JsonFileStore], Awaitable[Any]] = _login
    further: Make = lambda hold: hold.save(NEXT)
    further_read: Any = NEXT
    keys: str | None = None  # to write and read the file
    plain_before: bool = False  # the replaced files hold secrets in plain text; the written ones do not

    def store(self, path: Path, **options: Any) -> JsonFileStore:
        return JsonFileStore(
            path, encryption=None if self.keys is None else Encryption(SecretStr(self.keys)), **options
        )


async def _save_plain(store: JsonFileStore) -> None:
    await save_login(store, "default", OLD)
    await save_registration(store, "default", CONFIDENTIAL)


async def _save_with_old_key(store: JsonFileStore) -> None:
    await _save_plain(JsonFileStore(store.path("default"), encryption=Encryption(SecretStr(OLD_KEY))))


async def _save_all(hold: Hold) -> None:
    await hold.save(NEXT)
    await hold.save_registration(FURTHER)


async def _refresh(hold: Hold) -> None:
    """As a refresh changes the files: it reserves space first."""
    await hold.reserve(OLD.refresh_token)
    await hold.save(NEW)


def _encrypting(after: Any, prepare: Prepare, make: Make, *, plain_before: bool = False) -> Change:
    keys = f"{NEW_KEY},{OLD_KEY}"
    return Change(OLD, after, prepare, make, further=_save_all, keys=keys, plain_before=plain_before)


def _registering(before: tuple[Registration, ...]) -> Change:
    after = (*before, ADDED)
    return Change(
        before,
        after,
        (lambda store: save_registration(store, "default", before[0])) if before else None,
        lambda hold: hold.save_registration(ADDED),
        _registrations,
        lambda hold: hold.save_registration(FURTHER),
    )


async def _save_old(store: JsonFileStore) -> None:
    await save_login(store, "default", OLD)


CHANGES = {
    "first-save": Change(None, NEW, None, lambda hold: hold.save(NEW)),
    "save": Change(OLD, NEW, _save_old, lambda hold: hold.save(NEW)),
    "refresh": Change(OLD, NEW, _save_old, _refresh),
    "first-registration": _registering(()),
    "registration": _registering((STORED,)),
    "encrypted-save": _encrypting(NEW, _save_with_old_key, lambda hold: hold.save(NEW)),
    "encrypted-refresh": _encrypting(NEW, _save_with_old_key, _refresh),
    "migration": _encrypting(NEW, _save_plain, lambda hold: hold.save(NEW), plain_before=True),
    "reencrypt": _encrypting(OLD, _save_with_old_key, lambda hold: hold.reencrypt()),
    "delete": Change(OLD, None, _save_old, lambda hold: hold.delete()),
}
