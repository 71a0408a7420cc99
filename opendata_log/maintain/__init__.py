"""Compaction of a log: the policy for segments (`policy`, pure), and a compactor that runs alone."""
