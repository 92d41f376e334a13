"""The command `doctor`: checks that change nothing, and their report."""
