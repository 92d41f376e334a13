"""The measurements. Each takes the same context and yields one or more tables."""
