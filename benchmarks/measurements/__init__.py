"""What is measured. Every measurement takes the same context and gives one table or more."""
