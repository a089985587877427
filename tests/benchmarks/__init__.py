"""Tests of the code of the benchmarks; `make bench` gives the figures."""
