"""The pages /docs and /redoc of FastAPI, with a policy that lets them load their scripts."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse

SCRIPTS = "https://cdn.jsdelivr.net"
_POLICY = (
    f"default-src 'none'; script-src 'unsafe-inline' {SCRIPTS}; style-src 'unsafe-inline' {SCRIPTS}; "
    "img-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def add_api_docs(app: FastAPI) -> None:
    """Add both pages to an application that serves its OpenAPI document."""
    app.add_api_route("/docs", _page(app, get_swagger_ui_html), include_in_schema=False)
    app.add_api_route("/redoc", _page(app, get_redoc_html), include_in_schema=False)


def _page(app: FastAPI, html: Callable[..., HTMLResponse]) -> Callable[[Request], HTMLResponse]:
    def page(request: Request) -> HTMLResponse:
        response = html(openapi_url=f"{request.scope.get('root_path', '')}{app.openapi_url}", title=app.title)
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    return page
