"""The log's values, the bytes of its keys, its settings and errors. Pure, except for settings files."""
