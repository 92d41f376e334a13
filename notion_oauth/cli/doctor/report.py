"""Check everything that a sign-in and a refresh need, and report what is wrong and how to fix it.

This changes nothing: it writes and repairs no file, registers no client, and refreshes no token.
"""

from __future__ import annotations

import textwrap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio

from notion_oauth.cli.doctor import database_checks, environment_checks, gateway_checks, network_checks, storage_checks
from notion_oauth.cli.doctor.context import Check, CheckContext, in_thread
from notion_oauth.cli.doctor.findings import RESULTS, CheckSkipped, Finding, Result, failure
from notion_oauth.cli.doctor.scrub import scrub
from notion_oauth.clock import Clock, utc_now
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.errors import ConfigurationError, Hint, NotionOAuthError, StorageError, escape
from notion_oauth.interactive import browser
from notion_oauth.settings import Settings

TIME_LIMIT = timedelta(seconds=12)  # for each check; all start at once
CHECKS: tuple[tuple[str, Check], ...] = (
    ("file", storage_checks.file),
    ("folder", in_thread(storage_checks.directory)),
    ("lock", in_thread(storage_checks.lock)),
    ("kept", storage_checks.protection),
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
    ("gateway", gateway_checks.gateway),
    ("clients", in_thread(gateway_checks.clients)),
)
_OF_FILES = ("file", "folder", "lock")  # not made with a database
_LABELS = {"place": "system", "folder": "directory", "kept": "encryption", "trust": "authorities"}  # in the text report
_WIDTH = max(len(name) for name, _ in CHECKS)

Row = tuple[str, Finding]


@dataclass(frozen=True)
class Report:
    """The findings of all checks, in order."""

    rows: tuple[Row, ...]

    @property
    def result(self) -> Result:
        """The worst result of all findings."""
        return max((finding.result for _, finding in self.rows), key=RESULTS.index)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready mapping: `result`, and in `checks` each line's `check`, `result`, `message`, `cure` (hint)."""
        lines = [
            {"check": name, "result": found.result, "message": found.message, "cure": found.hint}
            for name, found in self.rows
        ]
        return {"result": self.result, "checks": lines}

    def as_text(self, style: Callable[[Result, str], str], *, width: int | None = None) -> str:
        """The verdict, then one line per finding, followed by its hint. `style` colours a text according to the result.

        A failed check also names the others that could not be made because of it. Lines are wrapped at words to
        `width`, if it is not None.
        """
        causes = self._causes()
        lines = [style(self.result, self._verdict(causes)), ""]
        for (name, found), cause in zip(self.rows, causes, strict=True):
            if cause is not None:
                continue
            texts = [found.message, str(found.hint or "")]
            if found.result == "failure":
                others = [_label(other) for (other, _), each in zip(self.rows, causes, strict=True) if each == name]
                texts.append(f"Not checked because of this: {', '.join(dict.fromkeys(others))}." if others else "")
            start = f"{style(found.result, f'{found.result:<7}')}  {_label(name):<{_WIDTH}}  "
            lines.append(start + _wrapped([text for text in texts if text], width))
        return "\n".join(lines)

    def _causes(self) -> list[str | None]:
        """For each row, the failed check that explains it: it was skipped, or failed with the same message."""
        first: dict[str, str] = {}
        causes: dict[str, str] = {}
        found: list[str | None] = []
        for name, finding in self.rows:
            cause = finding.depends_on
            if cause is None and finding.result == "failure":
                cause = first.setdefault(finding.message, name)
            cause = causes.get(cause, cause) if cause is not None else None
            if cause in (None, name):
                found.append(None)
            else:
                causes[name] = str(cause)
                found.append(cause)
        return found

    def _verdict(self, causes: Sequence[str | None]) -> str:
        """The result in a sentence: what fails, and how many warnings there are."""
        rows = [row for row, cause in zip(self.rows, causes, strict=True) if cause is None]
        failed = list(dict.fromkeys(_label(name) for name, found in rows if found.result == "failure"))
        warnings = sum(found.result == "warning" for _, found in rows)
        text = "No check fails." if warnings else "Everything works."
        if failed:
            text = f"{len(failed)} check{' fails' if len(failed) == 1 else 's fail'}: {', '.join(failed)}."
        return f"{text} {warnings} warning{'' if warnings == 1 else 's'}." if warnings else text


