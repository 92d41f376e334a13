"""What the web service needs beside its routes: sessions, profiles, security checks, pages, health, logs.

May import: service, pages, and everything below them.
"""
