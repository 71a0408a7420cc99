"""What the engine tells an operator: its log lines, and what keeps failing."""
