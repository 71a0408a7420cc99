"""Known bugs as patches, to see that something notices each."""
