"""The demo model: drawn scenes, training and evaluation. `python -m demo_model --help`."""
