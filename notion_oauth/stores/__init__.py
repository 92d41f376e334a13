"""Which token store the settings ask for.

May import: storage, settings, files, and the modules below them.
"""
