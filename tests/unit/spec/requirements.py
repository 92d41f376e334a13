"""What the specifications require of a client, in our words: the list that `pytest --spec` prints.

One line for each requirement, under its section. A test names the requirement that it proves with
`@pytest.mark.spec(section, line)`, both spelled as here. A requirement without a test fails a test, and a mark with an
unknown requirement is an error. A line that starts with "Deviation:" is what we do against the document, as
docs/other-servers.md explains. MCP is the authorization part of revision 2026-07-28, by the headings of its pages.
"""

from __future__ import annotations

from typing import NamedTuple


class Requirement(NamedTuple):
    section: str  # the document, " §" and the section's number or heading
    line: str


_BY_SECTION: dict[str, tuple[str, ...]] = {
    "MCP §Overview": (
        "Take the authorization server from protected resource metadata",
        "Read the metadata of RFC 8414 and of OpenID Connect Discovery",
    ),
    "MCP §Authorization Server Discovery": (
        "Read the address of the resource metadata from a challenge",
        "Request the URL of the challenge first",
        "Otherwise request the well-known URL with the endpoint's path, then the one at the root",
        "Request a server's metadata at its two or three well-known URLs, in this order",
        "Use no document whose issuer is not identical to the requested one",
        "Deviation: an issuer without a path may differ by a final slash",
        "Try the well-known URLs in turn until a document is valid",
    ),
    "MCP §Authorization Response Validation": (
        "Record the issuer with the verifier and the state, before the redirect",
        "Accept or reject by the table of announced and received iss",
        "Compare the decoded iss as a string, without normalisation",
        "Check iss before the code is sent to a token endpoint",
        "Neither act on nor show the error of a response with another iss",
    ),
    "MCP §Resource Parameter Implementation": (
        "Send resource in every authorization and token request",
        "Deviation: the user may have resource left out",
    ),
    "MCP §Canonical Server URI": (
        "Name the server as its metadata spells it, without an added slash",
        "Use no URI with a fragment",
    ),
    "MCP §Token Requirements": (
        "Send the token in the Authorization header of every request",
        "Send no token in a URL",
    ),
    "MCP §Token Handling": ("Send a token only to the server that it was issued for",),
    "MCP §Refresh Tokens": (
        "Keep refresh tokens confidential in transit and in storage",
        "List refresh_token among the grant types",
        "Do not rely on getting a refresh token",
        "Add offline_access if the authorization server lists it",
    ),
    "MCP §Scope Selection Strategy": (
        "Request the challenge's scope, otherwise all that the resource lists",
        "Assume no relation between those two",
    ),
    "MCP §Step-Up Authorization Flow": (
        "Request the previous scope together with the challenged one",
        "Send the request again with the new token",
        "Limit the number of step-ups for one request",
        "Remember step-ups that did not help",
        "Without a user, fail at once and name the command to run",
    ),
    "MCP §Client Registration Approaches": (
        "Use a preregistered client first",
        "Otherwise use a metadata document if the server supports them, otherwise register",
    ),
    "MCP §Client ID Metadata Documents": ("Contain client_id (the document's URL), client_name and redirect_uris",),
    "MCP §Dynamic Client Registration": (
        "Send application_type: native for loopback, web for other hosts",
        "Report why the redirect URIs of a registration were refused",
    ),
    "MCP §Authorization Server Binding": (
        "Use a client only with the issuer that registered it",
        "Store clients and tokens separately for each issuer",
        "Send a preregistered client to no other issuer",
    ),
    "MCP §Communication Security": (
        "Use only https endpoints, and http on loopback",
        "Use only redirect URIs with https or on loopback",
    ),
    "MCP §Authorization Code Protection": (
        "Refuse a server that lists no code_challenge_methods_supported",
        "Deviation: the user may allow a server that does not list S256",
        "Use S256",
    ),
    "MCP §Open Redirection": (
        "Register the redirect URI that is used",
        "Reject a response without the state of its sign-in, or with another",
    ),
    "MCP 2025-03-26 §Authorization Base URL": ("Use the origin if the resource has no metadata",),
    "MCP 2025-03-26 §Fallbacks for Servers without Metadata Discovery": (
        "Otherwise use /authorize, /token and /register of that origin",
    ),
    "RFC 6749 §2.3": ("Use one authentication method in each request",),
    "RFC 6749 §2.3.1": (
        "HTTP Basic carries client_id and secret, each form-encoded first",
        "Credentials in the body are client_id and client_secret",
    ),
    "RFC 6749 §3.1": (
        "Keep the query of the authorization endpoint",
        "Accept no repeated parameter",
        "Treat a parameter without a value as omitted",
    ),
    "RFC 6749 §3.2": ("Send no parameter without a value",),
    "RFC 6749 §3.3": ("Accept only a scope of valid scope tokens",),
    "RFC 6749 §4.1.1": ("Send response_type, client_id, redirect_uri, scope and state",),
    "RFC 6749 §4.1.2": ("Read the code of the response, and ignore unknown parameters",),
    "RFC 6749 §4.1.2.1": ("Report the error of a response without a code",),
    "RFC 6749 §4.1.3": ("Exchange the code with the redirect_uri of the authorization request",),
    "RFC 6749 §4.1.4": ("Read the token response to a code",),
    "RFC 6749 §5.1": (
        "Ignore unknown members of a token response",
        "An omitted scope is the requested one",
    ),
    "RFC 6749 §5.2": ("Identify an error by its code, with status 400 or 401",),
    "RFC 6749 §6": (
        "Refresh with grant_type=refresh_token, as the client that got the token",
        "Replace the old refresh token by a new one",
        "Keep the old refresh token if there is no new one",
    ),
    "RFC 6749 §7.1": ("Use no token of an unknown type",),
    "RFC 6749 §10.12": ("Bind the response to the browser that started the sign-in",),
    "RFC 6749 §B": ("Encode form values as UTF-8, a space as +, the rest as %HH",),
    "RFC 6750 §2.1": (
        "Send the token as Authorization: Bearer",
        "Use no token that is not valid in a header",
    ),
    "RFC 6750 §3": (
        "Read realm, scope, error and error_description of a Bearer challenge",
        "Use no attribute that a challenge repeats",
    ),
    "RFC 6750 §3.1": ("Retry once with another token after a rejection",),
    "RFC 6750 §4": ("Read the example response",),
    "RFC 7009 §2.1": ("Send token, token_type_hint and client authentication",),
    "RFC 7009 §2.2": ("Treat any success as revoked, even for an unknown token",),
    "RFC 7009 §2.2.1": ("Treat the token as valid after an error or a 503",),
    "RFC 7523 §2.1": ("Exchange an assertion with its grant type and client authentication",),
    "RFC 7523 §3": ("Send no assertion that was issued to another client",),
    "RFC 7523 §3.1": ("Report the error of a refused assertion",),
    "RFC 7591 §2": ("Register only what is used: redirect URIs, grant and response types, no secret",),
    "RFC 7591 §3.1": ("POST the metadata as JSON",),
    "RFC 7591 §3.2.1": (
        "Read the client's id, its secret and the expiry of the secret, where 0 means never",
        "Use the client as registered by the server, not as requested",
        "Register again after the secret has expired",
    ),
    "RFC 7591 §3.2.2": ("Report the error code and description",),
    "RFC 7636 §4.1": ("Generate a verifier of 43 to 128 unreserved characters, a new one each time",),
    "RFC 7636 §4.2": ("Compute the challenge from the verifier's SHA-256, base64url without padding",),
    "RFC 7636 §4.3": ("Send code_challenge and its method with the authorization request",),
    "RFC 7636 §4.5": ("Send the verifier with the code",),
    "RFC 7636 §B": ("Compute the example",),
    "RFC 7662 §2.1": ("Send token, token_type_hint and client authentication",),
    "RFC 7662 §2.2": ("Read the examples, and ignore all other members for an inactive token",),
    "RFC 8252 §7.3": (
        "Use a loopback address and any port as redirect URI",
        "Recognise both loopback addresses, with any port",
    ),
    "RFC 8252 §8.3": (
        "Use the loopback address, not localhost",
        "Deviation: localhost, if the user wants it or the server takes only that",
    ),
    "RFC 8414 §2": (
        "Accept only an issuer that is an https URL without query and fragment",
        "Without a list of authentication methods, the default is client_secret_basic",
        "Without a list of grant types, that of RFC 7523 is not supported",
        "The authorization endpoint may be missing if no grant needs it",
        "Authenticate at each endpoint with a method that is listed for it",
    ),
    "RFC 8414 §3": ("Insert the well-known string between host and path",),
    "RFC 8414 §3.1": ("Remove a trailing slash of the issuer before the path is appended",),
    "RFC 8414 §3.2": ("Read the example, and ignore unknown members",),
    "RFC 8414 §3.3": ("Use no document of another issuer",),
    "RFC 8707 §2": ("resource is an absolute URI without a fragment",),
    "RFC 8707 §2.1": ("Name the resource in the authorization request",),
    "RFC 8707 §2.2": ("Name the resource in the token request",),
    "RFC 9110 §5.5": ("Read CR, LF and NUL as spaces",),
    "RFC 9110 §10.2.3": ("Wait for the time of Retry-After",),
    "RFC 9110 §11.2": ("Read schemes, parameters and token68 in any case and spacing",),
    "RFC 9110 §11.6.1": ("Read several challenges, in one field or in several",),
    "RFC 9207 §2.1": ("Read the iss of the example",),
    "RFC 9207 §2.2": ("Read the iss of the example of an error",),
    "RFC 9207 §2.3": ("A server that does not announce iss may send none",),
    "RFC 9207 §2.4": ("Reject a response of another issuer, or one without an announced iss",),
    "RFC 9470 §3": ("Read acr_values and max_age of a challenge",),
    "RFC 9470 §4": ("Request the acr_values and max_age of the challenge",),
    "RFC 9728 §3.1": ("Insert the well-known string between host and path, and keep a query",),
    "RFC 9728 §3.2": ("Read the example, and ignore unknown members",),
    "RFC 9728 §3.3": ("Use no document of another resource",),
    "RFC 9728 §5.1": ("Read resource_metadata of a challenge",),
    "RFC 9728 §7.6": ("Choose one of several authorization servers",),
}

REQUIREMENTS = tuple(Requirement(section, line) for section, lines in _BY_SECTION.items() for line in lines)
