"""What tests of all parts share: a practice server, settings that point at it, a folder of their own."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import settings as hypothesis_settings

from notion_oauth.protocol.registration import PROBE_CODE
from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings

pytest_plugins = [
    "tests.unit.spec.plugin",
    "tests.support.certificates",
    "tests.support.clone",
    "tests.support.command_line",
    "tests.support.databases",
    "tests.support.log_lines",
    "tests.support.web_service",
]

# More examples: --hypothesis-profile full
hypothesis_settings.register_profile("default", max_examples=30)
hypothesis_settings.register_profile("full", max_examples=200)

# Each worker and a hundred child processes import the same modules: compile them once
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - pytest creates a directory in it
SPACE = 256 * 1024 * 1024  # bytes; a run needs a fifth of it
# Tests save tens of thousands of times, and each save waits for the disk: keep their files in memory
if IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= SPACE:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide this machine's settings, proxies and token files from the tests."""
    for name in list(os.environ):
        if name.startswith("NOTION_OAUTH_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _small_certificate_bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each httpx client reads certifi's bundle, which takes 16 ms. No test connects to a public server."""
    bundle = tmp_path_factory.mktemp("certificates") / "bundle.pem"
    authority.cert_pem.write_to_path(bundle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("certifi.where", lambda: str(bundle))
        yield


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with serve_sandbox(SandboxOptions()) as running:
        yield running


@pytest.fixture
def settings(sandbox: Sandbox, tmp_path: Path) -> Settings:
    """Settings without retries, so that a failure is immediate."""
    return Settings(server_url=sandbox.mcp_url, token_file=tmp_path / ".notion-tokens.json", timeout=5.0, retry_for=0)


@pytest.fixture
def oauth(settings: Settings) -> NotionOAuth:
    return NotionOAuth(settings)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


Posted = Callable[[], list[str]]


@pytest.fixture
def grants_asked(sandbox: Sandbox) -> Posted:
    """The grant types of the token requests, in order, without those that check whether the client is registered."""
    return lambda: [
        request.form.get("grant_type", "")
        for request in sandbox.requests_to("/token", "POST")
        if request.form.get("code") != PROBE_CODE
    ]


def pytest_collection_finish() -> None:
    """Exclude the modules and the tests, which stay until the end, from garbage collection."""
    gc.collect()
    gc.freeze()
