"""The queue, and what moves jobs through it."""
