"""Checkpoints, which keep versions of a database, and clones, which begin with another database's tables."""
