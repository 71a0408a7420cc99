"""Reports for an operator: events, log lines, and the health of stores and background work."""
