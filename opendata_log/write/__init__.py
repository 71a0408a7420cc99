"""The write side: sequences, segments, appends, retention."""
