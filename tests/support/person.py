"""A client of the practice server that uses httpx only, and none of the package's client code."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from notion_oauth.sandbox import Sandbox

REDIRECT_URI = "http://127.0.0.1:4321/callback"


class Person:
    """A user with a client: registers, authorizes and requests tokens, step by step."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.http = httpx.Client(base_url=sandbox.base_url, trust_env=False, timeout=5)
        self.verifier = secrets.token_urlsafe(48)

    def register(self, **metadata: Any) -> httpx.Response:
        public = {"redirect_uris": [REDIRECT_URI], "token_endpoint_auth_method": "none", "client_name": "A test"}
        sent = {name: value for name, value in {**public, **metadata}.items() if value is not None}
        return self.http.post("/register", json=sent)

    def client_id(self, **metadata: Any) -> str:
        answer = self.register(**metadata)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["client_id"])

    def authorize(self, client_id: str, **changes: str | None) -> httpx.Response:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")
        query = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": REDIRECT_URI,
            "state": "a state",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": self.sandbox.mcp_url,
            **changes,
        }
        return self.http.get("/authorize", params={name: value for name, value in query.items() if value is not None})

    def redirected(self, client_id: str, **changes: str | None) -> dict[str, str]:
        """The query of the redirect."""
        answer = self.authorize(client_id, **changes)
        assert answer.status_code == 302, answer.text
        return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}

    def exchange(self, client_id: str, code: str, **changes: str) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": REDIRECT_URI,
            "code_verifier": self.verifier,
            "client_id": client_id,
            "resource": self.sandbox.mcp_url,
        }
        return self.http.post("/token", data={**form, **changes})

    def sign_in(self, client_id: str) -> dict[str, Any]:
        answer = self.exchange(client_id, self.redirected(client_id)["code"])
        assert answer.status_code == 200, answer.text
        tokens: dict[str, Any] = answer.json()
        return tokens

    def refresh(self, client_id: str, refresh_token: str, **changes: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": client_id}
        return self.http.post("/token", data={**form, **changes})

    def mcp(self, token: str | None, message: Any = None, **headers: str) -> httpx.Response:
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        return self.http.post("/mcp", json=message or ping, headers={**authorization, **headers})


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, error code and description of an error response."""
    return answer.status_code, answer.json()["error"], answer.json().get("error_description")
