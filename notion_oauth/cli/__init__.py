"""The command line.

May import: every other room. Only this room may import the sandbox.
"""
