"""Obtaining tokens and keeping them valid: the OAuth client, registrations, the token source, revocation.

May import: storage, settings, transport, files, protocol, observability, and all that they may import.
"""
