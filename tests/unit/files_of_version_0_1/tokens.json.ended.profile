{
  "ended_at": 1735819200250,
  "reason": "idle",
  "error": "invalid_grant",
  "description": "made-up description",
  "authorized_at": 1732363200250,
  "refreshed_at": 1733140800250,
  "issuer": "https://mcp.notion.com",
  "resource": "https://mcp.notion.com/mcp",
  "scope": "default",
  "requested_scope": "default"
}
