"""How OpenData Log compares with what an engineer would use instead, from Python, on this machine.

`python -m benchmarks` runs everything and prints ratios beside the goals; `python -m benchmarks --help` lists the
scenarios. One process per store and measurement, one working at a time, the order rotating from round to round;
every figure is the median of ratios between neighbours in one round, so a slow minute of the machine hits both.
"""
