"""Checksums and compression, by C code of third-party packages."""
