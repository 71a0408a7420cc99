"""The manifest: which objects make up the database."""
