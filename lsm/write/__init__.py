"""Writes: batches into log and memtable, memtables into level-0 tables. Never imports `read`."""
