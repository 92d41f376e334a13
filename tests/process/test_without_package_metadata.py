"""The command line in a copied source tree, without the metadata of an installed package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Python imports sitecustomize at startup, before cli.py
HIDE_METADATA = """
import importlib.metadata

find = importlib.metadata.distribution

def distribution(name):
    if name.lower().replace("_", "-") == "notion-oauth":
        raise importlib.metadata.PackageNotFoundError(name)
    return find(name)

importlib.metadata.distribution = distribution
"""


@pytest.mark.slow
def test_command_line_runs_without_package_metadata(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "notion_oauth", tmp_path / "notion_oauth", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", tmp_path)
    (tmp_path / "sitecustomize.py").write_text(HIDE_METADATA)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    hidden = run("-c", "import importlib.metadata; importlib.metadata.version('notion-oauth')")
    assert "PackageNotFoundError" in hidden.stderr, "the metadata is hidden"
    imported = run("-c", "import notion_oauth; print(notion_oauth.__file__)")
    assert Path(imported.stdout.strip()).is_relative_to(tmp_path), "the copy is imported"
    done = run("cli.py", "status")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("Not signed in.")
