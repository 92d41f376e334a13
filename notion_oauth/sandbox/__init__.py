"""A practice authorization server that behaves as Notion's does, with a protected `/mcp`.

For tests, and for people who develop without a Notion workspace. It imports nothing of the rest of the
package, so that one wrong constant cannot pass on both sides.
"""

from notion_oauth.sandbox.options import SandboxOptions
from notion_oauth.sandbox.recording import RecordedRequest
from notion_oauth.sandbox.running import RunningSandbox, Sandbox, serve_sandbox

__all__ = ["RecordedRequest", "RunningSandbox", "Sandbox", "SandboxOptions", "serve_sandbox"]
