"""What the RFCs say, as pure functions that build requests and read answers: no await, clock, disk or network."""
