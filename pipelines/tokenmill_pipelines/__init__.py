"""What a person runs: flows, the command line, the report."""
