"""Looks at everything that a sign-in and a refresh need, and says what is not well and what mends it.

It changes nothing: no file is written or mended, nobody is registered, nothing is refreshed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import anyio

from notion_oauth.cli.doctor import environment_checks, network_checks, storage_checks
from notion_oauth.cli.doctor.context import Check, CheckContext, in_thread
from notion_oauth.cli.doctor.findings import RESULTS, Finding, NotChecked, Result, failure, warning
from notion_oauth.cli.doctor.scrub import scrub
from notion_oauth.clock import Clock, utc_now
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.errors import ConfigurationError, NotionOAuthError
from notion_oauth.interactive import browser
from notion_oauth.settings import Settings

PATIENCE = timedelta(seconds=12)  # for each check; all begin at once
CHECKS: tuple[tuple[str, Check], ...] = (
    ("file", storage_checks.file),
    ("folder", in_thread(storage_checks.folder)),
    ("lock", in_thread(storage_checks.lock)),
    ("kept", storage_checks.kept),
    ("registrations", storage_checks.registrations),
    ("session key", in_thread(storage_checks.session_key)),
    ("login", storage_checks.login),
    ("route", network_checks.route),
    ("trust", network_checks.trust),
    ("server", network_checks.server),
    ("certificate", network_checks.certificate),
    ("clock", network_checks.clock),
    ("metadata", network_checks.metadata),
    ("endpoints", network_checks.endpoints),
    ("issuer route", network_checks.issuer_route),
    ("client", network_checks.client),
    ("port", environment_checks.port),
)
_WIDTH = max(len(name) for name, _ in CHECKS)

Row = tuple[str, Finding]


@dataclass(frozen=True)
class Report:
    """What all checks have found, in their order."""

    rows: tuple[Row, ...]

    @property
    def result(self) -> Result:
        """The worst of all."""
        return max((finding.result for _, finding in self.rows), key=RESULTS.index)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready mapping: `result`, and in `checks` for each line its `check`, `result`, `message` and `hint`."""
        lines = [
            {"check": name, "result": found.result, "message": found.message, "cure": found.hint}
            for name, found in self.rows
        ]
        return {"result": self.result, "checks": lines}

    def in_lines(self, paint: Callable[[Result, str], str]) -> str:
        """A line for each finding, and one below it for its cure. `paint` colours a word as its result asks for."""
        lines = []
        for name, found in self.rows:
            begins = f"{paint(found.result, f'{found.result:<7}')}  {name:<{_WIDTH}}  "
            lines.append(begins + found.message)
            if found.hint:
                lines.append(" " * (7 + 2 + _WIDTH + 2) + found.hint)
        return "\n".join(lines)

    def map_text(self, change: Callable[[str], str]) -> Report:
        """The same with each text as `change` puts it."""
        return Report(
            tuple(
                (name, replace(found, message=change(found.message), hint=found.hint and change(found.hint)))
                for name, found in self.rows
            )
        )


async def run_checks(
    load: Callable[[], Settings],
    environment: Mapping[str, str],
    *,
    render_command: Callable[[str], str] = str,
    clock: Clock = utc_now,
    checks: Sequence[tuple[str, Check]] = CHECKS,
    patience: timedelta = PATIENCE,
) -> Report:
    """Do all checks at once, within `patience`. Where `load` raises ConfigurationError, those that need no settings.

    `render_command` puts our commands as they are run here. What is private is taken out of the report. Raises nothing.
    """
    around = browser.here()
    rows: list[Row] = []
    for name, look in (("program", environment_checks.program), ("packages", environment_checks.packages)):
        rows += [(name, found) for found in await _guarded(run_in_daemon_thread(look))]
    rows += [("place", found) for found in environment_checks.place(around)]
    addresses: list[str | None] = []
    try:
        settings = load()
    except ConfigurationError as error:
        rows.append(("settings", failure(error.message, error.hint)))
    else:
        addresses = [settings.server_url, settings.issuer, settings.public_url, settings.client_metadata_url]
        rows += [
            ("settings", found)
            for found in await _guarded(run_in_daemon_thread(lambda: environment_checks.given(settings, environment)))
        ]
        rows += await _all(CheckContext(settings, clock), checks, patience)
    rows += [
        ("browser", found) for found in await _guarded(run_in_daemon_thread(lambda: environment_checks.browser(around)))
    ]
    clean = scrub({**environment_checks.in_dotenv(), **environment}, *addresses)
    return Report(tuple(rows)).map_text(lambda text: clean(render_command(text)))


async def _all(case: CheckContext, checks: Sequence[tuple[str, Check]], patience: timedelta) -> list[Row]:
    found: dict[str, Sequence[Finding]] = {}
    deadline = anyio.current_time() + patience.total_seconds()

    async def one(name: str, look: Check) -> None:
        with anyio.CancelScope(deadline=deadline):
            found[name] = await _guarded(look(case))

    async def begin(doing: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope(deadline=deadline):
            await doing()

    async with anyio.create_task_group() as tasks:
        for doing in (case.read, case.converse):
            tasks.start_soon(begin, doing)
        for name, look in checks:
            tasks.start_soon(one, name, look)
    late = failure(f"No answer within {patience.total_seconds():g} seconds.", "Look for what holds it up there.")
    return [(name, finding) for name, _ in checks for finding in found.get(name, [late])]


async def _guarded(looking: Awaitable[Sequence[Finding]]) -> Sequence[Finding]:
    """What a check finds. One that cannot be done is a finding too."""
    try:
        return await looking
    except NotChecked:
        return [warning("Not checked, for what it takes was not to be had.", "Mend the failures first.")]
    except NotionOAuthError as error:
        return [failure(error.message, error.hint)]
    except Exception as error:
        hint = "That is a mistake of this program: report it with these lines."
        return [failure(f"The check itself has failed ({type(error).__name__}).", hint)]
