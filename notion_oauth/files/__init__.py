"""Files that hold secrets: atomic writes, permissions, encryption, and the token file's format.

May import: protocol, observability, and all that they may import (see CONTRIBUTING.md).
"""
