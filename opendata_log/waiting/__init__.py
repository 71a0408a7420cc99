"""Waiting until records are appended or durable, and waking the waiters."""
