"""A practice authorization server that behaves as Notion's does, with a protected `/mcp`.

For tests, and for development without a Notion workspace. It imports nothing from the rest of the package, so that
a wrong constant cannot go unnoticed on both sides.
"""

from notion_oauth.sandbox.options import SandboxOptions
from notion_oauth.sandbox.recording import RecordedRequest
from notion_oauth.sandbox.running import RunningSandbox, Sandbox, serve_sandbox

__all__ = ["RecordedRequest", "RunningSandbox", "Sandbox", "SandboxOptions", "serve_sandbox"]
