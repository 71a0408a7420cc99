"""Threads of our own, locks that know their holder, and what a fork or the end of the program does to open handles."""
