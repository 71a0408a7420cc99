"""The commands of `python -m lsm`."""
