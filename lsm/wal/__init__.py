"""The write-ahead log: numbered objects, created once; each holds the batches of one group commit, or is a fence."""
