"""`python -m lsm`: the engine from a terminal."""
