"""The challenges that RFC 6750 §3, RFC 9728 §5.1, RFC 9470 §3 and MCP give as examples."""

from __future__ import annotations

import pytest

from notion_oauth.protocol.challenge import BearerChallenge, bearer_challenge


def challenge_of(*values: str) -> BearerChallenge | None:
    """The challenge, with its lines folded and as the single line that HTTP/1.1 requires."""
    folded = bearer_challenge("\r\n ".join(value.splitlines()) for value in values)
    assert folded == bearer_challenge(" ".join(value.split()) for value in values)
    return folded


@pytest.mark.spec("RFC 6750 §3", "Read realm, scope, error and error_description of a Bearer challenge")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('Bearer realm="example"', BearerChallenge(realm="example")),
        (
            """Bearer realm="example",
               error="invalid_token",
               error_description="The access token expired\"""",
            BearerChallenge(realm="example", error="invalid_token", error_description="The access token expired"),
        ),
        (
            """Bearer error="insufficient_scope",
               scope="urn:example:channel=HBO&urn:example:rating=G,PG-13\"""",
            BearerChallenge(error="insufficient_scope", scope="urn:example:channel=HBO&urn:example:rating=G,PG-13"),
        ),
        ('Bearer scope="openid profile email"', BearerChallenge(scope="openid profile email")),
    ],
)
def test_the_examples_of_rfc_6750(value: str, expected: BearerChallenge) -> None:
    assert challenge_of(value) == expected


@pytest.mark.spec("RFC 9728 §5.1", "Read resource_metadata of a challenge")
def test_the_example_of_rfc_9728() -> None:
    metadata = "https://resource.example.com/.well-known/oauth-protected-resource"
    assert challenge_of(f'Bearer resource_metadata="{metadata}"') == BearerChallenge(resource_metadata=metadata)


@pytest.mark.spec("RFC 9470 §3", "Read acr_values and max_age of a challenge")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            """Bearer error="insufficient_user_authentication",
               error_description="A different authentication level is required",
               acr_values="myACR\"""",
            BearerChallenge(
                error="insufficient_user_authentication",
                error_description="A different authentication level is required",
                acr_values="myACR",
            ),
        ),
        (
            """Bearer error="insufficient_user_authentication",
               error_description="More recent authentication is required",
               max_age="5\"""",
            BearerChallenge(
                error="insufficient_user_authentication",
                error_description="More recent authentication is required",
                max_age=5,
            ),
        ),
    ],
)
def test_the_examples_of_rfc_9470(value: str, expected: BearerChallenge) -> None:
    assert challenge_of(value) == expected


@pytest.mark.spec("MCP §Authorization Server Discovery", "Read the address of the resource metadata from a challenge")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            """Bearer resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource",
               scope="files:read\"""",
            BearerChallenge(
                resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource", scope="files:read"
            ),
        ),
        (
            """Bearer error="insufficient_scope",
               scope="files:write",
               resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource",
               error_description="File write permission required for this operation\"""",
            BearerChallenge(
                error="insufficient_scope",
                scope="files:write",
                resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource",
                error_description="File write permission required for this operation",
            ),
        ),
    ],
)
def test_the_examples_of_mcp(value: str, expected: BearerChallenge) -> None:
    assert challenge_of(value) == expected
