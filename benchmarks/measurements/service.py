"""The cost of the service compared with a bare FastAPI route, and how much of it is the log and the cookie."""

from __future__ import annotations

import http.client
import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.logins import FRESH, sign_in
from benchmarks.measurements.context import Context
from benchmarks.requests import send_requests
from benchmarks.servers import Server, serving
from benchmarks.tables import Table, microseconds
from notion_oauth.sandbox import Sandbox, serve_sandbox

BARE, QUIET_BARE = "a bare route", "a bare route, without a log"
PAGE = "text/html"


@dataclass
class Case:
    """A request, the case it is compared with, and the result of each turn."""

    server: Server
    baseline: str
    headers: Mapping[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)  # requests per second
    costs: list[float] = field(default_factory=list)  # processor seconds of the server for each request

    def turn(self, requests: int) -> None:
        before = self.server.processor_seconds()
        seconds = send_requests(self.server.port, requests, **self.headers)
        self.costs.append((self.server.processor_seconds() - before) / requests)
        self.rates.append(requests / seconds)


def measure(context: Context) -> Iterator[Table]:
    rounds, requests = context.choose(2, 15), context.choose(500, 3000)
    table = Table(
        "The service beside a bare route",
        f"`uvicorn main:app` and a FastAPI application with one JSON route, each in a separate process with uvicorn's"
        f" defaults; both log one line for each request unless the row says otherwise. {requests} requests over 16"
        f" persistent connections from another process, {rounds} alternating rounds. Values are medians; ratios are"
        " medians of the ratios within one round.",
        ("`GET /auth/status`", "Beside", "Requests per second", "Processor time", "Rate", "Processor time, ratio"),
    )
    with ExitStack() as running:
        cases = _cases(context, running.enter_context(serve_sandbox()), running)
        for case in cases.values():
            send_requests(case.server.port, 200, **case.headers)  # caches are filled
        for _ in range(rounds):
            for case in cases.values():
                case.turn(requests)
    for name, case in cases.items():
        baseline = cases[case.baseline]
        table.add(
            name,
            case.baseline,
            f"{statistics.median(case.rates):.0f}",
            microseconds(statistics.median(case.costs) * 1e6),
            _share(case.rates, baseline.rates),
            _share(case.costs, baseline.costs),
        )
    yield table


def _cases(context: Context, sandbox: Sandbox, running: ExitStack) -> dict[str, Case]:
    signed_out_directory, signed_in_directory, quiet = (context.new_directory() for _ in range(3))
    login = sign_in(sandbox, signed_in_directory / "tokens.json", left=FRESH)
    bare = running.enter_context(serving("benchmarks.bare:app", context.new_directory()))
    quiet_bare = running.enter_context(serving("benchmarks.bare:app", context.new_directory(), "--no-access-log"))
    url = sandbox.mcp_url
    empty = running.enter_context(
        serving("main:app", signed_out_directory, server_url=url, token_file=str(signed_out_directory / "tokens.json"))
    )
    signed_in = running.enter_context(serving("main:app", signed_in_directory, server_url=url, token_file=str(login)))
    silent = running.enter_context(
        serving("main:app", quiet, server_url=url, token_file=str(quiet / "tokens.json"), log_level="warning")
    )
    cookie = _cookie(signed_in)
    return {
        BARE: Case(bare, BARE),
        "signed out": Case(empty, BARE),
        "signed in": Case(signed_in, BARE),
        "signed in, with a session cookie": Case(signed_in, "signed in", {"Cookie": cookie}),
        "signed in, the page, without a cookie": Case(signed_in, BARE, {"Accept": PAGE}),
        "signed in, the page, with a session cookie": Case(
            signed_in, "signed in, the page, without a cookie", {"Accept": PAGE, "Cookie": cookie}
        ),
        QUIET_BARE: Case(quiet_bare, BARE),
        "signed out, without a log": Case(silent, QUIET_BARE),
    }


def _cookie(server: Server) -> str:
    """The session cookie that a browser gets with its first page."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/", headers={"Accept": PAGE})
    set_cookie = connection.getresponse().headers["Set-Cookie"]
    connection.close()
    return set_cookie.partition(";")[0]


def _share(own: list[float], baseline: list[float]) -> str:
    return f"{statistics.median(ours / theirs for ours, theirs in zip(own, baseline, strict=True)):.2f}"
