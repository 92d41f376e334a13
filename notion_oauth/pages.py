"""HTML pages from templates, and the security headers of every response."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from fastapi import Response
from fastapi.responses import HTMLResponse

from notion_oauth.humanize import format_duration

ERROR_TITLE = "Something went wrong"
SECURE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("notion_oauth"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["span"] = format_duration
    return environment


@cache
def _style() -> str:
    return files("notion_oauth").joinpath("templates/style.css").read_text()


@cache
def _content_security_policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def render(template: str, context: Mapping[str, Any]) -> str:
    """The HTML of a page. All values in the context are escaped."""
    return _environment().get_template(template).render(style=_style(), **context)


def page(
    template: str, context: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An HTML response, with a policy that allows only the page's own style, images in `data:` URLs, and own forms."""
    policy = {"Content-Security-Policy": _content_security_policy(), "Vary": "Accept"}
    return HTMLResponse(render(template, context), status, {**SECURE_HEADERS, **policy, **(headers or {})})


def error_page(
    message: str,
    hint: str,
    *,
    status: int,
    title: str = ERROR_TITLE,
    home: str = "",
    login: str = "",
    server: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error for a user. `home` and `login` are the paths of its buttons, if it has them.

    `server` is the name of the MCP server that `login` signs in to.
    """
    context = {"title": title, "message": message, "hint": hint, "home": home, "login": login, "server": server}
    return page("error.html", context, status=status, headers=headers)
