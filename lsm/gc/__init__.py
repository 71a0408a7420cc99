"""Garbage collection: the choice of what to delete (`policy`, pure), and its deletion (`collector`)."""
