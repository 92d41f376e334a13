"""Sign in to Notion's hosted MCP server once."""
