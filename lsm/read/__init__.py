"""Reads over a view. Never imports `write`."""
