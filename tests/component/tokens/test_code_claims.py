"""One caller sends a code, and the others wait for its outcome."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth import errors
from notion_oauth.models import AuthorizationResponse, TokenSet
from notion_oauth.stores.memory import MemoryStore
from notion_oauth.tokens.code_claims import CodeAlreadySent, CodeClaim, SignInOutcome

pytestmark = pytest.mark.anyio
TIMEOUT = timedelta(seconds=10)
AT = datetime(2026, 1, 1, tzinfo=UTC)
RESPONSE = AuthorizationResponse(state=SecretStr("made-up-state"), code=SecretStr("made-up-code"))


class Callers:
    """Callers with one store and one clock. Moving the clock moves no real time."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.time = 1000.0

    def claim(self, response: AuthorizationResponse = RESPONSE) -> CodeClaim:
        return CodeClaim(self.store, response, request_timeout=TIMEOUT, now=lambda: self.time)

    async def outcome(self, *, after: float = 0) -> SignInOutcome:
        """What another caller gets, if the time moves while it waits."""
        found: list[SignInOutcome] = []

        async def wait() -> None:
            found.append(await self.claim().outcome())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            self.time += after
        return found[0]


def tokens() -> TokenSet:
    return TokenSet(access_token=SecretStr("made-up-access"), authorized_at=AT, updated_at=AT)


async def test_one_caller_gets_a_code() -> None:
    callers = Callers()
    first = callers.claim()
    await first.take()
    await first.take()
    with pytest.raises(CodeAlreadySent):
        await callers.claim().take()
    await callers.claim(RESPONSE.model_copy(update={"code": SecretStr("another-code")})).take()
    await callers.claim(RESPONSE.model_copy(update={"state": SecretStr("another-state")})).take()


async def test_others_get_the_login() -> None:
    callers, profile = Callers(), "web-made-up"
    claim = callers.claim()
    async with claim.settled():
        await claim.take()
        await claim.succeeded(profile, tokens())
    assert await callers.outcome() == SignInOutcome(profile, round(AT.timestamp() * 1000))


async def test_others_wait_for_two_timeouts() -> None:
    callers = Callers()
    await callers.claim().take()
    outcome = await callers.outcome(after=20)
    assert isinstance(outcome.error, errors.AuthorizationResponseError)
    assert "interrupted" in outcome.error.message
    assert outcome.error.hint.command == "login"


async def test_only_one_waits_for_a_caller_that_has_died() -> None:
    callers = Callers()
    claim = callers.claim()
    await claim.take()
    await callers.outcome(after=20)
    with anyio.fail_after(10):
        assert "interrupted" in str((await callers.outcome()).error)
    await claim.succeeded("default", tokens())
    assert (await callers.outcome()).profile == "default", "it was slow, and has not died"


async def test_others_wait_longer_while_the_code_is_sent_again() -> None:
    callers = Callers()
    claim = callers.claim()
    await claim.take()
    await claim.extend(30)
    with anyio.move_on_after(0.2) as waiting:
        await callers.outcome(after=49)
    assert waiting.cancelled_caught
    await claim.succeeded("default", tokens())
    assert (await callers.outcome()).profile == "default"


@pytest.mark.parametrize(
    "error",
    [
        errors.TokenRefused("It was refused.", error="invalid_grant", description="Grant not found"),
        errors.ServerUnavailable("It is busy.", retry_after=30.0, not_processed=True),
        errors.StorageError("The disk is full.", hint=errors.Hint("Look at it", "doctor", {"json": None})),
        errors.NetworkError("No response."),
    ],
)
async def test_others_get_the_error(error: errors.NotionOAuthError) -> None:
    callers = Callers()
    claim = callers.claim()

    async def fail() -> None:
        async with claim.settled():
            await claim.take()
            raise error

    with pytest.raises(type(error)):
        await fail()
    found = (await callers.outcome()).error
    assert type(found) is type(error)
    assert found is not None
    assert (vars(found), str(found), found.args) == (vars(error), str(error), error.args)


async def test_error_without_the_claim_is_no_outcome() -> None:
    callers = Callers()
    await callers.claim().take()
    other = callers.claim()

    async def take() -> None:
        async with other.settled():
            await other.take()

    with pytest.raises(CodeAlreadySent):
        await take()
    assert "interrupted" in str((await callers.outcome(after=20)).error)


async def test_cancelled_caller_ends_the_wait_of_the_others() -> None:
    callers = Callers()
    claim = callers.claim()
    with anyio.CancelScope() as scope:
        async with claim.settled():
            await claim.take()
            scope.cancel()
            await anyio.sleep_forever()
    assert "interrupted" in str((await callers.outcome()).error)
