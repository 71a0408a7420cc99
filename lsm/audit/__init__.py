"""Verification of everything that a database stores. It reports damage and repairs nothing."""
