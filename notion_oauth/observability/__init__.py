"""Logs: the audit log, the log format, redaction, and the context of a log line.

May import: errors, models.
"""
