"""Access logs of web servers contain no query of a callback, in any spelling of its path."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from notion_oauth.web.access_logs import LOGGERS, protect_access_logs, without_callback_query

CALLBACKS = [
    "/auth/callback?code=canary&state=canary",
    "/auth/callback?error=access_denied&error_description=canary&state=canary",
    "/auth/callback?c%6Fde=canary",
    "/apps/notion/callback?code=canary",
    "/auth/callback/?code=canary",
    "/auth/callback//?code=canary",
    "/auth/c%61llback?code=canary",
    "/auth/callbac%6B?code=canary",
    "/AUTH/CallBack?CODE=canary",
    "/auth/callbak?code=canary&state=canary",
    "/auth/callbak?c%6fde=canary&ST%41TE=canary",
    "/?state=canary&code=canary",
    "http://localhost:8000/auth/callback?code=canary",
    "/auth/callback?canary",
    "/auth/callback?x=1?code=canary",
]
OTHERS = ["/search?q=kept", "/issues?state=kept", "/redeem?code=kept", "/callbacks?list=kept", "/callback/kept?x=kept"]


def uvicorn_record(path: str) -> logging.LogRecord:
    args = ("127.0.0.1:5", "GET", path, "1.1", 303)
    return logging.LogRecord("uvicorn.access", logging.INFO, "", 1, '%s - "%s %s HTTP/%s" %d', args, None)


def gunicorn_record(target: str) -> logging.LogRecord:
    """The fields of Gunicorn, which Hypercorn uses too."""
    path, _, query = target.partition("?")
    atoms = {"h": "127.0.0.1", "r": f"GET {target} HTTP/1.1", "U": path, "q": query, "s": "303", "f": "-", "B": 5}
    return logging.LogRecord("gunicorn.access", logging.INFO, "", 1, '%(r)s %(U)s %(q)s "%(f)s"', (atoms,), None)


def asgi_record(target: str) -> logging.LogRecord:
    path, _, query = target.partition("?")
    scope = {"type": "http", "path": path, "query_string": query.encode(), "headers": "<...>"}
    return logging.LogRecord("uvicorn.asgi", 5, "", 1, "%s [%d] Started scope=%s", ("ASGI", 1, scope), None)


@pytest.mark.parametrize("target", CALLBACKS)
@pytest.mark.parametrize("server", [uvicorn_record, gunicorn_record, asgi_record])
def test_the_query_of_a_callback_is_removed(server: object, target: str) -> None:
    record = server(target)  # type: ignore[operator]
    assert "canary" in record.getMessage()
    assert without_callback_query(record)
    assert "canary" not in record.getMessage()


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("server", [uvicorn_record, gunicorn_record, asgi_record])
def test_the_query_of_other_routes_is_kept(server: object, target: str) -> None:
    record = server(target)  # type: ignore[operator]
    before = record.getMessage()
    assert without_callback_query(record)
    assert record.getMessage() == before


def test_the_query_of_a_referrer_is_removed() -> None:
    record = gunicorn_record("/auth/status")
    assert isinstance(record.args, dict)
    record.args["f"] = "http://localhost/auth/callback?code=canary"
    without_callback_query(record)
    assert record.getMessage().endswith('"http://localhost/auth/callback"')


def test_the_scope_of_the_application_is_not_changed() -> None:
    record = asgi_record("/auth/callback?code=canary")
    assert isinstance(record.args, tuple)
    scope = record.args[2]
    without_callback_query(record)
    assert scope["query_string"] == b"code=canary"  # type: ignore[index]


def test_other_log_records_are_unchanged() -> None:
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 1, "no arguments?", None, None)
    assert without_callback_query(record)
    assert record.getMessage() == "no arguments?"


APPLICATION = """
import logging
from fastapi import FastAPI
from notion_oauth import create_router
from starlette.middleware.sessions import SessionMiddleware
logging.basicConfig(level=1)
app = FastAPI()
app.include_router(create_router(prefix="/x"))
app.add_middleware(SessionMiddleware, secret_key="k" * 32)
"""


@pytest.mark.slow
def test_any_application_with_the_router_is_protected(tmp_path: Path) -> None:
    """Under uvicorn, at its most verbose log level."""
    (tmp_path / "theirs.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "uvicorn", "theirs:app", "--port", "0", "--log-level", "trace"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        running = next(line for line in iter(process.stderr.readline, "") if "Uvicorn running on" in line)
        found = re.search(r"http://127\.0\.0\.1:\d+", running)
        try:
            assert found
            with httpx.Client(trust_env=False) as client:
                for path in ("/x/callback", "/x/c%61llback", "/x/callback/", "/X/CALLBACK", "/x/none"):
                    for method in ("GET", "HEAD", "OPTIONS"):
                        client.request(
                            method, f"{found.group()}{path}?code=canary-code&state=canary-state&c%6Fde=canary"
                        )
        finally:
            process.terminate()
            out, log = process.communicate(timeout=10)
    assert out.count("HTTP/1.1") == 15, "the access log is captured"
    assert log.count("query_string") >= 15, "the trace log is captured"
    assert "canary" not in out + log


def test_protect_access_logs_is_idempotent() -> None:
    protect_access_logs()
    protect_access_logs()
    for name in LOGGERS:
        assert logging.getLogger(name).filters.count(without_callback_query) == 1
