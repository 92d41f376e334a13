"""`python -m benchmarks`: measure ours and the peers side by side, and print the tables."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.environments import CANDIDATES, Installed, prepare
from benchmarks.measurements import commands, concurrency, cost, due, gateways, processes, service, sign_ins
from benchmarks.measurements.context import Context, Measurement
from benchmarks.tables import Table

MEASUREMENTS: dict[str, Measurement] = {
    "cost": cost.measure,
    "concurrency": concurrency.measure_concurrency,
    "expiry": concurrency.measure_expiry,
    "processes": processes.measure_processes,
    "restart": processes.measure_restart,
    "commands": commands.measure,
    "service": service.measure,
    "sign-ins": sign_ins.measure,
    "due": due.measure,
    "gateways": gateways.measure,
}
WITHOUT_PEERS = {"commands", "service", "sign-ins", "due", "gateways"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="this measurement; may be repeated")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds: checks that everything works; do not quote its numbers"
    )
    arguments = parser.parse_args()
    for name in list(os.environ):  # settings and proxies of this machine must not affect the results
        if name.startswith("NOTION_OAUTH_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    selected = [name for name in MEASUREMENTS if arguments.only is None or name in arguments.only]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        subjects = _subjects(Path(directory) / "environments") if set(selected) - WITHOUT_PEERS else []
        context = Context(subjects, Path(directory) / "states", quick=arguments.quick)
        for name in selected:
            print(f"{name} …", file=sys.stderr, flush=True)
            for table in MEASUREMENTS[name](context):
                print(table.markdown(), flush=True)
    print(f"done in {time.monotonic() - started:.0f} seconds", file=sys.stderr)


def _subjects(directory: Path) -> list[Installed]:
    """Make the environments, and print which succeeded."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    note = f"Python {platform.python_version()}, {machine}, load {os.getloadavg()[0]:.1f} before the run."
    table = Table("Clients", note, ("Client", "Versions"))
    ready: list[Installed] = []
    directory.mkdir()
    for candidate in CANDIDATES:
        print(f"environment of {candidate.name} …", file=sys.stderr, flush=True)
        prepared = prepare(candidate, directory)
        if isinstance(prepared, Installed):
            ready.append(prepared)
            table.add(prepared.name, prepared.versions)
        else:
            table.add(prepared.name, f"skipped: {prepared.reason}")
    print(table.markdown(), flush=True)
    return ready


if __name__ == "__main__":
    main()
