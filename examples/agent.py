"""Let an agent of the OpenAI Agents SDK answer a question from Notion, through the gateway `notion-oauth mcp`.

    OPENAI_API_KEY=... uv run examples/agent.py "Which workspace is this?"

Sign in first: `uv run notion-oauth login`. OPENAI_BASE_URL selects another server of models, also on this machine, and
OPENAI_DEFAULT_MODEL the model.
"""

from __future__ import annotations

import asyncio
import os
import sys

from agents import Agent, AgentsException, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio
from openai import OpenAIError

from notion_oauth import NotionOAuth, NotionOAuthError


async def main(question: str) -> None:
    set_tracing_disabled(True)  # otherwise what the tools return is also sent to OpenAI's dashboard
    await NotionOAuth().tokens.token()  # without a login, the gateway's only tool is a sign-in
    environment = {"NOTION_OAUTH_LOG_LEVEL": "warning", **os.environ}
    gateway = MCPServerStdio(
        {"command": "notion-oauth", "args": ["mcp", "--read-only"], "env": environment},
        client_session_timeout_seconds=300,  # a tool may take minutes
    )
    async with gateway as notion:
        agent = Agent("Notion", instructions="Answer from Notion. Use its tools.", mcp_servers=[notion])
        print((await Runner.run(agent, question)).final_output)


if __name__ == "__main__":
    try:
        asyncio.run(main(" ".join(sys.argv[1:]) or "Who am I in Notion?"))
    except (NotionOAuthError, AgentsException, OpenAIError) as error:
        sys.exit(str(error))
