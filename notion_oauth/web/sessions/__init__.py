"""The session cookie: its middleware, its keys, pending sign-ins, and our values in it."""
