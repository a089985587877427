"""Executors and their worker processes."""
