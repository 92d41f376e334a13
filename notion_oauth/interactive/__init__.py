"""Signing in with a person at a terminal: browser, loopback redirect receiver, pasted redirect.

May import: service, pages, and everything below them.
"""
