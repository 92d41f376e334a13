"""What people do with a browser. Each habit is one sign-in, and returns the page that the person sees at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tests.process.browsers.browser import Page, Way
from tests.process.browsers.person import Lost, Person, code_of

Habit = Callable[[Person], Coroutine[Any, Any, Page]]
SLOW = (0.2, 0.6)  # seconds that an exchange takes, where a habit needs time for something else


async def no_habit(person: Person) -> Page:
    return await person.sign_in()


async def double_click_on_connect(person: Person) -> Page:
    """The browser gives up the first request, whose response may still arrive."""
    if person.random.random() < 0.5:
        await person.abandon(person.connect(person.way()), person.random.uniform(0.01, 0.3))
        consent = await person.connect()
    else:
        _, consent = await asyncio.gather(person.connect(person.way()), person.connect(person.way()))
    return await person.come_back(await person.approve(consent))


async def double_click_on_consent(person: Person) -> Page:
    """Two requests for the callback: the second one fills the tab."""
    callback = await _slow_callback(person)
    if person.random.random() < 0.5:
        await person.abandon(person.come_back(callback), person.random.uniform(0.01, 0.3))
        return await person.come_back(callback)
    _, page = await asyncio.gather(person.come_back(callback, person.way()), person.come_back(callback, person.way()))
    return page


async def reload_during_the_callback(person: Person) -> Page:
    callback = await _slow_callback(person)
    for _ in range(person.random.randint(1, 3)):
        await person.abandon(person.come_back(callback), person.random.uniform(0.02, 0.4))
    return await person.come_back(callback)


async def reload_after_a_lost_connection(person: Person) -> Page:
    """The response is lost after the service has completed the sign-in."""
    callback = await _callback(person)
    await person.abandon(person.come_back(callback, Way(latency=5)), 1.5)
    return await person.come_back(callback)


async def back_to_the_callback_and_forward(person: Person) -> Page:
    callback = await _callback(person)
    _expect(await person.come_back(callback), "before going back")
    await person.come_back(callback)
    return await person.status()


async def back_to_the_consent_and_approve_again(person: Person) -> Page:
    """A second code for the same sign-in."""
    consent = await person.connect()
    _expect(await person.come_back(await person.approve(consent)), "before going back")
    consent = await person.browser.open(consent.url)
    return await person.come_back(await person.approve(consent))


async def two_tabs(person: Person) -> Page:
    """Both are begun at once, and come back in any order. Each must show that it is signed in."""
    consents = [*await asyncio.gather(person.connect(person.way()), person.connect(person.way()))]
    person.random.shuffle(consents)
    callbacks = [await person.approve(consent) for consent in consents]
    pages = await asyncio.gather(*(_later(person, callback) for callback in callbacks))
    for page in pages:
        _expect(page, "one of two tabs")
    return await person.status()


async def a_second_connect_is_answered_last(person: Person) -> Page:
    """The second tab sends its request before the first one comes back, gets its response later, and stays there."""
    callback = await _callback(person)
    second = asyncio.ensure_future(person.connect(Way(latency=1)))
    await person.pause(0.1)
    _expect(await person.come_back(callback), "the first tab")
    await second
    return await person.status()


async def an_old_cookie_at_the_other_worker(person: Person) -> Page:
    """Another session with the cookies from before the callback repeats it, at the worker that has not seen it."""
    callback = await _callback(person)
    other = person.browser.restored()
    worker = person.random.randrange(2)
    first = asyncio.ensure_future(person.come_back(callback, Way(worker=worker)))
    if person.random.random() < 0.5:
        await first
    try:
        await other.patient(callback, Way(worker=1 - worker))
    finally:
        await other.close()
    _expect(await first, "the browser itself")
    return await person.status()


async def the_proxy_repeats_the_callback(person: Person) -> Page:
    """The proxy does not wait for the worker, and sends the request to the other one."""
    callback = await _callback(person)
    person.world.delay(code_of(callback), person.random.uniform(0.5, 0.9))
    return await person.come_back(callback, Way(impatient=True))


async def status_pages_during_the_callback(person: Person) -> Page:
    callback = await _slow_callback(person)
    answers = asyncio.ensure_future(person.come_back(callback, person.way(0.1)))
    pages = []
    for _ in range(person.random.randint(2, 4)):
        pages.append(asyncio.ensure_future(person.status(person.way(0.6))))
        await person.pause(0.2)
    _expect(await answers, "the callback")
    await asyncio.gather(*pages)
    return await person.status()


async def seven_pending_sign_ins(person: Person) -> Page:
    """Seven tabs, of which any one is completed."""
    consents = [await person.connect() for _ in range(7)]
    return await person.come_back(await person.approve(person.random.choice(consents)))


async def declined_first(person: Person) -> Page:
    page = await person.decline(await person.connect())
    if "declined" not in page.text and not person.excuse:
        raise Lost(f"declined: {page}")
    return await person.sign_in()


async def signed_in_again(person: Person) -> Page:
    """The new login replaces the old one."""
    _expect(await person.sign_in(), "the first time")
    callback = await _slow_callback(person)
    await person.abandon(person.come_back(callback), person.random.uniform(0.02, 0.3))
    return await person.come_back(callback)


async def signed_out_and_back(person: Person) -> Page:
    """The callback of a login that was signed out signs nobody in."""
    callback = await _callback(person)
    _expect(await person.come_back(callback), "before the sign-out")
    await person.sign_out()
    if (await person.come_back(callback)).connected or (await person.status()).connected:
        raise Lost("signed in by a callback from before the sign-out")
    return await person.sign_in()


async def a_busy_server(person: Person) -> Page:
    """The server refuses the code with 503 at first. The person reloads meanwhile."""
    callback = await _callback(person)
    person.world.refuse_first(code_of(callback))
    await person.abandon(person.come_back(callback), person.random.uniform(0.1, 0.6))
    return await person.come_back(callback)


async def a_worker_dies_before_the_callback(person: Person) -> Page:
    callback = await _callback(person)
    worker = person.random.randrange(2)
    kill = asyncio.ensure_future(person.world.workers.kill(worker))
    page = await person.come_back(callback, Way(worker=worker))
    await kill
    return page


async def a_worker_dies_during_the_callback(person: Person) -> Page:
    callback = await _callback(person)
    person.world.delay(code_of(callback), 1.0)
    worker = person.random.randrange(2)
    answer = asyncio.ensure_future(person.come_back(callback, Way(worker=worker)))
    await asyncio.sleep(person.random.uniform(0, 0.5))
    await person.world.workers.kill(worker)
    return await answer


async def another_session_key(person: Person) -> Page:
    """Both workers restart with a new key in front of the old ones."""
    callback = await _callback(person)
    await person.world.workers.restart()
    return await person.come_back(callback)


async def a_ninth_pending_sign_in(person: Person) -> Page:
    """It replaces the first one."""
    first, *_ = [await person.connect() for _ in range(9)]
    callback = await person.approve(first)
    person.excuse = "a ninth pending sign-in"
    return await person.come_back(callback)


async def the_key_is_taken_away(person: Person) -> Page:
    """Both workers restart with a new key only."""
    callback = await _callback(person)
    await person.world.workers.restart(keep_keys=False)
    person.excuse = "a key taken away"
    return await person.come_back(callback)


async def _callback(person: Person) -> str:
    return await person.approve(await person.connect())


async def _slow_callback(person: Person) -> str:
    callback = await _callback(person)
    person.world.delay(code_of(callback), person.random.uniform(*SLOW))
    return callback


async def _later(person: Person, callback: str) -> Page:
    await person.pause(0.2)
    return await person.come_back(callback, person.way())


def _expect(page: Page, when: str) -> None:
    if not page.connected:
        raise Lost(f"{when}: {page}")


ORDINARY: Sequence[Habit] = (
    no_habit,
    double_click_on_connect,
    double_click_on_consent,
    reload_during_the_callback,
    reload_after_a_lost_connection,
    back_to_the_callback_and_forward,
    back_to_the_consent_and_approve_again,
    two_tabs,
    a_second_connect_is_answered_last,
    an_old_cookie_at_the_other_worker,
    status_pages_during_the_callback,
    seven_pending_sign_ins,
    declined_first,
    signed_in_again,
    signed_out_and_back,
    a_busy_server,
    a_ninth_pending_sign_in,
)
