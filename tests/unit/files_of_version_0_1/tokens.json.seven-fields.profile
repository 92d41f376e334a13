{
  "access_token": "made-up-access-token",
  "token_type": "bearer",
  "expires_in": 3600,
  "refresh_token": "made-up-refresh-token",
  "client_id": "made-up-client",
  "client_secret": null,
  "updated_at": 1735819200250
}