def _label(check: str) -> str:
    return _LABELS.get(check, check)


def _wrapped(texts: Sequence[str], width: int | None) -> str:
    """Return the texts below each other beside the names of the checks, in lines of at most `width`."""
    indent = 7 + 2 + _WIDTH + 2
    lines = [line for text in texts for line in ([text] if width is None else _wrap(text, max(30, width - indent)))]
    return f"\n{' ' * indent}".join(lines)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


async def run_checks(
    load: Callable[..., Settings],
    environment: Mapping[str, str],
    *,
    env_file: Path | None = None,
    render: Callable[[Hint], str] = str,
    clock: Clock = utc_now,
    checks: Sequence[tuple[str, Check]] = CHECKS,
    time_limit: timedelta = TIME_LIMIT,
) -> Report:
    """Run all checks concurrently, each within `time_limit`, and return the report.

    If `load` raises ConfigurationError, only the checks that need no settings run. `env_file` is the file with settings
    that `load` reads.

    `render` returns a hint with its command as the user can run it. Private data is removed from the report. Raises
    nothing.
    """
    here = browser.detect_environment()
    rows: list[Row] = []
    for name, check in (("program", environment_checks.program), ("packages", environment_checks.packages)):
        rows += [(name, found) for found in await _run_guarded(run_in_daemon_thread(check))]
    rows += [("place", found) for found in environment_checks.system(here)]
    addresses: list[str | None] = []
    try:
        try:
            settings = load()
        except StorageError as error:  # of the name of the default profile
            rows.append(("settings", failure(error.message, error.hint)))
            settings = load(default_profile=False)
    except ConfigurationError as error:
        rows.append(("settings", failure(error.message, error.hint)))
    else:
        addresses = [settings.server_url, settings.issuer, settings.public_url, settings.client_metadata_url]
        rows += [
            ("settings", found)
            for found in await _run_guarded(
                run_in_daemon_thread(lambda: environment_checks.configured(settings, environment))
            )
        ]
        if settings.database is not None:
            checks = [("database", database_checks.database), *(each for each in checks if each[0] not in _OF_FILES)]
        rows += await _run_all(CheckContext(settings, clock), checks, time_limit)
    rows += [
        ("browser", found)
        for found in await _run_guarded(run_in_daemon_thread(lambda: environment_checks.browser(here)))
    ]
    clean = scrub({**environment_checks.in_env_file(env_file), **environment}, *addresses)

    def shown(found: Finding) -> Finding:
        hint = render(Hint(found.hint) if isinstance(found.hint, str) else found.hint) if found.hint else None
        return replace(found, message=escape(clean(found.message)), hint=hint and escape(clean(hint)))

    return Report(tuple((name, shown(found)) for name, found in rows))


async def _run_all(context: CheckContext, checks: Sequence[tuple[str, Check]], time_limit: timedelta) -> list[Row]:
    found: dict[str, Sequence[Finding]] = {}
    deadline = anyio.current_time() + time_limit.total_seconds()

    async def run_check(name: str, check: Check) -> None:
        with anyio.CancelScope(deadline=deadline):
            found[name] = await _run_guarded(check(context))

    async def run_shared(work: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope(deadline=deadline):
            await work()

    async with anyio.create_task_group() as tasks:
        for work in (context.read_files, context.contact_server):
            tasks.start_soon(run_shared, work)
        for name, check in checks:
            tasks.start_soon(run_check, name, check)
    late = failure(
        f"No result within {time_limit.total_seconds():g} seconds.",
        "Run doctor again. If it is slow again, check the network, and the disk of the token file.",
    )
    return [(name, finding) for name, _ in checks for finding in found.get(name, [late])]


async def _run_guarded(check: Awaitable[Sequence[Finding]]) -> Sequence[Finding]:
    """Return the findings of a check; its error, if it raises, as a finding."""
    try:
        return await check
    except CheckSkipped as skipped:
        return [skipped.finding()]
    except NotionOAuthError as error:
        return [failure(error.message, error.hint)]
    except Exception as error:
        hint = "This is a bug in this program: please report it with this output."
        return [failure(f"The check itself failed ({type(error).__name__}).", hint)]
