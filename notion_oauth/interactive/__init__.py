"""Sign-in with a user at a terminal: browser, loopback redirect receiver, pasted redirect URL.

May import: service, pages, and all that they may import (see CONTRIBUTING.md).
"""
