"""Background work in other processes."""
