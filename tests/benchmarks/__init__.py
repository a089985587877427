"""The benchmarks' own code; their figures are for people and `make bench`."""
