"""The command that adds an optional package, for each way in which this program is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from notion_oauth.files.installation import install_command


def command(prefix: Path, clone: Path | None = None) -> str:
    return install_command("otel", "opentelemetry-api", prefix=prefix, clone=clone or prefix)


def test_clone(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    assert command(tmp_path / "venv", tmp_path) == "uv sync --extra otel"


@pytest.mark.parametrize(
    ("requirement", "source"),
    [
        ('{ name = "notion-oauth" }', "notion-oauth"),
        ('{ name = "notion-oauth", directory = "/a b/clone" }', "'/a b/clone'"),
        ('{ name = "notion-oauth", editable = "/clone" }', "/clone"),
        ("", "notion-oauth"),
        ("= damaged", "notion-oauth"),
    ],
)
def test_uv_tool(tmp_path: Path, requirement: str, source: str) -> None:
    (tmp_path / "uv-receipt.toml").write_text(f"[tool]\nrequirements = [{requirement}]\n")
    assert command(tmp_path) == f"uv tool install --with opentelemetry-api {source}"


def test_pipx(tmp_path: Path) -> None:
    (tmp_path / "pipx_metadata.json").touch()
    assert command(tmp_path) == "pipx inject notion-oauth opentelemetry-api"


@pytest.mark.parametrize("has_pip", [True, False])
def test_virtual_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_pip: bool) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if has_pip else None)
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    pip = "/venv/bin/python -m pip install" if has_pip else "uv pip install --python /venv/bin/python"
    assert command(tmp_path) == f"{pip} opentelemetry-api"
