"""Many processes share one login while everything fails: `python -m tests.process.chaos`.

Workers are killed and stopped, disks are full, clocks are set, lock files are deleted, backups are restored, and
requests and responses are lost or late. The run ends with 1 if a login is lost that need not be.
"""

from __future__ import annotations

import argparse
import math
import secrets
import sys

from tests.process.chaos.runner import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.process.chaos", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, help="length of the run (default: 60, or until --expiries)")
    add("--expiries", type=int, help="run until this number of access tokens has expired and everything has happened")
    add("--logins", type=int, default=1, help="token files, each with its own login (%(default)s)")
    add("--processes", type=int, default=4, help="worker processes for each login (%(default)s)")
    add("--tasks", type=int, default=3, help="tasks in each process (%(default)s)")
    add("--seed", type=int, help="of the random numbers (default: random)")
    add("--rules", choices=["notion", "strict"], default="notion", help="for reuse of refresh tokens (%(default)s)")
    add("--faults", type=float, default=0.3, help="share of the refreshes that fail (%(default)s)")
    add("--lifetime", type=int, default=1, help="of access tokens, in seconds (%(default)s)")
    add("--disrupt-every", type=float, default=1.0, help="seconds between two disruptions, on average (%(default)s)")
    add("--short", action="store_true", help="run until everything has happened once, a minute at most")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.expiries = arguments.expiries or 1
    seconds = arguments.seconds or (60 if arguments.short or arguments.expiries is None else math.inf)
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    plan = Plan(
        seconds=seconds,
        expiries=math.inf if arguments.expiries is None else arguments.expiries,
        logins=arguments.logins,
        processes=arguments.processes,
        tasks=arguments.tasks,
        seed=seed,
        rules=arguments.rules,
        faults=arguments.faults,
        lifetime=arguments.lifetime,
        disrupt_every=arguments.disrupt_every,
    )
    print(f"seed {seed}, {plan.rules} rules", flush=True)
    report = run(plan)
    print(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
