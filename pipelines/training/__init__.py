"""Trains the demo model on drawn scenes, and judges it. `python -m pipelines.training --help`."""
