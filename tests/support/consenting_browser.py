"""A browser that follows every redirect and writes down what it is shown. Also a program: URL, then the log's path."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError


def visit(url: str, log: Path) -> None:
    """Append the URL, and then the status and the text of the page that it leads to, a line each."""
    _append(log, url)
    try:
        # Not httpx, which takes a program twice the time to import
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as page:
            status, text = page.status, page.read().decode()
    except HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    _append(log, f"{status} {text}".replace("\n", " "))


def _append(log: Path, line: str) -> None:
    with log.open("a") as file:
        print(line, file=file)


if __name__ == "__main__":
    visit(sys.argv[1], Path(sys.argv[2]))
