"""How this program was installed: the command that adds an optional package fits that."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from pathlib import Path

from notion_oauth.errors import Hint

_NAME = "notion-oauth"
_CLONE = Path(__file__).resolve().parents[2]


def install_hint(extra: str, package: str, text: str = "Install it") -> Hint:
    """Return the hint to install the package that the extra consists of."""
    return Hint(text, other_command=install_command(extra, package))


def install_command(extra: str, package: str, *, prefix: Path | None = None, clone: Path = _CLONE) -> str:
    """Return the command: for a clone, for `uv tool`, for pipx, or for a virtual environment with or without pip.

    `prefix` is the directory of the environment; `clone` is that of pyproject.toml, if it exists.
    """
    prefix = prefix or Path(sys.prefix)
    if (clone / "pyproject.toml").is_file():
        return f"uv sync --extra {extra}"
    if (prefix / "uv-receipt.toml").is_file():
        return f"uv tool install --with {package} {shlex.quote(_source(prefix / 'uv-receipt.toml'))}"
    if (prefix / "pipx_metadata.json").is_file():
        return f"pipx inject {_NAME} {package}"
    python = shlex.quote(sys.executable) if os.name != "nt" else f'"{sys.executable}"'
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {python} {package}"
    return f"{python} -m pip install {package}"


def _source(receipt: Path) -> str:
    """Return what `uv tool install` was given: the name of the package, or a path."""
    import tomllib  # noqa: PLC0415 - only after an error

    try:
        requirements = tomllib.loads(receipt.read_text())["tool"]["requirements"]
        found = next(each for each in requirements if each["name"] == _NAME)
        return str(next((found[key] for key in ("directory", "editable", "path") if key in found), _NAME))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return _NAME
