"""Worker processes for background work."""
