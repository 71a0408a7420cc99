"""The write-ahead log: numbered create-only objects, each the batches of one group commit, or a fence."""
