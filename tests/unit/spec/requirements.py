"""What the specifications ask of a client, in our own words: the list that `pytest --spec` prints.

One line for each requirement, under its section. A test says which it holds by `@pytest.mark.spec(section, line)`,
both as they stand here; a requirement that no test holds fails a test, and a marker that names none is an error.
MCP is the authorization part of the revision 2026-07-28, by the headings of its pages.
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
        "Ask the URL that the challenge names first",
        "Else ask the well-known URL with the endpoint's path, then the root one",
        "Ask for a server's metadata at its two or three well-known URLs, in their order",
        "Use no document whose issuer is not, to the letter, the one it was asked for",
        "Try one well-known URL after the other until a document is right",
    ),
    "MCP §Authorization Response Validation": (
        "Record the issuer with the verifier and the state, before the browser leaves",
        "Compare or miss iss as the table of what is announced and what came says",
        "Compare the decoded iss as a string, nothing normalised",
        "Check iss before the code goes to any token endpoint",
        "Neither act on nor show the error of an answer with another iss",
    ),
    "MCP §Resource Parameter Implementation": ("Send resource in every authorization and token request",),
    "MCP §Canonical Server URI": (
        "Name the server as its metadata spells it, no slash added",
        "Name no server by a URI with a fragment",
    ),
    "MCP §Token Requirements": (
        "Send the token in the Authorization header of every request",
        "Put no token into a URL",
    ),
    "MCP §Token Handling": ("Send a token to the server that it was issued for alone",),
    "MCP §Refresh Tokens": (
        "Keep refresh tokens confidential on their way and where they lie",
        "List refresh_token among the grant types",
        "Do not count on getting a refresh token",
        "Add offline_access where the authorization server lists it",
    ),
    "MCP §Scope Selection Strategy": (
        "Ask for the challenge's scope, else for all the resource lists",
        "Presume nothing of how those two are related",
    ),
    "MCP §Step-Up Authorization Flow": (
        "Ask for what was asked before together with what is challenged",
        "Send the request again with the new token",
        "Ask a few times at most for one request",
        "Remember what was asked for in vain",
        "Without a person, give up at once and say what to run",
    ),
    "MCP §Client Registration Approaches": (
        "Use a client that was registered by hand first",
        "Else a metadata document where the server takes those, else register",
    ),
    "MCP §Client ID Metadata Documents": ("Hold client_id (its own URL), client_name and redirect_uris",),
    "MCP §Dynamic Client Registration": (
        "Send application_type: native for loopback, web for another host",
        "Say why a registration was refused over its redirect URIs",
    ),
    "MCP §Authorization Server Binding": (
        "Use a client with the issuer that registered it alone",
        "Keep clients and tokens apart for each issuer",
        "Refuse to show a client by hand to another issuer",
    ),
    "MCP §Communication Security": (
        "Talk to https endpoints alone, and to http on loopback",
        "Be redirected to https or loopback alone",
    ),
    "MCP §Authorization Code Protection": (
        "Refuse a server that lists no code_challenge_methods_supported",
        "Use S256",
    ),
    "MCP §Open Redirection": (
        "Register the redirect URI that is used",
        "Drop an answer without the state of its sign-in, or with another",
    ),
    "MCP 2025-03-26 §Authorization Base URL": ("Take the origin where the resource has no metadata",),
    "MCP 2025-03-26 §Fallbacks for Servers without Metadata Discovery": (
        "Else take /authorize, /token and /register of that origin",
    ),
    "RFC 6749 §2.3": ("Authenticate by one method in each request",),
    "RFC 6749 §2.3.1": (
        "HTTP Basic carries client_id and secret, each form-encoded first",
        "Credentials in the body are client_id and client_secret",
    ),
    "RFC 6749 §3.1": (
        "Keep the query that the authorization endpoint has",
        "Accept no parameter twice",
        "Treat a parameter without a value as left out",
    ),
    "RFC 6749 §3.2": ("Send no parameter without a value",),
    "RFC 6749 §3.3": ("Believe a scope of well-formed scope tokens alone",),
    "RFC 6749 §4.1.1": ("Ask with response_type, client_id, redirect_uri, scope and state",),
    "RFC 6749 §4.1.2": ("Take the code of the answer, and ignore unknown parameters",),
    "RFC 6749 §4.1.2.1": ("Report the error that came in the place of a code",),
    "RFC 6749 §4.1.3": ("Exchange the code with the redirect_uri of the authorization request",),
    "RFC 6749 §4.1.4": ("Read the token response to a code",),
    "RFC 6749 §5.1": (
        "Ignore unknown members of a token response",
        "A scope that is left out is the one that was asked for",
    ),
    "RFC 6749 §5.2": ("Tell an error by its code, be the status 400 or 401",),
    "RFC 6749 §6": (
        "Refresh with grant_type=refresh_token, as the client that got the token",
        "Put a new refresh token in the place of the old one",
        "Keep the old refresh token where no new one comes",
    ),
    "RFC 6749 §7.1": ("Use no token of a type that is not understood",),
    "RFC 6749 §10.12": ("Bind the answer to the browser that began the sign-in",),
    "RFC 6749 §B": ("Encode form values as UTF-8, a space as +, the rest as %HH",),
    "RFC 6750 §2.1": (
        "Send the token as Authorization: Bearer",
        "Use no token that fits into no header",
    ),
    "RFC 6750 §3": (
        "Read realm, scope, error and error_description of a Bearer challenge",
        "Take no attribute that a challenge repeats",
    ),
    "RFC 6750 §3.1": ("Try once more with another token where one was refused",),
    "RFC 6750 §4": ("Read the example response",),
    "RFC 7009 §2.1": ("Send token, token_type_hint and who the client is",),
    "RFC 7009 §2.2": ("Take any success for done, the token known or not",),
    "RFC 7009 §2.2.1": ("Take the token for alive after an error or a 503",),
    "RFC 7523 §2.1": ("Exchange an assertion with its grant type, and say who the client is",),
    "RFC 7523 §3": ("Send no assertion that was issued to another client",),
    "RFC 7523 §3.1": ("Report the error of an assertion that was refused",),
    "RFC 7591 §2": ("Register what is used: redirect URIs, grant and response types, no secret",),
    "RFC 7591 §3.1": ("POST the metadata as JSON",),
    "RFC 7591 §3.2.1": (
        "Read the client's id, its secret and until when that is good, 0 being forever",
        "Use the client as the server made it, not as it was asked for",
        "Register anew once the secret has expired",
    ),
    "RFC 7591 §3.2.2": ("Report the error code and the server's words",),
    "RFC 7636 §4.1": ("Make a verifier of 43 to 128 unreserved characters, a new one each time",),
    "RFC 7636 §4.2": ("Make the challenge of the verifier's SHA-256, base64url without padding",),
    "RFC 7636 §4.3": ("Send code_challenge and its method with the authorization request",),
    "RFC 7636 §4.5": ("Send the verifier with the code",),
    "RFC 7636 §B": ("Compute the example",),
    "RFC 7662 §2.1": ("Send token, token_type_hint and who the client is",),
    "RFC 7662 §2.2": ("Read the examples, and believe nothing of a token that is not active",),
    "RFC 8252 §7.3": (
        "Be redirected to a loopback address and any port",
        "Know both loopback addresses, whatever the port",
    ),
    "RFC 8252 §8.3": ("Name the loopback address, not localhost",),
    "RFC 8414 §2": (
        "Believe an issuer that is an https URL without query and fragment alone",
        "Without a list of authentication methods, client_secret_basic is meant",
        "Without a list of grant types, the one of RFC 7523 is not among them",
        "An authorization endpoint is left out where no grant needs it",
        "Authenticate at each endpoint by a method that is listed for it",
    ),
    "RFC 8414 §3": ("The well-known string lies between host and path",),
    "RFC 8414 §3.1": ("Remove a slash that ends the issuer before the path is appended",),
    "RFC 8414 §3.2": ("Read the example, and ignore what is unknown in it",),
    "RFC 8414 §3.3": ("Use no document of another issuer",),
    "RFC 8707 §2": ("resource is an absolute URI without a fragment",),
    "RFC 8707 §2.1": ("Name the resource in the authorization request",),
    "RFC 8707 §2.2": ("Name the resource in the token request",),
    "RFC 9110 §5.5": ("Take CR, LF and NUL for spaces",),
    "RFC 9110 §10.2.3": ("Wait as long as Retry-After says",),
    "RFC 9110 §11.2": ("Read schemes, parameters and token68 whatever their case and spacing",),
    "RFC 9110 §11.6.1": ("Read several challenges, in one field or in several",),
    "RFC 9207 §2.1": ("Read the iss of the example",),
    "RFC 9207 §2.2": ("Read the iss of the example of an error",),
    "RFC 9207 §2.3": ("A server that does not announce iss may send none",),
    "RFC 9207 §2.4": ("Refuse the answer of another issuer, or one without an announced iss",),
    "RFC 9470 §3": ("Read acr_values and max_age of a challenge",),
    "RFC 9470 §4": ("Ask for the acr_values and max_age of the challenge",),
    "RFC 9728 §3.1": ("The well-known string lies between host and path, a query behind it",),
    "RFC 9728 §3.2": ("Read the example, and ignore what is unknown in it",),
    "RFC 9728 §3.3": ("Use no document of another resource",),
    "RFC 9728 §5.1": ("Read resource_metadata of a challenge",),
    "RFC 9728 §7.6": ("Choose among several authorization servers",),
}

REQUIREMENTS = tuple(Requirement(section, line) for section, lines in _BY_SECTION.items() for line in lines)
