"""Compaction: rewrites tables so that reads visit few of them. Can run in another process; never imports `db`."""
