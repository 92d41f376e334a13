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
# The same family as the pages of the service, but never to be taken for Notion or for the service
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} - practice server</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --paper: #f6f4ef; --card: #fffefc; --edge: #8a857a; --ink: #24211c; --soft: #625e55;
  --accent: #0d566d; --on-accent: #fff; --wait: #7d5000; --wait-tint: #f9edd5; }
@media (prefers-color-scheme: dark) { :root { --paper: #151513; --card: #1e1e1b; --edge: #827e75; --ink: #edeae3;
  --soft: #aba79d; --accent: #86cbe0; --on-accent: #062630; --wait: #e6b75f; --wait-tint: #392e18; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.5 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.tape { padding: .625rem min(5vw, 1.25rem); border-bottom: 2px dashed var(--wait); background: var(--wait-tint);
  font-size: .875rem; text-align: center; text-wrap: balance; }
main { max-width: 30rem; margin: 9vh auto 2rem; padding-inline: min(5vw, 1.25rem); }
.card { padding: min(6vw, 2rem); border: 2px dashed var(--wait); border-radius: 1rem; background: var(--card); }
h1 { font-size: clamp(1.375rem, 1.2rem + .9vw, 1.625rem); line-height: 1.25; letter-spacing: -.015em;
  text-wrap: balance; }
p, ul { margin-top: .625rem; }
ul { padding-left: 1.25rem; }
li { margin-top: .375rem; }
.soft { color: var(--soft); }
form { display: flex; flex-wrap: wrap; gap: .75rem; margin-top: 1.5rem; }
button { min-height: 2.75rem; padding: .5rem 1.125rem; border: 1px solid var(--edge); border-radius: .625rem;
  background: none; color: var(--ink); font: inherit; font-weight: 550; cursor: pointer; }
#approve { border-color: var(--accent); background: var(--accent); color: var(--on-accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
@media (max-width: 30em) { main { margin-top: 1.5rem; } button { flex: 1 1 auto; } }
</style>
</head>
<body>
<aside class="tape" aria-label="Practice server"><strong>Practice server.</strong>
It runs on your machine, is not Notion, and has no access to your Notion data.</aside>
<main>
<div class="card">
<h1>{{ title }}</h1>
<!-- body -->
</div>
</main>
</body>
</html>
"""
_CONSENT = """<p class="soft"><strong>{{ client }}</strong> asks, as it would ask at Notion. If you allow it:</p>
<ul>
<li>It can use the practice workspace <span class="soft">(scope: {{ scope }})</span>.</li>
<li>You are sent back to <strong>{{ host }}</strong>.</li>
</ul>
<form method="post" action="/authorize">
<input type="hidden" name="ticket" value="{{ ticket }}">
<button id="approve" name="decision" value="approve">Allow</button>
<button id="deny" name="decision" value="deny">Do not allow</button>
</form>"""
_TEXT = '<p class="soft">{{ text }}</p>'

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
