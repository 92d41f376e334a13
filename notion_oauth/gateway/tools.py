"""The tools of the server: those last seen, and which of them the client may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import platformdirs

from notion_oauth.errors import StorageError
from notion_oauth.files import atomic
from notion_oauth.gateway.jsonrpc import dumps
from notion_oauth.protocol.messages import parse_json

MAX_PARTIAL_LISTS = 100

Tool = Mapping[str, Any]


@dataclass(frozen=True)
class ToolFilter:
    """Which tools a client may list and call. `allow` and `deny` are patterns of names, such as `notion-create-*`.

    With `read_only`, only those with `readOnlyHint: true`. A tool that a pattern of `deny` matches is not allowed.
    """

    read_only: bool = False
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()

    @property
    def is_set(self) -> bool:
        return bool(self.read_only or self.allow or self.deny)

    def allows_name(self, name: str) -> bool:
        """Whether the patterns allow a tool of this name."""
        allowed = not self.allow or any(fnmatchcase(name, pattern) for pattern in self.allow)
        return allowed and not any(fnmatchcase(name, pattern) for pattern in self.deny)

    def allows(self, tool: Tool | None) -> bool:
        """Whether the tool is allowed; None stands for one that the server does not list."""
        if tool is None:
            return not self.read_only
        name = tool.get("name")
        return isinstance(name, str) and self.allows_name(name) and (not self.read_only or is_read_only(tool))


def is_read_only(tool: Tool) -> bool:
    annotations = tool.get("annotations")
    return isinstance(annotations, dict) and annotations.get("readOnlyHint") is True


class KnownTools:
    """What the server last said of itself: its tools, and its answers to `initialize` and `server/discover`.

    `file` keeps it for later processes. It is not secret, and a file that cannot be read or written does not matter.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._partial: dict[str, list[Tool]] = {}  # the tools before each cursor
        self._content: dict[str, Any] = {}
        self.is_current = False  # listed by this process, and not changed since
        if file is not None:
            with suppress(StorageError):
                self._content = atomic.read_file(file, _decode) or {}

    @property
    def tools(self) -> list[Tool]:
        return list(self._content.get("tools", ()))

    def find(self, name: str | None) -> Tool | None:
        return next((tool for tool in self._content.get("tools", ()) if tool.get("name") == name), None)

    def answer(self, method: str) -> dict[str, Any] | None:
        """The server's last result of `initialize` or `server/discover`."""
        answer = self._content.get(method)
        return answer if isinstance(answer, dict) else None

    def forget(self) -> None:
        """The tools have changed: list them before the next call."""
        self.is_current = False
        self._content = {**self._content, "tools": []}

    def record_answer(self, method: str, result: dict[str, Any]) -> None:
        self._change(method, result)

    def record_page(self, cursor: object, result: Mapping[str, Any]) -> None:
        """Note one page of the server's tools, which was requested with this cursor."""
        listed = result.get("tools")
        if not isinstance(listed, list):
            return
        start = self._partial.pop(cursor, None) if isinstance(cursor, str) else []
        if start is None:
            return  # a page of a list whose beginning is not known
        tools = start + [tool for tool in listed if isinstance(tool, dict)]
        following = result.get("nextCursor")
        if isinstance(following, str):
            while len(self._partial) >= MAX_PARTIAL_LISTS:
                self._partial.pop(next(iter(self._partial)))
            self._partial[following] = tools
        else:
            self.is_current = True
            self._change("tools", tools)

    def _change(self, name: str, value: Any) -> None:
        if self._content.get(name) == value:
            return
        self._content = {**self._content, name: value}
        if self._file is not None:
            with suppress(StorageError):
                atomic.write_file(self._file, dumps(self._content))


def cache_file(server_url: str, token_file: Path, profile: str) -> Path:
    """The file of the tools of one login."""
    identity = sha256("\n".join((server_url, str(token_file), profile)).encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("notion-oauth", appauthor=False) / f"tools-{identity}.json"


def _decode(content: bytes) -> dict[str, Any]:
    try:
        document = parse_json(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return {}
    tools = document.get("tools")
    document["tools"] = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return document
