"""One immutable table: blocks of rows, a filter and an index."""
