"""The log of the service and the commands: one line for each event, as text or JSON."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from notion_oauth.observability.audit import LogFields
from notion_oauth.observability.context import PROFILE, REQUEST_ID
from notion_oauth.observability.log_format import JsonLines, TextLines
from tests.support.command_line import CommandLine

CANARY = "canary-of-some-length"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def record(message: str, *args: object, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    trace = None if error is None else (type(error), error, error.__traceback__)
    result = logging.LogRecord("a.name", logging.INFO, __file__, 1, message, args, trace)
    result.__dict__.update(extra)
    return result


def crash() -> Exception:
    message = f"access_token={CANARY}\n2026-01-01T00:00:00.000Z INFO forged line"
    try:
        int(message)
    except ValueError as error:
        error.args = (message,)
        return error
    raise AssertionError("int() must fail")


def test_the_text_format() -> None:
    assert re.fullmatch(rf"{TIME} INFO a\.name said 7", TextLines().format(record("said %d", 7)))
    facts = LogFields(outcome="success", detail='He said "no" = never', empty="")
    line = TextLines().format(record("%s %s", "refresh", facts, event="refresh", facts=facts))
    assert line.endswith(r'a.name refresh outcome=success detail="He said \"no\" = never" empty=""')


def test_the_json_format() -> None:
    facts = LogFields(outcome="success")
    line = json.loads(JsonLines().format(record("%s %s", "refresh", facts, event="refresh", facts=facts)))
    assert re.fullmatch(TIME, line.pop("time"))
    assert line == {"level": "info", "logger": "a.name", "message": "refresh", "outcome": "success"}


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()], ids=["text", "json"])
def test_a_line_contains_its_context(formatter: logging.Formatter) -> None:
    context = copy_context()
    context.run(REQUEST_ID.set, "from-the-proxy")
    context.run(PROFILE.set, "work")
    line = context.run(formatter.format, record("said"))
    assert "from-the-proxy" in line
    assert "work" in line
    own = context.run(formatter.format, record("said", facts=LogFields(profile="home")))
    assert "home" in own
    assert "work" not in own


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()], ids=["text", "json"])
@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x85", "\u2028", "\u202e", "\0"])
def test_control_characters_are_escaped(formatter: logging.Formatter, character: str) -> None:
    line = formatter.format(record("path %s", f"/a{character}b", facts=LogFields(path=f"/c{character}d")))
    assert character not in line
    assert "b" in line
    assert "d" in line


def test_a_traceback_is_indented() -> None:
    first, *rest = TextLines().format(record("It crashed.", error=crash())).splitlines()
    assert first.endswith("It crashed.")
    assert any("ValueError" in line for line in rest)
    assert any("forged line" in line for line in rest)
    assert all(line.startswith("    ") for line in rest)


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()], ids=["text", "json"])
def test_secrets_are_redacted_in_every_part(formatter: logging.Formatter) -> None:
    facts = LogFields(detail=f"code={CANARY}")
    line = formatter.format(record("Authorization: Bearer %s", CANARY, facts=facts, error=crash()))
    assert line.count("[redacted]") == 3
    assert CANARY not in line


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()], ids=["text", "json"])
@pytest.mark.parametrize(
    "value",
    [
        f"/cookie:{CANARY}",
        f"cookie: a={CANARY}; b={CANARY}",
        f'Authorization: "{CANARY}',
        f"\N{LATIN SMALL LETTER LONG S}tate={CANARY}",
        f"c\N{LATIN SMALL LETTER LONG S}rf_token={CANARY}",
    ],
)
def test_redacting_one_fact_keeps_the_others(formatter: logging.Formatter, value: str) -> None:
    """A sender must not be able to hide its address."""
    facts = LogFields(method="GET", path=value, status="404", client="203.0.113.9", request_id="7c1e0f9d2b34a6e8")
    line = formatter.format(record("%s %s", "request", facts, event="request", facts=facts))
    assert CANARY not in line
    assert "[redacted]" in line
    for name in ("method", "status", "client", "request_id"):
        assert re.search(rf'\b{name}(=|": "){re.escape(facts[name])}\b', line), name


def test_the_name_of_a_fact_is_used_for_redaction() -> None:
    for formatter in (TextLines(), JsonLines()):
        line = formatter.format(record("said", facts=LogFields(code=CANARY, cookie=f"a={CANARY}", outcome="success")))
        assert CANARY not in line
        assert "success" in line


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=Path.cwd()
    )


SETUP = (
    "import logging, warnings\n"
    "from notion_oauth.observability.log_format import configure\n"
    "configure({level!r}, {style!r})\n"
)


def test_the_configured_level_and_format_are_used() -> None:
    code = "log = logging.getLogger('x')\nlog.debug('one'); log.info('two'); log.warning('three')\n"
    code += "logging.getLogger('httpx').info('chatter')"
    done = python(SETUP.format(level="info", style="text") + code)
    assert [line.split()[-1] for line in done.stderr.splitlines()] == ["two", "three"]
    assert done.stdout == ""
    done = python(SETUP.format(level="debug", style="json") + code)
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["one", "two", "three", "chatter"]


def test_python_warnings_are_logged() -> None:
    done = python(SETUP.format(level="info", style="json") + "warnings.warn('deprecated')")
    assert json.loads(done.stderr)["logger"] == "py.warnings"


def test_existing_logging_configuration_is_kept() -> None:
    before = "import logging, sys; logging.basicConfig(stream=sys.stdout, format='other %(message)s')\n"
    done = python(before + SETUP.format(level="debug", style="json") + "logging.getLogger('x').warning('said')")
    assert (done.stdout, done.stderr) == ("other said\n", "")


def test_a_line_that_cannot_be_formatted_does_not_show_its_arguments() -> None:
    """By default, logging prints the arguments of a line that it cannot format."""
    code = f"logging.getLogger('x').warning('%d', {CANARY!r})"
    done = python(SETUP.format(level="info", style="text") + code)
    assert done.stderr == "A log line of x could not be written.\n"


@pytest.mark.slow
def test_commands_log_only_with_verbose(cli: CommandLine) -> None:
    cli.run("login")
    assert "notion_oauth.audit" not in cli.process("refresh").stderr
    verbose = cli.process("-v", "refresh", NOTION_OAUTH_LOG_FORMAT="json")
    line = json.loads(verbose.stderr.splitlines()[0])
    assert (line["message"], line["outcome"], len(line["request_id"])) == ("refresh", "success", 16)
    debug = cli.process("-vv", "token", "--min-ttl", "59m")
    assert "httpcore" not in debug.stdout
    assert len(debug.stdout.splitlines()) == 1, "only the token"
    assert cli.process("-v", "status", NOTION_OAUTH_LOG_LEVEL="loud").returncode == 2
