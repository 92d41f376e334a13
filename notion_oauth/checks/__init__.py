"""What `doctor` looks at: small checks, each of which changes nothing."""
