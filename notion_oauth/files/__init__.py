"""Files that hold secrets: atomic writes, permissions, encryption, and the token file's format.

May import: protocol, observability, and the modules below them.
"""
