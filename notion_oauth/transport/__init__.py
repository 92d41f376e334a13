"""Outgoing HTTP: address checks against request forgery, proxies, certificates, time-outs, size limits.

May import: settings, protocol, and all that they may import (see CONTRIBUTING.md).
"""
