"""Parsing of WWW-Authenticate (RFC 9110 §11, RFC 6750 §3, RFC 9728 §5.1, RFC 9470 §3)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from notion_oauth.protocol.challenge import (
    MAX_FIELD,
    BearerChallenge,
    Challenge,
    bearer_challenge,
    parse_challenges,
)
from tests.unit.protocol.counted import counted

METADATA = "https://mcp.notion.com/.well-known/oauth-protected-resource/mcp"


def parameters_of(value: str) -> Mapping[str, str]:
    """The parameters of the only challenge in the value."""
    (challenge,) = parse_challenges([value])
    return challenge.parameters


@pytest.mark.spec("RFC 9110 §11.2", "Read schemes, parameters and token68 in any case and spacing")
@pytest.mark.spec("RFC 9110 §11.6.1", "Read several challenges, in one field or in several")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 9110 §11.6.1: two challenges in one value
        (
            'Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""',
            (
                Challenge("basic", {"realm": "simple"}),
                Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
            ),
        ),
        (
            'Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',
            (
                Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
                Challenge("basic", {"realm": "simple"}),
            ),
        ),
        # RFC 9110 §11.2: only a scheme, a token68, both next to others
        ("Negotiate", (Challenge("negotiate"),)),
        ("Negotiate, Bearer", (Challenge("negotiate"), Challenge("bearer"))),
        ("Negotiate oYG2+/~._-==", (Challenge("negotiate", token68="oYG2+/~._-=="),)),
        ("NTLM abc , Bearer error=x", (Challenge("ntlm", token68="abc"), Challenge("bearer", {"error": "x"}))),
        # RFC 9110 §11.1, §11.2: schemes and names in any case
        ('bEARER Realm="A"', (Challenge("bearer", {"realm": "A"}),)),
        # RFC 9110 §5.6.1.2: empty list elements are skipped
        (' , ,Bearer ,, error=x,, scope="y",,', (Challenge("bearer", {"error": "x", "scope": "y"}),)),
        ("", ()),
        (" \t,, ", ()),
    ],
)
def test_valid_challenges_are_parsed(value: str, expected: tuple[Challenge, ...]) -> None:
    assert parse_challenges([value]) == expected


@pytest.mark.spec("RFC 9110 §11.2", "Read schemes, parameters and token68 in any case and spacing")
@pytest.mark.spec("RFC 9110 §5.5", "Read CR, LF and NUL as spaces")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('Bearer realm = "x" , scope\t=\ty', {"realm": "x", "scope": "y"}),  # BWS: RFC 9110 §11.2
        ('Bearer   realm="x"', {"realm": "x"}),
        ('Bearer realm="a, b=c, Basic d", scope="e"', {"realm": "a, b=c, Basic d", "scope": "e"}),
        (r'Bearer realm="\\ \" \a"', {"realm": r"\ " + '" a'}),
        ('Bearer realm=""', {"realm": ""}),
        ('Bearer realm="größe ☃"', {"realm": "größe ☃"}),  # obs-text: RFC 9110 §5.6.4
        ("Bearer\r\n realm=\"a\r\nb\0c\",\n scope='d'", {"realm": "a  b c", "scope": "'d'"}),  # RFC 9110 §5.5
        (f"Bearer resource_metadata={METADATA}, error=x", {"resource_metadata": METADATA, "error": "x"}),
        ('Bearer a="1" b=2 c="3"', {"a": "1", "b": "2", "c": "3"}),
        ("Bearer a=b=c", {"a": "b=c"}),
    ],
)
def test_values_are_parsed_with_any_spacing_and_quoting(value: str, expected: dict[str, str]) -> None:
    assert parameters_of(value) == expected


@pytest.mark.spec("RFC 6750 §3", "Use no attribute that a challenge repeats")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('Bearer scope="a", error=x, Scope="b"', {"error": "x"}),
        ('Bearer scope="a", scope="a"', {}),
        ('Bearer scope="a", scope="b", scope="c"', {}),
        ('Bearer scope="a", scope="unclosed', {}),
        ('Bearer error=x, scope="a, resource_metadata=b', {"error": "x"}),
        ('Bearer error=x, scope="a\\', {"error": "x"}),
        ('Bearer error=x, scope="a\\"', {"error": "x"}),
        ('Bearer scope="a"b, error=x', {"error": "x"}),
        ('Bearer scope=a"b, c=d", error=x', {"error": "x"}),
        ("Bearer scope=é, error=x", {"error": "x"}),
        ("Bearer scope=, error=x", {"error": "x"}),
        ("Bearer realm=OAuth Server, error=x", {"realm": "OAuth", "error": "x"}),
        ('Bearer @"a, b=c, d", error=x', {"error": "x"}),
    ],
)
def test_ambiguous_values_are_dropped(value: str, expected: dict[str, str]) -> None:
    assert parameters_of(value) == expected


@pytest.mark.parametrize(
    "value", ["error=x", '"Bearer error=x"', "é, error=x", "=", '"', "Bearer/1 error=x", "Bearer = a, error=x", "\\"]
)
def test_parameters_without_a_scheme_are_dropped(value: str) -> None:
    assert parse_challenges([value]) == ()


def test_parameters_of_a_malformed_challenge_are_dropped() -> None:
    assert parse_challenges(['Bearer error=x, Odd/1 realm="a", scope="b", Basic realm="c"']) == (
        Challenge("bearer", {"error": "x"}),
        Challenge("basic", {"realm": "c"}),
    )


@pytest.mark.spec("RFC 9110 §11.6.1", "Read several challenges, in one field or in several")
def test_separate_and_joined_fields_are_parsed() -> None:
    values = ['Basic realm="a"', f'Bearer error="x", resource_metadata="{METADATA}"', "Negotiate"]
    apart = parse_challenges(values)
    assert [one.scheme for one in apart] == ["basic", "bearer", "negotiate"]
    assert apart == parse_challenges([", ".join(values)])


def test_a_token68_has_no_parameters() -> None:
    assert parse_challenges(["Bearer a==, b=1"]) == (Challenge("bearer", {"b": "1"}),)


def test_an_unclosed_quote_ends_at_the_end_of_its_field() -> None:
    assert parse_challenges(['Basic realm="a', "Bearer error=x"]) == (
        Challenge("basic"),
        Challenge("bearer", {"error": "x"}),
    )


@pytest.mark.parametrize("end", ['scope="abcdef"', "scope=abcdef", "scope=abc,", "scope"])
def test_text_beyond_the_limit_is_ignored(end: str) -> None:
    start = 'Bearer error=x, pad="' + "a" * (MAX_FIELD - 40) + '", '
    value = (start + " " * (MAX_FIELD - len(start) - 8) + end).ljust(MAX_FIELD + 9, "z")
    (challenge,) = parse_challenges([value, "Basic realm=late"])
    assert challenge.parameters["error"] == "x"
    assert "scope" not in challenge.parameters


def test_a_field_of_exactly_the_limit_is_complete() -> None:
    value = "Bearer error=x, scope=".ljust(MAX_FIELD, "a")
    assert len(parameters_of(value)["scope"]) == MAX_FIELD - len("Bearer error=x, scope=")


def test_a_token68_that_is_cut_off_is_dropped() -> None:
    assert parse_challenges(["Basic ".ljust(MAX_FIELD + 1, "a")]) == (Challenge("basic"),)


def test_a_scheme_that_is_cut_off_is_dropped() -> None:
    assert [one.scheme for one in parse_challenges(["Basic,".ljust(MAX_FIELD - 6) + "Bearerish"])] == ["basic"]


@pytest.mark.parametrize(
    "piece",
    ["a", " ", ",", '"', "\\", "=", "a ", "a,", "a=", 'a="', 'a="b" ', '"\\', "a = ", "Bearer a", "a==,", "é", "= "],
)
def test_every_character_is_read_a_few_times_at_most(piece: str) -> None:
    for opening in ("", "Bearer ", 'Bearer a="'):
        value = counted((opening + piece * MAX_FIELD)[:MAX_FIELD])
        parse_challenges([value])
        assert MAX_FIELD <= value.reads <= 8 * MAX_FIELD


@pytest.mark.spec("RFC 9728 §5.1", "Read resource_metadata of a challenge")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            [f'Bearer realm="OAuth", resource_metadata="{METADATA}", error="invalid_token"'],
            BearerChallenge(realm="OAuth", resource_metadata=METADATA, error="invalid_token"),
        ),
        (['Basic realm="x"', "Negotiate"], None),
        ([], None),
        (["Bearer"], BearerChallenge()),
        (['Bearer resource_metadata=""'], BearerChallenge()),
        (["Bearer mF_9.B5f-4.1JqM"], BearerChallenge()),
    ],
)
def test_the_bearer_challenge(values: list[str], expected: BearerChallenge | None) -> None:
    assert bearer_challenge(values) == expected


@pytest.mark.parametrize(
    ("values", "realm"),
    [
        (['Bearer realm="1"', 'Bearer realm="2", error=x', f'Bearer realm="3", resource_metadata="{METADATA}"'], "3"),
        (['Bearer realm="1", resource_metadata="a"', 'Bearer realm="2", resource_metadata="b"'], "1"),
        (['Bearer realm="1", resource_metadata=""', 'Bearer realm="2", error=x', 'Bearer realm="3", error=y'], "2"),
        (['Basic realm="0", error=x', 'Bearer realm="1"', 'Bearer realm="2"'], "1"),
    ],
)
def test_challenges_with_metadata_then_with_an_error_are_preferred(values: list[str], realm: str) -> None:
    for fields in (values, [", ".join(values)]):
        chosen = bearer_challenge(fields)
        assert chosen is not None
        assert chosen.realm == realm


@pytest.mark.spec("RFC 6749 §3.3", "Accept only a scope of valid scope tokens")
@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ('scope="files:read"', "files:read"),
        ('scope="a b  c"', "a b c"),
        ('scope="!#[]~"', "!#[]~"),
        ('scope=""', None),
        ('scope="  "', None),
        (r'scope="a\"b"', None),
        (r'scope="a \\ b"', None),
        ('scope="a\tb"', None),
        ('scope="a é"', None),
        ('scope="a\u00a0b"', None),
        ('scope="a\x7f"', None),
    ],
)
def test_a_scope_with_invalid_characters_is_ignored(parameters: str, expected: str | None) -> None:
    """RFC 6749 §3.3."""
    chosen = bearer_challenge([f"Bearer {parameters}, error=x"])
    assert chosen == BearerChallenge(error="x", scope=expected)


@pytest.mark.spec("RFC 9470 §3", "Read acr_values and max_age of a challenge")
@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ('max_age="5"', 5),
        ("max_age=0", 0),
        ("max_age=9999999999", 9_999_999_999),
        ("max_age=99999999999", None),
        ("max_age=-1", None),
        ("max_age=+1", None),
        ("max_age=1.5", None),
        ('max_age=" 5"', None),
        ('max_age="٣"', None),
        ('max_age="²"', None),
        ('max_age=""', None),
    ],
)
def test_max_age_is_a_number_of_seconds(parameters: str, expected: int | None) -> None:
    """RFC 9470 §3."""
    chosen = bearer_challenge([f"Bearer {parameters}"])
    assert chosen == BearerChallenge(max_age=expected)


def test_the_servers_own_text_is_made_safe_and_repeats_no_secret() -> None:
    value = 'Bearer realm="a\x1b[31m", error="in\\"valid", error_description="\u202eno canary-access-token"'
    assert bearer_challenge([value]) == BearerChallenge(realm="a [31m", error_description="no canary-access-token")
    assert bearer_challenge([value], secrets=frozenset({"canary-access-token"})) == BearerChallenge(realm="a [31m")
    assert "canary" not in repr(parse_challenges([value]))
