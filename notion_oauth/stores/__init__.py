"""Creates the token store for the settings.

May import: storage, settings, files, and all that they may import (see CONTRIBUTING.md).
"""
