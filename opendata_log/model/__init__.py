"""The log's values, the bytes of its keys, its settings and errors. Pure, but for settings files."""
