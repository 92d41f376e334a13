"""The clients that are compared. Each runs in a separate process and a separate environment.

Nothing here may import more than the standard library and, inside a function, the client that is measured.
"""
