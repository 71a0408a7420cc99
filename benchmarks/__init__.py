"""Compares OpenData Log with the stores that an engineer would use instead, from Python, on this machine.

`python -m benchmarks` runs everything and prints ratios beside the goals; `python -m benchmarks --help` lists the
scenarios. Each measurement of a store has its own process. One process works at a time, and the order of stores rotates from
round to round. Every ratio is the median of ratios within one round, so a slow minute of the machine affects both sides.
"""
