"""Adapters that attach a valid token to the requests of an HTTP library.

May import: service and everything below it.
"""
