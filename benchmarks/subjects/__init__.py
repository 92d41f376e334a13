"""The clients that are compared. Each runs in a process of its own, in an environment that holds it alone.

Nothing here may import more than the standard library and, inside a function, the client that is measured.
"""
