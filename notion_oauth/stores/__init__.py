"""Creates the token store for the settings.

May import: storage, settings, files, and the modules below them.
"""
