"""Trains the demo model on drawn scenes, and judges it. `python -m demo_model --help`."""
