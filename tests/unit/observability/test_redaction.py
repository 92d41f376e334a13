"""What is redacted in our logs, and what must stay in them."""

from __future__ import annotations

import pytest

from notion_oauth.observability.redaction import HIDDEN, redact

SECRET = "v3ry-s3cret_value.of~some+length"
NOTION_SHAPE = "8f14e45f-ceea-4671:Zk3QmPp0aLr7tUwX:abcdefghijklmnopqrstuvwxyz012345"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /auth/callback?code={SECRET}&state=x HTTP/1.1",
        f"/auth/callback?state={SECRET}",
        f"/auth/callback?CODE={SECRET}",
        f"https://h/authorize?next=%2Fcb%3Fcode%3D{SECRET}",
        f"grant_type=refresh_token&refresh_token={SECRET}",
        f"code_verifier={SECRET}",
        f'{{"access_token": "{SECRET}", "expires_in": 3600}}',
        f'{{"access_token":"{SECRET}"}}',
        f"{{'client_secret': '{SECRET}'}}",
        f'"{{\\"refresh_token\\": \\"{SECRET}\\"}}"',
        f"TokenSet(access_token='{SECRET}')",
        f"[(b'refresh_token', b'{SECRET}')]",
        f"Authorization: Bearer {SECRET}",
        f"authorization: bearer {SECRET}",
        f"[(b'Authorization', b'Bearer {SECRET}')]",
        f"{{'Authorization': 'Basic {SECRET}'}}",
        f"sent Bearer {SECRET} to it",
        f"sent Basic%20{SECRET} to it",
        f"Authorization: Digest {SECRET}",
        f"\N{LATIN SMALL LETTER LONG S}tate={SECRET}",
        f"Cookie: notion_oauth_session={SECRET}",
        f"(b'set-cookie', b'notion_oauth_session={SECRET}; httponly')",
        f'{{"cookie": "session={SECRET}"}}',
    ],
)
def test_secrets_are_redacted(text: str) -> None:
    assert SECRET not in redact(text)
    assert HIDDEN in redact(text)


@pytest.mark.parametrize(
    "token", [NOTION_SHAPE, "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlLWJ5dGVz"]
)
def test_tokens_are_recognised_by_their_form(token: str) -> None:
    assert redact(f"it was {token}.") in (f"it was {HIDDEN}.", f"it was {HIDDEN}")


@pytest.mark.parametrize(
    "text",
    [
        "sign_in outcome=success profile=default issuer=https://mcp.notion.com client_id=Zk3QmPp0aLr7tUwX",
        "access_sha256=9f86d081 refresh_sha256=60303ae2 replaced_sha256=fd61a03a request_id=7c1e0f9d2b34a6e8",
        "request method=GET path=/auth/callback status=303 milliseconds=212 client=2001:db8::8a2e:370:7334",
        "mcp.notion.com refused to refresh (invalid_grant).",
        'refresh outcome=failure error=invalid_grant detail="Refresh token reuse detected"',
        'HTTP Request: POST https://mcp.notion.com/token "HTTP/1.1 200 OK"',
        "status_code=200",
        "the token is a bearer token",
        "2026-11-25T09:58:15.795Z INFO uvicorn.error Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)",
    ],
)
def test_facts_are_not_redacted(text: str) -> None:
    assert redact(text) == text


def test_redaction_takes_linear_time() -> None:
    """A pattern that backtracks would take minutes here."""
    for piece in ("a", "a:", "a" * 16 + ":", "eyJ", "code=", "code: '", "Bearer ", "cookie:", "\\", "-._~"):
        redact(piece * (300_000 // len(piece)))
