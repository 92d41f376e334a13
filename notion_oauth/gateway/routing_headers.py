"""The headers that repeat parts of a request without a session (2026-07-28), derived from its body."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

from notion_oauth.gateway.jsonrpc import Message

_NAME_IN = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}  # the parameter in `Mcp-Name`
_ENCODED = re.compile(r"=\?base64\?.*\?=", re.DOTALL)
_PLAIN = re.compile(r"[\x20-\x7e]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a header name (RFC 9110 §5.6.2)
_TYPES = ("string", "integer", "boolean")
_HEADER = "x-mcp-header"
# The keywords of JSON Schema 2020-12 whose values are schemas, lists of schemas, and schemas by name
_SCHEMA = (
    *("items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "unevaluatedProperties"),
    *("not", "if", "then", "else", "contentSchema"),
)
_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED_SCHEMAS = ("patternProperties", "dependentSchemas", "$defs", "definitions")

Path = tuple[str, ...]


def routing_headers(message: Message, input_schema: object = None) -> dict[str, str]:
    """Return the headers of a request without a session. `input_schema` is that of the called tool, if it is known."""
    headers = {"mcp-protocol-version": message.revision or "", "mcp-method": encoded(message.method or "")}
    name = message.params.get(_NAME_IN.get(message.method or "", ""))
    if isinstance(name, str):
        headers["mcp-name"] = encoded(name)
    arguments = message.params.get("arguments")
    if message.tool is not None and isinstance(arguments, dict):
        for path, header in header_parameters(input_schema).items():
            value = _rendered(_value_at(arguments, path))
            if value is not None:
                headers[f"mcp-param-{header.lower()}"] = encoded(value)
    return headers


def encoded(value: str) -> str:
    """Return the value of a header: in base64 with a marker, if it would not arrive unchanged or looks like that."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _ENCODED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode(errors='surrogatepass')).decode()}?="


def header_parameters(schema: object) -> dict[Path, str]:
    """Return the header name of each annotated property; none if one annotation breaks the rules.

    A property may be annotated if a chain of `properties` leads to it, it is a string, an integer or a boolean, and no
    other has the same header.
    """
    found: dict[Path, str] = {}
    for path, part in _schemas(schema):
        if _HEADER not in part:
            continue
        header = part[_HEADER]
        if not path or not isinstance(header, str) or not _TOKEN.fullmatch(header) or part.get("type") not in _TYPES:
            return {}
        found[path] = header
    return found if len({header.lower() for header in found.values()}) == len(found) else {}


def _schemas(root: object) -> Iterator[tuple[Path | None, Mapping[str, Any]]]:
    """Yield each schema in a schema, with the chain of `properties` that leads to it; None without such a chain."""
    stack: list[tuple[Path | None, object]] = [((), root)]
    while stack:
        path, schema = stack.pop()
        if not isinstance(schema, dict):
            continue
        yield path, schema
        properties = schema.get("properties")
        if isinstance(properties, dict):
            stack += [(None if path is None else (*path, name), part) for name, part in properties.items()]
        stack += [(None, schema[keyword]) for keyword in _SCHEMA if keyword in schema]
        for keyword in _SCHEMAS:
            if isinstance(parts := schema.get(keyword), list):
                stack += [(None, part) for part in parts]
        for keyword in _NAMED_SCHEMAS:
            if isinstance(named := schema.get(keyword), dict):
                stack += [(None, part) for part in named.values()]


def _value_at(arguments: object, path: Path) -> object:
    for name in path:
        if not isinstance(arguments, dict):
            return None
        arguments = arguments.get(name)
    return arguments


def _rendered(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return str(value) if isinstance(value, str | int | float) else None
    except ValueError:  # an integer of thousands of digits
        return None
