"""The writing half: sequences, segments, appends, retention."""
