"""Adapters that attach a valid token to the requests of an HTTP library.

May import: service, and all that service may import (see CONTRIBUTING.md).
"""
