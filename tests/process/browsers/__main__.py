"""Sign-ins with the habits of real people, at two workers behind nginx: `python -m tests.process.browsers`.

nginx runs as the user of this process, in a temporary directory. The exit code is 1 if a sign-in was lost, or mixed up
with another one.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from tests.process.browsers.front import NGINX
from tests.process.browsers.run import Plan, run
from tests.process.browsers.workers import Kind


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.process.browsers", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--sign-ins", type=int, default=300, help="number of sign-ins, each with a habit (%(default)s)")
    add("--at-once", type=int, default=12, help="persons who use the service at the same time (%(default)s)")
    add("--users", action="store_true", help="users of an application, instead of visitors on a public URL")
    add("--seed", type=int, help="of the random numbers (default: random)")
    add("--log", type=Path, metavar="FILE", help="write the log of the workers to this file")
    arguments = parser.parse_args()
    if NGINX is None:
        print("nginx is not installed: the browsers use the workers directly, without TLS", file=sys.stderr)
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    kind: Kind = "users" if arguments.users else "visitors"
    report = run(Plan(sign_ins=arguments.sign_ins, at_once=arguments.at_once, seed=seed, kind=kind))
    print(report)
    if arguments.log is not None:
        arguments.log.write_text(report.log)
    return 1 if report.lost or report.mixed_up else 0


if __name__ == "__main__":
    sys.exit(main())
