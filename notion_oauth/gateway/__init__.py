"""The MCP gateway: a local MCP server for clients, whose messages go to Notion's with a token that is always valid.

`local_secret.py` has the bearer of its HTTP face.

May import: interactive, web, service, and all that they may import (see CONTRIBUTING.md).
"""
