"""One run: many persons, some at a time, each with a habit; then a check of each login."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from notion_oauth.sandbox import SandboxOptions, serve_sandbox
from tests.process.browsers import habits
from tests.process.browsers.browser import Browser
from tests.process.browsers.front import NGINX, front_of
from tests.process.browsers.habits import Habit
from tests.process.browsers.person import Person, Result
from tests.process.browsers.workers import Kind, Workers
from tests.process.browsers.world import World


@dataclass(frozen=True)
class Plan:
    """`at_once` is the number of persons who use the service at the same time."""

    sign_ins: int = 300
    at_once: int = 12
    seed: int = 0
    kind: Kind = "visitors"
    nginx: bool = NGINX is not None

    def habits(self, random: random.Random) -> list[Habit]:
        """Return a habit for each sign-in, in random order, without those of `last_habits`."""
        habits_of_all = [*habits.ORDINARY, *([habits.the_proxy_repeats_the_callback] if self.nginx else ())]
        each = max(1, self.sign_ins // 30)
        disturbing = [
            *[habits.a_worker_dies_before_the_callback] * each,
            *[habits.a_worker_dies_during_the_callback] * each,
            *([habits.another_session_key] * max(1, self.sign_ins // 60) if self.kind == "visitors" else ()),
        ]
        others = self.sign_ins - len(disturbing) - len(self.last_habits())
        rounds = -(-others // len(habits_of_all))
        chosen = [*disturbing, *(habits_of_all * rounds)[: max(0, others)]]
        random.shuffle(chosen)
        return chosen

    def last_habits(self) -> Sequence[Habit]:
        """Return the habits that disturb everybody else."""
        return [habits.the_key_is_taken_away] * max(1, self.sign_ins // 100) if self.kind == "visitors" else []


@dataclass
class Report:
    """The results of a run. It has failed if a sign-in was lost or mixed up."""

    plan: Plan
    results: list[Result]
    seconds: float
    kills: int
    restarts: int
    codes_sent_twice: int
    grants_left: int
    log: str = field(repr=False)

    @property
    def lost(self) -> int:
        return sum(bool(result.lost) for result in self.results)

    @property
    def mixed_up(self) -> int:
        return sum(bool(result.mixed_up) for result in self.results)

    @property
    def repeated(self) -> Counter[str]:
        """How many persons had to sign in again, by the reason."""
        return Counter(result.repeated for result in self.results if result.repeated)

    def __str__(self) -> str:
        front = "behind nginx with TLS" if self.plan.nginx else "WITHOUT NGINX, which is not installed"
        names = sorted({result.habit for result in self.results})
        width = max(map(len, names))
        lines = [
            f"{len(self.results)} sign-ins of {self.plan.kind} at two workers {front}, seed {self.plan.seed}",
            "",
            f"{'habit':{width}}  sign-ins  repeated by design  error page  lost  mixed up",
        ]
        lines += [_row(name, width, [each for each in self.results if each.habit == name]) for name in names]
        lines += [
            _row("all", width, self.results),
            "",
            *(f"repeated by design, {reason}: {count}" for reason, count in sorted(self.repeated.items())),
            f"workers killed: {self.kills}; restarts with another key: {self.restarts}",
            f"codes sent to the server twice: {self.codes_sent_twice}",
            f"grants that no browser holds: {self.grants_left}",
            f"seconds: {self.seconds:.0f}",
        ]
        for name in ("error_shown", "lost", "mixed_up"):
            found = Counter((each.habit, str(getattr(each, name))) for each in self.results if getattr(each, name))
            lines += [f"{name}: {count} x {habit}: {what}" for (habit, what), count in sorted(found.items())]
        return "\n".join(lines)


def _row(name: str, width: int, results: Sequence[Result]) -> str:
    counts = [
        sum(bool(getattr(each, field)) for each in results) for field in ("repeated", "error_shown", "lost", "mixed_up")
    ]
    repeated, error_shown, lost, mixed_up = counts
    return f"{name:{width}}  {len(results):>8}  {repeated:>18}  {error_shown:>10}  {lost:>4}  {mixed_up:>8}"


def run(plan: Plan) -> Report:
    """Raises RuntimeError if nginx or a worker does not start."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="browsers-", ignore_cleanup_errors=True) as name,
        _world(plan, Path(name)) as world,
    ):
        results = asyncio.run(_all(plan, world))
        return Report(
            plan,
            results,
            seconds=time.monotonic() - started,
            kills=len(world.workers.kills),
            restarts=world.workers.restarts,
            codes_sent_twice=world.codes_sent_twice,
            grants_left=world.sandbox.live_grants,
            log=world.workers.log(),
        )


@contextmanager
def _world(plan: Plan, directory: Path) -> Iterator[World]:
    (directory / "store").mkdir()
    with serve_sandbox(SandboxOptions(auto_consent=False)) as sandbox:
        workers = Workers(plan.kind, directory, sandbox.mcp_url)
        try:
            workers.start()
            with front_of(workers.ports, directory, nginx=plan.nginx) as front:
                yield World(sandbox, workers, front)
        finally:
            workers.stop()


async def _all(plan: Plan, world: World) -> list[Result]:
    chosen = random.Random(plan.seed)  # noqa: S311 - not a secret
    ordinary, last = plan.habits(chosen), plan.last_habits()
    room = asyncio.Semaphore(plan.at_once)
    people = [await _person(plan, world, number) for number in range(len(ordinary) + len(last))]

    async def one(person: Person, habit: Habit) -> Result:
        async with room:
            return await person.result(habit.__name__.replace("_", " "), habit(person))

    results = await asyncio.gather(*map(one, people, ordinary))
    for person, result in zip(people, results, strict=False):
        await person.check(result)
    for person, habit in zip(people[len(ordinary) :], last, strict=True):
        result = await one(person, habit)
        await person.check(result)
        results.append(result)
    for person in people:
        await person.browser.close()
    return results


async def _person(plan: Plan, world: World, number: int) -> Person:
    browser = Browser(world.front, f"127.1.{number // 250}.{number % 250 + 1}")
    name = f"user-{number}"
    if plan.kind == "users":
        await browser.enter(name)
    return Person(name, browser, world, random.Random(f"{plan.seed}/{number}"))  # noqa: S311
