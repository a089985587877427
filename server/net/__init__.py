"""Bounded downloads from checked addresses."""
