"""Logs: the audit log, the log format, redaction, and the context of log lines.

May import: errors, models.
"""
