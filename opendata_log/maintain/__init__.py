"""Compacting a log: the shape that segments get (`policy`, pure), and a compactor by itself."""
