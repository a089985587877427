"""Turns parameters into images. Knows no HTTP, no job and no database."""
