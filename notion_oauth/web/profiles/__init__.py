"""Which profile a request belongs to, and the profiles of browser sessions."""
