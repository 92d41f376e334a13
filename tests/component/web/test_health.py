"""The health checks /healthz and /readyz."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.web.health import Health
from notion_oauth.web.profiles.resolver import create_resolver
from tests.support.visiting import PUBLIC, Visitor

PATHS = ("/healthz", "/readyz")


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    return Settings(server_url="http://127.0.0.1:9/mcp", token_file=tmp_path / "data" / "tokens.json", timeout=1.0)


@pytest.fixture
def public(local: Settings) -> Settings:
    return local.model_copy(update={"public_url": PUBLIC})


def home(settings: Settings) -> Visitor:
    return Visitor(create_app(settings), "http://localhost", client="127.0.0.1")


def restarted(settings: Settings, visitor: Visitor) -> Visitor:
    """The same browser, with a new worker that has no cached result."""
    return Visitor(create_app(settings), str(visitor.base_url), client="127.0.0.1")


@pytest.mark.parametrize("path", PATHS)
def test_healthy_service(local: Settings, path: str) -> None:
    visitor = Visitor(create_app(local), "http://localhost", client="127.0.0.1")
    answer = visitor.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    assert visitor.head(path).status_code == 200
    assert visitor.post(path).status_code == 405


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["10.2.3.4:8000", "notion.example", "localhost"])
def test_public_service_answers_checkers_by_ip_address_and_plain_http(public: Settings, host: str, path: str) -> None:
    visitor = Visitor(create_app(public), f"http://{host}", client="10.2.3.9")
    assert visitor.get(path).status_code == 200
    assert visitor.get("/auth/status").status_code in (403, 421), "no other path is answered"


@pytest.mark.parametrize("path", PATHS)
def test_local_service_answers_only_local_checkers(local: Settings, path: str) -> None:
    assert Visitor(create_app(local), "http://evil.example", client="127.0.0.1").get(path).status_code == 421
    assert Visitor(create_app(local), "http://localhost", client="10.2.3.9").get(path).status_code == 403


def test_health_paths_below_public_url_path(public: Settings) -> None:
    below = public.model_copy(update={"public_url": f"{PUBLIC}/tokens"})
    visitor = Visitor(create_app(below))
    assert [visitor.get(path).status_code for path in (*PATHS, *(f"/tokens{path}" for path in PATHS))] == [200] * 4


def test_checkers_have_no_rate_limit(public: Settings) -> None:
    visitor = Visitor(create_app(public.model_copy(update={"rate_limit": "1/minute", "status_rate_limit": "1/minute"})))
    assert {visitor.get(path).status_code for path in PATHS * 20} == {200}


def test_unwritable_store_is_named_without_details(public: Settings) -> None:
    app = create_app(public.model_copy(update={"secret_key": SecretStr("k" * 40)}))
    public.token_file.parent.write_text("a file instead of the directory")
    answer = Visitor(app).get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "failing", "failing": ["store"]})
    assert Visitor(app).get("/healthz").status_code == 200, "it is still alive"


@pytest.mark.parametrize("ending", [".lock", ".clients"])
@pytest.mark.parametrize("profile", [".web-.profile", ""], ids=["visitors", "the local user"])
def test_readiness_checks_all_files_that_a_sign_in_writes(local: Settings, profile: str, ending: str) -> None:
    key = {"secret_key": SecretStr("k" * 40)}
    settings = local.model_copy(update=key | ({"public_url": PUBLIC} if profile else {}))
    visitor = Visitor(create_app(settings)) if profile else home(settings)
    assert visitor.get("/readyz").status_code == 200
    blocked = settings.token_file.with_name(f"tokens.json{profile}{ending}")
    blocked.unlink(missing_ok=True)
    blocked.mkdir()
    assert restarted(settings, visitor).get("/readyz").json() == {"status": "failing", "failing": ["store"]}
    started = visitor.get("/auth/login", headers={"Accept": "application/json"})
    assert started.status_code >= 500, "the sign-in fails too"


def test_readiness_checks_file_of_preregistered_client(public: Settings) -> None:
    preregistered = public.model_copy(update={"secret_key": SecretStr("k" * 40), "client_id": "by-hand"})
    public.token_file.parent.mkdir()
    public.token_file.with_name("tokens.json.clients").mkdir()
    assert Visitor(create_app(preregistered)).get("/readyz").status_code == 503
    without = preregistered.model_copy(update={"client_id": None})
    assert Visitor(create_app(without)).get("/readyz").status_code == 200, "not needed without a preregistered client"


@pytest.mark.anyio
async def test_lock_in_use_is_ready(local: Settings) -> None:
    settings = local.model_copy(update={"secret_key": SecretStr("k" * 40)})
    oauth = NotionOAuth(settings)
    health = Health(create_app(oauth=oauth), create_resolver(oauth), lock_timeout=0.05)
    async with JsonFileStore(settings.token_file).exclusive("default"):
        answer = await anyio.to_thread.run_sync(Visitor(health, "http://localhost").get, "/readyz")  # type: ignore[arg-type]
    assert answer.status_code == 200


def test_missing_session_key_is_named(public: Settings) -> None:
    app = create_app(public)
    key = public.token_file.with_name("tokens.json.session-key")
    key.unlink()
    answer = Visitor(app).get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "failing", "failing": ["session_key"]})
    assert not key.exists()
    key.mkdir()
    assert (
        Visitor(create_app(public.model_copy(update={"secret_key": SecretStr("k" * 40)}))).get("/readyz").status_code
        == 200
    )


@pytest.mark.anyio
async def test_disk_is_checked_at_most_once_a_second(local: Settings) -> None:
    probes: list[str] = []

    class Counting(JsonFileStore):
        async def check_writable(self, profile: str) -> None:
            probes.append(profile)
            await super().check_writable(profile)

    now = [100.0]
    settings = local.model_copy(update={"secret_key": SecretStr("k" * 40)})
    oauth = NotionOAuth(settings, store=Counting(settings.token_file))
    health = Health(create_app(oauth=oauth), create_resolver(oauth), uptime=lambda: now[0])
    visitor = Visitor(health, "http://localhost")  # type: ignore[arg-type]
    for _ in range(20):
        assert visitor.get("/readyz").status_code == 200
    assert len(probes) == 1
    now[0] += 1.01
    visitor.get("/readyz")
    assert len(probes) == 2


@pytest.mark.anyio
async def test_unreadable_session_key_is_named(public: Settings) -> None:
    app = create_app(public)
    key = public.token_file.with_name("tokens.json.session-key")
    key.unlink()
    key.mkdir()
    assert Visitor(app).get("/readyz").json() == {"status": "failing", "failing": ["session_key"]}
