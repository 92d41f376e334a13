"""Any input gives a value or one of our errors, never another exception."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from notion_oauth.cli.status_text import describe
from notion_oauth.errors import NotionOAuthError
from notion_oauth.files.token_file_format import decode_login, decode_registrations, encode_registrations, encode_tokens
from notion_oauth.models import TokenSet
from notion_oauth.protocol import lifetime
from notion_oauth.protocol.authorization import (
    authorization_request,
    check_authorization_response,
    parse_authorization_response,
)
from notion_oauth.protocol.challenge import (
    MAX_FIELD,
    BearerChallenge,
    Challenge,
    bearer_challenge,
    parse_challenges,
    step_up_required,
)
from notion_oauth.protocol.discovery import (
    authorization_server_metadata_urls,
    parse_authorization_server_metadata,
    parse_protected_resource_metadata,
)
from notion_oauth.protocol.introspection import parse_introspection_response
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.protocol.messages import Request, Response, error_code, printable, retry_after
from notion_oauth.protocol.registration import parse_registration_response
from notion_oauth.protocol.token import client_authentication, parse_token_response, refresh_request, token_set
from notion_oauth.protocol.urls import resource_covers, url_problem
from notion_oauth.tokens.status import login_status
from tests.unit.protocol.builders import DISCOVERY, NOW, REDIRECT_URI, pending
from tests.unit.protocol.counted import counted

REQUEST = Request("POST", "https://h.example/token", form={"a": "b"})
PATH = "tokens.json"
LENIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["https://h.example", "https://[::1", "http://a:b@c", "https://h:99999", "\ud800", "none", 10**400]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def document_of(*names: str) -> st.SearchStrategy[bytes]:
    """JSON with those fields and any values; and bytes that are no JSON."""
    fields = st.fixed_dictionaries({}, optional=dict.fromkeys(names, VALUES))
    return fields.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)


def tolerated(function: Callable[[], Any]) -> Any:
    with contextlib.suppress(NotionOAuthError):
        return function()
    return None


RESOURCE = document_of("resource", "authorization_servers", "scopes_supported")
SERVER = document_of(
    "issuer", "authorization_endpoint", "token_endpoint", "code_challenge_methods_supported", "registration_endpoint"
)
CLIENT = document_of("client_id", "client_secret", "client_secret_expires_at", "token_endpoint_auth_method")
TOKEN = document_of("access_token", "token_type", "expires_in", "refresh_token", "scope", "error", "error_description")
FILE = document_of(
    "access_token",
    "token_type",
    "expires_in",
    "refresh_token",
    "client_id",
    "client_secret",
    "updated_at",
    "expires_at",
    "token_endpoint",
    "token_endpoint_auth_methods_supported",
)


@LENIENT
@given(body=RESOURCE, status=st.integers(100, 599))
def test_a_resource_document(body: bytes, status: int) -> None:
    response = Response(status, "https://h.example/x", {}, body)
    tolerated(lambda: parse_protected_resource_metadata(response, server_url="https://h.example/mcp"))


@LENIENT
@given(body=SERVER, issuer=st.sampled_from(["https://h.example", "https://[::1"]))
def test_a_server_document(body: bytes, issuer: str) -> None:
    response = Response(200, "https://h.example/x", {}, body)
    tolerated(lambda: parse_authorization_server_metadata(response, issuer=issuer))


@LENIENT
@given(body=CLIENT, status=st.sampled_from([200, 201, 400, 500]))
def test_a_registration_response(body: bytes, status: int) -> None:
    response = Response(status, "https://h.example/register", {}, body)
    client = tolerated(lambda: parse_registration_response(response, request=REQUEST))
    if client is not None:
        client.expired(NOW)
        _, form = client_authentication(client, ("none",))
        urlencode(form).encode()
        authorization = authorization_request(
            DISCOVERY, client, redirect_uri=REDIRECT_URI, state=SecretStr("s"), code_verifier=SecretStr("v"), now=NOW
        )
        assert authorization.url.get_secret_value().isascii()


@LENIENT
@given(body=TOKEN, status=st.sampled_from([200, 400, 401, 429, 500]), header=st.text(max_size=12))
def test_any_token_response(body: bytes, status: int, header: str) -> None:
    response = Response(status, "https://h.example/token", {"retry-after": header}, body)
    parsed = tolerated(lambda: parse_token_response(response, request=REQUEST))
    if parsed is not None:
        login = token_set(parsed, pending(), requested_at=NOW)
        again = decode_login(encode_tokens(login), PATH)
        assert isinstance(again, TokenSet)
        assert again.access_token == login.access_token
        if login.refresh_token is not None:
            assert refresh_request(login).content()


@LENIENT
@given(
    body=document_of("active", "exp", "scope", "username", "sub", "error"), status=st.sampled_from([200, 400, 401, 503])
)
def test_an_introspection_response(body: bytes, status: int) -> None:
    response = Response(status, "https://h.example/introspect", {}, body)
    tolerated(lambda: parse_introspection_response(response, request=REQUEST))


@LENIENT
@given(body=FILE)
def test_a_token_file(body: bytes) -> None:
    login = tolerated(lambda: decode_login(body, PATH))
    if isinstance(login, TokenSet):
        describe(login_status(login, now=NOW, lifetimes=Lifetimes()))
        lifetime.phase(login, NOW, timedelta(minutes=5))
        again = decode_login(encode_tokens(login), PATH)
        assert isinstance(again, TokenSet)
        assert again.access_token == login.access_token
        request = tolerated(lambda: refresh_request(login))
        if request is not None:
            request.content()


@LENIENT
@given(entries=st.lists(CLIENT | document_of("issuer", "redirect_uri", "client_id"), max_size=3))
def test_a_registrations_file(entries: list[bytes]) -> None:
    body = b'{"registrations": [' + b",".join(entries) + b"]}"
    registrations = tolerated(lambda: decode_registrations(body, PATH))
    if registrations is not None:
        assert decode_registrations(encode_registrations(registrations), PATH) == registrations


@LENIENT
@given(
    query=st.lists(
        st.tuples(st.sampled_from(["state", "code", "iss", "error", "error_description", "x"]), st.text(max_size=30)),
        max_size=6,
    )
)
def test_a_redirect(query: list[tuple[str, str]]) -> None:
    tolerated(lambda: check_authorization_response(parse_authorization_response(query), pending(), now=NOW))


@LENIENT
@given(url=st.text(max_size=40) | st.from_regex(r"https?://[a-z\[\]:@.0-9]{1,20}(/[a-z?#]*)?", fullmatch=True))
def test_a_url(url: str) -> None:
    if url_problem(url) is None:
        resource_covers(url, "https://h.example/mcp")
        authorization_server_metadata_urls(url)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_deep_nesting_is_refused(size: int) -> None:
    body = b'{"access_token":' + b"[" * size
    tolerated(lambda: parse_token_response(Response(200, "https://h.example/", {}, body), request=REQUEST))
    tolerated(lambda: decode_login(body, PATH))


PIECES = st.sampled_from(
    [
        "Bearer",
        "Basic",
        "scope",
        "error",
        "max_age",
        "a",
        "1",
        " ",
        "\t",
        ",",
        "=",
        '"',
        "\\",
        "\r\n ",
        "\0",
        "/",
        "é",
        "\ud800",
    ]
)
FIELDS = st.lists(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=40), max_size=4)


@LENIENT
@given(values=FIELDS)
def test_a_challenge(values: list[str]) -> None:
    """Any text can be parsed, each field separately, and the result is well-formed."""
    parsed = parse_challenges(values)
    assert parsed == tuple(one for value in values for one in parse_challenges([value]))
    for one in parsed:
        assert one.scheme.isascii()
        assert one.scheme == one.scheme.lower() != ""
        assert not (one.parameters and one.token68)
    for together in (values, [", ".join(values)]):
        challenge = bearer_challenge(together) or BearerChallenge()
        error = step_up_required(challenge, "h.example")
        assert str(error).isprintable()
        assert shlex.split(str(error.hint).partition(": ")[2])[:2] == ["notion-oauth", "login"]
        for text in (challenge.realm, challenge.error_description):
            assert text is None or text == printable(text)
        for tokens in (challenge.scope, challenge.acr_values):
            assert tokens is None or tokens == " ".join(tokens.split())
        assert challenge.error is None or challenge.error == error_code(challenge.error)
        assert challenge.max_age is None or challenge.max_age >= 0


@LENIENT
@given(values=FIELDS, times=st.integers(1, 400))
def test_a_challenge_is_parsed_in_linear_time(values: list[str], times: int) -> None:
    value = counted(",".join(values) * times)
    parse_challenges([value])
    assert value.reads <= 8 * min(len(value), MAX_FIELD)


TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8)
SPACE = st.text(" \t", max_size=2)


@st.composite
def spelled(draw: st.DrawFn) -> tuple[Challenge, str]:
    """A challenge, and one of its spellings."""
    scheme = draw(TOKENS)
    if token68 := draw(st.none() | st.from_regex(r"[a-zA-Z0-9._~+/-]{1,9}={0,2}", fullmatch=True)):
        return Challenge(scheme.lower(), {}, token68), f"{scheme} {token68}"
    texts = st.text(st.characters(exclude_characters="\r\n\0"), max_size=12)
    parameters = draw(st.dictionaries(TOKENS.map(str.lower), texts | TOKENS, max_size=4))
    pieces = []
    for name, value in parameters.items():
        quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        bare = set(value) <= set("abcXYZ019!#$%&'*+-.^_`|~") and value and draw(st.booleans())
        around = draw(SPACE), draw(SPACE)
        pieces.append(
            f"{draw(st.sampled_from([name, name.upper()]))}{around[0]}={around[1]}{value if bare else quoted}"
        )
    return Challenge(scheme.lower(), parameters), " ".join([scheme, f"{draw(SPACE)},{draw(SPACE)}".join(pieces)])


@pytest.mark.slow
@LENIENT
@given(challenges=st.lists(spelled(), max_size=4), comma=st.sampled_from([", ", ",", " , ", ",,", " ,\t, "]))
def test_a_formatted_challenge_is_parsed_back(challenges: list[tuple[Challenge, str]], comma: str) -> None:
    meant = tuple(challenge for challenge, _ in challenges)
    texts = [text for _, text in challenges]
    assert parse_challenges(texts) == meant
    assert parse_challenges([comma.join(texts)]) == meant


@LENIENT
@given(wait=st.text(max_size=12) | st.integers().map(str), date=st.text(max_size=30))
def test_a_retry_after(wait: str, date: str) -> None:
    for value in (wait, date):
        seconds = retry_after(Response(503, "https://h.example/", {"retry-after": value, "date": date}))
        assert seconds is None or seconds >= 0
