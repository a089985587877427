"""The queue, and the parts that move jobs through it."""
