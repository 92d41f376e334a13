{
  "access_token": "made-up-access-token",
  "token_type": "Bearer",
  "expires_in": 3600,
  "refresh_token": "made-up-refresh-token",
  "client_id": "made-up-client",
  "client_secret": "made-up-client-secret",
  "updated_at": 1735819200250,
  "expires_at": 4070908800000,
  "authorized_at": 1735646400250,
  "refreshed_at": 1735819200250,
  "scope": "default read",
  "requested_scope": "default read write",
  "issuer": "https://mcp.notion.com",
  "resource": "http://127.0.0.1:9000/mcp",
  "token_endpoint": "https://mcp.notion.com/token",
  "revocation_endpoint": "https://mcp.notion.com/revoke",
  "introspection_endpoint": "https://mcp.notion.com/introspect",
  "token_endpoint_auth_method": "client_secret_post",
  "token_endpoint_auth_methods_supported": [
    "client_secret_post",
    "none"
  ],
  "revocation_endpoint_auth_methods_supported": [
    "client_secret_post"
  ],
  "introspection_endpoint_auth_methods_supported": [
    "client_secret_basic"
  ],
  "client_secret_expires_at": 4070908800
}
