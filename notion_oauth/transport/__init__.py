"""Outgoing HTTP: address checks against request forgery, proxies, certificates, time-outs, size limits.

May import: settings, protocol, and the modules below them.
"""
