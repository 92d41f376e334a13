"""What the RFCs say, as pure functions: no clock, network, disk, log or randomness.

May import: errors, models.
"""
