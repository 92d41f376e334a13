"""Warn of a token file inside a git work tree that does not ignore it: it could be committed."""

from __future__ import annotations

import os
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

from notion_oauth.errors import Hint, WarningWithHint

TIME_LIMIT = 3.0  # seconds
NOT_IGNORED = 1  # exit code of `git check-ignore`


def is_surely_ignored(file: Path) -> bool:
    """Whether no work tree contains the file, or the `.gitignore` beside it plainly names it. Does not run git."""
    if _work_tree(file) is None:
        return True
    try:
        lines = (file.parent / ".gitignore").read_text(errors="replace").splitlines()
    except OSError:
        return False
    patterns = [line.strip().removeprefix("/") for line in lines]
    return any(fnmatch(file.name, each) for each in patterns) and not any(each.startswith("!") for each in patterns)


def work_tree_warning(file: Path) -> WarningWithHint | None:
    """Return a warning if git could add the file to a commit; None if not, or if git is not installed."""
    root, git = _work_tree(file), shutil.which("git")
    if root is None or git is None or not Path(git).is_absolute():
        return None
    # A work tree may be anyone's: of its configuration, fsmonitor is what could start a program here
    command = [git, "-c", "core.fsmonitor=false", "-C", str(root), "check-ignore", "--quiet", "--", str(file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=TIME_LIMIT, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != NOT_IGNORED:
        return None
    line = f"/{file.relative_to(root).as_posix()}*"
    return WarningWithHint(
        f"{file} is inside the git work tree {root}, which does not ignore it.",
        Hint(f"Add this line to {root / '.gitignore'}: {line}"),
    )


def _work_tree(file: Path) -> Path | None:
    return next((each for each in file.parents if os.path.lexists(each / ".git")), None)
