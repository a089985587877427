"""Measurements with targets. `python -m benchmarks.run` runs those that need no GPU."""
