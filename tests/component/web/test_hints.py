"""A page or a program over HTTP gets no command to type, and an application's users get no profile name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import typer.main
from fastapi import Depends, FastAPI
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

import notion_oauth
from notion_oauth import errors
from notion_oauth.app import create_app
from notion_oauth.cli.main import ORDER, app
from notion_oauth.errors import Hint, NotionOAuthError, NotSignedIn, StepUpRequired
from notion_oauth.files.encryption import new_key
from notion_oauth.protocol.challenge import requested_challenge
from notion_oauth.router import create_router
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.web.checked_route import AuthRoute
from notion_oauth.web.dependency import ValidToken
from notion_oauth.web.responses import problem
from notion_oauth.web.sign_in_query import parse_sign_in_query
from tests.support.signing_in import sign_in
from tests.support.visiting import Visitor

PACKAGE = Path(notion_oauth.__file__).parent
COMMAND = re.compile(rf"(notion-oauth|cli\.py) ({'|'.join(ORDER)})\b")
OTHER_COMMAND = re.compile(r"\b(uv pip|uv run|sudo|chmod|chown|openssl|kill) \S")
PROFILE = "user-42"
ACCEPT = ("text/html", "application/json")
JSON = {"Accept": "application/json"}


def classes(kind: type[NotionOAuthError] = NotionOAuthError) -> Iterator[type[NotionOAuthError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from classes(each)


def options_of(command: str) -> dict[str, str | None]:
    found: Any = typer.main.get_command(app)
    for word in command.split():
        found = found.get_command(None, word)
    return {option.name: PROFILE if option.name == "profile" else "x" for option in found.params}


def all_errors() -> Iterator[NotionOAuthError]:
    """Each error with its own hint, and any error with a hint for each command, with and without its options."""
    for kind in classes():
        yield kind("It failed.", **({"error": "invalid_scope"} if issubclass(kind, errors.OAuthError) else {}))
    hints = [Hint("Do it", command, options) for command in ORDER for options in ({}, options_of(command))]
    hints.append(Hint("Do it", other_command="uv pip install 'notion-oauth[socks]' --user"))
    for hint in (*hints, Hint("Allow it", "login", {"scope": "files:write", "profile": PROFILE})):
        yield NotionOAuthError("It failed.", hint=hint)


def hints_in_source() -> Iterator[tuple[str, ast.Call]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Hint":
                yield path.name, node


@pytest.mark.slow
def test_texts_contain_no_command() -> None:
    """Otherwise a surface could not render it."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in ("cli", "gateway") or path.name in ("settings.py", "single_flight.py"):
            continue  # help texts, what is written for MCP clients on this machine, and the name of a thread
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert not COMMAND.search(node.value), f"{path.name}:{node.lineno}: use a Hint"


