"""Runs the client scenarios of the official MCP conformance suite against `tests.conformance.client`.

    uv run python -m tests.conformance

Needs npm; the suite, and a Node that it can run on, are installed once into the user's cache directory. Prints one line
for each scenario and wire, with the checks that failed; the exit code is 0 only if every scenario passed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.conformance.suite import WIRES, Suite, Verdict


def main() -> None:
    arguments = _arguments()
    suite = Suite.installed()
    scenarios = arguments.scenarios or suite.scenarios()
    if not scenarios:
        sys.exit("The suite lists no authorization scenario: nothing was tested.")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="conformance-") as temporary, ThreadPoolExecutor(arguments.jobs) as pool:
        for wire in arguments.wires or WIRES:
            results = Path(arguments.keep or temporary).resolve() / wire
            client = [sys.executable, "-m", "tests.conformance.client"]
            run = partial(suite.run, wire=wire, command=client, into=results)
            verdicts = []
            for verdict in pool.map(run, scenarios):
                print(verdict, flush=True)
                verdicts.append(verdict)
            failed += _summary(wire, verdicts)
    sys.exit(1 if failed else 0)


def _summary(wire: str, verdicts: list[Verdict]) -> int:
    passed = sum(verdict.passed for verdict in verdicts)
    checks = sum(verdict.succeeded for verdict in verdicts), sum(verdict.checks for verdict in verdicts)
    print(f"{wire}: {passed} of {len(verdicts)} scenarios, {checks[0]} of {checks[1]} checks passed\n", flush=True)
    return len(verdicts) - passed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="such as auth/scope-step-up (default: all)")
    parser.add_argument("--wire", dest="wires", action="append", choices=WIRES, help="(default: both)")
    parser.add_argument("--jobs", type=int, default=2, help="number of scenarios to run in parallel (default: 2)")
    parser.add_argument("--keep", metavar="DIRECTORY", help="store the output of the suite and the client here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
