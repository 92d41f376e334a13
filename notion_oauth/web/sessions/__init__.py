"""The session cookie: its middleware, its keys, pending sign-ins, and the values that we store in it."""