def test_texts_of_hints_contain_no_other_command() -> None:
    """Such as `uv pip install`: it is the hint's `other_command`, which a page does not show."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                texts = [each.value for each in node.keywords if each.arg == "hint"]
                texts = [text for text in texts if not isinstance(text, ast.Call)]
                if isinstance(node.func, ast.Name) and node.func.id == "Hint":
                    texts += node.args
                for part in ast.walk(ast.Tuple(texts)):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        assert not OTHER_COMMAND.search(part.value), f"{path.name}:{node.lineno}"


@pytest.mark.slow
def test_hints_name_commands_and_options_that_exist() -> None:
    found = [(name, call) for name, call in hints_in_source() if len(call.args) > 1]
    assert len(found) > 10
    for name, call in found:
        assert isinstance(call.args[1], ast.Constant), name
        command = str(call.args[1].value)
        assert command.split(maxsplit=1)[0] in ORDER, f"{name}:{call.lineno}"
        if len(call.args) > 2 and isinstance(call.args[2], ast.Dict):
            keys = {key.value for key in call.args[2].keys if isinstance(key, ast.Constant)}
            assert keys <= options_of(command).keys(), f"{name}:{call.lineno}"


@pytest.fixture(scope="module")
def failing() -> tuple[Visitor, list[NotionOAuthError]]:
    """A service whose route raises the one error in the list."""
    raised: list[NotionOAuthError] = []
    service = FastAPI()
    service.add_middleware(SessionMiddleware, secret_key="made-up")
    service.router.route_class = AuthRoute
    for name in ("status", "login", "operator"):

        @service.get(f"/auth/{name}", name=f"notion_oauth_{name}")
        async def fail() -> None:
            raise raised[-1]

    return Visitor(service), raised


@pytest.mark.slow
def test_no_error_tells_a_user_of_the_web_to_type_a_command(failing: tuple[Visitor, list[NotionOAuthError]]) -> None:
    browser, raised = failing
    for error in all_errors():
        raised.append(error)
        for accept in ACCEPT:
            shown = browser.get("/auth/status", headers={"Accept": accept}).text
            assert "It failed." in shown or isinstance(error, errors.OperatorRequired)
            assert not re.search(r"(notion-oauth|cli\.py) \w", shown), error
            assert " --" not in re.sub("<style>.*</style>", "", shown, flags=re.DOTALL), error
            assert "uv pip" not in shown, error
            assert PROFILE not in shown, error


def test_page_offers_the_sign_in_as_a_button(failing: tuple[Visitor, list[NotionOAuthError]]) -> None:
    browser, raised = failing
    hint = Hint("Allow it", "login", {"scope": "files:write a", "profile": PROFILE})
    raised.append(StepUpRequired("More consent is required.", hint=hint))
    page = browser.get("/auth/status").text
    assert 'href="/auth/login?scope=files%3Awrite+a">Sign in' in page
    assert "Allow it." in page
    for error in (
        errors.StoreBusy("Busy."),
        errors.MetadataError("No endpoint.", hint=Hint("Use the assertion", "login", {"assertion_file": "FILE"})),
    ):
        raised.append(error)
        assert 'id="login"' not in browser.get("/auth/status").text, "the button would not help"


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        (Hint("Sign in", "login", {"profile": PROFILE}), "Sign in on the page of the service."),
        (Hint("Sign out", "logout"), "Sign out on the page of the service."),
        (
            Hint("Use the assertion", "login", {"assertion_file": "x"}),
            "Use the assertion on the machine of the service.",
        ),
        (Hint("Create one", "key"), "Create one on the machine of the service."),
        (Hint("Install it", other_command="uv pip install x"), "Install it on the machine of the service."),
        (Hint("Try again."), "Try again."),
    ],
)
def test_next_step_over_http(hint: Hint, shown: str) -> None:
    assert problem(NotionOAuthError("It failed.", hint=hint))["next"] == shown


def test_json_names_the_path_of_the_sign_in(failing: tuple[Visitor, list[NotionOAuthError]]) -> None:
    browser, raised = failing
    raised.append(NotSignedIn("Not signed in.", hint=Hint("Sign in", "login", {"profile": PROFILE})))
    assert browser.get("/auth/status", headers=JSON).json()["next"] == "Sign in at /auth/login"
    raised.append(StepUpRequired("More.", hint=Hint("Allow it", "login", {"scope": "a b", "max_age": "300"})))
    path = browser.get("/auth/status", headers=JSON).json()["next"].removeprefix("Allow it at ")
    assert path == "/auth/login?scope=a+b&max_age=300"
    assert parse_sign_in_query(parse_qsl(urlsplit(path).query)) == requested_challenge("a b", None, 300)


@pytest.mark.anyio
async def test_warning_of_the_status_names_the_path_or_the_page(settings: Settings, sandbox: Sandbox) -> None:
    await sign_in(NotionOAuth(settings))
    for days, warned in ((1, "Sign in again before that at /auth/login"), (40, "Refresh it before that on the page")):
        limits = settings.model_copy(update={"grant_days": days, "idle_days": 3})
        browser = Visitor(create_app(limits), "http://localhost", client="127.0.0.1")
        warning = browser.get("/auth/status", headers=JSON).json()["warning"]
        assert warned in warning
        assert not COMMAND.search(warning)


def test_hint_of_an_error_is_never_a_text() -> None:
    class Theirs(NotionOAuthError):
        default_hint = "Ask us."  # type: ignore[assignment] # before hints had a structure

    assert Theirs("It failed.").hint == NotionOAuthError("It failed.", hint="Ask us.").hint == Hint("Ask us.")
    assert str(Theirs("It failed.")) == "It failed. Ask us."


def test_hint_shows_the_command_in_a_terminal() -> None:
    error = NotSignedIn("Not signed in.", hint=Hint("Sign in", "login", {"profile": "work", "scope": "a b"}))
    assert str(error) == "Not signed in. Sign in with: notion-oauth login --profile work --scope 'a b'"
    assert f"{error.hint}" == "Sign in with: notion-oauth login --profile work --scope 'a b'"
    assert str(Hint("Create one", "key", {"keyring": None})) == "Create one with: notion-oauth key --keyring"
    assert not NotionOAuthError("It failed.").hint


STATES = {  # what the state makes of the status, of a refresh, and of a use of the token
    "signed out": (200, 401, 401),
    "ended": (200, 401, 401),
    "refused": (200, 502, 200),
    "damaged": (500, 500, 500),
    "a directory": (500, 500, 500),
    "encrypted": (500, 500, 500),
    "of another server": (409, 409, 409),
    "locked": (200, 503, 200),
}


@pytest.mark.anyio
@pytest.mark.parametrize("accept", ACCEPT)
@pytest.mark.parametrize("state", STATES)
async def test_application_user_sees_no_profile_name(
    settings: Settings, sandbox: Sandbox, state: str, accept: str
) -> None:
    store = JsonFileStore(settings.token_file, lock_wait=timedelta(milliseconds=10))
    oauth = NotionOAuth(settings, profile="for-the-application", store=store)
    file = settings.token_file.with_name(f"{settings.token_file.name}.{PROFILE}.profile")
    await sign_in(oauth.for_profile(PROFILE))
    application = FastAPI()
    application.add_middleware(SessionMiddleware, secret_key="made-up")
    application.include_router(create_router(oauth, profile=lambda _: PROFILE))
    valid = ValidToken(oauth, profile=lambda _: PROFILE)

    @application.get("/token", dependencies=[Depends(valid)])
    async def token() -> None: ...

    browser = Visitor(application, "http://localhost", client="127.0.0.1")  # nothing refreshes in the background
    form = {"csrf_token": browser.csrf_token("/auth/status")}
    async with AsyncExitStack() as held:
        if state == "ended":
            sandbox.revoke_grants()
            with pytest.raises(errors.SignInRequired):
                await NotionOAuth(settings, profile=PROFILE).refresh()
        elif state == "refused":
            sandbox.fail_next("/token", status=400, error="invalid_scope")
        elif state == "damaged":
            file.write_text("damaged")
        elif state == "encrypted":
            key = settings.model_copy(update={"encryption_key": SecretStr(new_key())})
            await sign_in(NotionOAuth(key, profile=PROFILE))
        elif state == "of another server":
            file.write_text(file.read_text().replace(sandbox.mcp_url, "https://other.example/mcp"))
        elif state == "locked":
            await held.enter_async_context(JsonFileStore(settings.token_file).exclusive(PROFILE))
        else:
            file.unlink()
            if state == "a directory":
                file.mkdir()
        requests = (("GET", "/auth/status"), ("POST", "/auth/refresh"), ("GET", "/token"))
        for (method, path), status in zip(requests, STATES[state], strict=True):
            shown = browser.request(method, path, headers={"Accept": accept}, data=form if method == "POST" else None)
            assert shown.status_code == status, (path, shown.text)
            assert_names_neither_profile_nor_command(shown.text)
        assert_names_neither_profile_nor_command(browser.get("/auth/login", headers={"Accept": accept}).text)


def assert_names_neither_profile_nor_command(shown: str) -> None:
    assert PROFILE not in shown
    assert not COMMAND.search(shown)
    assert not OTHER_COMMAND.search(shown)
