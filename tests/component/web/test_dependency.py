"""The FastAPI dependency `ValidToken`: it gives endpoints a valid token, or answers where to sign in."""

from __future__ import annotations

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth import ValidToken, create_router
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.signing_in import age, sign_in
from tests.support.visiting import PUBLIC, Visitor

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_app(settings: Settings) -> TestClient:
    """An application that uses the dependency."""
    oauth = NotionOAuth(settings)
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="k" * 32)
    app.include_router(create_router(oauth, prefix="/notion"))

    valid = Depends(ValidToken(oauth))

    @app.get("/pages")
    async def pages(token: SecretStr = valid) -> dict[str, int]:
        return {"length": len(token.get_secret_value())}

    return TestClient(app, base_url="http://127.0.0.1")


async def test_endpoint_gets_valid_token(oauth: NotionOAuth, own_app: TestClient) -> None:
    login = await sign_in(oauth)
    assert own_app.get("/pages").json() == {"length": len(login.access_token.get_secret_value())}


async def test_endpoint_without_login_returns_path_of_sign_in(
    oauth: NotionOAuth, own_app: TestClient, sandbox: Sandbox
) -> None:
    answer = own_app.get("/pages")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"]
    assert answer.json()["detail"]["login"] == "/notion/login"
    assert answer.json()["detail"]["error"] == "NotSignedIn"
    await sign_in(oauth)
    sandbox.revoke_grants()
    age(oauth.settings.token_file, hours=2)
    answer = own_app.get("/pages")
    assert (answer.status_code, answer.json()["detail"]["login"]) == (401, "/notion/login")
    assert "revoked" in answer.json()["detail"]["message"]


async def test_login_path_is_null_without_router(settings: Settings) -> None:
    app = FastAPI()

    valid = Depends(ValidToken(NotionOAuth(settings)))

    @app.get("/pages")
    async def pages(token: SecretStr = valid) -> None: ...

    answer = TestClient(app, base_url="http://127.0.0.1").get("/pages")
    assert (answer.status_code, answer.json()["detail"]["login"]) == (401, None)


async def test_temporary_failure_is_503_without_login_path(
    oauth: NotionOAuth, own_app: TestClient, sandbox: Sandbox
) -> None:
    await sign_in(oauth)
    age(oauth.settings.token_file, hours=2)
    sandbox.fail_next("/token", status=429, headers={"Retry-After": "30"})
    answer = own_app.get("/pages")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "login" not in answer.json()["detail"]


async def test_visitor_without_login_returns_path_of_sign_in(settings: Settings) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="k" * 32, https_only=True)
    oauth = NotionOAuth(settings.model_copy(update={"public_url": PUBLIC}))
    app.include_router(create_router(oauth))
    valid = Depends(ValidToken(oauth))

    @app.get("/pages")
    async def pages(token: SecretStr = valid) -> None: ...

    answer = Visitor(app).get("/pages")
    assert (answer.status_code, answer.json()["detail"]["login"]) == (401, "/auth/login")
    assert answer.json()["detail"]["error"] == "NotSignedIn"
