"""The command line.

May import: all other packages. Only this package may import the sandbox.
"""
