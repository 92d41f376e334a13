"""Which profile a request is for, and the profiles of browser sessions."""
