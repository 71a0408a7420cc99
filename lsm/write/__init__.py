"""Writes: batches go into log and memtable, memtables into level-0 tables. Never imports `read`."""
