"""The command `doctor`: checks, none of which changes anything, and their report.

`report.py` lists all checks in order.
"""
