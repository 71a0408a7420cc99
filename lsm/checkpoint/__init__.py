"""Versions of a database that are kept for a while, and databases that begin with another one's tables."""
