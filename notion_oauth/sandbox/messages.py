"""Requests and responses in the form that Authlib expects, independent of the web framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from authlib.oauth2.rfc6749 import JsonPayload, OAuth2Payload, OAuth2Request


class Message:
    """A request whose form and query are already parsed."""

    def __init__(
        self, method: str, url: str, headers: Mapping[str, str], pairs: list[tuple[str, str]], json: Any = None
    ):
        self.method, self.url, self.headers, self.pairs, self.json = method, url, headers, pairs, json


class AuthlibResponse:
    """Authlib's response; its extensions may still change `location`."""

    def __init__(self, status: int, body: Any, headers: list[tuple[str, str]]) -> None:
        self.status, self.body = status, body
        self.headers = {name: value for name, value in headers if name != "Location"}
        self.location = dict(headers).get("Location")


class _Payload(OAuth2Payload):
    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    @property
    def data(self) -> dict[str, str]:
        return dict(self._pairs)

    @property
    def datalist(self) -> dict[str, list[str]]:
        lists: dict[str, list[str]] = {}
        for name, value in self._pairs:
            lists.setdefault(name, []).append(value)
        return lists


class FormRequest(OAuth2Request):
    def __init__(self, message: Message) -> None:
        # Authlib accepts only https; this server uses http on loopback
        super().__init__(message.method, message.url.replace("http:", "https:", 1), headers=message.headers)
        self.payload = _Payload(message.pairs)

    @property
    def args(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.uri).query))

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data


class JsonBody(JsonPayload):
    def __init__(self, data: Any) -> None:
        self._data = data

    @property
    def data(self) -> Any:
        return self._data
