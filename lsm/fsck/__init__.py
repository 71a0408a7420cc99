"""Verification of everything a database stores. Reads, reports, repairs nothing."""
