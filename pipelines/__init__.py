"""The engine: parameters to images. Knows no HTTP, no job and no database."""
