"""Sorted rows in memory."""
