"""The command line.

May import: every other room, and it alone may import the sandbox.
"""
