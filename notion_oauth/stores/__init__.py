"""Token stores other than files, and the choice of the store for the settings.

May import: storage, settings, files, and all that they may import (see CONTRIBUTING.md).
"""
