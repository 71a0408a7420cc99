"""Rewriting sorted runs so that reads stay short. Can run in another process; never sees `db`."""
