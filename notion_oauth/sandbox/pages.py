"""The pages for the user: consent, and errors that may not be sent by a redirect."""

from __future__ import annotations

import jinja2
from starlette.responses import HTMLResponse

# No form-action: browsers apply it also to the redirect after the form, which goes to the client
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} - practice server</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 28rem; margin: 10vh auto; padding: 0 1.25rem; }
body { overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; }
.practice { border: 1px dashed; border-radius: .5rem; padding: .5rem .8rem; opacity: .8; }
button { font: inherit; padding: .6rem 1.2rem; margin-right: .5rem; cursor: pointer; }
button { border-radius: .5rem; border: 1px solid; }
#approve { background: #1d5fd1; border-color: #1d5fd1; color: #fff; }
</style>
</head>
<body>
<p class="practice">This is a practice server on your machine. It is not Notion, and cannot access your Notion data.</p>
<h1>{{ title }}</h1>
<!-- body -->
</body>
</html>
"""
_CONSENT = """<p><strong>{{ client }}</strong> asks for access to the practice workspace
(scope: {{ scope }}). You will be sent back to <strong>{{ host }}</strong>.</p>
<form method="post" action="/authorize">
<input type="hidden" name="ticket" value="{{ ticket }}">
<button id="approve" name="decision" value="approve">Approve</button>
<button id="deny" name="decision" value="deny">Deny</button>
</form>"""
_TEXT = "<p>{{ text }}</p>"

_environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)


def _page(title: str, body: str, status: int, **values: str) -> HTMLResponse:
    template = _environment.from_string(_PAGE.replace("<!-- body -->", body))
    return HTMLResponse(template.render(title=title, **values), status, _HEADERS)


def consent_page(*, client: str, scope: str, host: str, ticket: str) -> HTMLResponse:
    """Ask the user for consent. `ticket` is valid for one decision on this request."""
    return _page(
        "Connect to the practice workspace?", _CONSENT, 200, client=client, scope=scope, host=host, ticket=ticket
    )


def text_page(title: str, text: str, *, status: int = 200) -> HTMLResponse:
    """Return a page with one sentence."""
    return _page(title, _TEXT, status, text=text)
