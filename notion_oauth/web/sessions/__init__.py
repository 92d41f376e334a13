"""The session cookie: its middleware, its keys, pending sign-ins, and the values in it."""
