"""Waiting until something is appended or durable, and waking those who wait."""
