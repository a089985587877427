"""Thousands of bad requests to a live server; `make fuzz` sends them all, `make test` a share."""
