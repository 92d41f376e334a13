"""Sign in to Notion once, and every program has a valid Notion MCP token until Notion itself ends the grant."""
