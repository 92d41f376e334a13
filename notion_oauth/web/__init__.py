"""What the web service needs in addition to its routes: sessions, profiles, security checks, pages, health, logs.

May import: service, pages, and all that they may import (see CONTRIBUTING.md).
"""
